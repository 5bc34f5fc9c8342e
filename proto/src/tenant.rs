//! What tenants may use: `postrider.v1.TenantQuota` ⇄ [`OwnQuota`], [`Quota`].

use std::num::{NonZeroU32, NonZeroU64};

use postrider_domain::quota::{NO_LIMIT, NO_LIMIT_OF_BYTES, OwnQuota, Quota, Rate};
use postrider_domain::violation::Violation;

use crate::v1;

/// What was set for a tenant, read; unset is nothing.
///
/// # Errors
/// Every number that is out of range.
pub fn read_quota(wire: Option<&v1::TenantQuota>) -> Result<OwnQuota, Vec<Violation>> {
    wire.map_or(Ok(OwnQuota::default()), |wire| {
        let (emit, deliveries) =
            ((wire.emit_rate, wire.emit_burst), (wire.delivery_rate, wire.delivery_burst));
        let (max_subscriptions, max_event_types) = (wire.max_subscriptions, wire.max_event_types);
        OwnQuota::new(max_subscriptions, emit, deliveries, wire.max_stored_bytes, max_event_types)
    })
}

/// The quota in force, written: with a number for each limit.
#[must_use]
pub fn write_quota(quota: &Quota) -> v1::TenantQuota {
    let count = |max: Option<NonZeroU32>| max.map_or(NO_LIMIT, NonZeroU32::get);
    let rate =
        |rate: Option<Rate>| rate.map_or((NO_LIMIT, 0), |rate| (rate.per_second.get(), rate.burst.get()));
    let ((emit_rate, emit_burst), (delivery_rate, delivery_burst)) =
        (rate(quota.emit), rate(quota.deliveries));
    v1::TenantQuota {
        max_subscriptions: count(quota.max_subscriptions),
        emit_rate,
        emit_burst,
        max_stored_bytes: quota.max_stored.map_or(NO_LIMIT_OF_BYTES, NonZeroU64::get),
        delivery_rate,
        delivery_burst,
        max_event_types: count(quota.max_event_types),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_that_was_written_is_read_as_the_same() {
        for quota in [Quota::STANDARD, Quota::default()] {
            let read = read_quota(Some(&write_quota(&quota))).unwrap();
            assert_eq!(read.over(&Quota::default()), quota);
            assert_eq!(read.over(&Quota::STANDARD), quota);
        }
    }
}
