//! All that an agent needs to enroll, in one word: where the control plane is, a join token, and the fingerprint of the
//! authority that its certificate must be from.
//!
//! `agents.example.com:7071/prj_…/<64 hexadecimal digits>`; while authorities change there are two fingerprints, with a
//! comma between them.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::token::{Kind, Token, TokenError};

/// The fingerprints that one join token can carry.
pub const MAX_PINS: usize = 4;

/// SHA-256 of an authority's public key: the DER of its `SubjectPublicKeyInfo`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pin([u8; 32]);

impl Pin {
    /// The fingerprint of a public key, as the DER of its `SubjectPublicKeyInfo`.
    #[must_use]
    pub fn of(public_key: &[u8]) -> Self {
        Self(Sha256::digest(public_key).into())
    }

    /// As stored.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// To be stored.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 32] {
        self.0
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Pin {
    type Err = JoinError;

    fn from_str(text: &str) -> Result<Self, JoinError> {
        if text.len() != 64 || !text.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(JoinError::Pin);
        }
        let byte = |at: usize| u8::from_str_radix(&text[at..at + 2], 16);
        let mut bytes = [0; 32];
        for (index, place) in bytes.iter_mut().enumerate() {
            *place = byte(2 * index).map_err(|_| JoinError::Pin)?;
        }
        Ok(Self(bytes))
    }
}

/// Why a text is not a join token. It never repeats the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// It has another form.
    #[error(
        "must be what `postrider agents join-tokens create` printed, whole: an address, a token and a fingerprint \
         with '/' between them"
    )]
    Form,
    /// The address is none.
    #[error("must begin with the control plane's name or IP address, and a port")]
    Address,
    /// The token is none.
    #[error("holds a join token that {0}")]
    Token(TokenError),
    /// A fingerprint is none.
    #[error("must end with one to four fingerprints of 64 hexadecimal digits each, with ',' between them")]
    Pin,
}

/// See the [module](self).
#[derive(Clone)]
pub struct Join {
    host: String,
    port: u16,
    token: Token,
    pins: Vec<Pin>,
}

impl Join {
    /// To the control plane at `host` (a name or an IP address, IPv6 without brackets) and `port`, with this token.
    ///
    /// # Errors
    /// [`JoinError`] when the host or the number of pins is no good.
    pub fn new(host: &str, port: u16, token: Token, pins: Vec<Pin>) -> Result<Self, JoinError> {
        let is_address = host.parse::<std::net::IpAddr>().is_ok();
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        };
        let is_name = host.len() <= 253 && host.split('.').all(label);
        if !(is_address || is_name) || port == 0 {
            return Err(JoinError::Address);
        }
        if pins.is_empty() || pins.len() > MAX_PINS {
            return Err(JoinError::Pin);
        }
        Ok(Self { host: host.to_ascii_lowercase(), port, token, pins })
    }

    /// The name or IP address of the control plane; IPv6 without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Its port for agents.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its host and port as in a URL.
    #[must_use]
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// The token.
    #[must_use]
    pub fn token(&self) -> &Token {
        &self.token
    }

    /// The authorities that the control plane's certificate may be from.
    #[must_use]
    pub fn pins(&self) -> &[Pin] {
        &self.pins
    }

    /// The whole text, for its owner, once.
    #[must_use]
    pub fn expose_text(&self) -> Zeroizing<String> {
        let pins: Vec<String> = self.pins.iter().map(Pin::to_string).collect();
        let (authority, token) = (self.authority(), self.token.expose_text());
        let mut text =
            Zeroizing::new(String::with_capacity(authority.len() + token.len() + 65 * pins.len() + 2));
        for part in [authority.as_str(), "/", token.as_str(), "/", pins.join(",").as_str()] {
            text.push_str(part);
        }
        text
    }
}

impl FromStr for Join {
    type Err = JoinError;

