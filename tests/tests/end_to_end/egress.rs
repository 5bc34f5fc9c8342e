//! The way from an agent to endpoints, as its owner lays it out: a proxy, credentials, and what it all means beforehand.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use postrider_proto::v1::{self, DeliveryState, OutcomeClass};
use postrider_tests::api::{event, no_retries};
use postrider_tests::cli::Cli;
use postrider_tests::forward_proxy::{ForwardProxy, PASSWORD, USER};
use postrider_tests::receiver::Answer;
use postrider_tests::wait::{eventually, when};
use postrider_tests::world::{AgentSettings, World};
use serde_json::Value;

const VECTORS: &str = include_str!("../../../domain/tests/vectors/egress.json");

fn secret(folder: &Path, name: &str, content: &str) -> Result<PathBuf> {
    let path = folder.join(name);
    std::fs::write(&path, content)?;
    std::fs::set_permissions(&path, Permissions::from_mode(0o600))?;
    Ok(path)
}

/// A world whose agent has these egress settings too.
async fn world_with(egress: String) -> Result<World> {
    World::with(AgentSettings { egress, ..AgentSettings::default() }, &[]).await
}

/// The attempt of one delivery that is not repeated.
async fn attempt(world: &World, state: DeliveryState) -> Result<v1::Attempt> {
    let (_, delivery) = world.api.emit_to_one(event("a.b", "{}")).await?;
    let (_, mut attempts) = world.api.delivery_in(&delivery, state).await?;
    ensure!(attempts.len() == 1, "{attempts:?}");
    Ok(attempts.remove(0))
}

#[tokio::test]
async fn endpoints_are_called_through_a_real_proxy_and_only_with_its_password() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let proxy = ForwardProxy::start(folder.path()).await?;
    let file = secret(folder.path(), "user", &format!("{USER}:{PASSWORD}\n"))?;
    let (address, file) = (proxy.address(), file.display());
    let settings = format!("[egress.proxy]\nurl = \"http://{address}\"\ncredentials_file = \"{file}\"\n");
    let world = world_with(settings).await?;
    world.subscribe("/a").await?;
    let delivered = attempt(&world, DeliveryState::Delivered).await?;
    assert_eq!(delivered.outcome(), OutcomeClass::Success);
    let posts = world.receiver.posts();
    assert!(posts.len() == 1 && !posts[0].headers.keys().any(|name| name.as_str().starts_with("proxy")));
    let asked = format!("CONNECT 127.0.0.1:{} HTTP/1.1", world.receiver.port());
    assert!(proxy.log().contains(&asked), "{}", proxy.log());

    let stranger = world_with(format!("[egress.proxy]\nurl = \"http://{USER}:wrong@{address}\"\n")).await?;
    let once = v1::Subscription { retry_policy: no_retries(), ..v1::Subscription::default() };
    stranger.subscribe_with("/a", once).await?;
    let refused = attempt(&stranger, DeliveryState::Exhausted).await?;
    assert_eq!(refused.outcome(), OutcomeClass::Connect);
    assert_eq!(refused.detail, "no connection to the endpoint could be made");
    assert!(!refused.request_sent && stranger.receiver.count() == 0);
    let log = stranger.agent.log();
    assert!(log.contains("wants a user and a password, or others") && !log.contains("wrong"), "{log}");
    Ok(())
}

#[tokio::test]
async fn an_owners_header_reaches_its_host_follows_its_file_and_goes_nowhere_else() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = secret(folder.path(), "headers", "authorization: Bearer first-0wners3cret\n")?;
    let settings = format!(
        "[[egress.credentials]]\nhosts = [\"127.0.0.1\"]\nheaders_file = \"{}\"\nallow_http = true\n",
        file.display()
    );
    let world = world_with(settings).await?;
    // An endpoint that shows it around, in a response that is kept for people to look at.
    let shown = Answer::Header(500, "x-request-id", "Bearer first-0wners3cret".to_owned());
    world.receiver.script("/a", [shown, Answer::Status(204)]);
    let once = v1::Subscription { retry_policy: no_retries(), ..v1::Subscription::default() };
    world.subscribe_with("/a", once).await?;
    let failed = attempt(&world, DeliveryState::Exhausted).await?;
    assert_eq!(world.receiver.posts()[0].headers["authorization"], "Bearer first-0wners3cret");
    assert_eq!((failed.http_status, failed.response_headers.len()), (500, 2), "{failed:?}");

    secret(folder.path(), "headers", "authorization: Bearer second-0wners3cret\n")?;
    eventually("the new header is sent", async || {
        attempt(&world, DeliveryState::Delivered).await?;
        let posts = world.receiver.posts();
        let last = &posts.last().context("there is no POST")?.headers["authorization"];
        Ok(when(last == "Bearer second-0wners3cret"))
    })
    .await?;
    // The settings, the stores, the logs of both: the folder of this world has everything but the owner's own file.
    search(world.folder(), b"0wners3cret")
}

