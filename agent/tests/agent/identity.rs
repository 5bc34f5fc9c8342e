//! How an agent gets its identity and keeps it: with real TLS, and with a real process wherever restarts matter.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use postrider_agent::WallTime;
use postrider_agent::dial::Address;
use postrider_agent::identity::directory::Directory;
use postrider_agent::identity::key::Key;
use postrider_agent::identity::record::Record;
use rustls::CertificateError;
use tempfile::TempDir;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::authority::{Authority, SECRET_TEXT, requested_key};
use crate::endpoint::now;
use crate::process::{Watched, exit, start};
use crate::tls_control_plane::{Answer, NAMES, TlsControlPlane};

/// An agent's directory.
struct State {
    _folder: TempDir,
    path: PathBuf,
}

impl State {
    fn new() -> State {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        State { _folder: folder, path }
    }

    fn text(&self) -> &str {
        self.path.to_str().unwrap()
    }

    fn identity(&self) -> PathBuf {
        self.path.join("identity.pem")
    }
}

#[tokio::test]
async fn an_agent_enrolls_and_connects_as_who_it_was_made() {
    let mut control_plane = TlsControlPlane::start().await;
    let join = control_plane.join();
    let mut agent = Watched::start(&["--name", "warehouse 3"], &[("POSTRIDER_AGENT_JOIN", &join)]);
    let asked = control_plane.asked().await;
    assert_eq!(asked.token.as_deref(), join.split('/').nth(1), "the token, whole");
    assert_eq!((asked.name.as_str(), asked.certificate), ("warehouse 3", None));
    let session = control_plane.welcomed().await;
    assert_eq!((session.hello.agent_id.as_str(), session.hello.pool.as_str()), ("agent-1", "acme"));
    let shown = session.certificate.clone().unwrap();
    let key = requested_key(&asked.request);
    assert!(shown.windows(key.len()).any(|window| window == key), "with the key that it asked for");
    agent.says("session is open").await;
    drop(session);
    assert_eq!(agent.stop().await.0, 0);
}

#[tokio::test]
async fn the_token_is_not_sent_to_a_server_that_the_join_token_does_not_name() {
    let stranger = Authority::new();
    let expired = Some(Duration::from_secs(3600));
    let table = [
        (NAMES, None, true, "is not from the authority that the join token names"),
        (NAMES, expired, false, "has expired"),
        (&["other.test"][..], None, false, "`tls.server_name` (it is for: "),
    ];
    for (names, ended, of_a_stranger, sentence) in table {
        let mut control_plane = TlsControlPlane::with(names, ended).await;
        let join = match of_a_stranger {
            true => stranger.join(&control_plane.address.to_string()),
            false => control_plane.join(),
        };
        let mut agent = Watched::start(&[], &[("POSTRIDER_AGENT_JOIN", &join)]);
        agent.says(sentence).await;
        control_plane.failed_handshake().await;
        // It tries again, in the hope that somebody mends it, and stops at once when told to.
        control_plane.failed_handshake().await;
        assert_eq!(agent.stop().await.0, 0);
        assert!(control_plane.asked.try_recv().is_err(), "{sentence}: it was asked");
    }
}

