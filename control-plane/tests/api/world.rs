//! The API with what it needs, in a folder of its own.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use postrider_control_plane::agents::Agents;
use postrider_control_plane::api::{Api, Caller};
use postrider_control_plane::authority::{self, Authorities};
use postrider_control_plane::backups::Backups;
use postrider_control_plane::clock::Clock;
use postrider_control_plane::compute::Compute;
use postrider_control_plane::diagnoses::Diagnoses;
use postrider_control_plane::emit::Emitter;
use postrider_control_plane::identities::Identities;
use postrider_control_plane::judging::Judge;
use postrider_control_plane::key_uses::KeyUses;
use postrider_control_plane::lanes::{Lanes, Runner};
use postrider_control_plane::listen::certificate::ApiCertificate;
use postrider_control_plane::metrics::reads::ReadCounts;
use postrider_control_plane::metrics::{Metrics, upkeep};
use postrider_control_plane::operations::Operations;
use postrider_control_plane::pools::Pools;
use postrider_control_plane::reads::Reads;
use postrider_control_plane::recent::RecentEvents;
use postrider_control_plane::registry::Registry;
use postrider_control_plane::schedule::Scheduler;
use postrider_control_plane::schemas::Schemas;
use postrider_control_plane::secrets::rewrap::{Holders, Rewrapper};
use postrider_control_plane::secrets::{Keks, Sealer, VaultSettings};
use postrider_control_plane::store::{Options, SledStore, Store};
use postrider_control_plane::tokens::Tokens;
use postrider_control_plane::watch::Updates;
use postrider_control_plane::watchers::{Allowed, Watchers};
use postrider_control_plane::{disabler, operational, settle};
use postrider_domain::access::Scope;
use postrider_domain::id::DataKeyId;
use postrider_domain::identity::TrustDomain;
use postrider_domain::quota::Quota;
use postrider_domain::sealed::{DataKey, KEY_BYTES, KeyBytes};
use postrider_domain::time::Timestamp;
use postrider_proto::v1::delivery_service_server::DeliveryService as _;
use postrider_proto::v1::event_service_server::EventService as _;
use postrider_proto::v1::event_type_service_server::EventTypeService as _;
use postrider_proto::v1::subscription_service_server::SubscriptionService as _;
use postrider_proto::v1::tenant_service_server::TenantService as _;
use postrider_proto::v1::{self, NewEvent};
use postrider_telemetry::traces::Traces;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::Request;

use crate::watched::Watched;

/// The API and its tasks.
pub(crate) struct World {
    pub(crate) api: Api,
    pub(crate) store: Arc<Watched>,
    pub(crate) metrics: Arc<Metrics>,
    tasks: JoinSet<()>,
}

/// What a tenant has.
#[derive(Clone, Debug)]
pub(crate) struct Things {
    pub(crate) tenant: String,
    pub(crate) subscription: String,
    pub(crate) delivery: String,
    pub(crate) event: String,
    /// An event by a name of the client's.
    pub(crate) named: String,
    pub(crate) event_type: String,
}

/// With the same key each time.
pub(crate) fn sealer() -> Sealer {
    let id = DataKeyId::new(Timestamp::default(), 1);
    let key = DataKey::new(id, "kek_test".parse().unwrap(), KeyBytes::new([1; KEY_BYTES]));
    Sealer::new(key, KeyBytes::new([2; KEY_BYTES]))
}

/// One, in a file beside the store's own.
fn keks(folder: &Path) -> Keks {
    let path = folder.join("test-kek");
    std::fs::write(&path, "5a".repeat(32)).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    Keks::read(&[format!("file:{}", path.display())], &VaultSettings::default()).unwrap()
}

async fn authorities(
    store: &Arc<dyn Store>,
    sealer: &Sealer,
    identities: &Arc<Identities>,
    clock: Clock,
) -> Arc<Authorities> {
    let settings = authority::Settings {
        trust_domain: TrustDomain::default(),
        names: Vec::new(),
        lifetime: Duration::from_secs(86_400),
        files: Vec::new(),
    };
    store.authenticate_audit(sealer.audit_key(), clock.wall()).await.unwrap();
    let loaded = Authorities::load(store.clone(), sealer.clone(), settings, identities.clone(), clock);
    Arc::new(loaded.await.unwrap())
}

