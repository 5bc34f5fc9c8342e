//! The directory of a development setup: settings, key-encryption key, store and logs.

use std::fs::{File, TryLockError};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use postrider_control_plane::secrets::kek;
use tempfile::TempDir;

use super::certificates::Certificates;
use super::parts::Part;
use super::ports::Ports;
use crate::commands::tokens;
use crate::failure::{Doing as _, Exit, Failure, Result};

/// How much of a log is shown when its writer has died.
const TAIL_LINES: usize = 20;

/// The directory.
#[derive(Debug)]
pub(crate) struct Home {
    path: PathBuf,
    /// Locked as long as it is open, so that two runs do not share the directory.
    _lock: File,
    /// Removes the directory when dropped.
    temporary: Option<TempDir>,
}

impl Home {
    /// Opens or makes the directory; without a path a temporary one.
    pub(crate) fn open(path: Option<&Path>) -> Result<Self> {
        let Some(path) = path else {
            let temporary = TempDir::with_prefix("postrider-dev-").doing("make a temporary directory")?;
            let path = temporary.path().to_owned();
            return Ok(Self { _lock: lock(&path)?, path, temporary: Some(temporary) });
        };
        std::fs::create_dir_all(path).doing(format_args!("make {}", path.display()))?;
        let path = path.canonicalize().doing(format_args!("open {}", path.display()))?;
        Ok(Self { _lock: lock(&path)?, path, temporary: None })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is removed at the end.
    pub(crate) fn is_temporary(&self) -> bool {
        self.temporary.is_some()
    }

    /// The control plane, to be started.
    pub(crate) fn control_plane(&self) -> Part {
        self.part("control plane", "control-plane")
    }

    /// The agent, to be started.
    pub(crate) fn agent(&self) -> Part {
        self.part("agent", "agent")
    }

    fn part(&self, name: &'static str, command: &'static str) -> Part {
        let file = |extension: &str| self.path.join(format!("{command}.{extension}"));
        Part { name, command, settings: file("toml"), log: file("log") }
    }

    /// The file with the token of the admin that `dev` is.
    pub(crate) fn token_file(&self) -> PathBuf {
        self.path.join("admin-token")
    }

    /// The file with the key-encryption key.
    fn kek_file(&self) -> PathBuf {
        self.path.join("kek")
    }

    /// Makes the admin's token once, and keeps it.
    pub(crate) fn write_token(&self) -> Result<()> {
        let file = self.token_file();
        if file.exists() {
            return Ok(());
        }
        write_secret(&file, &tokens::new_token()).doing(format_args!("write {}", file.display()))
    }

    /// The API's certificate and its authority, made once and kept.
    pub(crate) fn certificates(&self) -> Result<Certificates> {
        Certificates::keep_in(&self.path)
    }

    /// Writes the settings of the control plane. The key-encryption key is made once and kept.
    pub(crate) fn write_control_plane_settings(&self, ports: &Ports) -> Result<()> {
        let kek = self.kek_file();
        if !kek.exists() {
            write_secret(&kek, &kek::generate()).doing(format_args!("write {}", kek.display()))?;
        }
        let settings = self.control_plane_settings(ports, &self.certificates()?);
        write_settings(&self.control_plane(), &settings)
    }

    /// Writes the settings of the agent, with a join token for when it has no identity yet.
    pub(crate) fn write_agent_settings(&self, ports: &Ports, join: &str) -> Result<()> {
        write_settings(&self.agent(), &self.agent_settings(ports, join))
    }

    fn control_plane_settings(&self, ports: &Ports, certificates: &Certificates) -> String {
        let path = |path: &Path| toml_string(&path.to_string_lossy());
        let data = path(&self.path.join("control-plane"));
        let token = path(&self.token_file());
        let (cert, key) = (path(&certificates.cert), path(&certificates.key));
        let kek = toml_string(&format!("file:{}", self.kek_file().display()));
        format!(
            r#"# Written by `postrider dev`.
data_dir = {data}
kek = [{kek}]
api_listen = "127.0.0.1:{api}"
agent_listen = "127.0.0.1:{agent}"
tls_cert = {cert}
tls_key = {key}
bootstrap_token_file = {token}
shutdown_grace = "5s"
"#,
            api = ports.api,
            agent = ports.agent,
        )
    }

    fn agent_settings(&self, ports: &Ports, join: &str) -> String {
        let state = toml_string(&self.path.join("agent-identity").to_string_lossy());
        format!(
            r#"# Written by `postrider dev`. Not for production: the egress policy opens this machine's own addresses.
control_plane = "https://{agents}"
join = "{join}"
state_dir = {state}
name = "dev-agent"
shutdown_grace = "5s"

[egress]
allow_cidrs = ["127.0.0.0/8"]
allow_ports = [443, 8443, {receiver}]
allow_http = true

[log]
filter = "info,postrider_agent=debug"
"#,
            agents = ports.agents(),
            receiver = ports.receiver,
        )
    }

    /// The ends of both logs, for when nobody knows who is to blame.
    pub(crate) fn log_tails(&self) -> String {
        let end = |part: Part| format!("the end of {}:\n{}", part.log.display(), tail(&part.log));
        format!("{}\n  {}", end(self.control_plane()), end(self.agent()))
    }
}

/// Settings can hold a join token.
fn write_settings(part: &Part, settings: &str) -> Result<()> {
    let _earlier_run = std::fs::remove_file(&part.settings);
    write_secret(&part.settings, settings).doing(format_args!("write {}", part.settings.display()))
}

/// Writes a file that only its owner can read.
pub(crate) fn write_secret(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    writeln!(file, "{text}")
}

fn lock(path: &Path) -> Result<File> {
    let file = File::create(path.join("dev.lock")).doing(format_args!("write to {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            let message = format!("{} is in use by another `postrider dev`", path.display());
            Err(Failure::new(Exit::Usage, message).note("stop that one, or choose another --data-dir"))
        }
        Err(TryLockError::Error(error)) => Err(error).doing(format_args!("lock {}", path.display())),
    }
}

/// The text as TOML writes it: its basic strings escape as JSON's do.
fn toml_string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The last lines of a file, indented.
pub(crate) fn tail(path: &Path) -> String {
    let text =
        std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    if lines.is_empty() {
        return "    (it is empty)".into();
    }
    let last = &lines[lines.len().saturating_sub(TAIL_LINES)..];
    last.iter().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_home_is_removed_and_a_given_one_stays() {
        let ports = Ports { api: 1, agent: 2, receiver: 3 };
        let temporary = Home::open(None).unwrap();
        let path = temporary.path().to_owned();
        temporary.write_agent_settings(&ports, "join").unwrap();
        assert!(path.join("agent.toml").exists());
        drop(temporary);
        assert!(!path.exists());

        let parent = TempDir::new().unwrap();
        let given = parent.path().join("a/b");
        let home = Home::open(Some(&given)).unwrap();
        home.write_control_plane_settings(&ports).unwrap();
        home.write_agent_settings(&ports, "join").unwrap();
        assert!(kek::read_file(&given.join("kek")).is_ok());
        let kept = std::fs::read(given.join("kek")).unwrap();
        let failure = Home::open(Some(&given)).unwrap_err();
        assert!(failure.to_string().contains("in use by another"), "{failure}");
        drop(home);
        let again = Home::open(Some(&given)).unwrap();
        again.write_control_plane_settings(&ports).unwrap();
        again.write_agent_settings(&ports, "join").unwrap();
        assert_eq!(std::fs::read(given.join("kek")).unwrap(), kept, "the store would not open again");
        assert!(given.join("agent.toml").exists());
    }

    #[test]
    fn the_end_of_a_log_is_short() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(tail(file.path()), "    (it is empty)");
        let lines: Vec<String> = (0..50).map(|n| n.to_string()).collect();
        std::fs::write(file.path(), lines.join("\n")).unwrap();
        let shown = tail(file.path());
        assert_eq!(shown.lines().count(), TAIL_LINES);
        assert!(shown.starts_with("    30\n") && shown.ends_with("    49"));
    }
}
