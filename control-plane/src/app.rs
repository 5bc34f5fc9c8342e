//! Wires the control plane together, runs it, and stops it.
//!
//! Dramatis personae, in the order in which an event meets them: the **API server** ([`crate::api`]), the **committer**
//! ([`crate::emit`]), the store's **writer** thread, the **lanes** task ([`crate::lanes`]), one **session** task a
//! stream of an agent ([`crate::link`]), the **settler** ([`crate::settle`]); beside them the **disabler**, which
//! disables subscriptions whose endpoint is gone, and **retention** ([`crate::retention`]).
//!
//! A stop goes the same way: no new event, no new job, what is under way ends and is settled, sessions end, the store
//! is flushed.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use postrider_domain::id::SubscriptionId;
use postrider_proto::agent::session_service_server::SessionServiceServer;
use postrider_proto::v1;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::server::Router;
use tonic::transport::{Certificate, Server, ServerTlsConfig};
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};
use tower::layer::util::{Identity, Stack};
use tracing::{error, info, warn};

use crate::agents::Agents;
use crate::api::{Api, Caller, Gate};
use crate::clock::Clock;
use crate::config::{Config, Tls};
use crate::dispatch::Dispatcher;
use crate::emit::Emitter;
use crate::lanes::{Lanes, Runner};
use crate::link::Links;
use crate::recent::RecentEvents;
use crate::registry::Registry;
use crate::retention::Keep;
use crate::schedule::{LaneSettings, Scheduler};
use crate::store::{Options, SledStore, Store};
use crate::tokens::Tokens;
use crate::watch::Updates;
use crate::{retention, settle};

/// Bytes of recently accepted events kept in memory.
const RECENT_BYTES: usize = 16 * 1024 * 1024;
/// Subscriptions that may wait to be disabled.
const DISABLE_QUEUE: usize = 10_000;
/// The largest request: a batch of events, or the Hello of an agent with many jobs.
const MAX_MESSAGE: usize = 5 * 1024 * 1024;
/// What reflection lists: the services of the API's port.
const SERVICES: [&str; 10] = [
    "grpc.health.v1.Health",
    "postrider.v1.AgentService",
    "postrider.v1.AuditService",
    "postrider.v1.DeliveryService",
    "postrider.v1.EventService",
    "postrider.v1.EventTypeService",
    "postrider.v1.SigningKeyService",
    "postrider.v1.SubscriptionService",
    "postrider.v1.TenantService",
    "postrider.v1.TokenService",
];
/// How long ended sessions and calls may take to go.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// Runs the control plane until `stop` is done, then stops it within its grace.
///
/// # Errors
/// When it cannot start, or a part of it fails.
pub async fn run(config: Config, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    let api_listener = listen("api_listen", config.api_listen).await?;
    let agent_listener = listen("agent_listen", config.agent_listen).await?;
    let options = Options { path: config.data_dir.join("store"), cache_bytes: config.cache_bytes };
    std::fs::create_dir_all(&config.data_dir)
        .with_context(|| format!("data_dir {} cannot be made", config.data_dir.display()))?;
    let opened = tokio::task::spawn_blocking(move || SledStore::open(&options)).await?;
    let store: Arc<dyn Store> = Arc::new(opened.context("the store cannot be opened")?);
    let mut parts = Parts::build(store, &config).await?;
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
    if config.tls.is_none() {
        warn!(
            "without TLS: only programs on this machine can connect; set tls_cert and tls_key to serve others"
        );
    }
    parts.serve(api_listener, agent_listener, config.tls.as_ref(), config.insecure_loopback).await?;
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
    health: HealthReporter,
    /// Cancelled when servers must end.
    closing: CancellationToken,
    /// Fails as a whole: each of these runs as long as the program.
    tasks: JoinSet<anyhow::Result<()>>,
    /// Ends by itself when what feeds it has ended.
    pipeline: JoinSet<()>,
}

impl Parts {
    async fn build(store: Arc<dyn Store>, config: &Config) -> anyhow::Result<Self> {
        let clock = Clock::start();
        let registry = Arc::new(Registry::load(&*store).await?);
        let (agents, expected) = Agents::load(store.clone()).await?;
        let agents = Arc::new(agents);
        let tokens = Arc::new(Tokens::load(store.clone()).await?);
        let mut scheduler = Scheduler::new(store.epoch());
        scheduler.await_agents(expected, clock.now() + config.resume_window);
        for row in registry.all() {
            let lane = store.lane(row.subscription.id).await?;
            scheduler.restore(LaneSettings::from(&row.subscription), lane, clock.now());
        }
        let (lanes, inbox) = Lanes::new();
        let (settle, settle_queue) = settle::queue();
        let (disable, disable_queue) = mpsc::channel(DISABLE_QUEUE);
        let recent = Arc::new(RecentEvents::new(RECENT_BYTES));
        let updates = Updates::new(registry.clone());
        let rate = config.tenant_emit_rate;
        let (emitter, committer) = Emitter::new(store.clone(), lanes.clone(), recent.clone(), rate, clock);
        let dispatcher = Dispatcher { registry: registry.clone(), recent, store: store.clone(), clock };
        let (closing, stopping) = (CancellationToken::new(), CancellationToken::new());
        let links = Links {
            lanes: lanes.clone(),
            dispatcher,
            agents: agents.clone(),
            closing: closing.clone(),
            sessions: TaskTracker::new(),
        };
        let api = Api {
            store: store.clone(),
            registry,
            emitter,
            lanes: lanes.clone(),
            updates: updates.clone(),
            agents: agents.clone(),
            tokens: tokens.clone(),
            caller: Caller::nobody(),
            clock,
            max_event_bytes: config.max_event_bytes,
            stopping,
        };
        let runner = Runner::new(scheduler, inbox, store.clone(), settle, disable, clock);
        let (events, delivered_data) = (config.retain_events, config.retain_delivered_data);
        let keep = Keep { events, delivered_data, audit: config.retain_audit };
        let mut pipeline = JoinSet::new();
        pipeline.spawn(committer.run());
        pipeline.spawn(runner.run());
        pipeline.spawn(settle::run(settle_queue, store.clone(), lanes.clone(), updates));
        pipeline.spawn(disable_gone(disable_queue, api.by_itself()));
        pipeline.spawn(tokens.tend(clock));
        pipeline.spawn(retention::run(store.clone(), agents, keep, clock));
        let health = HealthReporter::new();
        Ok(Self { store, lanes, api, links, health, closing, tasks: JoinSet::new(), pipeline })
    }

