//! Work that only needs a processor, for schemas and filters that people wrote: done on a few threads of its own, never
//! on those that serve connections, and shared fairly between tenants (`compute::turns`).
//!
//! A piece of work is done in slices of about two milliseconds, so that a tenant with little work waits for a slice at
//! most, and not for a batch. It ends early when its caller is gone or has waited too long, and when it has used more
//! of a processor than one call may, whatever it was reckoned to cost.

mod turns;

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use postrider_domain::cost::{Budget, Probe};
use postrider_domain::id::TenantId;
use tokio::sync::oneshot;
use tracing::error;

use self::turns::{Limits, Next, Turns};
use crate::clock::{Clock, processor_time};
use crate::metrics::Metrics;

/// What the work of one call may be reckoned to cost, in units of about a nanosecond.
pub const CALL_COST: u64 = 250_000_000;
/// How much of a processor's time it may use, should it have been reckoned wrong.
const CALL_TIME: Duration = Duration::from_secs(1);
/// After so much of a processor's time others have their turn.
const SLICE: Duration = Duration::from_millis(2);
/// What may wait: the queue of one tenant holds as many events as a stream and some batches have under way.
const LIMITS: Limits = Limits { tasks: 4096, bytes: 16 * 1024 * 1024, all_bytes: 64 * 1024 * 1024 };
/// The most threads that there are unless more are wanted.
const MOST_THREADS: usize = 4;
/// The fewest: one is left for others when a tenant's work keeps one busy.
const FEWEST_THREADS: usize = 2;

/// What work is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// To judge events by schemas and filters.
    Judge,
    /// To compile a schema.
    Compile,
    /// To explain what filters say.
    Explain,
}

impl Kind {
    /// Its name in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Judge => "judge",
            Self::Compile => "compile",
            Self::Explain => "explain",
        }
    }
}

/// A piece of work.
pub trait Work: Send + 'static {
    /// What comes of it.
    type Output: Send + 'static;

    /// What it is for.
    const KIND: Kind;

    /// Goes on with it; nothing when others are to have their turn first. What it does is counted in the budget.
    fn step(&mut self, slice: &Slice, budget: &mut Budget) -> Option<Self::Output>;
}

/// A turn of a piece of work.
#[derive(Debug)]
pub struct Slice {
    began: Duration,
}

impl Slice {
    /// A turn that begins now, on this thread.
    #[must_use]
    pub fn begin() -> Self {
        let began = processor_time();
        BEGAN.set(began);
        Self { began }
    }

    /// How much of a processor's time it has had.
    #[must_use]
    pub fn had(&self) -> Duration {
        processor_time().saturating_sub(self.began)
    }

    /// Whether it has had enough.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.had() >= SLICE
    }
}

thread_local! {
    /// When the turn on this thread began, by the thread's own time.
    static BEGAN: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// Why work is not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Too much of the tenant's work waits already.
    #[error("too many of the tenant's events wait to be judged by schemas and filters")]
    Busy,
    /// The program is stopping, or the work has failed for a fault of ours.
    #[error("the work was not done")]
    Failed,
}

/// Where work is handed in.
#[derive(Clone)]
pub struct Compute(Arc<Owner>);

/// Ends the threads when nobody can hand in work any more.
struct Owner(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// Something is to be done, or there will be nothing any more.
    work: Condvar,
    clock: Clock,
    metrics: Arc<Metrics>,
}

struct State {
    turns: Turns<TenantId, Box<dyn Task>>,
    closed: bool,
}

/// Work with where its outcome goes.
trait Task: Send {
    fn kind(&self) -> Kind;
    /// Whether somebody waits for it.
    fn is_wanted(&self) -> bool;
    /// Whether it is done.
    fn go_on(&mut self, slice: &Slice) -> bool;
}

struct Doing<W: Work> {
    work: W,
    budget: Budget,
    wanted: Arc<Wanted>,
    outcome: Option<oneshot::Sender<W::Output>>,
}

/// What a piece of work asks from time to time.
#[derive(Default)]
struct Wanted {
    gone: AtomicBool,
    /// What it had in earlier turns, in nanoseconds.
    had: AtomicU64,
}

