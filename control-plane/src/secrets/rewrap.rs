//! Moves every secret to a new data key, under the current key-encryption key.
//!
//! Whether a rewrap is under way is in the store itself: there is more than one data key. So a start, whoever ended the
//! last run and when, goes on with it; what is moved is seen at each value. The former data keys are removed when a
//! whole pass has found nothing to move, and the store refuses even then if something still needs one.
//!
//! The API goes on meanwhile: changes of subscriptions are held off for one step at a time, events not at all.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use postrider_domain::audit::Entry;
use postrider_domain::id::SubscriptionId;
use postrider_domain::time::Timestamp;
use tokio::sync::Notify;
use tracing::{error, info, warn};

use super::subscription::reseal_subscription;
use super::{Keks, Sealer, SecretsError, data_keys};
use crate::authority::Authorities;
use crate::clock::Clock;
use crate::registry::Registry;
use crate::store::{Store, StoreError, SubscriptionRow};

/// Subscriptions that one step moves. Changes wait that long.
const STEP: usize = 50;
/// The pause between two steps, in which changes go on.
const PAUSE: Duration = Duration::from_millis(20);
/// How long it waits for a store that cannot be written.
const RETRY: Duration = Duration::from_secs(1);

/// How a rewrap stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Whether it runs.
    pub state: State,
    /// When it began, or went on.
    pub started: Option<Timestamp>,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// How many values there are.
    pub values: u64,
    /// How many of them are sealed with the new data key.
    pub done: u64,
    /// What holds it up.
    pub problem: String,
}

/// Whether a rewrap runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// There was none since the start.
    #[default]
    None,
    /// It does.
    Running,
    /// It has come to its end.
    Done,
    /// It cannot go on.
    Failed,
}

/// Where secrets are. Each holds off its changes while what it holds is sealed anew.
#[derive(Clone)]
pub struct Holders {
    /// What they are kept in.
    pub store: Arc<dyn Store>,
    /// Subscriptions: signing keys and headers.
    pub registry: Arc<Registry>,
    /// Authorities: their keys.
    pub authorities: Arc<Authorities>,
}

/// Moves secrets when it is told to, or finds that it was.
pub struct Rewrapper {
    holders: Holders,
    /// What seals them.
    sealer: Sealer,
    /// Under which.
    pub keks: Keks,
    /// For what people see.
    clock: Clock,
    progress: Mutex<Progress>,
    /// Held while a rewrap is begun.
    beginning: tokio::sync::Mutex<()>,
    wake: Notify,
}

impl Rewrapper {
    /// A rewrapper that has done nothing yet.
    #[must_use]
    pub fn new(holders: Holders, sealer: Sealer, keks: Keks, clock: Clock) -> Self {
        let (progress, beginning, wake) = (Mutex::default(), tokio::sync::Mutex::new(()), Notify::new());
        Self { holders, sealer, keks, clock, progress, beginning, wake }
    }

    /// Begins a rewrap, unless one runs; how it stands.
    ///
    /// # Errors
    /// When the new data key cannot be wrapped or written. Then nothing has begun.
    pub async fn begin(&self, audit: Entry) -> Result<Progress, SecretsError> {
        let _one = self.beginning.lock().await;
        if !self.sealer.has_former() {
            data_keys::add(&*self.holders.store, &self.keks, &self.sealer, audit).await?;
        }
        if self.progress().state != State::Running {
            self.note_begin();
            self.wake.notify_one();
        }
        Ok(self.progress())
    }

