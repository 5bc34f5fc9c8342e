//! A store in front of another one.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use postrider_control_plane::store::{
    Accept, Accepted, AgentRow, AuditQuery, AuditRow, AuditSpan, AuthorityRow, BackupParts, Change,
    ChangePlace, ChangeQuery, Conflict, DataKeyRow, Deletion, DeliveryPlace, DeliveryQuery, DeliveryRow,
    DueRows, EventHead, EventQuery, EventRow, FreshRows, IdentityRow, JoinTokenRow, KeyUsesRow, LaneRow,
    OperationRow, Page, PoolRow, RequestKey, RequestRow, Retention, Settlement, Store, StoreError,
    SubscriptionRow, TokenRow,
};
use postrider_domain::audit::{AuditKey, Entry, Record};
use postrider_domain::event::EventTypeName;
use postrider_domain::id::{
    AgentId, DataKeyId, DeliveryId, EventId, EventKey, OperationId, PoolName, SubscriptionId, TenantId,
    TokenId,
};
use postrider_domain::join::Pin;
use postrider_domain::outcome::Attempt;
use postrider_domain::time::Timestamp;
use postrider_proto::v1;
use tokio::sync::Semaphore;

/// Says which methods were used, and lets them through, or not.
pub(crate) struct Watched {
    inner: Arc<dyn Store>,
    seen: Mutex<Vec<&'static str>>,
    failing: Mutex<Vec<&'static str>>,
    panicking: Mutex<Vec<&'static str>>,
    /// One permit lets a method go that is held.
    pub(crate) held: Semaphore,
    holding: Mutex<Option<&'static str>>,
}

impl Watched {
    pub(crate) fn new(inner: Arc<dyn Store>) -> Arc<Self> {
        Arc::new(Self {
            inner,
            seen: Mutex::default(),
            failing: Mutex::default(),
            panicking: Mutex::default(),
            held: Semaphore::new(0),
            holding: Mutex::default(),
        })
    }

    /// The methods that were used since this was asked last.
    pub(crate) fn seen(&self) -> Vec<&'static str> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }

