//! The embedded store, on sled 0.34: one tree, keys by prefix, so that a batch over all kinds of rows is atomic.
//!
//! All writes go through one thread ([`writer`]), which makes one commit of whatever has gathered. A commit is synced in the
//! journal and then given to sled ([`commits`]); what sled lacks after a crash it gets from there ([`recovery`]). Reads run on the
//! blocking pool. Nothing of sled shows outside.

mod audit;
mod backup;
mod body;
mod change;
mod check;
mod cleaning;
mod codec;
mod commits;
mod data_keys;
mod engine;
mod group;
mod key;
mod key_use;
mod lists;
mod opening;
mod operation;
mod pool;
mod pulse;
mod read;
mod reading;
mod real_sync;
mod recovery;
mod restore;
mod retention;
mod tap;
mod tenant;
mod token;
mod trust;
mod usage;
mod writer;

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use postrider_domain::audit::{AuditKey, Entry, Head, Record};
use postrider_domain::event::EventTypeName;
use postrider_domain::id::{
    AgentId, DataKeyId, DeliveryId, EventId, EventKey, OperationId, PoolName, SubscriptionId, TenantId,
    TokenId,
};
use postrider_domain::join::Pin;
use postrider_domain::outcome::Attempt;
use postrider_domain::time::Timestamp;
use postrider_proto::v1;
use postrider_telemetry::blocking;
use prost::Message as _;
use tokio::sync::Mutex;

pub use self::check::{Checked, check};
use self::commits::Commits;
use self::data_keys::DataKeys;
pub(super) use self::data_keys::keks_of;
use self::engine::{Engine, Opening, guarded};
#[cfg(test)]
pub(crate) use self::opening::age;
pub(super) use self::opening::{OLDEST, SCHEMA};
use self::opening::{begin_epoch, check_schema, damaged, failure, identity, number};
use self::reading::Reading;
pub use self::restore::{Restored, restore};
use self::writer::{Change, Writer};
use super::space::{self, Space};
use super::{
    Accept, Accepted, AgentRow, AuditQuery, AuditRow, AuditSpan, AuthorityRow, BackupParts, ChangePlace,
    ChangeQuery, Conflict, DataKeyRow, Deletion, DeliveryPlace, DeliveryQuery, DeliveryRow, DueRows,
    EventHead, EventQuery, EventRow, FreshRows, IdentityRow, JoinTokenRow, KeyUsesRow, LaneRow, OperationRow,
    Page, PoolRow, RequestKey, RequestRow, Retention, Settlement, Store, StoreError, SubscriptionRow,
    TokenRow,
};
use crate::metrics::{Metrics, Writes};

/// How the embedded store is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// The folder that holds it; made when absent.
    pub path: PathBuf,
    /// Memory for cached pages, in bytes.
    pub cache_bytes: u64,
}

/// The embedded store.
pub struct SledStore {
    engine: Engine,
    writer: Writer,
    folder: PathBuf,
    /// Locked while the file is read and rewritten.
    data_keys: Arc<Mutex<DataKeys>>,
    identity: Bytes,
    epoch: u64,
    fence: u64,
    reserve: Option<u64>,
    /// Held while rows are read that are removed then, by retention or with their tenant.
    sweeping: Mutex<()>,
    /// Where the audit log's key is put.
    audit_key: Arc<std::sync::OnceLock<AuditKey>>,
    /// Bytes of rows that lists have looked at.
    looked: Arc<AtomicU64>,
}

impl SledStore {
    /// Opens or makes the store, and begins a new epoch. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When another process has it open, another version wrote it, it is damaged, or the disk refuses.
    pub fn open(options: &Options) -> Result<Self, StoreError> {
        Self::open_measured(options, Metrics::new().writes(), None)
    }

