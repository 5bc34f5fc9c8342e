//! Replay: attempts deliveries again that have ended, event by event, oldest first.
//!
//! A delivery is for it when it had ended before the operation was created, so looking at one again does no harm: by then
//! it waits, or has ended later ([`postrider_domain::operation::Ended`]).

use std::time::Duration;

use ahash::{HashMap, HashMapExt as _, HashSet};
use futures::stream::{self, StreamExt as _};
use postrider_domain::id::{DeliveryId, EventKey, SubscriptionId, TenantId};
use postrider_domain::operation::{Ended, progress};
use postrider_domain::time::Timestamp;
use postrider_proto::time;
use postrider_proto::v1::{self, DeliveryState};

use super::Step;
use crate::emit::Emitter;
use crate::lanes::Lanes;
use crate::schedule::Refusal;
use crate::store::{EventRow, OperationRow, Store, StoreError};

/// Deliveries a second when nobody says otherwise.
const DEFAULT_RATE: u32 = 100;
/// Steps a second, about: what is replayed comes evenly, and fast replays in small lots too, beside which live events wait for little.
const STEPS: u32 = 10;
const MOST_STEPS: u32 = 50;
const LOT: u32 = 20;
/// Events that are read at once, and how often in a step.
const EVENTS: usize = 64;
const PAGES: usize = 32;
/// Deliveries that a dry run looks at in a step.
const DRY_STEP: usize = 2000;
/// Subscriptions whose deliveries are put back at once.
const AT_ONCE: usize = 64;
/// How fast deliveries of one subscription can be put back one after the other; beyond it so many at once are.
const ONE_BY_ONE: u32 = 500;
const OF_A_LANE: usize = 64;
/// How often, and how long apart, it is asked for a delivery whose outcome is just being written.
const BUSY_TRIES: usize = 50;
const BUSY_WAIT: Duration = Duration::from_millis(10);

/// What a replay is for, read from what was asked.
struct Range {
    tenant: TenantId,
    subscription: Option<SubscriptionId>,
    types: HashSet<String>,
    ended: Ended,
    start: Timestamp,
    end: Timestamp,
    created: Timestamp,
}

impl Range {
    /// What was checked when it was asked; a row that does not fit is damaged.
    fn read(row: &OperationRow, replay: &v1::Replay) -> Option<Self> {
        let created = row.id.created();
        let time = |given: Option<&prost_types::Timestamp>, default| {
            given.map_or(Some(default), |given| time::read("time", given).ok())
        };
        let subscription = Some(&replay.subscription).filter(|id| !id.is_empty());
        Some(Self {
            tenant: row.operation.tenant.parse().ok()?,
            subscription: subscription.map(|id| id.parse()).transpose().ok()?,
            types: replay.event_types.iter().cloned().collect(),
            ended: ended(replay),
            start: time(replay.start_time.as_ref(), Timestamp::default())?,
            end: time(replay.end_time.as_ref(), created)?.min(created),
            created,
        })
    }

    fn wants_event(&self, row: &EventRow) -> bool {
        self.types.is_empty() || self.types.contains(row.event.event_type.as_str())
    }

    fn wants_lane(&self, id: DeliveryId) -> bool {
        self.subscription.is_none_or(|subscription| subscription == id.subscription)
    }
}

fn ended(replay: &v1::Replay) -> Ended {
    let states: Vec<DeliveryState> = replay.states().collect();
    let has = |state| states.contains(&state) || (states.is_empty() && state != DeliveryState::Cancelled);
    Ended {
        delivered: has(DeliveryState::Delivered),
        exhausted: has(DeliveryState::Exhausted),
        cancelled: has(DeliveryState::Cancelled),
    }
}

/// How far a replay is: so many deliveries of this event were looked at, and all of the events before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    event: EventKey,
    seen: usize,
}

impl Place {
    fn write(self) -> String {
        format!("{} {}", self.event, self.seen)
    }

    fn read(text: &str) -> Option<Self> {
        let (event, seen) = text.split_once(' ')?;
        Some(Self { event: event.parse().ok()?, seen: seen.parse().ok()? })
    }
}

/// What a step has found.
struct Found {
    /// To be attempted again.
    owed: Vec<DeliveryId>,
    /// Those that would be, if their data were not erased.
    erased: u64,
    /// Where it has come.
    place: Place,
    /// Whether there is nothing behind it.
    finished: bool,
}

