//! Reads of the API: a few at once, shared fairly among those who call.
//!
//! Every call that reads waits here for its turn before it does anything ([`crate::api::Gate`]),
//! and so does each page of a stream that catches up. Who is served next, and who is refused, is
//! [`postrider_domain::turns`]' to decide. What an answer takes counts until its caller has taken
//! it.
//!
//! A call that is given up, for whatever reason, leaves the queue or ends its turn by being
//! dropped.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ahash::{HashMap, HashMapExt as _, HashSet, HashSetExt as _};
use postrider_domain::id::TenantId;
use postrider_domain::turns::{self, Limits, Ticket, Turns, Who};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::metrics::reads::ReadCounts;

/// Reads at once for each processor, and at least and at most: so many threads are at work on them.
const PER_PROCESSOR: usize = 2;
const LEAST: usize = 4;
const MOST: usize = 16;
/// Bytes of answers that are being made or not yet taken, and how many each turn reserves: what the
/// answer of a list takes.
const BYTES: usize = 64 * 1024 * 1024;
const EACH: usize = 1024 * 1024;
/// Reads that wait: of all, of a tenant, of a token.
const QUEUE: usize = 4096;
const TENANT_QUEUE: usize = 1024;
const TOKEN_QUEUE: usize = 256;

/// Whose share something is: a tenant's, or that of a token that is confined to none.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Name {
    /// All tokens that are confined to it.
    Tenant(TenantId),
    /// One token.
    Token(Arc<str>),
}

/// Who reads.
pub type Reader = Who<Name>;

/// Why a read gets no turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Busy {
    /// Too many reads of its token wait.
    Token,
    /// Too many reads of its tenant wait.
    Tenant,
    /// Too many reads wait.
    All,
    /// The program is stopping.
    Stopping,
}

/// Gives turns.
#[derive(Clone)]
pub struct Reads(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    stopping: CancellationToken,
    counts: ReadCounts,
}

struct State {
    turns: Turns<Name>,
    waiting: HashMap<Ticket, oneshot::Sender<()>>,
    under_way: HashSet<Ticket>,
}

/// A turn. It ends when this is dropped.
#[must_use]
pub struct Turn {
    reads: Reads,
    reader: Reader,
    ticket: Ticket,
}

/// An answer that its caller has not taken yet. It counts until this is dropped.
#[must_use]
pub struct Answer {
    reads: Reads,
    reader: Reader,
    bytes: usize,
}

impl Reads {
    /// Nobody reads yet. When `stopping` is cancelled, nobody gets a turn any more.
    #[must_use]
    pub fn new(stopping: CancellationToken, counts: ReadCounts) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self::with_places((processors * PER_PROCESSOR).clamp(LEAST, MOST), stopping, counts)
    }

    /// The same, with so many reads at once.
    #[must_use]
    pub fn with_places(places: usize, stopping: CancellationToken, counts: ReadCounts) -> Self {
        let turns = Turns::new(Limits {
            places,
            bytes: BYTES,
            each: EACH,
            queue: QUEUE,
            party_queue: TENANT_QUEUE,
            member_queue: TOKEN_QUEUE,
        });
        let state = State { turns, waiting: HashMap::new(), under_way: HashSet::new() };
        Self(Arc::new(Inner { state: Mutex::new(state), stopping, counts }))
    }

    /// Waits for a turn.
    ///
    /// # Errors
    /// [`Busy`].
    pub async fn turn(&self, reader: &Reader) -> Result<Turn, Busy> {
        let (begins, mut begun) = oneshot::channel();
        // Dropped before the receiver: whoever gives up leaves the queue first.
        let turn = self.ask(reader, begins).inspect_err(|busy| self.0.counts.refused(*busy))?;
        let done = tokio::select! {
            biased;
            () = self.0.stopping.cancelled() => Err(Busy::Stopping),
            // Without a word, another one's call has taken its place in the queue.
            begun = &mut begun => begun.map_err(|_| Busy::All),
        };
        match done {
            Ok(()) => Ok(turn),
            Err(busy) => {
                self.0.counts.refused(busy);
                Err(busy)
            }
        }
    }

    /// Calls that wait, and turns under way.
    #[must_use]
    pub fn load(&self) -> (usize, usize) {
        let state = self.state();
        (state.turns.waiting(), state.turns.under_way())
    }

    /// Bytes of answers that are being made or not yet taken.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.state().turns.bytes()
    }

    fn ask(&self, reader: &Reader, begins: oneshot::Sender<()>) -> Result<Turn, Busy> {
        let mut state = self.state();
        let queued = state.turns.ask(reader).map_err(|refused| match refused {
            turns::Refused::Member => Busy::Token,
            turns::Refused::Party => Busy::Tenant,
            turns::Refused::All => Busy::All,
        })?;
        if let Some(displaced) = queued.displaced {
            state.waiting.remove(&displaced);
        }
        state.waiting.insert(queued.ticket, begins);
        let turn = Turn { reads: self.clone(), reader: reader.clone(), ticket: queued.ticket };
        self.go_on(&mut state);
        Ok(turn)
    }

    /// Starts what can be started.
    fn go_on(&self, state: &mut State) {
        while let Some((_, ticket)) = state.turns.start() {
            state.under_way.insert(ticket);
            if let Some(begins) = state.waiting.remove(&ticket) {
                // Who has gone meanwhile ends the turn by being dropped.
                let _gone = begins.send(());
            }
        }
        let turns = &state.turns;
        self.0.counts.show(turns.waiting(), turns.under_way(), turns.bytes());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    /// Ends the turn with an answer of so many bytes.
    pub fn answered(self, bytes: usize) -> Answer {
        let answer = Answer { reads: self.reads.clone(), reader: self.reader.clone(), bytes };
        self.end(bytes);
        answer
    }

    fn end(&self, bytes: usize) {
        let mut state = self.reads.state();
        if state.under_way.remove(&self.ticket) {
            state.turns.end(&self.reader, bytes);
        } else if state.waiting.remove(&self.ticket).is_some() {
            state.turns.give_up(&self.reader, self.ticket);
        }
        self.reads.go_on(&mut state);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.end(0);
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let mut state = self.reads.state();
        state.turns.taken(&self.reader, self.bytes);
        self.reads.go_on(&mut state);
    }
}

#[cfg(test)]
mod tests;
