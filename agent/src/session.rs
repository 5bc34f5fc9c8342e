//! One stream of the agent: keeps a session with the control plane, over as many connections as it takes.
//!
//! Dramatis personae: a [`Stream`] is one task. Its `Work` outlives connections: the jobs under way
//! (`running`), the outcomes not acknowledged ([`crate::outbox`]). `link` opens a connection,
//! `conversation` is what is said on it, `attempt` is the task of one job.
//!
//! When a connection is lost, jobs under way go on, no job starts past its start-by, outcomes are kept, and
//! the next connection names both. Nothing here decides about an endpoint or an attempt's meaning.

use std::sync::Arc;
use std::time::Duration;

use postrider_proto::agent::{Hello, JobKey, Outcome, Reject, RejectCode};
use postrider_proto::diagnosis::CAPABILITY;
use postrider_proto::session::{MAX_CREDIT, TEST_POST_CAPABILITY, max_unacknowledged};
use postrider_telemetry::Untrusted;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Code, Status};

use self::attempt::Finished;
use self::conversation::Conversation;
use self::link::Opened;
use self::running::Running;
use crate::admin::Pulse;
use crate::backoff::Backoff;
use crate::clock::now;
use crate::metrics::Connect;
use crate::outbox::{Limits, Outbox};
use crate::transport::Transport;
use crate::with_causes;

mod attempt;
mod conversation;
mod link;
mod look;
mod running;

pub use self::link::Link;
pub use self::running::Credit;

/// The protocol version that this agent speaks.
pub const PROTOCOL: u32 = 1;

/// The longest wait before the next connection while the agent is stopping: its time to report is short.
const STOPPING_WAIT: Duration = Duration::from_secs(5);

/// A connection takes no longer than this to be opened or given up: name, proxy, TCP, TLS and Hello have their own limits.
const OPEN_WITHIN: Duration = Duration::from_secs(60);

/// The longest wait before the next connection while the agent holds jobs or outcomes.
const HOLDING_WAIT: Duration = Duration::from_secs(2);

/// Who this agent is, the same for all its streams.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Its name: from its certificate, or configured where there is none.
    pub agent_id: String,
    /// Its pool.
    pub pool: String,
    /// This run of the process.
    pub instance_id: String,
    /// The fingerprint of its egress policy.
    pub egress_policy_hash: String,
}

/// One stream, to be [run](Stream::run) as a task.
pub struct Stream {
    identity: Arc<Identity>,
    number: u32,
    credit: Credit,
    link: Link,
    backoff: Backoff,
    work: Work,
}

/// What outlives a connection.
struct Work {
    transport: Arc<dyn Transport>,
    running: Running,
    outbox: Outbox<Outcome>,
    /// Told of what this stream does.
    pulse: Pulse,
    /// The agent has been told to stop.
    stop: CancellationToken,
}

/// The control plane does not want this agent, and says what to do.
#[derive(Debug, thiserror::Error)]
#[error("the control plane has rejected this agent: {message} ({code})")]
pub struct Rejected {
    /// Why, for programs.
    pub code: &'static str,
    /// Why, and what to do next, for people.
    pub message: String,
}

/// How a connection ended, or that none came about.
#[derive(Debug)]
enum End {
    /// Broken, for whatever reason.
    Lost(String),
    /// Refused or ended by the control plane.
    Rejected(Reject),
    /// Ended because the control plane stops.
    Drained { reconnect_after: Duration },
    /// Ended because this agent stops.
    Stopped,
    /// To be followed by a session on another connection, with a newer certificate.
    Succeeded(Box<Succession>),
}

/// A connection that is to take the place of another.
#[derive(Debug)]
struct Succession {
    successor: Channel,
    /// Not read any more, and closed once the successor is welcome.
    former: Opened,
}

impl Rejected {
    /// Whether the control plane has revoked this agent.
    #[must_use]
    pub fn is_revocation(&self) -> bool {
        self.code == RejectCode::Revoked.as_str_name()
    }
}

impl Stream {
    /// Stream `number` of the agent, with its share of the agent's credit. It winds up when `stop` is
    /// cancelled.
    #[must_use]
    pub fn new(
        identity: Arc<Identity>,
        number: u32,
        credit: Credit,
        link: Link,
        transport: Arc<dyn Transport>,
        pulse: Pulse,
        stop: CancellationToken,
    ) -> Stream {
        let most = max_unacknowledged(credit.jobs.min(MAX_CREDIT));
        let outbox = Outbox::new(Limits { count: most as usize, ..Limits::default() });
        let work = Work { transport, running: Running::new(credit), outbox, pulse, stop };
        Stream { identity, number, credit, link, backoff: Backoff::default(), work }
    }

