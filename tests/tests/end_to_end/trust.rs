//! Who becomes an agent, who stays one, and who is kept out: over real TLS, one step at a time.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use postrider_proto::agent::control_message::Message as Heard;
use postrider_proto::agent::{AgentMessage, Heartbeat, Hello, Reject, RejectCode, agent_message};
use postrider_proto::v1::{self, AgentState};
use postrider_tests::api::{Api, duration};
use postrider_tests::applicant::{AgentPort, Credentials, Session, credentials, hello, new_key};
use postrider_tests::certificates::Authority;
use postrider_tests::wait::{eventually, when};
use postrider_tests::world::{ControlPlane, Security, TENANT, TlsFiles};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair, SanType};
use tempfile::TempDir;
use tonic::{Code, Status};

/// A control plane behind TLS, without an agent.
struct Secured {
    control_plane: ControlPlane,
    api: Api,
    folder: TempDir,
}

/// An applicant that has enrolled.
struct Enrolled {
    hello: Hello,
    credentials: Credentials,
}

impl Secured {
    async fn start(lines: &[&str]) -> Result<Self> {
        let folder = TempDir::with_prefix("postrider-test-")?;
        let files = TlsFiles::make(&folder.path().join("tls"))?;
        let control_plane = ControlPlane::start(folder.path(), lines, Security::Tls(files)).await?;
        let api = control_plane.api(TENANT)?;
        Ok(Self { control_plane, api, folder })
    }

    async fn port(&self) -> Result<AgentPort> {
        self.control_plane.agent_port(&self.api).await
    }

    async fn enrolled(&self, pool: &str) -> Result<Enrolled> {
        let (port, join, key) = (self.port().await?, self.api.join(pool, 1).await?, new_key()?);
        let identity = port.enroll(&join, &key).await?;
        Ok(Enrolled { hello: hello(&identity), credentials: credentials(&identity, &key) })
    }

    async fn connect(&self, agent: &Enrolled) -> Result<Session, Status> {
        let port = self.port().await.map_err(|error| Status::internal(error.to_string()))?;
        port.connect(Some(&agent.credentials), agent.hello.clone()).await
    }

    async fn audited(&self, action: &str) -> Result<Vec<v1::AuditRecord>> {
        let request = v1::ListAuditRecordsRequest { action: action.to_owned(), ..Default::default() };
        Ok(self.api.audit().list_audit_records(request).await?.into_inner().records)
    }
}

/// Opens a session and demands Welcome.
async fn welcomed(secured: &Secured, agent: &Enrolled) -> Result<Session> {
    let mut session = secured.connect(agent).await?;
    let heard = session.hear().await?;
    ensure!(matches!(heard, Heard::Welcome(_)), "instead of Welcome: {heard:?}");
    Ok(session)
}

/// Listens until the session is rejected.
async fn rejected(session: &mut Session) -> Result<Reject> {
    loop {
        if let Heard::Reject(reject) = session.hear().await? {
            return Ok(reject);
        }
    }
}

/// Demands that the handshake fails, or the connection ends before anything is said.
fn refused(done: Result<Session, Status>, why: &str) -> Result<()> {
    let status = done.err().with_context(|| format!("{why}, and yet there is a session"))?;
    ensure!(
        matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled),
        "{why}: {status:?}"
    );
    Ok(())
}

#[tokio::test]
async fn an_applicant_enrolls_connects_and_renews() -> Result<()> {
    let secured = Secured::start(&[]).await?;
    let (port, join, key) = (secured.port().await?, secured.api.join("acme", 1).await?, new_key()?);
    assert_eq!(join.pins().len(), 1);
    let identity = port.enroll(&join, &key).await?;
    assert_eq!(identity.pool, "acme");
    assert!((80_000..=86_400).contains(&identity.valid_for_seconds), "{}", identity.valid_for_seconds);
    assert!((38_000..48_000).contains(&identity.renew_after_seconds), "{}", identity.renew_after_seconds);
    let agent = Enrolled { hello: hello(&identity), credentials: credentials(&identity, &key) };
    let _session = welcomed(&secured, &agent).await?;
    let seen = secured.api.agent_connected(&identity.agent_id, 1).await?;
    assert_eq!((seen.pool.as_str(), seen.display_name.as_str()), ("acme", "applicant"));
    assert!(seen.enroll_time.is_some() && seen.certificate_expire_time.is_some());

    let same_key = port.renew(Some(&agent.credentials), &agent.credentials.key).await.unwrap_err();
    assert_eq!(same_key.code(), Code::InvalidArgument, "{same_key:?}");
    let new = new_key()?;
    let renewed = port.renew(Some(&agent.credentials), &new).await?;
    assert_eq!(renewed.agent_id, identity.agent_id);
    let again = Enrolled { hello: hello(&renewed), credentials: credentials(&renewed, &new) };
    let _second = welcomed(&secured, &again).await?;
    for action in ["CreateJoinToken", "EnrollAgent", "RenewAgent"] {
        assert_eq!(secured.audited(action).await?.len(), 1, "{action}");
    }
    Ok(())
}

