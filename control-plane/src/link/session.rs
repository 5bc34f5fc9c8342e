//! One stream of one agent, from Hello to its end.

mod admission;
mod jobs;
mod outcomes;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use postrider_domain::id::AgentId;
use postrider_domain::pace::{Meter, Pace};
use postrider_proto::agent::agent_message::Message as FromAgent;
use postrider_proto::agent::control_message::Message as ToAgent;
use postrider_proto::agent::{
    AgentMessage, Cancel, ControlMessage, Drain, HeartbeatAck, OutcomeAck, Reject, RejectCode, Welcome,
};
use postrider_proto::session::{JobKey, PROTOCOL};
use postrider_telemetry::tasks::caught;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tonic::{Code, Status, Streaming};
use tracing::{Instrument as _, error, info, info_span, warn};

use self::admission::Admitted;
use super::acks::Acks;
use super::hello::{Accepted, permanent, temporary};
use super::looks::Looks;
use super::misconduct::Kind;
use super::outbox::{Outbox, ROOM_WITHIN};
use super::signed::Signed;
use super::traced::Traced;
use super::trust::Trust;
use super::{HEARTBEAT_INTERVAL, HELLO_WITHIN, Links, SILENCE_LIMIT};
use crate::diagnoses::Who;
use crate::lanes::LinkCommand;
use crate::listen::AgentCertificate;
use crate::schedule::HolderId;

/// Commands that may wait beyond one for each job: the schedule closes a link that does not take them.
const COMMANDS: usize = 1024;
/// Commands taken at once.
const GROUP: usize = 64;
/// How long an agent has to take the last message.
const LAST_WORD_WITHIN: Duration = Duration::from_secs(1);
/// How soon an agent comes back after we stop.
const RECONNECT_AFTER: Duration = Duration::from_millis(500);

/// Messages of an agent beside outcomes, in a second, and at once.
const SAID_A_SECOND: NonZeroU32 = NonZeroU32::new(50).expect("it is not zero");
const SAID_AT_ONCE: NonZeroU32 = NonZeroU32::new(500).expect("it is not zero");

type Outbound = mpsc::Sender<Result<ControlMessage, Status>>;

