//! `postrider doctor`: says that a sound deployment is sound, and finds what is not.

use anyhow::{Context as _, Result};
use postrider_tests::certificates::Authority;
use postrider_tests::cli::{Cli, Ended};
use postrider_tests::wait::{eventually, when};
use postrider_tests::world::World;
use serde_json::Value;

async fn examined(cli: &Cli) -> Result<(i32, Vec<Value>)> {
    let ended = cli.run(&["doctor", "--output", "json"]).await?;
    let findings = serde_json::from_str(&ended.stdout).with_context(|| format!("{ended:?}"))?;
    Ok((ended.code, findings))
}

/// The findings about something, as level and text.
fn about<'a>(findings: &'a [Value], what: &str) -> Vec<(&'a str, String)> {
    let of_it = findings.iter().filter(|finding| finding["about"] == what);
    of_it
        .map(|finding| {
            let text = format!("{} {}", finding["found"], finding["next"]);
            (finding["level"].as_str().unwrap_or_default(), text)
        })
        .collect()
}

#[tokio::test]
async fn a_sound_deployment_is_sound_and_a_pool_without_agents_is_not() -> Result<()> {
    let mut world = World::start().await?;
    world.subscribe("/a").await?;
    let second = world.another_agent("agent-2").await?;
    let (code, findings) = examined(&world.cli()).await?;
    let bad: Vec<_> = findings.iter().filter(|finding| finding["level"] == "problem").collect();
    assert!(bad.is_empty() && code == 0, "{findings:#?}");
    for what in ["reach", "certificate", "health", "version", "clock", "authority", "secrets", "pool"] {
        let found = about(&findings, what);
        assert!(found.iter().any(|(level, _)| *level == "ok"), "{what}: {findings:#?}");
    }
    let text = world.cli().run(&["doctor"]).await?;
    assert!(text.stdout.contains("pool default has 2 agents"), "{text:?}");

    world.agent.kill()?;
    drop(second);
    let ended = eventually("the doctor to miss the agents", async || {
        let (code, findings) = examined(&world.cli()).await?;
        let pool = about(&findings, "pool");
        Ok(pool.into_iter().find(|(level, _)| *level == "problem").map(|(_, text)| (code, text)))
    });
    let (code, text) = ended.await?;
    assert!(
        code == 1 && text.contains("pool default has no agent") && text.contains("start agents"),
        "{text}"
    );
    Ok(())
}

#[tokio::test]
async fn what_keeps_a_caller_out_is_explained() -> Result<()> {
    let mut world = World::start().await?;
    let server = world.control_plane.api_url();
    let one = |ended: &Ended, level: &str, words: &[&str]| {
        let good = words.iter().all(|word| ended.stdout.contains(word)) && ended.stdout.contains(level);
        assert!(good, "{words:?} are not all in {ended:?}");
    };

    let folder = world.folder().join("stranger");
    std::fs::create_dir(&folder)?;
    let stranger = Authority::new(&folder)?;
    let other = folder.join("other-ca.pem");
    std::fs::write(&other, stranger.pem())?;
    let untrusted = world.cli().with("POSTRIDER_CA", &other).run(&["doctor"]).await?;
    one(&untrusted, "PROBLEM", &["an authority that is not trusted here", "--ca"]);

    let ca = world.control_plane.ca().context("no authority")?.to_owned();
    let cli = |server: &str| Cli::new(server, "acme").with("POSTRIDER_CA", &ca);
    let closed = cli("https://127.0.0.1:1").run(&["doctor"]).await?;
    one(&closed, "PROBLEM", &["127.0.0.1:1 cannot be reached", "api_listen"]);
    let nameless = cli("https://does-not-exist.invalid:1").run(&["doctor"]).await?;
    one(&nameless, "PROBLEM", &["does-not-exist.invalid", "DNS"]);

    let nobody = cli(&server).run(&["doctor"]).await?;
    one(&nobody, "PROBLEM", &["the token is not accepted", "--token-file"]);
    assert_eq!(nobody.code, 1);

    world.control_plane.kill()?;
    eventually("the port to be closed", async || {
        let ended = world.cli().run(&["doctor"]).await?;
        Ok(when(ended.stdout.contains("cannot be reached")))
    })
    .await
}
