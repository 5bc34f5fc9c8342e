//! `WatchDeliveries`: what happens to deliveries, live, and before that what has happened since a position.
//!
//! What is live comes by a bounded channel; a reader that lags behind it is told how much it has missed, and goes on from
//! its last position if it wants that. A stream that begins at a position is subscribed first and reads the store then, up to
//! the head of that moment: what is behind the head comes live, what is not is in the store.

use std::sync::Arc;

use postrider_domain::event::EventTypeName;
use postrider_domain::id::{EventKey, SubscriptionId, TenantId};
use postrider_domain::pattern::Pattern;
use postrider_domain::time::Timestamp;
use postrider_domain::violation::Violation;
use postrider_proto::time;
use postrider_proto::v1::{self, DeliveryState, OutcomeClass, WatchDeliveriesResponse};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::api::{Api, status};
use crate::store::{Change, ChangeQuery, DeliveryQuery, DeliveryRow, StoreError};
use crate::watch::{Update, position_at};

/// Updates that wait for a reader: behind it, they are counted as missed.
const WATCH_QUEUE: usize = 64;
/// Patterns of a filter.
const MAX_TYPES: usize = 100;

type Answers = ReceiverStream<Result<WatchDeliveriesResponse, Status>>;

/// Nobody reads any more, or the stream has failed: either way it is over.
struct Over;

/// Begins a stream of updates.
pub(super) async fn begin(api: Api, request: &v1::WatchDeliveriesRequest) -> Result<Answers, Status> {
    let tenant = api.tenant(&request.tenant)?;
    let subscription = match request.subscription.as_str() {
        "" => None,
        id => Some(api.subscription(&request.tenant, id)?.subscription.id),
    };
    let filter = Filter::read(request)?;
    // Subscribed before the first read, so that nothing falls between the two.
    let updates = api.updates.subscribe(&tenant);
    let head = api.updates.head();
    let from = read_from(request, head)?;
    let event = match request.event.as_str() {
        "" => None,
        id => Some(api.event_row(&tenant, id).await?.event.key),
    };
    let (sender, answers) = mpsc::channel(WATCH_QUEUE);
    let watcher = Watcher { api, tenant, subscription, event, filter, sender };
    tokio::spawn(async move {
        let _over = match event {
            Some(_) => watcher.of_event(updates).await,
            None => watcher.of_tenant(updates, from, head).await,
        };
    });
    Ok(ReceiverStream::new(answers))
}

/// After which position it begins, if not now.
fn read_from(request: &v1::WatchDeliveriesRequest, head: u64) -> Result<Option<u64>, Status> {
    let wanted = (request.from_position.as_str(), request.from_time.as_ref());
    if wanted != ("", None) && !request.event.is_empty() {
        return Err(status::invalid_field(
            "event",
            "is watched from its beginning; leave from_position and from_time out",
        ));
    }
    match wanted {
        ("", None) => Ok(None),
        ("", Some(given)) => {
            let given = time::read("from_time", given).map_err(|violation| status::invalid(&[violation]))?;
            Ok(Some(position_at(given).saturating_sub(1).min(head)))
        }
        (_, Some(_)) => Err(status::invalid_field("from_time", "is not set together with from_position")),
        (position, None) => {
            let position: u64 = position.parse().map_err(|_| {
                status::invalid_field("from_position", "must be a position that a stream gave")
            })?;
            if position > head {
                return Err(status::precondition(
                    "POSITION_UNKNOWN",
                    "this store has never been at from_position (was it restored from a backup?); begin at a time",
                ));
            }
            Ok(Some(position))
        }
    }
}

/// Which updates are wanted, beside whose.
struct Filter {
    event_types: Vec<Pattern>,
    states: Vec<DeliveryState>,
    outcomes: Vec<OutcomeClass>,
}