#[tokio::test]
async fn a_server_may_go_by_another_name_and_another_authority_if_the_settings_say_so() {
    let mut control_plane = TlsControlPlane::with(&["other.test"], None).await;
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    let authority = control_plane.change(|state| std::sync::Arc::clone(&state.authority));
    std::fs::write(&ca, authority.pem()).unwrap();
    let join = Authority::new().join(&control_plane.address.to_string());
    let flags = ["--tls-server-name=other.test", "--tls-ca", ca.to_str().unwrap()];
    let agent = Watched::start(&flags, &[("POSTRIDER_AGENT_JOIN", &join)]);
    control_plane.asked().await;
    // Not the authorities of the identity either.
    control_plane.change(|state| state.bundle = vec![Authority::new().certificate()]);
    drop(control_plane.welcomed().await);
    control_plane.session().await;
    assert_eq!(agent.stop().await.0, 0);
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again_with_the_same_key_and_token() {
    let mut control_plane = TlsControlPlane::start().await;
    control_plane.change(|state| state.answers.extend([Answer::Lose, Answer::Never]));
    let state = State::new();
    let (join, flags) = (control_plane.join(), ["--state-dir", state.text()]);
    let first = Watched::start(&flags, &[("POSTRIDER_AGENT_JOIN", &join)]);
    let asked = [control_plane.asked().await, control_plane.asked().await];
    // Killed while it waits for the second answer.
    drop(first);
    let second = Watched::start(&flags, &[("POSTRIDER_AGENT_JOIN", &join)]);
    let again = control_plane.asked().await;
    control_plane.welcomed().await;
    for asked in &asked {
        assert_eq!(asked.token, again.token);
        assert_eq!(requested_key(&asked.request), requested_key(&again.request));
    }
    assert!(!state.path.join("pending.pem").exists(), "it is pending no more");
    assert_eq!(second.stop().await.0, 0);
}

#[tokio::test]
async fn another_token_gets_another_key() {
    let mut control_plane = TlsControlPlane::start().await;
    control_plane.change(|state| state.answers.push_back(Answer::Never));
    let state = State::new();
    let flags = ["--state-dir", state.text()];
    let first = Watched::start(&flags, &[("POSTRIDER_AGENT_JOIN", &control_plane.join())]);
    let one = control_plane.asked().await;
    assert_eq!(first.stop().await.0, 0, "it stops at once, whoever does not answer");
    let authority = control_plane.change(|state| std::sync::Arc::clone(&state.authority));
    let other = authority.join_with(&control_plane.address.to_string(), 2);
    let _second = Watched::start(&flags, &[("POSTRIDER_AGENT_JOIN", &other)]);
    let two = control_plane.asked().await;
    assert_ne!(one.token, two.token);
    assert_ne!(requested_key(&one.request), requested_key(&two.request));
}

#[tokio::test]
async fn a_token_that_is_refused_ends_the_agent_with_advice() {
    let table = [
        (Status::unauthenticated("used up"), "`postrider agents join-tokens create`"),
        (Status::invalid_argument("odd"), "install an agent of a version near"),
    ];
    for (status, advice) in table {
        let control_plane = TlsControlPlane::start().await;
        let sentence = status.message().to_owned();
        control_plane.change(|state| state.answers.push_back(Answer::Refuse(status)));
        let (code, log) = exit(start(&[], &[("POSTRIDER_AGENT_JOIN", &control_plane.join())])).await;
        assert_eq!(code, 3, "{log}");
        assert!(log.contains(&sentence) && log.contains(advice) && !log.contains(SECRET_TEXT), "{log}");
    }
}

#[tokio::test]
async fn a_control_plane_that_is_busy_says_when_to_ask_again() {
    let mut control_plane = TlsControlPlane::start().await;
    let delay = Duration::from_millis(1500);
    let details = ErrorDetails::with_retry_info(Some(delay));
    let busy = Status::with_error_details(Code::ResourceExhausted, "too many", details);
    control_plane.change(|state| state.answers.push_back(Answer::Refuse(busy)));
    let _agent = Watched::start(&[], &[("POSTRIDER_AGENT_JOIN", &control_plane.join())]);
    control_plane.asked().await;
    let began = now();
    control_plane.asked().await;
    assert!(now() - began >= delay - Duration::from_millis(50), "{:?}", now() - began);
}

#[tokio::test]
async fn a_restart_needs_no_token() {
    let mut control_plane = TlsControlPlane::start().await;
    let state = State::new();
    let join = control_plane.join();
    let file = state.path.with_extension("join");
    std::fs::write(&file, &join).unwrap();
    let flags = ["--state-dir", state.text(), "--join-file", file.to_str().unwrap()];
    let first = Watched::start(&flags, &[]);
    control_plane.asked().await;
    let shown = control_plane.welcomed().await.certificate.clone();
    assert_eq!(first.stop().await.0, 0);
    let mode = |path: &PathBuf| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(&state.path), mode(&state.identity())), (0o700, 0o600));

    std::fs::remove_file(&file).unwrap();
    let authority = control_plane.change(|state| std::sync::Arc::clone(&state.authority));
    let other = authority.join_with(&control_plane.address.to_string(), 9);
    let used_up = [("POSTRIDER_AGENT_JOIN", other.as_str())];
    for (flags, variables) in [(&flags[..2], &[][..]), (&flags[..], &[]), (&flags[..2], &used_up)] {
        let agent = Watched::start(flags, variables);
        let session = control_plane.welcomed().await;
        assert_eq!(session.certificate, shown);
        assert_eq!(session.hello.agent_id, "agent-1");
        drop(session);
        assert_eq!(agent.stop().await.0, 0);
    }
    assert!(control_plane.asked.try_recv().is_err(), "nobody enrolled");
}

