//! `postrider verify`: check a request's signature offline, and say why it does not verify.
//!
//! It looks for the problems that receivers make: a changed body, a key used as text, an old clock.

use std::path::{Path, PathBuf};
use std::time::Duration;

use postrider_domain::id::EventId;
use postrider_domain::signing::{PublicKey, Scheme, Secret};
use postrider_domain::time::Timestamp;

use super::input::{self, parse_header};
use crate::clock;
use crate::failure::{Exit, Failure, Result};
use crate::output::{Format, print};
use crate::time::{duration_for_people, parse_duration};

/// A request as it was received.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Exit code 0: verified. 7: not verified; the reason is on stderr.

Examples:
  postrider verify --secret whsec_… -H 'webhook-id: evt_…' -H 'webhook-timestamp: 1770028200' \\
      -H 'webhook-signature: v1,…' --file body.json
  POSTRIDER_SECRET=whsec_… postrider verify --id evt_… --timestamp 1770028200 --signature v1,… < body.json")]
pub(crate) struct Args {
    /// Secret of the subscription: whsec_… Visible in the process list; prefer the environment or a file
    #[arg(long, value_name = "SECRET", env = "POSTRIDER_SECRET", hide_env_values = true)]
    secret: Option<String>,
    /// Public key of a v1a key instead: whpk_…
    #[arg(long, value_name = "KEY", conflicts_with_all = ["secret", "secret_file"])]
    public_key: Option<String>,
    /// File with the secret
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// Header of the request, 'Name: value'; may be repeated; headers other than webhook-* are ignored
    #[arg(long = "header", short = 'H', value_name = "HEADER", value_parser = parse_header)]
    headers: Vec<(String, String)>,
    /// Value of the header webhook-id
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// Value of the header webhook-timestamp: seconds since 1970
    #[arg(long, value_name = "SECONDS")]
    timestamp: Option<String>,
    /// Value of the header webhook-signature
    #[arg(long, value_name = "LIST")]
    signature: Option<String>,
    /// File with the body exactly as received; '-' for stdin
    #[arg(long, short, value_name = "FILE", default_value = "-")]
    file: PathBuf,
    /// Maximum difference between the timestamp and now; 0 disables the check
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = parse_duration)]
    tolerance: Duration,
}

/// Verifies.
pub(crate) fn run(args: &Args, format: Format) -> Result<()> {
    let request = args.request()?;
    let secret = args.secret()?;
    match request.judge(&secret, args.tolerance, clock::now()) {
        Ok(()) if format == Format::Json => {
            format.json(&serde_json::json!({ "verified": true, "reason": null }))
        }
        Ok(()) => print(&format!("Verified: {} bytes, signed for {}.\n", request.body.len(), request.id)),
        Err(problem) => {
            if format == Format::Json {
                format.json(&serde_json::json!({ "verified": false, "reason": problem.what }))?;
            }
            let failure = Failure::new(Exit::BadSignature, format!("not verified: {}", problem.what));
            Err(problem.next.into_iter().fold(failure, Failure::note))
        }
    }
}

impl Args {
    fn secret(&self) -> Result<String> {
        let secret = match (&self.public_key, &self.secret_file, &self.secret) {
            (Some(key), _, _) => key.trim().to_owned(),
            (None, Some(path), _) => input::read_line(path)?,
            (None, None, Some(secret)) => secret.trim().to_owned(),
            (None, None, None) => {
                return Err(Failure::new(
                    Exit::Usage,
                    "which secret? give --secret-file, --secret, --public-key or set POSTRIDER_SECRET",
                ));
            }
        };
        match Key::parse(&secret) {
            Ok(_) => Ok(secret),
            Err(problem) => Err(Failure::new(Exit::Usage, problem)),
        }
    }

    fn request(&self) -> Result<Request> {
        let header = |name: &str, given: &Option<String>| {
            let found = self.headers.iter().find(|(found, _)| found.eq_ignore_ascii_case(name));
            let value = given.clone().or_else(|| found.map(|(_, value)| value.clone()));
            value.ok_or_else(|| {
                Failure::new(Exit::Usage, format!("the header {name} is missing"))
                    .note("give every webhook-* header with -H, or --id, --timestamp and --signature")
            })
        };
        Ok(Request {
            id: header("webhook-id", &self.id)?,
            timestamp: header("webhook-timestamp", &self.timestamp)?,
            signatures: header("webhook-signature", &self.signature)?,
            body: read_body(&self.file)?,
        })
    }
}