    fn from_str(text: &str) -> Result<Self, JoinError> {
        let mut parts = text.trim().split('/');
        let (Some(authority), Some(token), Some(pins), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(JoinError::Form);
        };
        let (host, port) = authority.rsplit_once(':').ok_or(JoinError::Address)?;
        // As it was printed: with neither a sign nor zeros before it.
        let port = port.parse().ok().filter(|number: &u16| number.to_string() == port);
        let port = port.ok_or(JoinError::Address)?;
        let host = match host.strip_prefix('[') {
            Some(rest) => {
                rest.strip_suffix(']').filter(|host| host.contains(':')).ok_or(JoinError::Address)?
            }
            None if host.contains(':') => return Err(JoinError::Address),
            None => host,
        };
        let token = Token::parse(Kind::Join, token).map_err(JoinError::Token)?;
        let pins: Result<Vec<Pin>, JoinError> = pins.split(',').map(str::parse).collect();
        Self::new(host, port, token, pins?)
    }
}

/// Without the token.
impl fmt::Debug for Join {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Join")
            .field("authority", &self.authority())
            .field("token", &self.token)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::TokenId;
    use crate::time::Timestamp;
    use crate::token::SECRET_BYTES;
    use proptest::prelude::*;

    fn token() -> Token {
        let id = TokenId::new(Timestamp::from_millis(1_770_028_200_000), 7);
        Token::new(Kind::Join, id, [9; SECRET_BYTES])
    }

    fn text(host: &str) -> String {
        format!("{host}/{}/{}", token().expose_text().as_str(), Pin::of(b"key"))
    }

    #[test]
    fn what_is_written_is_read_back() {
        for (host, authority) in
            [("cp.example.com", "cp.example.com:7071"), ("10.0.0.1", "10.0.0.1:7071"), ("::1", "[::1]:7071")]
        {
            let pins = vec![Pin::of(b"one"), Pin::of(b"two")];
            let join = Join::new(host, 7071, token(), pins.clone()).unwrap();
            let read: Join = join.expose_text().parse().unwrap();
            assert_eq!((read.authority().as_str(), read.host(), read.port()), (authority, host, 7071));
            assert_eq!((read.pins(), read.token().digest()), (pins.as_slice(), token().digest()));
        }
    }

    #[test]
    fn what_is_wrong_is_named_without_repeating_the_token() {
        let good = text("cp:7071");
        assert!(good.parse::<Join>().is_ok() && format!(" {good}\n").parse::<Join>().is_ok());
        let table = [
            (String::new(), JoinError::Form),
            ("cp:7071".to_owned(), JoinError::Form),
            (format!("https://{good}"), JoinError::Form),
            (text("cp"), JoinError::Address),
            (text("cp:0"), JoinError::Address),
            (text("cp:70710"), JoinError::Address),
            (text(":7071"), JoinError::Address),
            (text("a b:7071"), JoinError::Address),
            (text("user@cp:7071"), JoinError::Address),
            (text("::1:7071"), JoinError::Address),
            (text("[::1:7071"), JoinError::Address),
            (text("[cp]:7071"), JoinError::Address),
            (text("[10.0.0.1]:7071"), JoinError::Address),
            (text("cp:+7071"), JoinError::Address),
            (text("cp:07071"), JoinError::Address),
            (good[..good.len() - 1].to_owned(), JoinError::Pin),
            (format!("{good},"), JoinError::Pin),
            (good.to_uppercase().replacen("PRJ_", "prj_", 1), JoinError::Token(TokenError::Form("prj_"))),
            (good.replacen("0909", "0908", 1), JoinError::Token(TokenError::Checksum)),
        ];
        for (text, error) in table {
            let found = text.parse::<Join>().unwrap_err();
            assert_eq!(found, error, "{text}");
            assert!(!found.to_string().contains("0909"));
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,200}") {
            drop(text.parse::<Join>());
        }
    }
}
