//! What is stored of an identity, as text: lines of facts, then PEM, then a checksum.
//!
//! It is text of this kind so that its owner can look at it with the usual tools, such as
//! `openssl x509 -in identity.pem -noout -text`. Pure: nothing here touches a file.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};
use std::str::FromStr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use postrider_domain::id::{AgentId, PoolName, TokenId};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{PemObject as _, SectionKind};
use sha2::{Digest as _, Sha256};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

use super::key::Key;
use crate::clock::WallTime;
use crate::dial::Address;

/// The format that is written, and the newest that is understood.
const FORMAT: u32 = 1;
const IDENTITY: &str = "Postrider agent identity";
const PENDING: &str = "Postrider agent pending key";
const CHECKSUM: &str = "sha256: ";
/// Base64 on a line of PEM.
const LINE: usize = 64;

/// Who this agent is, and whom it trusts.
#[derive(Clone)]
pub struct Record {
    /// Its id.
    pub agent_id: AgentId,
    /// Its pool.
    pub pool: PoolName,
    /// Where the control plane was when the agent last heard of it.
    pub control_plane: Address,
    /// The private key.
    pub key: Key,
    /// The certificate of that key, then its issuers'.
    pub chain: Vec<CertificateDer<'static>>,
    /// The authorities that the control plane's certificate may be from.
    pub bundle: Vec<CertificateDer<'static>>,
    /// When the certificate came.
    pub obtained: WallTime,
    /// When to renew it, from then.
    pub renew_after: Duration,
    /// When it ends, from then.
    pub valid_for: Duration,
}

/// A key that the control plane was asked to certify, and whose certificate is not here yet.
#[derive(Clone)]
pub struct Pending {
    /// What it is for.
    pub purpose: Purpose,
    /// The key.
    pub key: Key,
}

/// What a certificate is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To become an agent, with this token.
    Enrollment(TokenId),
    /// To go on being one.
    Renewal,
}

/// A stored text is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// It was changed or cut off.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    /// It is from the future.
    #[error(
        "it has format {0}, and this agent knows formats up to {FORMAT}: install the agent that wrote it"
    )]
    Newer(u32),
}

impl Record {
    /// When the certificate ends by its own words, in seconds since 1970.
    #[must_use]
    pub fn expires(&self) -> Option<i64> {
        let (_, certificate) = X509Certificate::from_der(self.chain.first()?).ok()?;
        Some(certificate.validity().not_after.timestamp())
    }

    /// The text to store.
    #[must_use]
    pub fn write(&self) -> Zeroizing<String> {
        let mut text = begin(IDENTITY);
        line(&mut text, "agent_id", &self.agent_id);
        line(&mut text, "pool", &self.pool);
        line(&mut text, "control_plane", &self.control_plane);
        line(&mut text, "obtained_unix_s", self.obtained.unix_seconds());
        line(&mut text, "renew_after_s", self.renew_after.as_secs());
        line(&mut text, "valid_for_s", self.valid_for.as_secs());
        line(&mut text, "certificates_of_the_agent", self.chain.len());
        pem(&mut text, "PRIVATE KEY", self.key.pkcs8());
        for certificate in self.chain.iter().chain(&self.bundle) {
            pem(&mut text, "CERTIFICATE", certificate);
        }
        seal(text)
    }

    /// Reads what was written.
    ///
    /// # Errors
    ///
    /// [`RecordError`].
    pub fn read(text: &str) -> Result<Record, RecordError> {
        let body = open(text, IDENTITY)?;
        let facts = Facts::of(body);
        let of_agent: usize = facts.get("certificates_of_the_agent")?;
        let (key, mut chain) = sections(body)?;
        if of_agent == 0 || of_agent >= chain.len() {
            return Err(RecordError::Damaged("it does not have the certificates that it says it has"));
        }
        let bundle = chain.split_off(of_agent);
        let seconds = |name| facts.get(name).map(Duration::from_secs);
        Ok(Record {
            agent_id: facts.get("agent_id")?,
            pool: facts.get("pool")?,
            control_plane: facts.get("control_plane")?,
            key,
            chain,
            bundle,
            obtained: WallTime::from_unix_seconds(facts.get("obtained_unix_s")?),
            renew_after: seconds("renew_after_s")?,
            valid_for: seconds("valid_for_s")?,
        })
    }
}

