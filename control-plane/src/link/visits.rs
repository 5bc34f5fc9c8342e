//! How often one agent opens a stream, and how many it has: bounded, so that one that has gone astray costs no more than
//! another. It is counted by what its certificate says, before it has said Hello.

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ahash::{HashMap, HashMapExt as _};
use postrider_domain::id::AgentId;
use postrider_domain::pace::{Meter, Pace};
use postrider_proto::agent::{Reject, RejectCode};

use super::hello::{MAX_STREAMS, temporary};
use crate::clock::Clock;

/// Streams that one agent opens in a second, and in a burst: after a loss all of them come back at once, some twice.
const PER_SECOND: NonZeroU32 = NonZeroU32::new(10).expect("it is not zero");
const BURST: NonZeroU32 = NonZeroU32::new(60).expect("it is not zero");
/// Streams of one agent at once: a new one is opened before the old one is closed.
const AT_ONCE: u32 = 2 * MAX_STREAMS;
/// Agents that are remembered before it is looked for some that may be forgotten.
const REMEMBERED: usize = 1000;
/// When to come back at the earliest.
const RETRY: Duration = Duration::from_secs(1);

/// See the module.
pub struct Visits {
    clock: Clock,
    pace: Pace,
    visitors: Mutex<Visitors>,
}

struct Visitors {
    known: HashMap<AgentId, Visitor>,
    /// With so many it is looked for some that may be forgotten.
    forget_at: usize,
}

#[derive(Default)]
struct Visitor {
    meter: Meter,
    open: u32,
}

/// A stream of an agent, until it is dropped.
pub(super) struct Visit {
    visits: Arc<Visits>,
    agent: AgentId,
}

impl Visits {
    /// Nobody has come yet.
    #[must_use]
    pub fn new(clock: Clock) -> Arc<Self> {
        let visitors = Visitors { known: HashMap::new(), forget_at: REMEMBERED };
        Arc::new(Self { clock, pace: Pace::new(PER_SECOND, BURST), visitors: Mutex::new(visitors) })
    }

    /// An agent opens a stream.
    pub(super) fn begin(self: &Arc<Self>, agent: &AgentId) -> Result<Visit, Reject> {
        let now = self.clock.since_start();
        let mut visitors = self.visitors();
        visitors.forget(now);
        let visitor = visitors.known.entry(agent.clone()).or_default();
        if visitor.open >= AT_ONCE {
            let why = "the agent has too many streams open; run fewer processes with its identity";
            return Err(too_many(why, RETRY));
        }
        let taken = self.pace.take(&mut visitor.meter, now);
        taken.map_err(|wait| too_many("the agent opens streams too often", wait))?;
        visitor.open += 1;
        Ok(Visit { visits: self.clone(), agent: agent.clone() })
    }

    fn visitors(&self) -> MutexGuard<'_, Visitors> {
        self.visitors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Visitors {
    fn forget(&mut self, now: Duration) {
        if self.known.len() >= self.forget_at {
            self.known.retain(|_, visitor| visitor.open > 0 || !visitor.meter.is_idle(now));
            self.forget_at = REMEMBERED.max(2 * self.known.len());
        }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        if let Some(visitor) = self.visits.visitors().known.get_mut(&self.agent) {
            visitor.open -= 1;
        }
    }
}

fn too_many(why: &str, wait: Duration) -> Reject {
    let retry_after_ms = super::session::millis(wait.max(RETRY));
    Reject { retry_after_ms, ..temporary(RejectCode::TooMany, why) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(number: u32) -> AgentId {
        format!("a-{number}").parse().unwrap()
    }

    #[test]
    fn an_agent_that_comes_too_often_is_told_when_to_come_back() {
        let visits = Visits::new(Clock::start());
        for _ in 0..BURST.get() {
            drop(visits.begin(&agent(1)).ok().unwrap());
        }
        let reject = (0..10).find_map(|_| visits.begin(&agent(1)).err()).unwrap();
        assert_eq!(reject.code(), RejectCode::TooMany);
        assert!(!reject.permanent && (1000..2000).contains(&reject.retry_after_ms), "{reject:?}");
        assert!(visits.begin(&agent(2)).is_ok(), "another one is not to blame");
    }

    #[test]
    fn agents_that_are_gone_are_forgotten() {
        let visits = Visits::new(Clock::start());
        let now = visits.clock.since_start();
        let stays = visits.begin(&agent(0)).ok().unwrap();
        for number in 1..2 * u32::try_from(REMEMBERED).unwrap() {
            drop(visits.begin(&agent(number)).ok().unwrap());
        }
        let mut visitors = visits.visitors();
        visitors.forget_at = 0;
        visitors.forget(now + Duration::from_secs(60));
        assert!(visitors.known.len() == 1 && visitors.known.contains_key(&stays.agent));
        drop(visitors);
        drop(stays);
    }

    #[test]
    fn an_agent_has_a_bounded_number_of_streams() {
        let visits = Visits::new(Clock::start());
        let mut open: Vec<Visit> = (0..AT_ONCE).map(|_| visits.begin(&agent(1)).ok().unwrap()).collect();
        let reject = visits.begin(&agent(1)).err().unwrap();
        assert_eq!((reject.code(), reject.permanent), (RejectCode::TooMany, false));
        open.pop();
        assert!(visits.begin(&agent(1)).is_ok());
    }
}