/// Fails if a file below a folder has this text in it.
fn search(folder: &Path, text: &[u8]) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            search(&path, text)?;
        } else {
            let found = std::fs::read(&path)?.windows(text.len()).any(|window| window == text);
            ensure!(!found, "{} has an owner's secret in it", path.display());
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_policy_can_be_checked_before_it_is_installed() -> Result<()> {
    let vectors: Vec<Value> = serde_json::from_str(VECTORS)?;
    let text = |vector: &Value, name: &str| vector[name].as_str().unwrap_or_default().to_owned();
    // No verb can know the answer to a second look-up, or a response; and no argument can have a NUL in it.
    let unknowable = |vector: &Value| matches!(text(vector, "stage").as_str(), "rebind" | "redirect");
    let known: Vec<_> =
        vectors.iter().filter(|vector| !unknowable(vector) && !text(vector, "url").contains('\0')).collect();
    assert_eq!(known.len(), 162);
    // Nobody is there to be asked.
    let cli = Cli::new("http://127.0.0.1:1", "acme");
    let mut arguments = vec!["egress".to_owned(), "check".to_owned(), "-o".to_owned(), "json".to_owned()];
    for vector in &known {
        if let Some(answers) = vector["resolves"].as_array() {
            let url = text(vector, "url");
            let name = url.trim_start_matches("https://").split(['/', '?', ':']).next().unwrap_or_default();
            let answers: Vec<_> = answers.iter().filter_map(Value::as_str).collect();
            // Some names come up again, always with the same answer.
            arguments.extend(["--resolve".to_owned(), format!("{name}={}", answers.join(","))]);
        }
    }
    arguments.push("--".to_owned());
    arguments.extend(known.iter().map(|vector| text(vector, "url")));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let ended = cli.run(&arguments).await?;
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    let lines: Vec<Value> = serde_json::from_str(&ended.stdout)?;
    assert_eq!(lines.len(), known.len());
    for (line, vector) in lines.iter().zip(&known) {
        for name in ["url", "verdict", "code"] {
            assert_eq!(line[name], vector[name], "{line}");
        }
        assert!(!text(line, "reason").is_empty());
    }
    Ok(())
}

#[tokio::test]
async fn a_check_says_by_its_exit_code_whether_all_are_allowed() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("agent.toml");
    // Neither a control plane, nor the files: they are on the agent's machine.
    let settings = "[egress]\nallow_cidrs = [\"10.1.0.0/16\"]\nallow_hosts = [\"vault.corp\"]\n\
                    [egress.proxy]\nurl = \"http://proxy.corp:3128\"\ncredentials_file = \"/not/here\"\n";
    std::fs::write(&file, settings)?;
    let file = file.to_string_lossy();
    let cli = Cli::new("http://127.0.0.1:1", "acme");
    let check =
        async |more: &[&str]| cli.run(&[&["egress", "check", "--config", &file], more].concat()).await;

    let allowed =
        check(&["--resolve", "vault.corp=10.1.2.3", "https://vault.corp/", "https://hooks.example.com/"])
            .await?;
    assert_eq!((allowed.code, allowed.stderr.as_str()), (0, ""));
    let lines: Vec<_> = allowed.stdout.lines().collect();
    assert_eq!(
        lines[0],
        "allow ok https://vault.corp/: it leads to 10.1.2.3; through the proxy proxy.corp:3128"
    );
    assert!(
        lines[1].starts_with(
            "allow ok https://hooks.example.com/: its addresses will be judged when it is called"
        )
    );

    let refused =
        check(&["--resolve", "vault.corp=10.2.2.3", "https://vault.corp/", "https://hooks.example.com/"])
            .await?;
    assert_eq!((refused.code, refused.stderr.as_str()), (1, ""));
    assert!(
        refused
            .stdout
            .starts_with("refuse v4_private https://vault.corp/: the address 10.2.2.3 is a private")
    );
    for wrong in [
        &[][..],
        &["--resolve", "x", "https://a.example/"],
        &["--egress-allow-ports", "x", "https://a.example/"],
    ] {
        assert_eq!(check(wrong).await?.code, 2, "{wrong:?}");
    }
    Ok(())
}
