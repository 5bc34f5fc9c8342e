//! A healthy endpoint, first alone, then beside endpoints that take every request and never answer.

use crate::emitter::How;
use crate::load::{Rig, Shape, lasting};
use crate::report::Report;
use crate::stats::ratio;
use crate::world::World;

/// Endpoints that hang.
const HANGING: usize = 4;
/// Events a second, each owed to every endpoint.
const RATE: u32 = 50;

pub(super) async fn measure(rig: &mut Rig<'_>, report: &mut Report) -> anyhow::Result<()> {
    let mut world = World::start_with_agent(rig.place, rig.sink.port).await?;
    world.api.subscribe(rig.sink.url("hook/0"), 0).await?;
    let shape = |time| Shape { how: How::Paced(RATE), until: lasting(time), undelivered: None, endpoints: 1 };
    rig.load(&mut world, shape(rig.time(1, 400))).await?;
    let alone = rig.load(&mut world, shape(rig.time(15, 3000))).await?.latencies();
    for _ in 0..HANGING {
        world.api.subscribe(rig.sink.url("hang"), 0).await?;
    }
    // Until every attempt that may be under way hangs, and queues grow.
    rig.load(&mut world, shape(rig.time(3, 1500))).await?;
    let beside = rig.load(&mut world, shape(rig.time(15, 3000))).await?.latencies();
    for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
        let (without, with) = (alone.percentile_ms(share), beside.percentile_ms(share));
        report.set(format!("hanging.alone_{name}_ms"), without);
        report.set(format!("hanging.healthy_{name}_ms"), with);
        report.set(format!("hanging.healthy_{name}_ratio"), ratio(with, without));
    }
    report.set("hanging.endpoints", HANGING as f64);
    world.end().await
}
