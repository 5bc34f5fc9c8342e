//! JSON text, shown and compared without changing a byte of its values: numbers keep their digits and
//! members their order.

use serde_json::value::RawValue;

/// The text as a JSON value to embed, when it is one.
pub(crate) fn raw(text: &[u8]) -> Option<Box<RawValue>> {
    serde_json::from_slice(text).ok()
}

/// Lays JSON text out in lines, two spaces a level. Text that is not JSON comes back as it is.
pub(crate) fn pretty(text: &str) -> String {
    if raw(text.as_bytes()).is_none() {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len() * 2);
    let mut depth = 0_usize;
    let minified = minify(text);
    let mut chars = minified.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' => {
                out.push('"');
                copy_string(&mut chars, &mut out);
            }
            '{' | '[' if chars.peek().is_some_and(|next| *next == '}' || *next == ']') => {
                out.push(c);
                out.extend(chars.next());
            }
            '{' | '[' => {
                depth += 1;
                out.push(c);
                new_line(&mut out, depth);
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                new_line(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                new_line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            other => out.push(other),
        }
    }
    out
}

/// Leaves out the white space between the tokens of JSON text.
pub(crate) fn minify(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if !matches!(c, ' ' | '\t' | '\n' | '\r') {
            out.push(c);
        }
        if c == '"' {
            copy_string(&mut chars, &mut out);
        }
    }
    out
}

/// Copies the rest of a string, its closing quote included.
fn copy_string(chars: &mut impl Iterator<Item = char>, out: &mut String) {
    let mut escaped = false;
    for c in chars {
        out.push(c);
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return,
            _ => {}
        }
    }
}

fn new_line(out: &mut String, depth: usize) {
    out.push('\n');
    out.extend(std::iter::repeat_n("  ", depth));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_changes_only_white_space() {
        let text = r#"{"b":1.50,"a":["x, \"y\": {",{},[ ],12345678901234567890],"c":{"d":null}}"#;
        let expected = r#"{
  "b": 1.50,
  "a": [
    "x, \"y\": {",
    {},
    [],
    12345678901234567890
  ],
  "c": {
    "d": null
  }
}"#;
        assert_eq!(pretty(text), expected);
        assert_eq!(minify(expected), text.replace("[ ]", "[]"));
        assert_eq!(pretty("not json: {"), "not json: {");
        assert_eq!(pretty("\"a b\""), "\"a b\"");
    }
}
