//! How many connections there may be at once, and whose place is given to whom.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use postrider_proto::agent::control_message::Message as Heard;
use postrider_proto::v1;
use postrider_tests::api::Api;
use postrider_tests::applicant::Session;
use postrider_tests::wait::{eventually, when};
use postrider_tests::world::TENANT;

use tonic::{Code, Status, Streaming};

use super::{Besieged, Enrolled, call};

/// Soon enough for 'at once'.
const AT_ONCE: Duration = Duration::from_secs(1);

/// Another connection to the API, that has made a call.
async fn another(besieged: &Besieged) -> Result<Api> {
    let api = besieged.control_plane.api(TENANT)?;
    call(&api).await?;
    Ok(api)
}

#[tokio::test]
async fn the_api_has_so_many_places_and_who_calls_anew_gets_an_idle_one_of_its_own() -> Result<()> {
    let besieged = Besieged::start(&["max_api_connections = 5"]).await?;
    call(&besieged.api).await?;
    let mut held = Vec::new();
    for _ in 0..20 {
        held.push(another(&besieged).await?);
    }
    for api in held.iter().chain([&besieged.api]) {
        call(api).await.context("one of those that were there")?;
    }
    Ok(())
}

/// A connection whose first call stays open.
async fn watching(besieged: &Besieged, token: &str) -> Result<(Api, Streaming<v1::WatchDeliveriesResponse>)> {
    let api = Api::new(besieged.control_plane.channel()?, TENANT, token)?;
    let request = v1::WatchDeliveriesRequest { tenant: TENANT.into(), ..Default::default() };
    let watched = api.deliveries().watch_deliveries(request).await?.into_inner();
    Ok((api, watched))
}

#[tokio::test]
async fn one_token_does_not_take_all_api_connections() -> Result<()> {
    let besieged = Besieged::start(&["max_api_connections = 60"]).await?;
    besieged.api.create_tenant().await?;
    let viewer = v1::CreateTokenRequest {
        role: v1::Role::Viewer.into(),
        tenant: TENANT.into(),
        ..v1::CreateTokenRequest::default()
    };
    let viewer = besieged.api.tokens().create_token(viewer).await?.into_inner().secret;
    let mut held = Vec::new();
    for _ in 0..60 {
        // Each with a call under way; when all places of the token are in use, the next is told so.
        match watching(&besieged, &viewer).await {
            Ok(watching) => held.push(watching),
            Err(error) => {
                let refused = error.downcast::<Status>()?;
                ensure!(refused.code() == Code::ResourceExhausted, "{refused:?}");
            }
        }
    }
    ensure!(held.len() > 10, "{}", held.len());
    for _ in 0..10 {
        another(&besieged).await.context("a neighbour's new connection")?;
    }
    Ok(())
}

#[tokio::test]
async fn who_has_not_shown_who_it_is_makes_room() -> Result<()> {
    let besieged = Besieged::start(&["max_api_connections = 5", "max_agent_connections = 5"]).await?;
    let agent = besieged.enrolled().await?;
    call(&besieged.api).await?;
    for port in besieged.ports().await? {
        let mut strangers = Vec::new();
        for _ in 0..10 {
            strangers.push(port.greeted(&[]).await?);
        }
        let mut oldest = strangers.swap_remove(0);
        oldest.ear.closed(AT_ONCE).await.context("the oldest stranger")?;
        let _api = another(&besieged).await?;
        let _session = session(&besieged, &agent).await?;
    }
    Ok(())
}

async fn session(besieged: &Besieged, agent: &Enrolled) -> Result<Session> {
    let mut session = besieged.agents().await?.connect(Some(&agent.credentials), agent.hello.clone()).await?;
    let heard = session.hear().await?;
    ensure!(matches!(heard, Heard::Welcome(_)), "{heard:?}");
    Ok(session)
}

#[tokio::test]
async fn agents_have_so_many_places_and_those_that_are_freed_are_given_again() -> Result<()> {
    let besieged = Besieged::start(&["max_agent_connections = 5"]).await?;
    let mut held = Vec::new();
    for _ in 0..5 {
        let agent = besieged.enrolled().await?;
        held.push((session(&besieged, &agent).await?, agent));
    }
    let (_, newest) = held.last().context("five")?;
    let port = besieged.agent_port(Some(newest)).await?;
    for _ in 0..3 {
        let sixth =
            tokio::time::timeout(AT_ONCE, port.secured()).await.context("it is not closed at once")?;
        ensure!(sixth.is_err(), "there is a sixth connection");
    }
    let (freed, agent) = held.pop().context("five")?;
    drop(freed);
    eventually("a place is free", async || Ok(session(&besieged, &agent).await.ok())).await?;
    Ok(())
}

/// As many as one agent may have.
const OF_ONE_AGENT: usize = 40;

#[tokio::test]
async fn one_agent_does_not_take_all_places() -> Result<()> {
    let besieged = Besieged::start(&[]).await?;
    let (astray, other) = (besieged.enrolled().await?, besieged.enrolled().await?);
    let port = besieged.agent_port(Some(&astray)).await?;
    let mut held = Vec::new();
    for _ in 0..OF_ONE_AGENT {
        let mut wire = port.greeted(&[]).await?;
        wire.ear.next().await?.context("it is not served")?;
        held.push(wire);
    }
    let mut more = port.greeted(&[]).await?;
    more.ear.closed(AT_ONCE).await.context("one agent has too many")?;
    session(&besieged, &other).await.context("another agent")?;
    held.pop();
    let served = async || {
        let mut wire = port.greeted(&[]).await?;
        Ok(when(matches!(wire.ear.next().await, Ok(Some(_)))))
    };
    eventually("the place is given again", served).await?;
    Ok(())
}