    async fn serve(
        &mut self,
        api: TcpListener,
        agents: TcpListener,
        tls: Option<&Tls>,
        insecure: bool,
    ) -> anyhow::Result<()> {
        let gate = Gate::new((!insecure).then(|| self.api.tokens.clone()), self.api.clock);
        let api_router = self.api_router(gate, tls)?;
        let link = SessionServiceServer::new(self.links.clone()).max_decoding_message_size(4 * MAX_MESSAGE);
        let agent_router = server(tls)?.add_service(link);
        let incoming =
            |listener| tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
        let closing = || self.closing.clone().cancelled_owned();
        let api = api_router.serve_with_incoming_shutdown(incoming(api), closing());
        let agents = agent_router.serve_with_incoming_shutdown(incoming(agents), closing());
        self.tasks.spawn(async move { api.await.context("the API's server failed") });
        self.tasks.spawn(async move { agents.await.context("the agents' server failed") });
        self.report_health(tonic_health::ServingStatus::Serving).await;
        Ok(())
    }

    fn api_router(&self, gate: Gate, tls: Option<&Tls>) -> anyhow::Result<Router<Stack<Gate, Identity>>> {
        let api = &self.api;
        let events = v1::event_service_server::EventServiceServer::new(api.clone());
        let deliveries = v1::delivery_service_server::DeliveryServiceServer::new(api.clone());
        let reflection = || {
            let builder = tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(postrider_proto::DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
            SERVICES.iter().fold(builder, |builder, name| builder.with_service_name(*name))
        };
        Ok(server(tls)?
            .layer(gate)
            .add_service(events.max_decoding_message_size(MAX_MESSAGE))
            .add_service(deliveries)
            .add_service(v1::tenant_service_server::TenantServiceServer::new(api.clone()))
            .add_service(v1::event_type_service_server::EventTypeServiceServer::new(api.clone()))
            .add_service(v1::subscription_service_server::SubscriptionServiceServer::new(api.clone()))
            .add_service(v1::signing_key_service_server::SigningKeyServiceServer::new(api.clone()))
            .add_service(v1::agent_service_server::AgentServiceServer::new(api.clone()))
            .add_service(v1::token_service_server::TokenServiceServer::new(api.clone()))
            .add_service(v1::audit_service_server::AuditServiceServer::new(api.clone()))
            .add_service(HealthServer::new(HealthService::from_health_reporter(self.health.clone())))
            .add_service(reflection().build_v1()?)
            .add_service(reflection().build_v1alpha()?))
    }

    /// For the whole server, and for the service that emits.
    async fn report_health(&self, status: tonic_health::ServingStatus) {
        self.health.set_service_status("", status).await;
        self.health.set_service_status("postrider.v1.EventService", status).await;
    }

    async fn stop(mut self, grace: Duration) -> anyhow::Result<()> {
        self.api.stopping.cancel();
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
        self.store.close().await.context("the store could not be flushed")?;
        info!("stopped");
        Ok(())
    }
}

fn server(tls: Option<&Tls>) -> anyhow::Result<Server> {
    let server = Server::builder()
        .tcp_nodelay(true)
        .initial_stream_window_size(1024 * 1024)
        .initial_connection_window_size(4 * 1024 * 1024)
        .http2_keepalive_interval(Some(Duration::from_secs(20)))
        .http2_keepalive_timeout(Some(Duration::from_secs(20)));
    let Some(tls) = tls else { return Ok(server) };
    let mut config =
        ServerTlsConfig::new().identity(tonic::transport::Identity::from_pem(&tls.cert, &tls.key));
    if let Some(authority) = &tls.client_ca {
        config = config.client_ca_root(Certificate::from_pem(authority));
    }
    server.tls_config(config).context("tls_cert, tls_key or tls_client_ca cannot be used")
}

/// Disables subscriptions whose endpoint is gone.
async fn disable_gone(mut gone: mpsc::Receiver<SubscriptionId>, api: Api) {
    while let Some(id) = gone.recv().await {
        warn!(subscription = %id, "the endpoint answered 410 Gone; the subscription is disabled");
        let reason = "the endpoint answered 410 Gone";
        while let Err(error) = api.disable(id, reason).await {
            warn!(subscription = %id, %error, "the subscription is held, but not disabled yet; trying again");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}