pub(crate) fn open(folder: &Path) -> SledStore {
    SledStore::open(&Options { path: folder.to_owned(), cache_bytes: 16 << 20 }).unwrap()
}

fn looked_at(store: &Arc<dyn Store>, authorities: &Arc<Authorities>, folder: &Path) -> Arc<upkeep::Watched> {
    Arc::new(upkeep::Watched {
        store: store.clone(),
        data_dir: folder.to_owned(),
        api_certificate: ApiCertificate::default(),
        authorities: authorities.clone(),
    })
}

fn judge(store: &Arc<dyn Store>, registry: &Arc<Registry>, metrics: &Arc<Metrics>, clock: Clock) -> Judge {
    let compute = Compute::start(None, clock, metrics.clone()).unwrap();
    let schemas = Schemas::new(store.clone(), compute.clone(), metrics.clone());
    Judge::new(registry.clone(), Arc::new(schemas), compute)
}

fn rewrapper(
    store: &Arc<dyn Store>,
    registry: &Arc<Registry>,
    authorities: &Arc<Authorities>,
    sealer: &Sealer,
    (keks, clock): (Keks, Clock),
) -> Arc<Rewrapper> {
    let (store, registry, authorities) = (store.clone(), registry.clone(), authorities.clone());
    Arc::new(Rewrapper::new(Holders { store, registry, authorities }, sealer.clone(), keks, clock))
}

async fn operations(store: &Arc<dyn Store>, clock: Clock) -> Arc<Operations> {
    Arc::new(Operations::load(store.clone(), clock, ReadCounts::default()).await.unwrap())
}

fn watchers() -> Arc<Watchers> {
    Arc::new(Watchers::new(Allowed::default(), ReadCounts::default()))
}

impl World {
    pub(crate) async fn start(folder: &Path) -> Self {
        let store = Watched::new(Arc::new(open(folder)));
        let dynamic: Arc<dyn Store> = store.clone();
        let (clock, sealer) = (Clock::start(), sealer());
        let registry = Arc::new(Registry::load(&*dynamic, &sealer).await.unwrap());
        let agents = Arc::new(Agents::load(dynamic.clone()).await.unwrap().0);
        let tokens = Arc::new(Tokens::load(dynamic.clone()).await.unwrap());
        let uses = Arc::new(KeyUses::load(dynamic.clone(), registry.clone()).await.unwrap());
        let identities = Arc::new(Identities::load(dynamic.clone()).await.unwrap());
        let authorities = authorities(&dynamic, &sealer, &identities, clock).await;
        let rewrapper = rewrapper(&dynamic, &registry, &authorities, &sealer, (keks(folder), clock));
        let ((lanes, inbox), (settle, settle_queue)) = (Lanes::new(), settle::queue());
        let ((changes, _nobody_disables), (notices, _nobody_emits)) =
            (disabler::queue(), operational::queue());
        let (recent, metrics) = (Arc::new(RecentEvents::new(1 << 20)), Arc::<Metrics>::default());
        let updates = Updates::new(registry.clone(), 0, clock);
        let (emitter, committer) =
            Emitter::new(dynamic.clone(), lanes.clone(), recent, &Quota::STANDARD, clock, Arc::default());
        let (scheduler, mut tasks) = (Scheduler::new(dynamic.epoch()), JoinSet::new());
        tasks.spawn(committer.run());
        tasks.spawn(
            Runner::new(scheduler, inbox, dynamic.clone(), settle, changes.clone(), notices, clock).run(),
        );
        let run = settle::run(settle_queue, dynamic.clone(), lanes.clone(), updates.clone(), Arc::default());
        tasks.spawn(run);
        let pools = Arc::new(Pools::load(dynamic.clone(), &registry, clock.wall()).await.unwrap());
        let api = Api {
            judge: judge(&dynamic, &registry, &metrics, clock),
            pools,
            store: dynamic.clone(),
            sealer,
            registry,
            emitter,
            lanes,
            changes,
            updates,
            reads: Reads::new(CancellationToken::new(), ReadCounts::default()),
            watchers: watchers(),
            watched: looked_at(&dynamic, &authorities, folder),
            agents,
            diagnoses: Diagnoses::new(clock),
            webhook_origin: None,
            tokens,
            uses,
            identities,
            authorities,
            rewrapper: rewrapper.clone(),
            operations: operations(&dynamic, clock).await,
            agent_address: Some(("agents.example.com".into(), 7071)),
            backups: Arc::new(Backups::new(Arc::default(), clock)),
            caller: Caller::nobody(),
            traces: Traces::default(),
            clock,
            audit_head_file: None,
            max_event_bytes: 1 << 18,
            stopping: CancellationToken::new(),
        };
        tasks.spawn(async move { rewrapper.run().await });
        Self { api, store, metrics, tasks }
    }

