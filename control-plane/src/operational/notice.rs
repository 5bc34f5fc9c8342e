//! What people may want to know, as it is noticed.

use std::time::Duration;

use postrider_domain::id::{AgentId, KeyId, PoolName, SubscriptionId};
use postrider_domain::lane::Backlog;
use postrider_domain::lane::health::View;
use postrider_domain::signing::Scheme;
use postrider_domain::subscription::DisableCause;
use postrider_domain::time::Timestamp;

/// What people may want to know.
#[derive(Debug)]
pub enum Notice {
    /// Something of a subscription.
    Subscription(SubscriptionId, About),
    /// An agent, or a pool with work, is without a stream.
    Offline(Away),
    /// No longer.
    Online(Away),
}

/// What there is to know of a subscription.
#[derive(Debug)]
pub enum About {
    /// Its endpoint has failed continuously for this long.
    Failing(Duration, Box<View>),
    /// It was disabled.
    Disabled {
        /// Why.
        cause: DisableCause,
        /// Why, for people.
        reason: String,
        /// How its endpoint does, when it is that.
        view: Option<Box<View>>,
    },
    /// After a trouble that was told its endpoint answers again; whether it was disabled until now.
    Recovering(Box<View>, bool),
    /// After a trouble that was told its endpoint is well.
    Recovered(Box<View>),
    /// Too much waits for it.
    BacklogGrowing(Backlog),
    /// A retiring key of it will soon sign no more.
    KeyExpiring {
        /// Which key.
        key: KeyId,
        /// By what it signs.
        scheme: Scheme,
        /// Until when.
        ends: Timestamp,
    },
}

/// Who is without a stream.
#[derive(Debug)]
pub struct Away {
    /// Of which pool.
    pub pool: PoolName,
    /// Which agent, and its name for people; nothing when it is the pool that has none.
    pub agent: Option<(AgentId, String)>,
    /// Since when.
    pub since: Timestamp,
    /// How many deliveries wait for the pool, when it is the pool.
    pub waiting: u64,
}
