//! Lets things age out, a bounded step at a time, so that live traffic never waits for it.

use std::sync::Arc;
use std::time::Duration;

use postrider_domain::event::IDEMPOTENCY_WINDOW;
use tracing::{debug, warn};

use crate::agents::{Agents, REMEMBERED};
use crate::clock::Clock;
use crate::config::Config;
use crate::store::{Retention, Store};

/// How often it is looked for things that are too old.
const INTERVAL: Duration = Duration::from_secs(60);
/// The pause between two steps of one round.
const PAUSE: Duration = Duration::from_millis(20);

/// How long things are kept.
#[derive(Clone, Copy, Debug)]
pub struct Keep {
    /// Events with their history.
    pub events: Duration,
    /// Data of events that are delivered everywhere.
    pub delivered_data: Duration,
    /// Audit records; `None`: for good.
    pub audit: Option<Duration>,
}

impl Keep {
    /// As it is set.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        Self {
            events: config.retain_events,
            delivered_data: config.retain_delivered_data,
            audit: config.retain_audit,
        }
    }
}

/// Runs until it is cancelled. Nothing is removed while the wall clock is not believed.
pub async fn run(store: Arc<dyn Store>, agents: Arc<Agents>, keep: Keep, clock: Clock) {
    loop {
        let Some(now) = clock.removal_time() else {
            tokio::time::sleep(INTERVAL).await;
            continue;
        };
        let retention = Retention {
            idempotency: now - IDEMPOTENCY_WINDOW,
            delivered_data: now - keep.delivered_data,
            events: now - keep.events,
            audit: keep.audit.map(|audit| now - audit),
            now,
        };
        let pause = match store.age_out(retention).await {
            Ok(true) => PAUSE,
            Ok(false) => {
                debug!("retention: nothing left to remove");
                INTERVAL
            }
            Err(error) => {
                warn!(%error, "retention failed; retrying");
                INTERVAL
            }
        };
        if let Err(error) = agents.forget_before(now - REMEMBERED).await {
            warn!(%error, "failed to remove agents that are gone; retrying");
        }
        tokio::time::sleep(pause).await;
    }
}
