//! Compares what was acknowledged with what receivers logged.
//!
//! *Lost*: acknowledged, and no 2xx at a receiver it is owed to. *Unexpected*: received, but never emitted, or not
//! as it was emitted, or with a signature that does not verify. *Dup*: POSTs of a delivery beyond its first. A run
//! counts only when nearly all of its planned work was done: a dead system passes nothing.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Result, ensure};
use standardwebhooks::Webhook;

use crate::ledger::{Emitted, Ledger};
use crate::receiver::Post;

/// How much of its planned work a run must have done, in percent.
const ENOUGH: usize = 95;

/// A subscription to everything, and where it leads.
#[derive(Clone, Debug)]
pub struct Route {
    /// The receiver's path.
    pub path: String,
    /// The subscription's id.
    pub subscription: String,
    /// Its secret.
    pub secret: String,
}

/// What a comparison found.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Deliveries that never arrived: path and event.
    pub lost: Vec<String>,
    /// POSTs that should not have been, and why.
    pub unexpected: Vec<String>,
    /// POSTs beyond the first, a delivery: path and event.
    pub repeated: Vec<String>,
    /// All POSTs.
    pub posts: usize,
    /// Events that were acknowledged.
    pub acknowledged: usize,
}

impl Verdict {
    /// Compares. Every event is owed to every route.
    #[must_use]
    pub fn of(ledger: &Ledger, routes: &[Route], posts: &[Post]) -> Self {
        let events = ledger.events();
        let mut verdict = Self { posts: posts.len(), ..Self::default() };
        let mut seen: BTreeMap<(&str, &str), Vec<&Post>> = BTreeMap::new();
        let verifiers: HashMap<&str, Webhook> = routes
            .iter()
            .filter_map(|route| Some((route.path.as_str(), Webhook::new(&route.secret).ok()?)))
            .collect();
        for post in posts {
            if let Err(reason) = judge(post, &events, &verifiers) {
                verdict.unexpected.push(format!("{} {}: {reason}", post.path, post.id));
            }
            seen.entry((&post.path, &post.id)).or_default().push(post);
        }
        for (id, _) in events.iter().filter(|(_, event)| event.acknowledged) {
            verdict.acknowledged += 1;
            for route in routes {
                let posts = seen.get(&(route.path.as_str(), id.as_str()));
                let success = |post: &&Post| (200..300).contains(&post.answered);
                if !posts.is_some_and(|posts| posts.iter().any(success)) {
                    verdict.lost.push(format!("{} {id}", route.path));
                }
            }
        }
        for ((path, id), posts) in seen {
            verdict.repeated.extend(std::iter::repeat_n(format!("{path} {id}"), posts.len() - 1));
        }
        verdict
    }

    /// Nothing lost, nothing unexpected, at most `dups` repeated, and nearly all of `planned` events done.
    ///
    /// # Errors
    /// What is wrong.
    pub fn pass(&self, planned: usize, dups: usize) -> Result<()> {
        ensure!(
            self.acknowledged * 100 >= planned * ENOUGH,
            "only {} of {planned} planned events were acknowledged",
            self.acknowledged
        );
        let first = |list: &[String]| list.iter().take(5).cloned().collect::<Vec<_>>().join("; ");
        let all_is_well = self.lost.is_empty() && self.unexpected.is_empty() && self.repeated.len() <= dups;
        ensure!(
            all_is_well,
            "of {} acknowledged events and {} POSTs: lost {} [{}], unexpected {} [{}], dup {} of at most {dups} [{}]",
            self.acknowledged,
            self.posts,
            self.lost.len(),
            first(&self.lost),
            self.unexpected.len(),
            first(&self.unexpected),
            self.repeated.len(),
            first(&self.repeated),
        );
        Ok(())
    }
}

fn judge(
    post: &Post,
    events: &HashMap<String, Emitted>,
    verifiers: &HashMap<&str, Webhook>,
) -> Result<(), String> {
    let event = events.get(&post.id).ok_or("never emitted")?;
    let verifier = verifiers.get(post.path.as_str()).ok_or("nobody subscribed with this path")?;
    // The age is not judged: the checker runs after the load.
    let header =
        |name: &str| post.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let timestamp = header("webhook-timestamp").parse().map_err(|_| "no timestamp")?;
    let signature = verifier.sign(&post.id, timestamp, &post.body).map_err(|error| error.to_string())?;
    if !header("webhook-signature").split(' ').any(|one| one == signature) {
        return Err("the signature does not verify".into());
    }
    let body = String::from_utf8_lossy(&post.body);
    let begins = body.starts_with(&format!("{{\"event\":\"{}\",\"timestamp\":\"", event.event_type));
    if !begins || !body.ends_with(&format!("\",\"data\":{}}}", event.data)) {
        return Err(format!("altered: {body}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::HeaderMap;

    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo=";

    fn post(path: &str, id: &str, body: &'static str, answered: u16) -> Post {
        let mut headers = HeaderMap::new();
        let signature = Webhook::new(SECRET).unwrap().sign(id, 1, body.as_bytes()).unwrap();
        headers.insert("webhook-timestamp", "1".parse().unwrap());
        headers.insert("webhook-signature", signature.parse().unwrap());
        let at = crate::clock::now();
        Post {
            method: http::Method::POST,
            path: path.into(),
            id: id.into(),
            headers,
            body: Bytes::from(body),
            at,
            answered,
        }
    }

    #[test]
    fn losses_dups_and_strangers_are_found() {
        let ledger = Ledger::default();
        for id in ["a", "b", "c"] {
            ledger.sent(id, "t", "{}");
        }
        ledger.acknowledged("a");
        ledger.acknowledged("b");
        let route = Route { path: "/1".into(), subscription: String::new(), secret: SECRET.into() };
        let good = r#"{"event":"t","timestamp":"x","data":{}}"#;
        let mut forged = post("/1", "a", good, 204);
        forged.headers.insert("webhook-timestamp", "2".parse().unwrap());
        let posts = [
            post("/1", "a", good, 204),
            post("/1", "b", good, 500),
            post("/1", "c", good, 204),
            post("/1", "c", r#"{"event":"t","timestamp":"x","data":[]}"#, 204),
            post("/1", "d", good, 204),
            post("/2", "a", good, 204),
            forged,
        ];
        let verdict = Verdict::of(&ledger, std::slice::from_ref(&route), &posts);
        assert_eq!(verdict.lost, ["/1 b"]);
        assert_eq!(verdict.unexpected.len(), 4, "{:?}", verdict.unexpected);
        assert_eq!(verdict.repeated, ["/1 a", "/1 c"]);
        assert!(verdict.pass(2, 2).is_err());

        let posts = [post("/1", "a", good, 204), post("/1", "b", good, 500), post("/1", "b", good, 200)];
        let verdict = Verdict::of(&ledger, &[route], &posts);
        assert!(verdict.pass(2, 1).is_ok() && verdict.pass(2, 0).is_err() && verdict.pass(3, 1).is_err());
    }
}
