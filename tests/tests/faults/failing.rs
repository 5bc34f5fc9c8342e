//! Failing disks: file operations of the control plane fail for some seconds, or a single one does, with every errno
//! that a disk has; read-only file systems. Nothing acknowledged is lost, and events are accepted again as soon as the
//! disk works. The control plane may end with an exit code of its own and come back under a supervisor.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rand::seq::index::sample;

use crate::rig::disk::{Image, Kind, Memory};
use crate::rig::feed::Plan;
use crate::rig::shim::{Action, CHANGES, Control, WRITES};
use crate::rig::{Rig, SERVES_WITHIN};
use crate::runner::{Context, Trial, trial};

pub(crate) const TRIALS: &[Trial] = &[
    trial!("F10", "failing.input_output", input_output),
    trial!("F10", "failing.input_output_of_syncs", syncs),
    trial!("F10", "failing.quota", quota),
    trial!("F10", "failing.no_space", no_space),
    trial!("F10", "failing.read_only", read_only),
    trial!("F10", "failing.read_only_start", read_only_start),
    trial!("F10", "failing.single_operations", single_operations),
    trial!("F10", "failing.writes_of_a_start", writes_of_a_start),
];

// Source: errno(3), Linux on x86-64 and ARM.
const EIO: i32 = 5;
const ENOSPC: i32 = 28;
const EROFS: i32 = 30;
const EDQUOT: i32 = 122;

/// How long operations fail.
const SHORT: Duration = Duration::from_secs(3);
const LONG: Duration = Duration::from_secs(12);
/// Classes of operations, the first one that fails, and how many do (0: all within a second).
const SINGLE: [(&str, usize, usize); 10] = [
    ("w", 1, 1),
    ("s", 1, 1),
    ("c", 1, 0),
    ("w", 3, 1),
    ("r", 1, 0),
    ("s", 2, 1),
    ("u", 1, 0),
    ("w", 2, 2),
    ("o", 1, 0),
    ("s", 3, 2),
];
const SECOND: Duration = Duration::from_secs(1);
const MOMENT: Duration = Duration::from_millis(200);
/// Events of a trial that lasts for some seconds, at least.
const EVENTS: usize = 400;
/// Of a start, beside the ones before.
const EVENTS_OF_A_START: usize = 20;

async fn input_output(context: &mut Context) -> Result<()> {
    for_a_while(context, EIO, CHANGES).await
}

async fn syncs(context: &mut Context) -> Result<()> {
    for_a_while(context, EIO, "s").await
}

async fn quota(context: &mut Context) -> Result<()> {
    for_a_while(context, EDQUOT, WRITES).await
}

async fn no_space(context: &mut Context) -> Result<()> {
    for_a_while(context, ENOSPC, "wcd").await
}

async fn read_only(context: &mut Context) -> Result<()> {
    for_a_while(context, EROFS, "wcorud").await
}

/// A rig whose control plane has the shim, running.
async fn shimmed(context: &Context) -> Result<(Rig, Control)> {
    let mut rig = Rig::prepare(&context.folder).await?;
    let disk = rig.disk();
    let control = context.shim.load(&context.folder, &mut rig.control_plane, &disk)?;
    Ok((rig, control))
}

async fn for_a_while(context: &mut Context, errno: i32, classes: &str) -> Result<()> {
    let (mut rig, mut control) = shimmed(context).await?;
    context.report.dup_limit = Some(0);
    let rounds = fail_for_a_while(context, &mut rig, &mut control, errno, classes).await;
    control.off()?;
    rig.finish(&mut context.report, rounds).await?;
    rig.has_done(EVENTS)
}

