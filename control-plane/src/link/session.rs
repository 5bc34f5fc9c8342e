//! One stream of one agent, from Hello to its end.

mod jobs;

use std::sync::Arc;
use std::time::Duration;

use postrider_domain::audit::Entry;
use postrider_domain::id::AgentId;
use postrider_domain::outcome::Class;
use postrider_domain::time::Timestamp;
use postrider_proto::agent::agent_message::Message as FromAgent;
use postrider_proto::agent::control_message::Message as ToAgent;
use postrider_proto::agent::{
    AgentMessage, Cancel, ControlMessage, Drain, HeartbeatAck, Hello, OutcomeAck, Outcomes, Reject,
    RejectCode, Welcome,
};
use postrider_proto::session::{JobKey, PROTOCOL, Report, read_report};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tonic::{Code, Status, Streaming};
use tracing::{Instrument as _, info, info_span, warn};

use super::acks::Acks;
use super::hello::{self, Accepted, permanent, temporary};
use super::looks::Looks;
use super::outbox::Outbox;
use super::signed::Signed;
use super::traced::Traced;
use super::trust::Trust;
use super::{HEARTBEAT_INTERVAL, HELLO_WITHIN, Links, SILENCE_LIMIT};
use crate::diagnoses::Who;
use crate::identities::own_entry;
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

type Outbound = mpsc::Sender<Result<ControlMessage, Status>>;

/// Why a session ended.
enum End {
    /// The agent said goodbye.
    Closed,
    /// The connection is gone.
    Lost,
    /// The agent is told why.
    Rejected(Reject),
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
    let span = info_span!("session", agent = %hello.agent_id, stream = hello.stream);
    serve(links, certificate, hello, inbound, outbound).instrument(span).await;
}

/// Says why there is no session.
pub(super) async fn reject(outbound: &Outbound, reject: Reject) {
    let _already_gone = outbound.send(Ok(message(ToAgent::Reject(reject)))).await;
}

async fn serve(
    links: Links,
    certificate: Certificate,
    hello: Hello,
    inbound: Streaming<AgentMessage>,
    outbound: Outbound,
) {
    let now = links.dispatcher.clock.wall();
    let admitted = hello::judge(hello, now).and_then(|accepted| {
        let trust =
            Trust::of(certificate.as_deref(), &accepted.connected.station.agent, &links.identities, now)?;
        hello::compare(&accepted, certificate.as_deref())?;
        Ok((accepted, trust))
    });
    let (accepted, trust) = match admitted {
        Ok(admitted) => admitted,
        Err(reject) => {
            warn!(reason = reject.message, "an agent was rejected");
            links.metrics.connected(false);
            links.note_mismatch(certificate.as_deref(), &reject, now).await;
            return self::reject(&outbound, reject).await;
        }
    };
    let agent = accepted.connected.station.agent.clone();
    let Some(mut session) = Session::open(&links, accepted, trust, outbound).await else { return };
    let holder = session.holder;
    let end = session.run(inbound).await;
    let lost = matches!(end, End::Lost);
    if lost {
        links.metrics.lost();
    }
    session.finish(end).await;
    links.lanes.disconnected(holder).await;
    links.agents.disconnected(&agent, holder, lost, links.dispatcher.clock.wall()).await;
}

impl Links {
    /// An agent that claims to be another one has been tampered with: that goes on record.
    async fn note_mismatch(&self, certificate: Option<&AgentCertificate>, reject: &Reject, now: Timestamp) {
        let (RejectCode::IdentityMismatch, Some(certificate)) = (reject.code(), certificate) else { return };
        let agent = &certificate.identity.agent;
        let entry = Entry {
            actor: agent.to_string(),
            detail: reject.message.clone(),
            ..own_entry("RejectAgent", agent, now)
        };
        if let Err(error) = self.dispatcher.store.put_audit_entry(entry).await {
            warn!(%error, "that an agent claims to be another one was not written down");
        }
    }
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
}

