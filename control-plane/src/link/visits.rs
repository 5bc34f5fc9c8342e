//! How often one agent opens a stream, and how many it has: bounded, so that one that has gone astray costs no more than
//! another. It is counted by what its certificate says, before it has said Hello.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use postrider_domain::id::AgentId;
use postrider_proto::agent::{Reject, RejectCode};

use super::hello::{MAX_STREAMS, temporary};

/// Streams that one agent opens in a second, and in a burst: after a loss all of them come back at once, some twice.
const PER_SECOND: NonZeroU32 = NonZeroU32::new(10).expect("it is not zero");
const BURST: NonZeroU32 = NonZeroU32::new(60).expect("it is not zero");
/// Streams of one agent at once: a new one is opened before the old one is closed.
const AT_ONCE: u32 = 2 * MAX_STREAMS;
/// Agents that are remembered at the least.
const REMEMBERED: usize = 10_000;
/// When to come back at the earliest.
const RETRY: Duration = Duration::from_secs(1);

/// See the [module](self).
pub struct Visits {
    pace: DefaultKeyedRateLimiter<AgentId>,
    open: Mutex<HashMap<AgentId, u32>>,
}

/// A stream of an agent, until it is dropped.
pub(super) struct Visit {
    visits: Arc<Visits>,
    agent: AgentId,
}

impl Visits {
    /// Nobody has come yet.
    #[must_use]
    pub fn new() -> Arc<Self> {
        let quota = Quota::per_second(PER_SECOND).allow_burst(BURST);
        Arc::new(Self { pace: RateLimiter::keyed(quota), open: Mutex::default() })
    }

    /// An agent opens a stream.
    pub(super) fn begin(self: &Arc<Self>, agent: &AgentId) -> Result<Visit, Reject> {
        if self.pace.len() > REMEMBERED {
            self.pace.retain_recent();
        }
        if let Err(later) = self.pace.check_key(agent) {
            let wait = later.wait_time_from(DefaultClock::default().now());
            return Err(too_many("the agent opens streams too often", wait));
        }
        let mut all = self.open();
        let open = all.entry(agent.clone()).or_default();
        if *open >= AT_ONCE {
            return Err(too_many(
                "the agent has too many streams open; run fewer processes with its identity",
                RETRY,
            ));
        }
        *open += 1;
        Ok(Visit { visits: self.clone(), agent: agent.clone() })
    }

    fn open(&self) -> MutexGuard<'_, HashMap<AgentId, u32>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let mut all = self.visits.open();
        if let Some(open) = all.get_mut(&self.agent) {
            *open -= 1;
            if *open == 0 {
                all.remove(&self.agent);
            }
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
        let visits = Visits::new();
        for _ in 0..BURST.get() {
            drop(visits.begin(&agent(1)).ok().unwrap());
        }
        let reject = (0..10).find_map(|_| visits.begin(&agent(1)).err()).unwrap();
        assert_eq!(reject.code(), RejectCode::TooMany);
        assert!(!reject.permanent && (1000..2000).contains(&reject.retry_after_ms), "{reject:?}");
        assert!(visits.begin(&agent(2)).is_ok(), "another one is not to blame");
        assert!(visits.open().is_empty());
    }

    #[test]
    fn an_agent_has_a_bounded_number_of_streams() {
        let visits = Visits::new();
        let mut open: Vec<Visit> = (0..AT_ONCE).map(|_| visits.begin(&agent(1)).ok().unwrap()).collect();
        let reject = visits.begin(&agent(1)).err().unwrap();
        assert_eq!((reject.code(), reject.permanent), (RejectCode::TooMany, false));
        open.pop();
        assert!(visits.begin(&agent(1)).is_ok());
    }
}
