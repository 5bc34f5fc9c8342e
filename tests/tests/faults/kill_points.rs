//! Kills at named points: the control plane gets SIGKILL before or after the n-th write, sync, rename, deletion or
//! creation of a file, or after half of a write: during the first start, a later one, under load (and so in whatever
//! the store writes meanwhile), and in a stop. Whatever is left opens, and has everything that was acknowledged.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use postrider_tests::clock::now;
use rand::Rng as _;
use rand::seq::index::sample;
use rustix::process::Signal;

use crate::report::counted;
use crate::rig::disk::Memory;
use crate::rig::feed::{Feed, Plan};
use crate::rig::shim::{Action, CHANGES, Control};
use crate::rig::{GRACE, Rig};
use crate::runner::{Context, Trial, trial};

pub(crate) const TRIALS: &[Trial] = &[
    trial!("F2", "kill_points.first_start", first_start),
    trial!("F2", "kill_points.later_start", later_start),
    trial!("F2", "kill_points.under_load", under_load),
    trial!("F2", "kill_points.stop", stop),
];

/// How a program is killed at a point.
const ACTIONS: [Action; 3] = [Action::KillBefore, Action::KillAfter, Action::Tear];
/// Events between two kills.
const EVENTS: usize = 20;
/// Between two calls of one worker under load.
const EVERY: Duration = Duration::from_millis(8);
/// A kill under load comes by then, or the store does no such thing under this load.
const COMES_WITHIN: Duration = Duration::from_secs(2);
/// A control plane that was not killed acknowledges another event by then.
const GOES_ON_WITHIN: Duration = Duration::from_secs(30);

/// A rig whose control plane has the shim. Nothing runs.
async fn shimmed(context: &Context, name: &str) -> Result<(Rig, Control)> {
    let folder = context.folder.join(name);
    let mut rig = Rig::prepare(&folder).await?;
    let disk = rig.disk();
    let control = context.shim.load(&folder, &mut rig.control_plane, &disk)?;
    Ok((rig, control))
}

/// Every point of the first start, or a sample: what it leaves is a store that the next start goes on with.
async fn first_start(context: &mut Context) -> Result<()> {
    let (mut rig, control) = shimmed(context, "count").await?;
    control.trace(&mut rig.control_plane, true);
    rig.control_plane.restart().await?;
    let operations = control.take_trace()?.len();
    drop(rig);
    ensure!(operations > 0, "the shim sees no operation of a first start");
    context.report.note(format!("{operations} points"));
    let amount = context.choose(12, operations).min(operations);
    for (round, point) in sample(&mut context.random, operations, amount).into_iter().enumerate() {
        let action = ACTIONS[round % ACTIONS.len()];
        let name = format!("round-{round}");
        let (mut rig, mut control) = shimmed(context, &name).await?;
        control.set(action, CHANGES, point + 1, 1)?;
        let failed = rig.failed_start().await;
        control.off()?;
        let what = format!("{action:?} at change {} of the first start", point + 1);
        ensure!(failed.is_none_or(|log| log.contains("signal: 9")), "{what}: it ends by itself");
        // What happens later in a first start is killed by hand.
        drop(rig.control_plane.kill());
        let rounds = rig.first_start().await.with_context(|| what.clone());
        let rounds = match rounds {
            Ok(()) => rig.feed(Plan::steady(EVENTS))?.ended().await.context(what),
            failed => failed,
        };
        rig.finish(&mut context.report, rounds).await?;
        // Each has a journal of its own; all of them would not fit where the trials are.
        std::fs::remove_dir_all(context.folder.join(name))?;
        context.report.rounds += 1;
    }
    Ok(())
}

async fn later_start(context: &mut Context) -> Result<()> {
    let (mut rig, mut control) = shimmed(context, "rig").await?;
    context.report.dup_limit = Some(0);
    let rounds = later_starts(context, &mut rig, &mut control).await;
    control.off()?;
    rig.finish(&mut context.report, rounds).await
}

async fn later_starts(context: &mut Context, rig: &mut Rig, control: &mut Control) -> Result<()> {
    rig.first_start().await?;
    rig.feed(Plan::steady(200))?.ended().await?;
    rig.control_plane.kill()?;
    control.trace(&mut rig.control_plane, true);
    rig.control_plane.restart().await?;
    control.trace(&mut rig.control_plane, false);
    let operations = control.take_trace()?.len();
    context.report.note(format!("{operations} points"));
    let amount = context.choose(12, operations).min(operations);
    for (round, point) in sample(&mut context.random, operations, amount).into_iter().enumerate() {
        rig.feed(Plan::steady(EVENTS))?.ended().await?;
        rig.control_plane.kill()?;
        let action = ACTIONS[round % ACTIONS.len()];
        control.set(action, CHANGES, point + 1, 1)?;
        let failed = rig.failed_start().await;
        control.off()?;
        let what = format!("{action:?} at change {} of a start", point + 1);
        start_after(rig, failed).await.context(what)?;
        rig.serves_again(&mut context.report, 100, false).await?;
        context.report.rounds += 1;
    }
    Ok(())
}

