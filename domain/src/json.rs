//! How Postrider reads the JSON that it accepts.
//!
//! `event::check_data` accepts every text of RFC 8259 within bounds of size and depth. Filters and schemas read
//! the same texts here, so that no accepted text is unreadable later. Two kinds of valid JSON have no exact value:
//!
//! - An escape of half a surrogate pair, such as `"\ud83d"`, reads as U+FFFD. JavaScript writes such escapes when
//!   a text is cut inside a character.
//! - A number beyond the range of a double, such as `1e400`, reads as the largest double of its sign.
//!
//! Only the reading is lenient: receivers get the emitted bytes.

use std::ops::Range;

use serde::de::{DeserializeOwned, IgnoredAny};

/// The largest double. It reads back exactly.
const LARGEST: &str = "1.7976931348623157e308";
const REPLACEMENT: &[u8] = br"\ufffd";

/// Reads JSON text.
///
/// # Errors
/// The text is not JSON, or not of the type `T`.
pub fn read<T: DeserializeOwned>(json: &[u8]) -> Result<T, serde_json::Error> {
    serde_json::from_slice(json).or_else(|_| serde_json::from_slice(&readable(json)))
}

/// The same text, with each spot replaced that `serde_json` cannot represent. Other text stays as it is, valid or
/// not.
fn readable(json: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len());
    let mut rest = json;
    while let Some(first) = rest.first() {
        let length = match first {
            b'"' => string(rest, &mut out),
            b'-' | b'0'..=b'9' => number(rest, &mut out),
            other => {
                out.push(*other);
                1
            }
        };
        rest = &rest[length..];
    }
    out
}

/// Copies the string at the start of `text`, and returns its length with both quotes.
fn string(text: &[u8], out: &mut Vec<u8>) -> usize {
    let mut at = 1;
    out.push(b'"');
    while let Some(byte) = text.get(at) {
        let (length, lone) = match byte {
            b'\\' => escape(&text[at..]),
            _ => (1, false),
        };
        out.extend_from_slice(if lone { REPLACEMENT } else { &text[at..at + length] });
        at += length;
        if *byte == b'"' {
            break;
        }
    }
    at
}

/// The length of the escape at the start of `text`, and whether it is half a surrogate pair.
fn escape(text: &[u8]) -> (usize, bool) {
    const HIGH: Range<u16> = 0xd800..0xdc00;
    const LOW: Range<u16> = 0xdc00..0xe000;
    match (unit(text), text.get(6..).and_then(unit)) {
        (Some(high), Some(low)) if HIGH.contains(&high) && LOW.contains(&low) => (12, false),
        (Some(unit), _) => (6, HIGH.contains(&unit) || LOW.contains(&unit)),
        (None, _) => (text.len().min(2), false),
    }
}

/// The UTF-16 unit of an escape such as `\u00e9`.
fn unit(text: &[u8]) -> Option<u16> {
    let digits = text.strip_prefix(br"\u")?.get(..4)?;
    let digits = std::str::from_utf8(digits).ok().filter(|_| digits.iter().all(u8::is_ascii_hexdigit))?;
    u16::from_str_radix(digits, 16).ok()
}

/// Copies the number at the start of `text`, and returns its length.
fn number(text: &[u8], out: &mut Vec<u8>) -> usize {
    let part = |byte: &u8| byte.is_ascii_digit() || b"+-.eE".contains(byte);
    let length = text.iter().position(|byte| !part(byte)).unwrap_or(text.len());
    let token = &text[..length];
    let is_number = serde_json::from_slice::<IgnoredAny>(token).is_ok();
    if is_number && serde_json::from_slice::<f64>(token).is_err() {
        out.extend_from_slice(if token.starts_with(b"-") { b"-" } else { b"" });
        out.extend_from_slice(LARGEST.as_bytes());
    } else {
        out.extend_from_slice(token);
    }
    length
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn accepted_texts_are_read() {
        let digits = "9".repeat(200_000);
        let table = [
            (r#"{"a":"cut \ud83d"}"#, json!({"a": "cut \u{fffd}"})),
            (r#""\ude00\ud83d""#, json!("\u{fffd}\u{fffd}")),
            (r#""\ud83d\ud83d\ude00\uD83D""#, json!("\u{fffd}\u{1f600}\u{fffd}")),
            (r#"["\ud83d\n", "\ud83d\\ude00", "\\ud83d", "\"\udc00"]"#, {
                json!(["\u{fffd}\n", "\u{fffd}\\ude00", "\\ud83d", "\"\u{fffd}"])
            }),
            (r#"{"\udfff":{"\ud800x":"\u00e9"}}"#, json!({"\u{fffd}": {"\u{fffd}x": "é"}})),
            ("1e400", json!(f64::MAX)),
            ("[-1E+400, 1e-400, 0e999999999999]", json!([-f64::MAX, 0.0, 0.0])),
            (
                r#"{"n":1e400,"t":"1e400 \ud800","m":5}"#,
                json!({"n": f64::MAX, "t": "1e400 \u{fffd}", "m": 5}),
            ),
            (&format!("[{digits}, -{digits}.5]"), json!([f64::MAX, -f64::MAX])),
            (&format!("0.{digits}"), json!(1.0)),
        ];
        for (text, expected) in table {
            let shown: String = text.chars().take(60).collect();
            assert_eq!(crate::event::check_data(text.as_bytes(), 1 << 20), Ok(()), "{shown}");
            assert_eq!(read::<Value>(text.as_bytes()).ok(), Some(expected), "{shown}");
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in
            ["", "-", "1e", "--1e400", "1e400.5", "01e400", "NaN", r#""\ud8"#, r#""\ud83""#, "{\"a\"", "\"\\"]
        {
            assert!(read::<Value>(text.as_bytes()).is_err(), "{text}");
            assert!(crate::event::check_data(text.as_bytes(), 100).is_err(), "{text}");
        }
    }

    fn fragment() -> impl Strategy<Value = String> {
        prop_oneof![
            4 => prop::sample::select(vec![
                r"\ud83d", r"\ude00", r"\u00e9", r"\u", r"\", "\"", "{", "}", "[", "]", ",", ":", "a", " ", "1e400",
                "-", "1", ".", "e", "E+", "99999999999999999999", "null", r#""a":"#,
            ]).prop_map(str::to_owned),
            1 => "[ -~é]{0,4}",
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2048))]

        #[test]
        fn what_emit_accepts_is_what_is_read(parts in prop::collection::vec(fragment(), 0..12), wrap in 0..3) {
            let text = match (wrap, parts.concat()) {
                (0, text) => text,
                (1, text) => format!("[{text}]"),
                (_, text) => format!("{{\"a\":\"{text}\"}}"),
            };
            let accepted = crate::event::check_data(text.as_bytes(), 1 << 20).is_ok();
            prop_assert_eq!(accepted, read::<Value>(text.as_bytes()).is_ok(), "{}", text);
        }
    }
}
