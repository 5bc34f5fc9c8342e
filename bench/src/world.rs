//! A Postrider of its own for each scenario: a control plane with an empty store, and an agent.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use tempfile::TempDir;
use tokio::net::TcpListener;

use crate::api::Api;
use crate::args::Args;
use crate::child::Child;
use crate::clock;
use crate::reach::Reach;

/// The file with the key-encryption key: any, for it guards nothing.
const KEK: &str = "kek";
/// How long a process may take to be ready.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How often it is asked.
const LOOK: Duration = Duration::from_millis(2);

/// Where things are.
#[derive(Debug)]
pub(crate) struct Place {
    control_plane: PathBuf,
    agent: PathBuf,
    /// The figures.
    pub(crate) json: PathBuf,
    folder: TempDir,
    log_filter: &'static str,
    plaintext: bool,
}

impl Place {
    /// Finds the programs that lie beside this one, and makes a folder for what they write.
    pub(crate) fn find(args: &Args) -> anyhow::Result<Self> {
        let own = std::env::current_exe().context("cannot find this program")?;
        let beside = own.parent().context("this program is in no folder")?;
        let (control_plane, agent) = (beside.join("postrider-control-plane"), beside.join("postrider-agent"));
        for program in [&control_plane, &agent] {
            ensure!(
                program.is_file(),
                "{} is missing; build it first: cargo build --release --workspace --bins",
                program.display()
            );
        }
        let bench = beside.parent().unwrap_or(beside).join("bench");
        let stores = args.dir.clone().unwrap_or_else(|| bench.clone());
        std::fs::create_dir_all(&stores).with_context(|| format!("cannot make {}", stores.display()))?;
        let folder = TempDir::with_prefix_in("run-", &stores).context("cannot make a folder for stores")?;
        let json = args.json.clone().unwrap_or_else(|| bench.join("latest.json"));
        let log_filter = if args.without_attempt_lines { "info,postrider::attempt=warn" } else { "info" };
        Ok(Self { control_plane, agent, json, folder, log_filter, plaintext: args.plaintext })
    }

    /// A folder for what is written while measuring.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Removes that folder.
    pub(crate) fn remove(self) -> anyhow::Result<()> {
        self.folder.close().context("cannot remove the folder of the run")
    }
}

/// A control plane, an agent, and their folder.
#[derive(Debug)]
pub(crate) struct World<'a> {
    place: &'a Place,
    folder: TempDir,
    control_plane: Option<Child>,
    agent: Option<Child>,
    /// The control plane's API.
    pub(crate) api: Api,
    /// How it is reached.
    pub(crate) reach: Reach,
    agent_port: u16,
    sink: u16,
}

impl<'a> World<'a> {
    /// Starts a control plane, ready and with a tenant, whose agent may later call the sink at this port.
    pub(crate) async fn start(place: &'a Place, sink: u16) -> anyhow::Result<Self> {
        let folder = TempDir::with_prefix_in("world-", place.folder())?;
        let (api_port, agent_port) = (free_port().await?, free_port().await?);
        let reach = if place.plaintext {
            Reach::plaintext(api_port)
        } else {
            Reach::secured(api_port, folder.path())?
        };
        let api = Api::new(&reach)?;
        let mut world =
            Self { place, folder, control_plane: None, agent: None, api, reach, agent_port, sink };
        world.write(KEK, &"5a".repeat(32))?;
        std::fs::set_permissions(world.file(KEK), Permissions::from_mode(0o600))?;
        world.write("control-plane.toml", &world.control_plane_settings())?;
        world.start_control_plane().await?;
        world.api.create_tenant().await?;
        Ok(world)
    }

    /// The same with an agent that is connected.
    pub(crate) async fn start_with_agent(place: &'a Place, sink: u16) -> anyhow::Result<Self> {
        let mut world = Self::start(place, sink).await?;
        world.start_agent().await?;
        Ok(world)
    }

