//! Memory of both processes without traffic, some seconds after they have found each other.

use crate::load::Rig;
use crate::procfs;
use crate::report::Report;
use crate::world::World;

pub(super) async fn measure(rig: &mut Rig<'_>, report: &mut Report) -> anyhow::Result<()> {
    let mut world = World::start_with_agent(rig.place, rig.sink.port).await?;
    world.api.subscribe(rig.sink.url("hook/0"), 0).await?;
    let (control_plane, agent) = (world.control_plane()?, world.agent()?);
    tokio::time::sleep(rig.time(5, 2000)).await;
    report.set("idle.control_plane_mib", procfs::resident_mib(control_plane)?);
    report.set("idle.agent_mib", procfs::resident_mib(agent)?);
    let (before, seconds) = (cpu(control_plane, agent)?, rig.time(3, 1000));
    tokio::time::sleep(seconds).await;
    let used = cpu(control_plane, agent)? - before;
    report.set("idle.cpu_ms_per_s", used * 1000.0 / seconds.as_secs_f64());
    world.check()?;
    world.end().await
}

fn cpu(control_plane: u32, agent: u32) -> anyhow::Result<f64> {
    Ok((procfs::cpu_time(control_plane)? + procfs::cpu_time(agent)?).as_secs_f64())
}