#[tokio::test]
async fn without_a_directory_it_enrolls_at_every_start() {
    let mut control_plane = TlsControlPlane::start().await;
    let join = control_plane.join();
    let mut keys = Vec::new();
    for _ in 0..2 {
        let agent = Watched::start(&[], &[("POSTRIDER_AGENT_JOIN", &join)]);
        keys.push(requested_key(&control_plane.asked().await.request));
        drop(control_plane.welcomed().await);
        assert_eq!(agent.stop().await.0, 0);
    }
    assert_ne!(keys[0], keys[1]);
}

#[tokio::test]
async fn a_directory_that_cannot_be_trusted_is_refused() {
    let mut control_plane = TlsControlPlane::start().await;
    let state = State::new();
    let join = control_plane.join();
    let (flags, variables) = (["--state-dir", state.text()], [("POSTRIDER_AGENT_JOIN", join.as_str())]);
    let (code, log) = exit(start(&flags, &[])).await;
    assert_eq!(code, 2, "{log}");
    assert!(log.contains("nothing to enroll with") && log.contains(state.text()), "{log}");

    let first = Watched::start(&flags, &variables);
    drop(control_plane.welcomed().await);
    let (code, log) = exit(start(&flags, &variables)).await;
    assert_eq!(code, 1, "{log}");
    assert!(log.contains("another agent runs") && log.contains(state.text()), "{log}");
    control_plane.welcomed().await;
    assert_eq!(first.stop().await.0, 0, "the first one goes on");

    let set_mode = |path: &PathBuf, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    for (path, loose, advice) in [(&state.identity(), 0o644, "chmod 600"), (&state.path, 0o755, "chmod 700")]
    {
        let proper = std::fs::metadata(path).unwrap().permissions().mode();
        set_mode(path, loose);
        let (code, log) = exit(start(&flags, &variables)).await;
        assert_eq!(code, 1, "{log}");
        assert!(log.contains(&format!("{advice} {}", path.display())), "{log}");
        set_mode(path, proper);
    }

    let whole = std::fs::read_to_string(state.identity()).unwrap();
    std::fs::write(state.identity(), &whole[..whole.len() / 2]).unwrap();
    let (code, log) = exit(start(&flags, &variables)).await;
    assert_eq!(code, 1, "{log}");
    assert!(log.contains("identity.pem") && log.contains("damaged"), "{log}");
}

#[tokio::test]
async fn a_revoked_agent_ends_with_advice() {
    for by_renewal in [false, true] {
        let mut control_plane = TlsControlPlane::start().await;
        if by_renewal {
            control_plane.change(|state| {
                state.renew_after = Duration::from_secs(1);
                state
                    .answers
                    .extend([Answer::Grant, Answer::Refuse(Status::permission_denied("by the operator"))]);
            });
        }
        let state = State::new();
        let join = control_plane.join();
        let first = Watched::start(&["--state-dir", state.text()], &[("POSTRIDER_AGENT_JOIN", &join)]);
        let session = control_plane.welcomed().await;
        drop(session);
        assert_eq!(first.stop().await.0, 0);

        let agent = start(&["--state-dir", state.text(), "--streams=1"], &[]);
        let session = control_plane.welcomed().await;
        if !by_renewal {
            session.revoke().await;
        }
        let (code, log) = exit(agent).await;
        assert_eq!(code, 3, "{log}");
        assert!(log.contains("was revoked (by the operator)") && log.contains("join-tokens create"), "{log}");
    }
}

