//! The tasks that keep house: tokens, keys, certificates, secrets, operations, and what ages out.

use std::sync::Arc;
use std::time::Duration;

use postrider_telemetry::tasks::Tasks;
use tracing::{info, warn};

use crate::api::Api;
use crate::audit_head::Exporter;
use crate::audit_stream::{self, Streamer};
use crate::authority::Authorities;
use crate::clock::Clock;
use crate::config::Config;
use crate::identities::Identities;
use crate::metrics::Metrics;
use crate::operational::{self, Notices};
use crate::retention::{self, Keep};
use crate::{disabler, tasks};

/// How often it is looked at what time brings to certificates and join tokens.
const TEND_EVERY: Duration = Duration::from_secs(1);
/// How often join tokens and identities are forgotten that are too old.
const FORGET_EVERY: u32 = 60;

/// Starts what goes on by itself, whatever is delivered.
pub(super) fn keep(pipeline: &mut Tasks, api: &Api, config: &Config, metrics: Arc<Metrics>) {
    let (clock, rewrapper) = (api.clock, api.rewrapper.clone());
    pipeline.spawn_fallible(tasks::STORE, super::failure(api.store.clone()));
    pipeline.spawn(tasks::TOKEN_USES, api.tokens.clone().tend(clock));
    pipeline.spawn(tasks::KEY_USES, api.uses.clone().tend());
    pipeline.spawn(tasks::CERTIFICATES, tend(api.authorities.clone(), api.identities.clone(), clock));
    pipeline.spawn(tasks::REWRAPPER, async move { rewrapper.run().await });
    pipeline.spawn(tasks::OPERATIONS, api.operations.clone().run(api.by_itself()));
    let retention = retention::run(api.store.clone(), api.agents.clone(), Keep::of(config), clock);
    pipeline.spawn(tasks::RETENTION, retention);
    let (store, path) = (api.store.clone(), api.audit_head_file.clone());
    let exporter = Exporter { store, key: api.sealer.audit_key(), path, metrics: metrics.clone() };
    pipeline.spawn(tasks::AUDIT_HEAD, exporter.run());
    if let Some(destination) = config.audit_stream.clone() {
        let (store, position) = (api.store.clone(), config.data_dir.join(audit_stream::POSITION));
        let streamer = Streamer { store, destination, position, metrics, clock };
        pipeline.spawn(tasks::AUDIT_STREAM, streamer.run());
    }
}

/// Starts what follows from what deliveries come to.
pub(super) fn follow(
    pipeline: &mut Tasks,
    api: &Api,
    (changes, told): (disabler::Queue, operational::Queue),
    notices: Notices,
    config: &Config,
) {
    pipeline.spawn(tasks::DISABLER, disabler::run(changes, api.by_itself(), notices.clone()));
    let operational = operational::run(told, api.by_itself(), notices, config.thresholds);
    pipeline.spawn(tasks::OPERATIONAL_EVENTS, operational);
}

/// What time brings to authorities, join tokens and identities.
async fn tend(authorities: Arc<Authorities>, identities: Arc<Identities>, clock: Clock) {
    let (mut told, mut trusted) = (String::new(), clock.is_trusted());
    for round in (0..FORGET_EVERY).cycle() {
        tokio::time::sleep(TEND_EVERY).await;
        note_trust(clock, &mut trusted);
        identities.write_held_back(clock.wall()).await;
        let removal = clock.removal_time();
        let mut done = authorities.tend(clock.wall(), removal).await.map_err(|error| error.to_string());
        if let (0, true, Some(now)) = (round, done.is_ok(), removal) {
            done = identities.forget_old(now).await.map_err(|error| error.to_string());
        }
        match done {
            Ok(()) => told.clear(),
            Err(error) if error != told => {
                warn!("keeping the previous certificate state of agents: {error}");
                told = error;
            }
            Err(_) => {}
        }
    }
}

/// Says when the wall clock ceases to be believed, and when it is believed again.
fn note_trust(clock: Clock, trusted: &mut bool) {
    let now = clock.is_trusted();
    if now == *trusted {
        return;
    }
    *trusted = now;
    let (machine, believed) = (clock.machine_wall(), clock.wall());
    if now {
        info!(%machine, "the wall clock is trusted again; retention continues");
    } else {
        warn!(
            %machine,
            %believed,
            "the wall clock jumped by more than an hour and is not trusted; retention is suspended until it is corrected or has run steadily for an hour; check the machine's clock"
        );
    }
}
