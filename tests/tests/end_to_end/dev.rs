//! `postrider dev`, as `make dev` runs it.

use std::net::TcpListener;
use std::path::Path;

use anyhow::{Context as _, Result};
use postrider_tests::cli::Cli;
use postrider_tests::process::Process;
use postrider_tests::wait::{eventually, when};
use tempfile::TempDir;

const ANY_PORTS: [&str; 6] = ["--port", "0", "--agent-port", "0", "--receiver-port", "0"];

fn cli() -> Cli {
    Cli::new("http://127.0.0.1:1", "nobody")
}

#[tokio::test]
async fn dev_once_shows_the_verified_delivery_of_the_documented_example() -> Result<()> {
    let ended = cli().run(&[&["dev", "--once"], &ANY_PORTS[..]].concat()).await?;
    assert_eq!(ended.code, 0, "{}{}", ended.stdout, ended.stderr);
    for expected in [
        "POST /webhooks HTTP/1.1",
        "webhook-id: ",
        "webhook-timestamp: ",
        "webhook-signature: v1,",
        "user-agent: ",
        r#""event": "document.completed""#,
        r#""timestamp": "2026-02-02T10:30:00Z""#,
        r#""confidence": 0.95"#,
        "signature verified by standardwebhooks",
        "the body equals the documented example exactly",
    ] {
        assert!(ended.stdout.contains(expected), "{expected} is missing in {}", ended.stdout);
    }
    Ok(())
}

#[tokio::test]
async fn dev_names_a_port_that_is_taken_and_leaves_nothing_behind() -> Result<()> {
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let port = taken.local_addr()?.port().to_string();
    for option in ["--port", "--agent-port", "--receiver-port"] {
        let mut arguments = [&["dev", "--once"], &ANY_PORTS[..]].concat();
        let place = arguments.iter().position(|argument| *argument == option).context("no such option")?;
        arguments[place + 1] = &port;
        let ended = cli().run(&arguments).await?;
        assert_ne!(ended.code, 0, "{ended:?}");
        assert!(ended.stderr.contains(&port) && ended.stderr.contains(option), "{ended:?}");
    }
    Ok(())
}

/// Whether a process runs: a zombie that nobody has asked after does not.
fn runs(process: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

#[tokio::test]
async fn no_child_outlives_a_killed_dev() -> Result<()> {
    let folder = TempDir::new()?;
    let data = folder.path().join("data");
    let data = data.to_string_lossy();
    let command = cli().command(&[&["dev", "--data-dir", &data], &ANY_PORTS[..]].concat())?;
    let mut dev = Process::start("dev", command, &folder.path().join("dev.log"))?;
    let ready = async || {
        anyhow::ensure!(dev.ended()?.is_none(), "dev has ended: {}", dev.log());
        Ok(when(dev.log().contains("Running.")))
    };
    eventually("dev runs", ready).await?;
    let id = dev.pid().as_raw_nonzero();
    let children = std::fs::read_to_string(Path::new(&format!("/proc/{id}/task/{id}/children")))?;
    let children: Vec<&str> = children.split_whitespace().collect();
    assert_eq!(children.len(), 2, "{children:?}");
    dev.kill()?;
    eventually("its children have ended", async || Ok(when(!children.iter().any(|child| runs(child))))).await
}
