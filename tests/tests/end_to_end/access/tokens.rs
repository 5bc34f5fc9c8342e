//! The life of a token: made, used, watched, ended.

use std::time::Duration;

use anyhow::{Context as _, Result};
use postrider_proto::v1::{self, Role};
use postrider_tests::api::event;
use postrider_tests::wait::{PATIENCE, when, within};
use postrider_tests::world::{ControlPlane, Guarded, NewToken, TENANT, TlsFiles, token};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt as _;

/// How soon streams end.
const SOON: Duration = Duration::from_secs(5);

#[tokio::test]
async fn an_admin_makes_lists_and_revokes_tokens_with_the_command() -> Result<()> {
    let world = Guarded::start(&[]).await?;
    let admin = world.token(Role::Admin, None).await?;
    let cli = world.cli(&admin.secret);
    let named = ["--display-name", "billing", "--lifetime", "1h", "--tenant", TENANT];
    let made = cli.json(&[&["tokens", "create", "--role", "emitter"], &named[..]].concat()).await?;
    let (id, secret) = (made["token"]["id"].as_str(), made["secret"].as_str());
    let (id, secret) = (id.context("no id")?, secret.context("no secret")?);
    assert_eq!((&made["token"]["role"], &made["token"]["tenant"]), (&"emitter".into(), &TENANT.into()));

    let service = world.cli(secret).with("POSTRIDER_TENANT", TENANT);
    let emitted = service.run(&["emit", "a.b", "--data", "{}"]).await?;
    assert_eq!(emitted.code, 0, "{emitted:?}");
    let refused = service.run(&["events", "list"]).await?;
    assert!(refused.code == 4 && refused.stderr.contains("ROLE_NOT_PERMITTED"), "{refused:?}");
    let listed = cli.json(&["tokens", "list"]).await?;
    let listed = listed.as_array().context("no list")?;
    let entry = listed.iter().find(|entry| entry["id"] == id).context("it is not listed")?;
    assert!(entry["last_use_time"].is_string() && entry["expire_time"].is_string(), "{entry}");
    assert!(!format!("{listed:?}").contains(secret));

    assert_eq!(cli.run(&["tokens", "revoke", id]).await?.code, 0);
    let ended = service.run(&["emit", "a.b", "--data", "{}"]).await?;
    assert!(ended.code == 4 && ended.stderr.contains("TOKEN_UNKNOWN"), "{ended:?}");
    assert!(!ended.stderr.contains(secret), "{ended:?}");
    assert_eq!(cli.run(&["tokens", "revoke", id]).await?.code, 3);
    let nobody = world.cli_without_token().run(&["tenants", "list"]).await?;
    assert!(nobody.code == 4 && nobody.stderr.contains("TOKEN_MISSING"), "{nobody:?}");
    let mistyped = world.cli(&secret[..60]).run(&["tenants", "list"]).await?;
    assert!(mistyped.code == 2 && !mistyped.stderr.contains(&secret[..60]), "{mistyped:?}");
    Ok(())
}

#[tokio::test]
async fn a_token_file_that_others_can_read_is_refused() -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;

    let mut world = Guarded::start(&[]).await?;
    let file = world.control_plane.token_file();
    let cli = world.cli_without_token().with("POSTRIDER_TOKEN_FILE", &file);
    assert_eq!(cli.run(&["tenants", "list"]).await?.code, 0);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644))?;
    let refused = cli.run(&["tenants", "list"]).await?;
    assert!(refused.code == 2 && refused.stderr.contains("chmod 600"), "{refused:?}");
    // The control plane does not look at the file while an admin's token is valid.
    world.control_plane.signal(Signal::TERM)?;
    world.control_plane.exit(PATIENCE).await?;
    world.control_plane.restart().await
}