impl Pending {
    /// The text to store.
    #[must_use]
    pub fn write(&self) -> Zeroizing<String> {
        let mut text = begin(PENDING);
        if let Purpose::Enrollment(token) = self.purpose {
            line(&mut text, "enrollment_with", token);
        }
        pem(&mut text, "PRIVATE KEY", self.key.pkcs8());
        seal(text)
    }

    /// Reads what was written.
    ///
    /// # Errors
    ///
    /// [`RecordError`].
    pub fn read(text: &str) -> Result<Pending, RecordError> {
        let body = open(text, PENDING)?;
        let facts = Facts::of(body);
        let purpose = match facts.0.contains_key("enrollment_with") {
            true => Purpose::Enrollment(facts.get("enrollment_with")?),
            false => Purpose::Renewal,
        };
        let (key, _) = sections(body)?;
        Ok(Pending { purpose, key })
    }
}

/// The lines of the form `name: value`.
struct Facts<'a>(BTreeMap<&'a str, &'a str>);

impl<'a> Facts<'a> {
    fn of(body: &'a str) -> Facts<'a> {
        Facts(body.lines().filter_map(|line| line.split_once(": ")).collect())
    }

    fn get<T: FromStr>(&self, name: &'static str) -> Result<T, RecordError> {
        let value = self.0.get(name).ok_or(RecordError::Damaged("a line is missing"))?;
        value.parse().map_err(|_| RecordError::Damaged("a line cannot be read"))
    }
}

/// With room for everything, so that no half of a key stays behind when it grows.
fn begin(what: &str) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(64 << 10));
    text.push_str(what);
    text.push_str(", format ");
    push(&mut text, FORMAT);
    text.push_str(". Keep it secret.\n");
    text
}

fn line(text: &mut String, name: &str, value: impl Display) {
    text.push_str(name);
    text.push_str(": ");
    push(text, value);
    text.push('\n');
}

fn push(text: &mut String, value: impl Display) {
    write!(text, "{value}").expect("writing to a string does not fail");
}

fn pem(text: &mut String, label: &str, der: &[u8]) {
    let encoded = Zeroizing::new(STANDARD.encode(der));
    text.push_str("-----BEGIN ");
    text.push_str(label);
    text.push_str("-----\n");
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        let (first, others) = rest.split_at(rest.len().min(LINE));
        text.push_str(first);
        text.push('\n');
        rest = others;
    }
    text.push_str("-----END ");
    text.push_str(label);
    text.push_str("-----\n");
}

fn seal(mut text: Zeroizing<String>) -> Zeroizing<String> {
    let checksum = checksum(&text);
    text.push_str(CHECKSUM);
    text.push_str(&checksum);
    text.push('\n');
    text
}

/// What was sealed, if it is whole, and of this kind and a known format.
fn open<'a>(text: &'a str, what: &str) -> Result<&'a str, RecordError> {
    let rest = text.strip_prefix(what).and_then(|rest| rest.strip_prefix(", format "));
    let format = rest.and_then(|rest| rest.split_once('.')?.0.parse().ok());
    match format {
        Some(FORMAT) => {}
        Some(newer) if newer > FORMAT => return Err(RecordError::Newer(newer)),
        _ => return Err(RecordError::Damaged("it does not begin as it should")),
    }
    let (body, sealed) = text.rsplit_once(CHECKSUM).ok_or(RecordError::Damaged("its end is missing"))?;
    if sealed.strip_suffix('\n') == Some(checksum(body).as_str()) {
        Ok(body)
    } else {
        Err(RecordError::Damaged("its checksum does not match"))
    }
}

