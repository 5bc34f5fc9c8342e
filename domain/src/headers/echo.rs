//! Endpoints that answer with what they were sent: credentials are taken out of what is kept of the answer.
//!
//! A credential is found as it is, in Base64 (alone or within a longer text), and with any of its characters written as
//! percent, JSON or HTML escapes. At the end of a text its beginning is found too: what is kept of an answer is cut.
//! Called by the control plane for a subscription's headers, and by the agent for those of its owner.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};

use super::CustomHeaders;
use crate::outcome::Response;

/// What stands in a credential's place.
const HIDDEN: &[u8] = b"***";
/// A shorter word is no credential, and stands in many an answer by chance.
const MIN_LENGTH: usize = 8;
/// How much of a credential's beginning must stand at the end of a text to be taken for it.
const MIN_BEGINNING: usize = 4;

/// The most words that are looked for, the longest ones first: it bounds the time that a hostile endpoint can cost.
const MAX_WORDS: usize = 64;

/// The most ways of reading a text that are followed at once.
const MAX_PLACES: usize = 8;

/// The credentials that may be echoed. No `Debug`.
#[derive(Clone, Default)]
pub struct Echo {
    /// The credentials, and what they are in Base64, in order.
    words: Vec<Vec<u8>>,
}

impl CustomHeaders {
    /// Takes the values of these headers, and the words of each (`Bearer <token>`), out of an answer.
    pub fn hide_in(&self, response: &mut Response) {
        if !self.is_empty() {
            Echo::of(self.iter().map(|(_, value)| value)).hide_in(response);
        }
    }
}

impl Echo {
    /// The credentials in the values of some headers: each value, its words, what it names (`session=<token>`), and the
    /// user and password of Basic credentials.
    #[must_use]
    pub fn of<'a>(values: impl IntoIterator<Item = &'a str>) -> Self {
        let mut words: Vec<Vec<u8>> = values.into_iter().flat_map(words_of).collect();
        words.retain(|word| word.len() >= MIN_LENGTH);
        words.sort_unstable_by(|one, other| other.len().cmp(&one.len()).then_with(|| one.cmp(other)));
        words.dedup();
        words.truncate(MAX_WORDS);
        let mut encoded: Vec<Vec<u8>> = words.iter().flat_map(|word| in_base64(word)).collect();
        encoded.retain(|word| word.len() >= MIN_LENGTH);
        words.append(&mut encoded);
        words.sort_unstable();
        words.dedup();
        Self { words }
    }

    /// Whether there is nothing to hide.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// Takes the credentials out of the headers and the body of an answer.
    pub fn hide_in(&self, response: &mut Response) {
        if self.is_empty() {
            return;
        }
        if let Some(body) = self.hide(&response.body) {
            response.body = body.into();
        }
        for (_, value) in &mut response.headers {
            self.hide_in_text(value);
        }
    }

    /// Takes the credentials out of a text.
    pub fn hide_in_text(&self, text: &mut String) {
        if let Some(hidden) = self.hide(text.as_bytes()) {
            *text = String::from_utf8_lossy(&hidden).into_owned();
        }
    }

    /// The text without them; `None` when it holds none.
    #[must_use]
    pub fn hide(&self, text: &[u8]) -> Option<Vec<u8>> {
        let mut found: Vec<(usize, usize)> =
            (0..text.len()).filter_map(|start| Some((start, self.longest_at(text, start)?))).collect();
        // What overlaps is one, so that nothing is left of either.
        found.dedup_by(|next, one| {
            let overlaps = next.0 < one.1;
            one.1 = if overlaps { one.1.max(next.1) } else { one.1 };
            overlaps
        });
        let last = found.last()?.1;
        let mut hidden = Vec::with_capacity(text.len());
        let mut from = 0;
        for (start, end) in found {
            hidden.extend_from_slice(&text[from..start]);
            hidden.extend_from_slice(HIDDEN);
            from = end;
        }
        hidden.extend_from_slice(&text[last..]);
        Some(hidden)
    }

    /// Where the longest credential ends that begins at `start`.
    fn longest_at(&self, text: &[u8], start: usize) -> Option<usize> {
        let rest = &text[start..];
        let first = [rest.first().copied(), unescape(rest).map(|(byte, _)| byte)];
        let ends = first.into_iter().flatten().flat_map(|byte| {
            let from = self.words.partition_point(|word| word.first() < Some(&byte));
            self.words[from..].iter().take_while(move |word| word.first() == Some(&byte))
        });
        ends.filter_map(|word| end_of(rest, word)).max().map(|length| start + length)
    }
}

