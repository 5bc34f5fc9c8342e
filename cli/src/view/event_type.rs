//! Entries of the catalogue, shown.

use postrider_proto::v1;
use serde::Serialize;
use serde_json::value::RawValue;

use super::time;
use crate::json;
use crate::output::View;

/// Mirrors `postrider.v1.EventType`.
#[derive(Debug, Serialize)]
pub(crate) struct EventType {
    tenant: String,
    name: String,
    description: String,
    example: Option<Box<RawValue>>,
    create_time: Option<String>,
    update_time: Option<String>,
}

impl From<v1::EventType> for EventType {
    fn from(entry: v1::EventType) -> Self {
        Self {
            example: json::raw(entry.example.as_bytes()),
            create_time: time(entry.create_time.as_ref()),
            update_time: time(entry.update_time.as_ref()),
            tenant: entry.tenant,
            name: entry.name,
            description: entry.description,
        }
    }
}

impl View for EventType {
    const COLUMNS: &'static [&'static str] = &["NAME", "EXAMPLE", "DESCRIPTION"];

    fn row(&self) -> Vec<String> {
        let example = if self.example.is_some() { "yes" } else { "no" };
        vec![self.name.clone(), example.into(), self.description.clone()]
    }

    fn details(&self) -> Vec<(&'static str, String)> {
        vec![
            ("Event type", self.name.clone()),
            ("Tenant", self.tenant.clone()),
            ("Description", self.description.clone()),
            ("Example", self.example.as_ref().map(|json| json::pretty(json.get())).unwrap_or_default()),
            ("Created", self.create_time.clone().unwrap_or_default()),
            ("Updated", self.update_time.clone().unwrap_or_default()),
        ]
    }
}
