//! One connection from Welcome to its end: hears jobs, says outcomes, keeps the heartbeat.
//!
//! One loop does it all, so no state is shared. It never waits for a job's work, and never for the
//! connection to take a message while there is something to hear.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use postrider_proto::agent::agent_message::Message as Said;
use postrider_proto::agent::control_message::Message as Heard;
use postrider_proto::agent::{
    AgentMessage, ControlMessage, Diagnose, Draining, Goodbye, Heartbeat, HeartbeatAck, Job, JobKey,
    Outcomes, TestPost,
};
use postrider_proto::session::MAX_OUTCOMES;
use postrider_telemetry::Untrusted;
use tokio::time::{sleep_until, timeout};
use tonic::Status;
use tonic::transport::Channel;

use super::attempt::{Finished, attempt};
use super::link::Opened;
use super::look::{Looks, not_looked, not_posted};
use super::{End, Succession, Work};
use crate::clock::{Instant, now};
use crate::gate::Gate;
use crate::server_time::ServerTime;

/// Outcomes in one message.
const BATCH: usize = MAX_OUTCOMES;
/// Their bytes: below the largest message that a control plane takes.
const BATCH_BYTES: usize = 1 << 20;
/// Heartbeats without an answer that are remembered. Older ones would be useless as time stamps.
const UNANSWERED: usize = 8;
/// How long the control plane may take to close a stream after Goodbye.
const GOODBYE: Duration = Duration::from_secs(5);
/// Heartbeats and silence limits outside of these are a control plane's problem.
const HEARTBEAT: std::ops::RangeInclusive<u32> = 10..=60_000;

/// See the [module](self).
pub(super) struct Conversation<'a> {
    work: &'a mut Work,
    link: Opened,
    server_time: ServerTime,
    heartbeat_interval: Duration,
    silence_limit: Duration,
    last_heard: Instant,
    next_heartbeat: Instant,
    /// Heartbeats that are not answered, oldest first.
    asked: VecDeque<(u64, Instant)>,
    last_nonce: u64,
    /// Looks at endpoints and test events that are under way.
    looks: Looks,
    /// Messages that go before the next outcomes.
    first: VecDeque<Said>,
    drain: Drain,
}

/// Whether this conversation is coming to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Drain {
    /// It is not.
    No,
    /// The control plane is stopping, and wants us back after this.
    ByControlPlane(Duration),
    /// This agent is stopping. Jobs may be under way to us until the heartbeat that was sent right after
    /// Draining is answered.
    ByAgent { confirmed_by: u64 },
    /// As before, and no more jobs will come.
    ByAgentConfirmed,
}

/// What the loop wakes up for.
enum Event {
    Stop,
    Heard(Result<Option<ControlMessage>, Status>),
    Finished(Finished),
    /// A look or a test event has ended.
    Answered(Said),
    /// There is room for a message, or the connection is gone.
    CanSend(bool),
    Timer,
    /// A connection with a newer certificate stands.
    Successor(Channel),
}