#[tokio::test]
async fn a_confined_admin_manages_its_own_tenants_tokens_alone() -> Result<()> {
    let world = Guarded::start(&[]).await?;
    let own = world.token(Role::Admin, Some(TENANT)).await?;
    let api = world.api(TENANT, &own.secret)?;
    let create = |tenant: &str| v1::CreateTokenRequest {
        role: Role::Admin.into(),
        tenant: tenant.to_owned(),
        ..Default::default()
    };
    let made = api.tokens().create_token(create(TENANT)).await?.into_inner().token.context("no token")?;
    let refused = api.tokens().create_token(create("")).await.err().context("more than its own")?;
    assert_eq!(refused.code(), Code::PermissionDenied);
    let refused = api.tokens().create_token(create("nobody")).await.err().context("a foreign one")?;
    assert_eq!(refused.code(), Code::NotFound);
    for (lifetime, good) in [(0, false), (1, true), (3600, true), (11 * 366 * 86_400, false)] {
        let lifetime = Some(prost_types::Duration { seconds: lifetime, nanos: 0 });
        let answer = api.tokens().create_token(v1::CreateTokenRequest { lifetime, ..create(TENANT) }).await;
        assert_eq!(answer.is_ok(), good, "{lifetime:?}: {answer:?}");
    }
    api.tokens().revoke_token(v1::RevokeTokenRequest { token: made.id, ..Default::default() }).await?;
    Ok(())
}

/// Two streams of one token, open for as long as it is good.
struct Streams {
    watch: Streaming<v1::WatchDeliveriesResponse>,
    emits: mpsc::Sender<v1::EmitStreamRequest>,
    answers: Streaming<v1::EmitStreamResponse>,
}

impl Streams {
    async fn open(world: &Guarded, token: &NewToken) -> Result<Self> {
        let api = world.api(TENANT, &token.secret)?;
        let request = v1::WatchDeliveriesRequest { tenant: TENANT.into(), ..Default::default() };
        let mut watch = api.deliveries().watch_deliveries(request).await?.into_inner();
        // Where it begins.
        watch.message().await?;
        let (emits, queue) = mpsc::channel(64);
        let answers = api.events().emit_stream(ReceiverStream::new(queue)).await?.into_inner();
        let mut streams = Self { watch, emits, answers };
        streams.emit().await?;
        streams.answers.message().await?.context("no answer")?;
        Ok(streams)
    }

    async fn emit(&self) -> Result<()> {
        let event = Some(event("a.b", "{}"));
        self.emits.send(v1::EmitStreamRequest { reference: 1, tenant: TENANT.into(), event }).await?;
        Ok(())
    }

    /// Both end soon, and say why.
    async fn end(mut self) -> Result<()> {
        let watch = tokio::time::timeout(SOON, self.watch.message()).await.context("watching goes on")?;
        assert_ended(watch.err())?;
        let answer = tokio::time::timeout(SOON, self.answers.message()).await.context("emitting goes on")?;
        assert_ended(answer.err())
    }
}

fn assert_ended(status: Option<Status>) -> Result<()> {
    let status = status.context("the stream ended well")?;
    assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
    let details = status.get_error_details();
    assert_eq!(details.error_info().map(|info| info.reason.as_str()), Some("TOKEN_ENDED"));
    Ok(())
}

#[tokio::test]
async fn streams_end_when_their_token_is_revoked_or_expires() -> Result<()> {
    let world = Guarded::start(&[]).await?;
    let (revoked, other) =
        (world.token(Role::Operator, None).await?, world.token(Role::Operator, None).await?);
    let expiring =
        world.short_lived_token(Role::Operator, Some(TENANT), Some(Duration::from_secs(3))).await?;
    let (first, mut others, third) = (
        Streams::open(&world, &revoked).await?,
        Streams::open(&world, &other).await?,
        Streams::open(&world, &expiring).await?,
    );
    world.revoke(&revoked).await?;
    // What is sent after the revocation is not accepted, though the stream may not have ended yet.
    let count = async || -> Result<usize> {
        let request = v1::ListEventsRequest { tenant: TENANT.into(), page_size: 1000, ..Default::default() };
        Ok(world.admin.events().list_events(request).await?.into_inner().events.len())
    };
    let before = count().await?;
    for _ in 0..50 {
        if first.emit().await.is_err() {
            break;
        }
    }
    first.end().await?;
    third.end().await?;
    assert_eq!(count().await?, before, "an event of a revoked token was accepted");
    others.emit().await?;
    others.answers.message().await?.context("another token's stream has ended")?;
    Ok(())
}