pub(super) async fn step(
    store: &dyn Store,
    lanes: &Lanes,
    row: &OperationRow,
    replay: &v1::Replay,
) -> Result<Step, StoreError> {
    let damaged = |problem: &str| StoreError::Damaged { place: row.id.to_string(), problem: problem.into() };
    let range = Range::read(row, replay).ok_or_else(|| damaged("what it is for cannot be read"))?;
    let place = match row.cursor.as_str() {
        "" => Place { event: EventKey::first_at(range.start), seen: 0 },
        cursor => Place::read(cursor).ok_or_else(|| damaged("where it has come cannot be read"))?,
    };
    let rate = if replay.max_per_second == 0 { DEFAULT_RATE } else { replay.max_per_second };
    let size = if replay.dry_run { DRY_STEP } else { lot(rate) };
    let found = find(store, &range, place, size).await?;
    let owed = found.owed.len() as u64;
    let done = if replay.dry_run {
        0
    } else {
        put_back(lanes, found.owed, if rate > ONE_BY_ONE { OF_A_LANE } else { 1 }).await
    };
    let failed = if replay.dry_run { 0 } else { owed - done };
    Ok(Step {
        cursor: found.place.write(),
        matched: owed + found.erased,
        done,
        skipped: found.erased + failed,
        progress: progress(range.start, range.end, found.place.event.created()),
        finished: found.finished,
        wait: if replay.dry_run { Duration::ZERO } else { Duration::from_secs(owed) / rate },
        problem: String::new(),
    })
}

/// What was put back counts for the tenant's rate of deliveries: the next step waits until there is room for it and for
/// new events.
pub(super) fn paced(step: Step, row: &OperationRow, emitter: &Emitter) -> Step {
    let Ok(tenant) = row.operation.tenant.parse() else { return step };
    let done = usize::try_from(step.done).unwrap_or(usize::MAX);
    Step { wait: step.wait.max(emitter.replayed(&tenant, done)), ..step }
}

/// How many deliveries a step puts back at this rate.
fn lot(rate: u32) -> usize {
    let steps = (rate / LOT).clamp(STEPS, MOST_STEPS);
    (rate / steps).max(1) as usize
}

/// Looks at what follows after a place, until `size` deliveries are found or enough was read for one step.
async fn find(store: &dyn Store, range: &Range, place: Place, size: usize) -> Result<Found, StoreError> {
    let mut found = Found { owed: Vec::new(), erased: 0, place, finished: false };
    for _ in 0..PAGES {
        let page = store.events_from(&range.tenant, found.place.event, range.end, EVENTS).await?;
        for row in page.items {
            if !look(store, range, &row, size, &mut found).await? {
                return Ok(found);
            }
        }
        let Some(next) = page.next else {
            found.finished = true;
            break;
        };
        found.place = Place { event: next, seen: 0 };
    }
    Ok(found)
}

/// Looks at the deliveries of an event, after those that were looked at; whether there is room for more.
async fn look(
    store: &dyn Store,
    range: &Range,
    row: &EventRow,
    size: usize,
    found: &mut Found,
) -> Result<bool, StoreError> {
    let event = row.event.key;
    let seen = if found.place.event == event { found.place.seen } else { 0 };
    found.place = Place { event, seen };
    if !range.wants_event(row) {
        return Ok(true);
    }
    for id in row.deliveries.iter().skip(seen) {
        if found.owed.len() == size {
            return Ok(false);
        }
        found.place.seen += 1;
        if !range.wants_lane(*id) {
            continue;
        }
        let Some(delivery) = store.delivery(*id).await? else { continue };
        match (range.ended.has(delivery.delivery.state, range.created), row.is_erased()) {
            (true, false) => found.owed.push(*id),
            (true, true) => found.erased += 1,
            (false, _) => {}
        }
    }
    Ok(true)
}

/// Makes deliveries due, those of a subscription one after the other, so that they keep their order; how many could be.
async fn put_back(lanes: &Lanes, owed: Vec<DeliveryId>, of_a_lane: usize) -> u64 {
    let mut by_lane: HashMap<SubscriptionId, Vec<DeliveryId>> = HashMap::new();
    for id in owed {
        by_lane.entry(id.subscription).or_default().push(id);
    }
    let done = stream::iter(by_lane.into_values()).map(|ids| put_back_in_order(lanes, ids, of_a_lane));
    done.buffer_unordered(AT_ONCE).fold(0, |count, done| async move { count + done }).await
}

/// They are asked for in order. A lane without order may then see neighbours swapped, if several are asked for at once.
async fn put_back_in_order(lanes: &Lanes, ids: Vec<DeliveryId>, at_once: usize) -> u64 {
    let done = stream::iter(ids).map(|id| put_back_one(lanes, id)).buffered(at_once);
    done.fold(0, |count, done| async move { count + u64::from(done) }).await
}

async fn put_back_one(lanes: &Lanes, id: DeliveryId) -> bool {
    for _ in 0..BUSY_TRIES {
        match lanes.retry(id, None).await {
            Ok(()) => return true,
            Err(Refusal::Busy) => tokio::time::sleep(BUSY_WAIT).await,
            Err(_) => return false,
        }
    }
    false
}
