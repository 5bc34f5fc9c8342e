//! Who may talk to whom: plain text stays on the machine; beyond it there is TLS, and clients show a certificate.

use std::process::Command;

use anyhow::{Context as _, Result};
use postrider_proto::v1::DeliveryState;
use postrider_tests::api::event;
use postrider_tests::binaries;
use postrider_tests::cli::{Cli, finish};
use postrider_tests::receiver::Receiver;
use postrider_tests::wait::{PATIENCE, eventually, when};
use postrider_tests::world::{AGENT, Agent, AgentSettings, ControlPlane, TENANT, TlsFiles, World};
use tempfile::TempDir;

#[tokio::test]
async fn a_control_plane_without_tls_refuses_to_be_reached_from_elsewhere() -> Result<()> {
    let folder = TempDir::new()?;
    let data = folder.path().join("data");
    for (flag, name) in [("--api-listen", "api_listen"), ("--agent-listen", "agent_listen")] {
        let mut command = Command::new(binaries::path(binaries::CONTROL_PLANE)?);
        command.arg("--data-dir").arg(&data).args([flag, "0.0.0.0:0"]);
        let ended = finish(command, None).await?;
        assert_eq!(ended.code, 2, "{ended:?}");
        assert!(ended.stderr.contains(name) && ended.stderr.contains("tls_cert"), "{ended:?}");
    }
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
async fn with_certificates_an_event_goes_all_the_way_over_tls() -> Result<()> {
    let folder = TempDir::new()?;
    let tls = TlsFiles::make(&folder.path().join("tls"))?;
    let receiver = Receiver::start().await?;
    let control_plane = ControlPlane::start(folder.path(), &[], Some(tls.clone())).await?;
    let api = control_plane.api(TENANT)?;
    api.create_tenant().await?;
    let settings = AgentSettings {
        control_plane: control_plane.agents_url(),
        ports: vec![receiver.port()],
        tls: Some(tls.clone()),
        ..AgentSettings::default()
    };
    let mut agent = Agent::new(folder.path(), settings);
    agent.start()?;
    api.agent_connected(AGENT, 2).await?;
    let wanted = postrider_proto::v1::Subscription { url: receiver.url("/a"), ..Default::default() };
    api.subscribe(wanted, "").await?;
    let (_, delivery) = api.emit_to_one(event("a.b", "{}")).await?;
    api.delivery_in(&delivery, DeliveryState::Delivered).await?;
    assert_eq!(receiver.count(), 1);

    let cli =
        Cli::new(&control_plane.api_url(), TENANT).with("POSTRIDER_TOKEN_FILE", control_plane.token_file());
    let [ca, cert, key] = [&tls.ca, &tls.client_cert, &tls.client_key].map(|path| path.to_string_lossy());
    let listed = cli.run(&["agents", "list", "--ca", &ca, "--cert", &cert, "--key", &key]).await?;
    assert!(listed.code == 0 && listed.stdout.contains(AGENT), "{listed:?}");
    let without = cli.run(&["agents", "list", "--ca", &ca]).await?;
    assert_eq!(without.code, 6, "without a certificate: {without:?}");
    let distrusting = cli.run(&["agents", "list", "--cert", &cert, "--key", &key]).await?;
    assert_eq!(distrusting.code, 6, "without the authority: {distrusting:?}");
    Ok(())
}

#[tokio::test]
async fn an_agent_with_a_strangers_certificate_gets_no_session() -> Result<()> {
    let folder = TempDir::new()?;
    let tls = TlsFiles::make(&folder.path().join("tls"))?;
    let strangers = TlsFiles::make(&folder.path().join("strangers"))?;
    let control_plane = ControlPlane::start(folder.path(), &[], Some(tls.clone())).await?;
    let api = control_plane.api(TENANT)?;
    let stranger =
        TlsFiles { client_cert: strangers.client_cert, client_key: strangers.client_key, ..tls.clone() };
    let connect = |id: &str, tls| {
        let settings = AgentSettings {
            id: id.to_owned(),
            control_plane: control_plane.agents_url(),
            tls: Some(tls),
            ..AgentSettings::default()
        };
        Agent::new(folder.path(), settings)
    };
    let mut refused = connect("stranger", stranger);
    refused.start()?;
    let said = async || Ok(when(refused.log().contains("fatal alert")));
    let told = eventually("the stranger says that the other side refused it", said).await;
    told.with_context(|| refused.log())?;
    let mut known = connect("known", tls);
    known.start()?;
    api.agent_connected("known", 2).await?;
    assert!(api.agent("stranger").await?.is_none());
    refused.kill()
}

#[tokio::test]
async fn a_second_process_with_an_agents_name_takes_its_place_and_says_so() -> Result<()> {
    let mut world = World::start().await?;
    let before = world.agent_connected().await?.instance;
    let folder = TempDir::new()?;
    let mut twin = Agent::new(folder.path(), world.agent.settings.clone());
    twin.start()?;
    eventually("the newer one is the agent", async || {
        let found = world.api.agent(AGENT).await?;
        Ok(found.filter(|agent| agent.instance != before))
    })
    .await?;
    let status = world.agent.exit(PATIENCE).await?;
    assert_eq!(status.code(), Some(3), "the older one ends for good: {status}");
    Ok(())
}