impl Session {
    /// Makes the stream known to all that want to know; nothing when we are stopping.
    async fn open(links: &Links, accepted: Accepted, trust: Trust, outbound: Outbound) -> Option<Self> {
        let Accepted { mut connected, row, max_bytes, next_outcome, diagnoses: can_look } = accepted;
        let (agent, pool) = (connected.station.agent.clone(), connected.pool.clone());
        let (sender, commands) = mpsc::channel(connected.max_in_flight + COMMANDS);
        let was_drained = links.agents.drained(&agent, &row.instance).is_some();
        connected.drained = was_drained;
        let holder = links.lanes.connected(connected, sender).await?;
        info!(pool = row.pool, version = row.version, "agent connected");
        links.metrics.connected(true);
        let who = Who { agent: agent.clone(), pool, version: row.version.clone(), can_look };
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
            acks: Acks::new(next_outcome.max(1)),
            outbox: Outbox::new(max_bytes),
            signed: Signed::default(),
            traced: Traced::new(links.dispatcher.traces.clone(), links.dispatcher.clock),
            looks: Looks::new(seat, questions),
            trust,
            links: links.clone(),
        })
    }

    async fn run(&mut self, mut inbound: Streaming<AgentMessage>) -> End {
        if let Err(end) = self.welcome().await {
            return end;
        }
        let mut group = Vec::with_capacity(GROUP);
        let mut silent_at = silence();
        let closing = self.links.closing.clone();
        let ended = self.trust.ended.clone();
        let expires = self.trust.expires;
        loop {
            let done = tokio::select! {
                said = inbound.message() => {
                    silent_at = silence();
                    match said {
                        Ok(Some(AgentMessage { message: Some(said) })) => self.hear(said).await,
                        Ok(Some(AgentMessage { message: None })) => Ok(()),
                        Ok(None) | Err(_) => Err(End::Lost),
                    }
                }
                taken = self.commands.recv_many(&mut group, GROUP) => {
                    if taken == 0 { Err(protocol_error("the link did not take its commands")) } else { self.obey(&mut group).await }
                }
                look = self.looks.next() => self.send(ToAgent::Diagnose(look)).await,
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

    async fn hear(&mut self, said: FromAgent) -> Result<(), End> {
        match said {
            FromAgent::Hello(_) => Err(protocol_error("a stream has one Hello")),
            FromAgent::Outcomes(outcomes) => self.hear_outcomes(outcomes).await,
            FromAgent::Heartbeat(heartbeat) => {
                self.links.agents.seen(&self.agent, self.links.dispatcher.clock.wall());
                let server_time_ms = self.links.dispatcher.clock.monotonic_ms();
                self.send(ToAgent::HeartbeatAck(HeartbeatAck { nonce: heartbeat.nonce, server_time_ms }))
                    .await
            }
            FromAgent::Draining(_) => {
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
            FromAgent::Diagnosis(said) => {
                if self.looks.answered(said) {
                    Ok(())
                } else {
                    Err(protocol_error("a diagnosis must say how it ended"))
                }
            }
            FromAgent::Goodbye(_) => Err(End::Closed),
        }
    }

    async fn hear_outcomes(&mut self, outcomes: Outcomes) -> Result<(), End> {
        let mut reports = Vec::with_capacity(outcomes.outcomes.len());
        for outcome in outcomes.outcomes {
            let sequence = outcome.sequence;
            let key = outcome.key.as_ref().and_then(JobKey::read);
            if !outcome.refusal_code.is_empty() {
                info!(
                    delivery.id = key.map(|key| key.delivery.to_string()),
                    code = outcome.refusal_code,
                    "refused by the agent's egress policy"
                );
            }
            let (Some(key), Some(mut report)) = (key, read_report(outcome)) else {
                return Err(protocol_error("an outcome must name its job and say what happened"));
            };
            if let Report::Made(outcome) = &mut report
                && let Some(response) = &mut outcome.response
                && let Some(row) = self.links.dispatcher.registry.get(key.delivery.subscription)
            {
                row.subscription.headers.hide_in(response);
            }
            self.note_answer(key, &report);
            self.traced.heard(sequence, key, &report);
            self.outbox.done(key.delivery);
            reports.push((sequence, key, report));
        }
        self.links.agents.seen(&self.agent, self.links.dispatcher.clock.wall());
        if let Some((last, _, _)) = reports.last() {
            self.acks.heard(*last, self.links.dispatcher.clock.since_start());
        }
        self.links.lanes.reported(self.holder, reports).await;
        self.send_jobs().await
    }

    /// A success of what one key alone has signed shows that the receiver has that key.
    fn note_answer(&mut self, key: JobKey, report: &Report) {
        let Some((signer, signed)) = self.signed.answered(key) else { return };
        if matches!(report, Report::Made(outcome) if outcome.class == Class::Success) {
            let dispatcher = &self.links.dispatcher;
            dispatcher.uses.accepted(key.delivery.subscription, signer, signed, dispatcher.clock.wall());
        }
    }

    async fn obey(&mut self, group: &mut Vec<LinkCommand>) -> Result<(), End> {
        let (mut stored, mut forget, mut trespassed) = (Vec::new(), Vec::new(), None);
        for command in group.drain(..) {
            match command {
                LinkCommand::Jobs(jobs) => {
                    self.links.metrics.given(&jobs, self.links.dispatcher.clock.now());
                    self.outbox.push(jobs);
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
                    forget.extend(self.outbox.forget(keys));
                }
                LinkCommand::Trespassed(key) => trespassed = Some(key),
                LinkCommand::Replaced(by_another_process) => {
                    if by_another_process {
                        let now = self.links.dispatcher.clock.wall();
                        self.links.identities.note_duplicate(&self.agent, now).await;
                    }
                    return Err(End::Rejected(replaced(by_another_process)));
                }
            }
        }
        if !forget.is_empty() {
            let keys = forget.iter().map(JobKey::write).collect();
            self.send(ToAgent::Cancel(Cancel { keys })).await?;
        }
        self.send_jobs().await?;
        if let Some(sequence) = self.acks.stored(stored) {
            let now = self.links.dispatcher.clock.since_start();
            self.acks.lags(now).for_each(|lag| self.links.metrics.acknowledged(lag));
            self.send(ToAgent::OutcomeAck(OutcomeAck { sequence })).await?;
        }
        match trespassed {
            Some(key) => Err(self.trespassed(key).await),
            None => Ok(()),
        }
    }

    /// A job is answered only by an agent that can have got it: anything else goes on record.
    async fn trespassed(&self, key: JobKey) -> End {
        let entry = Entry {
            actor: self.agent.to_string(),
            detail: format!("spoke of attempt {} of a delivery that is not its pool's", key.attempt),
            ..own_entry("RejectAgent", key.delivery, self.links.dispatcher.clock.wall())
        };
        if let Err(error) = self.links.dispatcher.store.put_audit_entry(entry).await {
            warn!(%error, "that an agent spoke of another pool's job was not written down");
        }
        protocol_error("a job was named that is not this pool's")
    }

    async fn finish(&mut self, end: End) {
        let unsent = self.outbox.drain();
        self.not_started(unsent).await;
        let last = match end {
            End::Closed => return info!("agent disconnected"),
            End::Lost => return warn!("the connection to the agent is lost"),
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

fn protocol_error(problem: &str) -> End {
    End::Rejected(temporary(RejectCode::ProtocolError, problem))
}

fn message(said: ToAgent) -> ControlMessage {
    ControlMessage { message: Some(said) }
}

pub(super) fn revoked() -> Reject {
    permanent(
        RejectCode::Revoked,
        "the agent is revoked, or its authority is trusted no more; remove its identity and enrol with a new join string",
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
