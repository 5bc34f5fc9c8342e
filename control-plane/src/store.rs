//! What the control plane remembers: a handful of atomic methods, whatever database is behind them.
//!
//! A method is one atomic write or one consistent read. A read ends when its caller no longer waits
//! for it, and pages of lists end early, with a successor, when they are large: no list holds the
//! data of events. The methods that accept or change something return when it is on disk;
//! [`Store::settle`] too, but it may wait a little for company, since nothing waits for it. Time
//! comes in with the values: no store reads a clock. Rows, keys and transactions never leave the
//! modules below this one.
//!
//! Methods that somebody can be asked about later take an audit entry, and write its record with the change or not at all.
//!
//! Every implementation passes the conformance suite in `control-plane/tests/store.rs`.

pub mod backup;
mod digest;
mod journal;
mod pool;
mod query;
mod rows;
mod secrets;
mod sled;
mod space;

use std::num::NonZeroU64;

use async_trait::async_trait;
use postrider_domain::audit;
use postrider_domain::delivery::Delivery;
use postrider_domain::event::{Event, EventTypeName};
use postrider_domain::id::{
    AgentId, DataKeyId, DeliveryId, EventId, EventKey, OperationId, PoolName, SubscriptionId, TenantId,
    TokenId,
};
use postrider_domain::join::Pin;
use postrider_domain::lane::LowWater;
use postrider_domain::lane::health::Trouble;
use postrider_domain::outcome::Attempt;
use postrider_domain::time::Timestamp;
use postrider_proto::v1;

pub use self::backup::BackupParts;
pub use self::pool::PoolRow;
pub use self::query::{
    AuditQuery, AuditRow, Change, ChangePlace, ChangeQuery, DeliveryPlace, DeliveryQuery, EventQuery, Page,
};
pub use self::rows::{
    AgentRow, AuditSpan, Deletion, DeliveryRow, DueRows, EventHead, EventRow, FreshRows, IdentityRow,
    JoinTokenRow, LaneRow, OperationRow, RequestKey, RequestRow, TokenRow,
};
pub use self::secrets::{AuthorityRow, DataKeyRow, KeyUsesRow, SigningKeyRow, SubscriptionRow};
pub use self::sled::{Checked, Options, Restored, SledStore, check, restore};

#[cfg(test)]
pub(crate) use self::sled::age;

/// The store's folder in a data directory.
pub const STORE: &str = "store";

/// What can go wrong below every method.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk is full, or nearly.
    #[error(
        "the store's disk is full: {0}. Free some space or enlarge the disk: events are accepted again within seconds, \
         without a restart"
    )]
    Full(String),
    /// The store cannot be read or written now.
    #[error("the store is not available: {0}")]
    Unavailable(String),
    /// Another process has the store open.
    #[error("{0} is open in another process; stop that one, or choose another data directory")]
    Busy(String),
    /// What is in the store is not what was written.
    #[error("the store is damaged at {place}: {problem}; restore the latest backup (postrider restore)")]
    Damaged {
        /// Where.
        place: String,
        /// How.
        problem: String,
    },
    /// Something that was acknowledged is gone.
    #[error(
        "the store is damaged: {0}. Keep a copy of the data directory, and restore the latest backup into a new one \
         (postrider restore)"
    )]
    Lost(String),
    /// The store was written by another version.
    #[error("the store has schema version {found}, this program knows {known}; {advice}")]
    Version {
        /// In the store.
        found: u64,
        /// In the program.
        known: u64,
        /// What to do.
        advice: &'static str,
    },
    /// A tenant is being deleted: nothing of it is written any more.
    #[error("the tenant '{0}' is being deleted")]
    Deleting(TenantId),
    /// A data key is to be removed, and something needs it.
    #[error("{0} stays: {1} is still sealed with it")]
    InUse(DataKeyId, String),
}

/// An event to be accepted, with all that it is owed to.
#[derive(Clone, Debug)]
pub struct Accept {
    /// The event.
    pub event: Event,
    /// Whether its id is the client's choice, and so must be unique.
    pub client_chosen: bool,
    /// The digest of the idempotency key, if there was one.
    pub idempotency: Option<[u8; 16]>,
    /// The digest of what the client sent.
    pub content: [u8; 16],
    /// The subscriptions that it is owed to.
    pub subscriptions: Vec<SubscriptionId>,
    /// What the tenant's stored events may count for.
    pub max_stored: Option<NonZeroU64>,
}

