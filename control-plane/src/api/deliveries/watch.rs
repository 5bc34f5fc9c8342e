//! `WatchDeliveries`: what happens to deliveries, live, and before that what has happened since a position.
//!
//! What is live comes by a bounded channel; a reader that lags behind it is told how much it has missed, and goes on from
//! its last position if it wants that. A stream that begins at a position is subscribed first and reads the store then, up to
//! the head of that moment: what is behind the head comes live, what is not is in the store.
//!
//! What is in the store is read in pages, each when it is the caller's turn to read. Whatever a
//! stream does ends at once with its reader, its token and the program.

use std::sync::Arc;

use ahash::{HashSet, HashSetExt as _};
use postrider_domain::event::EventTypeName;
use postrider_domain::id::{DeliveryId, EventKey, SubscriptionId, TenantId};
use postrider_domain::pattern::Pattern;
use postrider_domain::time::Timestamp;
use postrider_domain::violation::Violation;
use postrider_proto::time;
use postrider_proto::v1::{self, DeliveryState, OutcomeClass, WatchDeliveriesResponse};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc};
use tokio_stream::Stream;
use tonic::Status;
use tracing::info_span;

use crate::api::streams::fed;
use crate::api::{Api, status};
use crate::store::{ChangePlace, ChangeQuery, DeliveryPlace, DeliveryQuery, DeliveryRow, Page};
use crate::watch::{Update, position_at};

/// Updates that wait for a reader: behind it, they are counted as missed.
const WATCH_QUEUE: usize = 64;
/// Deliveries of an event that are read at once.
const PAGE: usize = 500;
/// Patterns of a filter.
const MAX_TYPES: usize = 100;

/// Nobody reads any more, or the stream has failed: either way it is over.
struct Over;

/// Unfinished deliveries, the deliveries to send, and where the next page begins.
type PageOfEvent = (Vec<DeliveryId>, Vec<v1::Delivery>, Option<DeliveryPlace>);

/// Begins a stream of updates.
pub(super) async fn begin(
    api: Api,
    request: &v1::WatchDeliveriesRequest,
) -> Result<impl Stream<Item = Result<WatchDeliveriesResponse, Status>> + Send + use<>, Status> {
    let tenant = api.tenant(&request.tenant)?;
    let subscription = match request.subscription.as_str() {
        "" => None,
        id => Some(api.subscription(&request.tenant, id)?.subscription.id),
    };
    let filter = Filter::read(request)?;
    let watching = api.watchers.enter(&api.caller.reader()).map_err(status::too_many_watchers)?;
    // Subscribed before the first read, so that nothing falls between the two.
    let updates = api.updates.subscribe(&tenant);
    let head = api.updates.head();
    let from = read_from(request, head)?;
    let event = match request.event.as_str() {
        "" => None,
        id => Some(api.event_head(&tenant, id).await?.0),
    };
    let (sender, answers) = mpsc::channel(WATCH_QUEUE);
    let watcher = Watcher { api, tenant, subscription, event, filter, sender };
    let span = info_span!("watch", tenant = %watcher.tenant);
    let work = async move {
        let _counted = watching;
        let told = async {
            match event {
                Some(event) => watcher.of_event(event, updates).await,
                None => watcher.of_tenant(updates, from, head).await,
            }
        };
        tokio::select! {
            biased;
            () = watcher.over() => {}
            _over = told => {}
        }
    };
    Ok(fed(answers, work, span))
}

