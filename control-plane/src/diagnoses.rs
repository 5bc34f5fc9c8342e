//! Looks at endpoints through agents: who can be asked, how often, and who waits for which answer.
//!
//! Each session of an agent takes a seat here for as long as it lasts. A handler asks; the session passes the question on
//! and brings the answer back. A look is no job: the schedule knows nothing of it. All of it is bounded: questions that wait
//! for a session, and looks at one subscription's endpoint.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use postrider_domain::id::{AgentId, PoolName, SubscriptionId};
use postrider_domain::pace::{Meter, Pace};
use postrider_proto::agent::Diagnose;
use postrider_proto::diagnosis::{Found, Looked};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::clock::Clock;
use crate::schedule::HolderId;

/// The longest that a look may take: who waits for it gives up soon after, and clients do in ten seconds.
pub const LOOK_WITHIN: Duration = Duration::from_secs(8);
/// How much later the agent's answer may come.
const ANSWER_MARGIN: Duration = Duration::from_secs(1);
/// Questions that wait for a session: it takes them at once unless it is stuck.
const QUEUE: usize = 8;
/// How often one subscription's endpoint is looked at, and how often at once.
const EACH: Duration = Duration::from_secs(10);
const BURST: u32 = 3;
/// Subscriptions that are remembered before it is looked for some that may be forgotten.
const REMEMBERED: usize = 1000;

/// A question on its way to an agent, and who waits for the answer.
#[derive(Debug)]
pub struct Question {
    /// What the agent is asked; its id is the session's to choose.
    pub diagnose: Diagnose,
    /// Who waits.
    pub answer: oneshot::Sender<Found>,
}

/// Who may be asked.
#[derive(Clone, Debug)]
pub struct Whom<'a> {
    /// Pools of whose agents one is asked, in this order.
    pub pools: &'a [PoolName],
    /// Only this agent.
    pub agent: Option<&'a AgentId>,
}

/// Who has looked, and what was seen.
#[derive(Debug)]
pub struct Seen {
    /// The agent.
    pub agent: AgentId,
    /// Its pool.
    pub pool: PoolName,
    /// What it saw.
    pub looked: Looked,
}

/// Why nobody has looked.
#[derive(Debug, thiserror::Error)]
pub enum Unseen {
    /// Nobody is there.
    #[error(
        "no agent of the pool {0} is connected; start one, or look at `postrider agents list --pool {0}`"
    )]
    NoAgent(PoolName),
    /// The agent that was named is not.
    #[error("no connected agent {0} delivers for this subscription; name one of its pool, or none")]
    NotThere(AgentId),
    /// Whoever is there cannot look.
    #[error(
        "the agent {agent}, version {version}, is too old to look at endpoints; install the control plane's version there, or name another agent"
    )]
    TooOld {
        /// Who.
        agent: AgentId,
        /// Its version.
        version: String,
    },
    /// The agent has too many questions.
    #[error("the agent {0} is busy with other looks; ask again in a moment")]
    Busy(AgentId),
    /// The endpoint was looked at too often.
    #[error("this subscription's endpoint was looked at too often")]
    TooOften(Duration),
    /// The agent went away, or did not answer.
    #[error("the agent {0} went away or did not answer in time; ask again, or name another agent")]
    Lost(AgentId),
}

/// See the module.
pub struct Diagnoses {
    clock: Clock,
    pace: Pace,
    seats: Mutex<HashMap<HolderId, Seated>>,
    meters: Mutex<HashMap<SubscriptionId, Meter>>,
}

#[derive(Clone)]
struct Seated {
    who: Who,
    questions: mpsc::Sender<Question>,
}

/// Who has a seat.
#[derive(Clone, Debug)]
pub struct Who {
    /// The agent.
    pub agent: AgentId,
    /// Its pool.
    pub pool: PoolName,
    /// Its version.
    pub version: String,
    /// Whether it can look.
    pub can_look: bool,
}

/// A session's seat, until it is dropped.
pub struct Seat {
    diagnoses: Arc<Diagnoses>,
    holder: HolderId,
}

impl Diagnoses {
    /// Nobody is there yet.
    #[must_use]
    pub fn new(clock: Clock) -> Arc<Self> {
        Arc::new(Self {
            clock,
            pace: Pace::every(EACH, BURST),
            seats: Mutex::default(),
            meters: Mutex::default(),
        })
    }

    /// A session takes its seat; what is asked comes to it.
    #[must_use]
    pub fn sit(self: &Arc<Self>, holder: HolderId, who: Who) -> (Seat, mpsc::Receiver<Question>) {
        let (questions, asked) = mpsc::channel(QUEUE);
        lock(&self.seats).insert(holder, Seated { who, questions });
        (Seat { diagnoses: self.clone(), holder }, asked)
    }