fn read_body(path: &Path) -> Result<Vec<u8>> {
    input::read(path)
}

/// What a signature is checked with.
enum Key {
    Secret(Secret),
    Public(PublicKey),
}

impl Key {
    fn parse(text: &str) -> std::result::Result<Self, String> {
        if text.starts_with("whpk_") {
            return text.parse().map(Self::Public).map_err(|error| format!("the public key {error}"));
        }
        Secret::parse(text).map(Self::Secret).map_err(|error| format!("the secret {error}"))
    }

    fn scheme(&self) -> Scheme {
        match self {
            Self::Secret(secret) => secret.scheme(),
            Self::Public(_) => Scheme::V1a,
        }
    }

    fn verifies(&self, signatures: &str, id: &EventId, time: Timestamp, body: &[u8]) -> bool {
        match self {
            Self::Secret(secret) => secret.verifies(signatures, id, time, body),
            Self::Public(key) => key.verifies(signatures, id, time, body),
        }
    }
}

/// What was received.
struct Request {
    id: String,
    timestamp: String,
    signatures: String,
    body: Vec<u8>,
}

/// Why a request does not verify.
#[derive(Debug)]
struct Problem {
    what: String,
    next: Option<String>,
}

fn problem(what: impl Into<String>, next: &str) -> Problem {
    Problem { what: what.into(), next: (!next.is_empty()).then(|| next.to_owned()) }
}

impl Request {
    /// Checks form, signature, then age: a wrong signature matters more than an old one.
    fn judge(&self, secret: &str, tolerance: Duration, now: Timestamp) -> std::result::Result<(), Problem> {
        let key = Key::parse(secret).map_err(|what| problem(what, ""))?;
        let id: EventId =
            self.id.parse().map_err(|error| problem(format!("webhook-id '{}' {error}", self.id), ""))?;
        let seconds: i64 = self.timestamp.parse().ok().filter(|n| *n >= 0).ok_or_else(|| {
            problem(
                format!("webhook-timestamp '{}' is not a number of seconds since 1970", self.timestamp),
                "take the header, not the timestamp in the body",
            )
        })?;
        let time = Timestamp::from_millis(seconds.saturating_mul(1000));
        let scheme = key.scheme();
        if !self.signatures.split(' ').any(|entry| entry.starts_with(&format!("{scheme},"))) {
            return Err(problem(
                format!("webhook-signature holds no {scheme} signature"),
                &format!("it looks like '{scheme},…', several separated by spaces"),
            ));
        }
        if !key.verifies(&self.signatures, &id, time, &self.body) {
            return Err(self.diagnose(secret, &key, &id, time));
        }
        let age = now.since(time).max(time.since(now));
        if tolerance.is_zero() || age <= tolerance {
            return Ok(());
        }
        let (age, limit) = (duration_for_people(age), duration_for_people(tolerance));
        let side = if now > time { "old" } else { "in the future" };
        Err(problem(
            format!("the signature is right, but its timestamp is {age} {side}; the tolerance is {limit}"),
            "for a request kept in a file say --tolerance 0; otherwise check this machine's clock",
        ))
    }