impl Filter {
    fn read(request: &v1::WatchDeliveriesRequest) -> Result<Self, Status> {
        let mut violations = Vec::new();
        if request.event_types.len() > MAX_TYPES {
            violations.push(Violation::new("event_types", "must be at most 100"));
        }
        let mut event_types = Vec::new();
        for (at, pattern) in request.event_types.iter().enumerate() {
            match pattern.parse::<Pattern>() {
                Ok(pattern) => event_types.push(pattern),
                Err(error) => {
                    violations.push(Violation::new(format!("event_types[{at}]"), error.to_string()))
                }
            }
        }
        let states: Vec<_> = request.states().collect();
        if states.len() != request.states.len() || states.contains(&DeliveryState::Unspecified) {
            violations.push(Violation::new("states", "must be states of deliveries"));
        }
        let outcomes: Vec<_> = request.outcomes().collect();
        if outcomes.len() != request.outcomes.len() || outcomes.contains(&OutcomeClass::Unspecified) {
            violations.push(Violation::new("outcomes", "must be outcomes of attempts"));
        }
        if violations.is_empty() {
            Ok(Self { event_types, states, outcomes })
        } else {
            Err(status::invalid(&violations))
        }
    }

    fn wants(&self, delivery: &v1::Delivery) -> bool {
        let outcome = delivery.last_attempt.as_ref().map(v1::Attempt::outcome);
        let of_type = |name: &EventTypeName| self.event_types.iter().any(|pattern| pattern.matches(name));
        (self.event_types.is_empty() || delivery.event_type.parse().is_ok_and(|name| of_type(&name)))
            && (self.states.is_empty() || self.states.contains(&delivery.state()))
            && (self.outcomes.is_empty() || outcome.is_some_and(|outcome| self.outcomes.contains(&outcome)))
    }
}

/// One stream of updates.
struct Watcher {
    api: Api,
    tenant: TenantId,
    subscription: Option<SubscriptionId>,
    event: Option<EventKey>,
    filter: Filter,
    sender: mpsc::Sender<Result<WatchDeliveriesResponse, Status>>,
}

impl Watcher {
    /// All that happens, first what has happened after `from` and up to `head`.
    async fn of_tenant(
        &self,
        mut updates: broadcast::Receiver<Arc<Update>>,
        from: Option<u64>,
        head: u64,
    ) -> Result<(), Over> {
        if let Some(from) = from {
            self.tell(from, 0).await?;
            self.catch_up(from, head).await?;
        }
        self.tell(head, 0).await?;
        // Where a stream goes on that misses nothing of what was not told yet.
        let mut position = head;
        let mut missed = 0;
        loop {
            match self.next(&mut updates).await? {
                // It was there when the store was read.
                Ok(update) if from.is_some() && update.position <= head => {}
                Ok(update) if self.wants(&update) => {
                    if missed > 0 {
                        self.tell(position, missed).await?;
                        missed = 0;
                    }
                    position = position.max(update.before);
                    let row = DeliveryRow {
                        id: update.id,
                        delivery: update.delivery,
                        last: update.attempt.clone(),
                    };
                    self.send_row(row, position).await?;
                }
                Ok(update) => {
                    if missed == 0 {
                        position = position.max(update.before);
                    }
                }
                Err(count) => missed += count,
            }
        }
    }

    /// An event's deliveries as they stand and what happens to them, until all have ended.
    async fn of_event(&self, mut updates: broadcast::Receiver<Arc<Update>>) -> Result<(), Over> {
        for row in self.rows().await? {
            self.send_row(row, 0).await?;
        }
        while !self.rows().await?.iter().all(|row| row.delivery.state.has_ended()) {
            // What was missed may have been the end.
            if let Ok(update) = self.next(&mut updates).await?
                && self.wants(&update)
            {
                let row =
                    DeliveryRow { id: update.id, delivery: update.delivery, last: update.attempt.clone() };
                self.send_row(row, 0).await?;
            }
        }
        Ok(())
    }

