//! One trial's own Postrider: a control plane whose data directory may be a mounted file system, two agents, a
//! receiver, and the ledger of what was acknowledged.
//!
//! Two subscriptions get every event. The pool of `/live` has an agent from the beginning; that of `/late` gets one
//! only when [`Rig::finish`] is called, so that its deliveries have to outlive every fault in the store.

pub(crate) mod command;
pub(crate) mod disk;
pub(crate) mod feed;
pub(crate) mod look;
pub(crate) mod shim;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use postrider_proto::v1::{self, DeliveryState};
use postrider_tests::api::Api;
use postrider_tests::checker::{Route, Verdict};
use postrider_tests::clock::now;
use postrider_tests::ledger::Ledger;
use postrider_tests::receiver::Receiver;
use postrider_tests::world::{Agent, AgentSettings, ControlPlane, Security, TENANT, TlsFiles};
use tonic::Code;

use self::feed::{Feed, Plan, new_event};
use crate::report::Report;

/// By when events are accepted again after the cause of a fault is gone.
pub(crate) const SERVES_WITHIN: Duration = Duration::from_secs(10);
/// By when a control plane stops, and a start succeeds or fails. Its settings say so.
pub(crate) const GRACE: Duration = Duration::from_secs(5);
/// By when everything is delivered after the last fault.
pub(crate) const SETTLES_WITHIN: Duration = Duration::from_secs(60);
/// How many events of a finished load are acknowledged at least, in percent.
const ENOUGH: usize = 95;
/// A call that takes longer has no answer.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);
/// Between two attempts to start a program that ends at once.
const PAUSE: Duration = Duration::from_millis(200);

/// The parts of a trial.
pub(crate) struct Rig {
    /// The control plane.
    pub(crate) control_plane: ControlPlane,
    /// The agent of the pool `default`; nothing before the first start.
    pub(crate) live: Option<Agent>,
    /// The agent of the pool `late`, which is started at the end.
    pub(crate) late: Option<Agent>,
    /// The receiver.
    pub(crate) receiver: Receiver,
    /// What was emitted, and what of it was acknowledged.
    pub(crate) ledger: Ledger,
    /// The subscriptions.
    pub(crate) routes: Vec<Route>,
    folder: PathBuf,
}

