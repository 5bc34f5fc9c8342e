//! How endpoints do, and what is to follow: `postrider.v1.SubscriptionHealth`, `postrider.v1.FailurePolicy`, and what the
//! store keeps of a trouble.

use std::time::Duration;

use postrider_domain::lane::health::{State, Told, Trouble, View};
use postrider_domain::lane::{DEFAULT_DISABLE_AFTER, FailurePolicy, WhileDisabled};
use postrider_domain::time::Timestamp;
use postrider_domain::violation::Violation;

use crate::store::TroubleRecord;
use crate::store::trouble_record::Told as ToldRecord;
use crate::{attempt, time, v1};

/// How an endpoint does, written.
#[must_use]
pub fn write(view: &View) -> v1::SubscriptionHealth {
    let failure = view.last_failure.as_ref();
    v1::SubscriptionHealth {
        state: write_state(view.state).into(),
        failing_since: view.failing_since.map(time::write),
        consecutive_failures: view.failures,
        last_success_time: view.last_success.map(time::write),
        last_failure_time: failure.map(|failure| time::write(failure.time)),
        last_failure: failure.map_or(0, |failure| attempt::write_class(failure.class).into()),
        last_failure_status: failure.and_then(|failure| failure.status).map_or(0, u32::from),
        last_failure_detail: failure.map(|failure| failure.detail.clone()).unwrap_or_default(),
        next_probe_time: view.next_probe.map(time::write),
        disable_time: view.disable_at.map(time::write),
        backlog: view.backlog.count,
        backlog_is_lower_bound: view.backlog.more,
        oldest_pending_time: view.backlog.oldest.map(time::write),
    }
}

fn write_state(state: State) -> v1::HealthState {
    match state {
        State::Unknown => v1::HealthState::Unknown,
        State::Healthy => v1::HealthState::Healthy,
        State::Failing => v1::HealthState::Failing,
        State::CircuitOpen => v1::HealthState::CircuitOpen,
        State::Recovering => v1::HealthState::Recovering,
        State::BackingOff => v1::HealthState::BackingOff,
    }
}

/// A policy, written with all that it has.
#[must_use]
pub fn write_policy(policy: &FailurePolicy) -> v1::FailurePolicy {
    let while_disabled = match policy.while_disabled {
        WhileDisabled::Queue => v1::WhileDisabled::Queue,
        WhileDisabled::Drop => v1::WhileDisabled::Drop,
    };
    v1::FailurePolicy {
        disable_after: Some(time::write_duration(policy.disable_after.unwrap_or_default())),
        while_disabled: while_disabled.into(),
    }
}

/// A policy, read: unset fields take their defaults.
///
/// # Errors
/// Every field that cannot be read. That one is out of range is not found here.
pub fn read_policy(wire: Option<&v1::FailurePolicy>) -> Result<FailurePolicy, Vec<Violation>> {
    let Some(wire) = wire else { return Ok(FailurePolicy::default()) };
    let after = wire.disable_after.as_ref();
    let after = after.map(|after| time::read_duration("failure_policy.disable_after", after));
    let while_disabled = match v1::WhileDisabled::try_from(wire.while_disabled) {
        Ok(v1::WhileDisabled::Unspecified | v1::WhileDisabled::Queue) => Ok(WhileDisabled::Queue),
        Ok(v1::WhileDisabled::Drop) => Ok(WhileDisabled::Drop),
        Err(_) => Err(Violation::new(
            "failure_policy.while_disabled",
            "must be WHILE_DISABLED_QUEUE or WHILE_DISABLED_DROP",
        )),
    };
    match (after.unwrap_or(Ok(DEFAULT_DISABLE_AFTER)), while_disabled) {
        (Ok(after), Ok(while_disabled)) => {
            Ok(FailurePolicy { disable_after: (!after.is_zero()).then_some(after), while_disabled })
        }
        (after, while_disabled) => Err(after.err().into_iter().chain(while_disabled.err()).collect()),
    }
}

/// A trouble, for the store.
#[must_use]
pub fn write_trouble(trouble: &Trouble) -> TroubleRecord {
    TroubleRecord {
        since_ms: trouble.since.map_or(0, Timestamp::as_millis),
        last_ms: trouble.last.as_millis(),
        told: match trouble.told {
            Told::Nothing => None,
            Told::Recovering => Some(ToldRecord::Recovering(true)),
            Told::Failing(told) => Some(ToldRecord::FailingS(told.as_secs())),
            Told::GivenUp => Some(ToldRecord::GivenUp(true)),
        },
    }
}

/// What [`write_trouble`] wrote.
#[must_use]
pub fn read_trouble(record: &TroubleRecord) -> Trouble {
    Trouble {
        since: (record.since_ms != 0).then(|| Timestamp::from_millis(record.since_ms)),
        last: Timestamp::from_millis(record.last_ms),
        told: match record.told {
            None => Told::Nothing,
            Some(ToldRecord::Recovering(_)) => Told::Recovering,
            Some(ToldRecord::FailingS(seconds)) => Told::Failing(Duration::from_secs(seconds)),
            Some(ToldRecord::GivenUp(_)) => Told::GivenUp,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_read_back_and_what_is_unset_takes_its_default() {
        assert_eq!(read_policy(None), Ok(FailurePolicy::default()));
        assert_eq!(read_policy(Some(&v1::FailurePolicy::default())), Ok(FailurePolicy::default()));
        for disable_after in [None, Some(Duration::from_secs(90))] {
            for while_disabled in [WhileDisabled::Queue, WhileDisabled::Drop] {
                let policy = FailurePolicy { disable_after, while_disabled };
                assert_eq!(read_policy(Some(&write_policy(&policy))), Ok(policy));
            }
        }
        let disable_after = Some(prost_types::Duration { seconds: -1, nanos: 0 });
        let wrong = v1::FailurePolicy { disable_after, while_disabled: 9 };
        let violations = read_policy(Some(&wrong)).unwrap_err();
        let fields: Vec<&str> = violations.iter().map(|violation| violation.field.as_str()).collect();
        assert_eq!(fields, ["failure_policy.disable_after", "failure_policy.while_disabled"]);
    }

    #[test]
    fn troubles_read_back() {
        let time = Timestamp::from_millis(1_770_028_200_000);
        for told in [Told::Nothing, Told::Recovering, Told::Failing(Duration::from_secs(60)), Told::GivenUp] {
            for since in [None, Some(time)] {
                let trouble = Trouble { since, last: time + Duration::from_secs(1), told };
                assert_eq!(read_trouble(&write_trouble(&trouble)), trouble);
            }
        }
    }
}
