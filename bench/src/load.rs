//! One stretch of load: emit, wait until everything has arrived, and see what came of it.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use anyhow::ensure;

use crate::api::TENANT;
use crate::clock::{self, Moment};
use crate::emitter::{Emitter, How, Order, Summary, Until};
use crate::procfs;
use crate::records::{Arrived, Emitted, Id};
use crate::sink::Sink;
use crate::stats::{Latencies, per_second};
use crate::world::{Place, World};

/// How long nothing may arrive before what is missing counts as lost.
const STALL: Duration = Duration::from_secs(25);
/// How often arrivals are counted while waiting.
const LOOK: Duration = Duration::from_millis(10);

/// What every scenario uses: the harness around Postrider.
#[derive(Debug)]
pub(crate) struct Rig<'a> {
    /// Programs and folders.
    pub(crate) place: &'a Place,
    /// Where deliveries go.
    pub(crate) sink: Sink,
    /// Where events come from.
    pub(crate) emitter: Emitter,
    /// Whether a first look is enough.
    pub(crate) quick: bool,
}

/// What to emit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// How.
    pub(crate) how: How,
    /// How long.
    pub(crate) until: Until,
    /// At most so many deliveries on their way at once.
    pub(crate) undelivered: Option<u64>,
    /// How many of the sink's noting endpoints are subscribed.
    pub(crate) endpoints: u64,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The emitter's counts.
    pub(crate) summary: Summary,
    emitted: Vec<Emitted>,
    arrived: Vec<Arrived>,
    /// Accepted deliveries that did not arrive.
    pub(crate) lost: u64,
    /// Arrivals beyond the first of a delivery.
    pub(crate) duplicates: u64,
    /// CPU time of each process, from the first call to the last arrival.
    pub(crate) cpu: Cpu,
}

/// CPU time by process.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cpu {
    /// Of the control plane.
    pub(crate) control_plane: Duration,
    /// Of the agent.
    pub(crate) agent: Duration,
    /// Of the emitter.
    pub(crate) emitter: Duration,
    /// Of the sink.
    pub(crate) sink: Duration,
}

impl<'a> Rig<'a> {
    /// Starts sink and emitter.
    pub(crate) async fn start(place: &'a Place, quick: bool) -> anyhow::Result<Self> {
        Ok(Self { place, sink: Sink::start().await?, emitter: Emitter::start()?, quick })
    }

    /// So many seconds, or so many milliseconds for a first look.
    pub(crate) fn time(&self, seconds: u64, quick_milliseconds: u64) -> Duration {
        Duration::from_millis(if self.quick { quick_milliseconds } else { seconds * 1000 })
    }

    /// Emits, waits for everything to arrive, and fails when something was lost or not accepted.
    pub(crate) async fn load(&mut self, world: &mut World<'_>, shape: Shape) -> anyhow::Result<Outcome> {
        self.sink.reset().await?;
        let before = self.cpu(world)?;
        let (summary, emitted) = self.emit(world, shape).await?;
        ensure!(
            summary.failed == 0,
            "{} calls of the emitter failed, the last with: {}",
            summary.failed,
            summary.failure.as_deref().unwrap_or("no answer")
        );
        ensure!(!emitted.is_empty(), "no event was accepted");
        let arrived = self.all_arrived(world, &emitted, shape.endpoints).await?;
        let cpu = self.cpu(world)?.since(before);
        world.check()?;
        let outcome = Outcome::new(summary, emitted, arrived, shape.endpoints, cpu);
        ensure!(outcome.lost == 0, "{} accepted deliveries did not arrive", outcome.lost);
        Ok(outcome)
    }

    /// Emits, whatever comes of it.
    pub(crate) async fn emit(
        &mut self,
        world: &World<'_>,
        shape: Shape,
    ) -> anyhow::Result<(Summary, Vec<Emitted>)> {
        let order = self.order(world, shape);
        self.emitter.emit(&order).await
    }

    /// What the emitter is told.
    pub(crate) fn order(&self, world: &World<'_>, shape: Shape) -> Order {
        Order {
            reach: world.reach.clone(),
            tenant: TENANT.into(),
            how: shape.how,
            until: shape.until,
            undelivered: shape.undelivered.map(|limit| (limit, self.sink.port)),
            endpoints: shape.endpoints,
            records: world.folder().join("emitted"),
        }
    }

    /// Waits until each of these events has arrived at each endpoint, or nothing arrives any more.
    pub(crate) async fn all_arrived(
        &mut self,
        world: &mut World<'_>,
        emitted: &[Emitted],
        endpoints: u64,
    ) -> anyhow::Result<Vec<Arrived>> {
        let mut expected = emitted.len() * usize::try_from(endpoints)?;
        loop {
            let stalled = self.count_reaches(world, expected).await?;
            let arrived = self.sink.arrivals(world.folder()).await?;
            let missing = missing(emitted, &arrived, endpoints);
            if missing == 0 || stalled {
                return Ok(arrived);
            }
            // Some arrived twice, or events arrived whose accept was not answered.
            expected = arrived.len() + usize::try_from(missing)?;
        }
    }

    /// Whether waiting for this many arrivals was in vain.
    async fn count_reaches(&mut self, world: &mut World<'_>, expected: usize) -> anyhow::Result<bool> {
        let (mut last, mut last_change) = (0, clock::now());
        loop {
            let count = self.sink.count().await?;
            if count >= expected {
                return Ok(false);
            }
            if count != last {
                (last, last_change) = (count, clock::now());
            }
            if last_change.elapsed() > STALL {
                return Ok(true);
            }
            world.check()?;
            tokio::time::sleep(LOOK).await;
        }
    }

