//! Endpoints that answer with what they were sent: their credentials are taken out of what is kept of the answer.

use super::CustomHeaders;
use crate::outcome::Response;

/// What stands in a credential's place.
const HIDDEN: &[u8] = b"***";
/// A shorter word is no credential, and stands in many an answer by chance.
const MIN_LENGTH: usize = 8;

impl CustomHeaders {
    /// Takes the values of these headers, and the words of each (`Bearer <token>`), out of an answer.
    pub fn hide_in(&self, response: &mut Response) {
        if self.is_empty() {
            return;
        }
        let words = self.iter().flat_map(|(_, value)| [value].into_iter().chain(value.split_whitespace()));
        let mut words: Vec<&[u8]> =
            words.filter(|word| word.len() >= MIN_LENGTH).map(str::as_bytes).collect();
        // What holds others goes first, so that nothing is left of it.
        words.sort_by_key(|word| std::cmp::Reverse(word.len()));
        for word in words {
            if let Some(body) = without(&response.body, word) {
                response.body = body.into();
            }
            for (_, value) in &mut response.headers {
                if let Some(hidden) = without(value.as_bytes(), word) {
                    *value = String::from_utf8_lossy(&hidden).into_owned();
                }
            }
        }
    }
}

/// The text without the word; `None` when it does not hold it.
fn without(text: &[u8], word: &[u8]) -> Option<Vec<u8>> {
    let find = |from: usize| text[from..].windows(word.len()).position(|window| window == word);
    let mut at = find(0)?;
    let (mut hidden, mut from) = (Vec::with_capacity(text.len()), 0);
    loop {
        hidden.extend_from_slice(&text[from..from + at]);
        hidden.extend_from_slice(HIDDEN);
        from += at + word.len();
        match find(from) {
            Some(next) => at = next,
            None => break,
        }
    }
    hidden.extend_from_slice(&text[from..]);
    Some(hidden)
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

    #[test]
    fn values_and_their_words_are_taken_out_wherever_they_stand() {
        let custom = headers(&["Bearer s3cr3t-token", "s3cr3t-token-2", "short", ""]);
        let table = [
            ("you sent Bearer s3cr3t-token!", "you sent ***!"),
            ("s3cr3t-token", "***"),
            ("s3cr3t-tokens3cr3t-token", "******"),
            ("a s3cr3t-token-2 b s3cr3t-token-2", "a *** b ***"),
            ("Bearer short s3cr3t", "Bearer short s3cr3t"),
            ("", ""),
        ];
        for (sent, kept) in table {
            let mut answer = response(sent);
            custom.hide_in(&mut answer);
            assert_eq!(answer, response(kept), "{sent}");
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
    }
}