async fn fail_for_a_while(
    context: &mut Context,
    rig: &mut Rig,
    control: &mut Control,
    errno: i32,
    classes: &str,
) -> Result<()> {
    rig.first_start().await?;
    let feed = rig.feed(Plan::endless())?;
    for _ in 0..context.choose(1, 3) {
        feed.more(EVENTS / 2).await?;
        control.set(Action::Error(errno), classes, 1, 0)?;
        let before = feed.acknowledged();
        let end = postrider_tests::clock::now() + if context.is_full { LONG } else { SHORT };
        while postrider_tests::clock::now() < end {
            rig.supervise(&mut context.report).await?;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        // Answers that were under way may still come.
        let meanwhile = feed.acknowledged() - before;
        ensure!(meanwhile < 50, "{meanwhile} events were acknowledged while the disk failed");
        control.off()?;
        rig.serves_again(&mut context.report, 100, true).await?;
        context.report.rounds += 1;
    }
    let refusals = feed.refusals().await;
    ensure!(!refusals.is_empty(), "no event was refused while the disk failed");
    feed.more(EVENTS / 2).await?;
    feed.stop().await
}

/// Single operations fail, or all of a class for a second, while events are emitted: of the log, of new files, and of
/// whatever the store writes beside.
async fn single_operations(context: &mut Context) -> Result<()> {
    let (mut rig, mut control) = shimmed(context).await?;
    // A small disk: stores size their files by it, and begin new ones more often.
    let _disk = Memory::mount(&rig.disk(), if context.is_full { 512 } else { 128 })?;
    let rounds = fail_single(context, &mut rig, &mut control).await;
    control.off()?;
    rig.finish(&mut context.report, rounds).await
}

async fn fail_single(context: &mut Context, rig: &mut Rig, control: &mut Control) -> Result<()> {
    rig.first_start().await?;
    let every = Duration::from_millis(8);
    let feed = rig.feed(Plan { bytes: 3_000, at_once: 8, every, ..Plan::endless() })?;
    for number in 0..context.choose(10, 50) {
        let errno = [EIO, ENOSPC, EDQUOT, EROFS][number % 4];
        let (classes, first, count) = SINGLE[number % SINGLE.len()];
        feed.more(20).await?;
        control.set(Action::Error(errno), classes, first, count)?;
        tokio::time::sleep(if count == 0 { SECOND } else { MOMENT }).await;
        control.off()?;
        let what = format!("errno {errno} at {classes} {first} (count {count})");
        rig.serves_again(&mut context.report, 100, true).await.context(what)?;
        context.report.rounds += 1;
    }
    feed.stop().await
}

/// From the n-th change of files of a start on there is no space, or a single one fails: the start fails in words or
/// works, and the next one without the fault has everything. Also for what a start after a full disk leaves behind.
async fn writes_of_a_start(context: &mut Context) -> Result<()> {
    let (mut rig, mut control) = shimmed(context).await?;
    let rounds = fail_starts(context, &mut rig, &mut control).await;
    control.off()?;
    rig.finish(&mut context.report, rounds).await
}

async fn fail_starts(context: &mut Context, rig: &mut Rig, control: &mut Control) -> Result<()> {
    rig.first_start().await?;
    rig.feed(Plan::steady(200))?.ended().await?;
    let operations = operations_of_a_start(rig, control).await?;
    context.report.note(format!("{operations} changes of files in a start"));
    let amount = context.choose(10, operations).min(operations);
    let chosen = sample(&mut context.random, operations, amount);
    for (round, number) in chosen.into_iter().enumerate() {
        let (errno, count) = [(ENOSPC, 0), (EIO, 1), (ENOSPC, 1), (EIO, 0), (EDQUOT, 0)][round % 5];
        rig.control_plane.kill()?;
        control.set(Action::Error(errno), CHANGES, number + 1, count)?;
        let failed = rig.failed_start().await;
        control.off()?;
        let what = format!("errno {errno} from change {} of a start on (count {count})", number + 1);
        if let Some(log) = failed {
            ensure!(!log.contains("panicked"), "{what}: it panics: {log}");
            ensure!(!log.contains("damaged"), "{what}: it says that the store is damaged: {log}");
            rig.control_plane.restart().await.with_context(|| format!("the start after {what}"))?;
        }
        rig.serves_again(&mut context.report, 100, true).await.with_context(|| what.clone())?;
        rig.feed(Plan::steady(EVENTS_OF_A_START))?.ended().await.context(what)?;
        context.report.rounds += 1;
    }
    Ok(())
}

/// Kills the control plane, starts it, and counts how often the start changes files.
async fn operations_of_a_start(rig: &mut Rig, control: &Control) -> Result<usize> {
    rig.control_plane.kill()?;
    control.take_trace()?;
    control.trace(&mut rig.control_plane, true);
    rig.control_plane.restart().await?;
    control.trace(&mut rig.control_plane, false);
    let operations = control.take_trace()?.len();
    ensure!(operations > 0, "the shim sees no operation of a start");
    Ok(operations)
}

/// A start on a file system that is mounted read-only fails in words, and works when it is writable again.
async fn read_only_start(context: &mut Context) -> Result<()> {
    let mut rig = Rig::prepare(&context.folder).await?;
    let image = Image::make(Kind::Ext4, &context.folder.join("image"), 256, &rig.disk())?;
    let rounds = start_read_only(context, &mut rig, &image).await;
    rig.finish(&mut context.report, rounds).await
}

async fn start_read_only(context: &mut Context, rig: &mut Rig, image: &Image) -> Result<()> {
    rig.first_start().await?;
    rig.feed(Plan::steady(100))?.ended().await?;
    for _ in 0..context.choose(1, 3) {
        rig.control_plane.kill()?;
        image.read_only(true)?;
        let log = rig.failed_start().await.context("it starts on a read-only file system")?;
        ensure!(!log.contains("panicked"), "it panics: {log}");
        ensure!(log.to_lowercase().contains("read-only"), "the reason is not told: {log}");
        image.read_only(false)?;
        let begun = postrider_tests::clock::now();
        rig.control_plane.restart().await?;
        ensure!(begun.elapsed() < SERVES_WITHIN, "the start takes {:?}", begun.elapsed());
        rig.serves_again(&mut context.report, 100, false).await?;
        context.report.rounds += 1;
    }
    Ok(())
}
