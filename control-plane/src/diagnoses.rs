//! What agents are asked directly, beside their jobs: to look at an endpoint, or to POST a test
//! event. Which agent is asked, how often, and who waits for which answer.
//!
//! Each session of an agent takes a seat here for as long as it lasts. A handler asks; the session passes the question on
//! and brings the answer back. The schedule knows nothing of it: no lane, no health, no retries.
//! All of it is bounded: questions that wait for a session, questions about one subscription's
//! endpoint, and a tenant's test events at once.

mod slots;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ahash::HashMap;
use postrider_domain::id::{AgentId, PoolName, SubscriptionId, TenantId};
use postrider_domain::pace::{Meter, Pace};
use postrider_proto::agent::{Diagnose, Job};
use postrider_proto::diagnosis::{Found, Looked};
use postrider_proto::session::Report;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use self::slots::{Slot, Slots};
use crate::clock::Clock;
use crate::schedule::HolderId;

/// The longest that a look or a test event may take: who waits for it gives up soon after, and
/// clients do in ten seconds.
pub const LOOK_WITHIN: Duration = Duration::from_secs(8);
/// How much later the agent's answer may come.
const ANSWER_MARGIN: Duration = Duration::from_secs(1);
/// Questions that wait for a session: it takes them at once unless it is stuck.
const QUEUE: usize = 8;
/// How often one subscription's endpoint is looked at, and how often at once.
const EACH: Duration = Duration::from_secs(10);
const BURST: u32 = 3;
/// How often test events go to one subscription's endpoint, and how many at once: as fast as a
/// person or a script can wait for the answers, not as fast as a load test.
const POST_EACH: Duration = Duration::from_secs(1);
const POST_BURST: u32 = 60;
/// Test events of one tenant that may be under way: one tenant must not keep an agent from the
/// others' questions.
const POSTS_AT_ONCE: usize = 4;
/// Subscriptions that are remembered before it is looked for some that may be forgotten.
const REMEMBERED: usize = 1000;

/// A question on its way to an agent, and who waits for the answer. Its id is the session's to
/// choose.
#[derive(Debug)]
pub enum Question {
    /// To look at an endpoint.
    Look(Diagnose, oneshot::Sender<Found>),
    /// To POST a test event.
    Post(Box<Job>, oneshot::Sender<Report>),
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

/// Why there is no answer.
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
    /// The agents that are there cannot do it.
    #[error(
        "the agent {agent}, version {version}, is too old to {task}; install the control plane's version there"
    )]
    TooOld {
        /// Who.
        agent: AgentId,
        /// Its version.
        version: String,
        /// What it was asked to do.
        task: Task,
    },
    /// The agent has too many questions.
    #[error("the agent {0} is busy with other looks or test events; ask again in a moment")]
    Busy(AgentId),
    /// The endpoint was looked at too often.
    #[error("too many diagnoses of this subscription's endpoint")]
    TooOften(Duration),
    /// Test events were sent to the endpoint too often.
    #[error("test events were sent to this subscription's endpoint too often")]
    TestedTooOften(Duration),
    /// The tenant has too many test events under way.
    #[error("{POSTS_AT_ONCE} test events of this tenant are in flight; wait until one of them is answered")]
    TooManyTests,
    /// The agent went away, or did not answer.
    #[error("the agent {0} went away or did not answer in time; ask again, or name another agent")]
    Lost(AgentId),
}

impl Unseen {
    /// The same for callers that are confined to a tenant: which agents there are, and of which version, is not theirs to
    /// know.
    #[must_use]
    pub fn for_tenants(&self) -> String {
        match self {
            Self::NoAgent(pool) => {
                format!(
                    "no agent of the pool {pool} is connected; ask the operator of Postrider to start one"
                )
            }
            Self::TooOld { task, .. } => {
                format!(
                    "the agents of the pool are too old to {task}; ask the operator of Postrider to update them"
                )
            }
            Self::Busy(_) => {
                "the pool's agent is busy with other looks or test events; ask again in a moment".to_owned()
            }
            Self::Lost(_) => "the pool's agent went away or did not answer in time; ask again".to_owned(),
            Self::NotThere(_) | Self::TooOften(_) | Self::TestedTooOften(_) | Self::TooManyTests => {
                self.to_string()
            }
        }
    }
}

/// What an agent is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// To look at an endpoint.
    Look,
    /// To POST a test event.
    Post,
}

