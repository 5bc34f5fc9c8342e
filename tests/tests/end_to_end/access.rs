//! Who may call what: every call of the API, with every role, for one's own tenant and for another's, over TLS.
//!
//! What is allowed is in [`calls`], by hand; that the table is complete is checked against the compiled descriptors, so a
//! new call without a row fails here.

mod calls;
mod failures;
mod records;
mod tenants;
mod things;
mod tokens;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use postrider_proto::v1::{self, Role};
use postrider_tests::raw;
use postrider_tests::wait::{when, within};
use postrider_tests::world::{Guarded, NewToken, token};
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use self::calls::{About, Call};
use self::things::Things;

const ROLES: [Role; 4] = [Role::Admin, Role::Operator, Role::Emitter, Role::Viewer];

/// Every call that the `.proto` files declare.
fn declared() -> Result<BTreeSet<String>> {
    let descriptors = FileDescriptorSet::decode(postrider_proto::DESCRIPTORS)?;
    let api = descriptors.file.iter().filter(|file| file.package() == "postrider.v1");
    let services = api.flat_map(|file| &file.service);
    let calls = services.flat_map(|service| {
        let method = |method: &prost_types::MethodDescriptorProto| {
            format!("postrider.v1.{}/{}", service.name(), method.name())
        };
        service.method.iter().map(method)
    });
    Ok(calls.collect())
}

#[test]
fn the_table_has_every_call() -> Result<()> {
    let listed: BTreeSet<String> = calls::all().iter().map(|call| call.name.to_owned()).collect();
    assert_eq!(listed, declared()?);
    Ok(())
}

async fn make(channel: &Channel, secret: &str, call: &Call, things: &Things) -> Result<Vec<Bytes>, Status> {
    raw::call(channel, Some(&format!("Bearer {secret}")), call.name, (call.message)(things)).await
}

fn code(answer: &Result<Vec<Bytes>, Status>) -> Code {
    answer.as_ref().map_or_else(Status::code, |_| Code::Ok)
}