fn checksum(body: &str) -> String {
    Sha256::digest(body.as_bytes()).iter().fold(String::with_capacity(64), |mut text, byte| {
        push(&mut text, format_args!("{byte:02x}"));
        text
    })
}

/// The private key, and all certificates in their order.
fn sections(body: &str) -> Result<(Key, Vec<CertificateDer<'static>>), RecordError> {
    let (mut key, mut certificates) = (None, Vec::new());
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(body.as_bytes()) {
        match section.map_err(|_| RecordError::Damaged("its PEM cannot be read"))? {
            (SectionKind::PrivateKey, der) => key = Some(der),
            (SectionKind::Certificate, der) => certificates.push(der.into()),
            _ => return Err(RecordError::Damaged("its PEM has something else in it")),
        }
    }
    let key = key.ok_or(RecordError::Damaged("its private key is missing"))?;
    let key = Key::from_pkcs8(key).map_err(|_| RecordError::Damaged("its private key cannot be read"))?;
    Ok((key, certificates))
}

#[cfg(test)]
mod tests {
    use super::*;
    use postrider_domain::time::Timestamp;
    use proptest::prelude::*;

    fn record() -> Record {
        let certificate = |byte| CertificateDer::from(vec![byte; 200]);
        Record {
            agent_id: "a-1".parse().unwrap(),
            pool: "acme".parse().unwrap(),
            control_plane: "[::1]:7071".parse().unwrap(),
            key: Key::generate().unwrap(),
            chain: vec![certificate(1), certificate(2)],
            bundle: vec![certificate(3)],
            obtained: WallTime::from_unix_seconds(1_770_000_000),
            renew_after: Duration::from_secs(43_200),
            valid_for: Duration::from_secs(86_400),
        }
    }

    fn same(one: &Record, other: &Record) -> bool {
        one.agent_id == other.agent_id
            && one.pool == other.pool
            && one.control_plane == other.control_plane
            && one.key.pkcs8() == other.key.pkcs8()
            && (&one.chain, &one.bundle) == (&other.chain, &other.bundle)
            && (one.obtained, one.renew_after, one.valid_for)
                == (other.obtained, other.renew_after, other.valid_for)
    }

    #[test]
    fn what_is_written_is_read_back() {
        let record = record();
        assert!(same(&Record::read(&record.write()).unwrap(), &record));
        let token = TokenId::new(Timestamp::from_millis(1_770_028_200_000), 7);
        for purpose in [Purpose::Enrollment(token), Purpose::Renewal] {
            let pending = Pending { purpose, key: Key::generate().unwrap() };
            let read = Pending::read(&pending.write()).unwrap();
            assert_eq!((read.purpose, read.key.pkcs8()), (purpose, pending.key.pkcs8()));
        }
    }

    #[test]
    fn the_text_fits_in_the_room_that_was_made_for_it() {
        let text = Record { bundle: vec![vec![9; 2_000].into(); 8], ..record() }.write();
        assert!(text.len() < 64 << 10 && text.capacity() == 64 << 10);
        assert!(
            Pending { purpose: Purpose::Renewal, key: Key::generate().unwrap() }.write().capacity()
                == 64 << 10
        );
    }

    #[test]
    fn another_kind_and_a_newer_format_are_told() {
        let text = record().write();
        assert!(matches!(Pending::read(&text), Err(RecordError::Damaged(_))));
        let newer = text.replacen("format 1", "format 2", 1);
        assert_eq!(Record::read(&newer).err(), Some(RecordError::Newer(2)));
        for text in ["", "x", "Postrider agent identity, format .", "Postrider agent identity, format 1."] {
            assert!(matches!(Record::read(text), Err(RecordError::Damaged(_))), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_damage_is_seen(at in 0usize..10_000, bit in 0u32..7, cut in any::<bool>()) {
            let text = record().write();
            let at = at % text.len();
            let mut bytes = text.as_bytes().to_vec();
            if cut { bytes.truncate(at) } else { bytes[at] ^= 1 << bit }
            prop_assert!(Record::read(std::str::from_utf8(&bytes).unwrap()).is_err());
        }
    }
}