/// A thief with a copy of an agent's files tries everything with it, beside the agent and across restarts.
#[tokio::test]
async fn a_copied_identity_is_refused_and_noticed_once_the_agent_has_renewed() -> Result<()> {
    let mut secured = Secured::start(&[]).await?;
    let (port, join, first_key) = (secured.port().await?, secured.api.join("acme", 1).await?, new_key()?);
    let identity = port.enroll(&join, &first_key).await?;
    let stolen = Enrolled { hello: hello(&identity), credentials: credentials(&identity, &first_key) };
    drop(welcomed(&secured, &stolen).await?);
    let mut agent = Enrolled { hello: stolen.hello.clone(), credentials: stolen.credentials.clone() };
    for _ in 0..2 {
        let key = new_key()?;
        let renewed = port.renew(Some(&agent.credentials), &key).await?;
        agent.credentials = credentials(&renewed, &key);
        drop(welcomed(&secured, &agent).await?);
    }
    for restarted in [false, true] {
        if restarted {
            secured.control_plane.kill()?;
            secured.control_plane.restart().await?;
        }
        let port = secured.port().await?;
        let mut session = secured.connect(&stolen).await?;
        let reject = rejected(&mut session).await?;
        assert_eq!((reject.code(), reject.permanent), (RejectCode::DuplicateAgent, true), "{reject:?}");
        let renewal = port.renew(Some(&stolen.credentials), &*new_key()?).await.unwrap_err();
        assert_eq!(renewal.code(), Code::PermissionDenied, "{renewal:?}");
        let enrollment = port.enroll(&join, &first_key).await.unwrap_err();
        assert_eq!(enrollment.code(), Code::Unauthenticated, "{enrollment:?}");
        let seen = secured.api.agent(&identity.agent_id).await?.context("no agent")?;
        assert!(seen.duplicate_time.is_some(), "{seen:?}");
        let records = secured.audited("DuplicateAgent").await?;
        assert_eq!(records.len(), if restarted { 2 } else { 1 }, "one a minute: {records:?}");
        assert!(
            records.iter().all(|record| record.target == identity.agent_id && !record.address.is_empty())
        );
        let key = new_key()?;
        let renewed = port.renew(Some(&agent.credentials), &key).await?;
        agent.credentials = credentials(&renewed, &key);
        drop(welcomed(&secured, &agent).await?);
    }
    Ok(())
}

#[tokio::test]
async fn a_join_token_is_good_once_whoever_asks_and_a_lost_reply_costs_nothing() -> Result<()> {
    let secured = Secured::start(&[]).await?;
    let (port, join, key) = (secured.port().await?, secured.api.join("acme", 1).await?, new_key()?);
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let (port, join, key) = (port.clone(), join.clone(), new_key()?);
        asking.spawn(async move { port.enroll(&join, &key).await.map(|identity| (identity, key)) });
    }
    let (enrolled, turned_away): (Vec<_>, Vec<_>) =
        asking.join_all().await.into_iter().partition(Result::is_ok);
    assert_eq!((enrolled.len(), turned_away.len()), (1, 9));
    for refusal in turned_away {
        let status = refusal.err().context("a refusal")?;
        assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
        assert!(status.message().contains("join-tokens create"), "{status:?}");
    }
    let (identity, same_key) = enrolled.into_iter().next().context("one")??;
    let again = port.enroll(&join, &same_key).await?;
    assert_eq!(again.agent_id, identity.agent_id, "the reply was lost: asked again");
    let replayed = port.enroll(&join, &key).await.unwrap_err();
    assert_eq!(replayed.code(), Code::Unauthenticated);
    let tokens =
        secured.api.agents().list_join_tokens(v1::ListJoinTokensRequest::default()).await?.into_inner();
    assert_eq!((tokens.join_tokens[0].uses, tokens.join_tokens[0].max_uses), (1, 1));

    let revoked = secured.api.join("acme", 5).await?;
    let request = v1::RevokeJoinTokenRequest { join_token: revoked.token().id().to_string() };
    secured.api.agents().revoke_join_token(request).await?;
    assert_eq!(port.enroll(&revoked, &key).await.unwrap_err().code(), Code::Unauthenticated);
    Ok(())
}

