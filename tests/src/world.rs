//! One test's own Postrider: a control plane, agents, a receiver, and a tenant.

mod agent;
mod control_plane;
mod guarded;

use std::path::Path;
use std::process::Command;

use anyhow::Result;
use postrider_proto::v1;
use tempfile::TempDir;

pub use self::agent::{Agent, AgentSettings};
pub use self::control_plane::{ControlPlane, Security, TlsFiles, token};
pub use self::guarded::{Guarded, NewToken};
use crate::api::Api;
use crate::checker::{Route, Verdict};
use crate::cli::Cli;
use crate::ledger::Ledger;
use crate::receiver::Receiver;

/// The tenant of every world.
pub const TENANT: &str = "acme";
/// As many agents as a world may have of one pool.
const MANY: u32 = 100;
/// What the first agent of every world calls itself.
pub const AGENT: &str = "agent-1";

/// Everything of one test. It ends with its value.
#[derive(Debug)]
pub struct World {
    /// The first agent.
    pub agent: Agent,
    /// The control plane.
    pub control_plane: ControlPlane,
    /// The tenant's view of it.
    pub api: Api,
    /// Receives what is delivered.
    pub receiver: Receiver,
    folder: TempDir,
}

impl World {
    /// A control plane, one agent that is connected, and the tenant.
    ///
    /// # Errors
    /// When something does not start.
    pub async fn start() -> Result<Self> {
        Self::with(AgentSettings::default(), &[]).await
    }

    /// As [`World::start`], with an agent that has a few jobs at the most.
    ///
    /// # Errors
    /// When something does not start.
    pub async fn with_max_in_flight(max_in_flight: u32) -> Result<Self> {
        Self::with(AgentSettings { max_in_flight, ..AgentSettings::default() }, &[]).await
    }

    /// As [`World::start`], with settings of the agent and lines of the control plane's settings.
    ///
    /// # Errors
    /// When something does not start.
    pub async fn with(settings: AgentSettings, lines: &[&str]) -> Result<Self> {
        let mut world = Self::without_agent(settings, lines).await?;
        world.agent.start()?;
        world.agent_connected().await?;
        Ok(world)
    }

    /// As [`World::with`]; the agent is not started.
    ///
    /// # Errors
    /// When something does not start.
    pub async fn without_agent(settings: AgentSettings, lines: &[&str]) -> Result<Self> {
        let mut folder = TempDir::with_prefix("postrider-test-")?;
        // For whoever looks for the reason of a failure: logs and stores stay.
        folder.disable_cleanup(std::env::var_os("KEEP_WORLDS").is_some());
        let receiver = Receiver::start().await?;
        let files = TlsFiles::make(&folder.path().join("tls"))?;
        let control_plane = ControlPlane::start(folder.path(), lines, Security::Tls(files)).await?;
        let api = control_plane.api(TENANT)?;
        api.create_tenant().await?;
        // Each process of an agent is an agent of its own.
        let join = api.join(&settings.pool, MANY).await?.expose_text().to_string();
        let mut settings =
            AgentSettings { control_plane: control_plane.agents_url(), join: Some(join), ..settings };
        settings.ports.push(receiver.port());
        let agent = Agent::new(folder.path(), settings);
        Ok(Self { agent, control_plane, api, receiver, folder })
    }

    /// Waits until the first agent is connected.
    ///
    /// # Errors
    /// When it is not.
    pub async fn agent_connected(&self) -> Result<v1::Agent> {
        self.api.agent_connected(&self.agent.settings.id, self.agent.settings.streams).await
    }

    /// Starts another agent of the same kind and waits until it is connected.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn another_agent(&self, id: &str) -> Result<Agent> {
        let settings = AgentSettings { id: id.to_owned(), ..self.agent.settings.clone() };
        let mut agent = Agent::new(self.folder(), settings);
        agent.start()?;
        self.api.agent_connected(id, agent.settings.streams).await?;
        Ok(agent)
    }

    /// The world's folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The command, for this world's control plane and tenant.
    #[must_use]
    pub fn cli(&self) -> Cli {
        self.control_plane.cli(TENANT)
    }

    /// A subscription to everything at a path of the receiver.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn subscribe(&self, path: &str) -> Result<Route> {
        self.subscribe_with(path, v1::Subscription::default()).await
    }

    /// A subscription at a path of the receiver, with settings.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn subscribe_with(&self, path: &str, wanted: v1::Subscription) -> Result<Route> {
        let wanted = v1::Subscription { url: self.receiver.url(path), ..wanted };
        let made = self.api.subscribe(wanted, "").await?;
        Ok(Route { path: path.to_owned(), subscription: made.id, secret: made.secret })
    }

    /// Compares the ledger with the receiver's log.
    #[must_use]
    pub fn verdict(&self, ledger: &Ledger, routes: &[Route]) -> Verdict {
        Verdict::of(ledger, routes, &self.receiver.posts())
    }
}

/// A command that runs a program by a launcher, if there is one.
fn launched(launcher: &[String], program: &Path) -> Command {
    let Some((first, rest)) = launcher.split_first() else { return Command::new(program) };
    let mut command = Command::new(first);
    command.args(rest).arg(program);
    command
}
