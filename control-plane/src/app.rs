//! Wires the control plane together, runs it, and stops it.
//!
//! Dramatis personae, in the order in which an event meets them: the **API server** ([`crate::api`]), the threads that
//! judge it ([`crate::compute`]), the **committer** ([`crate::emit`]), the store's **writer** thread, the **lanes** task
//! ([`crate::lanes`]), one **session** task a stream of an agent ([`crate::link`]), the **settler** ([`crate::settle`]);
//! beside them the **disabler** ([`crate::disabler`]), **operational** events ([`crate::operational`]), the **rewrapper**
//! ([`crate::secrets::rewrap`]), the **operations** ([`crate::operations`]), and **retention** ([`crate::retention`]).
//!
//! Each of these is a task of one supervised set ([`crate::tasks`] has their names): the first that panics or ends too early
//! stops the process with an error that names it.
//!
//! A stop goes the same way: no new event, no new job, what is under way ends and is settled, sessions end, the store
//! is flushed.

mod ages;
mod house;
mod known;
mod shown;
mod stop;
mod stored_time;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use postrider_proto::agent::enrollment_service_server::EnrollmentServiceServer;
use postrider_proto::agent::identity_service_server::IdentityServiceServer;
use postrider_proto::agent::session_service_server::SessionServiceServer;
use postrider_proto::session::MAX_AGENT_MESSAGE;
use postrider_proto::v1;
use postrider_telemetry::tasks::Tasks;
use postrider_telemetry::watchdog::Watchdog;
use postrider_telemetry::{blocking, log};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Server;
use tonic::transport::server::Router;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};
use tower::layer::util::{Identity, Stack};
use tracing::{info, warn};

use self::known::Known;
use self::shown::Shown;
pub(crate) use self::stop::AFTER_GRACE;
use crate::api::{Api, Caller, Gate};
use crate::audit_head;
use crate::authority::Authorities;
use crate::backups::Backups;
use crate::clock::Clock;
use crate::compute::Compute;
use crate::config::Config;
use crate::diagnoses::Diagnoses;
use crate::dispatch::Dispatcher;
use crate::emit::Emitter;
use crate::job_tags::JobTags;
use crate::judging::Judge;
use crate::lanes::{Lanes, Runner};
use crate::link::{Links, Misconduct, Registrar, Visits};
use crate::listen::certificate::ApiCertificate;
use crate::listen::{self, Calls, Listener, SharedTls};
use crate::metrics::upkeep::Watched;
use crate::metrics::{Metrics, Writes};
use crate::operations::Operations;
use crate::reads::Reads;
use crate::recent::RecentEvents;
use crate::registry::Registry;
use crate::schemas::Schemas;
use crate::secrets::Sealer;
use crate::secrets::rewrap::{Holders, Rewrapper};
use crate::store::{Options, STORE, SledStore, Store, StoreError};
use crate::watch::Updates;
use crate::watchers::Watchers;
use crate::{disabler, operational, secrets, settle, tasks};

/// Bytes of recently accepted events kept in memory.
const RECENT_BYTES: usize = 16 * 1024 * 1024;
/// The largest request: a batch of events.
const MAX_MESSAGE: usize = 5 * 1024 * 1024;
/// The largest question that anybody may ask.
const MAX_QUESTION: usize = 4 * 1024;
/// What reflection lists: the services of the API's port.
const SERVICES: [&str; 15] = [
    "grpc.health.v1.Health",
    "postrider.v1.AgentService",
    "postrider.v1.AuditService",
    "postrider.v1.BackupService",
    "postrider.v1.DeliveryService",
    "postrider.v1.EventService",
    "postrider.v1.EventTypeService",
    "postrider.v1.OperationService",
    "postrider.v1.PoolService",
    "postrider.v1.SecretService",
    "postrider.v1.SigningKeyService",
    "postrider.v1.SubscriptionService",
    "postrider.v1.SystemService",
    "postrider.v1.TenantService",
    "postrider.v1.TokenService",
];
/// The largest message of somebody who wants to be an agent.
const MAX_ENROLLMENT: usize = 16 * 1024;
/// Calls of one connection at once: to the API, and of an agent, which has one session and renews.
const API_STREAMS: u32 = 256;
const AGENT_STREAMS: u32 = 16;
/// Bytes of a request's headers, as most gRPC servers have it.
const MAX_HEADERS: u32 = 8 * 1024;
/// Calls that a client may have taken back before they were looked at: more end the connection.
const MAX_TAKEN_BACK: usize = 20;
/// Calls of one connection that may be refused for what is wrong with them, such as being too many at once: more end it.
const MAX_REFUSED: usize = 1024;
/// How long attempts under way may take to end after a task has failed.
const FAILED_GRACE: Duration = Duration::from_secs(5);

