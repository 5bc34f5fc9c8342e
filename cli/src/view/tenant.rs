//! Tenants, shown.

use postrider_proto::v1;
use serde::Serialize;

use super::{time, time_for_table, word_unless_unspecified};
use crate::output::View;

/// Mirrors `postrider.v1.Tenant`.
#[derive(Debug, Serialize)]
pub(crate) struct Tenant {
    id: String,
    display_name: String,
    create_time: Option<String>,
    update_time: Option<String>,
    unknown_event_types: Option<String>,
    #[serde(skip)]
    created: String,
}

impl From<v1::Tenant> for Tenant {
    fn from(tenant: v1::Tenant) -> Self {
        Self {
            created: time_for_table(tenant.create_time.as_ref()),
            create_time: time(tenant.create_time.as_ref()),
            update_time: time(tenant.update_time.as_ref()),
            unknown_event_types: word_unless_unspecified::<v1::Strictness>(tenant.unknown_event_types),
            id: tenant.id,
            display_name: tenant.display_name,
        }
    }
}

impl View for Tenant {
    const COLUMNS: &'static [&'static str] = &["ID", "CREATED", "NAME"];

    fn row(&self) -> Vec<String> {
        vec![self.id.clone(), self.created.clone(), self.display_name.clone()]
    }

    fn details(&self) -> Vec<(&'static str, String)> {
        vec![
            ("Tenant", self.id.clone()),
            ("Name", self.display_name.clone()),
            ("Unknown event types", self.unknown_event_types.clone().unwrap_or_default()),
            ("Created", self.create_time.clone().unwrap_or_default()),
            ("Updated", self.update_time.clone().unwrap_or_default()),
        ]
    }
}
