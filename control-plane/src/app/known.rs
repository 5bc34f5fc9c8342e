//! What the store has, read once at the start.

use std::sync::Arc;

use anyhow::Context as _;

use crate::agents::Agents;
use crate::authority::Authorities;
use crate::clock::Clock;
use crate::config::Config;
use crate::identities::Identities;
use crate::key_uses::KeyUses;
use crate::operational;
use crate::pools::Pools;
use crate::registry::Registry;
use crate::schedule::{LaneSettings, Scheduler};
use crate::secrets::Sealer;
use crate::store::Store;
use crate::tokens::Tokens;

/// What the store has, as it is used.
pub(super) struct Known {
    pub(super) registry: Arc<Registry>,
    pub(super) agents: Arc<Agents>,
    pub(super) pools: Arc<Pools>,
    pub(super) tokens: Arc<Tokens>,
    pub(super) uses: Arc<KeyUses>,
    pub(super) identities: Arc<Identities>,
    pub(super) authorities: Arc<Authorities>,
    pub(super) scheduler: Scheduler,
}

impl Known {
    pub(super) async fn load(
        store: &Arc<dyn Store>,
        sealer: &Sealer,
        config: &Config,
        clock: Clock,
    ) -> anyhow::Result<Self> {
        let registry = Arc::new(Registry::load_with(&**store, sealer, config.tenant_quota).await?);
        operational::prepare(&**store, &registry, clock.wall()).await?;
        let (agents, expected) = Agents::load(store.clone()).await?;
        let tokens = Arc::new(Tokens::load(store.clone()).await?);
        let uses = Arc::new(KeyUses::load(store.clone(), registry.clone()).await?);
        let identities = Arc::new(Identities::load(store.clone()).await?);
        let authorities = Authorities::load(
            store.clone(),
            sealer.clone(),
            config.authority.clone(),
            identities.clone(),
            clock,
        );
        let authorities = Arc::new(authorities.await.context("the agents' authority")?);
        let pools = Arc::new(Pools::load(store.clone(), &registry, clock.wall()).await?);
        let mut scheduler = Scheduler::new(store.epoch());
        scheduler.fence(store.fence());
        if let Some(limit) = config.destination_limit {
            scheduler.limit_destinations(limit, clock.now());
        }
        for row in pools.list() {
            scheduler.pool_changed(&row.name, row.terms(), clock.now());
        }
        scheduler.await_agents(expected, clock.now() + config.resume_window);
        for row in registry.all() {
            let lane = store.lane(row.subscription.id).await?;
            scheduler.restore(LaneSettings::from(&row.subscription), lane, clock.now());
        }
        let agents = Arc::new(agents);
        Ok(Self { registry, agents, pools, tokens, uses, identities, authorities, scheduler })
    }
}
