//! Tenants, shown.

use postrider_domain::quota::{NO_LIMIT, NO_LIMIT_OF_BYTES};
use postrider_proto::v1;
use serde::Serialize;

use super::{time, time_for_table, word, word_unless_unspecified};
use crate::output::View;

/// Mirrors `postrider.v1.Tenant`.
#[derive(Debug, Serialize)]
pub(crate) struct Tenant {
    id: String,
    display_name: String,
    create_time: Option<String>,
    update_time: Option<String>,
    unknown_event_types: Option<String>,
    /// Whether it is being deleted.
    state: String,
    quota: Option<Quota>,
    /// What was set for it, and the settings of the control plane where nothing was.
    quota_in_force: Option<Quota>,
    usage: Option<Usage>,
    #[serde(skip)]
    created: String,
}

/// Mirrors `postrider.v1.TenantQuota`.
#[derive(Debug, Serialize)]
struct Quota {
    max_subscriptions: u32,
    emit_rate: u32,
    emit_burst: u32,
    max_stored_bytes: u64,
    max_event_types: u32,
    delivery_rate: u32,
    delivery_burst: u32,
}

/// Mirrors `postrider.v1.TenantUsage`.
#[derive(Debug, Serialize)]
struct Usage {
    subscriptions: u32,
    stored_bytes: u64,
}

impl From<v1::TenantQuota> for Quota {
    fn from(quota: v1::TenantQuota) -> Self {
        Self {
            max_subscriptions: quota.max_subscriptions,
            emit_rate: quota.emit_rate,
            emit_burst: quota.emit_burst,
            max_stored_bytes: quota.max_stored_bytes,
            max_event_types: quota.max_event_types,
            delivery_rate: quota.delivery_rate,
            delivery_burst: quota.delivery_burst,
        }
    }
}

impl From<v1::TenantUsage> for Usage {
    fn from(usage: v1::TenantUsage) -> Self {
        Self { subscriptions: usage.subscriptions, stored_bytes: usage.stored_bytes }
    }
}

impl Tenant {
    /// What is used of what may be.
    fn of(&self, used: impl Fn(&Usage) -> u64, limit: impl Fn(&Quota) -> u64, no_limit: u64) -> String {
        let used = self.usage.as_ref().map(used).unwrap_or_default();
        match self.quota_in_force.as_ref().map(limit) {
            Some(limit) if limit != no_limit => format!("{used} of {limit}"),
            _ => format!("{used} (no limit)"),
        }
    }

    fn rate(&self, rate: impl Fn(&Quota) -> (u32, u32)) -> String {
        match self.quota_in_force.as_ref().map(rate) {
            Some((per_second, burst)) if per_second != NO_LIMIT => {
                format!("{per_second} a second, {burst} at once")
            }
            _ => "no limit".to_owned(),
        }
    }
}

impl From<v1::Tenant> for Tenant {
    fn from(tenant: v1::Tenant) -> Self {
        Self {
            created: time_for_table(tenant.create_time.as_ref()),
            create_time: time(tenant.create_time.as_ref()),
            update_time: time(tenant.update_time.as_ref()),
            unknown_event_types: word_unless_unspecified::<v1::Strictness>(tenant.unknown_event_types),
            state: word::<v1::TenantState>(tenant.state),
            quota: tenant.quota.map(Quota::from),
            quota_in_force: tenant.quota_in_force.map(Quota::from),
            usage: tenant.usage.map(Usage::from),
            id: tenant.id,
            display_name: tenant.display_name,
        }
    }
}

impl View for Tenant {
    const COLUMNS: &'static [&'static str] =
        &["ID", "STATE", "SUBSCRIPTIONS", "STORED BYTES", "CREATED", "NAME"];

    fn row(&self) -> Vec<String> {
        let usage = |of: fn(&Usage) -> u64| self.usage.as_ref().map(of).unwrap_or_default().to_string();
        vec![
            self.id.clone(),
            self.state.clone(),
            usage(|usage| usage.subscriptions.into()),
            usage(|usage| usage.stored_bytes),
            self.created.clone(),
            self.display_name.clone(),
        ]
    }

    fn details(&self) -> Vec<(&'static str, String)> {
        vec![
            ("Tenant", self.id.clone()),
            ("Name", self.display_name.clone()),
            ("Unknown event types", self.unknown_event_types.clone().unwrap_or_default()),
            ("State", self.state.clone()),
            (
                "Subscriptions",
                self.of(
                    |usage| usage.subscriptions.into(),
                    |quota| quota.max_subscriptions.into(),
                    NO_LIMIT.into(),
                ),
            ),
            (
                "Stored bytes",
                self.of(|usage| usage.stored_bytes, |quota| quota.max_stored_bytes, NO_LIMIT_OF_BYTES),
            ),
            ("Emits", self.rate(|quota| (quota.emit_rate, quota.emit_burst))),
            ("Deliveries", self.rate(|quota| (quota.delivery_rate, quota.delivery_burst))),
            ("Created", self.create_time.clone().unwrap_or_default()),
            ("Updated", self.update_time.clone().unwrap_or_default()),
        ]
    }
}
