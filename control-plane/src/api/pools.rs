//! `PoolService`.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use postrider_domain::audit::Entry;
use postrider_domain::id::PoolName;
use postrider_domain::pool::Settings;
use postrider_domain::violation::Violation;
use postrider_proto::v1::pool_service_server::PoolService;
use postrider_proto::v1::{self, AgentState, Pool, PoolStatus};
use postrider_proto::{pool, time};
use tonic::{Request, Response, Status};

use super::{Api, page, status, views};
use crate::schedule::PoolView;
use crate::store::PoolRow;

const LIST: &str = "pools";
const SETTABLE: [&str; 3] = ["description", "fallback_pool", "fallback_after"];

#[tonic::async_trait]
impl PoolService for Api {
    async fn create_pool(
        &self,
        request: Request<v1::CreatePoolRequest>,
    ) -> Result<Response<v1::CreatePoolResponse>, Status> {
        let (api, request) = self.call(request);
        let wanted = request.pool.unwrap_or_default();
        let name: PoolName = status::parse("pool.name", &wanted.name)?;
        let _change = api.registry.change().await;
        if api.pools.get(&name).is_some() {
            return Err(status::exists("pool", &wanted.name));
        }
        let now = api.clock.wall();
        let row = PoolRow { settings: api.settings(&name, &wanted)?, name, created: now, updated: now };
        let detail = describe(&row.settings);
        let pool = Some(api.save_pool(row, "CreatePool", detail).await?);
        Ok(Response::new(v1::CreatePoolResponse { pool }))
    }

    async fn get_pool(
        &self,
        request: Request<v1::GetPoolRequest>,
    ) -> Result<Response<v1::GetPoolResponse>, Status> {
        let (api, request) = self.call(request);
        let name: PoolName = status::parse("pool", &request.pool)?;
        let mut census = api.census().await;
        let status = census.remove(&name).ok_or_else(|| status::not_found("pool", &request.pool))?;
        Ok(Response::new(v1::GetPoolResponse { pool: Some(api.show_pool(&name, status)) }))
    }

    async fn list_pools(
        &self,
        request: Request<v1::ListPoolsRequest>,
    ) -> Result<Response<v1::ListPoolsResponse>, Status> {
        let (api, request) = self.call(request);
        let size = page::size(request.page_size)?;
        let after: Option<PoolName> = page::read(LIST, &request.page_token)?;
        let mut found: Vec<(PoolName, PoolStatus)> = api.census().await.into_iter().collect();
        found.retain(|(name, _)| after.as_ref().is_none_or(|after| name > after));
        let next_page_token = page::after(LIST, &mut found, size, |(name, _)| name.to_string());
        let pools = found.into_iter().map(|(name, status)| api.show_pool(&name, status)).collect();
        Ok(Response::new(v1::ListPoolsResponse { pools, next_page_token }))
    }

    async fn update_pool(
        &self,
        request: Request<v1::UpdatePoolRequest>,
    ) -> Result<Response<v1::UpdatePoolResponse>, Status> {
        let (api, request) = self.call(request);
        let wanted = request.pool.unwrap_or_default();
        let name: PoolName = status::parse("pool.name", &wanted.name)?;
        let fields = views::mask(request.update_mask, &SETTABLE)?;
        let _change = api.registry.change().await;
        let now = api.clock.wall();
        let former = api.pools.get(&name);
        if former.is_none() && !api.named_pools().contains(&name) {
            return Err(status::not_found("pool", &wanted.name));
        }
        let (settings, created) =
            former.map_or_else(|| (Settings::default(), now), |row| (row.settings, row.created));
        let before = describe(&settings);
        let mut wire = pool::write(&name, &settings);
        for field in &fields {
            match *field {
                "description" => wire.description.clone_from(&wanted.description),
                "fallback_pool" => wire.fallback_pool.clone_from(&wanted.fallback_pool),
                _ => wire.fallback_after = wanted.fallback_after,
            }
        }
        let row = PoolRow { settings: api.settings(&name, &wire)?, name, created, updated: now };
        let detail = format!("{before} → {}", describe(&row.settings));
        let pool = Some(api.save_pool(row, "UpdatePool", detail).await?);
        Ok(Response::new(v1::UpdatePoolResponse { pool }))
    }