/// An event that is on disk.
#[derive(Clone, Debug, PartialEq)]
pub struct Accepted {
    /// The event's key: of the first one, when this is a duplicate.
    pub key: EventKey,
    /// The event's id.
    pub id: EventId,
    /// Whether it had been accepted before.
    pub duplicate: bool,
    /// Its deliveries.
    pub deliveries: Vec<DeliveryId>,
}

/// Why an event was not accepted: the store has another one under the same name, or no room for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// The idempotency key was used with other content.
    IdempotencyKey,
    /// The client-chosen id was used with other content.
    EventId,
    /// With it the tenant's stored events would count for more than they may.
    StorageUsed {
        /// What they count for.
        stored: u64,
        /// What they may count for.
        max: u64,
    },
    /// The tenant is being deleted.
    TenantDeleting,
}

/// The new state of a delivery, to be written.
#[derive(Clone, Debug)]
pub struct Settle {
    /// Which one.
    pub id: DeliveryId,
    /// When it was due until now, if it waited.
    pub was_due: Option<Timestamp>,
    /// What it becomes.
    pub delivery: Delivery,
    /// The attempt that has just ended, or, when a delivery that had ended is retried, the one that ended it.
    pub attempt: Option<Attempt>,
}

/// Several new states, and how far lanes are settled after them: one atomic write.
#[derive(Clone, Debug, Default)]
pub struct Settlement {
    /// The new states.
    pub deliveries: Vec<Settle>,
    /// Below this number every delivery of the lane has ended or waits.
    pub low_water: Vec<(SubscriptionId, LowWater)>,
    /// What is to be remembered of endpoints' troubles; nothing of those that are over.
    pub troubles: Vec<(SubscriptionId, Option<Trouble>)>,
    /// What the audit log is told: who wanted some of it.
    pub audit: Vec<audit::Entry>,
    /// Where the new states are in the order of all that happens: grows from one settlement to the next.
    pub position: u64,
}

/// How old things get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Idempotency keys of events accepted before this are forgotten.
    pub idempotency: Timestamp,
    /// Data of events accepted before this is erased when all their deliveries are delivered.
    pub delivered_data: Timestamp,
    /// Events accepted before this are removed with their history when all their deliveries have ended.
    pub events: Timestamp,
    /// Audit records of before this are removed. `None`: none are.
    pub audit: Option<Timestamp>,
    /// The time now, for rows that know when they expire.
    pub now: Timestamp,
}

