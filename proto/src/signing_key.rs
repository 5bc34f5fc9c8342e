//! Signing keys: [`SigningKey`] → `postrider.v1.SigningKey`, never with its secret.

use postrider_domain::id::SubscriptionId;
use postrider_domain::signing::{KeyState, SCHEME, SigningKey};
use postrider_domain::time::Timestamp;

use crate::time;
use crate::v1;

/// A key as it stands at `now`, written without its secret.
#[must_use]
pub fn write(key: &SigningKey, subscription: SubscriptionId, now: Timestamp) -> v1::SigningKey {
    let state = match key.state(now) {
        KeyState::Active => v1::SigningKeyState::Active,
        KeyState::Retiring => v1::SigningKeyState::Retiring,
        KeyState::Revoked => v1::SigningKeyState::Revoked,
    };
    v1::SigningKey {
        id: key.id.to_string(),
        subscription: subscription.to_string(),
        scheme: SCHEME.to_owned(),
        state: state.into(),
        create_time: Some(time::write(key.created)),
        retire_time: key.retire.map(time::write),
    }
}
