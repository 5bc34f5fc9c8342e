//! Entries of the catalogue, shown.

use postrider_proto::v1;
use serde::Serialize;
use serde_json::value::RawValue;

use super::{time, word_unless_unspecified};
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
    schema: Option<Box<RawValue>>,
    schema_version: u32,
    validation: Option<String>,
    former_schemas: Vec<FormerSchema>,
    deprecated: bool,
    deprecation_message: String,
    warning_count: u64,
}

/// Mirrors `postrider.v1.FormerSchema`.
#[derive(Debug, Serialize)]
struct FormerSchema {
    version: u32,
    schema: Option<Box<RawValue>>,
    replace_time: Option<String>,
}

impl From<v1::FormerSchema> for FormerSchema {
    fn from(former: v1::FormerSchema) -> Self {
        Self {
            version: former.version,
            schema: json::raw(former.schema.as_bytes()),
            replace_time: time(former.replace_time.as_ref()),
        }
    }
}

impl From<v1::EventType> for EventType {
    fn from(entry: v1::EventType) -> Self {
        Self {
            example: json::raw(entry.example.as_bytes()),
            create_time: time(entry.create_time.as_ref()),
            update_time: time(entry.update_time.as_ref()),
            schema: json::raw(entry.schema.as_bytes()),
            schema_version: entry.schema_version,
            validation: word_unless_unspecified::<v1::Strictness>(entry.validation),
            former_schemas: entry.former_schemas.into_iter().map(FormerSchema::from).collect(),
            deprecated: entry.deprecated,
            deprecation_message: entry.deprecation_message,
            warning_count: entry.warning_count,
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
        let deprecated = match self.deprecation_message.as_str() {
            _ if !self.deprecated => String::new(),
            "" => "yes".to_owned(),
            message => format!("yes: {message}"),
        };
        let schema = self.schema.as_ref().map(|json| json::pretty(json.get())).unwrap_or_default();
        let version = match self.schema_version {
            0 => String::new(),
            version => version.to_string(),
        };
        vec![
            ("Event type", self.name.clone()),
            ("Tenant", self.tenant.clone()),
            ("Description", self.description.clone()),
            ("Example", self.example.as_ref().map(|json| json::pretty(json.get())).unwrap_or_default()),
            ("Deprecated", deprecated),
            ("Schema", schema),
            ("Schema version", version),
            ("Validation", self.validation.clone().unwrap_or_default()),
            (
                "Warnings",
                if self.warning_count == 0 { String::new() } else { self.warning_count.to_string() },
            ),
            ("Created", self.create_time.clone().unwrap_or_default()),
            ("Updated", self.update_time.clone().unwrap_or_default()),
        ]
    }
}
