//! `WatchDeliveries` and `postrider tail`: filters, and going on where a stream broke.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use postrider_proto::v1::{self, DeliveryState, OutcomeClass, WatchDeliveriesRequest};
use postrider_tests::api::{event, no_retries, retries};
use postrider_tests::receiver::Answer;
use postrider_tests::wait::{PATIENCE, eventually, when};
use postrider_tests::world::{TENANT, World};
use tonic::{Code, Streaming};

type Updates = Streaming<v1::WatchDeliveriesResponse>;

fn all() -> WatchDeliveriesRequest {
    WatchDeliveriesRequest { tenant: TENANT.into(), ..Default::default() }
}

async fn watch(world: &World, request: WatchDeliveriesRequest) -> Result<Updates> {
    Ok(world.api.deliveries().watch_deliveries(request).await?.into_inner())
}

async fn next(updates: &mut Updates) -> Result<v1::WatchDeliveriesResponse> {
    let next = tokio::time::timeout(PATIENCE, updates.message()).await.context("nothing comes")??;
    next.context("the stream has ended")
}

/// What a stream has brought until it was told where it is, alone: event types and attempts.
async fn caught_up(updates: &mut Updates) -> Result<Vec<(String, u32, DeliveryState)>> {
    let mut found = Vec::new();
    let begin = next(updates).await?;
    ensure!(begin.delivery.is_none(), "it begins with a resume token");
    loop {
        let update = next(updates).await?;
        let Some(delivery) = update.delivery else { return Ok(found) };
        ensure!(update.from_store && update.missed == 0, "out of the store");
        found.push((delivery.event_type.clone(), delivery.attempt_count, delivery.state()));
    }
}

#[tokio::test]
async fn a_stream_goes_on_where_it_was_over_restarts_and_misses_nothing() -> Result<()> {
    let mut world = World::start().await?;
    let wanted = v1::Subscription {
        retry_policy: retries([Duration::from_secs(1), Duration::from_secs(1)]),
        ..Default::default()
    };
    world.subscribe_with("/a", wanted).await?;
    world.api.emit(event("seen.live", "{}")).await?;
    let mut live = watch(&world, all()).await?;
    let mut token = next(&mut live).await?.resume_token;
    ensure!(!token.is_empty(), "it begins with a resume token");
    let (_, delivery) = world.api.emit_to_one(event("seen.live", "{}")).await?;
    loop {
        let update = next(&mut live).await?;
        token = update.resume_token;
        if update.delivery.is_some_and(|seen| seen.id == delivery) {
            break;
        }
    }
    drop(live);
    world.receiver.script("/a", [Answer::Status(500), Answer::Status(500), Answer::Status(204)]);
    let (_, delivery) = world.api.emit_to_one(event("missed.one", "{}")).await?;
    world.api.delivery_in(&delivery, DeliveryState::Delivered).await?;
    world.control_plane.kill()?;
    world.control_plane.restart().await?;

    let from = WatchDeliveriesRequest { resume_token: token.clone(), ..all() };
    let mut found = caught_up(&mut watch(&world, from.clone()).await?).await?;
    // What was written together with what was seen last may come again.
    found.retain(|(event_type, ..)| event_type != "seen.live");
    let missed = |attempt, state| ("missed.one".to_owned(), attempt, state);
    let expected = [
        missed(1, DeliveryState::Waiting),
        missed(2, DeliveryState::Waiting),
        missed(3, DeliveryState::Delivered),
    ];
    assert_eq!(found, expected);
    let failed = WatchDeliveriesRequest { outcomes: vec![OutcomeClass::HttpStatus.into()], ..from.clone() };
    assert_eq!(caught_up(&mut watch(&world, failed).await?).await?.len(), 2);
    let seen = WatchDeliveriesRequest { event_types: vec!["seen.*".into()], ..from };
    assert!(caught_up(&mut watch(&world, seen).await?).await?.iter().all(|(name, ..)| name == "seen.live"));
    // From a time on: all of it.
    let old = prost_types::Timestamp { seconds: 1, nanos: 0 };
    let from = WatchDeliveriesRequest { from_time: Some(old), ..all() };
    assert_eq!(caught_up(&mut watch(&world, from).await?).await?.len(), 5);
    Ok(())
}