    /// Keeps the session up until the agent is told to stop and everything is reported.
    ///
    /// # Errors
    ///
    /// [`Rejected`] when coming back is useless until somebody changes something.
    pub async fn run(mut self) -> Result<(), Rejected> {
        let mut succession = None;
        // A connection that was given up in favour of another may still bring jobs, which nobody has seen: they are
        // taken back by the Hello on the other, also when the agent has nothing more to do.
        while succession.is_some() || !(self.work.is_stopping() && self.work.is_done()) {
            let (end, healthy) = self.connect_once(succession.take()).await;
            let wait = match end {
                End::Stopped => break,
                End::Succeeded(next) => {
                    succession = Some(next);
                    continue;
                }
                End::Drained { reconnect_after } => {
                    self.backoff.reset();
                    reconnect_after
                }
                End::Rejected(reject) if reject.permanent => return Err(Rejected::from(reject)),
                End::Rejected(reject) => self.wait_after(&reject, healthy),
                // Not worth a word: it is the end anyway.
                End::Lost(_) if self.work.is_stopping() && self.work.is_done() => break,
                End::Lost(why) => {
                    let wait = self.wait_after_loss(healthy);
                    let wait = if self.work.is_stopping() { wait.min(STOPPING_WAIT) } else { wait };
                    tracing::warn!(
                        retry_in_ms = wait.as_millis(),
                        "not connected to the control plane: {why}"
                    );
                    self.work.pulse.lost(why);
                    wait
                }
            };
            self.work.pause(wait).await;
        }
        Ok(())
    }

    /// One connection, from nothing to its end, and how long it was up.
    async fn connect_once(&mut self, succession: Option<Box<Succession>>) -> (End, Duration) {
        self.work.collect();
        self.work.outbox.rewind();
        self.work.pulse.back_within(OPEN_WITHIN);
        let opened = self.open(succession).await;
        self.work.count_connect(&opened);
        let link = match opened {
            Ok(mut link) => {
                link.live = Some(self.work.pulse.live());
                link
            }
            Err(end) => return (end, Duration::ZERO),
        };
        tracing::info!(
            epoch = link.welcome.epoch,
            in_flight = self.work.running.len(),
            unacknowledged = self.work.outbox.len(),
            forget = link.welcome.forget.len(),
            "session is open"
        );
        let began = now();
        let end = Conversation::new(&mut self.work, link).serve(self.link.successor()).await;
        (end, now() - began)
    }

    /// A session on a new connection, or on the one that was made already. Whatever becomes of that, the former one is
    /// over: the control plane may have taken back what was under way on it.
    async fn open(&mut self, succession: Option<Box<Succession>>) -> Result<Opened, End> {
        let hello = self.hello();
        let Some(succession) = succession else {
            let channel = self.connect().await?;
            // Told to stop from here on, it goes on: the answer to Hello may bring jobs, which are to be handed back.
            return self.link.greet(channel, hello).await;
        };
        let Succession { successor, former } = *succession;
        let opened = self.link.greet(successor, hello).await;
        drop(former);
        opened
    }

    /// A connection, unless the agent is told to stop meanwhile: with nothing to report there is no need for one.
    async fn connect(&mut self) -> Result<Channel, End> {
        let needed = self.work.is_stopping();
        let stop = self.work.stop.clone();
        tokio::select! {
            connected = self.link.connect() => connected.map_err(|error| End::lost(with_causes(&error))),
            () = stop.cancelled(), if !needed => Err(End::lost("the agent is stopping")),
        }
    }

    fn hello(&self) -> Hello {
        Hello {
            protocol_min: PROTOCOL,
            protocol_max: PROTOCOL,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            capabilities: vec![CAPABILITY.to_owned(), TEST_POST_CAPABILITY.to_owned()],
            agent_id: self.identity.agent_id.clone(),
            pool: self.identity.pool.clone(),
            instance_id: self.identity.instance_id.clone(),
            stream: self.number,
            max_in_flight: self.credit.jobs,
            max_in_flight_bytes: self.credit.bytes,
            egress_policy_hash: self.identity.egress_policy_hash.clone(),
            in_flight: self.work.keys(),
            next_outcome_sequence: self.work.outbox.first_unacknowledged(),
        }
    }