/// The length of a word with which a text begins, each of its characters as it is or escaped; also when the text ends
/// within it.
fn end_of(text: &[u8], word: &[u8]) -> Option<usize> {
    if text.starts_with(word) {
        return Some(word.len());
    }
    if text.len() >= MIN_BEGINNING && word.starts_with(text) {
        return Some(text.len());
    }
    let is_plain = |(found, wanted): &(&u8, &u8)| found == wanted && !begins_escape(**found);
    let plain = text.iter().zip(word).take_while(is_plain).count();
    if text.get(plain).is_some_and(|byte| !begins_escape(*byte)) {
        return None;
    }
    // A character such as `%` may stand for itself or begin an escape: both are followed, up to a bound.
    let mut places = vec![plain];
    for (matched, byte) in word.iter().enumerate().skip(plain) {
        let mut next = Vec::with_capacity(2);
        for rest in places.iter().map(|at| &text[*at..]) {
            // The text ends in the middle of the word.
            if matched >= MIN_BEGINNING && is_cut(rest) {
                return Some(text.len());
            }
            let at = text.len() - rest.len();
            next.extend((rest.first() == Some(byte)).then_some(at + 1));
            next.extend(
                unescape(rest).filter(|(unescaped, _)| unescaped == byte).map(|(_, length)| at + length),
            );
        }
        next.sort_unstable();
        next.dedup();
        next.truncate(MAX_PLACES);
        places = next;
    }
    places.last().copied()
}

fn begins_escape(byte: u8) -> bool {
    matches!(byte, b'%' | b'\\' | b'&' | b'+')
}

/// Whether nothing is left but, at most, the beginning of an escape.
fn is_cut(rest: &[u8]) -> bool {
    match rest {
        [] | [b'\\'] => true,
        [b'%', ..] => rest.len() < 3,
        [b'\\', b'x', ..] => rest.len() < 4,
        [b'\\', b'u', ..] => rest.len() < 6,
        [b'&', ..] => rest.len() < 8 && !rest.contains(&b';'),
        _ => false,
    }
}

/// The escape with which a text begins: what it stands for, and its length.
fn unescape(text: &[u8]) -> Option<(u8, usize)> {
    let (first, rest) = text.split_first()?;
    let (character, length) = match first {
        b'%' => (hex(rest.get(..2)?)?, 3),
        b'+' => (u32::from(b' '), 1),
        b'\\' => match rest.split_first()? {
            (b'u', digits) => (hex(digits.get(..4)?)?, 6),
            (b'x', digits) => (hex(digits.get(..2)?)?, 4),
            (b't', _) => (u32::from(b'\t'), 2),
            (other, _) => (u32::from(*other), 2),
        },
        b'&' => {
            let length = rest.iter().take(8).position(|byte| *byte == b';')?;
            (entity(&rest[..length])?, length + 2)
        }
        _ => return None,
    };
    Some((u8::try_from(character).ok()?, length))
}

/// The character that an HTML entity stands for, without its ends.
fn entity(name: &[u8]) -> Option<u32> {
    match name {
        b"amp" => Some(u32::from(b'&')),
        b"lt" => Some(u32::from(b'<')),
        b"gt" => Some(u32::from(b'>')),
        b"quot" => Some(u32::from(b'"')),
        b"apos" => Some(u32::from(b'\'')),
        [b'#', b'x' | b'X', digits @ ..] => hex(digits),
        [b'#', digits @ ..] => std::str::from_utf8(digits).ok()?.parse().ok(),
        _ => None,
    }
}

