//! The emitter: the service that hands over events, in a process of its own. It is told how to emit and for how long,
//! and writes down when each call began and when its answer was there.

mod paced;
mod pipelined;
mod unary;

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use postrider_proto::v1;
use postrider_proto::v1::event_service_client::EventServiceClient;
use serde::{Deserialize, Serialize};

use crate::clock::{self, Moment};
use crate::payload;
use crate::procfs::ProcessId;
use crate::reach::{Connection, Reach};
use crate::records::{self, Emitted, Id};
use crate::worker::{self, Worker};

/// How often the sink is asked how much has arrived.
const FEEDBACK: Duration = Duration::from_millis(1);

/// How to emit.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) enum How {
    /// So many calls of `Emit` at once, each followed by the next.
    Unary(usize),
    /// One `EmitStream` with so many events that have no answer yet.
    Stream(usize),
    /// So many calls of `Emit` a second, each at its time, whatever became of those before.
    Paced(u32),
}

/// When to stop.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) enum Until {
    /// After this many milliseconds.
    Milliseconds(u64),
    /// After this many events.
    Events(u64),
}

/// What is to be emitted.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Order {
    /// How the control plane is reached.
    pub(crate) reach: Reach,
    /// Whose events.
    pub(crate) tenant: String,
    /// How.
    pub(crate) how: How,
    /// How long.
    pub(crate) until: Until,
    /// At most so many deliveries that have not arrived yet, and the port of the sink that knows.
    pub(crate) undelivered: Option<(u64, u16)>,
    /// How many deliveries an event is owed as.
    pub(crate) endpoints: u64,
    /// Where to write down what was accepted.
    pub(crate) records: PathBuf,
}

/// What came of an order.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Summary {
    /// Events that were accepted.
    pub(crate) accepted: u64,
    /// Deliveries that they are owed as.
    pub(crate) deliveries: u64,
    /// Calls that were told to come back later.
    pub(crate) refused: u64,
    /// Calls that failed in another way, or were not answered.
    pub(crate) failed: u64,
    /// Why the last of them failed.
    pub(crate) failure: Option<String>,
}

/// The emitter, from outside.
#[derive(Debug)]
pub(crate) struct Emitter(Worker);

impl Emitter {
    /// Starts one.
    pub(crate) fn start() -> anyhow::Result<Self> {
        Worker::start("emit").map(Self)
    }

    /// Its process id.
    pub(crate) fn id(&self) -> ProcessId {
        self.0.id()
    }

    /// Emits.
    pub(crate) async fn emit(&mut self, order: &Order) -> anyhow::Result<(Summary, Vec<Emitted>)> {
        let summary: Result<Summary, String> = self.0.ask(order).await?;
        let summary = summary.map_err(|error| anyhow::anyhow!("the emitter failed: {error}"))?;
        Ok((summary, records::take(&order.records)?))
    }

    /// Ends it.
    pub(crate) async fn end(self) -> anyhow::Result<()> {
        self.0.end().await
    }
}

/// Runs as the emitter until stdin ends.
pub(crate) async fn run() -> anyhow::Result<()> {
    let mut orders = worker::commands::<Order>();
    while let Some(order) = orders.recv().await {
        let local = tokio::task::LocalSet::new();
        let summary = local.run_until(carry_out(order)).await;
        worker::say(&summary.map_err(|error| format!("{error:#}")))?;
    }
    Ok(())
}

async fn carry_out(order: Order) -> anyhow::Result<Summary> {
    let channel = order.reach.endpoint()?.connect().await.context("cannot reach the control plane")?;
    let arrived = Rc::new(AtomicU64::new(0));
    let feedback =
        order.undelivered.map(|(_, sink)| tokio::task::spawn_local(feedback(sink, arrived.clone())));
    let run = Rc::new(Run {
        tenant: order.tenant,
        until: order.until,
        begun: clock::now(),
        client: EventServiceClient::new(order.reach.identify(channel)?),
        endpoints: order.endpoints,
        undelivered: order.undelivered.map_or(u64::MAX, |(limit, _)| limit),
        arrived,
        claimed: AtomicU64::new(0),
        notes: std::cell::RefCell::default(),
    });
    match order.how {
        How::Unary(callers) => unary::run(&run, callers).await,
        How::Stream(window) => pipelined::run(&run, window).await,
        How::Paced(per_second) => paced::run(&run, per_second).await,
    }
    if let Some(feedback) = feedback {
        feedback.abort();
    }
    let notes = run.notes.take();
    records::save(&order.records, &notes.emitted)?;
    Ok(notes.summary)
}

