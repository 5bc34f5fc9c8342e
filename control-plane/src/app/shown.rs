//! What is shown of the control plane: its admin port, from the first moment to the last, and what is told there.

use std::sync::Arc;

use postrider_telemetry::admin::Port;
use postrider_telemetry::log;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use crate::admin::Admin;
use crate::api::Api;
use crate::clock::Clock;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::metrics::levels::Sources;
use crate::metrics::upkeep;

/// See the [module](self).
pub(super) struct Shown {
    metrics: Arc<Metrics>,
    admin: Arc<Admin>,
    /// Serves the admin port, if there is one.
    port: Option<AbortOnDropHandle<()>>,
}

impl Shown {
    /// Opens the admin port, if there is to be one.
    pub(super) async fn open(
        config: &Config,
        filter: Option<log::Filter>,
        clock: Clock,
    ) -> anyhow::Result<Self> {
        let metrics = Arc::<Metrics>::default();
        let admin = Admin::new(clock, metrics.clone());
        let port = match config.admin_listen {
            Some(address) => {
                let port = Port::bind(address).await?;
                Some(AbortOnDropHandle::new(tokio::spawn(port.serve(admin.clone(), filter))))
            }
            None => None,
        };
        Ok(Self { metrics, admin, port })
    }

    /// What is counted.
    pub(super) fn metrics(&self) -> Arc<Metrics> {
        self.metrics.clone()
    }

    /// All runs. From now on it is looked after, if anybody can ask.
    pub(super) fn serving(&self, api: &Api, tasks: &mut JoinSet<()>) {
        if self.port.is_some() {
            tasks.spawn(self.admin.clone().watch(api.lanes.clone(), api.store.clone()));
            tasks.spawn(upkeep::watch(self.metrics.clone(), api.watched.clone()));
        }
        self.admin.serving(Sources {
            lanes: api.lanes.clone(),
            agents: api.agents.clone(),
            pools: api.pools.clone(),
            registry: api.registry.clone(),
            clock: api.clock,
        });
    }

    /// It stops; the port answers on.
    pub(super) fn stopping(&self) {
        self.admin.stopping();
    }
}