    async fn delete_pool(
        &self,
        request: Request<v1::DeletePoolRequest>,
    ) -> Result<Response<v1::DeletePoolResponse>, Status> {
        let (api, request) = self.call(request);
        let name: PoolName = status::parse("pool", &request.pool)?;
        let _change = api.registry.change().await;
        if api.pools.get(&name).is_none() {
            return Err(status::not_found("pool", &request.pool));
        }
        if let Some(user) = api.user_of(&name) {
            let message = format!("the pool {name} stays: {user}");
            return Err(status::precondition("POOL_IN_USE", message));
        }
        let audit = api.entry("DeletePool", None, &name);
        api.pools.remove(&name, audit).await.map_err(|error| status::store(&error))?;
        api.lanes.pool_changed(name, None).await;
        Ok(Response::new(v1::DeletePoolResponse {}))
    }
}

impl Api {
    /// What whoever chooses this pool for a subscription should know: nothing but the subscription names it.
    pub(super) fn unknown_pool(&self, name: &PoolName) -> Option<String> {
        let known = self.pools.get(name).is_some() || self.pools_with_agents().contains(name);
        (!known && *name != PoolName::default_pool()).then(|| {
            format!(
                "pool: there is no pool {name}: it was never created, and no agent or join token belongs to it. If the \
                 name is right, let an agent in by `postrider agents enroll-token create --pool {name}`; until then \
                 deliveries wait"
            )
        })
    }

    async fn save_pool(&self, row: PoolRow, action: &str, detail: String) -> Result<Pool, Status> {
        let (name, fallback) = (row.name.clone(), row.fallback());
        let audit = Entry { detail, ..self.entry(action, None, &name) };
        self.pools.put(row, audit).await.map_err(|error| status::store(&error))?;
        self.lanes.pool_changed(name.clone(), fallback).await;
        let status = self.census().await.remove(&name).unwrap_or_default();
        Ok(self.show_pool(&name, status))
    }

    /// Reads and judges what a pool is to have. A fallback that nobody knows would help nobody.
    fn settings(&self, name: &PoolName, wire: &Pool) -> Result<Settings, Status> {
        let within = |violations: Vec<Violation>| {
            let within: Vec<_> = violations.into_iter().map(|violation| violation.within("pool")).collect();
            status::invalid(&within)
        };
        let settings = pool::read(wire).map_err(within)?;
        let mut fallbacks = self.pools.fallbacks();
        fallbacks.remove(name);
        let mut violations = settings.violations(name, &fallbacks);
        if let Some(fallback) = settings.fallback.as_ref().filter(|_| violations.is_empty())
            && self.unknown_pool(fallback).is_some()
        {
            let problem = format!("names {fallback}, which is no pool; create it first");
            violations.push(Violation::new("fallback_pool", problem));
        }
        if violations.is_empty() { Ok(settings) } else { Err(within(violations)) }
    }

    fn show_pool(&self, name: &PoolName, status: PoolStatus) -> Pool {
        let row = self.pools.get(name);
        let settings = row.as_ref().map(|row| row.settings.clone()).unwrap_or_default();
        Pool {
            create_time: row.as_ref().map(|row| time::write(row.created)),
            update_time: row.as_ref().map(|row| time::write(row.updated)),
            status: Some(status),
            ..pool::write(name, &settings)
        }
    }

