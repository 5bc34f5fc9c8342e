//! Wires the control plane together, runs it, and stops it.
//!
//! Dramatis personae, in the order in which an event meets them: the **API server** ([`crate::api`]), the **committer**
//! ([`crate::emit`]), the store's **writer** thread, the **lanes** task ([`crate::lanes`]), one **session** task a
//! stream of an agent ([`crate::link`]), the **settler** ([`crate::settle`]); beside them the **disabler**
//! ([`crate::disabler`]), **operational** events ([`crate::operational`]), the **rewrapper** ([`crate::secrets::rewrap`]),
//! the **operations** ([`crate::operations`]), and **retention** ([`crate::retention`]).
//!
//! A stop goes the same way: no new event, no new job, what is under way ends and is settled, sessions end, the store
//! is flushed.

mod known;
mod shown;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use postrider_proto::agent::enrollment_service_server::EnrollmentServiceServer;
use postrider_proto::agent::identity_service_server::IdentityServiceServer;
use postrider_proto::agent::session_service_server::SessionServiceServer;
use postrider_proto::v1;
use postrider_telemetry::log;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Server;
use tonic::transport::server::Router;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};
use tower::layer::util::{Identity, Stack};
use tracing::{error, info, warn};

use self::known::Known;
use self::shown::Shown;
use crate::api::{Api, Caller, Gate};
use crate::authority::Authorities;
use crate::backups::Backups;
use crate::clock::Clock;
use crate::config::Config;
use crate::diagnoses::Diagnoses;
use crate::dispatch::Dispatcher;
use crate::emit::Emitter;
use crate::identities::Identities;
use crate::lanes::{Lanes, Runner};
use crate::link::{Links, Registrar, Visits};
use crate::listen::{self, Calls, Door, SharedTls};
use crate::metrics::Metrics;
use crate::metrics::upkeep::Watched;
use crate::operations::Operations;
use crate::recent::RecentEvents;
use crate::registry::Registry;
use crate::retention::Keep;
use crate::secrets::Sealer;
use crate::secrets::rewrap::{Holders, Rewrapper};
use crate::store::{Options, STORE, SledStore, Store};
use crate::watch::Updates;
use crate::{disabler, operational, retention, secrets, settle};