/// Whoever waits for a piece of work.
struct Waits(Arc<Wanted>);

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.gone.store(true, Ordering::Relaxed);
    }
}

impl Compute {
    /// Starts threads: as many as wanted, or one less than there are processors, at least two and at most four.
    ///
    /// # Errors
    /// When the system starts no more threads.
    pub fn start(threads: Option<usize>, clock: Clock, metrics: Arc<Metrics>) -> std::io::Result<Self> {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let usual = (processors - 1).clamp(FEWEST_THREADS, MOST_THREADS);
        let threads = threads.unwrap_or(usual).max(1);
        let turns = Turns::new(u32::try_from(threads).unwrap_or(u32::MAX), LIMITS);
        let state = Mutex::new(State { turns, closed: false });
        let shared = Arc::new(Shared { state, work: Condvar::new(), clock, metrics });
        let compute = Self(Arc::new(Owner(shared.clone())));
        for number in 1..=threads {
            let shared = shared.clone();
            std::thread::Builder::new().name(format!("compute-{number}")).spawn(move || shared.run())?;
        }
        Ok(compute)
    }

    /// Has work done for a tenant that holds so many bytes. When the caller does not wait any more, it ends.
    ///
    /// # Errors
    /// Why it is not done.
    pub async fn run<W: Work>(&self, tenant: &TenantId, bytes: usize, work: W) -> Result<W::Output, Refused> {
        let wanted = Arc::<Wanted>::default();
        let asked = wanted.clone();
        let probe: Probe = Arc::new(move || asked.is_over());
        let (outcome, waiting) = oneshot::channel();
        let budget = Budget::new(CALL_COST, Some(probe));
        let task = Doing { work, budget, wanted: wanted.clone(), outcome: Some(outcome) };
        self.0.0.hand_in(tenant, bytes, Box::new(task))?;
        let _until_done = Waits(wanted);
        waiting.await.map_err(|_| Refused::Failed)
    }

    /// A call was refused, since it would cost too much.
    pub(crate) fn refused_for_cost(&self) {
        self.0.0.metrics.compute.refused("call_cost");
    }

    /// How many pieces of work wait and run.
    #[must_use]
    pub fn counts(&self) -> (usize, u32) {
        self.0.0.state().turns.counts()
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.state().closed = true;
        self.0.work.notify_all();
    }
}

impl Wanted {
    fn is_over(&self) -> bool {
        let had = Duration::from_nanos(self.had.load(Ordering::Relaxed));
        let now = processor_time().saturating_sub(BEGAN.get());
        self.gone.load(Ordering::Relaxed) || had + now >= CALL_TIME
    }
}

impl<W: Work> Task for Doing<W> {
    fn kind(&self) -> Kind {
        W::KIND
    }

    fn is_wanted(&self) -> bool {
        !self.wanted.gone.load(Ordering::Relaxed)
    }