    /// The same, and says how its writes go. `reserve` is how many bytes of the disk must be free for events to be
    /// accepted; without it that follows from the disk's size.
    ///
    /// # Errors
    /// As those of [`SledStore::open`].
    pub fn open_measured(
        options: &Options,
        writes: Writes,
        reserve: Option<u64>,
    ) -> Result<Self, StoreError> {
        let folder = options.path.clone();
        let opening = Opening {
            path: folder.clone(),
            cache_bytes: options.cache_bytes,
            compared_up_to: recovery::COMPARED_UP_TO,
        };
        let mut commits = Commits::open(opening)?;
        check_schema(&mut commits)?;
        let data_keys = Arc::new(Mutex::new(DataKeys::open(&mut commits)?));
        let identity = identity(&mut commits)?;
        let epoch = begin_epoch(&mut commits)?;
        usage::count(&mut commits)?;
        operation::list_former(&mut commits)?;
        let db = commits.db()?;
        let (ends, closed, fence) = (audit::Ends::load(db)?, tenant::closed(db)?, number(db, key::FENCE)?);
        let (engine, audit_key) = (commits.engine(), ends.key());
        let writer = Writer::spawn(commits, ends, closed, Space::new(folder.clone(), reserve), writes);
        let (sweeping, looked) = (Mutex::default(), Arc::default());
        Ok(Self {
            engine,
            writer,
            folder,
            data_keys,
            identity,
            epoch,
            fence,
            reserve,
            sweeping,
            audit_key,
            looked,
        })
    }

    /// Bytes of rows that lists have looked at since the store was opened, those of events' data
    /// among them.
    #[must_use]
    pub fn bytes_looked_at(&self) -> u64 {
        self.looked.load(Ordering::Relaxed)
    }

    /// Reads on the blocking pool: a page may have to come from the disk. When nobody waits for the
    /// result any more, the read ends at its next row, and one that has not begun does not begin.
    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Reading) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reading, waiting) = Reading::begin(self.engine.tree()?, self.looked.clone());
        let read = move || reading.check().and_then(|()| work(&reading));
        let done = blocking::run(move || guarded(read)).await;
        drop(waiting);
        let done = done.map_err(|lost| StoreError::Unavailable(format!("a read was cut off: {lost}")))?;
        if matches!(done, Err(StoreError::Unavailable(_) | StoreError::Full(_))) && self.engine.suspect() {
            self.writer.probe();
        }
        done
    }

    /// Bytes of all files.
    async fn files_size(&self) -> Result<u64, StoreError> {
        let folder = self.folder.clone();
        let size = blocking::run(move || size_of(&folder)).await;
        let size =
            size.map_err(|lost| StoreError::Unavailable(format!("a look at its files was cut off: {lost}")))?;
        size.map_err(|error| failure(error.into()))
    }

    async fn change_data_keys<T: Send + 'static>(
        &self,
        work: impl FnOnce(&DataKeys) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let locked = self.data_keys.lock().await;
        let keys = locked.clone();
        let done = blocking::run(move || work(&keys)).await;
        done.map_err(|lost| StoreError::Unavailable(format!("the data keys' file: {lost}")))?
    }

    async fn put(&self, key: Vec<u8>, value: Vec<u8>) -> Result<(), StoreError> {
        self.writer.write(vec![(key, Some(value))], None).await
    }
}

#[async_trait]
impl Store for SledStore {
    fn epoch(&self) -> u64 {
        self.epoch
    }

    async fn beat(&self) -> Result<(), StoreError> {
        self.put(key::meta("beat"), Vec::new()).await?;
        // It can be written, and may refuse events all the same.
        match space::short(&self.folder, self.reserve) {
            None => Ok(()),
            Some(short) => Err(StoreError::Full(short.to_string())),
        }
    }

    async fn failed(&self) -> String {
        self.writer.failed().await
    }

    async fn size(&self) -> Result<u64, StoreError> {
        self.files_size().await
    }

    fn fence(&self) -> u64 {
        self.fence
    }

    async fn accept(&self, batch: Vec<Accept>) -> Result<Vec<Result<Accepted, Conflict>>, StoreError> {
        self.writer.accept(batch).await
    }