/// An order being carried out.
struct Run {
    tenant: String,
    until: Until,
    begun: Moment,
    client: EventServiceClient<Connection>,
    endpoints: u64,
    undelivered: u64,
    arrived: Rc<AtomicU64>,
    claimed: AtomicU64,
    notes: std::cell::RefCell<Notes>,
}

#[derive(Default)]
struct Notes {
    summary: Summary,
    emitted: Vec<Emitted>,
}

impl Run {
    /// Whether another event is to be emitted; waits while too many have not arrived.
    async fn another(&self) -> bool {
        while self.on_their_way() >= self.undelivered && !self.is_over() {
            tokio::time::sleep(FEEDBACK).await;
        }
        let number = self.claimed.fetch_add(1, Ordering::Relaxed);
        match self.until {
            Until::Milliseconds(_) => !self.is_over(),
            Until::Events(count) => number < count,
        }
    }

    /// Deliveries of events that were sent, that have not arrived.
    fn on_their_way(&self) -> u64 {
        let sent = self.claimed.load(Ordering::Relaxed) * self.endpoints;
        sent.saturating_sub(self.arrived.load(Ordering::Relaxed))
    }

    fn is_over(&self) -> bool {
        match self.until {
            Until::Milliseconds(time) => self.begun.elapsed() >= Duration::from_millis(time),
            Until::Events(_) => false,
        }
    }

    fn event(&self) -> v1::NewEvent {
        v1::NewEvent {
            r#type: payload::EVENT_TYPE.into(),
            data: Bytes::from_static(payload::DATA.as_bytes()),
            ..Default::default()
        }
    }

    fn request(&self) -> v1::EmitRequest {
        v1::EmitRequest { tenant: self.tenant.clone(), event: Some(self.event()) }
    }

    fn accepted(&self, answer: &v1::EmitResponse, begun: Moment) {
        let answered = clock::now();
        let mut notes = self.notes.borrow_mut();
        notes.summary.accepted += 1;
        notes.summary.deliveries += u64::from(answer.deliveries);
        notes.emitted.push(Emitted { id: Id::new(answer.event_id.as_bytes()), begun, answered });
    }

    /// Notes a call that was not accepted; says whether it is worth another try.
    fn not_accepted(&self, code: tonic::Code, message: &str) -> bool {
        let summary = &mut self.notes.borrow_mut().summary;
        if code == tonic::Code::ResourceExhausted {
            summary.refused += 1;
            return true;
        }
        summary.failed += 1;
        summary.failure = Some(format!("{code:?}: {message}"));
        false
    }

    /// One call of `Emit`; says whether to go on.
    async fn call(&self) -> bool {
        let begun = clock::now();
        match self.client.clone().emit(self.request()).await {
            Ok(answer) => {
                self.accepted(answer.get_ref(), begun);
                true
            }
            Err(status) => self.not_accepted(status.code(), status.message()),
        }
    }
}

/// Asks the sink, again and again, how much has arrived.
async fn feedback(sink: u16, arrived: Rc<AtomicU64>) -> anyhow::Result<()> {
    let stream = tokio::net::TcpStream::connect(("127.0.0.1", sink)).await?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::task::spawn_local(connection);
    loop {
        sender.ready().await?;
        let request = http::Request::get("/count").header("host", "sink").body(Empty::<Bytes>::new())?;
        let answer = sender.send_request(request).await?.into_body().collect().await?.to_bytes();
        arrived.store(std::str::from_utf8(&answer)?.parse()?, Ordering::Relaxed);
        tokio::time::sleep(FEEDBACK).await;
    }
}
