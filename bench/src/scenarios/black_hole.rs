//! A thousand endpoints, and a thousand with one more that takes every request and never answers: two control planes with
//! an agent each, under load in turns. Each event is owed to all of them, so latency is that of a burst.

use std::time::Duration;

use crate::emitter::How;
use crate::load::{Rig, Shape, lasting};
use crate::report::Report;
use crate::stats::{Latencies, ratio};
use crate::world::World;

const ENDPOINTS: u64 = 1_000;
/// Events a second, each owed to every endpoint.
const RATE: u32 = 2;
/// Attempts that the endpoint that never answers may have at once.
const CAP: i32 = 32;
/// The endpoint that never answers.
const HOLE: u64 = 1;
/// Turns of each.
const TURNS: usize = 4;

pub(super) async fn measure(rig: &mut Rig<'_>, report: &mut Report) -> anyhow::Result<()> {
    let endpoints = if rig.quick { ENDPOINTS / 10 } else { ENDPOINTS };
    let mut alone = healthy(rig, endpoints).await?;
    let mut beside = healthy(rig, endpoints).await?;
    beside.api.subscribe(rig.sink.url(&format!("hang/{HOLE}")), CAP).await?;
    load(rig, &mut alone, endpoints, rig.time(2, 1_000)).await?;
    load(rig, &mut beside, endpoints, rig.time(4, 1_000)).await?;
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        without.extend(load(rig, &mut alone, endpoints, rig.time(4, 1_000)).await?);
        with.extend(load(rig, &mut beside, endpoints, rig.time(4, 1_000)).await?);
    }
    let (without, with) = (Latencies::new(without), Latencies::new(with));
    for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
        let (without, with) = (without.percentile_ms(share), with.percentile_ms(share));
        report.set(format!("black_hole.alone_{name}_ms"), without);
        report.set(format!("black_hole.others_{name}_ms"), with);
        report.set(format!("black_hole.others_{name}_ratio"), ratio(with, without));
    }
    report.set("black_hole.endpoints", endpoints as f64);
    report.set("black_hole.in_flight_peak", rig.sink.hanging_peak(HOLE).await? as f64);
    report.set("black_hole.in_flight_cap", f64::from(CAP));
    alone.end().await?;
    beside.end().await
}

async fn healthy<'a>(rig: &Rig<'a>, endpoints: u64) -> anyhow::Result<World<'a>> {
    let world = World::start_with_agent(rig.place, rig.sink.port).await?;
    for endpoint in 0..endpoints {
        world.api.subscribe(rig.sink.url(&format!("hook/{endpoint}")), 0).await?;
    }
    Ok(world)
}

async fn load(
    rig: &mut Rig<'_>,
    world: &mut World<'_>,
    endpoints: u64,
    time: Duration,
) -> anyhow::Result<Vec<Duration>> {
    let shape = Shape { how: How::Paced(RATE), until: lasting(time), undelivered: None, endpoints };
    Ok(rig.load(world, shape).await?.latencies().into_inner())
}