    fn cpu(&self, world: &World<'_>) -> anyhow::Result<Cpu> {
        Ok(Cpu {
            control_plane: procfs::cpu_time(world.control_plane()?)?,
            agent: procfs::cpu_time(world.agent()?)?,
            emitter: procfs::cpu_time(self.emitter.id())?,
            sink: procfs::cpu_time(self.sink.id())?,
        })
    }

    /// Ends sink and emitter.
    pub(crate) async fn end(self) -> anyhow::Result<()> {
        self.emitter.end().await?;
        self.sink.end().await
    }
}

impl Cpu {
    fn since(self, before: Self) -> Self {
        Self {
            control_plane: self.control_plane.saturating_sub(before.control_plane),
            agent: self.agent.saturating_sub(before.agent),
            emitter: self.emitter.saturating_sub(before.emitter),
            sink: self.sink.saturating_sub(before.sink),
        }
    }
}

/// How many deliveries of these events are not among the arrivals.
pub(crate) fn missing(emitted: &[Emitted], arrived: &[Arrived], endpoints: u64) -> u64 {
    let arrived: HashSet<(Id, u64)> = arrived.iter().map(|arrived| (arrived.id, arrived.endpoint)).collect();
    let owed = emitted.iter().flat_map(|event| (0..endpoints).map(move |endpoint| (event.id, endpoint)));
    owed.filter(|delivery| !arrived.contains(delivery)).count() as u64
}

impl Outcome {
    fn new(
        summary: Summary,
        emitted: Vec<Emitted>,
        mut arrived: Vec<Arrived>,
        endpoints: u64,
        cpu: Cpu,
    ) -> Self {
        let lost = missing(&emitted, &arrived, endpoints);
        let all = arrived.len();
        arrived.sort_unstable_by_key(|arrived| arrived.at);
        let mut seen = HashSet::with_capacity(all);
        arrived.retain(|arrived| seen.insert((arrived.id, arrived.endpoint)));
        let duplicates = (all - arrived.len()) as u64;
        Self { summary, emitted, arrived, lost, duplicates, cpu }
    }

    /// The events that were accepted.
    pub(crate) fn emitted(&self) -> &[Emitted] {
        &self.emitted
    }

    /// How many deliveries arrived.
    pub(crate) fn delivered(&self) -> usize {
        self.arrived.len()
    }

    /// From the first call to the last arrival.
    pub(crate) fn time(&self) -> Duration {
        self.last_arrival().since(self.first_call())
    }

    /// Deliveries a second, from the first call to the last arrival.
    pub(crate) fn deliveries_per_s(&self) -> f64 {
        per_second(self.delivered(), self.time())
    }

    /// Events accepted a second, from the first call to the last answer.
    pub(crate) fn accepted_per_s(&self) -> f64 {
        per_second(self.emitted.len(), self.last_answer().since(self.first_call()))
    }

    /// How long deliveries went on after the last accept.
    pub(crate) fn behind(&self) -> Duration {
        self.last_arrival().since(self.last_answer())
    }

    /// From the beginning of the call to the arrival.
    pub(crate) fn latencies(&self) -> Latencies {
        let begun: HashMap<Id, Moment> = self.emitted.iter().map(|event| (event.id, event.begun)).collect();
        let latency = |arrived: &Arrived| Some(arrived.at.since(*begun.get(&arrived.id)?));
        Latencies::new(self.arrived.iter().filter_map(latency).collect())
    }

    /// From the beginning of the call to its answer.
    pub(crate) fn accept_latencies(&self) -> Latencies {
        Latencies::new(self.emitted.iter().map(|event| event.answered.since(event.begun)).collect())
    }

    fn first_call(&self) -> Moment {
        self.emitted.iter().map(|event| event.begun).min().unwrap_or_default()
    }

    fn last_answer(&self) -> Moment {
        self.emitted.iter().map(|event| event.answered).max().unwrap_or_default()
    }

    fn last_arrival(&self) -> Moment {
        self.arrived.iter().map(|arrived| arrived.at).max().unwrap_or_default()
    }
}

/// A length of time as an order carries it.
pub(crate) fn lasting(time: Duration) -> Until {
    Until::Milliseconds(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn emitted(id: &str, begun: u64, answered: u64) -> Emitted {
        let ms = |ms| Moment(ms * 1_000_000);
        Emitted { id: Id::new(id.as_bytes()), begun: ms(begun), answered: ms(answered) }
    }

    fn arrived(id: &str, endpoint: u64, at: u64) -> Arrived {
        Arrived { id: Id::new(id.as_bytes()), endpoint, at: Moment(at * 1_000_000) }
    }

    #[test]
    fn what_came_of_a_load_is_counted_once() {
        let events = vec![emitted("a", 1000, 1002), emitted("b", 1500, 1503)];
        // b was not answered in time for a third event: c arrived although its accept was not answered.
        let arrivals = vec![
            arrived("b", 0, 1600),
            arrived("a", 0, 1010),
            arrived("a", 0, 1400),
            arrived("c", 0, 1500),
            arrived("a", 1, 2000),
        ];
        let outcome = Outcome::new(Summary::default(), events, arrivals, 2, Cpu::default());
        assert_eq!((outcome.lost, outcome.duplicates, outcome.delivered()), (1, 1, 4));
        assert_eq!(outcome.time(), Duration::from_secs(1));
        assert!((outcome.deliveries_per_s() - 4.0).abs() < 1e-9);
        assert_eq!(outcome.behind(), Duration::from_millis(497));
        assert!((outcome.latencies().percentile_ms(0.5) - 100.0).abs() < 1e-9);
        assert!((outcome.accept_latencies().percentile_ms(1.0) - 3.0).abs() < 1e-9);
    }
}
