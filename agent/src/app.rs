//! Wires the agent together and keeps its tasks.
//!
//! Dramatis personae: each stream to the control plane is a task ([`crate::session`]); each of its jobs is a
//! task of that stream; each connection to an endpoint has a task in the transport's pool. Beside the streams the
//! certificate manager renews it ([`crate::identity`]); when the identity has ended, its streams end, and those of
//! the next one begin anew, as another agent. One task keeps the transport up with the world:
//! idle connections, this machine's addresses, credentials on disk. Whatever ends with an error ends all; and the first of
//! these tasks ([`crate::tasks`]) that panics or ends too early ends the process with an error that names it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use postrider_domain::egress::Policy;
use postrider_telemetry::admin::{Port, PortError, Program};
use postrider_telemetry::tasks::{TaskFailed, Tasks};
use postrider_telemetry::traces::Traces;
use postrider_telemetry::{blocking, log};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::admin::Admin;
use crate::config::{Config, ControlPlane, Enrolled, Plaintext};
use crate::dial::tls::{AuthorityFileError, read_authorities};
use crate::dial::{Dialer, NoServerName, Route, Security};
use crate::identity::refusals::RefusalCount;
use crate::identity::{CertificateManager, Ended, Found, IdentityError, Trust};
use crate::session::{Credit, Identity, Link, Rejected, Stream};
use crate::shortage::{Room, Shortages};
use crate::transport::Transport;
use crate::transport::guard::Guard;
use crate::transport::http::{self, HttpTransport, TransportError};
use crate::transport::machine;
use crate::transport::tls::system_roots;
use crate::transport::traced::Traced;
use crate::{outbox, tasks};