    async fn settle(&self, settlement: Settlement) -> Result<(), StoreError> {
        self.writer.settle(settlement).await
    }

    async fn fresh(&self, lane: SubscriptionId, from: u64, limit: usize) -> Result<FreshRows, StoreError> {
        self.read(move |tree| read::fresh(tree, lane, from, limit)).await
    }

    async fn open(&self, lane: SubscriptionId, from: u64, limit: usize) -> Result<FreshRows, StoreError> {
        self.read(move |tree| read::open(tree, lane, from, limit)).await
    }

    async fn due(&self, lane: SubscriptionId, limit: usize) -> Result<DueRows, StoreError> {
        self.read(move |tree| read::due(tree, lane, limit)).await
    }

    async fn lane(&self, lane: SubscriptionId) -> Result<LaneRow, StoreError> {
        self.read(move |tree| read::lane(tree, lane)).await
    }

    async fn delivery(&self, id: DeliveryId) -> Result<Option<DeliveryRow>, StoreError> {
        self.read(move |tree| read::delivery(tree, id)).await
    }

    async fn delivery_of(
        &self,
        tenant: &TenantId,
        id: DeliveryId,
    ) -> Result<Option<DeliveryRow>, StoreError> {
        let tenant = tenant.clone();
        self.read(move |tree| read::delivery_of(tree, &tenant, id)).await
    }

    async fn attempts(&self, id: DeliveryId) -> Result<Vec<Attempt>, StoreError> {
        self.read(move |tree| read::attempts(tree, id)).await
    }

    async fn last_position(&self) -> Result<u64, StoreError> {
        self.read(|tree| number(tree, key::LAST_POSITION)).await
    }

    async fn changes(&self, query: ChangeQuery) -> Result<Page<super::Change, ChangePlace>, StoreError> {
        self.read(move |tree| change::page(tree, &query)).await
    }

    async fn deliveries(&self, query: DeliveryQuery) -> Result<Page<DeliveryRow, DeliveryPlace>, StoreError> {
        self.read(move |tree| lists::deliveries(tree, &query)).await
    }

    async fn events(&self, keys: Vec<(TenantId, EventKey)>) -> Result<Vec<Option<EventRow>>, StoreError> {
        self.read(move |tree| {
            let event = |(tenant, key): &(TenantId, EventKey)| {
                let row = read::event(tree, tenant, *key)?;
                tree.look(row.as_ref().map_or(0, |row| row.event.data.len()))?;
                Ok(row)
            };
            keys.iter().map(event).collect()
        })
        .await
    }

    async fn event_heads(
        &self,
        tenant: &TenantId,
        keys: Vec<EventKey>,
    ) -> Result<Vec<Option<EventHead>>, StoreError> {
        let tenant = tenant.clone();
        self.read(move |tree| lists::event_heads(tree, &tenant, &keys)).await
    }

    async fn event_key(&self, tenant: &TenantId, id: &EventId) -> Result<Option<EventKey>, StoreError> {
        let (tenant, id) = (tenant.clone(), id.clone());
        self.read(move |tree| read::event_key(tree, &tenant, &id)).await
    }

    async fn list_events(&self, query: EventQuery) -> Result<Page<EventRow, EventKey>, StoreError> {
        self.read(move |tree| lists::events(tree, &query)).await
    }

    async fn events_from(
        &self,
        tenant: &TenantId,
        from: EventKey,
        end: Timestamp,
        limit: usize,
    ) -> Result<Page<EventRow, EventKey>, StoreError> {
        let tenant = tenant.clone();
        self.read(move |tree| lists::events_from(tree, &tenant, from, end, limit)).await
    }

