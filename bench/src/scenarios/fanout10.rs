//! Ten subscriptions: each event is owed ten times. As fast as it goes, in two ways, each with an empty store of its
//! own; the better one is the headline.

use super::one_to_one::{cpu, rates};
use crate::emitter::How;
use crate::load::{Rig, Shape, lasting};
use crate::procfs;
use crate::report::Report;
use crate::stats::ratio;
use crate::world::World;

const SUBSCRIPTIONS: u64 = 10;
/// A way to emit: its name in the report, and how many deliveries may be on their way.
const WAYS: [(&str, Option<u64>); 2] = [("stream_64", None), ("stream_64_no_backlog", Some(640))];

pub(super) async fn measure(rig: &mut Rig<'_>, report: &mut Report) -> anyhow::Result<()> {
    for (way, undelivered) in WAYS {
        eprintln!("        {way}");
        let mut own = Report::default();
        one(rig, undelivered, &mut own).await?;
        let rate = own.get("deliveries_per_s").unwrap_or_default();
        let best = rate > report.get("fanout10.deliveries_per_s").unwrap_or_default();
        for (name, value) in own.figures() {
            report.set(format!("fanout10.{way}.{name}"), value);
            if best {
                report.set(format!("fanout10.{name}"), value);
            }
        }
    }
    Ok(())
}

async fn one(rig: &mut Rig<'_>, undelivered: Option<u64>, report: &mut Report) -> anyhow::Result<()> {
    let mut world = World::start_with_agent(rig.place, rig.sink.port).await?;
    for endpoint in 0..SUBSCRIPTIONS {
        world.api.subscribe(rig.sink.url(&format!("hook/{endpoint}")), 0).await?;
    }
    let shape =
        |time| Shape { how: How::Stream(64), until: lasting(time), undelivered, endpoints: SUBSCRIPTIONS };
    let warm_up = rig.load(&mut world, shape(rig.time(2, 400))).await?;
    let outcome = rig.load(&mut world, shape(rig.time(10, 1000))).await?;
    rates(&outcome, report);
    cpu(&outcome, report);
    let all = (warm_up.delivered() + outcome.delivered()) as f64;
    report.set("store_bytes_per_delivery", ratio(procfs::disk_bytes(&world.store())? as f64, all));
    report.set("load_control_plane_mib", procfs::resident_mib(world.control_plane()?)?);
    report.set("load_agent_mib", procfs::resident_mib(world.agent()?)?);
    world.end().await
}