#[tokio::test]
async fn without_a_certificate_there_is_enrollment_and_nothing_else() -> Result<()> {
    let secured = Secured::start(&[]).await?;
    let agent = secured.enrolled("acme").await?;
    let port = secured.port().await?;
    let session = port.connect(None, agent.hello.clone()).await.err().context("a session")?;
    assert_eq!(session.code(), Code::Unauthenticated, "{session:?}");
    let renewal = port.renew(None, &*new_key()?).await.unwrap_err();
    assert_eq!(renewal.code(), Code::Unauthenticated, "{renewal:?}");
    Ok(())
}

#[tokio::test]
async fn strangers_certificates_are_refused_in_the_handshake() -> Result<()> {
    let secured = Secured::start(&[]).await?;
    let agent = secured.enrolled("acme").await?;
    let strangers = Authority::new(&secured.folder.path().join("strangers"))?;
    let key = new_key()?;
    let mut params = CertificateParams::new(Vec::new())?;
    let name = format!("spiffe://postrider/pool/acme/agent/{}", agent.hello.agent_id);
    params.subject_alt_names = vec![SanType::URI(name.as_str().try_into()?)];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let forged = strangers.sign(&params, &key)?;
    let forged = Credentials { chain: forged.pem(), key };
    let port = secured.port().await?;
    refused(port.connect(Some(&forged), agent.hello.clone()).await, "another authority's certificate")?;
    welcomed(&secured, &agent).await?;
    Ok(())
}

#[tokio::test]
async fn an_agent_cannot_claim_to_be_another_or_of_another_pool() -> Result<()> {
    let secured = Secured::start(&[]).await?;
    let (agent, other) = (secured.enrolled("acme").await?, secured.enrolled("globex").await?);
    let claims = [
        Hello { pool: "globex".to_owned(), ..agent.hello.clone() },
        Hello { agent_id: other.hello.agent_id.clone(), pool: "globex".to_owned(), ..agent.hello.clone() },
    ];
    for claimed in claims {
        let port = secured.port().await?;
        let mut session = port.connect(Some(&agent.credentials), claimed).await?;
        let reject = rejected(&mut session).await?;
        assert_eq!(reject.code(), RejectCode::IdentityMismatch, "{reject:?}");
        assert!(reject.permanent);
    }
    // One record a minute is enough.
    let records = secured.audited("RejectAgent").await?;
    assert_eq!(records.len(), 1);
    assert!(records.iter().all(|record| record.target == agent.hello.agent_id), "{records:?}");
    Ok(())
}

#[tokio::test]
async fn a_revoked_agent_loses_its_streams_and_does_not_get_in_again() -> Result<()> {
    let mut secured = Secured::start(&[]).await?;
    let agent = secured.enrolled("acme").await?;
    let mut session = welcomed(&secured, &agent).await?;
    let id = agent.hello.agent_id.clone();
    let revoke = v1::RevokeAgentRequest { agent: id.clone(), reason: "left the company".to_owned() };
    let revoked = secured.api.agents().revoke_agent(revoke.clone()).await?.into_inner();
    assert_eq!(revoked.agent.context("an agent")?.state(), AgentState::Revoked);
    let reject = tokio::time::timeout(Duration::from_secs(5), rejected(&mut session)).await;
    let reject = reject.context("the stream goes on for 5 s")??;
    assert_eq!((reject.code(), reject.permanent), (RejectCode::Revoked, true));
    refused(secured.connect(&agent).await, "the agent is revoked")?;
    secured.api.agents().revoke_agent(revoke).await?;
    let records = secured.audited("RevokeAgent").await?;
    assert_eq!((records.len(), records[0].detail.as_str()), (1, "left the company"));

    secured.control_plane.kill()?;
    secured.control_plane.restart().await?;
    refused(secured.connect(&agent).await, "the agent was revoked before the restart")?;
    let nobody = v1::RevokeAgentRequest { agent: "agt-nobody".to_owned(), reason: String::new() };
    assert_eq!(secured.api.agents().revoke_agent(nobody).await.unwrap_err().code(), Code::NotFound);
    Ok(())
}

