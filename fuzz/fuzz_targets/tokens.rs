//! Tokens of the API and for enrolling, and join tokens: one spelling, every typing error noticed, never printed.

#![no_main]

use libfuzzer_sys::fuzz_target;
use postrider_domain::id::TokenId;
use postrider_domain::join::{Join, MAX_PINS, Pin};
use postrider_domain::token::{Kind, SECRET_BYTES, Token};

fuzz_target!(|data: &[u8]| {
    made(data);
    let Ok(text) = std::str::from_utf8(data) else { return };
    read(text);
    join(text);
    to_host(text);
});

/// A token that is made here, and typed with one wrong character.
fn made(data: &[u8]) {
    let Some((id, rest)) = data.split_first_chunk::<16>() else { return };
    let Some((secret, rest)) = rest.split_first_chunk::<SECRET_BYTES>() else { return };
    let token = Token::new(Kind::Api, TokenId::from_bytes(*id), *secret);
    let right = token.expose_text().to_string();
    let same = Token::parse(Kind::Api, &right).expect("what is written is read back");
    assert_eq!((same.id(), same.digest()), (token.id(), token.digest()));
    let [at, other, ..] = rest else { return };
    let mut wrong = right.clone().into_bytes();
    let at = usize::from(*at) % wrong.len();
    wrong[at] = *other;
    let Ok(wrong) = String::from_utf8(wrong) else { return };
    assert_eq!(Token::parse(Kind::Api, &wrong).is_ok(), wrong == right, "a wrong character is not noticed");
}

/// A join token that is made here, to a host that somebody configured.
fn to_host(host: &str) {
    let token = Token::new(Kind::Join, TokenId::from_bytes([0x5a; 16]), [0xa5; SECRET_BYTES]);
    let pins = (0..host.len() % (MAX_PINS + 2)).map(|number| Pin::of(&[number as u8])).collect();
    let Ok(made) = Join::new(host, 7071, token, pins) else { return };
    let text = made.expose_text();
    assert_eq!(join(&text).as_deref(), Some(text.as_str()), "what is written is not read back");
}

fn read(text: &str) {
    for kind in [Kind::Api, Kind::Join] {
        match Token::parse(kind, text) {
            Ok(token) => {
                assert_eq!(token.expose_text().as_str(), text, "a token with two spellings");
                assert!(!format!("{token:?}").contains(&text[31..95]));
                let other = if kind == Kind::Api { Kind::Join } else { Kind::Api };
                assert!(Token::parse(other, text).is_err(), "a token of two kinds");
            }
            Err(_) => not_repeated(Token::parse(kind, &format!("{text}s3cr3t"))),
        }
    }
}

/// No error shows what was typed.
fn not_repeated<T, E: std::error::Error>(result: Result<T, E>) {
    if let Err(error) = result {
        assert!(!format!("{error} {error:?}").contains("s3cr3t"), "an error repeats what must not be shown");
    }
}

/// Reads a join token; gives it back as it is written.
fn join(text: &str) -> Option<String> {
    let join: Join = match text.parse() {
        Ok(join) => join,
        Err(_) => {
            not_repeated(format!("{text}s3cr3t").parse::<Join>());
            return None;
        }
    };
    let written = join.expose_text().to_string();
    assert!(written.eq_ignore_ascii_case(text.trim()), "a join token with two spellings: {text}");
    let again: Join = written.parse().expect("what is written is read back");
    assert_eq!((again.host(), again.port(), again.pins()), (join.host(), join.port(), join.pins()));
    assert!(join.port() != 0 && (1..=MAX_PINS).contains(&join.pins().len()));
    assert!(!format!("{join:?}").contains(&join.token().expose_text()[31..95]));
    // The client that dials must read the address as it was meant.
    let authority: http::uri::Authority = join.authority().parse().expect("the HTTP client can read it");
    assert_eq!(authority.host().trim_matches(['[', ']']), join.host());
    assert_eq!(authority.port_u16(), Some(join.port()));
    Some(written)
}
