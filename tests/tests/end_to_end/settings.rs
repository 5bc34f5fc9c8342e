//! `config check` of both programs: what is wrong with settings, before anything is started.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use postrider_tests::binaries;
use postrider_tests::cli::{Ended, finish};
use postrider_tests::process::without_settings;
use postrider_tests::world::World;

/// Runs a program's `config check` with a settings file and variables.
async fn check(binary: &str, settings: &Path, variables: &[(&str, &str)]) -> Result<Ended> {
    let mut command = Command::new(binaries::path(binary)?);
    without_settings(&mut command);
    command.args(["config", "check", "--config"]).arg(settings).envs(variables.iter().copied());
    finish(command, None).await
}

fn says_all(ended: &Ended, words: &[&str]) -> Result<()> {
    for word in words {
        ensure!(ended.stderr.contains(word), "'{word}' is missing: {ended:?}");
    }
    Ok(())
}

#[tokio::test]
async fn settings_in_use_are_fine_and_checking_them_touches_nothing() -> Result<()> {
    // Both run: neither the ports nor the store nor the agent's identity are free.
    let world = World::start().await?;
    let links = [
        ("POSTRIDER_SERVICE_HOST", "10.0.0.1"),
        ("POSTRIDER_SERVICE_PORT_API", "7070"),
        ("POSTRIDER_PORT_7070_TCP", "tcp://10.0.0.1:7070"),
        ("POSTRIDER_AGENT_SERVICE_HOST", "10.0.0.2"),
        ("POSTRIDER_AGENT_PORT", "tcp://10.0.0.2:7073"),
        ("POSTRIDER_SERVER", "https://localhost:1"),
    ];
    let control_plane = check(binaries::CONTROL_PLANE, &world.control_plane.settings_file(), &links).await?;
    ensure!(control_plane.code == 0, "{control_plane:?}");
    for word in
        ["the settings are fine", "kek: kek_", "which belong together", "bootstrap_token_file: holds tok_"]
    {
        ensure!(control_plane.stdout.contains(word), "{control_plane:?}");
    }
    let settings = world.folder().join("checked-agent.toml");
    let state = world.folder().join("state-of-none");
    let join = world.api.join("default", 1).await?.expose_text().to_string();
    std::fs::write(&settings, format!("join = '{join}'\nstate_dir = '{}'", state.display()))?;
    let agent = check(binaries::AGENT, &settings, &links).await?;
    ensure!(agent.code == 0 && agent.stdout.contains("has no identity yet"), "{agent:?}");
    ensure!(!state.exists(), "checking has made the directory");
    ensure!(!agent.stdout.contains(&join), "a secret is shown");
    Ok(())
}

#[tokio::test]
async fn all_problems_are_reported_in_one_message() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name);
    let settings = path("control-plane.toml");
    std::fs::create_dir(path("authority"))?;
    let token = path("token");
    std::fs::write(&token, "prt_nothing")?;
    std::fs::set_permissions(&token, Permissions::from_mode(0o600))?;
    let lines = "cache_mib = 1\nretain_events = '1h'\ntls_cert = '/nowhere/crt'\ntls_key = '/nowhere/key'\nkek = ['file:/nowhere/kek']";
    std::fs::write(&settings, lines)?;
    let wrong = [("POSTRIDER_DATADIR", "/x"), ("POSTRIDER_AGENT_LISTN", "0.0.0.0:7071")];
    let refused = check(binaries::CONTROL_PLANE, &settings, &wrong).await?;
    ensure!(refused.code == 2, "{refused:?}");
    let words = [
        "POSTRIDER_DATADIR is not",
        "POSTRIDER_AGENT_LISTN is not",
        "data_dir is not set",
        "cache_mib is 1",
        "retain_events",
        "/nowhere/crt",
        "/nowhere/kek",
    ];
    says_all(&refused, &words)?;

    // What only a start would read is looked at when the rest is good.
    let kek = path("kek");
    std::fs::write(&kek, "5a".repeat(32))?;
    std::fs::set_permissions(&kek, Permissions::from_mode(0o600))?;
    let lines = format!(
        "data_dir = '{}'\ninsecure_loopback = true\nkek = ['file:{}']\nagent_ca = ['{}']\nbootstrap_token_file = '{}'",
        path("data").display(),
        kek.display(),
        path("authority").display(),
        token.display()
    );
    std::fs::write(&settings, lines)?;
    let refused = check(binaries::CONTROL_PLANE, &settings, &[]).await?;
    ensure!(refused.code == 2 && !path("data").exists(), "{refused:?}");
    says_all(&refused, &["agent_ca: ", "tls.crt", "bootstrap_token_file"])?;

    let settings = path("agent.toml");
    std::fs::write(path("ca.pem"), "no certificate")?;
    std::fs::create_dir(path("state"))?;
    std::fs::set_permissions(path("state"), Permissions::from_mode(0o755))?;
    let of_files = format!(
        "control_plane = 'https://localhost:1'\nstate_dir = '{}'\n[tls]\nca = '{}'",
        path("state").display(),
        path("ca.pem").display()
    );
    std::fs::write(&settings, of_files)?;
    let refused = check(binaries::AGENT, &settings, &[]).await?;
    ensure!(refused.code == 2, "{refused:?}");
    says_all(&refused, &["`tls.ca` cannot be used", "chmod 700"])?;
    std::fs::write(&settings, "streams = 99\nstrems = 1")?;
    let refused = check(binaries::AGENT, &settings, &[("POSTRIDER_AGENT_POOOL", "x")]).await?;
    ensure!(refused.code == 2, "{refused:?}");
    says_all(&refused, &["POSTRIDER_AGENT_POOOL is not", "`streams` in", "`strems` in", "`join` is missing"])
}