    /// Starts the control plane and says how long it took until it served.
    pub(crate) async fn start_control_plane(&mut self) -> anyhow::Result<Duration> {
        let begun = clock::now();
        let settings = self.file("control-plane.toml");
        let mut child = Child::start("control plane", &self.place.control_plane, &settings)?;
        while !self.api.serves().await {
            child.check(&self.file("control-plane.log"))?;
            if begun.elapsed() > READY_WITHIN {
                bail!("the control plane does not serve within {} s", READY_WITHIN.as_secs());
            }
            tokio::time::sleep(LOOK).await;
        }
        self.control_plane = Some(child);
        Ok(begun.elapsed())
    }

    /// Starts the agent and waits until it is connected.
    pub(crate) async fn start_agent(&mut self) -> anyhow::Result<()> {
        self.write("agent.toml", &self.agent_settings().await?)?;
        self.agent = Some(Child::start("agent", &self.place.agent, &self.file("agent.toml"))?);
        self.api.agent_connected(READY_WITHIN).await
    }

    /// Kills the control plane, as a crash would.
    pub(crate) async fn kill_control_plane(&mut self) -> anyhow::Result<()> {
        self.control_plane.take().context("no control plane runs")?.kill().await
    }

    /// Stops the control plane as its operator would.
    pub(crate) async fn stop_control_plane(&mut self) -> anyhow::Result<()> {
        self.control_plane.take().context("no control plane runs")?.stop().await
    }

    /// The control plane's process id.
    pub(crate) fn control_plane(&self) -> anyhow::Result<u32> {
        Ok(self.control_plane.as_ref().context("no control plane runs")?.id())
    }

    /// The agent's process id.
    pub(crate) fn agent(&self) -> anyhow::Result<u32> {
        Ok(self.agent.as_ref().context("no agent runs")?.id())
    }

    /// Fails when a process has ended by itself.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        let (control_plane_log, agent_log) = (self.file("control-plane.log"), self.file("agent.log"));
        if let Some(child) = &mut self.control_plane {
            child.check(&control_plane_log)?;
        }
        if let Some(child) = &mut self.agent {
            child.check(&agent_log)?;
        }
        Ok(())
    }

    /// The folder with the store, settings and logs.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The folder of the store.
    pub(crate) fn store(&self) -> PathBuf {
        self.file("data")
    }

    /// Ends both processes and removes the folder.
    pub(crate) async fn end(mut self) -> anyhow::Result<()> {
        self.check()?;
        for child in [self.agent.take(), self.control_plane.take()].into_iter().flatten() {
            child.kill().await?;
        }
        self.folder.close().context("cannot remove the folder of a scenario")
    }

    fn control_plane_settings(&self) -> String {
        // A basic string of TOML escapes as JSON's do.
        let store = serde_json::Value::from(self.store().to_string_lossy().into_owned());
        let (agent, log) = (self.agent_port, self.place.log_filter);
        let kek = serde_json::Value::from(format!("file:{}", self.file(KEK).display()));
        let reach = self.reach.settings(self.folder());
        // One token makes all the load, on connections that last for as long as a scenario does.
        // All endpoints are at one port.
        let limits = "max_token_calls = 100000\nmax_api_connection_age = \"never\"\ndestination_rate = 0";
        format!(
            "data_dir = {store}\nkek = [{kek}]\nagent_listen = \"127.0.0.1:{agent}\"\nlog = \"{log}\"\n{limits}\n{reach}"
        )
    }

    async fn agent_settings(&self) -> anyhow::Result<String> {
        let (port, sink) = (self.agent_port, self.sink);
        let link = if self.reach.is_secured() {
            format!("join = \"{}\"", self.api.join().await?)
        } else {
            format!("control_plane = \"http://127.0.0.1:{port}\"\nagent_id = \"bench\"")
        };
        Ok(format!(
            "{link}\n\n[egress]\nallow_cidrs = [\"127.0.0.0/8\"]\nallow_ports = [{sink}]\nallow_http = true\n"
        ))
    }

    fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        std::fs::write(self.file(name), text).with_context(|| format!("cannot write {name}"))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// A port that was free a moment ago: both processes must find it again after a restart.
async fn free_port() -> anyhow::Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").await.context("no port is free")?;
    Ok(listener.local_addr()?.port())
}
