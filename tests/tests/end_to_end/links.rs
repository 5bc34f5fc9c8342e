//! Who may talk to whom: plain text stays on the machine; beyond it there is TLS, and clients show a certificate.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use postrider_tests::binaries;
use postrider_tests::certificates::Pair;
use postrider_tests::cli::{Cli, finish};
use postrider_tests::process::without_settings;
use postrider_tests::wait::{PATIENCE, eventually, when};
use postrider_tests::world::{AGENT, Agent, ControlPlane, Security, TENANT, TlsFiles, World};
use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;

#[tokio::test]
async fn a_control_plane_without_tls_refuses_to_be_reached_from_elsewhere() -> Result<()> {
    let folder = TempDir::new()?;
    let data = folder.path().join("data");
    for (flag, name) in [("--api-listen", "api_listen"), ("--agent-listen", "agent_listen")] {
        let mut command = Command::new(binaries::path(binaries::CONTROL_PLANE)?);
        command.arg("--data-dir").arg(&data).args([flag, "0.0.0.0:0", "--insecure-loopback"]);
        let ended = finish(command, None).await?;
        assert_eq!(ended.code, 2, "{ended:?}");
        assert!(ended.stderr.contains(&format!("{name} is 0.0.0.0:0, which others can reach")), "{ended:?}");
    }
    let mut command = Command::new(binaries::path(binaries::CONTROL_PLANE)?);
    command.arg("--data-dir").arg(&data);
    let ended = finish(command, None).await?;
    assert!(ended.code == 2 && ended.stderr.contains("tls_cert and tls_key are not both set"), "{ended:?}");
    assert!(!data.exists(), "something was made before the settings were judged");
    Ok(())
}

#[tokio::test]
async fn an_agent_refuses_plain_text_to_another_machine() -> Result<()> {
    for address in ["http://192.0.2.1:7071", "http://control-plane.example:7071"] {
        let mut command = Command::new(binaries::path(binaries::AGENT)?);
        command.args(["--control-plane", address, "--agent-id", "a"]);
        let ended = finish(command, None).await?;
        assert_eq!(ended.code, 2, "{ended:?}");
        assert!(ended.stderr.contains("https://"), "{ended:?}");
    }
    Ok(())
}

#[tokio::test]
async fn clients_of_the_api_show_a_certificate_when_its_owner_wants_one() -> Result<()> {
    let folder = TempDir::new()?;
    let tls = TlsFiles::with_clients(&folder.path().join("tls"))?;
    let (_, pair) = tls.clients.clone().context("a client's certificate")?;
    let control_plane = ControlPlane::start(folder.path(), &[], Security::Tls(tls)).await?;
    control_plane.api(TENANT)?.create_tenant().await?;

    let cli = control_plane.cli(TENANT);
    let [cert, key] = [&pair.cert, &pair.key].map(|path| path.to_string_lossy());
    let listed = cli.run(&["tenants", "list", "--cert", &cert, "--key", &key]).await?;
    assert!(listed.code == 0 && listed.stdout.contains(TENANT), "{listed:?}");
    let without = cli.run(&["tenants", "list"]).await?;
    assert_eq!(without.code, 6, "without a certificate: {without:?}");
    let distrusting = Cli::new(&control_plane.api_url(), TENANT);
    let distrusting = distrusting.run(&["tenants", "list", "--cert", &cert, "--key", &key]).await?;
    assert_eq!(distrusting.code, 6, "without the authority: {distrusting:?}");
    Ok(())
}

#[tokio::test]
async fn the_apis_certificate_is_read_anew_when_its_files_change() -> Result<()> {
    let folder = TempDir::new()?;
    let files = folder.path().join("tls");
    let first = TlsFiles::make(&files)?;
    let control_plane = ControlPlane::start(folder.path(), &[], Security::Tls(first.clone())).await?;
    let list = async |ca: &Path| {
        let cli = control_plane.cli(TENANT).with("POSTRIDER_CA", ca);
        anyhow::Ok(cli.run(&["tenants", "list"]).await?.code)
    };
    let former = folder.path().join("former.crt");
    std::fs::copy(&first.ca, &former)?;
    assert_eq!(list(&former).await?, 0);
    // Half a change: what was read before stays in use.
    std::fs::write(&first.server.key, "no key")?;
    let told = async || Ok(when(control_plane.log().contains("holds no private key")));
    eventually("the problem is told", told).await?;
    assert_eq!(list(&former).await?, 0);
    let second = TlsFiles::make(&files)?;
    let served = async || Ok(when(list(&second.ca).await? == 0));
    eventually("the new certificate is served", served).await?;
    assert_eq!(list(&former).await?, 6, "the former certificate is not served any more");
    Ok(())
}

