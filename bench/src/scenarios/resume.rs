//! A control plane is killed under load, with attempts under way and deliveries queued behind them, and started again.
//! Measured from the start of the new process: until it serves, until the first delivery that was still owed arrives,
//! and until everything that was accepted before has arrived and is settled.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::ensure;

use crate::clock;
use crate::emitter::How;
use crate::load::{Rig, Shape, lasting, missing};
use crate::records::Id;
use crate::report::Report;
use crate::world::World;

/// Deliveries on their way: more than are under way at once, so that some wait.
const ON_THEIR_WAY: u64 = 1000;
/// How long everything may take to be settled.
const SETTLED_WITHIN: Duration = Duration::from_secs(40);

pub(super) async fn measure(rig: &mut Rig<'_>, report: &mut Report) -> anyhow::Result<()> {
    let mut world = World::start_with_agent(rig.place, rig.sink.port).await?;
    // Answers take a while, so that attempts are under way when the control plane is killed.
    world.api.subscribe(rig.sink.url("slow/0"), 0).await?;
    rig.sink.reset().await?;
    let killed_after = rig.time(3, 1000);
    let shape = Shape {
        how: How::Stream(256),
        until: lasting(killed_after + Duration::from_secs(2)),
        undelivered: Some(ON_THEIR_WAY),
        endpoints: 1,
    };
    let (emitted, killed_at) = {
        let order = rig.order(&world, shape);
        let kill = async {
            tokio::time::sleep(killed_after).await;
            world.kill_control_plane().await.map(|()| clock::now())
        };
        let (emitted, killed) = tokio::join!(rig.emitter.emit(&order), kill);
        (emitted?.1, killed?)
    };
    ensure!(!emitted.is_empty(), "nothing was accepted before the control plane was killed");
    // The attempts that were under way end without it.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let before = rig.sink.arrivals(world.folder()).await?;
    let owed = missing(&emitted, &before, 1);

    let begun = clock::now();
    let serving = world.start_control_plane().await?;
    let arrived = rig.all_arrived(&mut world, &emitted, 1).await?;
    let lost = missing(&emitted, &arrived, 1);
    ensure!(lost == 0, "{lost} events that were accepted before the kill did not arrive");
    world.api.all_ended(SETTLED_WITHIN).await?;
    let settled = begun.elapsed();

    let after = || arrived.iter().filter(|arrived| arrived.at > begun);
    let unique: HashSet<Id> = arrived.iter().map(|arrived| arrived.id).collect();
    let seconds = |moment: Option<clock::Moment>| moment.map_or(0.0, |at| at.since(begun).as_secs_f64());
    report.set("resume.seconds", settled.as_secs_f64());
    report.set("resume.serving_s", serving.as_secs_f64());
    report.set("resume.first_delivery_s", seconds(after().map(|arrived| arrived.at).min()));
    report.set("resume.last_delivery_s", seconds(after().map(|arrived| arrived.at).max()));
    report.set("resume.down_s", begun.since(killed_at).as_secs_f64());
    report.set("resume.accepted", emitted.len() as f64);
    report.set("resume.owed_at_restart", owed as f64);
    report.set("resume.duplicates", (arrived.len() - unique.len()) as f64);
    report.set("resume.lost", lost as f64);
    world.end().await
}
