//! What is measured, one after the other.

mod backlog_1m;
mod black_hole;
mod fanout10;
mod hanging;
mod idle;
mod latency_100;
mod one_to_one;
mod replay;
mod resume;

use std::time::Duration;

use crate::args::{Args, Name};
use crate::clock::{self, Moment};
use crate::limits;
use crate::load::Rig;
use crate::procfs;
use crate::report::Report;
use crate::stats::ratio;
use crate::world::Place;

/// Cores that others may use before the figures suffer visibly.
const DISTURBED: f64 = 0.2;

/// Measures what is wanted, writes the figures and shows them. What failed is left out of them, and the run fails.
pub(crate) async fn run(args: &Args, place: &Place) -> anyhow::Result<()> {
    let begun = clock::now();
    let mut rig = Rig::start(place, args.quick).await?;
    let mut report = Report::default();
    let mut failures = Vec::new();
    for name in ALL {
        if !args.wants(name) {
            continue;
        }
        eprintln!("[{:>3} s] {name:?}", begun.elapsed().as_secs());
        let others = Others::watch(&rig)?;
        if let Err(error) = Box::pin(measure(name, &mut rig, &mut report)).await {
            eprintln!("        {name:?} failed: {error:#}");
            failures.push(format!("{name:?}: {error:#}"));
        }
        let cores = others.cores(&rig)?;
        if cores > DISTURBED {
            eprintln!(
                "        others used {cores:.2} cores meanwhile: the figures are worse than they would be"
            );
        }
        report.set(format!("run.cores_used_by_others.{}", key(name)), cores);
    }
    rig.end().await?;
    report.add_ratios();
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZeroUsize::get);
    report.set("run.cores", cores as f64);
    report.set("run.tls", f64::from(u8::from(!args.plaintext)));
    report.set("run.quick", f64::from(u8::from(args.quick)));
    report.set("run.seconds", begun.elapsed().as_secs_f64());
    report.set("run.failures", failures.len() as f64);
    report.write(&place.json)?;
    println!("{}", report.table());
    eprintln!("figures are in {}", place.json.display());
    anyhow::ensure!(failures.is_empty(), "not everything could be measured:\n  {}", failures.join("\n  "));
    Ok(())
}

const ALL: [Name; 10] = [
    Name::Limits,
    Name::Idle,
    Name::OneToOne,
    Name::Fanout10,
    Name::Latency100,
    Name::Hanging,
    Name::BlackHole,
    Name::Replay,
    Name::Resume,
    Name::Backlog1m,
];

/// The scenario's name in the report.
fn key(name: Name) -> &'static str {
    match name {
        Name::Limits => "limits",
        Name::Idle => "idle",
        Name::OneToOne => "one_to_one",
        Name::Fanout10 => "fanout10",
        Name::Latency100 => "latency_100",
        Name::Hanging => "hanging",
        Name::BlackHole => "black_hole",
        Name::Replay => "replay",
        Name::Resume => "resume",
        Name::Backlog1m => "backlog_1m",
    }
}

/// What runs on the machine beside this run, and disturbs it.
struct Others {
    since: Moment,
    used: Duration,
}

impl Others {
    fn watch(rig: &Rig<'_>) -> anyhow::Result<Self> {
        Ok(Self { since: clock::now(), used: Self::used(rig)? })
    }

    /// How many cores others have used, on average.
    fn cores(&self, rig: &Rig<'_>) -> anyhow::Result<f64> {
        let used = Self::used(rig)?.saturating_sub(self.used);
        Ok(ratio(used.as_secs_f64(), self.since.elapsed().as_secs_f64()))
    }

    /// CPU time of the machine without this run's. Called between scenarios, when sink and emitter are its only
    /// processes that have not ended.
    fn used(rig: &Rig<'_>) -> anyhow::Result<Duration> {
        let own = procfs::cpu_time_with_ended_children(std::process::id())?
            + procfs::cpu_time(rig.sink.id())?
            + procfs::cpu_time(rig.emitter.id())?;
        Ok(procfs::machine_cpu_time()?.saturating_sub(own))
    }
}

async fn measure(name: Name, rig: &mut Rig<'_>, report: &mut Report) -> anyhow::Result<()> {
    match name {
        Name::Limits => machine_limits(rig, report).await,
        Name::Idle => idle::measure(rig, report).await,
        Name::OneToOne => one_to_one::measure(rig, report).await,
        Name::Fanout10 => fanout10::measure(rig, report).await,
        Name::Latency100 => latency_100::measure(rig, report).await,
        Name::Hanging => hanging::measure(rig, report).await,
        Name::BlackHole => black_hole::measure(rig, report).await,
        Name::Replay => replay::measure(rig, report).await,
        Name::Resume => resume::measure(rig, report).await,
        Name::Backlog1m => backlog_1m::measure(rig, report).await,
    }
}

async fn machine_limits(rig: &mut Rig<'_>, report: &mut Report) -> anyhow::Result<()> {
    let cpu = || anyhow::Ok(procfs::cpu_time(std::process::id())? + procfs::cpu_time(rig.sink.id())?);
    let before = cpu()?;
    let posts = limits::posts(rig.sink.port, rig.time(4, 1000)).await?;
    let used = cpu()?.saturating_sub(before);
    report.set("limits.hyper_posts_per_s", posts.per_second);
    // Client and sink together: a scale for every other CPU time of this run.
    report.set("limits.hyper_cpu_us_per_post", ratio(used.as_secs_f64() * 1e6, posts.count as f64));
    report.set("limits.hyper_p50_ms", posts.latencies.percentile_ms(0.5));
    report.set("limits.hyper_p99_ms", posts.latencies.percentile_ms(0.99));
    rig.sink.reset().await?;
    let folder = rig.place.folder().to_owned();
    let time = rig.time(3, 1000).min(Duration::from_secs(3));
    let flushes = tokio::task::spawn_blocking(move || limits::fdatasync(&folder, time)).await??;
    report.set("limits.fdatasync_per_s", flushes);
    Ok(())
}