/// Puts a self-signed certificate for these names into the files, valid in these years.
fn put(pair: &Pair, names: &[&str], from: i32, until: i32) -> Result<()> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let (mut params, key) = (CertificateParams::new(names)?, KeyPair::generate()?);
    (params.not_before, params.not_after) =
        (rcgen::date_time_ymd(from, 1, 1), rcgen::date_time_ymd(until, 1, 1));
    std::fs::write(&pair.key, key.serialize_pem())?;
    std::fs::write(&pair.cert, params.self_signed(&key)?.pem())?;
    Ok(())
}

#[tokio::test]
async fn a_certificate_that_clients_would_refuse_is_not_taken_over_and_told_everywhere() -> Result<()> {
    const EXPIRY: &str = "postrider_certificate_expiry_timestamp_seconds{certificate=\"api\"}";
    let folder = TempDir::new()?;
    let files = folder.path().join("tls");
    let first = TlsFiles::make(&files)?;
    let lines = &["admin_listen = \"127.0.0.1:0\""];
    let mut control_plane = ControlPlane::start(folder.path(), lines, Security::Tls(first.clone())).await?;
    let good = [&first.server.cert, &first.server.key].map(std::fs::read);
    let admin = control_plane.admin().context("no admin port")?;
    let expiry = async || Ok(admin.scrape().await?.find(EXPIRY));
    let before = eventually("the certificate was looked at", expiry).await?;
    assert_eq!(admin.get("/readyz").await?, (200, "ok\n".to_owned()));
    for (names, from, until, expected) in [
        (&["localhost"], 2020, 2021, "expired on 2021-01-01"),
        (&["localhost"], 2090, 2091, "is not valid before 2090-01-01"),
        (&["other.example"], 2020, 2091, "is not for localhost"),
    ] {
        put(&first.server, names, from, until)?;
        let told = async || {
            let (status, text) = admin.get("/readyz").await?;
            let warned = "warning: keeping the API's previous certificate: ";
            Ok(when(
                status == 200 && text.starts_with("ok\n") && text.contains(warned) && text.contains(expected),
            ))
        };
        eventually(expected, told).await?;
        assert!(control_plane.log().contains(expected), "{}", control_plane.log());
        let cli = control_plane.cli(TENANT);
        assert_eq!(cli.run(&["tenants", "list"]).await?.code, 0, "the former one is in use");
        assert_eq!(admin.scrape().await?.value(EXPIRY)?, before, "the metric tells of what is in use");
        let doctor = cli.run(&["doctor"]).await?;
        assert!(
            doctor.stdout.contains("keeping the API's previous certificate")
                && doctor.stdout.contains(expected),
            "{doctor:?}"
        );
    }
    let [cert, key] = good;
    std::fs::write(&first.server.cert, cert?)?;
    std::fs::write(&first.server.key, key?)?;
    let over = async || Ok(when(admin.get("/readyz").await?.1 == "ok\n"));
    eventually("it is as before", over).await?;

    // A start takes what there is: deliveries do not depend on it. But it is told.
    put(&first.server, &["localhost"], 2020, 2021)?;
    let mut check = Command::new(binaries::path(binaries::CONTROL_PLANE)?);
    without_settings(&mut check);
    check.args(["config", "check", "--config"]).arg(control_plane.settings_file());
    let checked = finish(check, None).await?;
    assert!(checked.code == 2 && checked.stderr.contains("expired on 2021-01-01"), "{checked:?}");
    control_plane.kill()?;
    control_plane.restart().await?;
    let expired = "the API's certificate expired on 2021-01-01";
    assert!(control_plane.log().contains(expired), "{}", control_plane.log());
    let admin = control_plane.admin().context("no admin port")?;
    let told = async || Ok(when(admin.get("/readyz").await?.1.contains(expired)));
    eventually("it is told", told).await?;
    // Any that works takes its place.
    let renewed = TlsFiles::make(&files)?;
    let cli = control_plane.cli(TENANT).with("POSTRIDER_CA", &renewed.ca);
    let served = async || Ok(when(cli.run(&["tenants", "list"]).await?.code == 0));
    eventually("the renewed certificate is served", served).await
}

#[tokio::test]
async fn a_second_process_with_a_copied_identity_takes_its_place_and_raises_an_alarm() -> Result<()> {
    let mut world = World::start().await?;
    let before = world.agent_connected().await?.instance;
    let folder = TempDir::new()?;
    copy_folder(&world.agent.identity(), &folder.path().join("agent-1-identity"))?;
    let mut twin = Agent::new(folder.path(), world.agent.settings.clone());
    twin.start()?;
    eventually("the newer one is the agent", async || {
        let found = world.api.agent(AGENT).await?;
        Ok(found.filter(|agent| agent.instance != before && agent.duplicate_time.is_some()))
    })
    .await?;
    let status = world.agent.exit(PATIENCE).await?;
    assert_eq!(status.code(), Some(3), "the older one ends for good: {status}");
    Ok(())
}

/// As somebody would who steals an identity: files, and who may read them.
fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir(to)?;
    std::fs::set_permissions(to, std::fs::metadata(from)?.permissions())?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        std::fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}