    /// Asks an agent, and waits for what it has seen.
    ///
    /// # Errors
    /// Why nobody has looked.
    pub async fn ask(
        &self,
        subscription: SubscriptionId,
        whom: Whom<'_>,
        diagnose: Diagnose,
    ) -> Result<Seen, Unseen> {
        let Seated { who, questions } = self.choose(&whom)?;
        self.take(subscription)?;
        let (answer, answered) = oneshot::channel();
        let question = Question { diagnose, answer };
        if questions.try_send(question).is_err() {
            return Err(Unseen::Busy(who.agent));
        }
        match timeout(LOOK_WITHIN + ANSWER_MARGIN, answered).await {
            Ok(Ok(Found::Looked(looked))) => Ok(Seen { agent: who.agent, pool: who.pool, looked: *looked }),
            Ok(Ok(Found::NotStarted)) => Err(Unseen::Busy(who.agent)),
            Ok(Err(_)) | Err(_) => Err(Unseen::Lost(who.agent)),
        }
    }

    /// The first of those that may be asked: of the first pool, who can look, the one that came last.
    fn choose(&self, whom: &Whom<'_>) -> Result<Seated, Unseen> {
        let seats = lock(&self.seats);
        let rank = |seated: &Seated| {
            let pool = whom.pools.iter().position(|pool| *pool == seated.who.pool)?;
            whom.agent.is_none_or(|agent| *agent == seated.who.agent).then_some(pool)
        };
        let candidates = seats.iter().filter_map(|(holder, seated)| {
            rank(seated).map(|pool| ((!seated.who.can_look, pool, std::cmp::Reverse(*holder)), seated))
        });
        match candidates.min_by_key(|(order, _)| *order) {
            Some((_, seated)) if seated.who.can_look => Ok(seated.clone()),
            Some((_, Seated { who, .. })) => {
                Err(Unseen::TooOld { agent: who.agent.clone(), version: who.version.clone() })
            }
            None => Err(match whom.agent {
                Some(agent) => Unseen::NotThere(agent.clone()),
                None => Unseen::NoAgent(whom.pools.first().cloned().unwrap_or_else(PoolName::default_pool)),
            }),
        }
    }

    fn take(&self, subscription: SubscriptionId) -> Result<(), Unseen> {
        let now = self.clock.since_start();
        let mut meters = lock(&self.meters);
        if meters.len() >= REMEMBERED {
            meters.retain(|_, meter| !meter.is_idle(now));
        }
        self.pace.take(meters.entry(subscription).or_default(), now).map_err(Unseen::TooOften)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        lock(&self.diagnoses.seats).remove(&self.holder);
    }
}

// A panic elsewhere while a lock was held leaves nothing half done: every change is one call.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use postrider_domain::time::Timestamp;

    fn who(agent: &str, pool: &str, can_look: bool) -> Who {
        let version = "0.0.1".to_owned();
        Who { agent: agent.parse().unwrap(), pool: pool.parse().unwrap(), version, can_look }
    }

    fn chosen(diagnoses: &Diagnoses, pools: &[&str], agent: Option<&str>) -> Result<String, String> {
        let pools: Vec<PoolName> = pools.iter().map(|pool| pool.parse().unwrap()).collect();
        let agent = agent.map(|agent| agent.parse().unwrap());
        let whom = Whom { pools: &pools, agent: agent.as_ref() };
        let chosen = diagnoses.choose(&whom).map(|seated| seated.who.agent.to_string());
        chosen.map_err(|unseen| unseen.to_string())
    }

    #[test]
    fn who_can_look_is_asked_and_who_cannot_is_named() {
        let diagnoses = Diagnoses::new(Clock::start());
        assert!(chosen(&diagnoses, &["edge"], None).unwrap_err().contains("no agent of the pool edge"));
        let (_old, _asked) = diagnoses.sit(HolderId(1), who("old", "edge", false));
        let told = chosen(&diagnoses, &["edge", "spare"], None).unwrap_err();
        assert!(told.contains("the agent old, version 0.0.1, is too old"), "{told}");
        let (_spare, _asked) = diagnoses.sit(HolderId(2), who("spare", "spare", true));
        assert_eq!(chosen(&diagnoses, &["edge", "spare"], None).as_deref(), Ok("spare"));
        let (new, _asked) = diagnoses.sit(HolderId(3), who("new", "edge", true));
        assert_eq!(chosen(&diagnoses, &["edge", "spare"], None).as_deref(), Ok("new"));
        assert_eq!(chosen(&diagnoses, &["edge", "spare"], Some("spare")).as_deref(), Ok("spare"));
        assert!(
            chosen(&diagnoses, &["edge"], Some("spare")).unwrap_err().contains("no connected agent spare")
        );
        drop(new);
        assert!(chosen(&diagnoses, &["edge"], Some("new")).is_err(), "it has left");
    }

    #[test]
    fn an_endpoint_is_looked_at_so_often_and_no_more() {
        let diagnoses = Diagnoses::new(Clock::start());
        let subscription = |number| SubscriptionId::new(Timestamp::default(), number);
        for _ in 0..BURST {
            assert!(diagnoses.take(subscription(1)).is_ok());
        }
        let Err(Unseen::TooOften(wait)) = diagnoses.take(subscription(1)) else { panic!("too often") };
        assert!(wait <= EACH);
        assert!(diagnoses.take(subscription(2)).is_ok(), "another one's is not to blame");
    }
}