#[tokio::test]
async fn a_revoked_agent_with_a_join_token_that_works_enrolls_again_as_another() {
    let mut control_plane = TlsControlPlane::start().await;
    let state = State::new();
    let flags = ["--state-dir", state.text(), "--streams=1"];
    let agent = start(&flags, &[("POSTRIDER_AGENT_JOIN", &control_plane.join())]);
    let first = control_plane.welcomed().await;
    control_plane.change(|state| state.agent = "agent-2".to_owned());
    let one = control_plane.asked().await;
    first.revoke().await;
    let two = control_plane.asked().await;
    assert_ne!(requested_key(&one.request), requested_key(&two.request));
    let second = control_plane.welcomed().await;
    assert_eq!(second.hello.agent_id, "agent-2");
    assert_ne!(second.hello.instance_id, first.hello.instance_id, "nothing of the former agent's is claimed");
    control_plane.change(|state| state.answers.push_back(Answer::Refuse(Status::unauthenticated("used up"))));
    second.revoke().await;
    let (code, log) = exit(agent).await;
    assert_eq!(code, 3, "{log}");
    assert!(log.contains("was revoked (by the operator), and") && log.contains("(used up)"), "{log}");
}

#[tokio::test]
async fn a_refused_handshake_is_retried_with_advice() {
    let mut control_plane = TlsControlPlane::start().await;
    let state = State::new();
    let flags = ["--state-dir", state.text()];
    let join = control_plane.join();
    let first = Watched::start(&flags, &[("POSTRIDER_AGENT_JOIN", &join)]);
    control_plane.welcomed().await;
    assert_eq!(first.stop().await.0, 0);
    for (refuse, sentence) in [
        (CertificateError::Revoked, "this agent was revoked"),
        (CertificateError::UnknownIssuer, "it does not know who issued it"),
        (CertificateError::Expired, "it has expired, or the control plane's clock is wrong"),
    ] {
        control_plane.change(|state| state.refuse = Some(refuse));
        let mut agent = Watched::start(&flags, &[]);
        agent.says(sentence).await;
        control_plane.change(|state| state.refuse = None);
        // It was for a moment only, as when authorities change.
        let session = control_plane.welcomed().await;
        drop(session);
        assert_eq!(agent.stop().await.0, 0);
    }
}

#[tokio::test]
async fn when_handshakes_stay_refused_a_join_token_is_tried_once() {
    for works in [true, false] {
        let mut control_plane = TlsControlPlane::start().await;
        let state = State::new();
        let flags = ["--state-dir", state.text()];
        let join = control_plane.join();
        let first = Watched::start(&flags, &[("POSTRIDER_AGENT_JOIN", &join)]);
        control_plane.welcomed().await;
        assert_eq!(first.stop().await.0, 0);
        control_plane.asked().await;

        control_plane.change(|state| {
            state.refuse = Some(CertificateError::Revoked);
            state.agent = "agent-2".to_owned();
            if !works {
                state.answers.push_back(Answer::Refuse(Status::unauthenticated("used up")));
            }
        });
        let mut agent = Watched::start(&flags, &[("POSTRIDER_AGENT_JOIN", &join)]);
        control_plane.asked().await;
        if !works {
            agent.says("keeping the current identity").await;
        }
        control_plane.change(|state| state.refuse = None);
        let session = control_plane.welcomed().await;
        assert_eq!(session.hello.agent_id, if works { "agent-2" } else { "agent-1" });
        drop(session);
        assert_eq!(agent.stop().await.0, 0);
        assert!(control_plane.asked.try_recv().is_err(), "once");
    }
}

/// Leaves an identity in the directory whose certificate has ended, as the machine's clock sees it or not.
fn leave_expired(state: &State, control_plane: &TlsControlPlane, obtained: WallTime) {
    let key = Key::generate().unwrap();
    let hour = Duration::from_secs(3600);
    let authority = control_plane.change(|state| std::sync::Arc::clone(&state.authority));
    let certificate = authority.agent(&key.request().unwrap(), "agent-1", "acme", hour, true);
    let record = Record {
        agent_id: "agent-1".parse().unwrap(),
        pool: "acme".parse().unwrap(),
        control_plane: control_plane.address.to_string().parse::<Address>().unwrap(),
        key,
        chain: vec![certificate],
        bundle: vec![authority.certificate()],
        obtained,
        renew_after: hour,
        valid_for: 2 * hour,
    };
    Directory::open(&state.path).unwrap().keep_identity(&record).unwrap();
}

