//! What handlers share: field masks, and deliveries as users see them.

use std::collections::HashMap;
use std::sync::Arc;

use postrider_domain::delivery::State;
use postrider_domain::id::{EventKey, TenantId};
use postrider_domain::lane::Rest;
use postrider_domain::signing::KeyError;
use postrider_domain::subscription;
use postrider_proto::v1;
use postrider_proto::{attempt, delivery, time};
use tonic::Status;

use super::{Api, status};
use crate::schedule::Condition;
use crate::secrets::KeyedSubscription;
use crate::store::{DeliveryRow, EventHead};

/// The fields that a mask names; all settable ones when it is empty.
pub(super) fn mask<'a>(
    mask: Option<prost_types::FieldMask>,
    settable: &[&'a str],
) -> Result<Vec<&'a str>, Status> {
    let paths = mask.map(|mask| mask.paths).unwrap_or_default();
    if paths.is_empty() {
        return Ok(settable.to_vec());
    }
    let known = |path: &String| {
        let found = settable.iter().find(|field| *field == path).copied();
        let problem = || format!("'{path}' cannot be set; allowed: {}", settable.join(", "));
        found.ok_or_else(|| status::invalid_field("update_mask", problem()))
    };
    paths.iter().map(known).collect()
}

/// The request with its map emptied into a list in order: maps are written in no certain order, and digests of
/// equal requests must be equal.
pub(super) fn without_maps(request: &v1::CreateSubscriptionRequest) -> v1::CreateSubscriptionRequest {
    let mut request = request.clone();
    if let Some(subscription) = &mut request.subscription {
        let mut headers: Vec<String> = std::mem::take(&mut subscription.headers)
            .into_iter()
            .map(|(name, value)| format!("{name}:{value}"))
            .collect();
        headers.sort();
        subscription.event_types.extend(headers);
    }
    request
}

/// A change of keys that is refused.
pub(super) fn key_error(error: &KeyError) -> Status {
    match error {
        KeyError::NotFound => status::not_found("signing key", "of that id"),
        KeyError::OverlapTooLong => status::invalid_field("overlap", error.to_string()),
        KeyError::TooManyRetiring => status::precondition("TOO_MANY_RETIRING_KEYS", error.to_string()),
        KeyError::Active => status::precondition("KEY_IS_ACTIVE", error.to_string()),
        KeyError::Revoked => status::precondition("KEY_IS_REVOKED", error.to_string()),
        KeyError::Retiring => status::precondition("KEY_IS_RETIRING", error.to_string()),
        KeyError::Pending => status::precondition("KEY_IS_PENDING", error.to_string()),
        KeyError::KnownSecret => status::precondition("SECRET_IS_KNOWN", error.to_string()),
        KeyError::ProfileWithoutKey => status::precondition("PROFILE_WITHOUT_KEY", error.to_string()),
        KeyError::KeyWithoutProfile => status::precondition("KEY_WITHOUT_PROFILE", error.to_string()),
    }
}

impl Api {
    /// Deliveries as users see them: with their events, and with what is true of them only now.
    pub(super) async fn views(
        &self,
        tenant: &TenantId,
        rows: Vec<DeliveryRow>,
    ) -> Result<Vec<v1::Delivery>, Status> {
        // Each event once, however many of its deliveries there are.
        let mut keys: Vec<EventKey> = rows.iter().map(|row| row.delivery.event).collect();
        keys.sort_unstable();
        keys.dedup();
        let heads = self.store.event_heads(tenant, keys.clone()).await;
        let heads = heads.map_err(|error| status::store(&error))?;
        let heads: HashMap<EventKey, EventHead> =
            keys.into_iter().zip(heads).filter_map(|(key, head)| Some((key, head?))).collect();
        let open: Vec<_> =
            rows.iter().filter(|row| !row.delivery.state.has_ended()).map(|row| row.id).collect();
        let mut conditions = self.lanes.conditions(open).await.into_iter();
        let view = |row: DeliveryRow| {
            let event = heads.get(&row.delivery.event);
            let subscription = self.registry.get(row.id.subscription);
            let condition = if row.delivery.state.has_ended() { None } else { conditions.next() };
            write(tenant, &row, event, subscription.as_ref(), condition.unwrap_or(Condition::None))
        };
        Ok(rows.into_iter().map(view).collect())
    }
}

fn write(
    tenant: &TenantId,
    row: &DeliveryRow,
    event: Option<&EventHead>,
    subscription: Option<&Arc<KeyedSubscription>>,
    condition: Condition,
) -> v1::Delivery {
    let stored = row.delivery.state;
    // A deleted subscription's deliveries are not rewritten one by one: they are cancelled by that alone.
    let abandoned = subscription.is_none() && !stored.has_ended() && condition != Condition::Attempting;
    let state = match condition {
        Condition::Attempting => v1::DeliveryState::Attempting,
        _ if abandoned => v1::DeliveryState::Cancelled,
        _ => delivery::write_state(stored),
    };
    v1::Delivery {
        id: row.id.to_string(),
        tenant: tenant.to_string(),
        subscription: row.id.subscription.to_string(),
        event: event.map(|event| event.id.to_string()).unwrap_or_default(),
        event_type: event.map(|event| event.event_type.to_string()).unwrap_or_default(),
        state: state.into(),
        attempt_count: row.delivery.attempts,
        create_time: Some(time::write(row.delivery.event.created())),
        next_attempt_time: stored.due().filter(|_| !abandoned).map(time::write),
        end_time: stored.end().map(time::write),
        last_attempt: row.last.as_ref().map(attempt::write),
        hold_reason: hold_reason(stored, condition, subscription).into(),
    }
}

fn hold_reason(
    state: State,
    condition: Condition,
    subscription: Option<&Arc<KeyedSubscription>>,
) -> v1::HoldReason {
    let Some(row) = subscription.filter(|_| !state.has_ended()) else { return v1::HoldReason::Unspecified };
    match (condition, &row.subscription.state) {
        (Condition::Held, subscription::State::Disabled { .. }) => v1::HoldReason::Disabled,
        (Condition::Held, _) => v1::HoldReason::Paused,
        (Condition::PoolNotAllowed, _) => v1::HoldReason::PoolNotAllowed,
        (Condition::NoAgent, _) => v1::HoldReason::NoAgent,
        (Condition::Resting(Rest::Asked), _) => v1::HoldReason::RetryAfter,
        (Condition::Resting(Rest::Breaker), _) => v1::HoldReason::CircuitOpen,
        (Condition::Behind, _) => v1::HoldReason::Order,
        (Condition::Destination, _) => v1::HoldReason::Destination,
        (Condition::None | Condition::Attempting, _) => v1::HoldReason::Unspecified,
    }
}
