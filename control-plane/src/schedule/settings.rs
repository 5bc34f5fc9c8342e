//! A subscription as the schedule sees it.

use std::time::Duration;

use postrider_domain::destination::Destination;
use postrider_domain::id::{PoolName, SubscriptionId, TenantId};
use postrider_domain::lane::{FailurePolicy, RateLimit};
use postrider_domain::order::{HeadOfLine, Order};
use postrider_domain::retry;
use postrider_domain::subscription::{DisableCause, State, Subscription};

/// What the schedule needs to know of a subscription.
#[derive(Clone, Debug)]
pub struct LaneSettings {
    /// Which one.
    pub id: SubscriptionId,
    /// Whose: the pool, and its fallback, must allow it.
    pub tenant: TenantId,
    /// Who delivers.
    pub pool: PoolName,
    /// Where its endpoint is.
    pub destination: Destination,
    /// Whether the pool's fallback may.
    pub allow_fallback: bool,
    /// When to try again.
    pub retry: retry::Policy,
    /// How many attempts at once.
    pub max_in_flight: usize,
    /// How fast attempts may follow each other.
    pub rate_limit: Option<RateLimit>,
    /// Which deliveries wait for one another.
    pub order: Order,
    /// Handling of continuous failure.
    pub failure: FailurePolicy,
    /// Whether nothing may be handed out.
    pub held: bool,
    /// How rarely the endpoint is probed, when the subscription is disabled for its failures.
    pub probed_every: Option<Duration>,
    /// An attempt's deadline.
    pub timeout: Duration,
}

impl From<&Subscription> for LaneSettings {
    fn from(subscription: &Subscription) -> Self {
        let held = match subscription.state {
            State::Active | State::Disabled { cause: DisableCause::Failing, .. } => false,
            State::Paused | State::Disabled { cause: DisableCause::Gone, .. } => true,
        };
        Self {
            id: subscription.id,
            tenant: subscription.tenant.clone(),
            pool: subscription.pool.clone(),
            destination: Destination::of(&subscription.url),
            retry: retry::Policy {
                endless: subscription.order != Order::None && subscription.head_of_line == HeadOfLine::Block,
                ..subscription.retry.clone()
            },
            allow_fallback: subscription.allow_fallback,
            max_in_flight: subscription.max_in_flight as usize,
            rate_limit: subscription.rate_limit,
            order: subscription.order,
            failure: subscription.failure,
            held,
            probed_every: subscription.probed_every(),
            timeout: subscription.timeout,
        }
    }
}
