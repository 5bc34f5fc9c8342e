//! Power cuts: what is not on the disk is dropped. From the first second after the very first start on, again and
//! again, on ext4 and XFS: nothing that was acknowledged is lost.

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use postrider_tests::wait::{eventually, when};
use rand::Rng as _;
use rustix::process::{Pid, Signal};

use crate::rig::disk::{Image, Kind};
use crate::rig::feed::Plan;
use crate::rig::{GRACE, Rig};
use crate::runner::{Context, Trial, trial};

pub(crate) const TRIALS: &[Trial] = &[
    trial!("F11", "power.self_check", self_check),
    trial!("F11", "power.ext4", ext4),
    trial!("F11", "power.xfs", xfs),
    trial!("F11", "power.device_ext4", device_ext4),
    trial!("F11", "power.device_xfs", device_xfs),
];

/// Bytes of events: the larger ones have the store begin new files while the power is cut.
const BYTES: [usize; 2] = [300, 6_000];
/// Events of one life of a store, at least.
const EVENTS: usize = 300;
/// Records of the self check.
const RECORDS: usize = 200;
const RECORD: [u8; 1024] = [0x5a; 1024];

/// How the power is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// The file system is shut down without a flush of its log.
    ShutDown,
    /// The device is copied while the program stands still; the copy is what is left.
    Copy,
}

async fn ext4(context: &mut Context) -> Result<()> {
    lives(context, Kind::Ext4, Way::ShutDown).await
}

async fn xfs(context: &mut Context) -> Result<()> {
    lives(context, Kind::Xfs, Way::ShutDown).await
}

async fn device_ext4(context: &mut Context) -> Result<()> {
    lives(context, Kind::Ext4, Way::Copy).await
}

async fn device_xfs(context: &mut Context) -> Result<()> {
    lives(context, Kind::Xfs, Way::Copy).await
}

/// When the power is cut.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// Under load.
    Running,
    /// Some milliseconds after the beginning of a start, whatever it does then.
    InStart,
    /// After a stop by SIGTERM.
    AfterStop,
}

const MOMENTS: [Moment; 4] = [Moment::Running, Moment::InStart, Moment::Running, Moment::AfterStop];

/// Several stores from their first start on, each with several cuts.
async fn lives(context: &mut Context, kind: Kind, way: Way) -> Result<()> {
    for number in 0..context.choose(2, 6) {
        let folder = context.folder.join(number.to_string());
        let mut rig = Rig::prepare(&folder).await?;
        let image = Image::make(kind, &folder.join("image"), mib(kind), &rig.disk())?;
        let mut power = Power { image, way };
        let rounds = cuts(context, &mut rig, &mut power, number).await;
        rig.finish(&mut context.report, rounds).await?;
        rig.has_done(EVENTS)?;
    }
    Ok(())
}

async fn cuts(context: &mut Context, rig: &mut Rig, power: &mut Power, life: usize) -> Result<()> {
    rig.first_start().await?;
    let feed = rig.feed(Plan { bytes: BYTES[life % BYTES.len()], ..Plan::endless() })?;
    // The first cut of the first life comes at once.
    let mut after = if life == 0 { 5 } else { context.random.random_range(20..120) };
    for round in 0..context.choose(4, 8) {
        feed.more(after).await?;
        let moment = MOMENTS[round % MOMENTS.len()];
        power.cut(context, rig, moment).await?;
        context.report.rounds += 1;
        let what = format!("life {life}, cut {round} ({moment:?})");
        rig.control_plane.restart().await.with_context(|| format!("the start after {what}"))?;
        rig.serves_again(&mut context.report, 100, false).await.context(what)?;
        after = context.random.random_range(60..160);
    }
    feed.more(EVENTS / 2).await?;
    feed.stop().await
}

/// MiB of an image, most of which is never written.
fn mib(kind: Kind) -> u64 {
    match kind {
        Kind::Ext4 => 128,
        // The least that it allows.
        Kind::Xfs => 300,
    }
}

/// A disk and how its power is cut.
struct Power {
    image: Image,
    way: Way,
}

impl Power {
    /// Cuts the power and gives it back. The control plane does not run afterwards.
    async fn cut(&mut self, context: &mut Context, rig: &mut Rig, moment: Moment) -> Result<()> {
        let control_plane = &mut rig.control_plane;
        match moment {
            Moment::Running => {}
            Moment::InStart => {
                control_plane.kill()?;
                let moment = Duration::from_millis(context.random.random_range(5..120));
                // A start that is not waited for any more is killed.
                drop(tokio::time::timeout(moment, control_plane.restart()).await);
            }
            Moment::AfterStop => {
                control_plane.signal(Signal::TERM)?;
                control_plane.exit(GRACE * 2).await?;
            }
        }
        match self.way {
            Way::ShutDown => self.image.cut()?,
            Way::Copy => {
                if let Some(pid) = control_plane.pid() {
                    control_plane.signal(Signal::STOP)?;
                    let stopped = async || Ok(when(stands_still(pid)?));
                    eventually("the control plane stands still", stopped).await?;
                }
                self.image.copy()?;
            }
        }
        if control_plane.pid().is_some() {
            control_plane.kill()?;
        }
        self.image.unmount()?;
        self.image.mount()
    }
}

/// Whether all threads of a process are stopped. The signal alone does not wait for that: what a thread acknowledged
/// while the device is copied would count as lost.
fn stands_still(pid: Pid) -> Result<bool> {
    for thread in std::fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero()))? {
        let stat = std::fs::read_to_string(thread?.path().join("stat"))?;
        let state = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        if !state.starts_with('T') {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The trials are right: a writer that syncs loses nothing, one that does not loses records, by both ways of both
/// file systems.
async fn self_check(context: &mut Context) -> Result<()> {
    for kind in [Kind::Ext4, Kind::Xfs] {
        for way in [Way::ShutDown, Way::Copy] {
            let folder = context.folder.join(format!("{kind:?}-{way:?}"));
            let disk = folder.join("disk");
            std::fs::create_dir_all(&disk)?;
            let mut image = Image::make(kind, &folder.join("image"), mib(kind), &disk)?;
            write_records(&disk.join("synced"), true)?;
            write_records(&disk.join("unsynced"), false)?;
            match way {
                Way::ShutDown => image.cut()?,
                Way::Copy => image.copy()?,
            }
            image.unmount()?;
            image.mount()?;
            let (synced, unsynced) = (records(&disk.join("synced")), records(&disk.join("unsynced")));
            ensure!(synced == RECORDS, "{kind:?} {way:?}: {} synced records are lost", RECORDS - synced);
            ensure!(unsynced < RECORDS, "{kind:?} {way:?}: the cut loses nothing that was not synced");
            context.report.rounds += 1;
            context
                .report
                .note(format!("{kind:?} {way:?}: {unsynced} of {RECORDS} unsynced records survive"));
        }
    }
    Ok(())
}

fn write_records(file: &Path, is_synced: bool) -> Result<()> {
    let mut file = std::fs::File::create(file)?;
    for _ in 0..RECORDS {
        file.write_all(&RECORD)?;
        if is_synced {
            file.sync_data()?;
        }
    }
    Ok(())
}

/// How many whole records a file begins with.
fn records(file: &Path) -> usize {
    let bytes = std::fs::read(file).unwrap_or_default();
    bytes.chunks_exact(RECORD.len()).take_while(|record| *record == RECORD).count()
}