#[tokio::test]
async fn when_a_token_was_last_used_is_known_after_a_restart() -> Result<()> {
    let mut world = Guarded::start(&[]).await?;
    let token = world.token(Role::Viewer, None).await?;
    let last_use = async |world: &Guarded| -> Result<Option<i64>> {
        let listed = world.admin.tokens().list_tokens(v1::ListTokensRequest::default()).await?.into_inner();
        let entry = listed.tokens.into_iter().find(|entry| entry.id == token.id).context("not listed")?;
        Ok(entry.last_use_time.map(|time| time.seconds))
    };
    assert_eq!(last_use(&world).await?, None);
    let api = world.api(TENANT, &token.secret)?;
    api.tenants().list_tenants(v1::ListTenantsRequest::default()).await?;
    let used = last_use(&world).await?.context("the use is not known")?;
    let now = std::time::UNIX_EPOCH.elapsed()?.as_secs().cast_signed();
    assert!((now - 60..=now).contains(&used), "{used}");
    world.control_plane.signal(Signal::TERM)?;
    world.control_plane.exit(PATIENCE).await?;
    world.control_plane.restart().await?;
    let again = within(PATIENCE, "the control plane answers again", async || Ok(last_use(&world).await.ok()));
    assert_eq!(again.await?, Some(used));
    Ok(())
}

/// The token that a start has printed.
fn printed(log: &str) -> Option<String> {
    log.lines().find(|line| line.starts_with("prt_")).map(str::to_owned)
}

async fn restart(control_plane: &mut ControlPlane) -> Result<()> {
    control_plane.signal(Signal::TERM)?;
    control_plane.exit(PATIENCE).await?;
    control_plane.restart().await
}

/// How a call with this token ends.
async fn try_token(control_plane: &ControlPlane, token: &str) -> Result<Code> {
    let api = postrider_tests::api::Api::new(control_plane.channel()?, TENANT, token)?;
    let asked = api.tokens().list_tokens(v1::ListTokensRequest::default()).await;
    Ok(asked.map_or_else(|status| status.code(), |_| Code::Ok))
}