/// The methods. See the module for what they promise.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The epoch of this opening: greater than that of every earlier one.
    fn epoch(&self) -> u64;
    /// The last epoch of before the store was restored from a backup: nothing that was done in it or earlier is known here. 0: it
    /// never was.
    fn fence(&self) -> u64;

    /// Writes a row of no meaning as any other is written: whether the store can be written, and how long that takes.
    async fn beat(&self) -> Result<(), StoreError>;
    /// Returns when the store cannot go on in this process, and why.
    async fn failed(&self) -> String {
        std::future::pending().await
    }
    /// Bytes that the store takes on disk.
    async fn size(&self) -> Result<u64, StoreError>;

    /// Accepts events with all their deliveries, durably: one atomic write for all of them.
    async fn accept(&self, batch: Vec<Accept>) -> Result<Vec<Result<Accepted, Conflict>>, StoreError>;
    /// Writes the new states of deliveries.
    async fn settle(&self, settlement: Settlement) -> Result<(), StoreError>;
    /// Pending deliveries of a lane with numbers from `from` on. It looks at a bounded number of rows.
    async fn fresh(&self, lane: SubscriptionId, from: u64, limit: usize) -> Result<FreshRows, StoreError>;
    /// Pending and waiting deliveries of a lane with numbers from `from` on. It looks at a bounded number of rows.
    async fn open(&self, lane: SubscriptionId, from: u64, limit: usize) -> Result<FreshRows, StoreError>;
    /// The waiting deliveries of a lane that are due first.
    async fn due(&self, lane: SubscriptionId, limit: usize) -> Result<DueRows, StoreError>;
    /// How a lane was left.
    async fn lane(&self, lane: SubscriptionId) -> Result<LaneRow, StoreError>;
    /// One delivery, whosever it is.
    async fn delivery(&self, id: DeliveryId) -> Result<Option<DeliveryRow>, StoreError>;
    /// One delivery, if its event is this tenant's. Another's delivery takes the same reads as one that never was.
    async fn delivery_of(&self, tenant: &TenantId, id: DeliveryId)
    -> Result<Option<DeliveryRow>, StoreError>;
    /// The last attempts of a delivery that have an outcome, oldest first.
    async fn attempts(&self, id: DeliveryId) -> Result<Vec<Attempt>, StoreError>;
    /// The greatest position that was ever settled at; 0 for none.
    async fn last_position(&self) -> Result<u64, StoreError>;
    /// What has happened to a tenant's deliveries between two positions, by event, the oldest first.
    async fn changes(&self, query: ChangeQuery) -> Result<Page<Change, ChangePlace>, StoreError>;
    /// A page of deliveries, newest first.
    async fn deliveries(&self, query: DeliveryQuery) -> Result<Page<DeliveryRow, DeliveryPlace>, StoreError>;

    /// Events by key; `None` where there is none (any more).
    async fn events(&self, keys: Vec<(TenantId, EventKey)>) -> Result<Vec<Option<EventRow>>, StoreError>;
    /// What deliveries tell of their events, by key; `None` where there is none (any more).
    async fn event_heads(
        &self,
        tenant: &TenantId,
        keys: Vec<EventKey>,
    ) -> Result<Vec<Option<EventHead>>, StoreError>;
    /// The key of an event that a client named.
    async fn event_key(&self, tenant: &TenantId, id: &EventId) -> Result<Option<EventKey>, StoreError>;
    /// A page of events without their data, newest first.
    async fn list_events(&self, query: EventQuery) -> Result<Page<EventRow, EventKey>, StoreError>;

    /// A tenant's events without their data from this one on that were accepted before `end`,
    /// oldest first.
    async fn events_from(
        &self,
        tenant: &TenantId,
        from: EventKey,
        end: Timestamp,
        limit: usize,
    ) -> Result<Page<EventRow, EventKey>, StoreError>;

    /// Writes a tenant.
    async fn put_tenant(&self, tenant: v1::Tenant, audit: audit::Entry) -> Result<(), StoreError>;
    /// One tenant.
    async fn tenant(&self, id: &TenantId) -> Result<Option<v1::Tenant>, StoreError>;
    /// Tenants by id, after this one.
    async fn tenants(
        &self,
        after: Option<TenantId>,
        limit: usize,
    ) -> Result<Page<v1::Tenant, TenantId>, StoreError>;
    /// What the stored events of each of these tenants count for ([`postrider_domain::quota`]).
    async fn stored_bytes(&self, tenants: Vec<TenantId>) -> Result<Vec<u64>, StoreError>;
    /// Begins to delete a tenant: writes its row, which says so, and the operation, and removes these tokens. From then on
    /// nothing of the tenant is written: events are [`Conflict::TenantDeleting`], other methods [`StoreError::Deleting`], and
    /// new states of deliveries that are removed are left out.
    async fn begin_tenant_deletion(
        &self,
        tenant: v1::Tenant,
        operation: &OperationRow,
        tokens: &[TokenId],
        audit: audit::Entry,
    ) -> Result<(), StoreError>;
    /// Removes a bounded number of rows of a tenant that is being deleted, from a place on; the empty one is the beginning.
    async fn delete_of_tenant(&self, tenant: &TenantId, place: &str) -> Result<Deletion, StoreError>;
    /// Removes the row of a tenant of which nothing is left, and writes that the operation is done.
    /// Of its operations, those that have deleted tenants of its name are left.
    async fn finish_tenant_deletion(
        &self,
        tenant: &TenantId,
        operation: &OperationRow,
        audit: audit::Entry,
    ) -> Result<(), StoreError>;

    /// Writes an event type.
    async fn put_event_type(&self, event_type: v1::EventType, audit: audit::Entry) -> Result<(), StoreError>;
    /// One event type.
    async fn event_type(
        &self,
        tenant: &TenantId,
        name: &EventTypeName,
    ) -> Result<Option<v1::EventType>, StoreError>;
    /// Event types by name, after this one.
    async fn event_types(
        &self,
        tenant: &TenantId,
        after: Option<EventTypeName>,
        limit: usize,
    ) -> Result<Page<v1::EventType, EventTypeName>, StoreError>;
    /// Removes an event type.
    async fn delete_event_type(
        &self,
        tenant: &TenantId,
        name: &EventTypeName,
        audit: audit::Entry,
    ) -> Result<(), StoreError>;

    /// Writes a subscription with its keys, together with what the request that changed it points to.
    async fn put_subscription(
        &self,
        row: &SubscriptionRow,
        request: Option<(RequestKey, RequestRow)>,
        audit: audit::Entry,
    ) -> Result<(), StoreError>;
    /// Every subscription, deleted ones included, after this one.
    async fn subscriptions(
        &self,
        after: Option<SubscriptionId>,
        limit: usize,
    ) -> Result<Vec<SubscriptionRow>, StoreError>;

    /// Writes subscriptions that are there, with the same values sealed anew: one atomic write.
    async fn reseal_subscriptions(&self, rows: Vec<SubscriptionRow>) -> Result<(), StoreError>;
    /// The same for authorities.
    async fn reseal_authorities(&self, rows: Vec<AuthorityRow>) -> Result<(), StoreError>;

    /// Writes a new data key.
    async fn put_data_key(&self, row: &DataKeyRow, audit: audit::Entry) -> Result<(), StoreError>;
    /// Removes data keys, leaving no trace of them in what the store is made of: whoever copies it afterwards has no
    /// use for the key-encryption keys that wrapped them. Removes none when anything is still sealed with one of them.
    async fn remove_data_keys(&self, ids: Vec<DataKeyId>, audit: audit::Entry) -> Result<(), StoreError>;
    /// Every data key, oldest first.
    async fn data_keys(&self) -> Result<Vec<DataKeyRow>, StoreError>;

    /// Writes what a request points to.
    async fn put_request(&self, key: RequestKey, row: RequestRow) -> Result<(), StoreError>;
    /// What a request points to.
    async fn request(&self, key: &RequestKey) -> Result<Option<RequestRow>, StoreError>;

    /// Notes how signing keys were used: replaces the rows of these subscriptions.
    async fn put_key_uses(&self, rows: &[KeyUsesRow]) -> Result<(), StoreError>;
    /// How signing keys were used.
    async fn key_uses(&self) -> Result<Vec<KeyUsesRow>, StoreError>;

    /// Writes a new token.
    async fn put_token(&self, row: &TokenRow, audit: audit::Entry) -> Result<(), StoreError>;
    /// Writes the first admin's token, and remembers for good that it was one.
    async fn put_bootstrap_token(&self, row: &TokenRow, audit: audit::Entry) -> Result<(), StoreError>;
    /// Every token that ever was the first admin's, revoked or not.
    async fn bootstrap_tokens(&self) -> Result<Vec<TokenId>, StoreError>;
    /// Notes when tokens were last used.
    async fn put_token_uses(&self, uses: Vec<(TokenId, Timestamp)>) -> Result<(), StoreError>;
    /// Removes a token.
    async fn delete_token(&self, id: TokenId, audit: audit::Entry) -> Result<(), StoreError>;
    /// Every token, by id.
    async fn tokens(&self) -> Result<Vec<TokenRow>, StoreError>;

    /// Writes a join token.
    async fn put_join_token(&self, row: &JoinTokenRow, audit: audit::Entry) -> Result<(), StoreError>;
    /// Removes a join token; without an entry when it is only too old.
    async fn delete_join_token(&self, id: TokenId, audit: Option<audit::Entry>) -> Result<(), StoreError>;
    /// Every join token, by id.
    async fn join_tokens(&self) -> Result<Vec<JoinTokenRow>, StoreError>;
    /// Writes an agent's identity, together with the join token that it has just used. Without an entry when only the
    /// first use of its key is noted.
    async fn put_identity(
        &self,
        row: &IdentityRow,
        used: Option<&JoinTokenRow>,
        audit: Option<audit::Entry>,
    ) -> Result<(), StoreError>;
    /// Forgets an identity that nobody can use any more.
    async fn delete_identity(&self, agent: &AgentId) -> Result<(), StoreError>;
    /// Every identity, by agent.
    async fn identities(&self) -> Result<Vec<IdentityRow>, StoreError>;
    /// Writes authorities together: a new one, and those that it replaces.
    async fn put_authorities(&self, rows: &[AuthorityRow], audit: audit::Entry) -> Result<(), StoreError>;
    /// Removes an authority that is trusted no more.
    async fn delete_authority(&self, pin: Pin, audit: audit::Entry) -> Result<(), StoreError>;
    /// Every authority.
    async fn authorities(&self) -> Result<Vec<AuthorityRow>, StoreError>;

    /// Writes an audit record of what changes no row: a secret is shown, a delivery is retried.
    async fn put_audit_entry(&self, entry: audit::Entry) -> Result<(), StoreError>;
    /// A page of audit records, newest first.
    async fn audit_records(&self, query: AuditQuery) -> Result<Page<AuditRow, u64>, StoreError>;
    /// The audit records after this number, in order.
    async fn audit_records_after(
        &self,
        sequence: u64,
        limit: usize,
    ) -> Result<Vec<audit::Record>, StoreError>;
    /// From now on audit records carry authentication codes of this key. Since when they do is remembered; a log that has
    /// records without is told.
    async fn authenticate_audit(&self, key: audit::AuditKey, now: Timestamp) -> Result<(), StoreError>;
    /// How far the audit log reaches.
    async fn audit_span(&self) -> Result<AuditSpan, StoreError>;

    /// Writes an operation; without an entry when only it has gone on.
    async fn put_operation(&self, row: &OperationRow, audit: Option<audit::Entry>) -> Result<(), StoreError>;
    /// Forgets operations.
    async fn delete_operations(&self, operations: Vec<(TenantId, OperationId)>) -> Result<(), StoreError>;
    /// Forgets the oldest operations of a tenant that have ended, so that at most `keep` are left
    /// beside those that have not: a bounded number of them. Returns how many it has forgotten.
    async fn trim_operations(&self, tenant: &TenantId, keep: usize) -> Result<usize, StoreError>;
    /// One operation.
    async fn operation(&self, id: OperationId) -> Result<Option<OperationRow>, StoreError>;
    /// Operations of all tenants by id, so by age, after this one.
    async fn operations(
        &self,
        after: Option<OperationId>,
        limit: usize,
    ) -> Result<Page<OperationRow, OperationId>, StoreError>;
    /// A tenant's operations before this one, newest first.
    async fn operations_of(
        &self,
        tenant: &TenantId,
        before: Option<OperationId>,
        limit: usize,
    ) -> Result<Page<OperationRow, OperationId>, StoreError>;

    /// Writes a pool.
    async fn put_pool(&self, row: &PoolRow, audit: audit::Entry) -> Result<(), StoreError>;
    /// Removes a pool.
    async fn delete_pool(&self, name: &PoolName, audit: audit::Entry) -> Result<(), StoreError>;
    /// Every pool that was created, by name.
    async fn pools(&self) -> Result<Vec<PoolRow>, StoreError>;
    /// Whether pools have lists of tenants. They have not in a store that an older program made, until
    /// [`Store::set_pools_have_tenants`].
    async fn pools_have_tenants(&self) -> Result<bool, StoreError>;
    /// Notes that all pools have their lists of tenants. Programs that know of none do not open the store from then on.
    async fn set_pools_have_tenants(&self) -> Result<(), StoreError>;

    /// Writes what is known of an agent.
    async fn put_agent(&self, agent: &AgentRow) -> Result<(), StoreError>;
    /// Every agent, by id.
    async fn agents(&self) -> Result<Vec<AgentRow>, StoreError>;
    /// Forgets an agent.
    async fn delete_agent(&self, id: &AgentId) -> Result<(), StoreError>;

    /// Removes a bounded number of things that are too old; whether it may find more at once.
    async fn age_out(&self, retention: Retention) -> Result<bool, StoreError>;
    /// Begins a backup at this time: the bytes of one file, as they come. It holds the store as it is near the end, with all that was
    /// acknowledged until then. Nobody waits for whoever takes it.
    async fn backup(&self, now: Timestamp) -> Result<BackupParts, StoreError>;
    /// Bytes on disk.
    async fn size_on_disk(&self) -> Result<u64, StoreError>;
    /// Writes what is buffered. Called once, last.
    async fn close(&self) -> Result<(), StoreError>;
}
