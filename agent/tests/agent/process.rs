//! The program: its signals, its exit codes, its log.

use std::process::Stdio;
use std::time::Duration;

use postrider_proto::agent::agent_message::Message as Heard;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStderr, Command};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::authority::SECRET_TEXT;
use crate::control_plane::{ControlPlane, job};
use crate::endpoint::{Endpoint, read_request};

pub(crate) fn agent(control_plane: &str, more: &[&str]) -> Child {
    command(control_plane, more).spawn().unwrap()
}

/// An agent that is not started yet.
pub(crate) fn command(control_plane: &str, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_postrider-agent"));
    command
        .args(["--control-plane", control_plane, "--agent-id", "agent-1", "--streams", "1"])
        .args(more)
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// An agent that enrolls, with these flags and variables, and no others of the environment that it would heed.
pub(crate) fn start(flags: &[&str], variables: &[(&str, &str)]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_postrider-agent"))
        .args(flags)
        .env_clear()
        .envs(variables.iter().copied())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// An agent with one stream, and its log, line by line.
pub(crate) struct Watched {
    child: Child,
    log: tokio::io::Lines<BufReader<ChildStderr>>,
    seen: String,
}

impl Watched {
    pub(crate) fn start(flags: &[&str], variables: &[(&str, &str)]) -> Watched {
        let mut child = start(&[&["--streams=1"], flags].concat(), variables);
        let log = BufReader::new(child.stderr.take().unwrap()).lines();
        Watched { child, log, seen: String::new() }
    }

    /// Waits until this is logged.
    pub(crate) async fn says(&mut self, text: &str) {
        let found = timeout(Duration::from_secs(20), async {
            while let Some(line) = self.log.next_line().await.unwrap() {
                self.seen.push_str(&line);
                self.seen.push('\n');
                if line.contains(text) {
                    return;
                }
            }
            panic!("it ended without saying {text}");
        });
        let found = found.await;
        assert!(found.is_ok(), "it does not say {text}, but:\n{}", self.seen);
    }

    /// Stops it, and waits for its end: the exit code, and what was logged, with nothing of the token.
    pub(crate) async fn stop(mut self) -> (i32, String) {
        signal(&self.child, "-TERM").await;
        let code = timeout(Duration::from_secs(10), self.child.wait()).await.unwrap().unwrap();
        while let Some(line) = self.log.next_line().await.unwrap() {
            self.seen.push_str(&line);
            self.seen.push('\n');
        }
        assert!(!self.seen.contains(SECRET_TEXT), "{}", self.seen);
        (code.code().unwrap(), self.seen)
    }

    /// Ends it at once.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }
}

/// The flags of an agent that may call this port of this machine.
pub(crate) fn egress(port: &str) -> [&str; 4] {
    ["--egress-allow-cidrs=127.0.0.0/8", "--egress-allow-http=true", "--egress-allow-ports", port]
}

pub(crate) async fn signal(child: &Child, signal: &str) {
    signal_to(child.id().unwrap(), signal).await;
}

pub(crate) async fn signal_to(pid: u32, signal: &str) {
    let pid = pid.to_string();
    assert!(Command::new("kill").args([signal, &pid]).status().await.unwrap().success());
}

/// The exit code, and what was logged.
pub(crate) async fn exit(child: Child) -> (i32, String) {
    let output = timeout(Duration::from_secs(20), child.wait_with_output()).await.unwrap().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[tokio::test]
async fn settings_that_cannot_be_used_exit_with_2() {
    let (code, log) = exit(agent("http://192.0.2.1:1", &["--pool", "No"])).await;
    assert_eq!(code, 2);
    assert!(log.contains("use https://") && log.contains("`pool`"), "{log}");
}

#[tokio::test]
async fn a_permanent_reject_exits_with_3() {
    let mut control_plane = ControlPlane::start().await;
    let child = agent(&control_plane.url(), &["--log-format", "json"]);
    control_plane.session().await.reject(true, 0).await;
    let (code, log) = exit(child).await;
    assert_eq!(code, 3);
    assert!(log.contains("update this agent"), "{log}");
    assert!(log.lines().all(|line| line.starts_with('{') && line.ends_with('}')), "{log}");
}

#[tokio::test]
async fn a_signal_lets_it_finish_and_a_second_one_does_not() {
    for second in [false, true] {
        let (sender, mut came) = mpsc::channel(1);
        let (answer, answered) = tokio::sync::watch::channel(());
        let endpoint = Endpoint::start(move |mut stream, _| {
            let (sender, mut answered) = (sender.clone(), answered.clone());
            async move {
                read_request(&mut stream).await.unwrap();
                sender.send(()).await.unwrap();
                answered.changed().await.unwrap();
                // The agent may have been stopped.
                let _gone = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await;
            }
        })
        .await;
        let mut control_plane = ControlPlane::start().await;
        let port = endpoint.address.port().to_string();
        let child = agent(&control_plane.url(), &egress(&port));
        let mut session = control_plane.welcomed().await;
        session.send_jobs(vec![job(1, &endpoint.url("http"))]).await;
        came.recv().await.unwrap();
        signal(&child, "-TERM").await;
        assert!(matches!(session.hear().await, Some(Heard::Draining(_))));
        let Some(Heard::Heartbeat(heartbeat)) = session.hear().await else { panic!("expected a heartbeat") };
        if second {
            signal(&child, "-INT").await;
            assert_eq!(exit(child).await.0, 130);
            continue;
        }
        session.answer(heartbeat.nonce).await;
        answer.send(()).unwrap();
        assert_eq!(session.outcomes(1).await[0].http_status, 204);
        session.acknowledge(1).await;
        assert!(matches!(session.hear().await, Some(Heard::Goodbye(_))));
        drop(session);
        let (code, log) = exit(child).await;
        assert_eq!(code, 0, "{log}");
    }
}

#[tokio::test]
async fn grace_that_is_over_exits_with_4() {
    let (sender, mut came) = mpsc::channel(1);
    let endpoint = Endpoint::start(move |mut stream, _| {
        let sender = sender.clone();
        async move {
            read_request(&mut stream).await.unwrap();
            sender.send(()).await.unwrap();
            std::future::pending::<()>().await;
        }
    })
    .await;
    let mut control_plane = ControlPlane::start().await;
    let port = endpoint.address.port().to_string();
    let flags = [&egress(&port)[..], &["--shutdown-grace=100ms"]].concat();
    let child = agent(&control_plane.url(), &flags);
    let mut session = control_plane.welcomed().await;
    session.send_jobs(vec![job(1, &endpoint.url("http"))]).await;
    came.recv().await.unwrap();
    signal(&child, "-TERM").await;
    while session.hear().await.is_some() {}
    assert_eq!(exit(child).await.0, 4);
}
