//! An endpoint that hangs is nobody else's trouble.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use postrider_proto::v1;
use postrider_tests::api::{duration, event};
use postrider_tests::clock::now;
use postrider_tests::receiver::Answer;
use postrider_tests::turn;
use postrider_tests::wait::{eventually, when};
use postrider_tests::world::World;

/// Events of each measurement.
const EVENTS: usize = 150;
/// What the hung endpoint's subscription allows.
const CAP: i32 = 8;

/// How long events took to arrive at the healthy endpoints, the median: one event after the other.
async fn median(world: &World, event_type: &str, paths: &[&str]) -> Result<Duration> {
    let mut emitted: HashMap<String, Instant> = HashMap::new();
    for number in 0..EVENTS {
        let begun = now();
        let answer = world.api.emit(event(event_type, &number.to_string())).await?;
        emitted.insert(answer.event_id, begun);
    }
    let mut took = Vec::new();
    for path in paths {
        eventually("every event has arrived at a healthy endpoint", async || {
            let arrived = world.receiver.posts_to(path);
            Ok(when(arrived.iter().filter(|post| emitted.contains_key(&post.id)).count() == EVENTS))
        })
        .await?;
        let posts = world.receiver.posts_to(path);
        took.extend(posts.iter().filter_map(|post| Some(post.at - *emitted.get(&post.id)?)));
    }
    took.sort_unstable();
    took.get(took.len() / 2).copied().context("nothing was measured")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hung_endpoint_delays_no_other_and_stays_within_its_cap() -> Result<()> {
    let _turn = turn::take().await;
    let world = World::with_max_in_flight(64).await?;
    let healthy = ["/1", "/2", "/3"];
    for path in healthy {
        world.subscribe(path).await?;
    }
    median(&world, "warm.up", &healthy).await?;
    let alone = median(&world, "alone.measured", &healthy).await?;

    world.receiver.script("/hung", [Answer::Hang]);
    let wanted = v1::Subscription {
        max_in_flight: CAP,
        timeout: Some(duration(Duration::from_secs(60))),
        ..v1::Subscription::default()
    };
    world.subscribe_with("/hung", wanted).await?;
    let cap = usize::try_from(CAP)?;
    for _ in 0..100 {
        world.api.emit(event("filling.up", "{}")).await?;
    }
    eventually("the hung endpoint is full", async || Ok(when(world.receiver.open("/hung") == cap))).await?;
    let beside = median(&world, "beside.measured", &healthy).await?;

    println!("median alone {alone:?}, beside a hung endpoint {beside:?}");
    // The machine may have other work; a lane that waits for another would take the hung one's timeout.
    assert!(beside < alone * 5 + Duration::from_millis(50), "{beside:?} beside it, {alone:?} without");
    assert_eq!(world.receiver.peak("/hung"), cap);
    Ok(())
}
