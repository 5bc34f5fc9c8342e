//! Bearer tokens: of the API, and for enrolling agents.
//!
//! A token is one word: a prefix that names its kind (so that secret scanners know it), its id, 256 random bits, and a
//! checksum that tells a typing error from a token that is not known. Only a digest of it is stored; since the secret
//! is random and long, a plain hash is enough.

use std::fmt;

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::{Zeroize as _, ZeroizeOnDrop, Zeroizing};

use crate::id::TokenId;

/// Random bytes of a token.
pub const SECRET_BYTES: usize = 32;

const ID_LENGTH: usize = 26;
const SECRET_LENGTH: usize = 2 * SECRET_BYTES;
const CHECKSUM_LENGTH: usize = 8;

/// What a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Calls of the API: `prt_…`.
    Api,
    /// Enrolling agents: `prj_…`.
    Join,
}

impl Kind {
    /// What its tokens begin with.
    #[must_use]
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Api => "prt_",
            Self::Join => "prj_",
        }
    }
}

/// Why a text is not a token. It never repeats the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It has another form.
    #[error("is not a token of this kind: {0} and 99 characters of a-z and 0-9 with one '_'")]
    Form(&'static str),
    /// A character is wrong or missing.
    #[error("has a typing error: its checksum does not match; copy it again, whole")]
    Checksum,
}

/// A token, as its owner has it.
#[derive(Clone, ZeroizeOnDrop)]
pub struct Token {
    #[zeroize(skip)]
    kind: Kind,
    #[zeroize(skip)]
    id: TokenId,
    secret: [u8; SECRET_BYTES],
}

impl Token {
    /// A new token, of an id and random bytes.
    #[must_use]
    pub fn new(kind: Kind, id: TokenId, secret: [u8; SECRET_BYTES]) -> Self {
        Self { kind, id, secret }
    }

    /// Reads a token of this kind.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn parse(kind: Kind, text: &str) -> Result<Self, TokenError> {
        let form = TokenError::Form(kind.prefix());
        let rest = text.strip_prefix(kind.prefix()).ok_or(form)?;
        if !rest.is_ascii() || rest.len() != ID_LENGTH + 1 + SECRET_LENGTH + CHECKSUM_LENGTH {
            return Err(form);
        }
        let (id, rest) = rest.split_once('_').ok_or(form)?;
        let id = format!("tok_{id}").parse().map_err(|_| form)?;
        let (secret, checksum) = rest.split_at_checked(SECRET_LENGTH).ok_or(form)?;
        let secret = read_hex(secret).ok_or(form)?;
        let token = Self { kind, id, secret };
        if token.checksum() == checksum { Ok(token) } else { Err(TokenError::Checksum) }
    }

    /// Its public part.
    #[must_use]
    pub fn id(&self) -> TokenId {
        self.id
    }

    /// The whole token, for its owner, once.
    #[must_use]
    pub fn expose_text(&self) -> Zeroizing<String> {
        let mut text = self.unchecked_text();
        text.push_str(&self.checksum());
        text
    }

    /// What is stored of it.
    #[must_use]
    pub fn digest(&self) -> TokenDigest {
        TokenDigest(Sha256::digest(self.unchecked_text().as_bytes()).into())
    }

    fn unchecked_text(&self) -> Zeroizing<String> {
        let id = self.id.to_string();
        let mut text = Zeroizing::new(String::with_capacity(128));
        text.push_str(self.kind.prefix());
        text.push_str(id.trim_start_matches("tok_"));
        text.push('_');
        for byte in self.secret {
            text.push(hex_digit(byte >> 4));
            text.push(hex_digit(byte & 15));
        }
        text
    }

    fn checksum(&self) -> String {
        format!("{:08x}", crc32fast::hash(self.unchecked_text().as_bytes()))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Token").field(&self.id).finish()
    }
}

/// SHA-256 of a token.
#[derive(Clone, Copy, Debug)]
pub struct TokenDigest([u8; 32]);

impl TokenDigest {
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

/// In constant time.
impl PartialEq for TokenDigest {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for TokenDigest {}

fn hex_digit(nibble: u8) -> char {
    char::from(b"0123456789abcdef"[usize::from(nibble)])
}

fn read_hex(text: &str) -> Option<[u8; SECRET_BYTES]> {
    let mut secret = [0; SECRET_BYTES];
    for (byte, digits) in secret.iter_mut().zip(text.as_bytes().chunks(2)) {
        let digit = |digit: u8| match digit {
            b'0'..=b'9' => Some(digit - b'0'),
            b'a'..=b'f' => Some(digit - b'a' + 10),
            _ => None,
        };
        let [high, low] = digits else { return None };
        match (digit(*high), digit(*low)) {
            (Some(high), Some(low)) => *byte = high << 4 | low,
            _ => {
                secret.zeroize();
                return None;
            }
        }
    }
    Some(secret)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Timestamp;
    use proptest::prelude::*;

    fn token(random: u128, secret: [u8; SECRET_BYTES]) -> Token {
        Token::new(Kind::Api, TokenId::new(Timestamp::from_millis(1_770_028_200_000), random), secret)
    }

    proptest! {
        #[test]
        fn tokens_read_back(random: u128, secret: [u8; SECRET_BYTES]) {
            let token = token(random, secret);
            let read = Token::parse(Kind::Api, &token.expose_text()).unwrap();
            prop_assert_eq!(read.id(), token.id());
            prop_assert_eq!(read.digest(), token.digest());
            prop_assert_eq!(read.expose_text(), token.expose_text());
            let form = Token::parse(Kind::Join, &token.expose_text()).unwrap_err();
            prop_assert_eq!(form, TokenError::Form("prj_"));
        }

        #[test]
        fn one_wrong_character_is_noticed(random: u128, secret: [u8; SECRET_BYTES], at in 0_usize..103, other in "[0-9a-z_]") {
            let right = token(random, secret).expose_text().to_string();
            let mut wrong = right.clone();
            wrong.replace_range(at..=at, &other);
            prop_assert_eq!(Token::parse(Kind::Api, &wrong).is_ok(), wrong == right);
        }

        #[test]
        fn no_text_panics(text: String) {
            drop((Token::parse(Kind::Api, &text), Token::parse(Kind::Join, &format!("prj_{text}"))));
        }
    }

    #[test]
    fn a_token_is_one_word_that_names_its_kind_and_is_not_printed_by_accident() {
        let token = token(7, [0xab; SECRET_BYTES]);
        let text = token.expose_text();
        assert_eq!(text.len(), 103);
        assert!(
            text.starts_with("prt_") && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        );
        let shown = format!("{token:?} {:?}", Token::parse(Kind::Join, &text));
        assert!(!shown.contains("abab"), "{shown}");
    }
}
