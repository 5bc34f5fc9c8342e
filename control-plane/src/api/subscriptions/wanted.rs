//! What a caller wants a subscription to be, read and judged: for calls that write it, and for those that only ask.

use std::sync::Arc;

use postrider_domain::headers::CustomHeaders;
use postrider_domain::id::SubscriptionId;
use postrider_domain::subscription::Subscription;
use postrider_domain::violation::Violation;
use postrider_proto::v1::{self, SubscriptionState};
use postrider_proto::{subscription, time};
use tonic::Status;

use super::fields;
use crate::api::signing_keys::check_keys;
use crate::api::{Api, status};
use crate::secrets::KeyedSubscription;

impl Api {
    /// A new subscription, by itself: without a look at the tenant's other subscriptions.
    pub(super) fn wanted(&self, mut wanted: v1::Subscription) -> Result<Subscription, Status> {
        restore_masked(&mut wanted, &CustomHeaders::default())?;
        let now = self.clock.wall();
        let subscription = read(&v1::Subscription {
            id: SubscriptionId::new(now, rand::random()).to_string(),
            state: SubscriptionState::Active.into(),
            state_reason: String::new(),
            disable_cause: 0,
            create_time: Some(time::write(now)),
            update_time: Some(time::write(now)),
            validation: None,
            ..wanted
        })?;
        fields::check_new(&subscription, None)?;
        self.check_pool_of(&subscription)?;
        Ok(subscription)
    }

    /// A subscription with new values of these fields, by itself.
    pub(super) fn changed(
        &self,
        row: &KeyedSubscription,
        mut wanted: v1::Subscription,
        fields: &[&str],
    ) -> Result<KeyedSubscription, Status> {
        let before = subscription::write(&row.subscription);
        let mut wire = before.clone();
        if fields.contains(&"headers") {
            restore_masked(&mut wanted, &row.subscription.headers)?;
        }
        fields.iter().for_each(|field| fields::set(&mut wire, &wanted, field));
        wire.update_time = Some(time::write(self.clock.wall()));
        if wire.url != before.url || !wire.validation_handshake {
            // It was another endpoint that answered.
            wire.validation = None;
        }
        let row = KeyedSubscription { subscription: read(&wire)?, ..row.clone() };
        check_keys(&row)?;
        fields::check_new(&row.subscription, Some(&before))?;
        if fields.contains(&"pool") {
            self.check_pool_of(&row.subscription)?;
        }
        Ok(row)
    }

    /// Whether no other subscription of the tenant has its name. Must be called while changes are held off.
    pub(super) fn check_name_is_free(&self, wanted: &Subscription) -> Result<(), Status> {
        let taken = |row: &Arc<KeyedSubscription>| {
            row.subscription.name == wanted.name && row.subscription.id != wanted.id
        };
        if !wanted.name.is_empty() && self.registry.list(&wanted.tenant, None, usize::MAX).iter().any(taken) {
            return Err(status::exists("subscription named", &wanted.name));
        }
        Ok(())
    }
}

fn read(wire: &v1::Subscription) -> Result<Subscription, Status> {
    subscription::read(wire).map_err(|violations| {
        let within: Vec<Violation> =
            violations.into_iter().map(|violation| violation.within("subscription")).collect();
        status::invalid(&within)
    })
}

fn restore_masked(wanted: &mut v1::Subscription, stored: &CustomHeaders) -> Result<(), Status> {
    let restored = subscription::restore_masked(&mut wanted.headers, stored);
    restored.map_err(|violation| status::invalid(&[violation.within("subscription")]))
}
