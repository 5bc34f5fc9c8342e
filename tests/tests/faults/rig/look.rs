//! What a control plane says of the events that were acknowledged.

use std::collections::HashMap;

use anyhow::Result;
use postrider_proto::v1;
use postrider_tests::api::Api;
use postrider_tests::ledger::Emitted;
use tonic::Code;

/// What a look at all acknowledged events has found.
#[derive(Debug, Default)]
pub(crate) struct Look {
    /// Events that are not there, not whole, or not owed to every subscription.
    pub(crate) missing: Vec<String>,
    /// Events that the control plane refuses to show because the store is damaged.
    pub(crate) told: usize,
}

impl Look {
    /// Asks for every acknowledged event, and compares its data and the number of its deliveries.
    pub(crate) async fn at(api: &Api, events: &HashMap<String, Emitted>, deliveries: usize) -> Result<Self> {
        let mut look = Self::default();
        let mut client = api.events();
        for (id, emitted) in events.iter().filter(|(_, event)| event.acknowledged) {
            let request = v1::GetEventRequest { tenant: api.tenant(), event: id.clone() };
            let event = match client.get_event(request).await {
                Ok(answer) => answer.into_inner().event.unwrap_or_default(),
                Err(status) if status.code() == Code::NotFound => {
                    look.missing.push(format!("{id} is not found"));
                    continue;
                }
                Err(status) if is_told(&status) => {
                    look.told += 1;
                    continue;
                }
                Err(status) => return Err(status.into()),
            };
            if event.data != emitted.data.as_bytes() {
                look.missing.push(format!("{id} has other data"));
            }
            if event.deliveries.len() != deliveries {
                look.missing.push(format!("{id} has {} deliveries", event.deliveries.len()));
            }
        }
        Ok(look)
    }
}

/// Whether an answer says that the store is damaged.
pub(crate) fn is_told(status: &tonic::Status) -> bool {
    status.code() == Code::DataLoss || status.message().contains("damaged")
}