    /// How the rewrap that runs or was the last stands.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.noted().clone()
    }

    /// Runs until it is cancelled.
    pub async fn run(&self) {
        loop {
            if self.sealer.has_former() {
                self.try_to_finish().await;
            }
            self.wake.notified().await;
        }
    }

    async fn try_to_finish(&self) {
        self.note_begin();
        while let Err(problem) = self.rewrap().await {
            self.noted().problem = problem.to_string();
            if !matches!(problem, SecretsError::Store(StoreError::Unavailable(_) | StoreError::Full(_))) {
                error!(%problem, "the rewrap stopped; all secrets can still be decrypted");
                let mut progress = self.noted();
                progress.state = State::Failed;
                progress.ended = Some(self.clock.wall());
                return;
            }
            warn!(%problem, "the rewrap failed; retrying");
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Moves what is to be moved, and removes what nothing needs any more.
    async fn rewrap(&self) -> Result<(), SecretsError> {
        while self.pass().await? > 0 {}
        let current = self.sealer.current();
        let mut former: Vec<_> =
            self.holders.store.data_keys().await?.into_iter().map(|row| row.id).collect();
        former.retain(|id| *id != current);
        let removed: Vec<String> = former.iter().map(ToString::to_string).collect();
        let audit = Entry {
            time: self.clock.wall(),
            actor: "postrider".to_owned(),
            address: String::new(),
            action: "RemoveDataKeys".to_owned(),
            target: removed.join(" "),
            tenant: None,
            request_id: String::new(),
            detail: format!("everything is sealed with {current}, under {}", self.sealer.kek()),
        };
        self.holders.store.remove_data_keys(former, audit).await?;
        self.sealer.forget_former();
        let mut progress = self.noted();
        progress.state = State::Done;
        progress.ended = Some(self.clock.wall());
        progress.values = progress.done;
        progress.problem.clear();
        info!(values = progress.done, data_key = %current, "rewrap finished");
        Ok(())
    }

    /// Goes over everything that is sealed; how many values it has moved. Whoever holds sealed values has its line here:
    /// while one is forgotten, the store refuses to remove what it needs.
    async fn pass(&self) -> Result<u64, SecretsError> {
        let (values, moved) = self.holders.authorities.reseal().await?;
        self.noted().done = values;
        Ok(moved + self.subscriptions().await?)
    }

    async fn subscriptions(&self) -> Result<u64, SecretsError> {
        let (mut moved, mut after) = (0, None);
        loop {
            let step = {
                let _change = self.holders.registry.change().await;
                self.step(after).await?
            };
            moved += step.moved;
            let Some(last) = step.last else { return Ok(moved) };
            self.noted().done += step.values;
            after = Some(last);
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn step(&self, after: Option<SubscriptionId>) -> Result<Step, SecretsError> {
        let rows = self.holders.store.subscriptions(after, STEP).await?;
        let mut step = Step { last: rows.last().map(|row| row.subscription.id), ..Step::default() };
        let mut resealed: Vec<SubscriptionRow> = Vec::new();
        for row in rows {
            let former = count(row.sealed().filter(|sealed| !self.sealer.is_current(sealed)));
            step.values += count(row.sealed());
            if former > 0 {
                step.moved += former;
                resealed.push(reseal_subscription(&self.sealer, row)?);
            }
        }
        if !resealed.is_empty() {
            self.holders.store.reseal_subscriptions(resealed).await?;
        }
        Ok(step)
    }

    fn note_begin(&self) {
        let values: u64 = self.holders.registry.all().iter().map(|row| row.secrets()).sum();
        let values = values + self.holders.authorities.kept();
        let mut progress = self.noted();
        let begun =
            Progress { state: State::Running, started: Some(self.clock.wall()), ..Progress::default() };
        if progress.state != State::Running {
            *progress = Progress { values, ..begun };
        }
    }

    // A panic elsewhere while the lock was held leaves nothing half done: it is numbers for people.
    fn noted(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a step has done.
#[derive(Default)]
struct Step {
    /// Values that it has seen.
    values: u64,
    /// Those of them that it has moved.
    moved: u64,
    /// Where to go on; `None` at the end.
    last: Option<SubscriptionId>,
}

fn count(values: impl Iterator) -> u64 {
    u64::try_from(values.count()).unwrap_or(u64::MAX)
}
