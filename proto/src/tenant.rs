//! What tenants may use: `postrider.v1.TenantQuota` ⇄ [`Quota`].

use postrider_domain::quota::Quota;
use postrider_domain::violation::Violation;

use crate::v1;

/// A quota, read; unset is none.
///
/// # Errors
/// Every number that is out of range.
pub fn read_quota(wire: Option<&v1::TenantQuota>) -> Result<Quota, Vec<Violation>> {
    wire.map_or(Ok(Quota::default()), |wire| {
        Quota::new(wire.max_subscriptions, wire.emit_rate, wire.emit_burst, wire.max_stored_bytes)
    })
}
