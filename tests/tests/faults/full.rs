//! Full disks: filled by events of several sizes and by another program's file, on ext4 and in memory. Emits are
//! refused in words, outcomes are still written where events alone have filled the disk, and once there is room events
//! are accepted again without a restart.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use postrider_tests::clock::now;
use postrider_tests::receiver::Answer;
use postrider_tests::wait::{when, within};
use rustix::process::Signal;
use tonic::Code;

use crate::rig::disk::{Image, Kind, Memory, fill, free_kib};
use crate::rig::feed::Plan;
use crate::rig::{GRACE, Rig};
use crate::runner::{Context, Trial, trial};

pub(crate) const TRIALS: &[Trial] = &[
    trial!("F10", "full.ext4_by_300_bytes", ext4_by_300_bytes),
    trial!("F10", "full.ext4_by_20_kb", ext4_by_20_kb, long),
    trial!("F10", "full.ext4_by_250_kb", ext4_by_250_kb),
    trial!("F10", "full.ext4_by_a_file", ext4_by_a_file),
    trial!("F10", "full.memory_by_300_bytes", memory_by_300_bytes, long),
    trial!("F10", "full.memory_by_20_kb", memory_by_20_kb),
    trial!("F10", "full.memory_by_250_kb", memory_by_250_kb, long),
    trial!("F10", "full.stop_and_start", stop_and_start),
];

/// MiB of the disks when there is room.
const DISK_MIB: u64 = 128;
/// MiB that are free before the fill: more than a store may keep as a reserve.
const ROOM_MIB: u64 = 36;
/// Events that are emitted, and tried again, while the disk is full.
const WAITING: usize = 20;
/// A disk is full by then.
const FULL_WITHIN: Duration = Duration::from_secs(60);
/// So many refusals in a row, each after a pause, show that it is full.
const REFUSALS: usize = 10;
const PAUSE: Duration = Duration::from_millis(100);
/// Outcomes that are written on a full disk at least.
const SETTLED: f64 = 20.0;
/// By when they are.
const SETTLED_WITHIN: Duration = Duration::from_secs(12);
/// Bytes of an event of medium size.
const MEDIUM: usize = 20_000;
/// An endpoint that answers as late as this has a backlog while the disk is filled.
const LATE: Duration = Duration::from_secs(8);

/// What fills the disk.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    /// Events of so many bytes.
    Events(usize),
    /// Another program's file.
    File,
}

impl By {
    fn bytes(self) -> usize {
        match self {
            Self::Events(bytes) => bytes,
            Self::File => 300,
        }
    }
}

/// A small disk, and how there is room on it again.
enum Disk {
    Image { filler: PathBuf, _image: Image },
    Memory(Memory),
}

impl Disk {
    fn ext4(rig: &Rig, context: &Context) -> Result<Self> {
        let at = rig.disk();
        let image = Image::make(Kind::Ext4, &context.folder.join("image"), DISK_MIB, &at)?;
        let filler = fill(&at, ROOM_MIB * 1024)?;
        Ok(Self::Image { filler, _image: image })
    }

    fn memory(rig: &Rig) -> Result<Self> {
        Ok(Self::Memory(Memory::mount(&rig.disk(), ROOM_MIB)?))
    }

    fn make_room(&self) -> Result<()> {
        match self {
            Self::Image { filler, .. } => {
                // It may be gone already.
                drop(std::fs::remove_file(filler));
                Ok(())
            }
            Self::Memory(memory) => memory.resize(DISK_MIB),
        }
    }
}

async fn ext4_by_300_bytes(context: &mut Context) -> Result<()> {
    on_ext4(context, By::Events(300)).await
}

async fn ext4_by_20_kb(context: &mut Context) -> Result<()> {
    on_ext4(context, By::Events(20_000)).await
}

async fn ext4_by_250_kb(context: &mut Context) -> Result<()> {
    on_ext4(context, By::Events(250_000)).await
}

async fn ext4_by_a_file(context: &mut Context) -> Result<()> {
    on_ext4(context, By::File).await
}

async fn memory_by_300_bytes(context: &mut Context) -> Result<()> {
    in_memory(context, By::Events(300)).await
}

async fn memory_by_20_kb(context: &mut Context) -> Result<()> {
    in_memory(context, By::Events(20_000)).await
}

async fn memory_by_250_kb(context: &mut Context) -> Result<()> {
    in_memory(context, By::Events(250_000)).await
}

async fn on_ext4(context: &mut Context, by: By) -> Result<()> {
    let rig = Rig::prepare(&context.folder).await?;
    let disk = Disk::ext4(&rig, context)?;
    fill_and_make_room(context, rig, disk, by).await
}

async fn in_memory(context: &mut Context, by: By) -> Result<()> {
    let rig = Rig::prepare(&context.folder).await?;
    let disk = Disk::memory(&rig)?;
    fill_and_make_room(context, rig, disk, by).await
}

async fn fill_and_make_room(context: &mut Context, mut rig: Rig, disk: Disk, by: By) -> Result<()> {
    context.report.dup_limit = Some(0);
    let rounds = while_running(context, &mut rig, &disk, by).await;
    if rounds.is_err() {
        disk.make_room()?;
        rig.receiver.script("/live", [Answer::Status(204)]);
    }
    rig.finish(&mut context.report, rounds).await
}