    /// With jobs or outcomes in hand it is soon, whatever the back-off says: a control plane that has restarted
    /// waits a few seconds for those who hold some, then gives the jobs to others.
    fn wait_after_loss(&mut self, healthy: Duration) -> Duration {
        let wait = self.backoff.next(healthy, rand::random());
        if self.work.is_done() { wait } else { wait.min(HOLDING_WAIT.mul_f64(rand::random())) }
    }

    fn wait_after(&mut self, reject: &Reject, healthy: Duration) -> Duration {
        let own = self.backoff.next(healthy, rand::random());
        let wait = match reject.retry_after_ms {
            0 => own,
            ms => Duration::from_millis(ms.into()),
        };
        let said = Untrusted(&reject.message);
        self.work.pulse.lost(format!("rejected: {said}"));
        tracing::warn!(
            code = reject.code().as_str_name(),
            retry_in_ms = wait.as_millis(),
            "the control plane rejected the session: {said}"
        );
        wait
    }
}

impl Work {
    fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// The jobs that have not ended, and those whose outcome is not acknowledged: the control plane must not
    /// give either to another agent.
    fn keys(&self) -> Vec<JobKey> {
        let mut keys = self.running.keys();
        keys.extend(self.outbox.iter().filter_map(|outcome| outcome.key.clone()));
        keys
    }

    /// Whether no job is under way and every outcome is acknowledged.
    fn is_done(&self) -> bool {
        self.running.is_empty() && self.outbox.is_empty()
    }

    fn note(&mut self, finished: Finished) {
        let Finished { mut outcome, bytes, .. } = finished;
        self.pulse.ended(&outcome);
        self.outbox.push(bytes, |sequence| {
            outcome.sequence = sequence;
            outcome
        });
        self.count();
    }

    /// Says what there is now.
    fn count(&self) {
        self.pulse.holds(self.running.len(), self.outbox.len());
    }

    fn count_connect(&self, opened: &Result<Opened, End>) {
        match opened {
            Ok(_) => self.pulse.connected(Connect::Welcomed),
            Err(End::Rejected(_)) => self.pulse.connected(Connect::Rejected),
            // It has not been tried, or nobody needs it any more.
            Err(_) if self.is_stopping() => {}
            Err(_) => self.pulse.connected(Connect::Failed),
        }
    }

    /// Notes all jobs that have ended by now.
    fn collect(&mut self) {
        while let Some(finished) = self.running.try_next() {
            self.note(finished);
        }
    }

    /// Waits before the next connection, but not once the agent has been told to stop.
    async fn pause(&self, wait: Duration) {
        self.pulse.back_within(wait);
        let stopping = self.is_stopping();
        tokio::select! {
            () = sleep(wait) => {}
            () = self.stop.cancelled(), if !stopping => {}
        }
    }
}

impl From<Reject> for Rejected {
    fn from(reject: Reject) -> Rejected {
        Rejected { code: reject.code().as_str_name(), message: Untrusted(&reject.message).to_string() }
    }
}

impl End {
    fn lost(why: impl Into<String>) -> End {
        End::Lost(why.into())
    }

    /// What it means that the stream ended with an error.
    fn of(status: &Status) -> End {
        if status.code() != Code::PermissionDenied {
            return End::lost(Untrusted(&status.to_string()).to_string());
        }
        End::Rejected(Reject {
            code: RejectCode::Revoked.into(),
            message: status.message().to_owned(),
            permanent: true,
            retry_after_ms: 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_control_plane_says_controls_no_terminal_and_is_bounded() {
        let message = format!("\u{1b}[2Jgone\nforged{}", "x".repeat(1 << 20));
        let reject = Reject { message: message.clone(), permanent: true, ..Reject::default() };
        let shown = Rejected::from(reject).to_string();
        assert!(shown.contains("\\u{1b}[2Jgone\\nforged") && shown.len() < 1_000, "{}", shown.len());
        let End::Lost(why) = End::of(&Status::unavailable(message)) else { panic!("it is lost") };
        assert!(!why.contains(char::is_control) && why.len() < 1_000, "{}", why.len());
    }
}