/// Why the agent ended other than by doing what it was told.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// Coming back is useless until somebody changes something.
    #[error(transparent)]
    Rejected(#[from] Rejected),
    /// There is no identity, or none that is of use.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The way to endpoints could not be set up.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The file of authorities is no good.
    #[error("`tls.ca` cannot be used")]
    Authorities(#[from] AuthorityFileError),
    /// The collector's settings are of no use.
    #[error("traces cannot be exported: {0}")]
    Traces(String),
    /// The control plane's host cannot be in a certificate.
    #[error(transparent)]
    ServerName(#[from] NoServerName),
    /// Health and metrics cannot be asked for.
    #[error(transparent)]
    Admin(#[from] PortError),
    /// A task died of a fault of ours.
    #[error(transparent)]
    Task(#[from] TaskFailed),
    /// Told to stop, and not done in time.
    #[error("stopped after a grace period of {}s with jobs in flight or unacknowledged outcomes", .0.as_secs())]
    GraceExceeded(Duration),
}

/// How long jobs under way may take to end after a task has failed.
const FAILED_GRACE: Duration = Duration::from_secs(5);
/// How long the last spans may take to go to the collector.
const TRACES_WITHIN: Duration = Duration::from_secs(6);
/// How long streams may take to yield when they are aborted.
const ABORT_WITHIN: Duration = Duration::from_secs(1);
/// Outcomes of streams that wait to be heard: an agent has few streams, and each sends one.
const ENDS: usize = 1;

/// Runs the agent until `stop` is cancelled and everything is finished and reported, or the grace is over. Without a log
/// filter of its own, the admin port cannot change what is logged.
///
/// # Errors
///
/// [`AppError`].
pub async fn run(
    config: Config,
    filter: Option<log::Filter>,
    stop: CancellationToken,
) -> Result<(), AppError> {
    run_watched(config, filter, Admin::new(stop.clone()), stop).await
}

async fn run_watched(
    config: Config,
    filter: Option<log::Filter>,
    admin: Arc<Admin>,
    stop: CancellationToken,
) -> Result<(), AppError> {
    let room = Room::make();
    let max_in_flight = room.jobs(config.max_in_flight, config.streams);
    let config = Config { max_in_flight, ..config };
    admin.metrics.places.set(config.max_in_flight.into());
    admin.metrics.capacity.set(i64::from(config.streams) * outbox::Limits::default().count as i64);
    let mut running = admin.supervisor.tasks();
    if let Some(address) = config.admin_listen {
        let port = Port::bind(address).await?;
        running.spawn(tasks::ADMIN_PORT, port.serve(Arc::clone(&admin) as Arc<dyn Program>, filter));
    }
    let policy = Policy { own_addresses: interface_addresses(), ..config.egress.policy.clone() };
    let guard = Arc::new(Guard::new(policy));
    let transport =
        Arc::new(HttpTransport::new(Arc::clone(&guard), transport_settings(&config, room, &admin))?);
    admin.uses(transport.credentials());
    let traces = export_traces(&config)?;
    let traced = Arc::new(Traced::new(Arc::clone(&transport) as Arc<dyn Transport>, traces.clone()));
    running.spawn(tasks::TRANSPORT, async move { transport.keep_up().await });
    let agent = Agent { config: &config, guard, transport: traced, admin, stop };
    let ended = agent.until_end().await;
    let _sent_or_not = timeout(TRACES_WITHIN, blocking::run(move || traces.end())).await;
    ended
}

fn export_traces(config: &Config) -> Result<Traces, AppError> {
    let Some(settings) = &config.traces else { return Ok(Traces::default()) };
    Traces::start(settings, 1.0, "postrider-agent", env!("CARGO_PKG_VERSION")).map_err(AppError::Traces)
}

/// How a stream has ended.
type StreamEnd = Result<(), Rejected>;

/// What every stream needs, whoever the agent is.
struct Agent<'a> {
    config: &'a Config,
    guard: Arc<Guard>,
    transport: Arc<Traced>,
    admin: Arc<Admin>,
    stop: CancellationToken,
}

impl Agent<'_> {
    /// Serves until the stop is done, its grace is over, or a task has failed.
    async fn until_end(&self) -> Result<(), AppError> {
        let (supervisor, grace) = (&self.admin.supervisor, self.config.shutdown_grace);
        let mut serve = Box::pin(supervisor.run(tasks::IDENTITY, self.serve()));
        let ended = tokio::select! {
            ended = &mut serve => ended.map_err(AppError::from).flatten(),
            _failed = supervisor.failed() => {
                // What can be finished and reported is: nobody else knows of it.
                let _finished = timeout(grace.min(FAILED_GRACE), serve).await;
                Ok(())
            }
            () = grace_is_over(&self.stop, grace) => Err(AppError::GraceExceeded(grace)),
        };
        supervisor.failure().map_or(ended, |failed| Err(failed.into()))
    }

    async fn serve(&self) -> Result<(), AppError> {
        match &self.config.control_plane {
            ControlPlane::Plaintext(plaintext) => self.serve_in_the_clear(plaintext).await,
            ControlPlane::Enrolled(enrolled) => self.serve_enrolled(enrolled).await,
        }
    }

    async fn serve_in_the_clear(&self, settings: &Plaintext) -> Result<(), AppError> {
        tracing::warn!(
            "insecure: the connection to the control plane has no TLS; use this for development only"
        );
        let dialer = Dialer::new(settings.address.clone(), None, Route::default(), Arc::clone(&self.guard))?;
        let (_never_renewed, trust) =
            watch::channel(Trust { security: Security::Plaintext, spread: Duration::ZERO, expires: None });
        let link = Link::new(
            Arc::new(dialer),
            trust,
            Arc::<RefusalCount>::default(),
            self.config.max_in_flight_bytes,
        );
        let (_streams, mut ends) =
            self.streams(settings.agent_id.to_string(), settings.pool.to_string(), &link);
        self.all_end(&mut ends).await
    }

    async fn serve_enrolled(&self, settings: &Enrolled) -> Result<(), AppError> {
        let authorities = settings.ca.as_deref().map(read_authorities).transpose()?;
        let found = Found::read(&settings.identity)?;
        let Some(address) = settings.address.clone().or_else(|| found.control_plane().cloned()) else {
            return Err(IdentityError::Ended("this agent has no identity".to_owned()).into());
        };
        let dialer = Dialer::new(
            address,
            settings.server_name.clone(),
            settings.route.clone(),
            Arc::clone(&self.guard),
        )?;
        let dialer = Arc::new(dialer);
        if let Some(proxy) = dialer.proxy() {
            tracing::info!(%proxy, control_plane = %dialer.address(), "connecting to the control plane through a proxy");
        }
        let mut manager =
            CertificateManager::new(settings.identity.clone(), found, Arc::clone(&dialer), authorities)?;
        while let Some(assumed) = manager.identity(&self.stop).await? {
            self.admin.trusts(assumed.trust.clone());
            let link = Link::new(
                Arc::clone(&dialer),
                assumed.trust,
                manager.refusals(),
                self.config.max_in_flight_bytes,
            );
            let (mut streams, mut ends) =
                self.streams(assumed.agent_id.to_string(), assumed.pool.to_string(), &link);
            let ended = tokio::select! {
                ended = self.all_end(&mut ends) => match ended {
                    Err(AppError::Rejected(rejected)) if rejected.is_revocation() => Ended::Revoked(rejected.message),
                    ended => return ended,
                },
                ended = manager.keep() => ended?,
            };
            // Nothing more is started, or reported, as an agent that is none any more.
            for task in streams.shutdown(ABORT_WITHIN).await {
                tracing::warn!(task, "a task did not stop in time; exiting without it");
            }
            manager.give_up(ended)?;
        }
        tracing::info!("agent stopped before it enrolled");
        Ok(())
    }

    /// Starts the streams of an agent. Each sends how it ended to the receiver.
    fn streams(&self, agent_id: String, pool: String, link: &Link) -> (Tasks, mpsc::Receiver<StreamEnd>) {
        let identity = Arc::new(Identity {
            agent_id,
            pool,
            instance_id: format!("{:032x}", rand::random::<u128>()),
            egress_policy_hash: self.guard.policy_hash(),
        });
        tracing::info!(
            agent = identity.agent_id,
            pool = identity.pool,
            instance = identity.instance_id,
            control_plane = %link.address(),
            egress_policy = identity.egress_policy_hash,
            version = env!("CARGO_PKG_VERSION"),
            "agent started"
        );
        let mut streams = self.admin.supervisor.tasks();
        let (ended, ends) = mpsc::channel(ENDS);
        for (number, credit) in (0..).zip(shares(self.config)) {
            let span = tracing::info_span!("stream", number);
            let (identity, transport) = (Arc::clone(&identity), Arc::clone(&self.transport));
            let pulse = self.admin.stream(number);
            let stream =
                Stream::new(identity, number, credit, link.clone(), transport, pulse, self.stop.clone());
            let ended = ended.clone();
            let run = async move {
                let end = stream.run().await;
                let rejected = end.is_err();
                let _nobody_listens = ended.send(end).await;
                if rejected {
                    // What follows is decided for all streams, which are then ended together.
                    std::future::pending::<()>().await;
                }
            };
            streams.spawn(tasks::STREAM, run.instrument(span));
        }
        (streams, ends)
    }

    /// Waits for all streams, or for the first that is rejected.
    async fn all_end(&self, ends: &mut mpsc::Receiver<StreamEnd>) -> Result<(), AppError> {
        while let Some(ended) = ends.recv().await {
            ended?;
        }
        if !self.stop.is_cancelled() {
            // They do not end before the stop begins.
            return Err(self.admin.supervisor.failed().await.into());
        }
        tracing::info!("agent stopped: all outcomes are reported");
        Ok(())
    }
}

async fn grace_is_over(stop: &CancellationToken, grace: Duration) {
    stop.cancelled().await;
    sleep(grace).await;
}

/// The streams' shares of the agent's credit: equal, and nothing lost to rounding.
fn shares(config: &Config) -> impl Iterator<Item = Credit> {
    let (streams, jobs, bytes) = (config.streams, config.max_in_flight, config.max_in_flight_bytes);
    (0..streams).map(move |i| Credit {
        jobs: jobs / streams + u32::from(i < jobs % streams),
        bytes: bytes / u64::from(streams),
    })
}

fn transport_settings(config: &Config, room: Room, admin: &Arc<Admin>) -> http::Settings {
    let admin = Arc::clone(admin);
    http::Settings {
        roots: system_roots(),
        dns_servers: config.dns_servers.clone(),
        proxy: config.egress.proxy.clone(),
        credentials: config.egress.credentials.clone(),
        room,
        shortages: Shortages::new(move |shortage| admin.metrics.lacked(shortage)),
    }
}

/// The addresses of this machine. If they cannot be found out, the private ones are still refused.
fn interface_addresses() -> Vec<IpAddr> {
    match machine::addresses() {
        Ok(addresses) => addresses,
        Err(error) => {
            tracing::warn!("failed to list this machine's own addresses, so jobs may call them: {error}");
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use postrider_telemetry::tasks::Cause;

    use super::*;
    use crate::config::Args;

    /// An agent whose control plane is not there.
    fn config() -> Config {
        let args = Args {
            control_plane: Some("http://127.0.0.1:1".into()),
            agent_id: Some("a".into()),
            streams: Some("2".into()),
            admin_listen: Some("127.0.0.1:0".into()),
            ..Args::default()
        };
        Config::load(&args, std::iter::empty()).unwrap()
    }

    #[tokio::test]
    async fn whichever_task_dies_the_agent_ends_and_names_it() {
        for task in tasks::ALL {
            let stop = CancellationToken::new();
            let admin = Admin::new(stop.clone());
            let supervisor = admin.supervisor.clone();
            let agent = tokio::spawn(run_watched(config(), None, Arc::clone(&admin), stop.clone()));
            let mut names = Vec::new();
            while names.len() < 5 {
                tokio::task::yield_now().await;
                names = supervisor.names();
            }
            names.sort_unstable();
            names.dedup();
            assert_eq!(names, tasks::ALL, "the names of the metric's label");
            assert!(supervisor.abort(task));
            let ended = timeout(Duration::from_secs(60), agent).await.expect("it ends soon").unwrap();
            let Err(AppError::Task(failed)) = ended else { panic!("{task}: {ended:?}") };
            assert_eq!(failed, TaskFailed { task, cause: Cause::Aborted });
            assert!(stop.is_cancelled());
            let dead = admin.alive().await.unwrap_err();
            assert!(dead[0].starts_with(&format!("the task {task} was aborted")), "{dead:?}");
        }
    }

    #[test]
    fn credit_is_shared_out_completely() {
        let args = Args {
            control_plane: Some("http://localhost:1".into()),
            agent_id: Some("a".into()),
            streams: Some("3".into()),
            max_in_flight: Some("8".into()),
            ..Args::default()
        };
        let config = Config::load(&args, std::iter::empty()).unwrap();
        let jobs: Vec<_> = shares(&config).map(|credit| credit.jobs).collect();
        assert_eq!(jobs, [3, 3, 2]);
    }
}
