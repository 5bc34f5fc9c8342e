//! A million waiting deliveries: a hundred subscriptions without an agent, ten thousand events. Memory and disk then,
//! and after a restart; and how fast they go once an agent is there.

use std::time::Duration;

use anyhow::ensure;

use crate::clock;
use crate::emitter::{How, Until};
use crate::load::{Rig, Shape};
use crate::procfs;
use crate::report::Report;
use crate::stats::{per_second, ratio};
use crate::world::World;

const SUBSCRIPTIONS: u64 = 100;
const MIB: f64 = 1024.0 * 1024.0;
/// How long after a change memory is looked at.
const REST: Duration = Duration::from_secs(1);

pub(super) async fn measure(rig: &mut Rig<'_>, report: &mut Report) -> anyhow::Result<()> {
    let mut world = World::start(rig.place, rig.sink.port).await?;
    rig.sink.reset().await?;
    for endpoint in 0..SUBSCRIPTIONS {
        world.api.subscribe(rig.sink.url(&format!("hook/{endpoint}")), 0).await?;
    }
    let waiting = pile_up(rig, &mut world, report).await?;
    restart(&mut world, report).await?;
    drain(rig, &mut world, waiting, report).await?;
    world.end().await
}

/// Emits until enough waits; says how many deliveries that are.
async fn pile_up(rig: &mut Rig<'_>, world: &mut World<'_>, report: &mut Report) -> anyhow::Result<f64> {
    let events = if rig.quick { 1_000 } else { 10_000 };
    let shape = Shape {
        how: How::Stream(256),
        until: Until::Events(events),
        undelivered: None,
        endpoints: SUBSCRIPTIONS,
    };
    let begun = clock::now();
    let (summary, _) = rig.emit(world, shape).await?;
    let taken = begun.elapsed();
    let owed = events * SUBSCRIPTIONS;
    ensure!(summary.deliveries == owed, "{} deliveries wait, not {owed}", summary.deliveries);
    world.check()?;
    tokio::time::sleep(REST).await;
    let control_plane = world.control_plane()?;
    report.set("backlog_1m.deliveries", owed as f64);
    report.set("backlog_1m.control_plane_mib", procfs::resident_mib(control_plane)?);
    report.set("backlog_1m.peak_control_plane_mib", procfs::peak_mib(control_plane)?);
    report.set("backlog_1m.deliveries_accepted_per_s", per_second(usize::try_from(owed)?, taken));
    store_size(world, owed as f64, "running", report)?;
    Ok(owed as f64)
}

async fn restart(world: &mut World<'_>, report: &mut Report) -> anyhow::Result<()> {
    let begun = clock::now();
    world.stop_control_plane().await?;
    report.set("backlog_1m.stop_s", begun.elapsed().as_secs_f64());
    let serving = world.start_control_plane().await?;
    report.set("backlog_1m.start_s", serving.as_secs_f64());
    tokio::time::sleep(REST).await;
    report.set("backlog_1m.restarted_control_plane_mib", procfs::resident_mib(world.control_plane()?)?);
    Ok(())
}

/// Connects an agent and watches the beginning of the end of the backlog.
async fn drain(
    rig: &mut Rig<'_>,
    world: &mut World<'_>,
    waiting: f64,
    report: &mut Report,
) -> anyhow::Result<()> {
    world.start_agent().await?;
    let time = rig.time(5, 1000);
    let (begun, before) = (clock::now(), rig.sink.count().await?);
    tokio::time::sleep(time).await;
    let drained = rig.sink.count().await? - before;
    report.set("backlog_1m.drained_per_s", per_second(drained, begun.elapsed()));
    report.set("backlog_1m.draining_control_plane_mib", procfs::resident_mib(world.control_plane()?)?);
    ensure!(drained > 0, "nothing of the backlog arrives");
    store_size(world, waiting, "draining", report)
}

fn store_size(world: &World<'_>, deliveries: f64, when: &str, report: &mut Report) -> anyhow::Result<()> {
    let bytes = procfs::disk_bytes(&world.store())? as f64;
    report.set(format!("backlog_1m.store_{when}_mib"), bytes / MIB);
    report.set(format!("backlog_1m.store_{when}_bytes_per_delivery"), ratio(bytes, deliveries));
    Ok(())
}
