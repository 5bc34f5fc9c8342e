//! Rotation of signing keys: a new active key for each of a tenant's subscriptions that have one of the scheme, oldest
//! first.
//!
//! What a rotation has made is remembered with the change itself, by the operation and the subscription; so one that is
//! done again makes nothing new.

use std::time::Duration;

use postrider_domain::id::{SubscriptionId, TenantId};
use postrider_domain::signing::{DEFAULT_OVERLAP, Scheme};
use postrider_proto::time;
use postrider_proto::v1;
use tonic::Code;

use super::Step;
use crate::api::Api;
use crate::store::{OperationRow, StoreError};

/// Subscriptions of a step.
const STEP: usize = 20;
/// The pause between two steps, in which other changes go on.
const PAUSE: Duration = Duration::from_millis(20);

pub(super) async fn step(
    api: &Api,
    row: &OperationRow,
    rotation: &v1::KeyRotation,
) -> Result<Step, StoreError> {
    let damaged = || StoreError::Damaged {
        place: row.id.to_string(),
        problem: "what it is for cannot be read".to_owned(),
    };
    let tenant: TenantId = row.operation.tenant.parse().map_err(|_| damaged())?;
    let (scheme, overlap) = read(rotation).ok_or_else(damaged)?;
    let after = Some(&row.cursor).filter(|cursor| !cursor.is_empty());
    let after: Option<SubscriptionId> =
        after.map(|cursor| cursor.parse()).transpose().map_err(|_| damaged())?;
    let rows = api.registry.list(&tenant, after, STEP);
    let mut step = Step { finished: rows.len() < STEP, wait: PAUSE, ..Step::default() };
    step.cursor = rows.last().map_or(row.cursor.clone(), |last| last.subscription.id.to_string());
    // Those that were made since have keys of now.
    let concerned = rows.iter().filter(|keyed| {
        keyed.subscription.id.created() < row.id.created() && keyed.keys.active(scheme).is_some()
    });
    for keyed in concerned {
        step.matched += 1;
        match api.rotate_for(row.id, &tenant, keyed.subscription.id, scheme, overlap).await {
            Ok(()) => step.done += 1,
            Err(status) if matches!(status.code(), Code::Unavailable | Code::ResourceExhausted) => {
                return Err(StoreError::Unavailable(status.message().to_owned()));
            }
            Err(status) => {
                step.skipped += 1;
                step.problem = format!("{}: {}", keyed.subscription.id, status.message());
            }
        }
    }
    let (all, left) = (count(api, &tenant, None), count(api, &tenant, step.cursor.parse().ok()));
    step.progress = share(all, left);
    Ok(step)
}

fn count(api: &Api, tenant: &TenantId, after: Option<SubscriptionId>) -> usize {
    api.registry.list(tenant, after, usize::MAX).len()
}

#[expect(clippy::cast_precision_loss, reason = "it is a share for people")]
fn share(all: usize, left: usize) -> f64 {
    if all == 0 { 1.0 } else { (all - left.min(all)) as f64 / all as f64 }
}

/// What was checked when it was asked.
pub(crate) fn read(rotation: &v1::KeyRotation) -> Option<(Scheme, Duration)> {
    let scheme = if rotation.scheme.is_empty() { Scheme::default() } else { rotation.scheme.parse().ok()? };
    let overlap = rotation.overlap.as_ref().map(|overlap| time::read_duration("overlap", overlap));
    Some((scheme, overlap.transpose().ok()?.unwrap_or(DEFAULT_OVERLAP)))
}