impl<'a> Conversation<'a> {
    pub(super) fn new(work: &'a mut Work, link: Opened) -> Conversation<'a> {
        let heard = now();
        let mut server_time = ServerTime::default();
        server_time.note(link.asked, link.welcome.server_time_ms);
        for key in &link.welcome.forget {
            work.running.forget(key);
        }
        let interval = link.welcome.heartbeat_interval_ms.clamp(*HEARTBEAT.start(), *HEARTBEAT.end());
        let silence = link.welcome.silence_limit_ms.max(2 * interval);
        let mut conversation = Conversation {
            work,
            server_time,
            heartbeat_interval: Duration::from_millis(interval.into()),
            silence_limit: Duration::from_millis(silence.into()),
            last_heard: heard,
            next_heartbeat: heard,
            asked: VecDeque::new(),
            last_nonce: 0,
            looks: Looks::default(),
            first: VecDeque::new(),
            drain: Drain::No,
            link,
        };
        conversation.next_heartbeat = heard + conversation.until_heartbeat();
        conversation.work.pulse.back_within(conversation.next_timer() - heard);
        conversation
    }

    /// Talks until the connection ends or has to, or `successor` is ready to take its place.
    pub(super) async fn serve(mut self, successor: impl Future<Output = Channel>) -> End {
        let stop = self.work.stop.clone();
        let mut stopped = pin!(stop.cancelled());
        let mut successor = pin!(successor);
        let mut timer = pin!(sleep_until(self.next_timer()));
        loop {
            if self.is_over() {
                return self.part().await;
            }
            let has_to_say = !self.first.is_empty() || self.work.outbox.can_send();
            let event = tokio::select! {
                biased;
                () = &mut stopped, if !self.is_stopping() => Event::Stop,
                heard = self.link.inbound.message() => Event::Heard(heard),
                finished = self.work.running.next() => Event::Finished(finished),
                answer = self.looks.next() => Event::Answered(answer),
                room = self.link.outbound.reserve(), if has_to_say => Event::CanSend(room.is_ok()),
                () = &mut timer => Event::Timer,
                channel = &mut successor, if self.drain == Drain::No => Event::Successor(channel),
            };
            let ended = match event {
                Event::Stop => self.begin_to_stop(),
                Event::Heard(heard) => self.hear(heard),
                Event::Finished(finished) => self.collect(finished),
                Event::Answered(answer) => self.tell(answer),
                Event::CanSend(true) => self.say(),
                Event::CanSend(false) => Some(End::lost("the connection is closed")),
                Event::Timer => {
                    let ended = self.tick(now());
                    timer.as_mut().reset(self.next_timer());
                    ended
                }
                Event::Successor(successor) => {
                    return End::Succeeded(Box::new(Succession { successor, former: self.link }));
                }
            };
            if let Some(end) = ended {
                return end;
            }
        }
    }

    fn hear(&mut self, heard: Result<Option<ControlMessage>, Status>) -> Option<End> {
        let message = match heard {
            Ok(Some(message)) => message.message,
            Ok(None) => {
                return Some(match self.drain {
                    Drain::ByControlPlane(reconnect_after) => End::Drained { reconnect_after },
                    _ => End::lost("the control plane closed the stream"),
                });
            }
            Err(status) => {
                return Some(match self.drain {
                    Drain::ByControlPlane(reconnect_after) => End::Drained { reconnect_after },
                    _ => End::of(&status),
                });
            }
        };
        self.last_heard = now();
        match message {
            Some(Heard::Jobs(jobs)) => {
                let received = self.last_heard;
                jobs.jobs.into_iter().find_map(|job| self.begin(job, received))
            }
            Some(Heard::OutcomeAck(ack)) => {
                let wrong = self.work.outbox.acknowledge(ack.sequence).err();
                self.work.count();
                wrong.map(|error| End::lost(error.to_string()))
            }
            Some(Heard::HeartbeatAck(ack)) => self.answered(&ack),
            Some(Heard::Cancel(cancel)) => {
                cancel.keys.iter().for_each(|key| self.work.running.cancel(key));
                None
            }
            Some(Heard::Drain(drain)) => {
                tracing::info!(
                    reconnect_after_ms = drain.reconnect_after_ms,
                    "the control plane is stopping"
                );
                if self.drain == Drain::No {
                    self.drain =
                        Drain::ByControlPlane(Duration::from_millis(drain.reconnect_after_ms.into()));
                }
                None
            }
            Some(Heard::Diagnose(diagnose)) => self.look(diagnose),
            Some(Heard::TestPost(post)) => self.post(post, self.last_heard),
            Some(Heard::Reject(reject)) => Some(End::Rejected(reject)),
            Some(Heard::Welcome(_)) => Some(End::lost("the control plane said Welcome twice")),
            // Something that a newer control plane says, and that this agent did not claim to understand.
            None => None,
        }
    }

    /// Starts a job. `Some` if the control plane may not have sent it.
    fn begin(&mut self, mut job: Job, received: Instant) -> Option<End> {
        let Some(key) = job.key.take() else {
            return Some(End::lost("the control plane sent a job without a key"));
        };
        if self.work.running.holds(&key) {
            let id = Untrusted(&key.delivery_id);
            tracing::warn!(delivery.id = %id, attempt = key.attempt, "ignored a job that is already in flight");
            return None;
        }
        if self.is_stopping() {
            return self.hand_back(key, "the agent is stopping");
        }
        let Some(start_by) = self.server_time.deadline(job.start_by_ms) else {
            return self.hand_back(key, "the job came too late");
        };
        let gate = Arc::<Gate>::default();
        let bytes = job.body.len();
        let transport = Arc::clone(&self.work.transport);
        let task = attempt(transport, key.clone(), job, Arc::clone(&gate), start_by, received);
        let started = self.work.running.start(key, bytes, gate, task);
        self.work.count();
        started.err().map(|error| End::lost(error.to_string()))
    }

    fn look(&mut self, diagnose: Diagnose) -> Option<End> {
        let refused = if self.is_stopping() {
            Some(not_looked(diagnose.id))
        } else {
            self.looks.begin(Arc::clone(&self.work.transport), diagnose)
        };
        refused.and_then(|answer| self.tell(answer))
    }

    /// Sends a test event, unless it may not start any more.
    fn post(&mut self, post: TestPost, received: Instant) -> Option<End> {
        let TestPost { id, job } = post;
        let Some(job) = job else {
            return Some(End::lost("the control plane sent a test event without a request"));
        };
        let refused = match self.server_time.deadline(job.start_by_ms) {
            _ if self.is_stopping() => Some(not_posted(id, "the agent is stopping")),
            None => Some(not_posted(id, "the test event came too late")),
            Some(start_by) => self.looks.post(Arc::clone(&self.work.transport), id, job, start_by, received),
        };
        refused.and_then(|answer| self.tell(answer))
    }

    fn tell(&mut self, answer: Said) -> Option<End> {
        self.first.push_back(answer);
        None
    }

    fn hand_back(&mut self, key: JobKey, why: &'static str) -> Option<End> {
        self.work.note(Finished::not_started(key, why));
        None
    }

    /// Notes all that has ended by now, so that it goes out in one message.
    fn collect(&mut self, finished: Finished) -> Option<End> {
        self.work.note(finished);
        self.work.collect();
        None
    }

    /// Says what goes first, or else all outcomes that are ready.
    fn say(&mut self) -> Option<End> {
        let said = self.first.pop_front().unwrap_or_else(|| {
            self.work.collect();
            Said::Outcomes(Outcomes { outcomes: self.work.outbox.take_batch(BATCH, BATCH_BYTES) })
        });
        let sent = self.link.outbound.try_send(AgentMessage { message: Some(said) });
        sent.err().map(|_| End::lost("the connection is closed"))
    }

    fn begin_to_stop(&mut self) -> Option<End> {
        self.first.push_back(Said::Draining(Draining {}));
        let confirmed_by = self.beat(now());
        self.drain = Drain::ByAgent { confirmed_by };
        None
    }

    fn tick(&mut self, now: Instant) -> Option<End> {
        if now >= self.last_heard + self.silence_limit {
            return Some(End::lost("the control plane has been silent for too long"));
        }
        if now >= self.next_heartbeat {
            self.next_heartbeat = now + self.until_heartbeat();
            self.beat(now);
        }
        self.work.pulse.back_within(self.next_timer().saturating_duration_since(now));
        None
    }

    fn beat(&mut self, now: Instant) -> u64 {
        self.last_nonce += 1;
        if self.asked.len() == UNANSWERED {
            self.asked.pop_front();
        }
        // Noted earlier than it is sent: that makes the bound on the server's time looser, never wrong.
        self.asked.push_back((self.last_nonce, now));
        self.first.push_back(Said::Heartbeat(Heartbeat { nonce: self.last_nonce }));
        self.last_nonce
    }

    fn answered(&mut self, ack: &HeartbeatAck) -> Option<End> {
        while let Some((nonce, asked)) = self.asked.pop_front() {
            if nonce == ack.nonce {
                self.server_time.note(asked, ack.server_time_ms);
                break;
            }
            if nonce > ack.nonce {
                self.asked.push_front((nonce, asked));
                break;
            }
        }
        if let Drain::ByAgent { confirmed_by } = self.drain
            && ack.nonce >= confirmed_by
        {
            self.drain = Drain::ByAgentConfirmed;
        }
        None
    }

    /// Whether everything is handed over and this side may end the stream.
    fn is_over(&self) -> bool {
        match self.drain {
            Drain::No | Drain::ByAgent { .. } => false,
            Drain::ByControlPlane(_) | Drain::ByAgentConfirmed => self.work.is_done(),
        }
    }

    /// Says Goodbye and waits for the control plane to close the stream.
    async fn part(&mut self) -> End {
        let goodbye = AgentMessage { message: Some(Said::Goodbye(Goodbye {})) };
        let closed = timeout(GOODBYE, async {
            if self.link.outbound.send(goodbye).await.is_ok() {
                while let Ok(Some(_)) = self.link.inbound.message().await {}
            }
        });
        if closed.await.is_err() {
            tracing::debug!("the control plane did not close the stream after Goodbye");
        }
        match self.drain {
            Drain::ByControlPlane(reconnect_after) => End::Drained { reconnect_after },
            _ => End::Stopped,
        }
    }

    fn is_stopping(&self) -> bool {
        matches!(self.drain, Drain::ByAgent { .. } | Drain::ByAgentConfirmed)
    }

    fn next_timer(&self) -> Instant {
        self.next_heartbeat.min(self.last_heard + self.silence_limit)
    }

    fn until_heartbeat(&self) -> Duration {
        self.heartbeat_interval.mul_f64(rand::random_range(0.8..=1.2))
    }
}
