//! How a subscription's endpoint does, and what follows when it fails, shown.

use postrider_proto::v1;
use serde::Serialize;

use super::{duration, time, word, word_unless_unspecified};
use crate::time::{duration_for_people, duration_from_wire};

/// Mirrors `postrider.v1.FailurePolicy`.
#[derive(Debug, Serialize)]
pub(crate) struct FailurePolicy {
    disable_after: Option<String>,
    while_disabled: String,
    #[serde(skip)]
    sentence: String,
}

impl From<v1::FailurePolicy> for FailurePolicy {
    fn from(policy: v1::FailurePolicy) -> Self {
        Self {
            sentence: sentence(&policy),
            disable_after: duration(policy.disable_after.as_ref()),
            while_disabled: word::<v1::WhileDisabled>(policy.while_disabled),
        }
    }
}

impl FailurePolicy {
    /// For people.
    pub(crate) fn sentence(&self) -> &str {
        &self.sentence
    }
}

fn sentence(policy: &v1::FailurePolicy) -> String {
    let after = policy.disable_after.as_ref().map(duration_from_wire);
    if after.is_some_and(|after| after.is_zero()) {
        return "never disabled".to_owned();
    }
    let after = after.map_or_else(|| "5d".to_owned(), duration_for_people);
    let events = match policy.while_disabled() {
        v1::WhileDisabled::Drop => "are dropped",
        v1::WhileDisabled::Queue | v1::WhileDisabled::Unspecified => "wait",
    };
    format!("disabled after {after} of continuous failure; events {events} meanwhile")
}

/// Mirrors `postrider.v1.SubscriptionHealth`.
#[derive(Debug, Serialize)]
pub(crate) struct Health {
    state: String,
    failing_since: Option<String>,
    consecutive_failures: u32,
    last_success_time: Option<String>,
    last_failure_time: Option<String>,
    last_failure: Option<String>,
    last_failure_status: u32,
    last_failure_detail: String,
    next_probe_time: Option<String>,
    disable_time: Option<String>,
    backlog: u64,
    backlog_is_lower_bound: bool,
    oldest_pending_time: Option<String>,
}

impl From<v1::SubscriptionHealth> for Health {
    fn from(health: v1::SubscriptionHealth) -> Self {
        Self {
            state: word::<v1::HealthState>(health.state),
            failing_since: time(health.failing_since.as_ref()),
            consecutive_failures: health.consecutive_failures,
            last_success_time: time(health.last_success_time.as_ref()),
            last_failure_time: time(health.last_failure_time.as_ref()),
            last_failure: word_unless_unspecified::<v1::OutcomeClass>(health.last_failure),
            last_failure_status: health.last_failure_status,
            last_failure_detail: health.last_failure_detail,
            next_probe_time: time(health.next_probe_time.as_ref()),
            disable_time: time(health.disable_time.as_ref()),
            backlog: health.backlog,
            backlog_is_lower_bound: health.backlog_is_lower_bound,
            oldest_pending_time: time(health.oldest_pending_time.as_ref()),
        }
    }
}

impl Health {
    /// In a word.
    pub(crate) fn state(&self) -> String {
        self.state.replace('_', " ")
    }

    /// In lines for people.
    pub(crate) fn details(&self) -> Vec<(&'static str, String)> {
        vec![
            ("Health", self.in_words()),
            ("Last success", self.last_success_time.clone().unwrap_or_default()),
            ("Last failure", self.last_failure_in_words()),
            ("Backlog", self.backlog_in_words()),
        ]
    }

    fn in_words(&self) -> String {
        let mut parts = vec![match self.state.as_str() {
            "unknown" => "unknown: nothing was attempted since the control plane started".to_owned(),
            "circuit_open" => {
                "circuit open: it fails so often that only one attempt at a time probes it".to_owned()
            }
            "recovering" => "recovering: it has just answered, and gets few at once at first".to_owned(),
            "backing_off" => "backing off: its Retry-After asked for a pause".to_owned(),
            _ => self.state(),
        }];
        if let Some(since) = &self.failing_since {
            parts.push(format!("failing continuously since {since}"));
        }
        if self.consecutive_failures > 0 {
            parts.push(format!("{} in a row", self.consecutive_failures));
        }
        if let Some(probe) = &self.next_probe_time {
            parts.push(format!("next attempt at {probe}"));
        }
        if let Some(disable) = &self.disable_time {
            parts.push(format!("disabled at {disable} if it goes on"));
        }
        parts.join("; ")
    }

    fn last_failure_in_words(&self) -> String {
        let Some(at) = &self.last_failure_time else { return String::new() };
        let class = self.last_failure.clone().unwrap_or_default().replace('_', " ");
        let status = match self.last_failure_status {
            0 => class,
            status => format!("status {status}"),
        };
        match self.last_failure_detail.as_str() {
            "" => format!("{at}: {status}"),
            detail => format!("{at}: {status} ({detail})"),
        }
    }

    fn backlog_in_words(&self) -> String {
        let bound = if self.backlog_is_lower_bound { "at least " } else { "" };
        let oldest = self.oldest_pending_time.as_ref();
        let oldest = oldest.map(|time| format!(", the oldest untried since {time}")).unwrap_or_default();
        format!("{bound}{}{oldest}", self.backlog)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Option<prost_types::Timestamp> {
        Some(prost_types::Timestamp { seconds, nanos: 0 })
    }

    #[test]
    fn a_policy_is_a_sentence() {
        let policy = |seconds: Option<i64>, while_disabled: v1::WhileDisabled| v1::FailurePolicy {
            disable_after: seconds.map(|seconds| prost_types::Duration { seconds, nanos: 0 }),
            while_disabled: while_disabled.into(),
        };
        assert_eq!(
            sentence(&policy(None, v1::WhileDisabled::Queue)),
            "disabled after 5d of continuous failure; events wait meanwhile"
        );
        assert_eq!(
            sentence(&policy(Some(7_200), v1::WhileDisabled::Drop)),
            "disabled after 2h of continuous failure; events are dropped meanwhile"
        );
        assert_eq!(sentence(&policy(Some(0), v1::WhileDisabled::Drop)), "never disabled");
    }

    #[test]
    fn health_is_told_in_words() {
        let health = Health::from(v1::SubscriptionHealth {
            state: v1::HealthState::CircuitOpen.into(),
            failing_since: at(1_770_028_200),
            consecutive_failures: 12,
            last_failure_time: at(1_770_028_260),
            last_failure: v1::OutcomeClass::HttpStatus.into(),
            last_failure_status: 503,
            last_failure_detail: "busy".into(),
            next_probe_time: at(1_770_028_300),
            backlog: 7,
            backlog_is_lower_bound: true,
            ..v1::SubscriptionHealth::default()
        });
        let lines = health.details();
        assert_eq!(
            lines[0].1,
            "circuit open: it fails so often that only one attempt at a time probes it; failing continuously since 2026-02-02T10:30:00Z; 12 in a row; next attempt at 2026-02-02T10:31:40Z"
        );
        assert_eq!(lines[2].1, "2026-02-02T10:31:00Z: status 503 (busy)");
        assert_eq!(lines[3].1, "at least 7");
        let json = serde_json::to_value(&health).unwrap();
        assert_eq!((&json["state"], &json["last_failure"]), (&"circuit_open".into(), &"http_status".into()));
        assert_eq!(json.as_object().unwrap().len(), 13);
    }
}
