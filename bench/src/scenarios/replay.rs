//! Live traffic beside a replay: a subscription gets a hundred thousand deliveries again while events come for it and for
//! another one, in turns with the replay paused, so that what else the machine does meets both.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::ensure;
use postrider_proto::v1;

use crate::clock::{self, Moment};
use crate::emitter::{How, Until};
use crate::load::{Rig, Shape, lasting};
use crate::records::{Arrived, Emitted, Id};
use crate::report::Report;
use crate::stats::{Latencies, ratio};
use crate::world::World;

/// Deliveries a second that are put back.
const REPLAYED_PER_S: u32 = 2_000;
/// Live events a second, each owed to both subscriptions.
const LIVE_PER_S: u32 = 100;
/// How long the replay and everything else may take.
const DONE_WITHIN: Duration = Duration::from_secs(180);
/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// Endpoints of the sink: of the subscription that is replayed, and of the other one.
const REPLAYED: u64 = 0;
const OTHER: u64 = 1;

pub(super) async fn measure(rig: &mut Rig<'_>, report: &mut Report) -> anyhow::Result<()> {
    let mut world = World::start_with_agent(rig.place, rig.sink.port).await?;
    let subscription = world.api.subscribe(rig.sink.url("hook/0"), 0).await?;
    let events = if rig.quick { 4_000 } else { 100_000 };
    let shape =
        Shape { how: How::Stream(256), until: Until::Events(events), undelivered: Some(2_000), endpoints: 1 };
    let history = rig.load(&mut world, shape).await?;
    world.api.all_ended(DONE_WITHIN).await?;
    world.api.subscribe(rig.sink.url("hook/1"), 0).await?;
    rig.sink.reset().await?;
    let replay = world.api.replay(subscription, REPLAYED_PER_S).await?;
    let (mut without, mut with) = (Vec::new(), Vec::new());
    let begun = clock::now();
    while world.api.operation(&replay).await?.state() != v1::OperationState::Done {
        ensure!(begun.elapsed() < DONE_WITHIN, "the replay is not done within {} s", DONE_WITHIN.as_secs());
        with.extend(live(rig, &world, rig.time(4, 700)).await?);
        if world.api.pause(&replay).await? {
            // What it has put back goes out first.
            tokio::time::sleep(LOOK).await;
            without.extend(live(rig, &world, rig.time(2, 350)).await?);
            world.api.resume(&replay).await?;
        }
    }
    world.api.all_ended(DONE_WITHIN).await?;
    world.check()?;
    let done = world.api.operation(&replay).await?;
    let arrived = rig.sink.arrivals(world.folder()).await?;
    let (missing, repeated) = replayed(history.emitted(), &arrived);
    report.set("replay.deliveries", done.done as f64);
    report.set("replay.missing", missing as f64);
    report.set("replay.repeated", repeated as f64);
    ensure!(missing + repeated == 0, "{missing} were not replayed, {repeated} more than once");
    for (endpoint, whose) in [(OTHER, "other"), (REPLAYED, "same")] {
        let at = arrivals_at(endpoint, &arrived);
        let [without, with] = [&without, &with].map(|emitted| latencies(emitted, &at));
        for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
            let (without, with) = (without.percentile_ms(share), with.percentile_ms(share));
            report.set(format!("replay.{whose}_alone_{name}_ms"), without);
            report.set(format!("replay.{whose}_beside_{name}_ms"), with);
            report.set(format!("replay.{whose}_{name}_ratio"), ratio(with, without));
        }
    }
    world.end().await
}

/// Emits live events for a while.
async fn live(rig: &mut Rig<'_>, world: &World<'_>, time: Duration) -> anyhow::Result<Vec<Emitted>> {
    let shape = Shape { how: How::Paced(LIVE_PER_S), until: lasting(time), undelivered: None, endpoints: 2 };
    let (summary, emitted) = rig.emit(world, shape).await?;
    ensure!(summary.failed == 0, "{} calls failed: {:?}", summary.failed, summary.failure);
    Ok(emitted)
}

/// How many deliveries of these events have not arrived again, and how many more than once.
fn replayed(history: &[Emitted], arrived: &[Arrived]) -> (usize, usize) {
    let mut count: HashMap<Id, usize> = history.iter().map(|event| (event.id, 0)).collect();
    for arrived in arrived.iter().filter(|arrived| arrived.endpoint == REPLAYED) {
        count.entry(arrived.id).and_modify(|count| *count += 1);
    }
    let missing = count.values().filter(|count| **count == 0).count();
    (missing, count.values().filter(|count| **count > 1).count())
}

fn arrivals_at(endpoint: u64, arrived: &[Arrived]) -> HashMap<Id, Moment> {
    arrived.iter().filter(|one| one.endpoint == endpoint).map(|one| (one.id, one.at)).collect()
}

fn latencies(emitted: &[Emitted], at: &HashMap<Id, Moment>) -> Latencies {
    let latency = |event: &Emitted| Some(at.get(&event.id)?.since(event.begun));
    Latencies::new(emitted.iter().filter_map(latency).collect())
}