fn reason(status: &Status) -> String {
    status.get_error_details().error_info().map(|info| info.reason.clone()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_role_may_make_its_calls_and_no_others() -> Result<()> {
    let world = Guarded::start(&[]).await?;
    let channel = world.control_plane.channel()?;
    let shared = Things::make(&world).await?;
    for role in ROLES {
        let unconfined = world.token(role, None).await?;
        let confined = world.token(role, Some(&shared.tenant)).await?;
        for call in calls::all() {
            for (token, is_confined) in [(&unconfined, false), (&confined, true)] {
                let what = format!("{} by {role:?}, confined: {is_confined}", call.name);
                let permitted = call.roles.contains(&role);
                if permitted && !(is_confined && call.about == About::Everything) {
                    let answer = allowed(&world, &channel, role, is_confined, &call).await.context(what)?;
                    drop(answer);
                    continue;
                }
                let refused = make(&channel, &token.secret, &call, &shared).await.err();
                let refused = refused.with_context(|| format!("{what}: it was not refused"))?;
                assert_eq!(refused.code(), Code::PermissionDenied, "{what}: {refused:?}");
                let expected = if permitted { "TOKEN_CONFINED" } else { "ROLE_NOT_PERMITTED" };
                assert_eq!(reason(&refused), expected, "{what}");
                assert!(shared.show_in(refused.details()).is_none(), "{what}: {refused:?}");
            }
        }
    }
    Ok(())
}

/// Makes a call that is permitted, with things of its own, since it may use them up.
async fn allowed(
    world: &Guarded,
    channel: &Channel,
    role: Role,
    is_confined: bool,
    call: &Call,
) -> Result<Vec<Bytes>> {
    let things = Things::make(world).await?;
    let token = world.token(role, is_confined.then_some(things.tenant.as_str())).await?;
    let answer = make(channel, &token.secret, call, &things).await;
    ensure!(code(&answer) == call.code, "{answer:?}");
    Ok(answer.unwrap_or_default())
}

/// What is no token any more, or never was.
async fn useless_tokens(world: &Guarded) -> Result<Vec<(&'static str, Option<String>, &'static str)>> {
    let revoked = world.token(Role::Admin, None).await?;
    world.revoke(&revoked).await?;
    let expired = world.short_lived_token(Role::Admin, None, Some(Duration::from_secs(1))).await?;
    let api = world.api("acme", &expired.secret)?;
    within(Duration::from_secs(20), "the token has expired", async || {
        let asked = api.tenants().list_tenants(v1::ListTenantsRequest::default()).await;
        Ok(when(asked.is_err()))
    })
    .await?;
    let bearer = |token: &str| Some(format!("Bearer {token}"));
    let mut mistyped = world.token(Role::Admin, None).await?.secret;
    mistyped.pop();
    mistyped.push('x');
    Ok(vec![
        ("no token", None, "TOKEN_MISSING"),
        ("another scheme", Some(format!("Basic {}", token().as_str())), "TOKEN_MISSING"),
        ("malformed", bearer("prt_nothing"), "TOKEN_MALFORMED"),
        ("mistyped", bearer(&mistyped), "TOKEN_MALFORMED"),
        ("a token of agents", bearer(&token().replace("prt_", "prj_")), "TOKEN_MALFORMED"),
        ("unknown", bearer(&token()), "TOKEN_UNKNOWN"),
        ("revoked", bearer(&revoked.secret), "TOKEN_UNKNOWN"),
        ("expired", bearer(&expired.secret), "TOKEN_UNKNOWN"),
    ])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_valid_token_nothing_can_be_called() -> Result<()> {
    let world = Guarded::start(&[]).await?;
    let things = Things::make(&world).await?;
    let useless = useless_tokens(&world).await?;
    for (number, call) in calls::all().into_iter().enumerate() {
        // From an address each: so many failures from one would be told to come back later.
        let address = Ipv4Addr::new(127, 0, 2, u8::try_from(number + 1)?);
        let channel = world.control_plane.channel_from(Some(address.into()))?;
        for (what, authorization, expected) in &useless {
            let message = (call.message)(&things);
            let refused = raw::call(&channel, authorization.as_deref(), call.name, message).await.err();
            let refused = refused.with_context(|| format!("{} with {what} was not refused", call.name))?;
            assert_eq!(refused.code(), Code::Unauthenticated, "{} with {what}: {refused:?}", call.name);
            assert_eq!(reason(&refused), *expected, "{} with {what}", call.name);
            assert!(things.show_in(refused.details()).is_none(), "{refused:?}");
        }
    }
    let log = world.control_plane.log();
    for (_, authorization, _) in &useless {
        let secret = authorization.as_deref().and_then(|text| text.split_once(' ')).map(|(_, token)| token);
        assert!(secret.is_none_or(|secret| !log.contains(secret)), "the log tells a token");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_open_to_anybody_is_health_and_reflection_alone() -> Result<()> {
    let world = Guarded::start(&[]).await?;
    let channel = world.control_plane.channel()?;
    raw::call(&channel, None, "grpc.health.v1.Health/Check", Bytes::new()).await?;
    for strange in ["postrider.v1.EventService/Emot", "postrider.agent.v1.SessionService/Connect", "x/y"] {
        let refused =
            raw::call(&channel, None, strange, Bytes::new()).await.err().context("it was answered")?;
        assert_eq!(refused.code(), Code::Unauthenticated, "{strange}: {refused:?}");
        let token = world.token(Role::Admin, None).await?.secret;
        let known = raw::call(&channel, Some(&format!("Bearer {token}")), strange, Bytes::new()).await;
        assert_eq!(code(&known), Code::Unimplemented, "{strange}: {known:?}");
    }
    Ok(())
}

/// A status without the names that were asked for.
fn shape(status: &Status, asked: &Things) -> (Code, Vec<u8>, Vec<u8>) {
    let metadata: Vec<String> =
        status.metadata().keys().map(|key| format!("{key:?}")).filter(|key| !key.contains("date")).collect();
    let mut details = asked.struck_out(status.details());
    details.extend(metadata.join(",").into_bytes());
    (status.code(), asked.struck_out(status.message().as_bytes()), details)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_tenants_things_are_as_if_they_had_never_been() -> Result<()> {
    let world = Guarded::start(&[]).await?;
    let channel = world.control_plane.channel()?;
    let (own, foreign, missing) =
        (Things::make(&world).await?, Things::make(&world).await?, Things::missing());
    for role in ROLES {
        let token = world.token(role, Some(&own.tenant)).await?;
        for call in calls::all().into_iter().filter(|call| call.roles.contains(&role)) {
            let cases = [
                // Under the other's name; under one's own.
                (foreign.clone(), missing.clone()),
                (foreign.under(&own.tenant), missing.under(&own.tenant)),
            ];
            for (number, (theirs, nobodys)) in cases.iter().enumerate() {
                if number == 1 && call.about != About::Within {
                    continue;
                }
                judge_foreign(&channel, &token, &call, theirs, nobodys)
                    .await
                    .with_context(|| format!("{} by {role:?}, case {number}", call.name))?;
            }
        }
    }
    Ok(())
}

async fn judge_foreign(
    channel: &Channel,
    token: &NewToken,
    call: &Call,
    theirs: &Things,
    nobodys: &Things,
) -> Result<()> {
    let (foreign, missing) =
        (make(channel, &token.secret, call, theirs).await, make(channel, &token.secret, call, nobodys).await);
    match call.about {
        About::Everything => ensure!(code(&foreign) == Code::PermissionDenied, "{foreign:?}"),
        About::Tenant | About::Within => {
            let (Err(foreign), Err(missing)) = (&foreign, &missing) else {
                anyhow::bail!("it was answered: {foreign:?}, {missing:?}");
            };
            ensure!(foreign.code() == Code::NotFound, "{foreign:?}");
            ensure!(
                shape(foreign, theirs) == shape(missing, nobodys),
                "{foreign:?} differs from {missing:?}"
            );
        }
        About::Visible => {
            let (foreign, missing) = (foreign?, missing?);
            let strike = |answers: &[Bytes], things: &Things| {
                answers.iter().map(|answer| things.struck_out(answer)).collect::<Vec<_>>()
            };
            ensure!(strike(&foreign, theirs) == strike(&missing, nobodys), "{foreign:?}, {missing:?}");
            if call.method() == "EmitStream" {
                let answer = v1::EmitStreamResponse::decode(foreign.first().context("no answer")?.clone())?;
                let result = answer.result.and_then(|result| result.result);
                let Some(v1::emit_result::Result::Error(error)) = result else {
                    anyhow::bail!("an event of another tenant was accepted");
                };
                ensure!(error.code == Code::NotFound as i32, "{error:?}");
            } else {
                let shown = foreign.iter().find_map(|answer| theirs.show_in(answer));
                ensure!(shown.is_none(), "{shown:?} is another tenant's");
            }
        }
    }
    Ok(())
}