    /// These methods fail from now on.
    pub(crate) fn fail(&self, methods: &[&'static str]) {
        *self.failing.lock().unwrap() = methods.to_vec();
    }

    /// These methods panic from now on.
    pub(crate) fn panic(&self, methods: &[&'static str]) {
        *self.panicking.lock().unwrap() = methods.to_vec();
    }

    /// This method's answers are held back from now on.
    pub(crate) fn hold(&self, method: &'static str) {
        *self.holding.lock().unwrap() = Some(method);
    }

    fn enter(&self, method: &'static str) -> Result<(), StoreError> {
        self.seen.lock().unwrap().push(method);
        let panics = self.panicking.lock().unwrap().contains(&method);
        assert!(!panics, "the test has {method} panic");
        if self.failing.lock().unwrap().contains(&method) {
            return Err(StoreError::Unavailable("the test says so".into()));
        }
        Ok(())
    }

    async fn leave(&self, method: &'static str) {
        let held = *self.holding.lock().unwrap() == Some(method);
        if held {
            self.held.acquire().await.unwrap().forget();
        }
    }
}

macro_rules! methods {
    ($($name:ident($($arg:ident: $kind:ty),*) -> $answer:ty;)+) => {
        #[async_trait]
        impl Store for Watched {
            fn epoch(&self) -> u64 {
                self.inner.epoch()
            }

            fn fence(&self) -> u64 {
                self.inner.fence()
            }

            $(
                async fn $name(&self, $($arg: $kind),*) -> Result<$answer, StoreError> {
                    self.enter(stringify!($name))?;
                    let answer = self.inner.$name($($arg),*).await;
                    self.leave(stringify!($name)).await;
                    answer
                }
            )+
        }
    };
}

type Request = Option<(RequestKey, RequestRow)>;
type Results = Vec<Result<Accepted, Conflict>>;

methods! {
    beat() -> ();
    size() -> u64;
    accept(batch: Vec<Accept>) -> Results;
    settle(settlement: Settlement) -> ();
    fresh(lane: SubscriptionId, from: u64, limit: usize) -> FreshRows;
    due(lane: SubscriptionId, limit: usize) -> DueRows;
    open(lane: SubscriptionId, from: u64, limit: usize) -> FreshRows;
    lane(lane: SubscriptionId) -> LaneRow;
    delivery(id: DeliveryId) -> Option<DeliveryRow>;
    delivery_of(tenant: &TenantId, id: DeliveryId) -> Option<DeliveryRow>;
    attempts(id: DeliveryId) -> Vec<Attempt>;
    last_position() -> u64;
    changes(query: ChangeQuery) -> Page<Change, ChangePlace>;
    deliveries(query: DeliveryQuery) -> Page<DeliveryRow, DeliveryPlace>;
    events(keys: Vec<(TenantId, EventKey)>) -> Vec<Option<EventRow>>;
    event_heads(tenant: &TenantId, keys: Vec<EventKey>) -> Vec<Option<EventHead>>;
    event_key(tenant: &TenantId, id: &EventId) -> Option<EventKey>;
    list_events(query: EventQuery) -> Page<EventRow, EventKey>;
    put_tenant(tenant: v1::Tenant, audit: Entry) -> ();
    tenant(id: &TenantId) -> Option<v1::Tenant>;
    tenants(after: Option<TenantId>, limit: usize) -> Page<v1::Tenant, TenantId>;
    stored_bytes(tenants: Vec<TenantId>) -> Vec<u64>;
    begin_tenant_deletion(tenant: v1::Tenant, operation: &OperationRow, tokens: &[TokenId], audit: Entry) -> ();
    delete_of_tenant(tenant: &TenantId, place: &str) -> Deletion;
    finish_tenant_deletion(tenant: &TenantId, operation: &OperationRow, audit: Entry) -> ();
    put_event_type(event_type: v1::EventType, audit: Entry) -> ();
    event_type(tenant: &TenantId, name: &EventTypeName) -> Option<v1::EventType>;
    event_types(tenant: &TenantId, after: Option<EventTypeName>, limit: usize) -> Page<v1::EventType, EventTypeName>;
    delete_event_type(tenant: &TenantId, name: &EventTypeName, audit: Entry) -> ();
    put_subscription(row: &SubscriptionRow, request: Request, audit: Entry) -> ();
    subscriptions(after: Option<SubscriptionId>, limit: usize) -> Vec<SubscriptionRow>;
    reseal_subscriptions(rows: Vec<SubscriptionRow>) -> ();
    reseal_authorities(rows: Vec<AuthorityRow>) -> ();
    put_data_key(row: &DataKeyRow, audit: Entry) -> ();
    remove_data_keys(ids: Vec<DataKeyId>, audit: Entry) -> ();
    data_keys() -> Vec<DataKeyRow>;
    put_request(key: RequestKey, row: RequestRow) -> ();
    request(key: &RequestKey) -> Option<RequestRow>;
    put_key_uses(rows: &[KeyUsesRow]) -> ();
    key_uses() -> Vec<KeyUsesRow>;
    put_token(row: &TokenRow, audit: Entry) -> ();
    put_bootstrap_token(row: &TokenRow, audit: Entry) -> ();
    bootstrap_tokens() -> Vec<TokenId>;
    put_token_uses(uses: Vec<(TokenId, Timestamp)>) -> ();
    delete_token(id: TokenId, audit: Entry) -> ();
    tokens() -> Vec<TokenRow>;
    events_from(tenant: &TenantId, from: EventKey, end: Timestamp, limit: usize) -> Page<EventRow, EventKey>;
    put_operation(row: &OperationRow, audit: Option<Entry>) -> ();
    delete_operations(operations: Vec<(TenantId, OperationId)>) -> ();
    trim_operations(tenant: &TenantId, keep: usize) -> usize;
    operation(id: OperationId) -> Option<OperationRow>;
    operations(after: Option<OperationId>, limit: usize) -> Page<OperationRow, OperationId>;
    operations_of(tenant: &TenantId, before: Option<OperationId>, limit: usize) -> Page<OperationRow, OperationId>;
    put_join_token(row: &JoinTokenRow, audit: Entry) -> ();
    delete_join_token(id: TokenId, audit: Option<Entry>) -> ();
    join_tokens() -> Vec<JoinTokenRow>;
    put_identity(row: &IdentityRow, used: Option<&JoinTokenRow>, audit: Option<Entry>) -> ();
    delete_identity(agent: &AgentId) -> ();
    identities() -> Vec<IdentityRow>;
    put_authorities(rows: &[AuthorityRow], audit: Entry) -> ();
    delete_authority(pin: Pin, audit: Entry) -> ();
    authorities() -> Vec<AuthorityRow>;
    put_audit_entry(entry: Entry) -> ();
    audit_records(query: AuditQuery) -> Page<AuditRow, u64>;
    audit_records_after(sequence: u64, limit: usize) -> Vec<Record>;
    audit_span() -> AuditSpan;
    authenticate_audit(key: AuditKey, now: Timestamp) -> ();
    put_pool(row: &PoolRow, audit: Entry) -> ();
    pools_have_tenants() -> bool;
    set_pools_have_tenants() -> ();
    delete_pool(name: &PoolName, audit: Entry) -> ();
    pools() -> Vec<PoolRow>;
    put_agent(agent: &AgentRow) -> ();
    agents() -> Vec<AgentRow>;
    delete_agent(id: &AgentId) -> ();
    age_out(retention: Retention) -> bool;
    backup(now: Timestamp) -> BackupParts;
    size_on_disk() -> u64;
    close() -> ();
}