/// Bytes of recently accepted events kept in memory.
const RECENT_BYTES: usize = 16 * 1024 * 1024;
/// The largest request: a batch of events.
const MAX_MESSAGE: usize = 5 * 1024 * 1024;
/// The largest message of an agent: a Hello that names as many jobs and outcomes as an agent can have, or outcomes.
const MAX_AGENT_MESSAGE: usize = 8 * 1024 * 1024;
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
const MAX_ENROLMENT: usize = 16 * 1024;
/// Calls of one connection at once: to the API, and of an agent, which has one session and renews.
const API_STREAMS: u32 = 256;
const AGENT_STREAMS: u32 = 16;
/// Bytes of a request's headers, as most gRPC servers have it.
const MAX_HEADERS: u32 = 8 * 1024;
/// Calls that a client may have taken back before they were looked at: more end the connection.
const MAX_TAKEN_BACK: usize = 20;
/// Calls of one connection that may be refused for what is wrong with them, such as being too many at once: more end it.
const MAX_REFUSED: usize = 1024;
/// How often it is looked at what time brings to certificates and join tokens.
const TEND_EVERY: Duration = Duration::from_secs(1);
/// How often join tokens and identities are forgotten that are too old.
const FORGET_EVERY: u32 = 60;
/// How long ended sessions and calls may take to go.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// Runs the control plane until `stop` is done, then stops it within its grace. Without a log filter of its own, the
/// admin port cannot change what is logged.
///
/// # Errors
/// When it cannot start, or a part of it fails.
pub async fn run(
    mut config: Config,
    filter: Option<log::Filter>,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let clock = Clock::start();
    let shown = Shown::open(&config, filter, clock).await?;
    let api_listener = listen("api_listen", config.api_listen).await?;
    let agent_listener = listen("agent_listen", config.agent_listen).await?;
    config.listens_for_agents(agent_listener.local_addr()?);
    let options = Options { path: config.data_dir.join(STORE), cache_bytes: config.cache_bytes };
    std::fs::create_dir_all(&config.data_dir)
        .with_context(|| format!("data_dir {} cannot be made", config.data_dir.display()))?;
    let writes = shown.metrics().writes();
    let opened = tokio::task::spawn_blocking(move || SledStore::open_measured(&options, writes)).await?;
    let store: Arc<dyn Store> = Arc::new(opened.context("the store cannot be opened")?);
    let sealer = secrets::data_keys::open(&*store, &config.keks, clock.wall());
    let sealer = sealer.await.context("the secrets in the store cannot be opened")?;
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
        warn!("insecure_loopback: no TLS and no tokens; whoever is on this machine can do everything");
    }
    parts.serve(api_listener, agent_listener, &config).await?;
    tokio::select! {
        () = stop => {}
        ended = parts.tasks.join_next() => {
            let ended = ended.map(|ended| ended.unwrap_or_else(|error| Err(error.into())));
            error!(?ended, "a part of the control plane has ended; stopping");
            parts.stop(config.shutdown_grace).await?;
            anyhow::bail!("a part of the control plane has ended by itself; its log says why");
        }
    }
    info!("stopping: finishing what is under way");
    parts.stop(config.shutdown_grace).await
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
    /// Fails as a whole: each of these runs as long as the program.
    tasks: JoinSet<anyhow::Result<()>>,
    /// Ends by itself when what feeds it has ended.
    pipeline: JoinSet<()>,
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
        let (changes, changes_queue) = disabler::queue();
        let (notices, notices_queue) = operational::queue();
        let recent = Arc::new(RecentEvents::new(RECENT_BYTES));
        let updates = Updates::new(registry.clone(), store.last_position().await?, clock);
        let (rate, counted) = (config.tenant_emit_rate, shown.metrics());
        let (emitter, committer) =
            Emitter::new(store.clone(), lanes.clone(), recent.clone(), rate, clock, counted);
        registry.paces().iter().for_each(|(tenant, pace)| emitter.limit(tenant, Some(*pace)));
        let dispatcher =
            Dispatcher::new(registry.clone(), recent, store.clone(), uses.clone(), traces.clone(), clock);
        let (closing, stopping) = (CancellationToken::new(), CancellationToken::new());
        let api = Api {
            store: store.clone(),
            sealer: sealer.clone(),
            registry: registry.clone(),
            emitter,
            lanes: lanes.clone(),
            changes: changes.clone(),
            updates: updates.clone(),
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
            operations: Arc::new(Operations::load(store.clone(), clock).await?),
            backups: Arc::new(Backups::new(shown.metrics(), clock)),
            caller: Caller::nobody(),
            traces,
            clock,
            max_event_bytes: config.max_event_bytes,
            stopping,
        };
        let links = links(&api, dispatcher, shown.metrics(), closing.clone());
        let runner = Runner::new(scheduler, inbox, store.clone(), settle, changes, notices.clone(), clock);
        let mut pipeline = JoinSet::new();
        pipeline.spawn(committer.run());
        pipeline.spawn(runner.run());
        pipeline.spawn(settle::run(settle_queue, store.clone(), lanes.clone(), updates, shown.metrics()));
        pipeline.spawn(disabler::run(changes_queue, api.by_itself(), notices.clone()));
        pipeline.spawn(operational::run(notices_queue, api.by_itself(), notices, config.thresholds));
        keep_house(&mut pipeline, &api, config);
        let (health, tasks) = (HealthReporter::new(), JoinSet::new());
        Ok(Self { store, lanes, api, links, authorities, health, shown, closing, tasks, pipeline })
    }

    async fn serve(&mut self, api: TcpListener, agents: TcpListener, config: &Config) -> anyhow::Result<()> {
        let (max_api, max_agents) =
            listen::connections(config.max_api_connections, config.max_agent_connections);
        let connections = |port| self.shown.metrics().connections(port);
        let (to_api, of_agents) = (connections("api"), connections("agents"));
        let api = Door {
            name: "api",
            listener: api,
            tls: self.api_tls(config)?,
            max_connections: max_api,
            connections: to_api,
        };
        let secured = !config.insecure_loopback;
        let agents = Door {
            name: "agents",
            listener: agents,
            tls: secured.then(|| self.authorities.tls()),
            max_connections: max_agents,
            connections: of_agents,
        };
        let gate = Gate::new(secured.then(|| self.api.tokens.clone()), self.api.clock);
        let closing = || self.closing.clone().cancelled_owned();
        let api = self.api_router(gate)?.serve_with_incoming_shutdown(api.open(), closing());
        let agents = self.agent_router().serve_with_incoming_shutdown(agents.open(), closing());
        self.tasks.spawn(async move { api.await.context("the API's server failed") });
        self.tasks.spawn(async move { agents.await.context("the agents' server failed") });
        self.report_health(tonic_health::ServingStatus::Serving).await;
        self.shown.serving(&self.api, &mut self.pipeline);
        Ok(())
    }

    /// The API's TLS settings, followed as their files change.
    fn api_tls(&mut self, config: &Config) -> anyhow::Result<Option<SharedTls>> {
        let Some(files) = &config.tls else { return Ok(None) };
        let (shared, follow) = files.clone().share()?;
        self.pipeline.spawn(follow);
        Ok(Some(shared))
    }

    fn agent_router(&self) -> Router<Stack<Calls, Identity>> {
        let clock = self.api.clock;
        let registrar = Registrar::new(self.authorities.clone(), self.links.identities.clone(), clock);
        let link = SessionServiceServer::new(self.links.clone()).max_decoding_message_size(MAX_AGENT_MESSAGE);
        let enrolment =
            EnrollmentServiceServer::new(registrar.clone()).max_decoding_message_size(MAX_ENROLMENT);
        let renewal = IdentityServiceServer::new(registrar).max_decoding_message_size(MAX_ENROLMENT);
        // Who is known there has shown a certificate before it called.
        let calls = Calls { from_somebody_known: |_| false };
        server(AGENT_STREAMS).layer(calls).add_service(link).add_service(enrolment).add_service(renewal)
    }

    fn api_router(&self, gate: Gate) -> anyhow::Result<Router<Stack<Calls, Stack<Gate, Identity>>>> {
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
        let calls = Calls { from_somebody_known: |call| call.get::<Caller>().is_some() };
        Ok(server(API_STREAMS)
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

    async fn stop(mut self, grace: Duration) -> anyhow::Result<()> {
        self.api.stopping.cancel();
        self.shown.stopping();
        self.report_health(tonic_health::ServingStatus::NotServing).await;
        if tokio::time::timeout(grace, self.lanes.drain()).await.is_err() {
            warn!(?grace, "attempts are still under way; agents will report them after the next start");
        }
        self.closing.cancel();
        self.links.sessions.close();
        let sessions_end = tokio::time::timeout(CLOSE_WITHIN, self.links.sessions.wait()).await;
        let calls_end =
            tokio::time::timeout(CLOSE_WITHIN, async { while self.tasks.join_next().await.is_some() {} })
                .await;
        if sessions_end.is_err() || calls_end.is_err() {
            warn!("some connections did not end in time; they are cut");
        }
        self.tasks.shutdown().await;
        self.pipeline.shutdown().await;
        self.api.tokens.write_uses().await;
        self.api.uses.write().await;
        let _sent_or_not = tokio::task::spawn_blocking(move || self.api.traces.end()).await;
        self.store.close().await.context("the store could not be flushed")?;
        info!("stopped");
        Ok(())
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

fn links(api: &Api, dispatcher: Dispatcher, metrics: Arc<Metrics>, closing: CancellationToken) -> Links {
    Links {
        lanes: api.lanes.clone(),
        visits: Visits::new(dispatcher.clock),
        dispatcher,
        agents: api.agents.clone(),
        identities: api.identities.clone(),
        diagnoses: api.diagnoses.clone(),
        metrics,
        closing,
        sessions: TaskTracker::new(),
    }
}

fn watched(store: &Arc<dyn Store>, authorities: &Arc<Authorities>, config: &Config) -> Arc<Watched> {
    Arc::new(Watched {
        store: store.clone(),
        data_dir: config.data_dir.clone(),
        api_certificate: config.tls.as_ref().map(|files| files.cert.clone()),
        authorities: authorities.clone(),
    })
}

/// What goes on by itself, whatever is delivered.
fn keep_house(pipeline: &mut JoinSet<()>, api: &Api, config: &Config) {
    let (clock, rewrapper) = (api.clock, api.rewrapper.clone());
    pipeline.spawn(api.tokens.clone().tend(clock));
    pipeline.spawn(api.uses.clone().tend());
    pipeline.spawn(tend(api.authorities.clone(), api.identities.clone(), clock));
    pipeline.spawn(async move { rewrapper.run().await });
    pipeline.spawn(api.operations.clone().run(api.by_itself()));
    pipeline.spawn(retention::run(api.store.clone(), api.agents.clone(), Keep::of(config), clock));
}

/// What time brings to authorities, join tokens and identities.
async fn tend(authorities: Arc<Authorities>, identities: Arc<Identities>, clock: Clock) {
    let mut told = String::new();
    for round in (0..FORGET_EVERY).cycle() {
        tokio::time::sleep(TEND_EVERY).await;
        let mut done = authorities.tend(clock.wall()).await.map_err(|error| error.to_string());
        if round == 0 && done.is_ok() {
            done = identities.forget_old(clock.wall()).await.map_err(|error| error.to_string());
        }
        match done {
            Ok(()) => told.clear(),
            Err(error) if error != told => {
                warn!("what was known of agents' certificates before stays in force: {error}");
                told = error;
            }
            Err(_) => {}
        }
    }
}
