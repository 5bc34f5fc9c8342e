//! How things are at the moment of a scrape: what waits, what agents hold, who is connected.
//!
//! Asked of those who keep the sums: the schedule, the agents, the registry. Names that people choose become labels, so
//! there are at most so many of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use postrider_telemetry::metrics::{Bounded, Catalogue, GaugeVec, IntGauge, IntGaugeVec, Label};
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::timeout;
use tracing::warn;

use crate::agents::Agents;
use crate::clock::Clock;
use crate::lanes::Lanes;
use crate::pools::Pools;
use crate::registry::Registry;

/// Versions of agents that are told apart.
const VERSIONS: usize = 20;
/// How long the schedule may take to answer. Without its answer a scrape has no numbers of pools.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

const POOL_LABEL: Label = Label { name: "pool", values: &["(the pool; `other` for those beyond 200)"] };
const POOL: [Label; 1] = [POOL_LABEL];
const POOL_AND_VERSION: [Label; 2] = [
    POOL_LABEL,
    Label { name: "version", values: &["(the agents' version; empty where there is no agent)"] },
];
const STATE: [Label; 1] = [Label { name: "state", values: &["active", "paused", "disabled"] }];

/// Who knows how things are.
pub struct Sources {
    /// What waits and what is under way.
    pub lanes: Lanes,
    /// Who is connected.
    pub agents: Arc<Agents>,
    /// Which pools have been given a description.
    pub pools: Arc<Pools>,
    /// How many subscriptions there are.
    pub registry: Arc<Registry>,
    /// What time it is.
    pub clock: Clock,
}

pub(super) struct Levels {
    waiting: IntGaugeVec,
    oldest: GaugeVec,
    in_flight: IntGaugeVec,
    credit: IntGaugeVec,
    agents: IntGaugeVec,
    at_destinations: IntGauge,
    breakers: IntGauge,
    subscriptions: IntGaugeVec,
    clock: IntGauge,
    /// Held from the questions until the answers are shown: two scrapes must not mix.
    names: Mutex<Names>,
}

pub(super) struct Names {
    pools: Bounded,
    versions: Bounded,
}

impl Levels {
    pub(super) fn new(all: &mut Catalogue) -> Self {
        let waiting = "Deliveries that have not ended and are not in flight, by their subscription's pool. Without those of subscriptions that are paused or disabled by a 410, and without retries that are not loaded from the store.";
        let oldest = "How long the oldest due delivery has waited without being in flight, by its subscription's pool; 0 when none waits. Without deliveries that are held (circuit breaker, Retry-After, paused or disabled).";
        let agents = "Agents that are connected, by pool and version. Every pool is listed that has subscriptions or a \
            description, or had an agent within a day.";
        let breakers =
            "Subscriptions whose circuit breaker is open: only one attempt at a time probes the endpoint.";
        let at_destinations = "Subscriptions with deliveries that wait because their endpoint's host and port get as many as \
            destination_rate allows.";
        Self {
            waiting: all.gauges("postrider_deliveries_waiting", waiting, &POOL),
            oldest: all.float_gauges("postrider_oldest_waiting_seconds", oldest, &POOL),
            in_flight: all.gauges(
                "postrider_jobs_in_flight",
                "Jobs that agents hold, by the agents' pool.",
                &POOL,
            ),
            credit: all.gauges(
                "postrider_agent_credit",
                "Further jobs that agents could take, by pool.",
                &POOL,
            ),
            agents: all.gauges("postrider_agents", agents, &POOL_AND_VERSION),
            breakers: all.gauge("postrider_breakers_open", breakers),
            at_destinations: all.gauge("postrider_subscriptions_at_destination_limit", at_destinations),
            subscriptions: all.gauges("postrider_subscriptions", "Subscriptions, by state.", &STATE),
            clock: all.gauge(
                "postrider_wall_clock_trusted",
                "1 while the wall clock is believed; 0 after it has jumped by more than an hour: then nothing is removed for \
                    its age.",
            ),
            names: Mutex::new(Names { pools: Bounded::default(), versions: Bounded::new(VERSIONS) }),
        }
    }

    /// Asks everybody. What is returned is dropped when the answers are shown.
    pub(super) async fn ask(&self, sources: &Sources) -> MutexGuard<'_, Names> {
        let mut names = self.names.lock().await;
        self.clock.set(i64::from(sources.clock.is_trusted()));
        for (state, count) in sources.registry.count_by_state() {
            self.subscriptions.with_label_values(&[state]).set(whole(count));
        }
        let levels = timeout(ANSWER_WITHIN, sources.lanes.levels()).await.ok().flatten();
        if levels.is_none() {
            warn!("the scheduler did not answer a scrape in time; pool metrics are missing from it");
        }
        let levels = levels.unwrap_or_default();
        let agents = sources.agents.connected_versions();
        let described = sources.pools.list();
        let mut pools: BTreeSet<&str> = described.iter().map(|row| row.name.as_str()).collect();
        pools.extend(levels.pools.keys().map(|pool| pool.as_str()));
        pools.extend(agents.keys().map(String::as_str));
        names.pools.know(&pools);
        names.versions.know(&agents.values().flat_map(BTreeMap::keys).map(String::as_str).collect());
        self.show_pools(&levels, sources.clock, &names.pools);
        self.show_agents(&agents, &pools, &names);
        names
    }

    fn show_pools(&self, levels: &crate::schedule::Levels, clock: Clock, names: &Bounded) {
        self.waiting.reset();
        self.in_flight.reset();
        self.credit.reset();
        self.oldest.reset();
        self.breakers.set(whole(levels.breakers_open));
        self.at_destinations.set(whole(levels.at_destinations));
        let now = clock.now();
        for (pool, level) in &levels.pools {
            let pool = [names.label(pool.as_str())];
            self.waiting.with_label_values(&pool).add(i64::try_from(level.waiting).unwrap_or(i64::MAX));
            self.in_flight.with_label_values(&pool).add(whole(level.in_flight));
            self.credit.with_label_values(&pool).add(whole(level.credit));
            let age = level.oldest.map_or(Duration::ZERO, |oldest| now.since(oldest)).as_secs_f64();
            let oldest = self.oldest.with_label_values(&pool);
            oldest.set(oldest.get().max(age));
        }
    }

    fn show_agents(
        &self,
        agents: &BTreeMap<String, BTreeMap<String, usize>>,
        pools: &BTreeSet<&str>,
        names: &Names,
    ) {
        self.agents.reset();
        for pool in pools {
            let name = names.pools.label(pool);
            match agents.get(*pool).filter(|versions| !versions.is_empty()) {
                Some(versions) => versions.iter().for_each(|(version, count)| {
                    let labels = [name, names.versions.label(version)];
                    self.agents.with_label_values(&labels).add(whole(*count));
                }),
                None => drop(self.agents.with_label_values(&[name, ""])),
            }
        }
    }
}

fn whole(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