fn hex(digits: &[u8]) -> Option<u32> {
    let all = !digits.is_empty() && digits.iter().all(u8::is_ascii_hexdigit);
    all.then(|| u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok())?
}

/// A value, its words, and what these name.
fn words_of(value: &str) -> Vec<Vec<u8>> {
    let mut words = vec![value.as_bytes().to_vec()];
    for word in value.split(|c: char| c.is_whitespace() || matches!(c, ',' | ';')) {
        words.push(word.as_bytes().to_vec());
        if let Some((_, named)) = word.split_once('=') {
            words.push(named.trim_matches('"').as_bytes().to_vec());
        }
        words.extend(basic(word));
    }
    words
}

/// The user with the password, and the password alone, of Basic credentials.
fn basic(word: &str) -> Vec<Vec<u8>> {
    let decoded = STANDARD.decode(word).or_else(|_| STANDARD_NO_PAD.decode(word));
    let Some(text) = decoded.ok().and_then(|bytes| String::from_utf8(bytes).ok()) else { return Vec::new() };
    match text.split_once(':') {
        Some((_, password)) => vec![text.as_bytes().to_vec(), password.as_bytes().to_vec()],
        None => Vec::new(),
    }
}

/// A word in Base64 of either alphabet, as it stands in the Base64 of any longer text: without the characters that its
/// neighbours share.
fn in_base64(word: &[u8]) -> Vec<Vec<u8>> {
    let at_offset = |offset: usize| {
        let padded = [&[0; 2][..offset], word].concat();
        let (first, last) = ((offset * 8).div_ceil(6), padded.len() * 8 / 6);
        let within = |text: String| text.as_bytes()[first..last].to_vec();
        [within(STANDARD_NO_PAD.encode(&padded)), within(URL_SAFE_NO_PAD.encode(&padded))]
    };
    (0..3).flat_map(at_offset).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn headers(values: &[&str]) -> CustomHeaders {
        let named = values.iter().enumerate().map(|(number, value)| (format!("x-{number}"), (*value).into()));
        CustomHeaders::new(named).unwrap()
    }

    fn response(body: &str) -> Response {
        let headers = vec![("location".to_owned(), format!("/?{body}"))];
        Response { status: 500, headers, body: body.to_owned().into() }
    }

    fn hidden(values: &[&str], sent: &str) -> String {
        let mut answer = response(sent);
        headers(values).hide_in(&mut answer);
        let left = String::from_utf8(answer.body.to_vec()).unwrap();
        assert_eq!(answer.headers[0].1, format!("/?{left}"), "headers as the body");
        left
    }

    #[test]
    fn values_and_their_words_are_taken_out_wherever_they_stand() {
        let custom = ["Bearer s3cr3t-token", "s3cr3t-token-2", "short", ""];
        let table = [
            ("you sent Bearer s3cr3t-token!", "you sent ***!"),
            ("s3cr3t-token", "***"),
            ("s3cr3t-tokens3cr3t-token", "******"),
            ("a s3cr3t-token-2 b s3cr3t-token-2", "a *** b ***"),
            ("Bearer short s3c", "Bearer short s3c"),
            ("", ""),
        ];
        for (sent, kept) in table {
            assert_eq!(hidden(&custom, sent), kept, "{sent}");
        }
    }

    #[test]
    fn escapes_hide_nothing() {
        let custom = ["pass\"w/ord&<s3cr3t>=", "tab\tand space"];
        let table = [
            (r#"{"x": "pass\"w/ord&<s3cr3t>="}"#, r#"{"x": "***"}"#),
            (r#"pass\"w\/ord\u0026\u003cs3cr3t\u003E\u003d!"#, "***!"),
            ("pass%22w%2Ford%26%3Cs3cr3t%3e%3D!", "***!"),
            ("%70%61%73%73%22%77%2f%6f%72%64%26%3c%73%33%63%72%33%74%3e%3d", "***"),
            ("pass&quot;w/ord&amp;&lt;s3cr3t&gt;=", "***"),
            ("pass&#34;w/ord&#x26;&#60;s3cr3t&#62;=.", "***."),
            (r"tab\tand space", "***"),
            ("tab%09and+space", "***"),
        ];
        for (sent, kept) in table {
            assert_eq!(hidden(&custom, sent), kept, "{sent}");
        }
    }

    #[test]
    fn a_credential_with_the_characters_of_escapes_is_found_too() {
        let custom = [r"50%25off\\s3cr3t+&x"];
        for sent in [
            r"50%25off\\s3cr3t+&x",
            r"50%25off\\\\s3cr3t+&x",
            "50%2525off%5C%5Cs3cr3t%2B%26x",
            "50%25off&#92;&#92;s3cr3t+&amp;x",
        ] {
            assert_eq!(hidden(&custom, sent), "***", "{sent}");
        }
    }

    #[test]
    fn basic_credentials_are_hidden_in_parts_too() {
        let basic = format!("Basic {}", STANDARD.encode("operator:correct-horse"));
        for (sent, kept) in [
            (basic.as_str(), "***"),
            ("user operator:correct-horse", "user ***"),
            ("operator, correct-horse", "operator, ***"),
            ("operator%3Acorrect-horse", "***"),
            ("operator.", "operator."),
        ] {
            assert_eq!(hidden(&[&basic], sent), kept, "{sent}");
        }
        let cookie = "session=0123456789abcdef; theme=dark";
        assert_eq!(hidden(&[cookie], "your session is 0123456789abcdef"), "your session is ***");
    }

    #[test]
    fn the_beginning_of_a_credential_at_the_end_of_a_text_is_hidden() {
        let custom = ["Bearer s3cr3t/t0ken"];
        for (sent, kept) in [
            ("you sent s3cr3t", "you sent ***"),
            ("you sent s3cr", "you sent ***"),
            ("you sent Bearer s3c", "you sent ***"),
            ("you sent s3cr3t%2", "you sent ***"),
            (r"you sent s3cr3t\u00", "you sent ***"),
            ("you sent s3c", "you sent s3c"),
            ("you sent s3cr.", "you sent s3cr."),
        ] {
            assert_eq!(hidden(&custom, sent), kept, "{sent}");
        }
    }

    proptest! {
        #[test]
        fn whatever_surrounds_a_credential_it_is_gone(
            before in "[a-c]{0,9}", after in "[a-c]{0,9}", value in "[a-c]{8,12}",
        ) {
            let mut answer = response(&format!("{before}{value}{after}"));
            headers(&[&value]).hide_in(&mut answer);
            let left = String::from_utf8(answer.body.to_vec()).unwrap();
            prop_assert!(!left.contains(&value), "{}", left);
        }

        /// A server that answers with the Base64 of the request that it got, or of what was kept of it.
        #[test]
        fn base64_of_a_text_does_not_give_a_credential_away(
            before in "[ -~]{0,20}", after in "[ -~]{0,20}", value in "[!-~]{12,30}", url_safe: bool,
        ) {
            let text = format!("{before}{value}{after}");
            let sent = if url_safe { URL_SAFE_NO_PAD.encode(&text) } else { STANDARD.encode(&text) };
            let mut kept = sent.clone();
            Echo::of([value.as_str()]).hide_in_text(&mut kept);
            prop_assert!(kept.contains("***") && kept != sent, "{kept}");
        }

        #[test]
        fn any_text_is_read_without_harm(text in prop::collection::vec(any::<u8>(), 0..200), value in "[ -~]{8,20}") {
            let mut answer = Response { status: 200, headers: Vec::new(), body: text.into() };
            Echo::of([value.trim()]).hide_in(&mut answer);
        }
    }
}