    async fn put_tenant(&self, tenant: v1::Tenant, audit: Entry) -> Result<(), StoreError> {
        let id = tenant.id.parse().map_err(|_| damaged("a tenant", "its id is not one"))?;
        // What is being deleted is not changed; what was deleted may be made anew.
        let rows = vec![(key::tenant(&id), Some(tenant.encode_to_vec()))];
        let is_there = self.tenant(&id).await?.is_some();
        let (tenant, opens) = if is_there { (Some(id), None) } else { (None, Some(id)) };
        self.writer.change(Change { rows, audit: Some(audit), tenant, opens, ..Change::default() }).await
    }

    async fn tenant(&self, id: &TenantId) -> Result<Option<v1::Tenant>, StoreError> {
        let key = key::tenant(id);
        self.read(move |tree| read::message(tree, &key)).await
    }

    async fn tenants(
        &self,
        after: Option<TenantId>,
        limit: usize,
    ) -> Result<Page<v1::Tenant, TenantId>, StoreError> {
        let after = after.map(|after| key::tenant(&after));
        let name = |tenant: &v1::Tenant| tenant.id.parse().ok();
        self.read(move |tree| lists::messages(tree, &key::tenants(), after, limit, name)).await
    }

    async fn stored_bytes(&self, tenants: Vec<TenantId>) -> Result<Vec<u64>, StoreError> {
        self.read(move |tree| tenants.iter().map(|tenant| usage::stored(tree, tenant)).collect()).await
    }

    async fn begin_tenant_deletion(
        &self,
        tenant: v1::Tenant,
        operation: &OperationRow,
        tokens: &[TokenId],
        audit: Entry,
    ) -> Result<(), StoreError> {
        let id = tenant.id.parse().map_err(|_| damaged("a tenant", "its id is not one"))?;
        self.writer.change(tenant::begin(&id, &tenant, operation, tokens, audit)).await
    }

    async fn delete_of_tenant(&self, tenant: &TenantId, place: &str) -> Result<Deletion, StoreError> {
        // Retention writes what it has read: not what is removed meanwhile.
        let _sweeping = self.sweeping.lock().await;
        let (id, place) = (tenant.clone(), place.to_owned());
        let (deletion, change) = self.read(move |tree| tenant::next_step(tree, &id, &place)).await?;
        self.writer.change(change).await?;
        Ok(deletion)
    }

    async fn finish_tenant_deletion(
        &self,
        tenant: &TenantId,
        operation: &OperationRow,
        audit: Entry,
    ) -> Result<(), StoreError> {
        self.writer.change(tenant::finish(tenant, operation, audit)).await
    }

    async fn put_event_type(&self, event_type: v1::EventType, audit: Entry) -> Result<(), StoreError> {
        let bad = |_| damaged("an event type", "its tenant or name is not one");
        let tenant = event_type.tenant.parse().map_err(bad)?;
        let name = event_type.name.parse().map_err(|_| damaged("an event type", "its name is not one"))?;
        let row = (key::event_type(&tenant, &name), Some(event_type.encode_to_vec()));
        self.writer.write_of(&tenant, vec![row], Some(audit)).await
    }

    async fn event_type(
        &self,
        tenant: &TenantId,
        name: &EventTypeName,
    ) -> Result<Option<v1::EventType>, StoreError> {
        let key = key::event_type(tenant, name);
        self.read(move |tree| read::message(tree, &key)).await
    }

    async fn event_types(
        &self,
        tenant: &TenantId,
        after: Option<EventTypeName>,
        limit: usize,
    ) -> Result<Page<v1::EventType, EventTypeName>, StoreError> {
        let (prefix, after) = (key::event_types(tenant), after.map(|after| key::event_type(tenant, &after)));
        let name = |event_type: &v1::EventType| event_type.name.parse().ok();
        self.read(move |tree| lists::messages(tree, &prefix, after, limit, name)).await
    }

    async fn delete_event_type(
        &self,
        tenant: &TenantId,
        name: &EventTypeName,
        audit: Entry,
    ) -> Result<(), StoreError> {
        self.writer.write(vec![(key::event_type(tenant, name), None)], Some(audit)).await
    }