/// What the control plane gets from the process that it runs in.
pub struct Process {
    /// The log's filter; without it, the admin port cannot change what is logged.
    pub filter: Option<log::Filter>,
    /// Ends the process when a stop after a failure hangs.
    pub watchdog: Watchdog,
    /// Opens the store.
    pub open: Open,
}

/// Opens a store that says how its writes go, and accepts events as long as so many bytes of its disk are free.
pub type Open = Box<dyn FnOnce(&Options, Writes, Option<u64>) -> Result<Arc<dyn Store>, StoreError> + Send>;

impl Default for Process {
    fn default() -> Self {
        let open: Open = Box::new(|options, writes, reserve| {
            Ok(Arc::new(SledStore::open_measured(options, writes, reserve)?))
        });
        Self { filter: None, watchdog: Watchdog::default(), open }
    }
}

/// Runs the control plane until `stop` is done, then stops it within its grace.
///
/// # Errors
/// When it cannot start; [`postrider_telemetry::tasks::TaskFailed`] when one of its tasks fails; when the store cannot
/// be closed.
pub async fn run(config: Config, process: Process, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    let (watchdog, grace) = (process.watchdog.clone(), config.shutdown_grace);
    start(config, process).await?.until(stop, watchdog, grace).await
}

async fn start(mut config: Config, process: Process) -> anyhow::Result<Parts> {
    let clock = Clock::start();
    let shown = Shown::open(&config, process.filter, clock).await?;
    let api_listener = listen("api_listen", config.api_listen).await?;
    let agent_listener = listen("agent_listen", config.agent_listen).await?;
    config.listens_for_agents(agent_listener.local_addr()?);
    let options = Options { path: config.data_dir.join(STORE), cache_bytes: config.cache_bytes };
    std::fs::create_dir_all(&config.data_dir)
        .with_context(|| format!("data_dir {} cannot be made", config.data_dir.display()))?;
    let writes = shown.metrics().writes();
    let (open, reserve) = (process.open, config.disk_reserve);
    let store = blocking::run(move || open(&options, writes, reserve))
        .await?
        .context("the store cannot be opened")?;
    stored_time::compare(&*store, clock).await.context("the latest time in the store cannot be read")?;
    let sealer = secrets::data_keys::open(&*store, &config.keks, clock.wall());
    let sealer = sealer.await.context("the secrets in the store cannot be opened")?;
    begin_audit(&*store, &sealer, &config, clock).await?;
    let mut parts = Parts::build(store, sealer, &config, shown, clock).await?;
    if !config.insecure_loopback {
        show_bootstrap_token(&parts, &config).await?;
    }
    info!(
        api = %api_listener.local_addr()?,
        agents = %agent_listener.local_addr()?,
        epoch = parts.store.epoch(),
        tls = config.tls.is_some(),
        "control plane started"
    );
    if config.insecure_loopback {
        warn!("insecure_loopback: no TLS and no tokens; every process on this machine has full access");
    }
    parts.serve(api_listener, agent_listener, &config).await?;
    Ok(parts)
}

/// Compares the audit log with the head that was exported, before anything is appended to it.
async fn begin_audit(
    store: &dyn Store,
    sealer: &Sealer,
    config: &Config,
    clock: Clock,
) -> anyhow::Result<()> {
    let key = sealer.audit_key();
    if let Some(path) = &config.audit_head_file {
        audit_head::compare(store, &key, path).await?;
    }
    Ok(store.authenticate_audit(key, clock.wall()).await?)
}

/// Printed, not logged: logs are kept and read by many.
async fn show_bootstrap_token(parts: &Parts, config: &Config) -> anyhow::Result<()> {
    let api = &parts.api;
    let made = api.tokens.bootstrap(config.bootstrap_token_file.as_deref(), api.clock.wall()).await?;
    if let Some(token) = made {
        println!("The first admin's token, shown this once:\n{}", token.as_str());
    }
    Ok(())
}

async fn listen(name: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("{name} {address} cannot be listened on; choose another address, or stop who uses it")
    })
}

