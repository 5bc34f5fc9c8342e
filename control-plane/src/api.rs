//! The public API: `postrider.v1`. Handlers check what was sent, call one verb, and say what came of it.

mod agents;
mod deliveries;
mod event_types;
mod events;
mod page;
mod requests;
mod signing_keys;
mod status;
mod subscriptions;
mod tenants;
mod views;

use std::sync::Arc;

use postrider_domain::id::{SubscriptionId, TenantId};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::agents::Agents;
use crate::clock::Clock;
use crate::emit::Emitter;
use crate::lanes::Lanes;
use crate::registry::Registry;
use crate::store::{Store, SubscriptionRow};
use crate::watch::Updates;

/// What handlers use. Every service of the API is implemented on it.
#[derive(Clone)]
pub struct Api {
    /// What is remembered.
    pub store: Arc<dyn Store>,
    /// Tenants and subscriptions in memory.
    pub registry: Arc<Registry>,
    /// Where events are handed in.
    pub emitter: Emitter,
    /// The schedule.
    pub lanes: Lanes,
    /// Live updates.
    pub updates: Updates,
    /// Agents.
    pub agents: Arc<Agents>,
    /// Time.
    pub clock: Clock,
    /// How many bytes an event's data may have.
    pub max_event_bytes: usize,
    /// Cancelled when the program stops: streams end, and no event is accepted.
    pub stopping: CancellationToken,
}

impl Api {
    /// A tenant that exists.
    fn tenant(&self, id: &str) -> Result<TenantId, Status> {
        let tenant: TenantId = status::parse("tenant", id)?;
        if self.registry.has_tenant(&tenant) { Ok(tenant) } else { Err(status::not_found("tenant", id)) }
    }

    /// A subscription of a tenant.
    fn subscription(&self, tenant: &str, id: &str) -> Result<Arc<SubscriptionRow>, Status> {
        let tenant = self.tenant(tenant)?;
        let subscription: SubscriptionId = status::parse("subscription", id)?;
        let row = self.registry.get(subscription).filter(|row| row.subscription.tenant == tenant);
        row.ok_or_else(|| status::not_found("subscription", id))
    }
}