    async fn put_subscription(
        &self,
        row: &SubscriptionRow,
        request: Option<(RequestKey, RequestRow)>,
        audit: Entry,
    ) -> Result<(), StoreError> {
        let mut writes = vec![(key::subscription(row.subscription.id), Some(codec::subscription(row)))];
        writes.extend(request.map(|(key, row)| (key::request(&key), Some(codec::request(&row)))));
        self.writer.write_of(&row.subscription.tenant, writes, Some(audit)).await
    }

    async fn subscriptions(
        &self,
        after: Option<SubscriptionId>,
        limit: usize,
    ) -> Result<Vec<SubscriptionRow>, StoreError> {
        self.read(move |tree| read::subscriptions(tree, after, limit)).await
    }

    async fn reseal_subscriptions(&self, rows: Vec<SubscriptionRow>) -> Result<(), StoreError> {
        let write =
            |row: &SubscriptionRow| (key::subscription(row.subscription.id), Some(codec::subscription(row)));
        self.writer.write(rows.iter().map(write).collect(), None).await
    }

    async fn reseal_authorities(&self, rows: Vec<AuthorityRow>) -> Result<(), StoreError> {
        self.writer.write(rows.iter().map(trust::write_authority).collect(), None).await
    }

    async fn put_data_key(&self, row: &DataKeyRow, audit: Entry) -> Result<(), StoreError> {
        // The file and the log are not one write: the log comes first, so that no key is there that it does not tell of.
        self.put_audit_entry(audit).await?;
        let row = row.clone();
        self.change_data_keys(move |keys| keys.add(row)).await?;
        self.put(key::has_data_keys(), Vec::new()).await
    }

    async fn remove_data_keys(&self, ids: Vec<DataKeyId>, audit: Entry) -> Result<(), StoreError> {
        let wanted = ids.clone();
        self.read(move |tree| read::refuse_use(tree, &wanted)).await?;
        self.put_audit_entry(audit).await?;
        self.change_data_keys(move |keys| keys.remove(&ids)).await
    }

    async fn data_keys(&self) -> Result<Vec<DataKeyRow>, StoreError> {
        self.change_data_keys(DataKeys::read).await
    }

    async fn put_request(&self, key: RequestKey, row: RequestRow) -> Result<(), StoreError> {
        let write = (key::request(&key), Some(codec::request(&row)));
        self.writer.write_of(&key.tenant, vec![write], None).await
    }

    async fn request(&self, key: &RequestKey) -> Result<Option<RequestRow>, StoreError> {
        let key = key::request(key);
        self.read(move |tree| read::request(tree, &key)).await
    }

    async fn put_key_uses(&self, rows: &[KeyUsesRow]) -> Result<(), StoreError> {
        self.writer.write(rows.iter().map(key_use::write).collect(), None).await
    }

    async fn key_uses(&self) -> Result<Vec<KeyUsesRow>, StoreError> {
        self.read(|tree| key_use::all(tree)).await
    }

    async fn put_token(&self, row: &TokenRow, audit: Entry) -> Result<(), StoreError> {
        self.writer.write(vec![token::write(row)], Some(audit)).await
    }

    async fn put_bootstrap_token(&self, row: &TokenRow, audit: Entry) -> Result<(), StoreError> {
        let remembered = (key::bootstrap_token(row.id), Some(Vec::new()));
        self.writer.write(vec![token::write(row), remembered], Some(audit)).await
    }

    async fn bootstrap_tokens(&self) -> Result<Vec<TokenId>, StoreError> {
        self.read(|tree| token::bootstrapped(tree)).await
    }

    async fn put_token_uses(&self, uses: Vec<(TokenId, Timestamp)>) -> Result<(), StoreError> {
        let rows = uses.into_iter().map(|(id, time)| token::write_use(id, time));
        self.writer.write(rows.collect(), None).await
    }

    async fn delete_token(&self, id: TokenId, audit: Entry) -> Result<(), StoreError> {
        self.writer.write(vec![(key::token(id), None), (key::token_use(id), None)], Some(audit)).await
    }