/// After which position it begins, if not now.
fn read_from(request: &v1::WatchDeliveriesRequest, head: u64) -> Result<Option<u64>, Status> {
    let wanted = (request.resume_token.as_str(), request.from_time.as_ref());
    if wanted != ("", None) && !request.event.is_empty() {
        return Err(status::invalid_field(
            "event",
            "is watched from its beginning; leave resume_token and from_time out",
        ));
    }
    match wanted {
        ("", None) => Ok(None),
        ("", Some(given)) => {
            let given = time::read("from_time", given).map_err(|violation| status::invalid(&[violation]))?;
            Ok(Some(position_at(given).saturating_sub(1).min(head)))
        }
        (_, Some(_)) => Err(status::invalid_field("from_time", "is not set together with resume_token")),
        (position, None) => {
            let position: u64 = position.parse().map_err(|_| {
                status::invalid_field("resume_token", "must be the resume_token of an earlier answer")
            })?;
            if position > head {
                return Err(status::precondition(
                    "RESUME_TOKEN_UNKNOWN",
                    "this store has not issued this resume_token (was it restored from a backup?); begin at a time",
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
    /// Returns when nobody reads any more, or nothing more is to be told: the stream itself says
    /// why.
    async fn over(&self) {
        tokio::select! {
            () = self.sender.closed() => {}
            () = self.api.stopping.cancelled() => {}
            () = self.api.caller.token_status.ended.cancelled() => {}
        }
    }

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
    async fn of_event(
        &self,
        event: EventKey,
        mut updates: broadcast::Receiver<Arc<Update>>,
    ) -> Result<(), Over> {
        let mut open = self.look(event, true).await?;
        while !open.is_empty() {
            match self.next(&mut updates).await? {
                Ok(update) if self.wants(&update) => {
                    match update.delivery.state.has_ended() {
                        true => open.remove(&update.id),
                        false => open.insert(update.id),
                    };
                    let row = DeliveryRow {
                        id: update.id,
                        delivery: update.delivery,
                        last: update.attempt.clone(),
                    };
                    self.send_row(row, 0).await?;
                }
                Ok(_) => {}
                // What was missed may have been the end.
                Err(_) => open = self.look(event, false).await?,
            }
            if open.is_empty() {
                // An update of before the first look does not tell what was seen there: a delivery
                // may be retried.
                open = self.look(event, false).await?;
            }
        }
        Ok(())
    }

    /// Reads an event's deliveries, a page at a time, and tells them if that is wanted. Returns
    /// those that have not ended.
    async fn look(&self, event: EventKey, tell: bool) -> Result<HashSet<DeliveryId>, Over> {
        let (mut open, mut after) = (HashSet::new(), None);
        loop {
            let query = DeliveryQuery {
                tenant: self.tenant.clone(),
                subscription: self.subscription,
                event: Some(event),
                states: Vec::new(),
                start: Timestamp::default(),
                end: Timestamp::MAX,
                limit: PAGE,
                after,
            };
            let found = self.page_of_event(query, tell).await;
            let (waiting, views, next) = self.or_fail(found).await?;
            open.extend(waiting);
            for view in views {
                self.send_view(view, String::new(), false).await?;
            }
            after = next;
            if after.is_none() {
                return Ok(open);
            }
        }
    }

    /// The next update, or how many were missed.
    async fn next(
        &self,
        updates: &mut broadcast::Receiver<Arc<Update>>,
    ) -> Result<Result<Arc<Update>, u64>, Over> {
        match updates.recv().await {
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
        let mut from = ChangePlace::from(EventKey::first_at(Timestamp::default()));
        loop {
            let (tenant, subscription) = (self.tenant.clone(), self.subscription);
            let query = ChangeQuery { tenant, subscription, after, until, from };
            let found = self.page_of_changes(query).await;
            let (views, next) = self.or_fail(found).await?;
            for view in views {
                self.send_view(view, after.to_string(), true).await?;
            }
            match next {
                Some(next) => from = next,
                None => return Ok(()),
            }
        }
    }

    /// What has happened to some deliveries, and where it goes on. The turn to read ends before
    /// anything is sent.
    async fn page_of_changes(
        &self,
        query: ChangeQuery,
    ) -> Result<(Vec<v1::Delivery>, Option<ChangePlace>), Status> {
        let _turn = self.api.turn().await?;
        let page = self.api.store.changes(query).await.map_err(|error| status::store(&error))?;
        let (rows, past): (Vec<_>, Vec<_>) =
            page.items.into_iter().map(|change| (change.row, change.past)).unzip();
        let mut views = self.api.views(&self.tenant, rows).await?;
        for (view, past) in views.iter_mut().zip(past) {
            if past {
                // What is true of it only now was not true then.
                view.set_state(DeliveryState::Waiting);
                view.set_hold_reason(v1::HoldReason::Unspecified);
            }
        }
        Ok((views, page.next))
    }

    /// Reads one page of an event's deliveries. With `tell`, the page includes the deliveries to send.
    async fn page_of_event(&self, query: DeliveryQuery, tell: bool) -> Result<PageOfEvent, Status> {
        let _turn = self.api.turn().await?;
        let found = self.api.store.deliveries(query).await;
        let Page { items, next } = found.map_err(|error| status::store(&error))?;
        let waiting = items.iter().filter(|row| !row.delivery.state.has_ended()).map(|row| row.id).collect();
        let views = if tell { self.api.views(&self.tenant, items).await? } else { Vec::new() };
        Ok((waiting, views, next))
    }

    async fn send_row(&self, row: DeliveryRow, position: u64) -> Result<(), Over> {
        let resume_token = if self.event.is_some() { String::new() } else { position.to_string() };
        let views = self.api.views(&self.tenant, vec![row]).await;
        for view in self.or_fail(views).await? {
            self.send_view(view, resume_token.clone(), false).await?;
        }
        Ok(())
    }

    /// Sends a delivery, if the filter wants it.
    async fn send_view(
        &self,
        view: v1::Delivery,
        resume_token: String,
        from_store: bool,
    ) -> Result<(), Over> {
        if !self.filter.wants(&view) {
            return Ok(());
        }
        self.send(WatchDeliveriesResponse { delivery: Some(view), missed: 0, resume_token, from_store }).await
    }

    /// Tells where the stream has come, and what it has missed there.
    async fn tell(&self, position: u64, missed: u64) -> Result<(), Over> {
        let resume_token = position.to_string();
        self.send(WatchDeliveriesResponse { delivery: None, missed, resume_token, from_store: false }).await
    }

    async fn send(&self, answer: WatchDeliveriesResponse) -> Result<(), Over> {
        self.sender.send(Ok(answer)).await.map_err(|_| Over)
    }

    /// What was found; or the last word of the stream is why not.
    async fn or_fail<T>(&self, found: Result<T, Status>) -> Result<T, Over> {
        match found {
            Ok(found) => Ok(found),
            Err(status) => {
                let _already_gone = self.sender.send(Err(status)).await;
                Err(Over)
            }
        }
    }
}