/// Starts it without a fault after a start that may have been killed.
async fn start_after(rig: &mut Rig, failed: Option<String>) -> Result<()> {
    if let Some(log) = failed {
        ensure!(log.contains("signal: 9"), "it ends by itself: {log}");
    } else {
        drop(rig.control_plane.kill());
    }
    rig.control_plane.restart().await
}

/// Kills at the n-th operation of one class while events are emitted. Renames, deletions and creations are those of
/// checkpoints and of new files; a store that does none of them under this load is not killed in that round.
async fn under_load(context: &mut Context) -> Result<()> {
    let (mut rig, mut control) = shimmed(context, "rig").await?;
    // A small disk: stores size their files by it, and begin new ones more often.
    let _disk = Memory::mount(&rig.disk(), if context.is_full { 512 } else { 128 })?;
    context.report.dup_limit = Some(0);
    let rounds = kill_under_load(context, &mut rig, &mut control).await;
    control.off()?;
    rig.finish(&mut context.report, rounds).await
}

async fn kill_under_load(context: &mut Context, rig: &mut Rig, control: &mut Control) -> Result<()> {
    rig.first_start().await?;
    let plan = Plan { events: usize::MAX, bytes: 3_000, at_once: 8, every: EVERY, is_patient: true };
    let mut feed = rig.feed(plan)?;
    let mut missed = Vec::new();
    for round in 0..context.choose(10, 60) {
        let class = ["w", "s", "w", "s", "r", "w", "u", "s", "c", "o"][round % 10];
        let action = ACTIONS[context.random.random_range(0..ACTIONS.len())];
        let most = if matches!(class, "w" | "s") { 150 } else { 2 };
        let point = context.random.random_range(1..=most);
        feed.more(EVENTS).await?;
        control.set(action, class, point, 1)?;
        let dies_in_time = dies(rig, &mut feed).await?;
        control.off()?;
        if dies_in_time || died_late(rig, &feed).await? {
            let what = format!("{action:?} at {class} {point} under load");
            rig.control_plane.restart().await.context(what)?;
            rig.serves_again(&mut context.report, 100, false).await?;
            context.report.rounds += 1;
        } else {
            missed.push(class.to_owned());
        }
    }
    if !missed.is_empty() {
        context.report.note(format!("not seen under this load: {}", counted(&missed)));
    }
    ensure!(context.report.rounds * 2 > missed.len(), "hardly any kill came");
    feed.stop().await
}

/// Waits for the end of the control plane by the shim's kill.
/// Whether a kill came at the very end of the time for it: otherwise another event is acknowledged.
async fn died_late(rig: &mut Rig, feed: &Feed) -> Result<bool> {
    let (before, begun) = (feed.acknowledged(), now());
    while feed.acknowledged() == before {
        if rig.control_plane.ended()?.is_some() {
            return Ok(true);
        }
        ensure!(begun.elapsed() < GOES_ON_WITHIN, "nothing is acknowledged any more");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(false)
}

async fn dies(rig: &mut Rig, feed: &mut Feed) -> Result<bool> {
    let begun = now();
    while begun.elapsed() < COMES_WITHIN {
        if let Some(status) = rig.control_plane.ended()? {
            ensure!(status.code().is_none(), "it ended by itself: {status}");
            return Ok(true);
        }
        if feed.acknowledged() == 0 {
            bail!("nothing is acknowledged");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(false)
}

/// Kills at an operation of a stop.
async fn stop(context: &mut Context) -> Result<()> {
    let (mut rig, mut control) = shimmed(context, "rig").await?;
    context.report.dup_limit = Some(0);
    let rounds = kill_in_stops(context, &mut rig, &mut control).await;
    control.off()?;
    rig.finish(&mut context.report, rounds).await
}

async fn kill_in_stops(context: &mut Context, rig: &mut Rig, control: &mut Control) -> Result<()> {
    control.trace(&mut rig.control_plane, true);
    rig.first_start().await?;
    rig.feed(Plan::steady(100))?.ended().await?;
    control.take_trace()?;
    rig.control_plane.signal(Signal::TERM)?;
    rig.control_plane.exit(GRACE * 2).await?;
    control.trace(&mut rig.control_plane, false);
    let operations = control.take_trace()?.len().max(1);
    context.report.note(format!("{operations} points"));
    rig.control_plane.restart().await?;
    let mut killed = 0;
    for round in 0..context.choose(6, 30) {
        rig.feed(Plan::steady(EVENTS))?.ended().await?;
        let action = ACTIONS[round % ACTIONS.len()];
        control.set(action, CHANGES, context.random.random_range(1..=operations), 1)?;
        rig.control_plane.signal(Signal::TERM)?;
        let status = rig.control_plane.exit(GRACE * 2).await?;
        control.off()?;
        ensure!(status.success() || status.code().is_none(), "a stop ends with {status}");
        killed += usize::from(status.code().is_none());
        rig.control_plane.restart().await.with_context(|| format!("the start after {action:?} in a stop"))?;
        rig.serves_again(&mut context.report, 100, false).await?;
        context.report.rounds += 1;
    }
    context.report.note(format!("{killed} stops were killed"));
    Ok(())
}
