//! The neighbour: it emits an event every 20 ms, whatever became of the ones before, and receives them.
//!
//! It lives on a thread of its own, so that the attacker's client does not slow its clock or its receiver.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use postrider_proto::v1;
use postrider_tests::api::{Api, event};
use postrider_tests::clock::now;
use postrider_tests::receiver::Receiver;
use postrider_tests::wait::{eventually, when};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::steady::Steady;

/// Between two events.
const EVERY: Duration = Duration::from_millis(20);
/// Where they arrive.
const PATH: &str = "/honest";

/// What became of an event: when it was to be emitted, and how long it took from then to its arrival.
pub(crate) struct Sample {
    pub(crate) begun: Instant,
    pub(crate) took: Duration,
}

/// The neighbour's thread. It ends with its value.
pub(crate) struct Honest {
    /// Its receiver's port, for agents.
    pub(crate) port: u16,
    orders: mpsc::Sender<Order>,
}

/// Emit until told to stop, and tell what became of each event.
struct Order {
    api: Api,
    stop: oneshot::Receiver<()>,
    samples: oneshot::Sender<Result<Vec<Sample>>>,
}

/// Emitting that is under way.
pub(crate) struct Emitting {
    stop: oneshot::Sender<()>,
    samples: oneshot::Receiver<Result<Vec<Sample>>>,
}

impl Emitting {
    /// Stops it.
    ///
    /// # Errors
    /// When an event was refused, or has not arrived.
    pub(crate) async fn end(self) -> Result<Vec<Sample>> {
        drop(self.stop);
        self.samples.await.context("the neighbour's thread has ended")?
    }
}

impl Honest {
    /// # Errors
    /// When it does not start.
    pub(crate) async fn start() -> Result<Self> {
        let (orders, taken) = mpsc::channel(1);
        let (told, port) = oneshot::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(live(taken, told))
        });
        Ok(Self { port: port.await.context("the neighbour has no receiver")?, orders })
    }

    /// The neighbour's subscription.
    pub(crate) fn subscription(&self) -> v1::Subscription {
        v1::Subscription {
            url: format!("http://127.0.0.1:{}{PATH}", self.port),
            ..v1::Subscription::default()
        }
    }

    /// Begins to emit.
    ///
    /// # Errors
    /// When the thread has ended.
    pub(crate) async fn emit(&self, api: Api) -> Result<Emitting> {
        let ((stop, stopped), (samples, told)) = (oneshot::channel(), oneshot::channel());
        let order = Order { api, stop: stopped, samples };
        self.orders.send(order).await.ok().context("the neighbour's thread has ended")?;
        Ok(Emitting { stop, samples: told })
    }
}

async fn live(mut orders: mpsc::Receiver<Order>, told: oneshot::Sender<u16>) -> Result<()> {
    let receiver = Receiver::start().await?;
    let _nobody_asks = told.send(receiver.port());
    while let Some(Order { api, stop, samples }) = orders.recv().await {
        drop(samples.send(emit(&receiver, &api, stop).await));
    }
    Ok(())
}

async fn emit(receiver: &Receiver, api: &Api, mut stop: oneshot::Receiver<()>) -> Result<Vec<Sample>> {
    let mut ticks = tokio::time::interval(EVERY);
    let mut emits = JoinSet::new();
    while stop.try_recv() == Err(oneshot::error::TryRecvError::Empty) {
        ticks.tick().await;
        let (api, begun) = (api.clone(), now());
        emits.spawn(async move { (begun, api.emit(event("honest.event", "1")).await) });
    }
    let mut begun = HashMap::new();
    for (at, emitted) in emits.join_all().await {
        let id = emitted.with_context(|| format!("an emit of {:?} ago", at.elapsed()))?.event_id;
        begun.insert(id, at);
    }
    let arrived = || receiver.posts_to(PATH).into_iter().map(|post| (post.id, post.at)).collect();
    let arrivals = eventually("all of the neighbour's events arrive", async || {
        let arrivals: HashMap<String, Instant> = arrived();
        Ok(when(begun.keys().all(|id| arrivals.contains_key(id))).map(|()| arrivals))
    })
    .await?;
    ensure!(!begun.is_empty(), "nothing was emitted");
    Ok(begun.into_iter().map(|(id, begun)| Sample { begun, took: arrivals[&id] - begun }).collect())
}

/// The greatest of all but the slowest hundredth, without what the machine itself delayed, and of how many.
pub(crate) fn slowest(samples: &[Sample], machine: &Steady) -> Result<(Duration, usize)> {
    let counted = |sample: &&Sample| !machine.stood_still(sample.begun, sample.begun + sample.took);
    let mut took: Vec<Duration> = samples.iter().filter(counted).map(|sample| sample.took).collect();
    ensure!(
        took.len() * 2 >= samples.len(),
        "this machine stood still during most of {} emits",
        samples.len()
    );
    took.sort_unstable();
    let at = (took.len() * 99).div_ceil(100).saturating_sub(1);
    Ok((*took.get(at).context("no emit was counted")?, took.len()))
}
