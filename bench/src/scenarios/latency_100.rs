//! A quiet service: 100 events a second, each emitted at its time whatever became of those before it.

use crate::emitter::How;
use crate::load::{Rig, Shape, lasting};
use crate::report::Report;
use crate::world::World;

pub(super) async fn measure(rig: &mut Rig<'_>, report: &mut Report) -> anyhow::Result<()> {
    let mut world = World::start_with_agent(rig.place, rig.sink.port).await?;
    world.api.subscribe(rig.sink.url("hook/0"), 0).await?;
    let shape = |time| Shape { how: How::Paced(100), until: lasting(time), undelivered: None, endpoints: 1 };
    rig.load(&mut world, shape(rig.time(1, 400))).await?;
    let outcome = rig.load(&mut world, shape(rig.time(15, 3000))).await?;
    let (latencies, accepts) = (outcome.latencies(), outcome.accept_latencies());
    for (name, share) in [("p50_ms", 0.5), ("p90_ms", 0.9), ("p99_ms", 0.99), ("max_ms", 1.0)] {
        report.set(format!("latency_100.{name}"), latencies.percentile_ms(share));
        report.set(format!("latency_100.accept_{name}"), accepts.percentile_ms(share));
    }
    report.set("latency_100.events", outcome.delivered() as f64);
    world.end().await
}