#[tokio::test]
async fn what_no_stream_can_begin_at_is_refused() -> Result<()> {
    let world = World::start().await?;
    world.subscribe("/a").await?;
    let sent = world.api.emit(event("a.b", "{}")).await?.event_id;
    let now = Some(prost_types::Timestamp::default());
    for (request, code) in [
        (
            WatchDeliveriesRequest { resume_token: "9999999999999999999".into(), ..all() },
            Code::FailedPrecondition,
        ),
        (WatchDeliveriesRequest { resume_token: "soon".into(), ..all() }, Code::InvalidArgument),
        (WatchDeliveriesRequest { resume_token: "1".into(), from_time: now, ..all() }, Code::InvalidArgument),
        (WatchDeliveriesRequest { resume_token: "1".into(), event: sent, ..all() }, Code::InvalidArgument),
        (WatchDeliveriesRequest { event_types: vec!["a.*.b".into()], ..all() }, Code::InvalidArgument),
        (WatchDeliveriesRequest { states: vec![99], ..all() }, Code::InvalidArgument),
        (WatchDeliveriesRequest { outcomes: vec![0], ..all() }, Code::InvalidArgument),
    ] {
        let refused = world.api.deliveries().watch_deliveries(request.clone()).await;
        assert_eq!(refused.err().map(|status| status.code()), Some(code), "{request:?}");
    }
    Ok(())
}

#[tokio::test]
async fn filters_hold_live_too() -> Result<()> {
    let world = World::start().await?;
    world.subscribe_with("/good", v1::Subscription::default()).await?;
    let wanted = v1::Subscription { retry_policy: no_retries(), ..Default::default() };
    world.receiver.script("/bad", [Answer::Status(500)]);
    world.subscribe_with("/bad", wanted).await?;
    let request = WatchDeliveriesRequest {
        event_types: vec!["b.*".into()],
        states: vec![DeliveryState::Exhausted.into()],
        ..all()
    };
    let mut updates = watch(&world, request).await?;
    next(&mut updates).await?;
    world.api.emit(event("a.b", "{}")).await?;
    world.api.emit(event("b.c", "{}")).await?;
    let delivery = next(&mut updates).await?.delivery.context("a delivery")?;
    assert_eq!((delivery.event_type.as_str(), delivery.state()), ("b.c", DeliveryState::Exhausted));
    Ok(())
}

/// The command is given nothing but time: it finds its way over a restart of the control plane by itself.
#[tokio::test]
async fn the_command_goes_on_over_a_restart() -> Result<()> {
    let mut world = World::start().await?;
    world.subscribe("/a").await?;
    let log = world.folder().join("tail");
    let mut command = world.cli().command(&["tail", "--output", "json"])?;
    command.stdout(std::fs::File::create(&log)?).stderr(std::process::Stdio::null());
    let mut tail = command.spawn()?;
    let seen = || -> Result<BTreeSet<String>> {
        let lines = std::fs::read_to_string(&log)?;
        let read = |line: &str| serde_json::from_str::<serde_json::Value>(line).ok();
        let id = |line: serde_json::Value| line["delivery"]["id"].as_str().map(str::to_owned);
        Ok(lines.lines().filter_map(read).filter_map(id).collect())
    };
    eventually("the stream is open", async || Ok(when(!std::fs::read_to_string(&log)?.is_empty()))).await?;
    let mut expected = BTreeSet::new();
    expected.insert(world.api.emit_to_one(event("a.b", "{}")).await?.1);
    eventually("the first is seen", async || Ok(when(seen()? == expected))).await?;
    world.control_plane.kill()?;
    world.control_plane.restart().await?;
    // It may be settled before the command is back.
    expected.insert(world.api.emit_to_one(event("a.b", "{}")).await?.1);
    eventually("both are seen", async || Ok(when(seen()? == expected))).await?;
    let lines = std::fs::read_to_string(&log)?;
    let deliveries = lines.lines().filter(|line| line.contains("dlv_")).count();
    tail.kill()?;
    tail.wait()?;
    ensure!(deliveries == 2, "each is shown once:\n{lines}");
    Ok(())
}