/// Everything that runs.
struct Parts {
    store: Arc<dyn Store>,
    lanes: Lanes,
    api: Api,
    links: Links,
    authorities: Arc<Authorities>,
    health: HealthReporter,
    shown: Shown,
    /// Cancelled when servers must end.
    closing: CancellationToken,
    /// Changes that calls have begun.
    changes: TaskTracker,
    /// These end first, when `closing` is cancelled.
    servers: Tasks,
    /// These end when nothing feeds them any more.
    pipeline: Tasks,
}

/// Ends when the store cannot go on in this process.
async fn failure(store: Arc<dyn Store>) -> anyhow::Result<()> {
    anyhow::bail!(store.failed().await)
}

fn rewrapper(
    store: &Arc<dyn Store>,
    registry: &Arc<Registry>,
    authorities: &Arc<Authorities>,
    sealer: &Sealer,
    config: &Config,
    clock: Clock,
) -> Arc<Rewrapper> {
    let holders =
        Holders { store: store.clone(), registry: registry.clone(), authorities: authorities.clone() };
    Arc::new(Rewrapper::new(holders, sealer.clone(), config.keks.clone(), clock))
}

impl Parts {
    async fn build(
        store: Arc<dyn Store>,
        sealer: Sealer,
        config: &Config,
        shown: Shown,
        clock: Clock,
    ) -> anyhow::Result<Self> {
        let traces = config.export_traces()?;
        let known = Known::load(&store, &sealer, config, clock).await?;
        let Known { registry, agents, pools, tokens, uses, identities, authorities, scheduler } = known;
        let (lanes, inbox) = Lanes::new();
        let (settle, settle_queue) = settle::queue();
        let ((changes, changes_queue), (notices, notices_queue)) = (disabler::queue(), operational::queue());
        let recent = Arc::new(RecentEvents::new(RECENT_BYTES));
        let updates = Updates::new(registry.clone(), store.last_position().await?, clock);
        let (quota, counted) = (&config.tenant_quota, shown.metrics());
        let (emitter, committer) =
            Emitter::new(store.clone(), lanes.clone(), recent.clone(), quota, clock, counted);
        registry.own_quotas().iter().for_each(|(tenant, quota)| emitter.limit(tenant, Some(quota)));
        let dispatcher =
            Dispatcher::new(registry.clone(), recent, store.clone(), uses.clone(), traces.clone(), clock);
        let (closing, (reads, watchers)) = (CancellationToken::new(), readers(&shown, config));
        let api = Api {
            store: store.clone(),
            sealer: sealer.clone(),
            registry: registry.clone(),
            judge: judge(&store, &registry, &shown, clock)?,
            emitter,
            lanes: lanes.clone(),
            changes: changes.clone(),
            updates: updates.clone(),
            reads,
            watchers,
            watched: watched(&store, &authorities, config),
            agents: agents.clone(),
            pools,
            diagnoses: Diagnoses::new(clock),
            webhook_origin: config.webhook_origin.clone(),
            tokens: tokens.clone(),
            uses: uses.clone(),
            identities,
            authorities: authorities.clone(),
            agent_address: config.agent_address.clone(),
            rewrapper: rewrapper(&store, &registry, &authorities, &sealer, config, clock),
            operations: Arc::new(Operations::load(store.clone(), clock, shown.metrics().reads()).await?),
            backups: Arc::new(Backups::new(shown.metrics(), clock)),
            caller: Caller::nobody(),
            traces,
            clock,
            audit_head_file: config.audit_head_file.clone(),
            max_event_bytes: config.max_event_bytes,
            stopping: shown.stop_token(),
        };
        let links = links(&api, dispatcher, shown.metrics(), closing.clone());
        let runner = Runner::new(scheduler, inbox, store.clone(), settle, changes, notices.clone(), clock);
        let mut pipeline = shown.supervisor().tasks();
        pipeline.spawn(tasks::COMMITTER, committer.run());
        pipeline.spawn(tasks::SCHEDULER, runner.run());
        let settler = settle::run(settle_queue, store.clone(), lanes.clone(), updates, shown.metrics());
        pipeline.spawn(tasks::SETTLER, settler);
        house::follow(&mut pipeline, &api, (changes_queue, notices_queue), notices, config);
        house::keep(&mut pipeline, &api, config, shown.metrics());
        let (health, changes, servers) =
            (HealthReporter::new(), TaskTracker::new(), shown.supervisor().tasks());
        Ok(Self { store, lanes, api, links, authorities, health, shown, closing, changes, servers, pipeline })
    }

