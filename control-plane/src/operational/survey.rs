//! Looks every few seconds for what no other part notices by itself: agents that stay away, work that piles up, and keys
//! that will soon sign no more. What was told is remembered here; after a restart some of it may be told again.

use std::time::Duration;

use ahash::{HashMap, HashMapExt as _, HashSet, HashSetExt as _};
use postrider_domain::id::{AgentId, KeyId, PoolName, SubscriptionId};
use postrider_domain::lane::Growth;
use postrider_domain::signing::{KeyState, expiry_warning};
use postrider_domain::time::Timestamp;

use super::{About, Away, Notice, Notices, Thresholds};
use crate::agents::AgentView;
use crate::api::Api;
use crate::schedule::Survey;

/// How often it looks.
const EVERY: Duration = Duration::from_secs(5);

/// What was told.
struct Watch {
    api: Api,
    notices: Notices,
    thresholds: Thresholds,
    /// Before that nobody could be connected.
    started: Timestamp,
    agents_away: HashMap<AgentId, Timestamp>,
    /// Pools without an agent, since when, and whether that was told.
    pools_away: HashMap<PoolName, (Timestamp, bool)>,
    backlogs: HashMap<SubscriptionId, Growth>,
    keys: HashSet<KeyId>,
}

/// Looks until the program stops.
pub(super) async fn run(api: Api, notices: Notices, thresholds: Thresholds) {
    let started = api.clock.wall();
    let stopping = api.stopping.clone();
    let mut watch = Watch {
        api,
        notices,
        thresholds,
        started,
        agents_away: HashMap::new(),
        pools_away: HashMap::new(),
        backlogs: HashMap::new(),
        keys: HashSet::new(),
    };
    loop {
        tokio::select! {
            () = stopping.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        let now = watch.api.clock.wall();
        let survey = watch.api.lanes.survey().await;
        watch.look_at_agents(now);
        watch.look_at_pools(&survey, now);
        watch.look_at_backlogs(&survey);
        watch.look_at_keys(now);
    }
}

impl Watch {
    fn look_at_agents(&mut self, now: Timestamp) {
        let views = self.api.agents.list();
        let known: HashSet<&AgentId> = views.iter().map(|view| &view.row.id).collect();
        self.agents_away.retain(|id, _| known.contains(id));
        for view in &views {
            let id = &view.row.id;
            let identity = self.api.identities.get(id);
            let name = identity.as_ref().map(|row| row.display_name.clone()).unwrap_or_default();
            if identity.is_some_and(|row| row.revoked.is_some()) {
                self.agents_away.remove(id);
            } else if !view.holders.is_empty() {
                if let Some(since) = self.agents_away.remove(id) {
                    self.notices.tell(Notice::Online(of_agent(view, name, since)));
                }
            } else if view.row.streams > 0 && !self.agents_away.contains_key(id) {
                // It did not take its leave.
                let since = view.row.last_seen.max(self.started);
                if now.since(since) >= self.thresholds.agent_offline_after {
                    self.agents_away.insert(id.clone(), since);
                    self.notices.tell(Notice::Offline(of_agent(view, name, since)));
                }
            }
        }
    }

    fn look_at_pools(&mut self, survey: &Survey, now: Timestamp) {
        for (pool, waiting) in &survey.stranded {
            let (since, told) = self.pools_away.entry(pool.clone()).or_insert((now, false));
            if !*told && now.since(*since) >= self.thresholds.agent_offline_after {
                *told = true;
                self.notices.tell(Notice::Offline(of_pool(pool, *since, *waiting)));
            }
        }
        let back: Vec<PoolName> =
            self.pools_away.keys().filter(|pool| !survey.stranded.contains_key(*pool)).cloned().collect();
        for pool in back {
            // Its work may also have gone away.
            if let Some((since, true)) = self.pools_away.remove(&pool).filter(|_| self.has_agent(&pool)) {
                self.notices.tell(Notice::Online(of_pool(&pool, since, 0)));
            }
        }
    }

    fn has_agent(&self, pool: &PoolName) -> bool {
        let of_pool = |view: &AgentView| view.row.pool == pool.as_str() && !view.holders.is_empty();
        self.api.agents.list().iter().any(of_pool)
    }

    fn look_at_backlogs(&mut self, survey: &Survey) {
        let now = self.api.clock.now();
        let mut told = HashMap::new();
        for (id, backlog) in &survey.lanes {
            let mut growth = self.backlogs.remove(id).unwrap_or_default();
            if growth.look(backlog, &self.thresholds.backlog, now) {
                self.notices.tell(Notice::Subscription(*id, About::BacklogGrowing(*backlog)));
            }
            if growth.is_told() {
                told.insert(*id, growth);
            }
        }
        self.backlogs = told;
    }

    fn look_at_keys(&mut self, now: Timestamp) {
        let mut expiring = HashSet::new();
        for row in self.api.registry.all() {
            let retiring = row.keys.keys().iter().filter(|key| key.state(now) == KeyState::Retiring);
            for key in retiring.filter(|key| expiry_warning(&row.keys, key).is_some_and(|time| time <= now)) {
                expiring.insert(key.id);
                let (Some(ends), false) = (key.retire, self.keys.contains(&key.id)) else { continue };
                let about = About::KeyExpiring { key: key.id, scheme: key.scheme, ends };
                self.notices.tell(Notice::Subscription(row.subscription.id, about));
            }
        }
        self.keys = expiring;
    }
}

fn of_agent(view: &AgentView, name: String, since: Timestamp) -> Away {
    let pool = view.row.pool.parse().unwrap_or_else(|_| PoolName::default_pool());
    Away { pool, agent: Some((view.row.id.clone(), name)), since, waiting: 0 }
}

fn of_pool(pool: &PoolName, since: Timestamp, waiting: u64) -> Away {
    Away { pool: pool.clone(), agent: None, since, waiting }
}
