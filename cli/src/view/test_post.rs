//! What came of a test event, shown: what it means first, then the attempt.

use postrider_proto::v1;
use serde::Serialize;

use super::attempt::Attempt;
use super::promised;
use crate::failure::Result;

/// Mirrors `postrider.v1.TestSubscriptionResponse` and `postrider.v1.TestSigningKeyResponse`.
#[derive(Serialize)]
pub(crate) struct TestPost {
    event_id: String,
    attempt: Attempt,
    verdict: String,
}

impl TestPost {
    /// Joins the parts of an answer.
    pub(crate) fn new(event_id: String, attempt: Option<v1::Attempt>, verdict: String) -> Result<Self> {
        Ok(Self { event_id, attempt: promised(attempt, "attempt")?.into(), verdict })
    }

    /// Whether the receiver accepted it.
    pub(crate) fn is_accepted(&self) -> bool {
        self.attempt.is_success()
    }

    /// The verdict, and every detail below it.
    pub(crate) fn for_people(&self) -> String {
        let first = [("Result", self.verdict.clone()), ("Event", self.event_id.clone())];
        crate::output::details(&first) + &self.attempt.for_people()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_comes_first() {
        let attempt = v1::Attempt {
            number: 1,
            http_status: 401,
            outcome: v1::OutcomeClass::HttpStatus.into(),
            ..v1::Attempt::default()
        };
        let shown = TestPost::new("evt_1".into(), Some(attempt), "the receiver answered 401".into()).unwrap();
        assert!(!shown.is_accepted());
        let text = shown.for_people();
        assert!(text.starts_with("Result  the receiver answered 401\nEvent   evt_1\nAttempt 1"), "{text}");
        let json = serde_json::to_value(&shown).unwrap();
        assert_eq!(
            (&json["verdict"], &json["attempt"]["http_status"]),
            (&"the receiver answered 401".into(), &401.into())
        );
        assert!(TestPost::new("evt_1".into(), None, String::new()).is_err());
    }
}