async fn revoke_all(control_plane: &ControlPlane, token: &str) -> Result<()> {
    let api = postrider_tests::api::Api::new(control_plane.channel()?, TENANT, token)?;
    let listed = api.tokens().list_tokens(v1::ListTokensRequest::default()).await?.into_inner().tokens;
    for token in listed {
        api.tokens().revoke_token(v1::RevokeTokenRequest { token: token.id, ..Default::default() }).await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_first_admins_token_is_printed_once_and_later_only_a_file_helps() -> Result<()> {
    let folder = TempDir::new()?;
    let tls = TlsFiles::make(&folder.path().join("tls"))?;
    let mut control_plane = ControlPlane::start_without_token(folder.path(), tls).await?;
    let first = printed(&control_plane.log()).context("no token was printed")?;
    assert_eq!(try_token(&control_plane, &first).await?, Code::Ok);
    restart(&mut control_plane).await?;
    assert_eq!(printed(&control_plane.log()), None, "the second start prints a token");
    assert_eq!(try_token(&control_plane, &first).await?, Code::Ok);

    // Nobody is left: another one is not printed to whoever reads logs.
    revoke_all(&control_plane, &first).await?;
    restart(&mut control_plane).await?;
    assert_eq!(printed(&control_plane.log()), None);
    assert!(control_plane.log().contains("no admin's token is valid"), "{}", control_plane.log());
    let second = token();
    control_plane.give_token(&second)?;
    restart(&mut control_plane).await?;
    assert_eq!(try_token(&control_plane, &second).await?, Code::Ok);
    assert_eq!(printed(&control_plane.log()), None);

    // The file's token is revoked: the file does not bring it back.
    revoke_all(&control_plane, &second).await?;
    restart(&mut control_plane).await?;
    assert_eq!(try_token(&control_plane, &second).await?, Code::Unauthenticated);
    assert!(control_plane.log().contains("was revoked: put a new one there"), "{}", control_plane.log());
    let third = token();
    control_plane.give_token(&third)?;
    restart(&mut control_plane).await?;
    assert_eq!(try_token(&control_plane, &third).await?, Code::Ok);
    let logs: String = (1..=6)
        .map(|run| std::fs::read_to_string(folder.path().join(format!("control-plane.{run}.log"))))
        .collect::<Result<_, _>>()?;
    for secret in [second.as_str(), third.as_str()] {
        assert!(!logs.contains(secret) && !logs.contains(&secret[40..90]), "the log tells a token");
    }
    assert_eq!(logs.matches(first.as_str()).count(), 1);
    Ok(())
}

#[tokio::test]
async fn a_bootstrap_file_that_is_no_good_is_told_and_nothing_starts() -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;

    let folder = TempDir::new()?;
    let tls = TlsFiles::make(&folder.path().join("tls"))?;
    let mut control_plane = ControlPlane::start_without_token(folder.path(), tls).await?;
    let first = printed(&control_plane.log()).context("no token was printed")?;
    revoke_all(&control_plane, &first).await?;
    for (text, mode, said) in
        [("prt_nothing", 0o600, "postrider tokens generate"), (token().as_str(), 0o644, "chmod 600")]
    {
        control_plane.give_token(text)?;
        std::fs::set_permissions(control_plane.token_file(), std::fs::Permissions::from_mode(mode))?;
        if control_plane.signal(Signal::TERM).is_ok() {
            control_plane.exit(PATIENCE).await?;
        }
        let refused = control_plane.restart().await.err().context("it has started")?.to_string();
        assert!(refused.contains(said) && refused.contains("bootstrap_token_file"), "{refused}");
        assert!(!refused.contains("prt_nothing"), "{refused}");
        std::fs::remove_file(control_plane.token_file())?;
    }
    Ok(())
}

#[tokio::test]
async fn a_bootstrap_file_that_has_served_is_warned_about_until_it_is_deleted() -> Result<()> {
    let folder = TempDir::new()?;
    let tls = TlsFiles::make(&folder.path().join("tls"))?;
    let mut control_plane = ControlPlane::start_without_token(folder.path(), tls).await?;
    let first = printed(&control_plane.log()).context("no token was printed")?;
    control_plane.give_token(&first)?;
    let file = control_plane.token_file();
    restart(&mut control_plane).await?;
    let (log, name) = (control_plane.log(), file.display().to_string());
    assert!(log.contains("bootstrap token file is no longer needed") && log.contains(&name), "{log}");
    let warned = control_plane.cli(TENANT).run(&["doctor"]).await?;
    assert!(warned.code == 0 && warned.stdout.contains("bootstrap token file"), "{warned:?}");

    let elsewhere = folder.path().join("elsewhere");
    std::fs::rename(&file, &elsewhere)?;
    restart(&mut control_plane).await?;
    let log = control_plane.log();
    assert!(!log.contains("bootstrap token file"), "{log}");
    let cli = control_plane.cli(TENANT).with("POSTRIDER_TOKEN_FILE", &elsewhere);
    let sound = cli.run(&["doctor"]).await?;
    assert!(sound.code == 0 && !sound.stdout.contains("bootstrap token file"), "{sound:?}");
    Ok(())
}

#[tokio::test]
async fn a_generated_token_is_one_that_a_control_plane_takes() -> Result<()> {
    let folder = TempDir::new()?;
    let tls = TlsFiles::make(&folder.path().join("tls"))?;
    let cli = postrider_tests::cli::Cli::new("http://127.0.0.1:1", "");
    let made = cli.run(&["tokens", "generate"]).await?;
    assert!(made.code == 0 && made.stdout.starts_with("prt_"), "{made:?}");
    let mut control_plane = ControlPlane::start_without_token(folder.path(), tls).await?;
    let first = printed(&control_plane.log()).context("no token was printed")?;
    revoke_all(&control_plane, &first).await?;
    control_plane.give_token(&made.stdout)?;
    restart(&mut control_plane).await?;
    let taken = within(PATIENCE, "the control plane answers", async || {
        Ok(when(try_token(&control_plane, made.stdout.trim()).await? == Code::Ok))
    });
    taken.await
}
