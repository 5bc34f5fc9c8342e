//! How many calls one token may have under way, and how old a connection becomes.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use postrider_proto::v1;
use postrider_tests::api::Api;
use postrider_tests::clock::now;
use postrider_tests::frames::kind;
use postrider_tests::wait::{eventually, when};
use postrider_tests::world::TENANT;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt as _;

use super::{Besieged, call};

/// Longer than the oldest connection of a port whose connections become 10 seconds old, give or take a fifth.
const OLD: Duration = Duration::from_secs(13);

async fn watch(api: &Api) -> Result<Streaming<v1::WatchDeliveriesResponse>, Status> {
    let request = v1::WatchDeliveriesRequest { tenant: TENANT.into(), ..Default::default() };
    Ok(api.deliveries().watch_deliveries(request).await?.into_inner())
}

#[tokio::test]
async fn one_token_has_so_many_calls_under_way_and_others_have_theirs() -> Result<()> {
    let besieged = Besieged::start(&["max_token_calls = 8"]).await?;
    besieged.api.create_tenant().await?;
    let viewer = v1::CreateTokenRequest {
        role: v1::Role::Viewer.into(),
        tenant: TENANT.into(),
        ..v1::CreateTokenRequest::default()
    };
    let viewer = besieged.api.tokens().create_token(viewer).await?.into_inner().secret;
    let viewer = Api::new(besieged.control_plane.channel()?, TENANT, &viewer)?;
    let mut held = Vec::new();
    for _ in 0..8 {
        held.push(watch(&viewer).await?);
    }
    let refused = call(&viewer).await.err().context("it has a ninth call")?.downcast::<Status>()?;
    let details = refused.get_error_details();
    let reason = details.error_info().map(|info| info.reason.as_str());
    ensure!((refused.code(), reason) == (Code::ResourceExhausted, Some("TOO_MANY_CALLS")), "{refused:?}");
    ensure!(details.retry_info().is_some(), "{refused:?}");
    for _ in 0..20 {
        call(&besieged.api).await.context("another token")?;
    }
    held.pop();
    eventually("a call has ended", async || Ok(when(call(&viewer).await.is_ok()))).await?;
    Ok(())
}

#[tokio::test]
async fn an_old_connection_ends_and_takes_no_call_with_it() -> Result<()> {
    let besieged = Besieged::start(&["max_api_connection_age = \"10s\""]).await?;
    besieged.api.create_tenant().await?;
    let mut wire = besieged.api_port()?.greeted(&[]).await?;
    let api = besieged.control_plane.api(TENANT)?;
    let mut watched = watch(&api).await?;
    let begun = now();
    while begun.elapsed() < OLD {
        call(&besieged.api).await.context("a call while connections end")?;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // The stream of the connection that was told goodbye goes on.
    while let Ok(message) = tokio::time::timeout(Duration::from_millis(100), watched.message()).await {
        ensure!(matches!(message, Ok(Some(_))), "the stream has ended: {message:?}");
    }
    let goodbye = async {
        while let Some(frame) = wire.ear.next().await? {
            if frame.kind == kind::GOAWAY {
                return Ok(());
            }
        }
        anyhow::bail!("it has closed without a word")
    };
    tokio::time::timeout(Duration::from_secs(2), goodbye).await.context("no goodbye")?
}
