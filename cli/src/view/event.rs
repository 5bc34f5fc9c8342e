//! Events, shown.

use std::collections::BTreeMap;

use postrider_proto::v1;
use serde::Serialize;
use serde_json::value::RawValue;

use super::{time, time_for_table};
use crate::json;
use crate::output::View;

/// Mirrors `postrider.v1.Event`.
#[derive(Debug, Serialize)]
pub(crate) struct Event {
    id: String,
    tenant: String,
    r#type: String,
    timestamp: Option<String>,
    accept_time: Option<String>,
    data: Option<Box<RawValue>>,
    data_erased: bool,
    data_size: u32,
    deliveries: Vec<String>,
    ordering_key: String,
    attributes: BTreeMap<String, String>,
    trace_parent: String,
    trace_state: String,
    #[serde(skip)]
    accepted: String,
}

impl From<v1::Event> for Event {
    fn from(event: v1::Event) -> Self {
        Self {
            timestamp: time(event.timestamp.as_ref()),
            accept_time: time(event.accept_time.as_ref()),
            accepted: time_for_table(event.accept_time.as_ref()),
            data: json::raw(&event.data),
            id: event.id,
            tenant: event.tenant,
            r#type: event.r#type,
            data_erased: event.data_erased,
            data_size: event.data_size,
            deliveries: event.deliveries,
            ordering_key: event.ordering_key,
            attributes: event.attributes.into_iter().collect(),
            trace_parent: event.trace_parent,
            trace_state: event.trace_state,
        }
    }
}

impl View for Event {
    const COLUMNS: &'static [&'static str] = &["ID", "TYPE", "ACCEPTED", "BYTES", "DELIVERIES"];

    fn row(&self) -> Vec<String> {
        vec![
            self.id.clone(),
            self.r#type.clone(),
            self.accepted.clone(),
            self.data_size.to_string(),
            self.deliveries.len().to_string(),
        ]
    }

    fn details(&self) -> Vec<(&'static str, String)> {
        let data = match &self.data {
            _ if self.data_erased => "(erased by retention)".into(),
            Some(data) => json::pretty(data.get()),
            None => String::new(),
        };
        let attributes = self.attributes.iter().map(|(name, value)| format!("{name}={value}"));
        vec![
            ("Event", self.id.clone()),
            ("Tenant", self.tenant.clone()),
            ("Type", self.r#type.clone()),
            ("Timestamp", self.timestamp.clone().unwrap_or_default()),
            ("Accepted", self.accept_time.clone().unwrap_or_default()),
            ("Size", format!("{} bytes", self.data_size)),
            ("Ordering key", self.ordering_key.clone()),
            ("Attributes", attributes.collect::<Vec<_>>().join("\n")),
            ("Trace", self.trace_parent.clone()),
            ("Deliveries", self.deliveries.join("\n")),
            ("Data", data),
        ]
    }
}

/// Mirrors `postrider.v1.EmitResponse`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Accepted {
    /// The event's id.
    pub(crate) event_id: String,
    duplicate: bool,
    /// How many subscriptions it is owed to.
    pub(crate) deliveries: u32,
    accept_time: Option<String>,
    /// What the emitter should mend.
    pub(crate) warnings: Vec<Warning>,
}

/// Mirrors `postrider.v1.EmitWarning`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Warning {
    reason: String,
    /// For people.
    pub(crate) message: String,
}

impl From<v1::EmitWarning> for Warning {
    fn from(warning: v1::EmitWarning) -> Self {
        Self { reason: warning.reason, message: warning.message }
    }
}

impl From<v1::EmitResponse> for Accepted {
    fn from(response: v1::EmitResponse) -> Self {
        Self {
            accept_time: time(response.accept_time.as_ref()),
            event_id: response.event_id,
            duplicate: response.duplicate,
            deliveries: response.deliveries,
            warnings: response.warnings.into_iter().map(Warning::from).collect(),
        }
    }
}

impl Accepted {
    /// One line for people.
    pub(crate) fn line(&self) -> String {
        let again = if self.duplicate { ", accepted before" } else { "" };
        let plural = if self.deliveries == 1 { "delivery" } else { "deliveries" };
        format!("{}  {} {plural}{again}", self.event_id, self.deliveries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_mirrors_the_message_and_embeds_the_data() {
        let event = v1::Event {
            id: "evt_1".into(),
            tenant: "t".into(),
            r#type: "a.b".into(),
            timestamp: Some(prost_types::Timestamp { seconds: 1_770_028_200, nanos: 120_000_000 }),
            data: r#"{"b":1.50,"a":1}"#.into(),
            data_size: 16,
            deliveries: vec!["dlv_1".into()],
            ..Default::default()
        };
        assert_eq!(
            serde_json::to_string(&Event::from(event)).unwrap(),
            r#"{"id":"evt_1","tenant":"t","type":"a.b","timestamp":"2026-02-02T10:30:00.12Z","accept_time":null,"data":{"b":1.50,"a":1},"data_erased":false,"data_size":16,"deliveries":["dlv_1"],"ordering_key":"","attributes":{},"trace_parent":"","trace_state":""}"#
        );
    }

    #[test]
    fn an_accepted_event_is_one_line() {
        let response = v1::EmitResponse { event_id: "e".into(), deliveries: 1, ..Default::default() };
        assert_eq!(Accepted::from(response).line(), "e  1 delivery");
    }
}