    /// Pools that have agents, or tokens by which some may come.
    fn pools_with_agents(&self) -> BTreeSet<PoolName> {
        let now = self.clock.wall();
        let tokens = self.identities.join_tokens().into_iter();
        let open = tokens.filter(|token| token.expires > now && token.uses < token.max_uses);
        let agents = self.agents_by_pool();
        open.map(|token| token.pool).chain(agents.into_iter().map(|(pool, ..)| pool)).collect()
    }

    /// Every pool that something names, and the one that is always there.
    fn named_pools(&self) -> BTreeSet<PoolName> {
        let mut names = self.pools_with_agents();
        names.extend(self.registry.all().iter().map(|row| row.subscription.pool.clone()));
        names.insert(PoolName::default_pool());
        names
    }

    /// Every pool, and how it is now.
    async fn census(&self) -> BTreeMap<PoolName, PoolStatus> {
        let views = self.lanes.pools().await;
        let mut census: BTreeMap<PoolName, PoolStatus> = BTreeMap::new();
        let names = self.named_pools().into_iter().chain(self.pools.list().into_iter().map(|row| row.name));
        for name in names {
            let status = views.get(&name).map(status_of).unwrap_or_default();
            census.insert(name, status);
        }
        for row in self.registry.all() {
            if let Some(status) = census.get_mut(&row.subscription.pool) {
                status.subscriptions += 1;
            }
        }
        let mut versions: HashMap<PoolName, BTreeMap<String, u32>> = HashMap::new();
        for (pool, state, version) in self.agents_by_pool() {
            let Some(status) = census.get_mut(&pool) else { continue };
            match state {
                AgentState::Connected => status.connected_agents += 1,
                AgentState::Draining => status.draining_agents += 1,
                _ => status.disconnected_agents += 1,
            }
            if matches!(state, AgentState::Connected | AgentState::Draining) {
                *versions.entry(pool).or_default().entry(version).or_default() += 1;
            }
        }
        for (pool, versions) in versions {
            if let Some(status) = census.get_mut(&pool) {
                let version = |(version, agents)| v1::AgentVersion { version, agents };
                status.versions = versions.into_iter().map(version).collect();
            }
        }
        census
    }

    /// Who would go on naming a pool that is deleted, as the end of a sentence.
    fn user_of(&self, name: &PoolName) -> Option<String> {
        let rows = self.registry.all();
        let subscriptions = rows.iter().filter(|row| row.subscription.pool == *name).count();
        if subscriptions > 0 {
            return Some(format!(
                "{subscriptions} subscriptions deliver by it; give them another pool first"
            ));
        }
        if let Some((other, _)) = self.pools.fallbacks().into_iter().find(|(_, fallback)| fallback == name) {
            return Some(format!("{other} falls back on it; change that first"));
        }
        let present = |state| matches!(state, AgentState::Connected | AgentState::Draining);
        if self.agents_by_pool().iter().any(|(pool, state, _)| pool == name && present(*state)) {
            return Some("agents of it are connected; stop or revoke them first".to_owned());
        }
        let now = self.clock.wall();
        let tokens = self.identities.join_tokens();
        let open = |token: &&crate::store::JoinTokenRow| token.expires > now && token.uses < token.max_uses;
        let token = tokens.iter().filter(open).find(|token| token.pool == *name)?;
        Some(format!("the join token {} lets agents into it; revoke that first", token.id))
    }
}

fn status_of(view: &PoolView) -> PoolStatus {
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    PoolStatus {
        in_flight: count(view.in_flight),
        max_in_flight: count(view.max_in_flight),
        no_agent_since: view.no_agent_since.map(time::write),
        held_subscriptions: count(view.held_lanes),
        fallback_active: view.taken_over_by.is_some(),
        ..PoolStatus::default()
    }
}

fn describe(settings: &Settings) -> String {
    let fallback = match &settings.fallback {
        Some(pool) => format!("falls back on {pool} after {:?}", settings.fallback_after),
        None => "no fallback".to_owned(),
    };
    format!("«{}», {fallback}", settings.description)
}
