//! Signing keys: [`SigningKey`] → `postrider.v1.SigningKey`, never with its secret.

use postrider_domain::id::SubscriptionId;
use postrider_domain::signing::{KeyState, Secret, SigningKey};
use postrider_domain::time::Timestamp;

use crate::time;
use crate::v1;

/// A key as it stands at `now`, written without its secret.
#[must_use]
pub fn write(key: &SigningKey, subscription: SubscriptionId, now: Timestamp) -> v1::SigningKey {
    let state = match key.state(now) {
        KeyState::Pending => v1::SigningKeyState::Pending,
        KeyState::Active => v1::SigningKeyState::Active,
        KeyState::Retiring => v1::SigningKeyState::Retiring,
        KeyState::Revoked => v1::SigningKeyState::Revoked,
    };
    let public = key.secret.as_ref().filter(|_| key.state(now) != KeyState::Revoked).and_then(Secret::public);
    v1::SigningKey {
        id: key.id.to_string(),
        subscription: subscription.to_string(),
        scheme: key.scheme.to_string(),
        state: state.into(),
        create_time: Some(time::write(key.created)),
        retire_time: key.retire.map(time::write),
        public_key: public.map(|key| key.to_string()).unwrap_or_default(),
        ..v1::SigningKey::default()
    }
}