/// Why a session ended.
enum End {
    /// The agent said goodbye.
    Closed,
    /// The connection is gone.
    Lost,
    /// The agent is told why.
    Rejected(Reject),
    /// The agent did what no honest agent does: which job it spoke of, if it did of one, and what was wrong.
    Misconduct(Kind, Option<JobKey>, &'static str),
    /// The agent is to come back on another connection: we are stopping, or its certificate has ended.
    Drained,
}

/// What an agent has shown; `None` on a plaintext loopback link.
type Certificate = Option<Arc<AgentCertificate>>;

pub(super) async fn run(
    links: Links,
    certificate: Certificate,
    mut inbound: Streaming<AgentMessage>,
    outbound: Outbound,
) {
    let hello = match timeout(HELLO_WITHIN, inbound.message()).await {
        Ok(Ok(Some(AgentMessage { message: Some(FromAgent::Hello(hello)) }))) => hello,
        Ok(Err(error)) if error.code() == Code::OutOfRange => {
            let reject =
                permanent(RejectCode::InvalidHello, format!("Hello cannot be read: {}", error.message()));
            return self::reject(&outbound, reject).await;
        }
        Ok(Ok(None) | Err(_)) => return,
        Ok(Ok(Some(_))) | Err(_) => {
            let reject =
                permanent(RejectCode::InvalidHello, "a stream must begin with Hello, within 5 seconds");
            return self::reject(&outbound, reject).await;
        }
    };
    let now = links.dispatcher.clock.wall();
    let stream = hello.stream;
    let admitted = admission::admit(&links, certificate.as_deref(), hello, now);
    // Nothing that an agent says is logged before it is judged: its name is its certificate's.
    let shown = certificate.as_ref().map(|shown| shown.identity.agent.clone());
    let named = || admitted.as_ref().ok().map(|admitted| admitted.agent().clone());
    let agent = shown.or_else(named);
    let span = info_span!("session", agent = agent.as_ref().map(tracing::field::display), stream);
    let serve = async {
        match admitted {
            Ok(admitted) => serve(links, admitted, inbound, outbound).await,
            Err(refused) => admission::refuse(&links, agent.as_ref(), refused, now, &outbound).await,
        }
    };
    serve.instrument(span).await;
}

/// Says why there is no session.
pub(super) async fn reject(outbound: &Outbound, reject: Reject) {
    let _already_gone = outbound.send(Ok(message(ToAgent::Reject(reject)))).await;
}

async fn serve(links: Links, admitted: Admitted, inbound: Streaming<AgentMessage>, outbound: Outbound) {
    let agent = admitted.agent().clone();
    let Some(mut session) = Session::open(&links, admitted, outbound).await else { return };
    let holder = session.holder;
    let end = caught(session.run(inbound)).await.unwrap_or_else(|error| {
        error!(%error, "a session failed with an internal error; its agent reconnects");
        End::Lost
    });
    let lost = matches!(end, End::Lost);
    if lost {
        links.metrics.lost();
    }
    session.finish(end).await;
    links.lanes.disconnected(holder).await;
    links.agents.disconnected(&agent, holder, lost, links.dispatcher.clock.wall()).await;
}

struct Session {
    links: Links,
    agent: AgentId,
    holder: HolderId,
    outbound: Outbound,
    commands: mpsc::Receiver<LinkCommand>,
    acks: Acks,
    outbox: Outbox,
    signed: Signed,
    traced: Traced,
    looks: Looks,
    trust: Trust,
    /// How much it says beside outcomes.
    said: Meter,
}

impl Session {
    /// Makes the stream known to all that want to know; nothing when we are stopping.
    async fn open(links: &Links, admitted: Admitted, outbound: Outbound) -> Option<Self> {
        let Admitted { accepted, trust } = admitted;
        let Accepted { mut connected, row, max_bytes, next_outcome, abilities, tags: _ } = accepted;
        let outbox = Outbox::new(max_bytes, &connected.in_flight);
        let (agent, pool) = (connected.station.agent.clone(), connected.pool.clone());
        let (sender, commands) = mpsc::channel(connected.max_in_flight + COMMANDS);
        let was_drained = links.agents.drained(&agent, &row.instance).is_some();
        connected.drained = was_drained;
        let holder = links.lanes.connected(connected, sender).await?;
        info!(pool = row.pool, version = row.version, "agent connected");
        links.metrics.connected(true);
        let who = Who { agent: agent.clone(), pool, version: row.version.clone(), abilities };
        let (seat, questions) = links.diagnoses.sit(holder, who);
        let instance = row.instance.clone();
        links.agents.connected(row, holder).await;
        // Whoever drained it meanwhile did not know of this stream.
        let is_drained = links.agents.drained(&agent, &instance).is_some();
        if is_drained != was_drained {
            links.lanes.set_drained(vec![holder], is_drained).await;
        }
        Some(Self {
            agent,
            holder,
            outbound,
            commands,
            acks: Acks::new(next_outcome),
            outbox,
            signed: Signed::default(),
            traced: Traced::new(links.dispatcher.traces.clone(), links.dispatcher.clock),
            looks: Looks::new(seat, questions),
            trust,
            said: Meter::default(),
            links: links.clone(),
        })
    }

    async fn run(&mut self, mut inbound: Streaming<AgentMessage>) -> End {
        if let Err(end) = self.welcome().await {
            return end;
        }
        let mut group = Vec::with_capacity(GROUP);
        let (mut silent_at, mut room_by) = (silence(), from_now(ROOM_WITHIN));
        let closing = self.links.closing.clone();
        let ended = self.trust.ended.clone();
        let expires = self.trust.expires;
        loop {
            let done = tokio::select! {
                said = inbound.message() => {
                    silent_at = silence();
                    match said {
                        Ok(Some(AgentMessage { message })) => self.hear(message).await,
                        Err(status) if status.code() == Code::OutOfRange => Err(flood("a message is larger than any may be")),
                        Ok(None) | Err(_) => Err(End::Lost),
                    }
                }
                taken = self.commands.recv_many(&mut group, GROUP) => {
                    if taken == 0 { Err(stuck()) } else { self.obey(&mut group).await }
                }
                asked = self.looks.next() => self.send(asked).await,
                () = sleep_until(room_by) => {
                    room_by = from_now(ROOM_WITHIN);
                    self.give_back_overdue().await;
                    Ok(())
                }
                () = sleep_until(silent_at) => Err(End::Rejected(temporary(RejectCode::Unavailable, "nothing was heard for 30 seconds"))),
                () = closing.cancelled() => Err(End::Drained),
                () = ended.cancelled() => Err(End::Rejected(revoked())),
                () = until(expires) => Err(End::Drained),
            };
            if let Err(end) = done {
                return end;
            }
        }
    }

