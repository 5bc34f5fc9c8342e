//! The end of a tenant, a bounded number of rows a step: its events with their history, its subscriptions with what is left
//! of their lanes, and the rest. A step looks for what there is, so that one that is done again finds the next ones.

use ahash::{HashSet, HashSetExt as _};
use postrider_domain::audit::Entry;
use postrider_domain::id::{EventKey, SubscriptionId, TenantId, TokenId};
use postrider_domain::operation::progress;
use postrider_domain::time::Timestamp;
use postrider_proto::v1::{self, TenantState};
use prost::Message as _;
use sled::Tree;

use super::retention::{self, remove_events};
use super::writer::Change;
use super::{damaged, failure, key, operation, read};
use crate::store::{Deletion, OperationRow, StoreError};

/// Rows of a step, about.
const STEP: usize = 2000;
/// Subscriptions of all tenants that a step looks at.
const LOOK: usize = 1000;
/// The share of the whole that events are, and what comes before the rest.
const EVENTS: f64 = 0.9;
const SUBSCRIPTIONS: f64 = 0.95;

/// How far a deletion is.
enum Place {
    /// Among the events, of which the oldest was accepted then.
    Events(Option<Timestamp>),
    /// Behind this subscription.
    Subscriptions(Option<SubscriptionId>),
    /// Where only the rest is left.
    Rest,
}

impl Place {
    fn read(text: &str) -> Option<Self> {
        Some(match text.split_once(' ').unwrap_or((text, "")) {
            ("", "") => Self::Events(None),
            ("events", first) => Self::Events(Some(Timestamp::from_millis(first.parse().ok()?))),
            ("subscriptions", "") => Self::Subscriptions(None),
            ("subscriptions", after) => Self::Subscriptions(Some(after.parse().ok()?)),
            ("rest", "") => Self::Rest,
            _ => return None,
        })
    }

    fn write(&self) -> String {
        match self {
            Self::Events(None) => String::new(),
            Self::Events(Some(first)) => format!("events {}", first.as_millis()),
            Self::Subscriptions(None) => "subscriptions".to_owned(),
            Self::Subscriptions(Some(after)) => format!("subscriptions {after}"),
            Self::Rest => "rest".to_owned(),
        }
    }
}

/// The tenants that are being deleted.
pub(super) fn closed(tree: &Tree) -> Result<HashSet<TenantId>, StoreError> {
    let mut closed = HashSet::new();
    for row in tree.scan_prefix(key::tenants()) {
        let (key, value) = row.map_err(failure)?;
        let tenant: v1::Tenant = super::codec::decode(&key, &value)?;
        if tenant.state() == TenantState::Deleting {
            closed.extend(tenant.id.parse::<TenantId>());
        }
    }
    Ok(closed)
}

pub(super) fn begin(
    id: &TenantId,
    row: &v1::Tenant,
    operation: &OperationRow,
    tokens: &[TokenId],
    audit: Entry,
) -> Change {
    let tokens = tokens.iter().flat_map(|token| [key::token(*token), key::token_use(*token)]);
    let mut rows = vec![(key::tenant(id), Some(row.encode_to_vec()))];
    rows.extend(operation::write(operation));
    rows.extend(tokens.map(|key| (key, None)));
    Change {
        rows,
        audit: Some(audit),
        tenant: Some(id.clone()),
        closes: Some(id.clone()),
        ..Change::default()
    }
}

pub(super) fn finish(id: &TenantId, operation: &OperationRow, audit: Entry) -> Change {
    let mut rows = vec![(key::tenant(id), None)];
    rows.extend(operation::write(operation));
    Change { rows, audit: Some(audit), ..Change::default() }
}

pub(super) fn next_step(
    tree: &Tree,
    tenant: &TenantId,
    place: &str,
) -> Result<(Deletion, Change), StoreError> {
    let row: Option<v1::Tenant> = read::message(tree, &key::tenant(tenant))?;
    if row.is_none_or(|row| row.state() != TenantState::Deleting) {
        return Err(damaged(
            &format!("the tenant {tenant}"),
            "it is not being deleted, and an operation is to",
        ));
    }
    let place = Place::read(place).ok_or_else(|| damaged("a deletion", "its place cannot be read"))?;
    let (step, change) = match place {
        Place::Events(first) => of_events(tree, tenant, first)?,
        Place::Subscriptions(after) => of_subscriptions(tree, tenant, after)?,
        Place::Rest => rest(tree, tenant)?,
    };
    Ok((Deletion { removed: change.rows.len() as u64, ..step }, change))
}

fn at(place: &Place, progress: f64) -> Deletion {
    Deletion { place: place.write(), progress, ..Deletion::default() }
}

fn of_events(
    tree: &Tree,
    tenant: &TenantId,
    first: Option<Timestamp>,
) -> Result<(Deletion, Change), StoreError> {
    let (step, last) = remove_events(tree, tenant, STEP)?;
    let Some(last) = last.map(EventKey::created) else {
        return Ok((at(&Place::Subscriptions(None), EVENTS), Change::default()));
    };
    let newest = tree.scan_prefix(key::events(tenant)).next_back().transpose().map_err(failure)?;
    let newest = newest.and_then(|(key, _)| key::event_key(&key)).map_or(last, EventKey::created);
    let first = first.unwrap_or(last);
    let change = Change { rows: step.writes, freed: step.freed, ..Change::default() };
    Ok((at(&Place::Events(Some(first)), EVENTS * progress(first, newest, last)), change))
}

fn of_subscriptions(
    tree: &Tree,
    tenant: &TenantId,
    mut after: Option<SubscriptionId>,
) -> Result<(Deletion, Change), StoreError> {
    let found = read::subscriptions(tree, after, LOOK)?;
    let mut change = Change::default();
    for row in &found {
        let id = row.subscription.id;
        if row.subscription.tenant == *tenant {
            // Most are gone with their events: these are of attempts that ended meanwhile.
            for prefix in key::of_subscription(id) {
                remove_below(tree, &prefix, &mut change)?;
            }
            if change.rows.len() >= STEP {
                return Ok((at(&Place::Subscriptions(after), EVENTS), change));
            }
            change.rows.extend(key::lane_of(id).map(|key| (key, None)));
        }
        after = Some(id);
    }
    let next = if found.len() < LOOK { Place::Rest } else { Place::Subscriptions(after) };
    Ok((at(&next, SUBSCRIPTIONS), change))
}

fn rest(tree: &Tree, tenant: &TenantId) -> Result<(Deletion, Change), StoreError> {
    let mut change = Change { rows: operation::of_deleted(tree, tenant, STEP)?, ..Change::default() };
    for prefix in key::of_tenant(tenant) {
        remove_below(tree, &prefix, &mut change)?;
    }
    let one_each = retention::sweeps(tenant).into_iter().chain([key::usage(tenant)]);
    for key in one_each {
        if tree.contains_key(&key).map_err(failure)? {
            change.rows.push((key, None));
        }
    }
    let finished = change.rows.is_empty();
    Ok((Deletion { finished, ..at(&Place::Rest, SUBSCRIPTIONS) }, change))
}

fn remove_below(tree: &Tree, prefix: &[u8], change: &mut Change) -> Result<(), StoreError> {
    for key in tree.scan_prefix(prefix).keys() {
        if change.rows.len() >= STEP {
            return Ok(());
        }
        change.rows.push((key.map_err(failure)?.to_vec(), None));
    }
    Ok(())
}
