//! A wall clock that is wrong by days: nothing is removed, and agents stay in.

use std::time::Duration;

use postrider_control_plane::authority::RequestedKey;
use postrider_control_plane::clock::Clock;
use postrider_control_plane::identities::{Candidate, own_entry};
use postrider_control_plane::retention::{self, Keep};
use postrider_control_plane::store::JoinTokenRow;
use postrider_domain::id::{AgentId, TokenId};
use postrider_domain::time::Timestamp;
use postrider_domain::token::{Kind, SECRET_BYTES, Token};
use postrider_proto::v1;
use postrider_proto::v1::tenant_service_server::TenantService as _;
use postrider_proto::v1::token_service_server::TokenService as _;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier as _;

use crate::world::{World, admin};

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

/// An agent that enrolls at this time, by the control plane's clock, and its certificate, which lasts a day.
async fn enrolled(world: &World, now: Timestamp, number: u8) -> (AgentId, CertificateDer<'static>) {
    let api = &world.api;
    let token = Token::new(Kind::Join, TokenId::new(now, number.into()), [number; SECRET_BYTES]);
    let row = JoinTokenRow {
        id: token.id(),
        digest: token.digest(),
        display_name: String::new(),
        pool: "default".parse().unwrap(),
        max_uses: 1,
        uses: 0,
        expires: now + HOUR,
    };
    api.identities.add_join_token(row, own_entry("CreateJoinToken", "", now)).await.unwrap();
    let key = KeyPair::generate().unwrap();
    let request = CertificateParams::default().serialize_request(&key).unwrap();
    let key = RequestedKey::read(request.der()).unwrap();
    let candidate =
        Candidate { token, key: key.pin, display_name: String::new(), address: "127.0.0.1".into() };
    let issue = |row: &postrider_control_plane::store::IdentityRow| api.authorities.issue(row, &key, now);
    let identity = api.identities.enroll(candidate, now, issue).await.unwrap();
    let certificate = CertificateDer::from(identity.certificate_chain[0].to_vec());
    (identity.agent_id.parse().unwrap(), certificate)
}

fn gets_in(world: &World, certificate: &CertificateDer<'_>) -> bool {
    world.api.authorities.verifier().verify_client_cert(certificate, &[], UnixTime::now()).is_ok()
}

#[tokio::test]
async fn agents_stay_in_when_the_clock_is_behind_what_it_was_when_their_certificates_were_issued() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (world, stranger) = (World::start(folder.path()).await, World::start(other.path()).await);
    let now = world.api.clock.wall();
    let table = [
        (now, true),
        (now + HOUR, true),
        (now + DAY, true),
        (now + 40 * DAY, true),
        (now - HOUR, true),
        (now - 2 * DAY, false),
    ];
    for (number, (issued, stays)) in (1..).zip(table) {
        let (agent, certificate) = enrolled(&world, issued, number).await;
        assert_eq!(gets_in(&world, &certificate), stays, "issued at {issued}, now {now}");
        assert!(!gets_in(&stranger, &certificate), "another authority's");
        let entry = own_entry("RevokeAgent", &agent, now);
        world.api.identities.revoke(&agent, entry).await.unwrap().unwrap();
        assert!(!gets_in(&world, &certificate), "a revoked agent stays out, whatever the clock says");
    }
    let (_, unknown) = enrolled(&stranger, now + HOUR, 9).await;
    assert!(!gets_in(&world, &unknown), "of an authority that is not trusted, before its time");
}

#[tokio::test]
async fn what_has_expired_stays_so_when_the_machines_clock_goes_back() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::start(folder.path()).await;
    let lifetime = Some(prost_types::Duration { seconds: 3_600, nanos: 0 });
    let request = v1::CreateTokenRequest { role: v1::Role::Admin.into(), lifetime, ..Default::default() };
    let made = world.api.create_token(admin(request)).await.unwrap().into_inner();
    let token = Token::parse(Kind::Api, &made.secret).unwrap();
    let join = Token::new(Kind::Join, TokenId::new(world.api.clock.wall(), 7), [7; SECRET_BYTES]);
    let row = JoinTokenRow {
        id: join.id(),
        digest: join.digest(),
        display_name: String::new(),
        pool: "default".parse().unwrap(),
        max_uses: 1,
        uses: 0,
        expires: world.api.clock.wall() + HOUR,
    };
    let now = world.api.clock.wall();
    world.api.identities.add_join_token(row, own_entry("CreateJoinToken", "", now)).await.unwrap();
    let clock = Clock::start();
    assert!(world.api.tokens.recognise(&token, clock.wall()).is_some());
    // As after a restart: what the store has last is two days later than what the machine believes.
    clock.compare(clock.wall() + 2 * DAY);
    let now = clock.wall();
    assert!(now > clock.machine_wall() + DAY, "the store is believed");
    assert!(world.api.tokens.recognise(&token, now).is_none(), "an expired token");
    let key = KeyPair::generate().unwrap();
    let request = CertificateParams::default().serialize_request(&key).unwrap();
    let key = RequestedKey::read(request.der()).unwrap();
    let candidate =
        Candidate { token: join, key: key.pin, display_name: String::new(), address: "127.0.0.1".into() };
    let issue =
        |row: &postrider_control_plane::store::IdentityRow| world.api.authorities.issue(row, &key, now);
    assert!(world.api.identities.enroll(candidate, now, issue).await.is_err(), "an expired join token");
    world.end().await;
}

/// The clock's judgement is of the real time; only tokio's timers are simulated.
#[tokio::test(start_paused = true)]
async fn while_the_clock_is_not_believed_nothing_is_removed_for_its_age() {
    for (off, trusted) in [(Duration::ZERO, true), (32 * DAY, false)] {
        let folder = tempfile::tempdir().unwrap();
        let world = World::start(folder.path()).await;
        let tenant = v1::Tenant { id: "acme".into(), ..Default::default() };
        world.api.create_tenant(admin(v1::CreateTenantRequest { tenant: Some(tenant) })).await.unwrap();
        world.emit("acme", "").await;
        let clock = Clock::start();
        // As after a start with a clock that is so far behind.
        clock.compare(clock.wall() + off);
        let keep = Keep { events: Duration::ZERO, delivered_data: Duration::ZERO, audit: None };
        let rounds = retention::run(world.store.clone(), world.api.agents.clone(), keep, clock);
        let _runs_on = tokio::time::timeout(Duration::from_secs(600), rounds).await;
        let stored = world.api.store.stored_bytes(vec!["acme".parse().unwrap()]).await.unwrap();
        assert_eq!(stored == [0], trusted, "{off:?}: {stored:?}");
        world.end().await;
    }
}