    async fn serve(&mut self, api: TcpListener, agents: TcpListener, config: &Config) -> anyhow::Result<()> {
        let (max_api, max_agents) =
            listen::connections(config.max_api_connections, config.max_agent_connections);
        let connections = |port| self.shown.metrics().connections(port);
        let (to_api, of_agents) = (connections("api"), connections("agents"));
        let ages = ages::spread(config.max_api_connection_age);
        let api = Listener {
            name: "api",
            listener: api,
            tls: self.api_tls(config)?,
            max_connections: max_api,
            shared: true,
            shown: to_api,
            servers: ages.len(),
            floods: self.shown.metrics().floods(),
        };
        let secured = !config.insecure_loopback;
        let agents = Listener {
            name: "agents",
            listener: agents,
            tls: secured.then(|| self.authorities.tls()),
            max_connections: max_agents,
            // Each agent has its own bound; who has a place keeps it.
            shared: false,
            shown: of_agents,
            servers: 1,
            floods: self.shown.metrics().floods(),
        };
        let gate = Gate::new(secured.then(|| self.api.tokens.clone()), self.api.clock);
        let gate = gate.tracked(self.changes.clone()).sharing(self.api.reads.clone());
        let gate = gate.limited(config.max_token_calls, self.shown.metrics());
        let closing = || self.closing.clone().cancelled_owned();
        let ((to_api, accept_to_api), (of_agents, accept_agents)) = (api.open(), agents.open());
        let mut api_servers = Vec::with_capacity(ages.len());
        for (age, to_api) in ages.into_iter().zip(to_api) {
            let router = self.api_router(gate.clone(), age)?;
            api_servers.push(Box::pin(router.serve_with_incoming_shutdown(to_api, closing())));
        }
        let api = ages::run_all(api_servers, self.closing.clone());
        let agents = futures::stream::select_all(of_agents);
        let agents = self.agent_router().serve_with_incoming_shutdown(agents, closing());
        self.servers.spawn(tasks::API_CONNECTIONS, accept_to_api);
        self.servers.spawn(tasks::AGENT_CONNECTIONS, accept_agents);
        self.servers.spawn_fallible(tasks::API_SERVER, api);
        self.servers.spawn_fallible(tasks::AGENT_SERVER, async { agents.await.map_err(anyhow::Error::from) });
        self.report_health(tonic_health::ServingStatus::Serving).await;
        self.shown.serving(&self.api, &mut self.pipeline);
        Ok(())
    }

    /// The API's TLS settings, followed as their files change.
    fn api_tls(&mut self, config: &Config) -> anyhow::Result<Option<SharedTls>> {
        let Some(files) = &config.tls else { return Ok(None) };
        let (shared, follow) =
            files.clone().share(self.api.watched.api_certificate.clone(), self.api.clock)?;
        self.pipeline.spawn(tasks::TLS_FILES, follow);
        Ok(Some(shared))
    }

    fn agent_router(&self) -> Router<Stack<Calls, Identity>> {
        let clock = self.api.clock;
        let registrar = Registrar::new(
            self.authorities.clone(),
            self.links.identities.clone(),
            clock,
            self.links.metrics.clone(),
        );
        let link = SessionServiceServer::new(self.links.clone()).max_decoding_message_size(MAX_AGENT_MESSAGE);
        let enrollment =
            EnrollmentServiceServer::new(registrar.clone()).max_decoding_message_size(MAX_ENROLLMENT);
        let renewal = IdentityServiceServer::new(registrar).max_decoding_message_size(MAX_ENROLLMENT);
        // Who is known there has shown a certificate before it called.
        let calls = Calls { caller: |_| None };
        server(AGENT_STREAMS).layer(calls).add_service(link).add_service(enrollment).add_service(renewal)
    }

