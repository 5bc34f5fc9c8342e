//! Audit records of what agents do wrong: at most one a minute for each agent and reason, with a count of the others.
//! An agent that does it a thousand times a second must not fill the audit log, which is kept for good.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ahash::HashMap;
use postrider_domain::audit::Entry;
use postrider_domain::id::AgentId;
use postrider_domain::time::Timestamp;

/// The time between two records of one agent for one reason.
const EVERY: Duration = Duration::from_secs(60);

/// See the [module](self).
#[derive(Default)]
pub(super) struct Alarms(Mutex<HashMap<(AgentId, &'static str), Noted>>);

/// What was noted of one agent for one reason.
struct Noted {
    /// When the last record was written.
    written: Timestamp,
    /// How often it has happened since.
    since: u64,
    /// The latest of those.
    latest: Entry,
}

impl Noted {
    /// Whether a record may be written. A clock that was set back holds nothing up.
    fn is_due(&self, now: Timestamp) -> bool {
        now < self.written || self.written + EVERY <= now
    }
}

impl Alarms {
    /// Counts what an entry says. Returns the entry if it is to be written now.
    pub(super) fn note(&self, agent: &AgentId, reason: &'static str, entry: Entry) -> Option<Entry> {
        let mut all = self.lock();
        let Some(noted) = all.get_mut(&(agent.clone(), reason)) else {
            let noted = Noted { written: entry.time, since: 0, latest: entry.clone() };
            all.insert((agent.clone(), reason), noted);
            return Some(entry);
        };
        noted.since += 1;
        noted.latest = entry;
        noted.is_due(noted.latest.time).then(|| write(noted))
    }

    /// The entries of what has happened since the last records, where a minute is over.
    pub(super) fn due(&self, now: Timestamp) -> Vec<Entry> {
        let mut all = self.lock();
        all.retain(|_, noted| noted.since > 0 || !noted.is_due(now));
        let due = all.values_mut().filter(|noted| noted.since > 0 && noted.is_due(now));
        due.map(|noted| {
            let entry = write(noted);
            noted.written = now;
            entry
        })
        .collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(AgentId, &'static str), Noted>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The latest entry with the count of those that it stands for.
fn write(noted: &mut Noted) -> Entry {
    let count = std::mem::take(&mut noted.since);
    noted.written = noted.latest.time;
    let detail = match count {
        1 => noted.latest.detail.clone(),
        count => format!("{} ({count} times since the last record)", noted.latest.detail),
    };
    Entry { detail, ..noted.latest.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(1_770_028_200_000) + Duration::from_secs(seconds)
    }

    fn entry(seconds: u64) -> Entry {
        Entry { detail: "wrong".into(), ..Entry::by_postrider("RejectAgent", "a", at(seconds)) }
    }

    #[test]
    fn one_agent_and_reason_has_a_record_a_minute_with_a_count() {
        let (alarms, agent, other) = (Alarms::default(), "a-1".parse().unwrap(), "a-2".parse().unwrap());
        let noted = |agent: &AgentId, reason, seconds| {
            alarms.note(agent, reason, entry(seconds)).map(|entry| entry.detail)
        };
        assert_eq!(noted(&agent, "mismatch", 0).as_deref(), Some("wrong"));
        for second in 1..60 {
            assert_eq!(noted(&agent, "mismatch", second), None, "{second}");
        }
        assert_eq!(noted(&agent, "trespass", 5).as_deref(), Some("wrong"), "another reason");
        assert_eq!(noted(&other, "mismatch", 5).as_deref(), Some("wrong"), "another agent");
        assert_eq!(noted(&agent, "mismatch", 60).as_deref(), Some("wrong (60 times since the last record)"));
        assert_eq!(noted(&agent, "mismatch", 120).as_deref(), Some("wrong"));
    }

    #[test]
    fn what_was_held_back_is_written_when_the_minute_is_over_and_nothing_is_kept_for_good() {
        let (alarms, agent) = (Alarms::default(), "a-1".parse().unwrap());
        assert!(alarms.note(&agent, "mismatch", entry(0)).is_some());
        (1..4).for_each(|second| assert!(alarms.note(&agent, "mismatch", entry(second)).is_none()));
        assert!(alarms.due(at(59)).is_empty());
        let [due] = &alarms.due(at(60))[..] else { panic!("one record") };
        assert_eq!((due.detail.as_str(), due.time), ("wrong (3 times since the last record)", at(3)));
        assert!(alarms.due(at(61)).is_empty());
        assert!(alarms.note(&agent, "mismatch", entry(62)).is_none(), "a minute after the last record");
        assert_eq!(alarms.due(at(120)).len(), 1);
        assert!(alarms.due(at(180)).is_empty() && alarms.lock().is_empty());
    }

    #[test]
    fn a_clock_that_was_set_back_holds_nothing_up() {
        let (alarms, agent) = (Alarms::default(), "a-1".parse().unwrap());
        assert!(alarms.note(&agent, "mismatch", entry(1000)).is_some());
        assert!(alarms.note(&agent, "mismatch", entry(5)).is_some());
    }
}