    async fn welcome(&self) -> Result<(), End> {
        let welcome = Welcome {
            protocol: PROTOCOL,
            epoch: self.links.dispatcher.store.epoch(),
            server_time_ms: self.links.dispatcher.clock.monotonic_ms(),
            heartbeat_interval_ms: millis(HEARTBEAT_INTERVAL),
            silence_limit_ms: millis(SILENCE_LIMIT),
            forget: Vec::new(),
        };
        self.send(ToAgent::Welcome(welcome)).await
    }

    async fn hear(&mut self, said: Option<FromAgent>) -> Result<(), End> {
        if let Some(FromAgent::Outcomes(outcomes)) = said {
            return self.hear_outcomes(outcomes).await;
        }
        if pace().take(&mut self.said, self.links.dispatcher.clock.since_start()).is_err() {
            return Err(flood("messages come more often than any agent sends them"));
        }
        match said {
            // What a newer agent says, and this control plane does not understand.
            None | Some(FromAgent::Outcomes(_)) => Ok(()),
            Some(FromAgent::Hello(_)) => Err(nonsense("a stream has one Hello")),
            Some(FromAgent::Heartbeat(heartbeat)) => {
                self.links.agents.seen(&self.agent, self.links.dispatcher.clock.wall());
                let server_time_ms = self.links.dispatcher.clock.monotonic_ms();
                self.send(ToAgent::HeartbeatAck(HeartbeatAck { nonce: heartbeat.nonce, server_time_ms }))
                    .await
            }
            Some(FromAgent::Draining(_)) => {
                info!("agent draining");
                self.links.agents.draining(&self.agent);
                self.links.lanes.agent_draining(self.holder).await;
                // The agent leaves when its next heartbeat is answered: what it still gets must go before that.
                let mut last = Vec::new();
                while let Ok(command) = self.commands.try_recv() {
                    last.push(command);
                }
                self.obey(&mut last).await
            }
            Some(FromAgent::Diagnosis(said)) => {
                let good = self.looks.answered(said);
                if good { Ok(()) } else { Err(nonsense("a diagnosis must say how it ended")) }
            }
            Some(FromAgent::TestPostOutcome(said)) => {
                let good = self.looks.posted(said);
                if good {
                    Ok(())
                } else {
                    Err(nonsense("the outcome of a test event must say what happened"))
                }
            }
            Some(FromAgent::Goodbye(_)) => Err(End::Closed),
        }
    }

    async fn obey(&mut self, group: &mut Vec<LinkCommand>) -> Result<(), End> {
        let (mut stored, mut forget, mut foreign) = (Vec::new(), Vec::new(), None);
        for command in group.drain(..) {
            match command {
                LinkCommand::Jobs(jobs) => {
                    let now = self.links.dispatcher.clock.now();
                    self.links.metrics.given(&jobs, now);
                    self.outbox.push(jobs, now);
                }
                LinkCommand::Acknowledge(sequences) => {
                    self.traced.stored(&sequences);
                    stored.extend(sequences);
                }
                LinkCommand::Forget(keys) => {
                    for key in &keys {
                        self.signed.forget(*key);
                        self.traced.forget(*key);
                    }
                    let (unsent, sent) = self.outbox.forget(keys);
                    self.not_started(unsent).await;
                    forget.extend(sent);
                }
                LinkCommand::ForeignReport(key) => foreign = Some(key),
                LinkCommand::Replaced(by_another_process) => {
                    if by_another_process {
                        let now = self.links.dispatcher.clock.wall();
                        self.links.metrics.duplicate();
                        self.links.identities.note_duplicate(&self.agent, now).await;
                    }
                    return Err(End::Rejected(replaced(by_another_process)));
                }
            }
        }
        if !forget.is_empty() {
            let tags = &self.links.tags;
            let keys = forget.into_iter().map(|key| tags.write(key, &self.agent)).collect();
            self.send(ToAgent::Cancel(Cancel { keys })).await?;
        }
        self.send_jobs().await?;
        if let Some(sequence) = self.acks.stored(stored) {
            let now = self.links.dispatcher.clock.since_start();
            self.acks.lags(now).for_each(|lag| self.links.metrics.acknowledged(lag));
            self.send(ToAgent::OutcomeAck(OutcomeAck { sequence })).await?;
        }
        match foreign {
            Some(key) => Err(End::Misconduct(Kind::Outcome, Some(key), outcomes::NOT_GIVEN)),
            None => Ok(()),
        }
    }