    async fn tokens(&self) -> Result<Vec<TokenRow>, StoreError> {
        self.read(|tree| token::all(tree)).await
    }

    async fn put_operation(&self, row: &OperationRow, audit: Option<Entry>) -> Result<(), StoreError> {
        self.writer.write(operation::write(row).into(), audit).await
    }

    async fn delete_operations(&self, operations: Vec<(TenantId, OperationId)>) -> Result<(), StoreError> {
        let rows = operations.iter().flat_map(|(tenant, id)| operation::remove(tenant.as_str(), *id));
        self.writer.write(rows.collect(), None).await
    }

    async fn trim_operations(&self, tenant: &TenantId, keep: usize) -> Result<usize, StoreError> {
        let tenant = tenant.clone();
        let (count, writes) = self.read(move |tree| operation::trim(tree, &tenant, keep)).await?;
        if count > 0 {
            self.writer.write(writes, None).await?;
        }
        Ok(count)
    }

    async fn operation(&self, id: OperationId) -> Result<Option<OperationRow>, StoreError> {
        self.read(move |tree| operation::one(tree, id)).await
    }

    async fn operations(
        &self,
        after: Option<OperationId>,
        limit: usize,
    ) -> Result<Page<OperationRow, OperationId>, StoreError> {
        self.read(move |tree| operation::all(tree, after, limit)).await
    }

    async fn operations_of(
        &self,
        tenant: &TenantId,
        before: Option<OperationId>,
        limit: usize,
    ) -> Result<Page<OperationRow, OperationId>, StoreError> {
        let tenant = tenant.clone();
        self.read(move |tree| operation::of_tenant(tree, &tenant, before, limit)).await
    }

    async fn put_join_token(&self, row: &JoinTokenRow, audit: Entry) -> Result<(), StoreError> {
        self.writer.write(vec![trust::write_join_token(row)], Some(audit)).await
    }

    async fn delete_join_token(&self, id: TokenId, audit: Option<Entry>) -> Result<(), StoreError> {
        self.writer.write(vec![(key::join_token(id), None)], audit).await
    }

    async fn join_tokens(&self) -> Result<Vec<JoinTokenRow>, StoreError> {
        self.read(|tree| trust::join_tokens(tree)).await
    }

    async fn put_identity(
        &self,
        row: &IdentityRow,
        used: Option<&JoinTokenRow>,
        audit: Option<Entry>,
    ) -> Result<(), StoreError> {
        let mut writes = vec![trust::write_identity(row)];
        writes.extend(used.map(trust::write_join_token));
        self.writer.write(writes, audit).await
    }

    async fn delete_identity(&self, agent: &AgentId) -> Result<(), StoreError> {
        self.writer.write(vec![(key::identity(agent), None)], None).await
    }

    async fn identities(&self) -> Result<Vec<IdentityRow>, StoreError> {
        self.read(|tree| trust::identities(tree)).await
    }

    async fn put_authorities(&self, rows: &[AuthorityRow], audit: Entry) -> Result<(), StoreError> {
        self.writer.write(rows.iter().map(trust::write_authority).collect(), Some(audit)).await
    }

    async fn delete_authority(&self, pin: Pin, audit: Entry) -> Result<(), StoreError> {
        self.writer.write(vec![(key::authority(pin), None)], Some(audit)).await
    }

    async fn authorities(&self) -> Result<Vec<AuthorityRow>, StoreError> {
        self.read(|tree| trust::authorities(tree)).await
    }

    async fn put_audit_entry(&self, entry: Entry) -> Result<(), StoreError> {
        self.writer.write(Vec::new(), Some(entry)).await
    }

    async fn audit_records(&self, query: AuditQuery) -> Result<Page<AuditRow, u64>, StoreError> {
        self.read(move |tree| audit::page(tree, &query)).await
    }

    async fn audit_records_after(&self, sequence: u64, limit: usize) -> Result<Vec<Record>, StoreError> {
        self.read(move |tree| audit::after(tree, sequence, limit)).await
    }

