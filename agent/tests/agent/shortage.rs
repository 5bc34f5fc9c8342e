//! An agent on a machine that gives it too few open files: that is never an endpoint's failure.

use std::net::Ipv4Addr;
use std::time::Duration;

use postrider_proto::agent::OutcomeKind;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::control_plane::{ControlPlane, job, key};
use crate::dns::NameServer;
use crate::endpoint::{Endpoint, read_request};
use crate::process::agent;

const LIMIT: u64 = 64;
const LONG: Duration = Duration::from_secs(60);

/// An endpoint that takes its time, so that many connections are open at once.
async fn slow() -> Endpoint {
    Endpoint::start(|mut stream, _| async move {
        while read_request(&mut stream).await.is_some() {
            tokio::time::sleep(Duration::from_millis(50)).await;
            if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.is_err() {
                return;
            }
        }
    })
    .await
}

fn flags(endpoint: &Endpoint, names: &NameServer) -> Vec<String> {
    [
        ("--egress-allow-cidrs", "127.0.0.0/8".to_owned()),
        ("--egress-allow-hosts", "*.test".to_owned()),
        ("--egress-allow-ports", endpoint.address.port().to_string()),
        ("--dns-servers", names.address.to_string()),
    ]
    .into_iter()
    .flat_map(|(flag, value)| [flag.to_owned(), value])
    .chain(["--egress-allow-http".to_owned()])
    .collect()
}

/// Lowers the limit of a process that runs.
fn limit(child: &Child, files: u64) {
    let pid = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap());
    let limit = Rlimit { current: Some(files), maximum: Some(files) };
    prlimit(pid, Resource::Nofile, limit).unwrap();
}

/// Waits for a line of the log.
async fn says(child: &mut Child, word: &str) {
    let mut lines = BufReader::new(child.stderr.as_mut().unwrap()).lines();
    let found = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.contains(word) {
                return;
            }
        }
        panic!("the log ended without {word}");
    };
    timeout(LONG, found).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_asks_for_as_many_jobs_as_it_has_files_for() {
    let endpoint = slow().await;
    let names = NameServer::start(&[Ipv4Addr::LOCALHOST], 60).await;
    let mut control_plane = ControlPlane::start().await;
    let url = control_plane.url();
    let mut command = Command::new("sh");
    let program = env!("CARGO_BIN_EXE_postrider-agent");
    let script = format!("ulimit -n {LIMIT}; exec {program} \"$@\"");
    command.args(["-c", &script, "sh", "--control-plane", &url, "--agent-id", "agent-1", "--streams", "1"]);
    let mut child = command
        .args(flags(&endpoint, &names))
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut session = control_plane.welcomed().await;
    let jobs = session.hello.max_in_flight;
    assert!((2..40).contains(&jobs), "{jobs}");
    says(&mut child, "raise it (ulimit -n").await;
    for round in 0..3 {
        let names = (0..jobs).map(|n| {
            let url = format!("http://h{n}.test:{}/", endpoint.address.port());
            job(round * jobs + n, &url)
        });
        session.send_jobs(names.collect()).await;
        let outcomes = timeout(LONG, session.outcomes(jobs as usize)).await.unwrap();
        session.acknowledge(u64::from((round + 1) * jobs)).await;
        for outcome in outcomes {
            assert_eq!(outcome.kind(), OutcomeKind::Response, "{}", outcome.detail);
        }
    }
}

/// The agent may notice in time how few files it has, and then starts no more jobs than it can.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_started_for_want_of_files_goes_back_uncounted() {
    for _ in 0..20 {
        if came_back_for_want_of_files().await > 0 {
            return;
        }
    }
    panic!("there were files enough");
}

/// How many jobs come back before all are done.
async fn came_back_for_want_of_files() -> usize {
    let endpoint = slow().await;
    let names = NameServer::start(&[Ipv4Addr::LOCALHOST], 0).await;
    let mut control_plane = ControlPlane::start().await;
    let given = flags(&endpoint, &names);
    let mut child = agent(&control_plane.url(), &given.iter().map(String::as_str).collect::<Vec<_>>());
    let mut session = control_plane.welcomed().await;
    limit(&child, LIMIT / 2);
    // Half of them by name: their questions need sockets, too.
    let url = |n: u32| match n % 2 {
        0 => endpoint.url("http"),
        _ => format!("http://h{n}.test:{}/", endpoint.address.port()),
    };
    let (mut waiting, mut sent, mut back) = ((0..300).collect::<Vec<u32>>(), 0, 0);
    while !waiting.is_empty() {
        session.send_jobs(waiting.iter().map(|n| job(*n, &url(*n))).collect()).await;
        let outcomes = timeout(LONG, session.outcomes(waiting.len())).await.unwrap();
        sent += outcomes.len() as u64;
        session.acknowledge(sent).await;
        waiting.retain(|n| {
            let outcome = outcomes.iter().find(|outcome| outcome.key == Some(key(*n))).unwrap();
            match outcome.kind() {
                OutcomeKind::Response => return false,
                OutcomeKind::NotStarted => assert_eq!(outcome.shortage, "open_files"),
                other => panic!("{other:?}: {}", outcome.detail),
            }
            back += 1;
            true
        });
        assert!(sent < 10_000, "{} are left", waiting.len());
    }
    if back > 0 {
        says(&mut child, "shortage").await;
    }
    back
}