    fn go_on(&mut self, slice: &Slice) -> bool {
        let done = self.work.step(slice, &mut self.budget);
        let had = u64::try_from(slice.had().as_nanos()).unwrap_or(u64::MAX);
        self.wanted.had.fetch_add(had, Ordering::Relaxed);
        let Some(done) = done else { return false };
        if let Some(outcome) = self.outcome.take() {
            let _nobody_waits = outcome.send(done);
        }
        true
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hand_in(&self, tenant: &TenantId, bytes: usize, task: Box<dyn Task>) -> Result<(), Refused> {
        let mut state = self.state();
        if state.closed {
            return Err(Refused::Failed);
        }
        if !state.turns.admits(tenant, bytes) {
            state.turns.forget(tenant, |task| task.is_wanted());
            if !state.turns.admits(tenant, bytes) {
                self.metrics.compute.refused("busy");
                return Err(Refused::Busy);
            }
        }
        state.turns.push(tenant, task, bytes, self.clock.since_start());
        self.show(&state);
        self.work.notify_one();
        Ok(())
    }

    /// Works until nobody can hand in anything any more.
    fn run(&self) {
        while let Some((tenant, mut task, bytes)) = self.next() {
            let slice = Slice::begin();
            let wanted = task.is_wanted();
            let done = !wanted || catch_unwind(AssertUnwindSafe(|| task.go_on(&slice))).unwrap_or_else(|_| {
                error!(kind = task.kind().as_str(), %tenant, "evaluating events failed with an internal error");
                true
            });
            let had = slice.had();
            self.metrics.compute.had(task.kind().as_str(), had);
            let rest = (!done).then_some(task);
            let mut state = self.state();
            state.turns.ended(&tenant, bytes, had, self.clock.since_start(), rest);
            self.show(&state);
            // Another thread may take what this tenant could not have before.
            self.work.notify_one();
        }
    }

    fn next(&self) -> Option<(TenantId, Box<dyn Task>, usize)> {
        let mut state = self.state();
        loop {
            if state.closed {
                return None;
            }
            let wait = match state.turns.take(self.clock.since_start()) {
                Next::Work(tenant, task, bytes) => {
                    self.show(&state);
                    return Some((tenant, task, bytes));
                }
                Next::Later(wait) => wait,
                Next::Nothing => Duration::from_secs(60),
            };
            let woken = self.work.wait_timeout(state, wait);
            (state, _) = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn show(&self, state: &State) {
        let (waiting, running) = state.turns.counts();
        self.metrics.compute.tasks(waiting, running);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(threads: usize) -> Compute {
        Compute::start(Some(threads), Clock::start(), Arc::default()).expect("threads")
    }

    /// Counts slices until it was stopped, or has had so many.
    struct Spin {
        slices: u32,
    }

    impl Work for Spin {
        type Output = bool;
        const KIND: Kind = Kind::Judge;

        fn step(&mut self, slice: &Slice, budget: &mut Budget) -> Option<bool> {
            while !slice.is_over() {
                if budget.spend(1).is_err() {
                    return Some(false);
                }
            }
            self.slices = self.slices.saturating_sub(1);
            (self.slices == 0).then_some(true)
        }
    }

    struct Panics;

    impl Work for Panics {
        type Output = ();
        const KIND: Kind = Kind::Explain;

        fn step(&mut self, _: &Slice, _: &mut Budget) -> Option<()> {
            panic!("as it is to be")
        }
    }

    async fn until_idle(compute: &Compute) {
        while compute.counts() != (0, 0) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn work_ends_when_its_caller_is_gone_or_its_time_is_used() {
        let compute = start(1);
        let (evil, acme) = ("evil".parse().unwrap(), "acme".parse().unwrap());
        for _ in 0..20 {
            let endless = compute.run(&evil, 1, Spin { slices: u32::MAX });
            assert!(tokio::time::timeout(Duration::from_millis(5), endless).await.is_err());
        }
        assert_eq!(compute.run(&acme, 1, Spin { slices: 2 }).await, Ok(true));
        until_idle(&compute).await;
        assert_eq!(compute.run(&evil, 1, Spin { slices: u32::MAX }).await, Ok(false));
        until_idle(&compute).await;
    }

    #[tokio::test]
    async fn a_panic_is_one_callers_failure() {
        let compute = start(1);
        let tenant = "acme".parse().unwrap();
        assert_eq!(compute.run(&tenant, 1, Panics).await, Err(Refused::Failed));
        assert_eq!(compute.run(&tenant, 1, Spin { slices: 1 }).await, Ok(true));
    }

    #[tokio::test]
    async fn a_tenants_queue_is_bounded_and_others_come_in() {
        let compute = start(1);
        let (evil, acme): (TenantId, TenantId) = ("evil".parse().unwrap(), "acme".parse().unwrap());
        let mut waiting = Vec::new();
        for _ in 0..3 {
            let (compute, evil) = (compute.clone(), evil.clone());
            waiting.push(tokio::spawn(async move {
                compute.run(&evil, 6 * 1024 * 1024, Spin { slices: 100 }).await
            }));
        }
        let mut refused = 0;
        while refused == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let more = compute.run(&evil, 12 * 1024 * 1024, Spin { slices: 1 });
            refused += u32::from(more.await == Err(Refused::Busy));
        }
        assert_eq!(compute.run(&acme, 1024, Spin { slices: 1 }).await, Ok(true));
        for one in waiting {
            let outcome = one.await.unwrap();
            assert!(matches!(outcome, Ok(true) | Err(Refused::Busy)), "{outcome:?}");
        }
    }
}