impl std::fmt::Display for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Look => "look at endpoints",
            Self::Post => "send test events",
        })
    }
}

/// What an agent can do beyond the protocol version.
#[derive(Clone, Copy, Debug, Default)]
pub struct Abilities {
    /// It can look at endpoints.
    pub look: bool,
    /// It can POST test events.
    pub post: bool,
}

impl Abilities {
    fn has(self, task: Task) -> bool {
        match task {
            Task::Look => self.look,
            Task::Post => self.post,
        }
    }
}

/// See the module.
pub struct Diagnoses {
    looks: Paced,
    posts: Paced,
    slots: Arc<Slots>,
    seats: Mutex<HashMap<HolderId, Seated>>,
}

/// How often something may be done at each subscription's endpoint.
struct Paced {
    clock: Clock,
    pace: Pace,
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
    /// What it can do.
    pub abilities: Abilities,
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
        let paced = |each, burst| Paced { clock, pace: Pace::every(each, burst), meters: Mutex::default() };
        Arc::new(Self {
            looks: paced(EACH, BURST),
            posts: paced(POST_EACH, POST_BURST),
            slots: Slots::new(POSTS_AT_ONCE),
            seats: Mutex::default(),
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
        let Seated { who, questions } = self.choose(&whom, Task::Look)?;
        self.looks.take(subscription).map_err(Unseen::TooOften)?;
        let (answer, answered) = oneshot::channel();
        if questions.try_send(Question::Look(diagnose, answer)).is_err() {
            return Err(Unseen::Busy(who.agent));
        }
        match timeout(LOOK_WITHIN + ANSWER_MARGIN, answered).await {
            Ok(Ok(Found::Looked(looked))) => Ok(Seen { agent: who.agent, pool: who.pool, looked: *looked }),
            Ok(Ok(Found::NotStarted)) => Err(Unseen::Busy(who.agent)),
            Ok(Err(_)) | Err(_) => Err(Unseen::Lost(who.agent)),
        }
    }

    /// Finds the agent that is to POST a test event, and takes the tenant's turn.
    ///
    /// # Errors
    /// Why none can now.
    pub fn poster(
        &self,
        tenant: &TenantId,
        subscription: SubscriptionId,
        whom: Whom<'_>,
    ) -> Result<Poster, Unseen> {
        let seated = self.choose(&whom, Task::Post)?;
        let slot = self.slots.take(tenant).ok_or(Unseen::TooManyTests)?;
        self.posts.take(subscription).map_err(Unseen::TestedTooOften)?;
        Ok(Poster { seated, _slot: slot })
    }

    /// The first of those that may be asked: of the first pool, who can do it, the one that came
    /// last.
    fn choose(&self, whom: &Whom<'_>, task: Task) -> Result<Seated, Unseen> {
        let seats = lock(&self.seats);
        let rank = |seated: &Seated| {
            let pool = whom.pools.iter().position(|pool| *pool == seated.who.pool)?;
            whom.agent.is_none_or(|agent| *agent == seated.who.agent).then_some(pool)
        };
        let candidates = seats.iter().filter_map(|(holder, seated)| {
            rank(seated)
                .map(|pool| ((!seated.who.abilities.has(task), pool, std::cmp::Reverse(*holder)), seated))
        });
        match candidates.min_by_key(|(order, _)| *order) {
            Some((_, seated)) if seated.who.abilities.has(task) => Ok(seated.clone()),
            Some((_, Seated { who, .. })) => {
                Err(Unseen::TooOld { agent: who.agent.clone(), version: who.version.clone(), task })
            }
            None => Err(match whom.agent {
                Some(agent) => Unseen::NotThere(agent.clone()),
                None => Unseen::NoAgent(whom.pools.first().cloned().unwrap_or_else(PoolName::default_pool)),
            }),
        }
    }
}

impl Paced {
    fn take(&self, subscription: SubscriptionId) -> Result<(), Duration> {
        let now = self.clock.since_start();
        let mut meters = lock(&self.meters);
        if meters.len() >= REMEMBERED {
            meters.retain(|_, meter| !meter.is_idle(now));
        }
        self.pace.take(meters.entry(subscription).or_default(), now)
    }
}

/// An agent that is about to POST a test event, and the tenant's turn for it.
pub struct Poster {
    seated: Seated,
    _slot: Slot,
}

impl Poster {
    /// The agent.
    #[must_use]
    pub fn agent(&self) -> &AgentId {
        &self.seated.who.agent
    }

