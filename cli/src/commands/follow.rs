//! Watching an event's deliveries until all have ended.

use std::collections::BTreeMap;

use postrider_proto::v1::{self, DeliveryState};

use super::Context;
use super::tail::Reconnect;
use crate::failure::{Doing as _, Exit, Result};
use crate::output::{Format, print};
use crate::view::delivery::{Delivery, has_ended};

/// How an event's deliveries ended.
#[derive(Debug)]
pub(crate) struct End {
    /// Each as it ended.
    pub(crate) deliveries: Vec<Delivery>,
    /// Whether all endpoints have it.
    pub(crate) all_delivered: bool,
}

impl End {
    /// Of an event that is owed to nobody.
    pub(crate) fn nothing() -> Self {
        Self { deliveries: Vec::new(), all_delivered: true }
    }
}

/// Watches, prints every change for people, and returns when all deliveries have ended.
///
/// When the stream breaks it is opened again: it begins with every delivery as it stands.
pub(crate) async fn run(context: &Context, tenant: String, event: String) -> Result<End> {
    let mut latest = BTreeMap::new();
    let mut printed = BTreeMap::new();
    let mut reconnect = Reconnect::default();
    loop {
        match watch(context, &tenant, &event, &mut latest, &mut printed, &mut reconnect).await {
            Ok(()) => {
                let deliveries: Vec<v1::Delivery> = latest.into_values().collect();
                let delivered = |delivery: &v1::Delivery| delivery.state() == DeliveryState::Delivered;
                let all_delivered = deliveries.iter().all(delivered);
                return Ok(End {
                    deliveries: deliveries.into_iter().map(Delivery::from).collect(),
                    all_delivered,
                });
            }
            Err(failure) if failure.exit == Exit::Unavailable => reconnect.wait(&failure).await,
            Err(failure) => return Err(failure),
        }
    }
}

async fn watch(
    context: &Context,
    tenant: &str,
    event: &str,
    latest: &mut BTreeMap<String, v1::Delivery>,
    printed: &mut BTreeMap<String, String>,
    reconnect: &mut Reconnect,
) -> Result<()> {
    let step = format!("follow {event}");
    let request =
        v1::WatchDeliveriesRequest { tenant: tenant.into(), event: event.into(), ..Default::default() };
    let mut updates = context.client.deliveries().watch_deliveries(request).await.doing(&step)?.into_inner();
    reconnect.connected();
    while let Some(update) = updates.message().await.doing(&step)? {
        let Some(delivery) = update.delivery else { continue };
        let line = Delivery::from(delivery.clone()).line();
        if context.format == Format::Table && printed.get(&delivery.id) != Some(&line) {
            print(&format!("{line}\n"))?;
        }
        printed.insert(delivery.id.clone(), line);
        latest.insert(delivery.id.clone(), delivery);
    }
    if latest.values().all(|delivery| has_ended(delivery.state)) {
        return Ok(());
    }
    Err(crate::failure::Failure::new(Exit::Unavailable, format!("cannot {step}: the stream ended early")))
}