    async fn finish(&mut self, end: End) {
        let unsent = self.outbox.drain();
        self.not_started(unsent).await;
        let last = match end {
            End::Misconduct(kind, job, problem) => {
                warn!(kind = kind.as_str(), problem, "session closed: the agent violated the protocol");
                let now = self.links.dispatcher.clock.wall();
                let target = job.map_or_else(|| self.agent.to_string(), |job| job.delivery.to_string());
                self.links.misconduct.note(&self.agent, kind, &target, problem, now).await;
                ToAgent::Reject(temporary(RejectCode::ProtocolError, problem))
            }
            End::Closed => return info!("agent disconnected"),
            End::Lost => return warn!("lost the connection to the agent"),
            End::Rejected(reject) => {
                // An agent that moves its stream to a new certificate does this to itself.
                if reject.code == i32::from(RejectCode::Replaced) {
                    info!(reason = reject.message, "session ended");
                } else {
                    warn!(reason = reject.message, "session ended");
                }
                ToAgent::Reject(reject)
            }
            End::Drained => ToAgent::Drain(Drain { reconnect_after_ms: millis(RECONNECT_AFTER) }),
        };
        // Whoever does not read what came before does not read this: others wait for its jobs.
        let _already_gone = timeout(LAST_WORD_WITHIN, self.outbound.send(Ok(message(last)))).await;
    }

    /// An agent that does not read for as long as it may be silent is lost. One that is revoked meanwhile is gone at once.
    async fn send(&self, said: ToAgent) -> Result<(), End> {
        tokio::select! {
            biased;
            sent = timeout(SILENCE_LIMIT, self.outbound.send(Ok(message(said)))) => match sent {
                Ok(Ok(())) => Ok(()),
                Ok(Err(_)) | Err(_) => Err(End::Lost),
            },
            () = self.trust.ended.cancelled() => Err(End::Rejected(revoked())),
        }
    }
}

fn replaced(by_another_process: bool) -> Reject {
    if by_another_process {
        permanent(
            RejectCode::DuplicateAgent,
            "another process has connected with this agent id; give each process an agent_id of its own",
        )
    } else {
        temporary(RejectCode::Replaced, "a newer connection of this stream has taken over")
    }
}

/// An agent that does not take its commands is slow, not dishonest.
fn stuck() -> End {
    End::Rejected(temporary(RejectCode::ProtocolError, "the link did not take its commands"))
}

fn nonsense(problem: &'static str) -> End {
    End::Misconduct(Kind::Protocol, None, problem)
}

fn flood(problem: &'static str) -> End {
    End::Misconduct(Kind::Flood, None, problem)
}

/// How often an agent says something beside outcomes: a few messages for each heartbeat, and an answer to each question.
fn pace() -> Pace {
    Pace::new(SAID_A_SECOND, SAID_AT_ONCE)
}

fn message(said: ToAgent) -> ControlMessage {
    ControlMessage { message: Some(said) }
}

pub(super) fn revoked() -> Reject {
    permanent(
        RejectCode::Revoked,
        "the agent is revoked, or its authority is trusted no more; remove its identity and enroll with a new join token",
    )
}

fn silence() -> Instant {
    from_now(SILENCE_LIMIT)
}

#[expect(clippy::disallowed_methods, reason = "a deadline for tokio's own timer")]
pub(super) fn from_now(duration: Duration) -> Instant {
    Instant::now() + duration
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

pub(super) fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}
