//! Receives webhooks: verifies, does the work of each event once, and lets no older event undo a newer one.
//!
//! WEBHOOK_SECRETS=whsec_…[,whsec_…] cargo run [port]

use std::collections::HashMap;
use std::error::Error;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use hmac::{Hmac, Mac as _};
use jiff::Timestamp;

use sha2::Sha256;
use tiny_http::{Request, Response, Server};

/// Seconds that a POST may be old: then a recorded one is worthless.
const TOLERANCE: u64 = 300;

struct Inbox {
    /// Several while a secret is changed: one that fits is enough.
    keys: Vec<Vec<u8>>,
    // In production: two tables, written in one transaction, so that work and memory of it are there together or not at
    // all.
    seen: HashMap<String, SystemTime>,
    changed: HashMap<String, Timestamp>,
}

fn header<'a>(request: &'a Request, name: &str) -> &'a str {
    let found = request.headers().iter().find(|header| header.field.as_str().as_str().eq_ignore_ascii_case(name));
    found.map(|header| header.value.as_str()).unwrap_or_default()
}

impl Inbox {
    /// Whether the POST is the sender's, and of now. The signature covers the bytes as received.
    fn is_verified(&self, request: &Request, body: &[u8]) -> bool {
        let (id, sent) = (header(request, "webhook-id"), header(request, "webhook-timestamp"));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        if id.is_empty() || !sent.parse().is_ok_and(|sent: u64| sent.abs_diff(now) <= TOLERANCE) {
            return false;
        }
        // Entries of other schemes are for others.
        let entries = header(request, "webhook-signature").split(' ').filter_map(|entry| entry.strip_prefix("v1,"));
        let given: Vec<Vec<u8>> = entries.filter_map(|entry| BASE64_STANDARD.decode(entry).ok()).collect();
        self.keys.iter().any(|key| {
            let mac = Hmac::<Sha256>::new_from_slice(key).expect("any length is a key's");
            let signed = mac.chain_update(format!("{id}.{sent}.")).chain_update(body);
            given.iter().any(|given| signed.clone().verify_slice(given).is_ok())
        })
    }

    /// Does the event's work, unless it was done.
    fn take(&mut self, id: &str, event: &serde_json::Value) -> &'static str {
        // Forget them after 30 days: the sender's retention.
        if self.seen.insert(id.to_owned(), SystemTime::now()).is_some() {
            return "repeat";
        }
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let (document, changed) = (text(&event["data"]["documentId"]), text(&event["timestamp"]).parse());
        let changed = changed.unwrap_or(Timestamp::UNIX_EPOCH);
        // An event that happened before what is known already comes too late: attempts may overtake each other.
        if self.changed.get(&document).is_some_and(|known| *known >= changed) {
            return "stale";
        }
        self.changed.insert(document, changed);
        "applied"
    }
}

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let secrets = std::env::var("WEBHOOK_SECRETS")?;
    let key = |secret: &str| BASE64_STANDARD.decode(secret.trim_start_matches("whsec_"));
    let keys = secrets.split(',').map(key).collect::<Result<_, _>>()?;
    let mut inbox = Inbox { keys, seen: HashMap::new(), changed: HashMap::new() };
    let port = std::env::args().nth(1).unwrap_or_else(|| "7072".to_owned());
    for mut request in Server::http(format!("127.0.0.1:{port}"))?.incoming_requests() {
        let mut body = Vec::new();
        request.as_reader().read_to_end(&mut body)?;
        let status = match serde_json::from_slice(&body) {
            Ok(event) if inbox.is_verified(&request, &body) => {
                let event: serde_json::Value = event;
                let id = header(&request, "webhook-id").to_owned();
                // A test event: the sender tests the way here, and there is nothing to do.
                let done = if event["event"] == "postrider.test" { "test" } else { inbox.take(&id, &event) };
                println!("{done}: {id}");
                204
            }
            _ => {
                println!("refused");
                401
            }
        };
        request.respond(Response::empty(status))?;
    }
    Ok(())
}
