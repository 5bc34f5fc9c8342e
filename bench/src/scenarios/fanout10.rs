//! Ten subscriptions: each event is owed ten times.

use super::one_to_one::{cpu, rates};
use crate::emitter::How;
use crate::load::{Rig, Shape, lasting};
use crate::procfs;
use crate::report::Report;
use crate::stats::ratio;
use crate::world::World;

const SUBSCRIPTIONS: u64 = 10;

pub(super) async fn measure(rig: &mut Rig<'_>, report: &mut Report) -> anyhow::Result<()> {
    let mut world = World::start_with_agent(rig.place, rig.sink.port).await?;
    for endpoint in 0..SUBSCRIPTIONS {
        world.api.subscribe(rig.sink.url(&format!("hook/{endpoint}")), 0).await?;
    }
    let shape = |time| Shape {
        how: How::Stream(64),
        until: lasting(time),
        undelivered: None,
        endpoints: SUBSCRIPTIONS,
    };
    let warm_up = rig.load(&mut world, shape(rig.time(2, 400))).await?;
    let outcome = rig.load(&mut world, shape(rig.time(10, 1000))).await?;
    let mut own = Report::default();
    rates(&outcome, &mut own);
    cpu(&outcome, &mut own);
    let all = (warm_up.delivered() + outcome.delivered()) as f64;
    own.set("store.bytes_per_delivery", ratio(procfs::disk_bytes(&world.store())? as f64, all));
    own.set("memory.load_control_plane_mib", procfs::resident_mib(world.control_plane()?)?);
    own.set("memory.load_agent_mib", procfs::resident_mib(world.agent()?)?);
    for (name, value) in own.figures() {
        report.set(format!("fanout10.{name}"), value);
    }
    world.end().await
}