async fn while_running(context: &mut Context, rig: &mut Rig, disk: &Disk, by: By) -> Result<()> {
    rig.first_start().await?;
    rig.connected().await?;
    rig.receiver.script("/live", [Answer::Late(204, LATE)]);
    fill_up(rig, by).await?;
    context.report.rounds += 1;
    let admitted = rig.ledger.acknowledged_count();
    let mut waiting = rig.feed(Plan { events: WAITING, bytes: by.bytes(), ..Plan::steady(WAITING) })?;
    if by == By::File {
        rig.receiver.script("/live", [Answer::Status(204)]);
    } else {
        settles(rig).await.context("no outcomes are written while the disk is full of events")?;
    }
    let route = &rig.routes[0].subscription;
    rig.api()?.subscription(route).await.context("a read fails while the disk is full")?;
    let refused = async || Ok(when(!waiting.refusals().await.is_empty()));
    within(SETTLED_WITHIN, "an event is refused", refused).await?;
    disk.make_room()?;
    rig.serves_again(&mut context.report, by.bytes(), false).await?;
    waiting.ended().await?;
    for text in waiting.refusals().await.keys() {
        ensure!(text.starts_with("ResourceExhausted"), "a full disk is answered by {text}");
    }
    context.report.note(format!("{admitted} events until it was full"));
    ensure!(rig.ledger.acknowledged_count() >= admitted + WAITING, "not all waiting events are accepted");
    Ok(())
}

/// Fills the disk until events of the size are refused again and again.
async fn fill_up(rig: &mut Rig, by: By) -> Result<()> {
    let begun = now();
    rig.feed(Plan::steady(100))?.ended().await?;
    match by {
        By::File => drop(fill(&rig.disk(), 0)?),
        // Larger events first: it is quicker.
        By::Events(bytes) if bytes < MEDIUM => rig.feed(Plan::until_refused(MEDIUM))?.ended().await?,
        By::Events(_) => {}
    }
    while begun.elapsed() < FULL_WITHIN {
        rig.feed(Plan::until_refused(by.bytes()))?.ended().await?;
        if is_full(rig, by.bytes()).await? {
            return Ok(());
        }
    }
    bail!("the disk is not full after {FULL_WITHIN:?}; {} KiB are free", free_kib(&rig.disk())?)
}

async fn is_full(rig: &Rig, bytes: usize) -> Result<bool> {
    for _ in 0..REFUSALS {
        match rig.emit(bytes).await? {
            Ok(()) => return Ok(false),
            Err(status) if status.code() == Code::ResourceExhausted => {
                let words = ["disk", "space"];
                let is_clear = words.iter().any(|word| status.message().contains(word));
                ensure!(is_clear, "the refusal does not say that the disk is full: {}", status.message());
            }
            Err(status) => bail!("a full disk is answered by {:?}: {}", status.code(), status.message()),
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(true)
}

/// Lets the endpoint answer at once, and waits until outcomes are written.
async fn settles(rig: &Rig) -> Result<()> {
    let before = delivered(rig).await?;
    rig.receiver.script("/live", [Answer::Status(204)]);
    within(SETTLED_WITHIN, &format!("{SETTLED} outcomes are written"), async || {
        Ok(when(delivered(rig).await? >= before + SETTLED))
    })
    .await
}

async fn delivered(rig: &Rig) -> Result<f64> {
    let admin = rig.control_plane.admin().context("there is no admin port")?;
    admin.scrape().await?.value("postrider_deliveries_ended_total{state=\"delivered\"}")
}

/// SIGTERM is honoured while the disk is full. A start on a full disk serves, or fails in words; it works after room
/// was made.
async fn stop_and_start(context: &mut Context) -> Result<()> {
    let sizes = if context.is_full { &[300, 20_000, 250_000][..] } else { &[250_000] };
    for (number, bytes) in sizes.iter().copied().enumerate() {
        let folder = context.folder.join(number.to_string());
        let mut rig = Rig::prepare(&folder).await?;
        let disk = Disk::memory(&rig)?;
        let rounds = restart_full(context, &mut rig, &disk, bytes).await;
        if rounds.is_err() {
            disk.make_room()?;
        }
        rig.finish(&mut context.report, rounds.with_context(|| format!("events of {bytes} bytes"))).await?;
        context.report.rounds += 1;
    }
    Ok(())
}

async fn restart_full(context: &mut Context, rig: &mut Rig, disk: &Disk, bytes: usize) -> Result<()> {
    rig.first_start().await?;
    fill_up(rig, By::Events(bytes)).await?;
    rig.control_plane.signal(Signal::TERM)?;
    let stopped = now();
    let status = rig.control_plane.exit(GRACE * 2).await.context("SIGTERM while the disk is full")?;
    context.report.note(format!("{bytes} B: stopped in {:.1} s ({status})", stopped.elapsed().as_secs_f64()));
    // What the events have left is taken by somebody else: there is not one byte.
    let filler = fill(&rig.disk(), 0)?;
    match rig.failed_start().await {
        None => context.report.note(format!("{bytes} B: starts on a full disk")),
        Some(log) => {
            context.report.note(format!("{bytes} B: refuses to start on a full disk"));
            ensure!(!log.contains("panicked"), "a start on a full disk panics: {log}");
            ensure!(log.contains("full") || log.contains("space"), "the reason is not told: {log}");
        }
    }
    disk.make_room()?;
    std::fs::remove_file(filler)?;
    if rig.control_plane.ended()?.is_some() || rig.control_plane.log().is_empty() {
        rig.control_plane.restart().await.context("the start after room was made")?;
    }
    rig.serves_again(&mut context.report, bytes, false).await
}
