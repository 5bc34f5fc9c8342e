//! Disables subscriptions whose endpoint is gone or fails continuously, and enables again those whose endpoint answers.
//!
//! The schedule has acted already when a change comes here: it holds the lane, or probes it rarely, or lets it go. Here it
//! is written down, so that people see it and a restart knows it, and what the failure policy says of events is done.

mod sweep;

use std::time::Duration;

use ahash::{HashSet, HashSetExt as _};
use postrider_domain::id::SubscriptionId;
use postrider_domain::lane::health::View;
use postrider_domain::subscription::DisableCause;
use postrider_domain::time::Timestamp;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{Instrument as _, error, info, warn};

use crate::api::Api;
use crate::operational::{About, Notice, Notices};

/// Changes that may wait.
const QUEUE: usize = 10_000;
/// How long a change waits for a store that fails.
const RETRY: Duration = Duration::from_secs(1);

/// What is to become of a subscription.
#[derive(Debug)]
pub enum Change {
    /// Disabled: its endpoint answered 410.
    Gone(SubscriptionId),
    /// Disabled: its endpoint has failed continuously for as long as its policy bears.
    Failing(SubscriptionId, Box<View>),
    /// Swept: it is disabled for its failures, and its owner wants nothing of that time, since now.
    Sweep(SubscriptionId),
    /// Enabled: it was disabled for its failures, and its endpoint answers.
    Enable(SubscriptionId),
}

/// Where changes are wished.
#[derive(Clone, Debug)]
pub struct Changes(mpsc::Sender<Change>);

/// The queue that belongs to a [`Changes`].
#[derive(Debug)]
pub struct Queue(mpsc::Receiver<Change>);

/// A queue, and its receiving end for [`run`].
#[must_use]
pub fn queue() -> (Changes, Queue) {
    let (changes, queue) = mpsc::channel(QUEUE);
    (Changes(changes), Queue(queue))
}

impl Changes {
    /// Wishes a change. It never waits: what finds no room is in force until the next restart, and comes again.
    pub fn want(&self, change: Change) {
        if let Err(refused) = self.0.try_send(change) {
            let change = refused.into_inner();
            error!(
                ?change,
                "dropped a change of a subscription's state: queue full; it is in force but not stored"
            );
        }
    }
}

/// Makes changes until nobody wishes any more.
pub async fn run(mut queue: Queue, api: Api, notices: Notices) {
    let mut sweeps = Sweeps { api: api.clone(), tasks: JoinSet::new(), of: HashSet::new() };
    api.registry.all().iter().for_each(|row| sweeps.begin(row.subscription.id));
    loop {
        let change = tokio::select! {
            change = queue.0.recv() => change,
            Some(ended) = sweeps.tasks.join_next() => {
                sweeps.of.remove(&ended.expect("a sweep catches its panics and is never aborted"));
                continue;
            }
        };
        let Some(change) = change else { return };
        let (id, cause, view) = match change {
            Change::Gone(id) => (id, DisableCause::Gone, None),
            Change::Failing(id, view) => (id, DisableCause::Failing, Some(view)),
            Change::Enable(id) => {
                enable(&api, id).await;
                continue;
            }
            Change::Sweep(id) => {
                sweeps.begin(id);
                continue;
            }
        };
        let reason = reason(view.as_deref(), api.clock.now());
        warn!(subscription = %id, "{reason}; the subscription is disabled");
        let disabled = disable(&api, id, cause, &reason).await;
        if disabled {
            notices.tell(Notice::Subscription(id, About::Disabled { cause, reason, view }));
        }
        sweeps.begin(id);
    }
}

/// Sweeps under way: one of a subscription, so that two do not take each other's last delivery.
struct Sweeps {
    api: Api,
    tasks: JoinSet<SubscriptionId>,
    of: HashSet<SubscriptionId>,
}

impl Sweeps {
    /// Begins to cancel what waits, if the subscription drops it.
    fn begin(&mut self, id: SubscriptionId) {
        let drops = self.api.registry.get(id).is_some_and(|row| row.subscription.drops());
        if drops && self.of.insert(id) {
            self.tasks.spawn(sweep::run(self.api.clone(), id).in_current_span());
        }
    }
}

async fn disable(api: &Api, id: SubscriptionId, cause: DisableCause, reason: &str) -> bool {
    loop {
        match api.disable(id, cause, reason).await {
            Ok(disabled) => return disabled,
            Err(error) => {
                warn!(subscription = %id, %error, "failed to disable the subscription, its deliveries are held; retrying");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

async fn enable(api: &Api, id: SubscriptionId) {
    info!(subscription = %id, "the endpoint responds again; the subscription is enabled");
    while let Err(error) = api.enable(id).await {
        warn!(subscription = %id, %error, "failed to store that the subscription is enabled, its deliveries go out; retrying");
        tokio::time::sleep(RETRY).await;
    }
}

/// Why, for people.
fn reason(view: Option<&View>, now: Timestamp) -> String {
    let Some(view) = view else { return "the endpoint answered 410 Gone".to_owned() };
    let since = view.failing_since.unwrap_or(now);
    let last = view.last_failure.as_ref().map(|failure| format!("; the last attempt: {failure}"));
    let failing_for = roughly(now.since(since));
    format!(
        "the endpoint has failed continuously for {failing_for}, since {since}{}",
        last.unwrap_or_default()
    )
}

fn roughly(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let units = [(86_400, "days"), (3_600, "hours"), (60, "minutes")];
    let found = units.into_iter().find(|(unit, _)| seconds >= 2 * unit);
    found.map_or_else(|| format!("{seconds} seconds"), |(unit, name)| format!("{} {name}", seconds / unit))
}

#[cfg(test)]
mod tests {
    use postrider_domain::lane::Backlog;
    use postrider_domain::lane::health::{Failure, State};
    use postrider_domain::outcome::Class;

    use super::*;

    #[test]
    fn reasons_are_sentences() {
        let since = Timestamp::parse("2026-02-02T10:30:00Z").unwrap();
        let failure =
            Failure { time: since, class: Class::HttpStatus, status: Some(503), detail: String::new() };
        let view = View {
            state: State::CircuitOpen,
            failing_since: Some(since),
            failures: 400,
            last_success: None,
            last_failure: Some(failure),
            next_probe: None,
            disable_at: None,
            backlog: Backlog::default(),
        };
        assert_eq!(
            reason(Some(&view), since + Duration::from_secs(5 * 86_400)),
            "the endpoint has failed continuously for 5 days, since 2026-02-02T10:30:00Z; the last attempt: status 503"
        );
        assert_eq!(roughly(Duration::from_secs(7_200)), "2 hours");
        assert_eq!(roughly(Duration::from_secs(7_199)), "119 minutes");
        assert_eq!(roughly(Duration::from_secs(90)), "90 seconds");
    }
}