    async fn audit_span(&self) -> Result<AuditSpan, StoreError> {
        self.read(|tree| audit::span(tree)).await
    }

    async fn authenticate_audit(&self, key: AuditKey, now: Timestamp) -> Result<(), StoreError> {
        let span = self.audit_span().await?;
        let code = |sequence| key.code(&Head { sequence, ..Head::default() });
        let (since, last) = (span.end.sequence + 1, span.end.sequence);
        let row = span.since.is_none().then(|| audit::write_since(since, code(since)));
        let _set_before = self.audit_key.set(key.clone());
        let Some(row) = row else { return Ok(()) };
        let entry = (last > 1).then(|| Entry {
            detail: format!("records up to {last} carry no authentication code"),
            ..Entry::by_postrider("AuthenticateAuditLog", since, now)
        });
        self.writer.write(vec![row], entry).await
    }

    async fn put_pool(&self, row: &PoolRow, audit: Entry) -> Result<(), StoreError> {
        self.writer.write(vec![pool::write(row)], Some(audit)).await
    }

    async fn delete_pool(&self, name: &PoolName, audit: Entry) -> Result<(), StoreError> {
        self.writer.write(vec![(key::pool(name), None)], Some(audit)).await
    }

    async fn pools(&self) -> Result<Vec<PoolRow>, StoreError> {
        self.read(|tree| pool::all(tree)).await
    }

    async fn pools_have_tenants(&self) -> Result<bool, StoreError> {
        Ok(self.read(|tree| number(tree, "schema")).await? >= SCHEMA)
    }

    async fn set_pools_have_tenants(&self) -> Result<(), StoreError> {
        self.put(key::meta("schema"), SCHEMA.to_be_bytes().to_vec()).await
    }

    async fn put_agent(&self, agent: &AgentRow) -> Result<(), StoreError> {
        self.put(key::agent(&agent.id), codec::agent(agent)).await
    }

    async fn agents(&self) -> Result<Vec<AgentRow>, StoreError> {
        self.read(|tree| read::agents(tree)).await
    }

    async fn delete_agent(&self, id: &AgentId) -> Result<(), StoreError> {
        self.writer.write(vec![(key::agent(id), None)], None).await
    }

    async fn age_out(&self, retention: Retention) -> Result<bool, StoreError> {
        let _sweeping = self.sweeping.lock().await;
        let step = self.read(move |tree| retention::next_step(tree, &retention)).await?;
        let more = step.more;
        if !step.writes.is_empty() {
            self.writer.change(Change { rows: step.writes, freed: step.freed, ..Change::default() }).await?;
        }
        let Some(until) = retention.audit else { return Ok(more) };
        let Some((writes, entry)) = self.read(move |tree| audit::cut(tree, until, retention.now)).await?
        else {
            return Ok(more);
        };
        self.writer.write(writes, Some(entry)).await?;
        Ok(true)
    }

    async fn backup(&self, now: Timestamp) -> Result<BackupParts, StoreError> {
        let source = backup::Source {
            engine: self.engine.clone(),
            writer: self.writer.handle(),
            data_keys: self.data_keys.clone(),
            store: self.identity.clone(),
            epoch: self.epoch,
        };
        backup::begin(source, now).await
    }

    async fn size_on_disk(&self) -> Result<u64, StoreError> {
        self.files_size().await
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.writer.close().await
    }
}

fn size_of(folder: &Path) -> std::io::Result<u64> {
    let mut size = 0;
    for entry in std::fs::read_dir(folder)? {
        // Files come and go meanwhile.
        let Ok(metadata) = entry.as_ref().map_err(|_| ()).and_then(|entry| entry.metadata().map_err(|_| ()))
        else {
            continue;
        };
        size +=
            if metadata.is_dir() { size_of(&entry?.path()).unwrap_or(0) } else { metadata.blocks() * 512 };
    }
    Ok(size)
}