    /// Ends it: the store can be opened again.
    pub(crate) async fn end(self) {
        let Self { api, store, mut tasks, .. } = self;
        tasks.shutdown().await;
        api.store.close().await.unwrap();
        drop((api, store));
    }

    /// A tenant with one of everything.
    pub(crate) async fn tenant(&self, tenant: &str) -> Things {
        let api = &self.api;
        let tenant = tenant.to_owned();
        let wanted = v1::Tenant { id: tenant.clone(), ..Default::default() };
        api.create_tenant(admin(v1::CreateTenantRequest { tenant: Some(wanted) })).await.unwrap();
        let event_type = format!("{tenant}.happened");
        let entry = v1::EventType { tenant: tenant.clone(), name: event_type.clone(), ..Default::default() };
        api.create_event_type(admin(v1::CreateEventTypeRequest { event_type: Some(entry) })).await.unwrap();
        let subscription = self.subscribe(&tenant).await;
        let (event, delivery) = self.emit(&tenant, "").await;
        let (named, _) = self.emit(&tenant, &format!("{tenant}-own")).await;
        Things { tenant, subscription, delivery, event, named, event_type }
    }

    pub(crate) async fn subscribe(&self, tenant: &str) -> String {
        let wanted = v1::Subscription {
            tenant: tenant.to_owned(),
            url: "https://hooks.example.com/".into(),
            event_types: vec!["*".into()],
            ..Default::default()
        };
        let request = v1::CreateSubscriptionRequest { subscription: Some(wanted), ..Default::default() };
        let made = self.api.create_subscription(admin(request)).await.unwrap().into_inner();
        made.subscription.unwrap().id
    }

    /// Emits, and returns the event and its first delivery.
    pub(crate) async fn emit(&self, tenant: &str, id: &str) -> (String, String) {
        let event =
            NewEvent { r#type: "a.b".into(), data: "{}".into(), id: id.to_owned(), ..Default::default() };
        let request = v1::EmitRequest { tenant: tenant.to_owned(), event: Some(event) };
        let event = self.api.emit(admin(request)).await.unwrap().into_inner().event_id;
        let request = v1::ListDeliveriesRequest {
            tenant: tenant.to_owned(),
            event: event.clone(),
            ..Default::default()
        };
        let found = self.api.list_deliveries(admin(request)).await.unwrap().into_inner().deliveries;
        (event, found.first().map(|delivery| delivery.id.clone()).unwrap_or_default())
    }
}

/// A request of an admin who sees everything.
pub(crate) fn admin<T>(message: T) -> Request<T> {
    by(Caller { actor: "tok_admin".into(), ..Caller::postrider() }, message)
}

/// A request of an admin who is confined to a tenant.
pub(crate) fn confined<T>(tenant: &str, message: T) -> Request<T> {
    let scope = Scope::Tenant(tenant.parse().unwrap());
    by(Caller { actor: "tok_confined".into(), scope, ..Caller::postrider() }, message)
}

/// A request of this caller.
pub(crate) fn by<T>(caller: Caller, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.extensions_mut().insert(caller);
    request
}