#[tokio::test]
async fn identities_outlive_a_restart_and_certificates_end() -> Result<()> {
    let mut secured = Secured::start(&["agent_certificate_lifetime = \"10s\""]).await?;
    let agent = secured.enrolled("acme").await?;
    secured.control_plane.kill()?;
    secured.control_plane.restart().await?;
    let mut session = welcomed(&secured, &agent).await?;
    // A stream lasts no longer than the certificate that opened it.
    let last =
        eventually("the stream ends with its certificate", async || session.hear().await.map(Some)).await?;
    assert!(matches!(last, Heard::Drain(_)), "{last:?}");
    let end = async || match secured.connect(&agent).await {
        Ok(_) => Ok(None),
        Err(status) => refused(Err(status), "the certificate has ended").map(when_done),
    };
    eventually("the certificate is refused", end).await?;
    Ok(())
}

fn when_done((): ()) -> Option<()> {
    when(true)
}

#[tokio::test]
async fn two_processes_with_one_identity_are_fenced_and_raise_an_alarm() -> Result<()> {
    let secured = Secured::start(&[]).await?;
    let agent = secured.enrolled("acme").await?;
    let mut first = welcomed(&secured, &agent).await?;
    let hello = Hello { instance_id: "another process".to_owned(), ..agent.hello.clone() };
    let copy = Enrolled { hello, credentials: agent.credentials.clone() };
    let _second = welcomed(&secured, &copy).await?;
    let reject = rejected(&mut first).await?;
    assert_eq!((reject.code(), reject.permanent), (RejectCode::DuplicateAgent, true));
    let alarm = async || {
        let seen = secured.api.agent(&agent.hello.agent_id).await?;
        Ok(seen.filter(|agent| agent.duplicate_time.is_some()))
    };
    eventually("the alarm shows", alarm).await?;
    assert_eq!(secured.audited("DuplicateAgent").await?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_process_that_was_replaced_stays_out_when_it_comes_back() -> Result<()> {
    let secured = Secured::start(&[]).await?;
    let agent = secured.enrolled("acme").await?;
    // It is cut off, and another process takes its place meanwhile.
    drop(welcomed(&secured, &agent).await?);
    let hello = Hello { instance_id: "another process".to_owned(), ..agent.hello.clone() };
    let copy = Enrolled { hello, credentials: agent.credentials.clone() };
    let mut second = welcomed(&secured, &copy).await?;
    let mut back = secured.connect(&agent).await?;
    let reject = rejected(&mut back).await?;
    assert_eq!((reject.code(), reject.permanent), (RejectCode::DuplicateAgent, true));
    let alarm = async || Ok(when(secured.audited("DuplicateAgent").await?.len() == 1));
    eventually("the alarm is on record", alarm).await?;
    // The process that replaced it is still served.
    let beat = Heartbeat { nonce: 7 };
    let beat = AgentMessage { message: Some(agent_message::Message::Heartbeat(beat)) };
    second.to.send(beat).await?;
    let heard = second.hear().await?;
    assert!(matches!(heard, Heard::HeartbeatAck(_)), "{heard:?}");
    Ok(())
}

#[tokio::test]
async fn authorities_change_with_an_overlap_in_which_both_are_trusted() -> Result<()> {
    let secured = Secured::start(&[]).await?;
    let old = secured.enrolled("acme").await?;
    let before = secured.port().await?;
    let overlap = Some(duration(Duration::from_secs(3)));
    let rotated = secured.api.agents().rotate_authority(v1::RotateAuthorityRequest { overlap }).await?;
    let new_authority = rotated.into_inner().authority.context("an authority")?;
    assert_eq!(secured.api.join("acme", 1).await?.pins().len(), 2, "a join token names both");
    // Whoever knows only the former authority still gets in, and learns of the new one by renewing.
    let _session = before.connect(Some(&old.credentials), old.hello.clone()).await?;
    let key = new_key()?;
    let renewed = before.renew(Some(&old.credentials), &key).await?;
    assert_eq!(renewed.trust_bundle.len(), 2);
    let renewed = Enrolled { hello: hello(&renewed), credentials: credentials(&renewed, &key) };
    before.connect(Some(&renewed.credentials), renewed.hello.clone()).await?;

    let alone = async || {
        let listed = secured.api.agents().list_authorities(v1::ListAuthoritiesRequest {}).await?.into_inner();
        Ok(when(listed.authorities.len() == 1 && listed.authorities[0].id == new_authority.id))
    };
    eventually("the former authority has retired", alone).await?;
    welcomed(&secured, &renewed).await?;
    refused(secured.connect(&old).await, "its authority is trusted no more")?;
    let distrusting = before.connect(Some(&renewed.credentials), renewed.hello.clone()).await;
    refused(distrusting, "who knows only the former authority")?;
    assert_eq!(secured.audited("RotateAuthority").await?.len(), 1);
    assert_eq!(secured.audited("RetireAuthority").await?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn an_authority_in_wrong_hands_is_replaced_at_once() -> Result<()> {
    let secured = Secured::start(&[]).await?;
    let agent = secured.enrolled("acme").await?;
    let mut session = welcomed(&secured, &agent).await?;
    let request = v1::RotateAuthorityRequest { overlap: Some(duration(Duration::ZERO)) };
    secured.api.agents().rotate_authority(request).await?;
    assert_eq!(rejected(&mut session).await?.code(), RejectCode::Revoked);
    refused(secured.connect(&agent).await, "its authority is gone")?;
    let new = secured.enrolled("acme").await?;
    welcomed(&secured, &new).await?;
    Ok(())
}

#[tokio::test]
async fn an_authority_of_the_operators_own_issues_and_is_followed_when_its_files_change() -> Result<()> {
    let folder = TempDir::new()?;
    let ca = folder.path().join("agent-ca");
    let first = Authority::new(&ca)?;
    let secured = Secured::start(&[&format!("agent_ca = [\"{}\"]", ca.display())]).await?;
    let port = secured.port().await?;
    assert_eq!(port.trust.trim(), first.pem().trim());
    let agent = secured.enrolled("acme").await?;
    welcomed(&secured, &agent).await?;
    let rotate = secured.api.agents().rotate_authority(v1::RotateAuthorityRequest::default()).await;
    assert_eq!(rotate.unwrap_err().code(), Code::FailedPrecondition);

    let second = Authority::new(&ca)?;
    let followed = async || Ok(when(secured.port().await?.trust.trim() == second.pem().trim()));
    eventually("the new files are in use", followed).await?;
    let new = secured.enrolled("acme").await?;
    welcomed(&secured, &new).await?;
    refused(secured.connect(&agent).await, "the former authority is not listed any more")?;
    // A problem in the files changes nothing.
    std::fs::write(ca.join("tls.key"), KeyPair::generate()?.serialize_pem())?;
    let told = async || Ok(when(secured.control_plane.log().contains("is not the certificate of that key")));
    eventually("the problem is told", told).await?;
    welcomed(&secured, &new).await?;
    Ok(())
}

#[tokio::test]
async fn a_join_token_is_one_line_that_the_command_prints() -> Result<()> {
    let secured = Secured::start(&[]).await?;
    let cli = secured.control_plane.cli(TENANT);
    let made = cli.run(&["agents", "join-tokens", "create", "--pool", "acme", "--uses", "2"]).await?;
    assert_eq!((made.code, made.stdout.lines().count()), (0, 1), "{made:?}");
    let join: postrider_domain::join::Join = made.stdout.trim().parse()?;
    assert_eq!(join.port(), secured.control_plane.agents_address().port());
    let port = secured.port().await?;
    let identity = port.enroll(&join, &*new_key()?).await?;
    let listed = cli.json(&["agents", "join-tokens", "list"]).await?;
    assert_eq!((&listed[0]["pool"], &listed[0]["uses"]), (&"acme".into(), &1.into()));
    let agents = cli.run(&["agents", "get", &identity.agent_id]).await?;
    assert!(agents.stdout.contains("disconnected") && agents.stdout.contains("applicant"), "{agents:?}");
    let id = join.token().id().to_string();
    assert_eq!(cli.run(&["agents", "join-tokens", "revoke", &id]).await?.code, 0);
    assert_eq!(cli.run(&["agents", "revoke", &identity.agent_id, "--reason", "test"]).await?.code, 0);
    let authorities = cli.json(&["agents", "authorities", "list"]).await?;
    assert_eq!(authorities[0]["id"], join.pins()[0].to_string());
    let rotated = cli.json(&["agents", "authorities", "rotate", "--overlap", "1h"]).await?;
    assert_ne!(rotated["id"], authorities[0]["id"]);
    let secret = join.token().expose_text();
    assert!(!secured.control_plane.log().contains(secret.as_str()), "the token is in the log");
    Ok(())
}
