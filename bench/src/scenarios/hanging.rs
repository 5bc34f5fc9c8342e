//! A healthy endpoint alone, and one beside endpoints that take every request and never answer: two control planes with
//! an agent each, under load in turns, so that what else the machine does meets both.

use std::time::Duration;

use crate::emitter::How;
use crate::load::{Rig, Shape, lasting};
use crate::report::Report;
use crate::stats::{Latencies, ratio};
use crate::world::World;

/// Endpoints that hang.
const HANGING: usize = 4;
/// Events a second, each owed to every endpoint.
const RATE: u32 = 50;
/// Turns of each.
const TURNS: usize = 5;

pub(super) async fn measure(rig: &mut Rig<'_>, report: &mut Report) -> anyhow::Result<()> {
    let mut alone = healthy(rig).await?;
    let mut beside = healthy(rig).await?;
    for _ in 0..HANGING {
        beside.api.subscribe(rig.sink.url("hang"), 0).await?;
    }
    load(rig, &mut alone, rig.time(1, 400)).await?;
    // Until every attempt that may be under way hangs, and queues grow.
    load(rig, &mut beside, rig.time(3, 1500)).await?;
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        without.extend(load(rig, &mut alone, rig.time(3, 600)).await?);
        with.extend(load(rig, &mut beside, rig.time(3, 600)).await?);
    }
    let (without, with) = (Latencies::new(without), Latencies::new(with));
    for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
        let (without, with) = (without.percentile_ms(share), with.percentile_ms(share));
        report.set(format!("hanging.alone_{name}_ms"), without);
        report.set(format!("hanging.healthy_{name}_ms"), with);
        report.set(format!("hanging.healthy_{name}_ratio"), ratio(with, without));
    }
    report.set("hanging.endpoints", HANGING as f64);
    alone.end().await?;
    beside.end().await
}

async fn healthy<'a>(rig: &Rig<'a>) -> anyhow::Result<World<'a>> {
    let world = World::start_with_agent(rig.place, rig.sink.port).await?;
    world.api.subscribe(rig.sink.url("hook/0"), 0).await?;
    Ok(world)
}

async fn load(rig: &mut Rig<'_>, world: &mut World<'_>, time: Duration) -> anyhow::Result<Vec<Duration>> {
    let shape = Shape { how: How::Paced(RATE), until: lasting(time), undelivered: None, endpoints: 1 };
    Ok(rig.load(world, shape).await?.latencies().into_inner())
}
