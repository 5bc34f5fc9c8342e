//! One subscription, as fast as it goes: several ways to emit, each with an empty store of its own. The best sustained
//! one is the headline, and CPU, memory and disk are those of that one.

use crate::emitter::How;
use crate::load::{Outcome, Rig, Shape, lasting};
use crate::procfs;
use crate::report::Report;
use crate::stats::ratio;
use crate::world::World;

/// The default cap of attempts under way of a subscription.
const DEFAULT_CAP: i32 = 64;

/// Sections of the report that say what a delivery costs.
const COSTS: [&str; 3] = ["cpu.", "memory.", "store."];

/// A way to emit: its name in the report, how, the cap of attempts under way, and how many deliveries may be on their
/// way.
struct Way {
    name: &'static str,
    how: How,
    cap: i32,
    undelivered: Option<u64>,
}

const WAYS: [Way; 5] = [
    Way { name: "unary_64", how: How::Unary(64), cap: DEFAULT_CAP, undelivered: None },
    Way { name: "unary_256", how: How::Unary(256), cap: DEFAULT_CAP, undelivered: None },
    Way { name: "stream_256", how: How::Stream(256), cap: DEFAULT_CAP, undelivered: None },
    Way { name: "stream_256_cap_256", how: How::Stream(256), cap: 256, undelivered: None },
    // No backlog builds up: what a service sees that does not emit faster than is delivered.
    Way { name: "stream_256_no_backlog", how: How::Stream(256), cap: DEFAULT_CAP, undelivered: Some(256) },
];

pub(super) async fn measure(rig: &mut Rig<'_>, report: &mut Report) -> anyhow::Result<()> {
    for way in &WAYS {
        eprintln!("        {}", way.name);
        let mut own = Report::default();
        one(rig, way, &mut own).await?;
        for (name, value) in own.figures() {
            report.set(format!("one_to_one.{}.{name}", way.name), value);
        }
        let rate = own.get("deliveries_per_s").unwrap_or_default();
        if rate > report.get("one_to_one.deliveries_per_s").unwrap_or_default() {
            headline(&own, report);
        }
    }
    Ok(())
}

/// Costs are at the top of the report.
fn headline(own: &Report, report: &mut Report) {
    for (name, value) in own.figures() {
        let cost = name.starts_with("cpu_us_") || COSTS.iter().any(|section| name.starts_with(section));
        report.set(if cost { name.to_owned() } else { format!("one_to_one.{name}") }, value);
    }
}

async fn one(rig: &mut Rig<'_>, way: &Way, report: &mut Report) -> anyhow::Result<()> {
    let mut world = World::start_with_agent(rig.place, rig.sink.port).await?;
    world.api.subscribe(rig.sink.url("hook/0"), way.cap).await?;
    let shape =
        |time| Shape { how: way.how, until: lasting(time), undelivered: way.undelivered, endpoints: 1 };
    let warm_up = rig.load(&mut world, shape(rig.time(2, 400))).await?;
    let written = procfs::written_bytes(world.control_plane()?)?;
    let outcome = rig.load(&mut world, shape(rig.time(10, 1000))).await?;
    let written = procfs::written_bytes(world.control_plane()?)? - written;
    rates(&outcome, report);
    report.set("max_in_flight", f64::from(way.cap));
    cpu(&outcome, report);
    for (name, process) in [("control_plane", world.control_plane()?), ("agent", world.agent()?)] {
        report.set(format!("memory.load_{name}_mib"), procfs::resident_mib(process)?);
        report.set(format!("memory.peak_{name}_mib"), procfs::peak_mib(process)?);
    }
    let all = (warm_up.delivered() + outcome.delivered()) as f64;
    report.set("store.bytes_per_delivery", ratio(procfs::disk_bytes(&world.store())? as f64, all));
    report.set("store.written_bytes_per_delivery", ratio(written as f64, outcome.delivered() as f64));
    world.end().await
}

/// What a load came to, as every scenario reports it.
pub(super) fn rates(outcome: &Outcome, report: &mut Report) {
    let (latencies, accepts) = (outcome.latencies(), outcome.accept_latencies());
    report.set("deliveries_per_s", outcome.deliveries_per_s());
    report.set("accepted_per_s", outcome.accepted_per_s());
    report.set("deliveries", outcome.delivered() as f64);
    report.set("seconds", outcome.time().as_secs_f64());
    report.set("seconds_behind_accepts", outcome.behind().as_secs_f64());
    report.set("refused", outcome.summary.refused as f64);
    report.set("duplicates", outcome.duplicates as f64);
    report.set("p50_ms", latencies.percentile_ms(0.5));
    report.set("p99_ms", latencies.percentile_ms(0.99));
    report.set("accept_p50_ms", accepts.percentile_ms(0.5));
    report.set("accept_p99_ms", accepts.percentile_ms(0.99));
}

/// CPU time a delivery: of the product, and of everything that ran.
pub(super) fn cpu(outcome: &Outcome, report: &mut Report) {
    let cpu = outcome.cpu;
    let each = |time: std::time::Duration| ratio(time.as_secs_f64() * 1e6, outcome.delivered() as f64);
    report.set("cpu.control_plane_us", each(cpu.control_plane));
    report.set("cpu.agent_us", each(cpu.agent));
    report.set("cpu.emitter_us", each(cpu.emitter));
    report.set("cpu.sink_us", each(cpu.sink));
    report.set("cpu_us_per_delivery", each(cpu.control_plane + cpu.agent));
    let all = cpu.control_plane + cpu.agent + cpu.emitter + cpu.sink;
    report.set("cpu_us_per_delivery_with_harness", each(all));
}
