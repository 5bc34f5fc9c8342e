//! What is shown of the control plane: its admin port, from the first moment to the last, and what is told there.

use std::sync::Arc;

use postrider_telemetry::admin::Port;
use postrider_telemetry::log;
use postrider_telemetry::tasks::{Supervisor, Tasks};
use tokio_util::sync::CancellationToken;

use crate::admin::Admin;
use crate::api::Api;
use crate::clock::Clock;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::metrics::levels::Sources;
use crate::metrics::upkeep;
use crate::tasks;

/// See the [module](self).
pub(super) struct Shown {
    metrics: Arc<Metrics>,
    admin: Arc<Admin>,
    supervisor: Supervisor,
    /// Cancelled when the stop begins or a task fails.
    stopping: CancellationToken,
    /// Serves the admin port, if there is one, to the last moment.
    port: Option<Tasks>,
}

impl Shown {
    /// Opens the admin port, if there is to be one.
    pub(super) async fn open(
        config: &Config,
        filter: Option<log::Filter>,
        clock: Clock,
    ) -> anyhow::Result<Self> {
        let (metrics, stopping) = (Arc::<Metrics>::default(), CancellationToken::new());
        let supervisor = Supervisor::new(stopping.clone(), metrics.task_failures());
        let admin = Admin::new(clock, metrics.clone(), supervisor.clone());
        let port = match config.admin_listen {
            Some(address) => {
                let (port, mut running) = (Port::bind(address).await?, supervisor.tasks());
                running.spawn(tasks::ADMIN_PORT, port.serve(admin.clone(), filter));
                Some(running)
            }
            None => None,
        };
        Ok(Self { metrics, admin, supervisor, stopping, port })
    }

    /// What is counted.
    pub(super) fn metrics(&self) -> Arc<Metrics> {
        self.metrics.clone()
    }

    /// Who watches over tasks.
    pub(super) fn supervisor(&self) -> &Supervisor {
        &self.supervisor
    }

    /// Cancelled when the stop begins or a task fails.
    pub(super) fn stop_token(&self) -> CancellationToken {
        self.stopping.clone()
    }

    /// What the admin port says.
    #[cfg(test)]
    pub(super) fn admin(&self) -> Arc<Admin> {
        self.admin.clone()
    }

    /// All runs. From now on it is looked after, if anybody can ask.
    pub(super) fn serving(&self, api: &Api, running: &mut Tasks) {
        if self.port.is_some() {
            running.spawn(tasks::LIVENESS, self.admin.clone().watch(api.lanes.clone(), api.store.clone()));
            running.spawn(tasks::UPKEEP, upkeep::watch(self.metrics.clone(), api.watched.clone()));
        }
        let watched = api.watched.clone();
        let sources = Sources {
            lanes: api.lanes.clone(),
            agents: api.agents.clone(),
            pools: api.pools.clone(),
            registry: api.registry.clone(),
            clock: api.clock,
        };
        self.admin.serving(sources, watched);
    }

    /// It stops; the port answers on.
    pub(super) fn stopping(&self) {
        self.stopping.cancel();
        self.admin.stopping();
    }
}
