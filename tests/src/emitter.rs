//! Emits events over one stream after another, and keeps a ledger of what was acknowledged.
//!
//! An event whose answer has not come when a stream breaks is sent again, with the same idempotency key, until it is
//! answered: what services are told to do.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use postrider_proto::v1::{self, emit_result};
use rand::Rng as _;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::api::Api;
use crate::clock::now;
use crate::ledger::Ledger;
use crate::wait::{eventually, when};

/// No run of these tests takes longer.
const LIMIT: Duration = Duration::from_secs(120);
/// Between two streams, when the server is away.
const PAUSE: Duration = Duration::from_millis(50);
/// How often events are due.
const TICK: Duration = Duration::from_millis(10);

/// What to emit.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// How many events.
    pub events: usize,
    /// How many a second.
    pub per_second: usize,
}

/// A load under way.
#[derive(Debug)]
pub struct Emitter {
    /// What was emitted so far.
    pub ledger: Ledger,
    /// How many events there will be.
    pub planned: usize,
    running: JoinHandle<Result<()>>,
}

impl Emitter {
    /// Starts to emit.
    #[must_use]
    pub fn start(api: Api, load: Load) -> Self {
        let ledger = Ledger::default();
        let run = Run { api, ledger: ledger.clone(), unanswered: BTreeMap::new(), made: 0, load };
        Self { ledger, planned: load.events, running: tokio::spawn(run.run()) }
    }

    /// Whether everything is acknowledged.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.running.is_finished()
    }

    /// Waits until so many are acknowledged, or all.
    ///
    /// # Errors
    /// When it takes too long, or the load has failed.
    pub async fn acknowledged(&mut self, goal: usize) -> Result<()> {
        let what = format!("{goal} events are acknowledged");
        eventually(&what, async || {
            Ok(when(self.ledger.acknowledged_count() >= goal || self.running.is_finished()))
        })
        .await?;
        if self.ledger.acknowledged_count() < goal.min(self.planned) {
            (&mut self.running).await??;
        }
        Ok(())
    }

    /// Waits until everything is acknowledged.
    ///
    /// # Errors
    /// When an event is refused for good, or it takes too long.
    pub async fn done(self) -> Result<Ledger> {
        self.running.await??;
        Ok(self.ledger)
    }
}

struct Run {
    api: Api,
    ledger: Ledger,
    unanswered: BTreeMap<u64, v1::NewEvent>,
    made: usize,
    load: Load,
}

impl Run {
    async fn run(mut self) -> Result<()> {
        let begun = now();
        while self.made < self.load.events || !self.unanswered.is_empty() {
            if begun.elapsed() > LIMIT {
                let unanswered = self.unanswered.len();
                bail!("{unanswered} events are not answered, {} of {} sent", self.made, self.load.events);
            }
            if let Err(broken) = self.stream().await {
                let status = broken.downcast_ref::<Status>();
                if status.is_none_or(|status| !is_passing(status.code())) {
                    return Err(broken);
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
        Ok(())
    }

    /// One stream: first what earlier ones left unanswered, then what is new.
    async fn stream(&mut self) -> Result<()> {
        let (requests, queue) = mpsc::channel(self.load.events + 1);
        for (reference, event) in &self.unanswered {
            send(&requests, self.request(*reference, event.clone()))?;
        }
        let mut answers = self.api.events().emit_stream(ReceiverStream::new(queue)).await?.into_inner();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while self.made < self.load.events {
            tokio::select! {
                _ = tick.tick() => self.send_due(&requests)?,
                answer = answers.message() => match answer? {
                    Some(answer) => self.hear(answer)?,
                    // The server is stopping. What it left unanswered goes over the next stream.
                    None => return Err(Status::unavailable("the stream ended early").into()),
                },
            }
        }
        drop(requests);
        self.hear_the_rest(&mut answers).await
    }

    async fn hear_the_rest(&mut self, answers: &mut Streaming<v1::EmitStreamResponse>) -> Result<()> {
        while let Some(answer) = answers.message().await? {
            self.hear(answer)?;
        }
        Ok(())
    }

    fn send_due(&mut self, requests: &mpsc::Sender<v1::EmitStreamRequest>) -> Result<()> {
        let each = TICK.as_secs_f64() * self.load.per_second as f64;
        for _ in 0..(each as usize).max(1) {
            if self.made == self.load.events {
                break;
            }
            let reference = self.made as u64;
            let event = new_event(self.made);
            self.made += 1;
            self.ledger.sent(&event.id, &event.r#type, &String::from_utf8_lossy(&event.data));
            self.unanswered.insert(reference, event.clone());
            send(requests, self.request(reference, event))?;
        }
        Ok(())
    }

    fn request(&self, reference: u64, event: v1::NewEvent) -> v1::EmitStreamRequest {
        v1::EmitStreamRequest { reference, tenant: self.api.tenant(), event: Some(event) }
    }

    fn hear(&mut self, answer: v1::EmitStreamResponse) -> Result<()> {
        let result = answer.result.and_then(|result| result.result).context("an answer without a result")?;
        match result {
            emit_result::Result::Accepted(accepted) => {
                let event =
                    self.unanswered.remove(&answer.reference).context("an answer nobody asked for")?;
                anyhow::ensure!(accepted.event_id == event.id, "{} became {}", event.id, accepted.event_id);
                self.ledger.acknowledged(&event.id);
                Ok(())
            }
            // It stays unanswered: the next stream sends it again.
            emit_result::Result::Error(error) if is_passing(Code::from(error.code)) => Ok(()),
            emit_result::Result::Error(error) => bail!("an event was refused: {error:?}"),
        }
    }
}

/// Puts a request on a stream. There is room for all; it fails only when the stream is broken.
fn send(
    requests: &mpsc::Sender<v1::EmitStreamRequest>,
    request: v1::EmitStreamRequest,
) -> Result<(), Status> {
    requests.try_send(request).map_err(|_| Status::unavailable("the stream is broken"))
}

fn is_passing(code: Code) -> bool {
    // A connection that breaks under a stream is reported with any of these.
    matches!(
        code,
        Code::Unavailable | Code::ResourceExhausted | Code::Unknown | Code::Internal | Code::Cancelled
    )
}

fn new_event(number: usize) -> v1::NewEvent {
    let id = format!("e{number}-{:08x}", rand::rng().random::<u32>());
    v1::NewEvent {
        r#type: "load.made".to_owned(),
        data: format!(r#"{{"number":{number},"text":"ä {id}","price":1.50}}"#).into(),
        idempotency_key: format!("key-{id}"),
        id,
        ..v1::NewEvent::default()
    }
}