    /// The next update, or how many were missed.
    async fn next(
        &self,
        updates: &mut broadcast::Receiver<Arc<Update>>,
    ) -> Result<Result<Arc<Update>, u64>, Over> {
        let update = tokio::select! {
            update = updates.recv() => update,
            () = self.sender.closed() => return Err(Over),
            () = self.api.stopping.cancelled() => return Err(Over),
            // The stream itself says so.
            () = self.api.caller.standing.ended.cancelled() => return Err(Over),
        };
        match update {
            Ok(update) => Ok(Ok(update)),
            Err(RecvError::Lagged(count)) => Ok(Err(count)),
            Err(RecvError::Closed) => Err(Over),
        }
    }

    fn wants(&self, update: &Update) -> bool {
        self.event.is_none_or(|event| event == update.delivery.event)
            && self.subscription.is_none_or(|subscription| subscription == update.id.subscription)
    }

    /// Sends what has happened between two positions, out of the store.
    async fn catch_up(&self, after: u64, until: u64) -> Result<(), Over> {
        let mut from = EventKey::first_at(Timestamp::default());
        loop {
            let (tenant, subscription) = (self.tenant.clone(), self.subscription);
            let query = ChangeQuery { tenant, subscription, after, until, from };
            let page = self.read(self.api.store.changes(query).await).await?;
            self.send_changes(page.items, after).await?;
            match page.next {
                Some(next) => from = next,
                None => return Ok(()),
            }
        }
    }

    async fn send_changes(&self, changes: Vec<Change>, position: u64) -> Result<(), Over> {
        let (rows, past): (Vec<_>, Vec<_>) =
            changes.into_iter().map(|change| (change.row, change.past)).unzip();
        let mut views = match self.api.views(&self.tenant, rows).await {
            Ok(views) => views,
            Err(status) => return self.fail(status).await,
        };
        for (view, past) in views.iter_mut().zip(past) {
            if past {
                // What is true of it only now was not true then.
                view.set_state(DeliveryState::Waiting);
                view.set_hold_reason(v1::HoldReason::Unspecified);
            }
        }
        for view in views.into_iter().filter(|view| self.filter.wants(view)) {
            let delivery = Some(view);
            let position = position.to_string();
            self.send(WatchDeliveriesResponse { delivery, missed: 0, position, from_store: true }).await?;
        }
        Ok(())
    }

    async fn send_row(&self, row: DeliveryRow, position: u64) -> Result<(), Over> {
        let mut views = match self.api.views(&self.tenant, vec![row]).await {
            Ok(views) => views,
            Err(status) => return self.fail(status).await,
        };
        let delivery = views.pop().filter(|view| self.filter.wants(view));
        if delivery.is_none() {
            return Ok(());
        }
        let position = if self.event.is_some() { String::new() } else { position.to_string() };
        self.send(WatchDeliveriesResponse { delivery, missed: 0, position, from_store: false }).await
    }

    /// Tells where the stream has come, and what it has missed there.
    async fn tell(&self, position: u64, missed: u64) -> Result<(), Over> {
        let position = position.to_string();
        self.send(WatchDeliveriesResponse { delivery: None, missed, position, from_store: false }).await
    }

    async fn send(&self, answer: WatchDeliveriesResponse) -> Result<(), Over> {
        self.sender.send(Ok(answer)).await.map_err(|_| Over)
    }

    async fn fail<T>(&self, status: Status) -> Result<T, Over> {
        let _already_gone = self.sender.send(Err(status)).await;
        Err(Over)
    }

    async fn read<T>(&self, found: Result<T, StoreError>) -> Result<T, Over> {
        match found {
            Ok(found) => Ok(found),
            Err(error) => self.fail(status::store(&error)).await,
        }
    }

    async fn rows(&self) -> Result<Vec<DeliveryRow>, Over> {
        let query = DeliveryQuery {
            tenant: self.tenant.clone(),
            subscription: self.subscription,
            event: self.event,
            states: Vec::new(),
            start: Timestamp::default(),
            end: Timestamp::MAX,
            limit: usize::MAX,
            after: None,
        };
        self.read(self.api.store.deliveries(query).await).await.map(|found| found.items)
    }
}
