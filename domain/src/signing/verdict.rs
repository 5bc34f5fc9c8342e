//! What the receiver's answer to a test event says, and what to do next: a sentence for people.

use crate::outcome::{Class, Outcome};

/// What the answer to a key test says about the one key that signed it.
#[must_use]
pub fn key_test_verdict(outcome: &Outcome) -> String {
    match outcome.status() {
        Some(_) if outcome.class == Class::Success => "the receiver accepted it: it has this key".to_owned(),
        Some(status @ (401 | 403)) => format!(
            "the receiver answered {status}: it does not know this key yet; give it the key, then test it again"
        ),
        Some(status @ 400) => format!(
            "the receiver answered {status}: it may not know this key yet, if it answers so to signatures that do not \
             verify; give it the key, then test it again"
        ),
        Some(status) => format!(
            "the receiver answered {status}, which says nothing about the key; look at the receiver's log, then test it \
             again"
        ),
        None => format!("{}; that says nothing about the key", unanswered(outcome)),
    }
}

/// What the answer to a test event says about the subscription.
#[must_use]
pub fn test_verdict(outcome: &Outcome) -> String {
    match outcome.status() {
        Some(_) if outcome.class == Class::Success => "the receiver accepted the test event".to_owned(),
        Some(status @ (401 | 403)) => format!(
            "the receiver answered {status}: check that it verifies with the secret of an active signing key, and that \
             the subscription has the headers that the receiver wants"
        ),
        Some(status) if outcome.class == Class::HttpStatus && (300..400).contains(&status) => {
            format!(
                "the receiver answered {status}: redirects are not followed; set the subscription's url to their end"
            )
        }
        Some(status) => format!(
            "the receiver answered {status}: look at its log; it must answer 2xx to test events and not process them"
        ),
        None => unanswered(outcome),
    }
}

/// The receiver has not answered, or was not asked.
fn unanswered(outcome: &Outcome) -> String {
    let why = if outcome.detail.is_empty() { outcome.class.as_str() } else { &outcome.detail };
    let next = match outcome.class {
        Class::RefusedByPolicy => "the agent's owner can allow it in the agent's egress settings",
        _ => "diagnose the subscription to see where it fails",
    };
    format!("the receiver has not answered: {why}; {next}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Response;

    fn answered(status: u16) -> Outcome {
        let response = Some(Response { status, ..Response::default() });
        Outcome { response, ..Outcome::failure(Class::of_status(status), "") }
    }

    #[test]
    fn each_answer_says_what_to_do_next() {
        let failed = |class| Outcome::failure(class, "the agent has said why");
        let table = [
            (answered(204), "it has this key", "accepted the test event"),
            (answered(401), "answered 401: it does not know this key yet", "secret of an active signing key"),
            (answered(403), "answered 403: it does not know this key yet", "secret of an active signing key"),
            (answered(400), "may not know this key yet", "answered 400: look at its log"),
            (answered(302), "302, which says nothing about the key", "redirects are not followed"),
            (answered(410), "410, which says nothing about the key", "answered 410: look at its log"),
            (answered(500), "500, which says nothing about the key", "answered 500: look at its log"),
            (failed(Class::Timeout), "the agent has said why; diagnose", "the agent has said why; diagnose"),
            (failed(Class::RefusedByPolicy), "the agent's egress settings", "the agent's egress settings"),
            (Outcome::failure(Class::Dns, ""), "has not answered: dns", "has not answered: dns"),
        ];
        for (outcome, key, test) in table {
            let (of_key_test, of_test) = (key_test_verdict(&outcome), test_verdict(&outcome));
            assert!(of_key_test.contains(key), "{outcome:?}: {of_key_test}");
            assert!(of_test.contains(test), "{outcome:?}: {of_test}");
        }
    }
}