    /// The agent's pool.
    #[must_use]
    pub fn pool(&self) -> &PoolName {
        &self.seated.who.pool
    }

    /// Has the agent POST it, and waits for what happened.
    ///
    /// # Errors
    /// Why that is not known, or nothing was sent.
    pub async fn post(self, job: Job) -> Result<Report, Unseen> {
        let Seated { who, questions } = self.seated;
        let (answer, answered) = oneshot::channel();
        if questions.try_send(Question::Post(Box::new(job), answer)).is_err() {
            return Err(Unseen::Busy(who.agent));
        }
        match timeout(LOOK_WITHIN + ANSWER_MARGIN, answered).await {
            Ok(Ok(Report::NotStarted)) => Err(Unseen::Busy(who.agent)),
            Ok(Ok(report)) => Ok(report),
            Ok(Err(_)) | Err(_) => Err(Unseen::Lost(who.agent)),
        }
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

    fn who(agent: &str, pool: &str, look: bool) -> Who {
        let version = "0.0.1".to_owned();
        let abilities = Abilities { look, post: look };
        Who { agent: agent.parse().unwrap(), pool: pool.parse().unwrap(), version, abilities }
    }

    fn chosen(diagnoses: &Diagnoses, pools: &[&str], agent: Option<&str>) -> Result<String, String> {
        let pools: Vec<PoolName> = pools.iter().map(|pool| pool.parse().unwrap()).collect();
        let agent = agent.map(|agent| agent.parse().unwrap());
        let whom = Whom { pools: &pools, agent: agent.as_ref() };
        let chosen = diagnoses.choose(&whom, Task::Look).map(|seated| seated.who.agent.to_string());
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
    fn who_can_only_look_is_not_asked_to_post() {
        let diagnoses = Diagnoses::new(Clock::start());
        let looker = Who { abilities: Abilities { look: true, post: false }, ..who("old", "edge", true) };
        let (_seat, _asked) = diagnoses.sit(HolderId(1), looker);
        let pools = ["edge".parse().unwrap()];
        let whom = Whom { pools: &pools, agent: None };
        assert!(diagnoses.choose(&whom, Task::Look).is_ok());
        let told = diagnoses.choose(&whom, Task::Post).err().unwrap().to_string();
        assert!(told.contains("too old to send test events; install"), "{told}");
    }

    #[test]
    fn an_endpoint_is_looked_at_so_often_and_no_more() {
        let diagnoses = Diagnoses::new(Clock::start());
        let subscription = |number| SubscriptionId::new(Timestamp::default(), number);
        for _ in 0..BURST {
            assert!(diagnoses.looks.take(subscription(1)).is_ok());
        }
        let Err(wait) = diagnoses.looks.take(subscription(1)) else { panic!("too often") };
        assert!(wait <= EACH);
        assert!(diagnoses.looks.take(subscription(2)).is_ok(), "another one's is not to blame");
        assert!(diagnoses.posts.take(subscription(1)).is_ok(), "a test event is no look");
    }

    #[test]
    fn a_tenants_test_events_are_bounded_and_another_tenants_are_not_to_blame() {
        let diagnoses = Diagnoses::new(Clock::start());
        let (_seat, _asked) = diagnoses.sit(HolderId(1), who("a", "edge", true));
        let pools = ["edge".parse().unwrap()];
        let whom = || Whom { pools: &pools, agent: None };
        let of = |tenant: &str, subscription| {
            let subscription = SubscriptionId::new(Timestamp::default(), subscription);
            diagnoses.poster(&tenant.parse().unwrap(), subscription, whom())
        };
        let held: Vec<_> = (0..POSTS_AT_ONCE).map(|_| of("acme", 1).ok().unwrap()).collect();
        assert!(matches!(of("acme", 2), Err(Unseen::TooManyTests)));
        assert!(of("other", 3).is_ok());
        drop(held);
        for _ in 0..POST_BURST - u32::try_from(POSTS_AT_ONCE).unwrap() {
            assert!(of("acme", 1).is_ok(), "each ends before the next begins");
        }
        let Err(Unseen::TestedTooOften(wait)) = of("acme", 1) else { panic!("too often") };
        assert!(wait <= POST_EACH);
        assert!(of("acme", 2).is_ok());
    }
}