    /// Tries the usual problems.
    fn diagnose(&self, secret: &str, key: &Key, id: &EventId, time: Timestamp) -> Problem {
        let what =
            "no signature in webhook-signature was made with this secret for this id, timestamp and body";
        let verifies = |key: &Key, body: &[u8]| key.verifies(&self.signatures, id, time, body);
        let trimmed = self.body.trim_ascii_end();
        if trimmed.len() < self.body.len() && verifies(key, trimmed) {
            return problem(
                what,
                "it verifies without the white space at the end of the body: something added it",
            );
        }
        if verifies(key, &[&self.body, &b"\n"[..]].concat()) {
            return problem(
                what,
                "it verifies with a line break at the end of the body: something removed it",
            );
        }
        let minified = crate::json::minify(&String::from_utf8_lossy(&self.body));
        if verifies(key, minified.as_bytes()) {
            return problem(
                what,
                "it verifies without the white space in the JSON: verify the bytes as received, before parsing them",
            );
        }
        let as_text = Secret::from_bytes(secret.as_bytes().to_vec());
        if as_text.is_ok_and(|key| verifies(&Key::Secret(key), &self.body)) {
            return problem(
                what,
                "it was made with the text whsec_… as the key; Standard Webhooks uses the bytes behind the base64",
            );
        }
        problem(
            what,
            "is it the secret of this subscription (`postrider keys reveal`), and the body byte for byte as received?",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo=";

    fn now() -> Timestamp {
        Timestamp::parse("2026-02-02T10:30:00Z").unwrap()
    }

    fn signed(body: &[u8]) -> Request {
        let signature = Secret::parse(SECRET).unwrap().sign(&"evt_1".parse().unwrap(), now(), body);
        Request {
            id: "evt_1".into(),
            timestamp: now().as_seconds().to_string(),
            signatures: format!("v1,AAAA {signature}"),
            body: body.to_vec(),
        }
    }

    fn told(request: &Request, now: Timestamp) -> String {
        let minutes = Duration::from_secs(300);
        match request.judge(SECRET, minutes, now) {
            Ok(()) => "verified".into(),
            Err(problem) => format!("{} / {}", problem.what, problem.next.unwrap_or_default()),
        }
    }

    #[test]
    fn a_signature_verifies_within_the_tolerance() {
        let request = signed(b"{\"a\": 1}");
        assert_eq!(told(&request, now()), "verified");
        assert_eq!(told(&request, now() + Duration::from_secs(300)), "verified");
        assert!(told(&request, now() + Duration::from_secs(301)).contains("timestamp is 5m1s old"));
        assert!(told(&request, now() - Duration::from_secs(400)).contains("in the future"));
        assert!(request.judge(SECRET, Duration::ZERO, Timestamp::MAX).is_ok());
    }

    #[test]
    fn the_usual_mistakes_are_named() {
        type Edit = fn(&mut Request);
        let edit = |change: Edit| {
            let mut request = signed(b"{\"a\": 1}");
            change(&mut request);
            told(&request, now())
        };
        let table: [(Edit, &str); 7] = [
            (|r| r.body.push(b'\n'), "it verifies without the white space at the end"),
            (|r| r.body[2] = b'b', "is it the secret of this subscription"),
            (|r| r.id = "evt_2".into(), "is it the secret of this subscription"),
            (|r| r.id = "a.b".into(), "webhook-id 'a.b' must be"),
            (
                |r| r.timestamp = "2026-02-02T10:30:00Z".into(),
                "take the header, not the timestamp in the body",
            ),
            (|r| r.signatures = "v2,abc".into(), "holds no v1 signature"),
            (|r| r.timestamp = "99".into(), "no signature in webhook-signature"),
        ];
        for (change, expected) in table {
            let found = edit(change);
            assert!(found.contains(expected), "{found}");
        }
        let mut request = signed(b"{\"a\":1}");
        request.body = b"{ \"a\": 1 }".to_vec();
        assert!(told(&request, now()).contains("before parsing them"));
    }

    #[test]
    fn a_public_key_verifies_what_its_secret_has_signed() {
        let secret = Secret::from_seed(&[7; 32]);
        let public = secret.public().unwrap().to_string();
        let mut request = signed(b"{}");
        let judge = |request: &Request| request.judge(&public, Duration::ZERO, now());
        assert!(judge(&request).unwrap_err().what.contains("holds no v1a signature"));
        request.signatures += &format!(" {}", secret.sign(&"evt_1".parse().unwrap(), now(), b"{}"));
        judge(&request).unwrap();
        request.body.push(b' ');
        assert!(judge(&request).unwrap_err().next.unwrap().contains("white space at the end"));
    }

    #[test]
    fn a_key_used_as_text_is_recognised() {
        let key = Secret::from_bytes(SECRET.as_bytes().to_vec()).unwrap();
        let mut request = signed(b"{}");
        request.signatures = key.sign(&"evt_1".parse().unwrap(), now(), b"{}");
        assert!(told(&request, now()).contains("as the key"));
    }
}
