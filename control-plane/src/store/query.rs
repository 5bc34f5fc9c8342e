//! What lists are asked, and where their pages end.

use std::fmt;
use std::str::FromStr;

use postrider_domain::audit;
use postrider_domain::delivery::State;
use postrider_domain::event::EventTypeName;
use postrider_domain::id::{DeliveryId, EventKey, IdError, SubscriptionId, TenantId};
use postrider_domain::time::Timestamp;
use postrider_proto::v1;

use super::DeliveryRow;

/// Which audit records a list wants.
#[derive(Clone, Debug, Default)]
pub struct AuditQuery {
    /// Whose.
    pub tenant: Option<TenantId>,
    /// By whom.
    pub actor: Option<String>,
    /// Of which action.
    pub action: Option<String>,
    /// At or after this.
    pub start: Timestamp,
    /// Before this.
    pub end: Timestamp,
    /// How many at the most.
    pub limit: usize,
    /// Where the last page ended: a row's number.
    pub before: Option<u64>,
}

/// A record in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRow {
    /// Its number in the list that was asked for: the log, or one tenant's records. From 1, without gaps: a tenant's
    /// numbers tell nothing of how many records others have.
    pub number: u64,
    /// The record.
    pub record: audit::Record,
}

impl AuditQuery {
    /// Whether an entry is wanted, of those of its tenant.
    #[must_use]
    pub fn wants(&self, entry: &audit::Entry) -> bool {
        self.actor.as_ref().is_none_or(|actor| *actor == entry.actor)
            && self.action.as_ref().is_none_or(|action| *action == entry.action)
            && (self.start..self.end).contains(&entry.time)
    }
}

/// Which deliveries a list wants.
#[derive(Clone, Debug)]
pub struct DeliveryQuery {
    /// Whose.
    pub tenant: TenantId,
    /// Of which subscription.
    pub subscription: Option<SubscriptionId>,
    /// Of which event.
    pub event: Option<EventKey>,
    /// In which states; empty for all.
    pub states: Vec<v1::DeliveryState>,
    /// Created at or after this.
    pub start: Timestamp,
    /// Created before this.
    pub end: Timestamp,
    /// How many at the most.
    pub limit: usize,
    /// Where the last page ended.
    pub after: Option<DeliveryPlace>,
}

/// What has happened to deliveries.
#[derive(Clone, Debug)]
pub struct ChangeQuery {
    /// Whose.
    pub tenant: TenantId,
    /// Of which subscription.
    pub subscription: Option<SubscriptionId>,
    /// After this position.
    pub after: u64,
    /// Up to this one.
    pub until: u64,
    /// From this place on.
    pub from: ChangePlace,
}

/// A place among all that has happened to a tenant's deliveries: that of a delivery of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangePlace {
    /// The event.
    pub event: EventKey,
    /// How many of its deliveries come before the place.
    pub seen: usize,
}

impl From<EventKey> for ChangePlace {
    fn from(event: EventKey) -> Self {
        Self { event, seen: 0 }
    }
}

/// Something that has happened to a delivery.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The delivery as it stands since, or, when it is `past`, as far as it is known how it stood then.
    pub row: DeliveryRow,
    /// Whether something else has happened to it after that.
    pub past: bool,
}

/// A place in a list of deliveries. Callers hand it back, so a store trusts it with nothing: it narrows what the query
/// finds, and is never a reason to look at rows that the query does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeliveryPlace {
    /// The delivery's event: lists of a tenant go by events.
    pub event: EventKey,
    /// The delivery.
    pub id: DeliveryId,
}

impl fmt::Display for DeliveryPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.event, self.id)
    }
}

impl FromStr for DeliveryPlace {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let (event, id) = text.split_once('.').unwrap_or((text, ""));
        Ok(Self { event: event.parse()?, id: id.parse()? })
    }
}

impl DeliveryQuery {
    /// Whether a delivery in this state is wanted. What a deleted subscription left behind counts as cancelled.
    #[must_use]
    pub fn wants(&self, state: State) -> bool {
        self.states.is_empty() || self.states.contains(&postrider_proto::delivery::write_state(state))
    }
}

/// Which events a list wants.
#[derive(Clone, Debug)]
pub struct EventQuery {
    /// Whose.
    pub tenant: TenantId,
    /// Of which type.
    pub event_type: Option<EventTypeName>,
    /// Accepted at or after this.
    pub start: Timestamp,
    /// Accepted before this.
    pub end: Timestamp,
    /// How many at the most.
    pub limit: usize,
    /// Where the last page ended.
    pub after: Option<EventKey>,
}

/// A page of a list that filters: bounded work, so that it may be short and yet have a successor.
#[derive(Clone, Debug, PartialEq)]
pub struct Page<T, K> {
    /// What was found.
    pub items: Vec<T>,
    /// Where to go on; `None` at the end.
    pub next: Option<K>,
}