#[tokio::test]
async fn an_identity_that_expired_while_it_was_away_ends_the_agent_or_is_replaced() {
    let mut control_plane = TlsControlPlane::start().await;
    let state = State::new();
    leave_expired(&state, &control_plane, WallTime::from_unix_seconds(1_700_000_000));
    let flags = ["--state-dir", state.text(), "--streams=1"];
    let (code, log) = exit(start(&flags, &[])).await;
    assert_eq!(code, 3, "{log}");
    assert!(log.contains("this agent's certificate has expired. To enroll again"), "{log}");
    control_plane.change(|state| state.agent = "agent-2".to_owned());
    let agent = Watched::start(&flags[..2], &[("POSTRIDER_AGENT_JOIN", &control_plane.join())]);
    assert_eq!(control_plane.welcomed().await.hello.agent_id, "agent-2");
    assert_eq!(agent.stop().await.0, 0);
}

#[tokio::test]
async fn what_only_the_control_plane_believes_to_have_expired_is_kept() {
    let mut control_plane = TlsControlPlane::start().await;
    let state = State::new();
    // As if it had come in the far future: a clock was set back, and says nothing.
    leave_expired(&state, &control_plane, WallTime::from_unix_seconds(9_000_000_000));
    let mut agent = Watched::start(&["--state-dir", state.text()], &[]);
    agent.says("it has expired, or the control plane's clock is wrong").await;
    agent.says("it has expired, or the control plane's clock is wrong").await;
    control_plane.failed_handshake().await;
    assert_eq!(agent.stop().await.0, 0);
    assert!(state.identity().exists());
}

/// The control plane may have granted what the agent has not heard of, and then refuses the key before.
#[tokio::test]
async fn a_renewal_that_was_not_ended_is_ended_before_streams_are_opened_again() {
    let mut control_plane = TlsControlPlane::start().await;
    let state = State::new();
    let join = control_plane.join();
    control_plane.change(|state| {
        state.renew_after = Duration::from_secs(1);
        state.answers.extend([Answer::Grant, Answer::Never]);
    });
    let flags = ["--state-dir", state.text()];
    let agent = Watched::start(&flags, &[("POSTRIDER_AGENT_JOIN", &join)]);
    control_plane.asked().await;
    let session = control_plane.welcomed().await;
    let first = session.certificate.clone();
    control_plane.change(|state| state.renew_after = Duration::from_secs(1800));
    let lost = requested_key(&control_plane.asked().await.request);
    agent.kill().await;
    drop(session);

    let agent = Watched::start(&flags, &[]);
    let asked = control_plane.asked().await;
    assert_eq!(requested_key(&asked.request), lost, "the same key is asked for");
    assert_eq!(asked.certificate, first);
    assert_ne!(control_plane.welcomed().await.certificate, first, "the first stream has the new certificate");
    assert_eq!(agent.stop().await.0, 0);
}

#[tokio::test]
async fn a_key_that_cannot_be_kept_is_not_used() {
    let mut control_plane = TlsControlPlane::start().await;
    let state = State::new();
    let join = control_plane.join();
    control_plane.change(|state| state.renew_after = Duration::from_secs(2));
    let mut agent =
        Watched::start(&["--state-dir", state.text()], &[("POSTRIDER_AGENT_JOIN", join.as_str())]);
    control_plane.asked().await;
    let session = control_plane.welcomed().await;
    let in_the_way = state.path.join("pending.pem");
    std::fs::create_dir(&in_the_way).unwrap();
    std::fs::write(in_the_way.join("x"), "x").unwrap();
    agent.says("cannot be written to state_dir").await;
    assert!(control_plane.asked.try_recv().is_err(), "no certificate was asked for");
    std::fs::remove_dir_all(&in_the_way).unwrap();
    control_plane.asked().await;
    drop(session);
    assert_eq!(agent.stop().await.0, 0);
}
