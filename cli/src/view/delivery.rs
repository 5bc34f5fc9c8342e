//! Deliveries, shown.

use postrider_proto::v1::{self, DeliveryState};
use serde::Serialize;

use super::attempt::Attempt;
use super::{time, time_for_table, word, word_unless_unspecified};
use crate::output::View;

/// Mirrors `postrider.v1.Delivery`.
#[derive(Debug, Serialize)]
pub(crate) struct Delivery {
    /// Its id.
    pub(crate) id: String,
    tenant: String,
    /// Its subscription.
    pub(crate) subscription: String,
    event: String,
    event_type: String,
    /// Where it stands, as a word.
    pub(crate) state: String,
    attempt_count: u32,
    create_time: Option<String>,
    next_attempt_time: Option<String>,
    end_time: Option<String>,
    last_attempt: Option<Attempt>,
    /// Why nothing is attempted now, though it is due.
    pub(crate) hold_reason: Option<String>,
    #[serde(skip)]
    created: String,
}

impl From<v1::Delivery> for Delivery {
    fn from(delivery: v1::Delivery) -> Self {
        Self {
            state: word::<DeliveryState>(delivery.state),
            create_time: time(delivery.create_time.as_ref()),
            next_attempt_time: time(delivery.next_attempt_time.as_ref()),
            end_time: time(delivery.end_time.as_ref()),
            created: time_for_table(delivery.create_time.as_ref()),
            hold_reason: word_unless_unspecified::<v1::HoldReason>(delivery.hold_reason),
            last_attempt: delivery.last_attempt.map(Attempt::from),
            id: delivery.id,
            tenant: delivery.tenant,
            subscription: delivery.subscription,
            event: delivery.event,
            event_type: delivery.event_type,
            attempt_count: delivery.attempt_count,
        }
    }
}

/// Whether nothing more happens to a delivery by itself.
pub(crate) fn has_ended(state: i32) -> bool {
    let ended = [DeliveryState::Delivered, DeliveryState::Exhausted, DeliveryState::Cancelled];
    ended.iter().any(|end| i32::from(*end) == state)
}

impl Delivery {
    fn last(&self) -> String {
        self.last_attempt.as_ref().map(Attempt::summary).unwrap_or_default()
    }

    /// Where it stands, with what it waits for.
    fn state_text(&self) -> String {
        let mut text = self.state.clone();
        if let Some(reason) = &self.hold_reason {
            text = format!("{text}, held: {}", hold_for_people(reason));
        }
        match &self.next_attempt_time {
            Some(time) => format!("{text}, next attempt at {time}"),
            None => text,
        }
    }

    /// One line of a live view.
    pub(crate) fn line(&self) -> String {
        let mut parts = vec![format!("{:<10}", self.state), self.id.clone()];
        if self.attempt_count > 0 {
            parts.push(format!("attempt {}", self.attempt_count));
        }
        // While an attempt is under way, the last outcome is that of the one before.
        if self.state != "attempting" {
            parts.extend(self.last_attempt.as_ref().map(Attempt::summary));
        }
        parts.extend(self.next_attempt_time.as_ref().map(|time| format!("next at {time}")));
        parts.extend(self.hold_reason.as_ref().map(|reason| format!("held: {}", hold_for_people(reason))));
        parts.join("  ")
    }

    /// The line with what identifies the event.
    pub(crate) fn line_with_event(&self) -> String {
        format!("{}  {} {}", self.line(), self.event_type, self.event)
    }
}

fn hold_for_people(reason: &str) -> &str {
    match reason {
        "paused" => "the subscription is paused",
        "disabled" => "the subscription is disabled",
        "pool_not_allowed" => "its pool is not available to the tenant",
        "no_agent" => "no agent is connected in its pool",
        "circuit_open" => "the circuit breaker is open after repeated failures",
        "retry_after" => "the endpoint asked for a pause by Retry-After",
        "destination" => "its host is at the operator's limit (destination_rate)",
        "order" => "an earlier delivery must end first",
        other => other,
    }
}

impl View for Delivery {
    const COLUMNS: &'static [&'static str] =
        &["ID", "EVENT TYPE", "STATE", "ATTEMPTS", "LAST", "CREATED", "EVENT"];

    fn row(&self) -> Vec<String> {
        vec![
            self.id.clone(),
            self.event_type.clone(),
            self.state.clone(),
            self.attempt_count.to_string(),
            self.last(),
            self.created.clone(),
            self.event.clone(),
        ]
    }

    fn details(&self) -> Vec<(&'static str, String)> {
        vec![
            ("Delivery", self.id.clone()),
            ("State", self.state_text()),
            ("Tenant", self.tenant.clone()),
            ("Subscription", self.subscription.clone()),
            ("Event", format!("{} ({})", self.event, self.event_type)),
            ("Created", self.create_time.clone().unwrap_or_default()),
            ("Ended", self.end_time.clone().unwrap_or_default()),
            ("Attempts", self.attempt_count.to_string()),
        ]
    }
}

/// A delivery with every attempt, as `deliveries show` prints it.
#[derive(Debug, Serialize)]
pub(crate) struct WithAttempts {
    delivery: Delivery,
    attempts: Vec<Attempt>,
}

impl WithAttempts {
    /// Joins both.
    pub(crate) fn new(delivery: v1::Delivery, attempts: Vec<v1::Attempt>) -> Self {
        Self { delivery: delivery.into(), attempts: attempts.into_iter().map(Attempt::from).collect() }
    }

    /// Everything, in lines.
    pub(crate) fn for_people(&self) -> String {
        let mut text = crate::output::details(&self.delivery.details());
        for attempt in &self.attempts {
            text.push('\n');
            text.push_str(&attempt.for_people());
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting() -> v1::Delivery {
        v1::Delivery {
            id: "dlv_1".into(),
            event: "evt_1".into(),
            event_type: "a.b".into(),
            state: DeliveryState::Waiting.into(),
            attempt_count: 1,
            next_attempt_time: Some(prost_types::Timestamp { seconds: 1_770_028_200, nanos: 0 }),
            hold_reason: v1::HoldReason::NoAgent.into(),
            last_attempt: Some(v1::Attempt { outcome: 5, ..Default::default() }),
            ..Default::default()
        }
    }

    #[test]
    fn a_line_says_what_it_waits_for() {
        assert_eq!(
            Delivery::from(waiting()).line_with_event(),
            "waiting     dlv_1  attempt 1  connect  next at 2026-02-02T10:30:00Z  held: no agent is connected in its pool  a.b evt_1"
        );
    }

    #[test]
    fn json_mirrors_the_message() {
        let json = serde_json::to_value(Delivery::from(waiting())).unwrap();
        assert_eq!(json["state"], "waiting");
        assert_eq!(json["hold_reason"], "no_agent");
        assert_eq!(json["end_time"], serde_json::Value::Null);
        assert_eq!(json["last_attempt"]["outcome"], "connect");
        assert_eq!(json.as_object().unwrap().len(), 12);
    }

    #[test]
    fn ends() {
        assert!(has_ended(DeliveryState::Cancelled.into()));
        assert!(!has_ended(DeliveryState::Attempting.into()));
    }
}