    fn api_router(
        &self,
        gate: Gate,
        age: Option<Duration>,
    ) -> anyhow::Result<Router<Stack<Calls, Stack<Gate, Identity>>>> {
        let api = &self.api;
        let events = v1::event_service_server::EventServiceServer::new(api.clone());
        let deliveries = v1::delivery_service_server::DeliveryServiceServer::new(api.clone());
        let health = HealthServer::new(HealthService::from_health_reporter(self.health.clone()));
        let reflection = || {
            let builder = tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(postrider_proto::DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
            SERVICES.iter().fold(builder, |builder, name| builder.with_service_name(*name))
        };
        let calls = Calls { caller: |call| call.get::<Caller>().map(Caller::holder) };
        Ok(ages::limited(server(API_STREAMS), age)
            .layer(gate)
            .layer(calls)
            .add_service(events.max_decoding_message_size(MAX_MESSAGE))
            .add_service(deliveries)
            .add_service(v1::tenant_service_server::TenantServiceServer::new(api.clone()))
            .add_service(v1::event_type_service_server::EventTypeServiceServer::new(api.clone()))
            .add_service(v1::subscription_service_server::SubscriptionServiceServer::new(api.clone()))
            .add_service(v1::signing_key_service_server::SigningKeyServiceServer::new(api.clone()))
            .add_service(v1::operation_service_server::OperationServiceServer::new(api.clone()))
            .add_service(v1::agent_service_server::AgentServiceServer::new(api.clone()))
            .add_service(v1::pool_service_server::PoolServiceServer::new(api.clone()))
            .add_service(v1::token_service_server::TokenServiceServer::new(api.clone()))
            .add_service(v1::secret_service_server::SecretServiceServer::new(api.clone()))
            .add_service(v1::system_service_server::SystemServiceServer::new(api.clone()))
            .add_service(v1::audit_service_server::AuditServiceServer::new(api.clone()))
            .add_service(v1::backup_service_server::BackupServiceServer::new(api.clone()))
            .add_service(health.max_decoding_message_size(MAX_QUESTION))
            .add_service(reflection().build_v1()?.max_decoding_message_size(MAX_QUESTION))
            .add_service(reflection().build_v1alpha()?.max_decoding_message_size(MAX_QUESTION)))
    }

    /// For the whole server, and for the service that emits.
    async fn report_health(&self, status: tonic_health::ServingStatus) {
        self.health.set_service_status("", status).await;
        self.health.set_service_status("postrider.v1.EventService", status).await;
    }
}

fn server(streams: u32) -> Server {
    Server::builder()
        .tcp_nodelay(true)
        .initial_stream_window_size(1024 * 1024)
        .initial_connection_window_size(4 * 1024 * 1024)
        .max_concurrent_streams(streams)
        .http2_max_header_list_size(MAX_HEADERS)
        .http2_max_pending_accept_reset_streams(Some(MAX_TAKEN_BACK))
        .http2_max_local_error_reset_streams(Some(MAX_REFUSED))
        .http2_keepalive_interval(Some(Duration::from_secs(20)))
        .http2_keepalive_timeout(Some(Duration::from_secs(20)))
}

/// Turns of those who read, and room for those who watch.
fn readers(shown: &Shown, config: &Config) -> (Reads, Arc<Watchers>) {
    let counts = shown.metrics().reads();
    let watchers = Arc::new(Watchers::new(config.watchers, counts.clone()));
    (Reads::new(shown.stop_token(), counts), watchers)
}

fn links(api: &Api, dispatcher: Dispatcher, metrics: Arc<Metrics>, closing: CancellationToken) -> Links {
    Links {
        lanes: api.lanes.clone(),
        visits: Visits::new(dispatcher.clock),
        tags: JobTags::new(&*api.sealer.job_tag_key(), api.store.fence()),
        misconduct: Arc::new(Misconduct::new(api.identities.clone(), metrics.clone())),
        dispatcher,
        agents: api.agents.clone(),
        identities: api.identities.clone(),
        diagnoses: api.diagnoses.clone(),
        metrics,
        closing,
        sessions: TaskTracker::new(),
    }
}

/// What judges events, with its threads.
fn judge(
    store: &Arc<dyn Store>,
    registry: &Arc<Registry>,
    shown: &Shown,
    clock: Clock,
) -> anyhow::Result<Judge> {
    let compute = Compute::start(None, clock, shown.metrics());
    let compute = compute.context("no threads could be started; raise the limit of processes")?;
    let schemas = Schemas::new(store.clone(), compute.clone(), shown.metrics());
    Ok(Judge::new(registry.clone(), Arc::new(schemas), compute))
}

fn watched(store: &Arc<dyn Store>, authorities: &Arc<Authorities>, config: &Config) -> Arc<Watched> {
    Arc::new(Watched {
        store: store.clone(),
        data_dir: config.data_dir.clone(),
        api_certificate: ApiCertificate::default(),
        authorities: authorities.clone(),
    })
}

#[cfg(test)]
mod tests;
