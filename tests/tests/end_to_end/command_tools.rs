//! The verbs of `postrider` that help on the side: emitting lines, verifying, completing.

use anyhow::Result;
use postrider_tests::api::event;
use postrider_tests::cli::Cli;
use postrider_tests::wait::{PATIENCE, eventually};
use postrider_tests::world::World;
use serde_json::Value;

#[tokio::test]
async fn verify_accepts_what_arrived_and_says_what_is_wrong_with_anything_else() -> Result<()> {
    let world = World::start().await?;
    let route = world.subscribe("/a").await?;
    world.api.emit(event("a.b", r#"{ "n":1 }"#)).await?;
    let post = eventually("the POST", async || Ok(world.receiver.posts().pop())).await?;
    let header = |name: &str| format!("{name}: {}", post.headers[name].to_str().unwrap_or_default());
    let headers = ["webhook-id", "webhook-timestamp", "webhook-signature"].map(header);
    let verify = async |secret: &str, body: &[u8]| {
        let mut arguments = vec!["verify", "--secret", secret, "-o", "json"];
        for header in &headers {
            arguments.extend(["-H", header]);
        }
        world.cli().run_with_input(&arguments, body).await
    };
    let good = verify(&route.secret, &post.body).await?;
    assert_eq!(good.code, 0, "{good:?}");
    assert_eq!(serde_json::from_str::<Value>(&good.stdout)?["verified"], true);

    let minified = String::from_utf8_lossy(&post.body).replace(' ', "");
    let parsed_first = verify(&route.secret, minified.as_bytes()).await?;
    assert_eq!(parsed_first.code, 7, "{parsed_first:?}");
    let other = verify("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo=", &post.body).await?;
    assert_eq!(other.code, 7, "{other:?}");
    assert_eq!(serde_json::from_str::<Value>(&other.stdout)?["verified"], false);
    assert!(other.stderr.contains("not verified"), "{other:?}");
    Ok(())
}

#[tokio::test]
async fn lines_are_emitted_one_by_one_and_a_refused_one_stops_no_other() -> Result<()> {
    let world = World::start().await?;
    world.subscribe("/a").await?;
    let lines = br#"{"type":"a.b","data":{"n":1},"idempotency_key":"k"}
{"type":"not good","data":2}
{"type":"a.b","data":{"n":1},"idempotency_key":"k"}
{"type":"a.c","data":[3]}
"#;
    let ended = world.cli().run_with_input(&["emit", "--lines", "-o", "json"], lines).await?;
    assert_eq!(ended.code, 4, "{ended:?}");
    let answers: Vec<Value> =
        ended.stdout.lines().map(serde_json::from_str).collect::<serde_json::Result<_>>()?;
    let accepted: Vec<bool> = answers.iter().map(|answer| answer["accepted"].is_object()).collect();
    assert_eq!(accepted, [true, false, true, true], "{}", ended.stdout);
    assert_eq!(answers[1]["error"]["field"], "event.type");
    assert_eq!(answers[2]["accepted"]["duplicate"], true);
    world.api.all_ended(PATIENCE).await?;
    assert_eq!(world.receiver.count(), 2);
    Ok(())
}

#[tokio::test]
async fn completions_name_every_verb() -> Result<()> {
    let cli = Cli::new("http://127.0.0.1:1", "nobody");
    for shell in ["bash", "zsh", "fish"] {
        let ended = cli.run(&["completions", shell]).await?;
        assert_eq!(ended.code, 0, "{ended:?}");
        for verb in ["dev", "emit", "deliveries", "subscriptions", "keys", "verify", "control-plane"] {
            assert!(ended.stdout.contains(verb), "{shell} does not complete {verb}");
        }
    }
    // What bash reads must be bash.
    let script = cli.run(&["completions", "bash"]).await?.stdout;
    let mut bash = std::process::Command::new("bash");
    bash.arg("-n");
    let checked = postrider_tests::cli::finish(bash, Some(script.as_bytes())).await?;
    assert_eq!(checked.code, 0, "{checked:?}");
    Ok(())
}

#[tokio::test]
async fn every_program_explains_its_settings() -> Result<()> {
    use postrider_tests::binaries;
    for (name, settings) in [
        (binaries::CLI, &["--server", "--tenant", "--output", "Exit codes"][..]),
        (binaries::CONTROL_PLANE, &["--data-dir", "--api-listen", "--shutdown-grace", "[default: 75s]"]),
        (binaries::AGENT, &["--control-plane", "--agent-id", "--egress-allow-cidrs", "[default: "]),
    ] {
        let mut command = std::process::Command::new(binaries::path(name)?);
        command.arg("--help");
        let help = postrider_tests::cli::finish(command, None).await?;
        assert_eq!(help.code, 0, "{help:?}");
        for setting in settings {
            assert!(help.stdout.contains(setting), "{name} --help does not say {setting}");
        }
    }
    Ok(())
}