impl Rig {
    /// Prepares everything in a folder. Nothing runs yet, so that a file system can be mounted at [`Rig::disk`].
    pub(crate) async fn prepare(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder.join("disk"))?;
        let files = TlsFiles::make(&folder.join("tls"))?;
        let grace = format!("shutdown_grace = \"{}s\"", GRACE.as_secs());
        let lines = [grace.as_str(), "admin_listen = \"127.0.0.1:0\""];
        let mut control_plane = ControlPlane::prepare(folder, &lines, Security::Tls(files))?;
        // The control plane makes it, on the disk.
        control_plane.set_data_dir(&folder.join("disk/data"));
        Ok(Self {
            control_plane,
            live: None,
            late: None,
            receiver: Receiver::start().await?,
            ledger: Ledger::default(),
            routes: Vec::new(),
            folder: folder.to_owned(),
        })
    }

    /// Where a disk for the data directory can be mounted.
    pub(crate) fn disk(&self) -> PathBuf {
        self.folder.join("disk")
    }

    /// The tenant's view of the control plane.
    pub(crate) fn api(&self) -> Result<Api> {
        self.control_plane.api(TENANT)
    }

    /// Starts the control plane for the first time, with the tenant, both subscriptions and the first agent.
    pub(crate) async fn first_start(&mut self) -> Result<()> {
        self.control_plane.restart().await?;
        self.furnish().await
    }

    /// Makes the tenant and what belongs to it in a new store.
    pub(crate) async fn furnish(&mut self) -> Result<()> {
        let api = self.api()?;
        api.create_tenant().await?;
        api.allow_pool("late").await?;
        for (path, pool) in [("/live", "default"), ("/late", "late")] {
            let wanted = v1::Subscription {
                url: self.receiver.url(path),
                pool: pool.to_owned(),
                ..v1::Subscription::default()
            };
            let made = api.subscribe(wanted, "").await?;
            self.routes.push(Route { path: path.to_owned(), subscription: made.id, secret: made.secret });
        }
        self.live = Some(self.new_agent(&api, "live", "default").await?);
        self.late = Some(self.new_agent(&api, "late", "late").await?);
        self.live.as_mut().expect("it was just made").start()
    }

    /// An agent with a join token for a pool. It does not run yet.
    async fn new_agent(&self, api: &Api, id: &str, pool: &str) -> Result<Agent> {
        let join = api.join(pool, 1).await?.expose_text().to_string();
        let settings = AgentSettings {
            id: id.to_owned(),
            pool: pool.to_owned(),
            control_plane: self.control_plane.agents_url(),
            ports: vec![self.receiver.port()],
            join: Some(join),
            log: "info".to_owned(),
            ..AgentSettings::default()
        };
        Ok(Agent::new(&self.folder, settings))
    }

    /// Starts a load.
    pub(crate) fn feed(&self, plan: Plan) -> Result<Feed> {
        Ok(Feed::start(self.api()?, self.ledger.clone(), plan))
    }

    /// Starts what ended by itself again, as a supervisor does, and records it.
    pub(crate) async fn supervise(&mut self, report: &mut Report) -> Result<()> {
        if let Some(status) = self.control_plane.ended()? {
            ensure!(!self.control_plane.last_log().contains("panicked"), "the control plane panicked");
            report.exit(status);
            if self.control_plane.restart().await.is_err() {
                tokio::time::sleep(PAUSE).await;
            }
        }
        for agent in [&mut self.live, &mut self.late].into_iter().flatten() {
            if let Some(status) = agent.ended()? {
                report.exit(status);
                agent.start()?;
            }
        }
        Ok(())
    }

    /// Emits one event; says whether it was acknowledged.
    pub(crate) async fn emit(&self, bytes: usize) -> Result<Result<(), tonic::Status>> {
        let event = new_event(bytes);
        self.ledger.sent(&event.id, &event.r#type, &String::from_utf8_lossy(&event.data));
        let api = self.api()?;
        let answer = tokio::time::timeout(ANSWERS_WITHIN, api.emit(event.clone())).await;
        Ok(match answer {
            Ok(Ok(_)) => {
                self.ledger.acknowledged(&event.id);
                Ok(())
            }
            Ok(Err(status)) => Err(status),
            Err(_) => Err(tonic::Status::deadline_exceeded("no answer from the control plane")),
        })
    }

    /// Waits until an event is accepted, from now on, and records how long that takes. A control plane that ends by
    /// itself is started again when `restarts` says so.
    pub(crate) async fn serves_again(
        &mut self,
        report: &mut Report,
        bytes: usize,
        restarts: bool,
    ) -> Result<()> {
        let begun = now();
        let mut last = String::new();
        while begun.elapsed() < SERVES_WITHIN {
            if restarts {
                self.supervise(report).await?;
            }
            match self.emit(bytes).await? {
                Ok(()) => {
                    report.recovered(begun.elapsed());
                    return Ok(());
                }
                Err(status) if is_gone(&status.clone().into()) => {
                    bail!("what was made is gone: {:?}: {}", status.code(), status.message())
                }
                Err(status) => last = format!("{:?}: {}", status.code(), status.message()),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!("no event is accepted {SERVES_WITHIN:?} after the fault; the last answer: {last}")
    }

    /// After a trial's rounds, when the fault is gone: waits until everything is delivered, with both agents, and
    /// compares. When that or the rounds fail, the control plane is restarted by hand first, so that the
    /// comparison shows what is lost and not what only waits.
    pub(crate) async fn finish(&mut self, report: &mut Report, rounds: Result<()>) -> Result<()> {
        let result = match rounds {
            Ok(()) => self.deliver_all(report).await,
            failed => failed,
        };
        if result.is_err() {
            let note = match self.deliver_after_a_restart(report).await {
                Ok(()) => "well only after a restart by hand".to_owned(),
                Err(error) => format!("not well even after a restart: {}", first_line(&error)),
            };
            report.note(note);
        }
        let panics = self.panics();
        if panics > 0 {
            report.note(format!("{panics} panics in logs"));
        }
        report.add(&Verdict::of(&self.ledger, &self.routes, &self.receiver.posts()));
        result
    }

    /// Lines about panics in the logs of both programs.
    fn panics(&self) -> usize {
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let logs =
            entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|it| it == "log"));
        logs.filter_map(|log| std::fs::read_to_string(log).ok())
            .map(|log| log.lines().filter(|line| line.contains("panicked")).count())
            .sum()
    }

    async fn deliver_after_a_restart(&mut self, report: &mut Report) -> Result<()> {
        // It may have ended already.
        drop(self.control_plane.kill());
        self.control_plane.restart().await?;
        self.deliver_all(report).await
    }

    async fn deliver_all(&mut self, report: &mut Report) -> Result<()> {
        let late = self.late.as_mut().context("there was no first start")?;
        if !late.is_running() {
            late.start()?;
        }
        let begun = now();
        let unfinished = [DeliveryState::Pending, DeliveryState::Attempting, DeliveryState::Waiting];
        loop {
            self.supervise(report).await?;
            let left = self.api()?.deliveries_in(&unfinished).await;
            match left {
                Ok(left) if left.is_empty() => return Ok(()),
                Err(error) if is_gone(&error) => return Err(error.context("what was made is gone")),
                _ if begun.elapsed() < SETTLES_WITHIN => {}
                Ok(left) => {
                    bail!("{} deliveries have not ended {SETTLES_WITHIN:?} after the fault", left.len())
                }
                Err(error) => return Err(error.context("deliveries cannot be listed")),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Nearly all of the planned events must have been acknowledged: a dead system passes nothing.
    pub(crate) fn has_done(&self, planned: usize) -> Result<()> {
        let done = self.ledger.acknowledged_count();
        ensure!(done * 100 >= planned * ENOUGH, "only {done} of {planned} planned events were acknowledged");
        Ok(())
    }

    /// The exit status and log of a start that must fail; nothing when the control plane runs.
    pub(crate) async fn failed_start(&mut self) -> Option<String> {
        match self.control_plane.restart().await {
            Ok(()) => None,
            Err(error) => Some(format!("{error:#}\n{}", self.control_plane.last_log())),
        }
    }

    /// Waits until the agent of the pool `default` is connected.
    pub(crate) async fn connected(&self) -> Result<()> {
        self.api()?.agent_connected("live", 2).await.map(drop)
    }
}

/// Whether an answer says that the tenant or the admin's token do not exist.
fn is_gone(error: &anyhow::Error) -> bool {
    let code = error.downcast_ref::<tonic::Status>().map(tonic::Status::code);
    matches!(code, Some(Code::NotFound | Code::Unauthenticated))
}

/// The first line of an error with its causes, without what could end a cell of the table.
fn first_line(error: &anyhow::Error) -> String {
    format!("{error:#}").lines().next().unwrap_or_default().replace('|', "/")
}
