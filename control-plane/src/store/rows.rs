//! What the store gives back: things as they are stored.

use postrider_domain::access::{Role, Scope};
use postrider_domain::audit;
use postrider_domain::delivery::Delivery;
use postrider_domain::event::{Event, EventTypeName};
use postrider_domain::id::{AgentId, DeliveryId, EventId, OperationId, PoolName, TenantId, TokenId};
use postrider_domain::identity::keys::{KeyRecord, ShownKey};
use postrider_domain::join::Pin;
use postrider_domain::lane::LowWater;
use postrider_domain::lane::health::Trouble;
use postrider_domain::outcome::Attempt;
use postrider_domain::time::Timestamp;
use postrider_domain::token::TokenDigest;
use postrider_proto::v1;

/// A delivery as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct DeliveryRow {
    /// Which one.
    pub id: DeliveryId,
    /// Its state.
    pub delivery: Delivery,
    /// Its latest attempt that has an outcome.
    pub last: Option<Attempt>,
}

/// Pending deliveries of a lane.
#[derive(Clone, Debug, PartialEq)]
pub struct FreshRows {
    /// By number.
    pub rows: Vec<Delivery>,
    /// Every number before this one was looked at.
    pub next: u64,
}

/// Waiting deliveries of a lane.
#[derive(Clone, Debug, PartialEq)]
pub struct DueRows {
    /// By due time.
    pub rows: Vec<Delivery>,
    /// Whether there are no others.
    pub complete: bool,
}

/// How a lane was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneRow {
    /// Where to begin to look.
    pub low_water: LowWater,
    /// One past the last number.
    pub end: u64,
    /// Whether any delivery waits.
    pub waiting: bool,
    /// What is remembered of its endpoint's trouble, if it has one.
    pub trouble: Option<Trouble>,
}

/// An event as stored.
#[derive(Clone, Debug, PartialEq)]
pub struct EventRow {
    /// The event; its data is empty when erased, and in lists.
    pub event: Event,
    /// The size of the data before it was erased.
    pub data_size: u32,
    /// Whether retention has erased the data.
    pub erased: bool,
    /// Its deliveries.
    pub deliveries: Vec<DeliveryId>,
}

impl EventRow {
    /// Whether retention has erased the data.
    #[must_use]
    pub fn is_erased(&self) -> bool {
        self.erased
    }
}

/// What deliveries tell of their event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventHead {
    /// The event's id.
    pub id: EventId,
    /// Its type.
    pub event_type: EventTypeName,
    /// Whether retention has erased its data.
    pub erased: bool,
}

/// What a request id points to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestRow {
    /// The id of what the request made.
    pub result: String,
    /// The digest of the request.
    pub digest: [u8; 16],
    /// When it is forgotten.
    pub expires: Timestamp,
}

/// Names a request: tenant, caller, method, request id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestKey {
    /// In whose things.
    pub tenant: TenantId,
    /// Whose request: what it made, a secret too, is shown again to nobody else.
    pub actor: String,
    /// Which method.
    pub method: &'static str,
    /// The client's id for it.
    pub request_id: String,
}

/// An agent, as last seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentRow {
    /// Who.
    pub id: AgentId,
    /// Its pool.
    pub pool: String,
    /// Its version.
    pub version: String,
    /// The run of its process.
    pub instance: String,
    /// When it connected.
    pub connected_at: Timestamp,
    /// When it was last heard of.
    pub last_seen: Timestamp,
    /// How many streams it had open.
    pub streams: u32,
    /// The hash of its egress policy.
    pub egress_policy_hash: String,
    /// How many jobs it can hold.
    pub max_in_flight: u32,
    /// Since when this run of its process is drained.
    pub drained: Option<Timestamp>,
}

/// A token of the API. A revoked one has no row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRow {
    /// Its id.
    pub id: TokenId,
    /// What is stored of the token itself.
    pub digest: TokenDigest,
    /// For people.
    pub display_name: String,
    /// What it permits.
    pub role: Role,
    /// Whose things it sees.
    pub scope: Scope,
    /// When it ceases to be valid.
    pub expires: Option<Timestamp>,
    /// When it was last used.
    pub last_used: Option<Timestamp>,
    /// The tokens that it descends from, the root first, its parent last. They may be revoked by now.
    pub ancestors: Vec<TokenId>,
}

/// What agents enroll by. A revoked one has no row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinTokenRow {
    /// Its id.
    pub id: TokenId,
    /// What is stored of the token itself.
    pub digest: TokenDigest,
    /// For people.
    pub display_name: String,
    /// The pool of its agents.
    pub pool: PoolName,
    /// How many agents may enroll by it.
    pub max_uses: u32,
    /// How many have.
    pub uses: u32,
    /// When it ceases to be valid.
    pub expires: Timestamp,
}

/// Who an agent is that has enrolled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityRow {
    /// Its id.
    pub agent: AgentId,
    /// Its pool.
    pub pool: PoolName,
    /// For people: what it calls itself.
    pub display_name: String,
    /// The join token that it enrolled by.
    pub join_token: TokenId,
    /// The public key that it enrolled with.
    pub first_key: Pin,
    /// Its present public key.
    pub key: Pin,
    /// The authority of its latest certificate.
    pub authority: Pin,
    /// When it enrolled.
    pub enrolled: Timestamp,
    /// When its latest certificate ends.
    pub certificate_expires: Timestamp,
    /// When it was revoked.
    pub revoked: Option<Timestamp>,
    /// When two processes were last seen with it.
    pub duplicate: Option<Timestamp>,
    /// The public key before the present one.
    pub former_key: Option<Pin>,
    /// Which of the agent's keys the present one is, from 1; 0 when it was not counted.
    pub generation: u64,
    /// When the present key was first used.
    pub first_use: Option<Timestamp>,
}

impl IdentityRow {
    /// The agent's keys, as they are judged.
    #[must_use]
    pub fn keys(&self) -> KeyRecord {
        let newest = ShownKey { key: self.key, generation: self.generation };
        KeyRecord { newest, former: self.former_key, first_use: self.first_use }
    }

    /// The same identity with these keys.
    #[must_use]
    pub fn with_keys(self, keys: KeyRecord) -> Self {
        let KeyRecord { newest, former, first_use } = keys;
        Self { key: newest.key, generation: newest.generation, former_key: former, first_use, ..self }
    }
}

/// An operation, and where it goes on.
#[derive(Clone, Debug, PartialEq)]
pub struct OperationRow {
    /// Which.
    pub id: OperationId,
    /// As it is shown.
    pub operation: v1::Operation,
    /// The place that it has reached, as its kind writes it. Empty: the beginning.
    pub cursor: String,
}

/// What a step of a tenant's deletion has come to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Deletion {
    /// How many rows it has removed.
    pub removed: u64,
    /// Where to go on: the store's own word for it.
    pub place: String,
    /// The share of the whole that is behind.
    pub progress: f64,
    /// Whether nothing is left but the tenant's own row.
    pub finished: bool,
}

/// How far the audit log reaches, by the rows that say so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AuditSpan {
    /// The record before the first one: it and those before it have aged out.
    pub start: audit::Head,
    /// The last record.
    pub end: audit::Head,
    /// The first record that has an authentication code, and the code of that number.
    pub since: Option<(u64, audit::Code)>,
}
