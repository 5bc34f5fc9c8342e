//! `PoolService`.

use std::collections::{BTreeMap, BTreeSet};

use ahash::{HashMap, HashMapExt as _};
use postrider_domain::access::Scope;
use postrider_domain::audit::Entry;
use postrider_domain::id::{PoolName, TenantId};
use postrider_domain::pool::{Settings, Tenants};
use postrider_domain::subscription::Subscription;
use postrider_domain::violation::Violation;
use postrider_proto::v1::pool_service_server::PoolService;
use postrider_proto::v1::{self, AgentState, Pool, PoolStatus};
use postrider_proto::{pool, time};
use tonic::{Request, Response, Status};

use super::{Api, page, status, views};
use crate::registry::TenantStatus;
use crate::schedule::{PoolTerms, PoolView};
use crate::store::PoolRow;

const LIST: &str = "pools";
const SETTABLE: [&str; 4] = ["description", "fallback_pool", "fallback_after", "tenants"];

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
        let former = Tenants::none();
        let row =
            PoolRow { settings: api.settings(&name, &wanted, &former)?, name, created: now, updated: now };
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
        let census = api.census().await.into_iter();
        let found = census.filter(|(name, _)| after.as_ref().is_none_or(|after| name > after));
        let show = |(name, status): (PoolName, PoolStatus)| api.show_pool(&name, status);
        let (pools, next_page_token) = page::fill(LIST, found, size, |(name, _)| name.to_string(), show);
        Ok(Response::new(v1::ListPoolsResponse { pools, next_page_token }))
    }

    async fn update_pool(
        &self,
        request: Request<v1::UpdatePoolRequest>,
    ) -> Result<Response<v1::UpdatePoolResponse>, Status> {
        let (api, request) = self.call(request);
        let wanted = request.pool.unwrap_or_default();
        let name: PoolName = status::parse("pool.name", &wanted.name)?;
        let (added, removed) = (request.add_tenants, request.remove_tenants);
        let listed = !added.is_empty() || !removed.is_empty();
        let fields = match request.update_mask.filter(|mask| !mask.paths.is_empty()) {
            None if listed => Vec::new(),
            // Who may use the pool is changed by name alone, never by what a client left out.
            None => SETTABLE.into_iter().filter(|field| *field != "tenants").collect(),
            mask => views::mask(mask, &SETTABLE)?,
        };
        if listed && fields.contains(&"tenants") {
            let problem =
                "cannot stand beside add_tenants and remove_tenants; replace the list, or change it";
            return Err(status::invalid_field("update_mask", problem));
        }
        let _change = api.registry.change().await;
        let now = api.clock.wall();
        let former = api.pools.get(&name);
        if former.is_none() && !api.named_pools().contains(&name) {
            return Err(status::not_found("pool", &wanted.name));
        }
        let (settings, created) =
            former.map_or_else(|| (Settings::uncreated(&name), now), |row| (row.settings, row.created));
        let before = describe(&settings);
        let tenants = changed(&settings.tenants, &added, &removed)?;
        let mut wire = v1::Pool { tenants: tenants.write(), ..pool::write(&name, &settings) };
        for field in &fields {
            match *field {
                "description" => wire.description.clone_from(&wanted.description),
                "fallback_pool" => wire.fallback_pool.clone_from(&wanted.fallback_pool),
                "tenants" => wire.tenants.clone_from(&wanted.tenants),
                _ => wire.fallback_after = wanted.fallback_after,
            }
        }
        let former = settings.tenants;
        let row = PoolRow { settings: api.settings(&name, &wire, &former)?, name, created, updated: now };
        let detail =
            format!("{before} → {}{}", describe(&row.settings), moved(&former, &row.settings.tenants));
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
        let terms = PoolTerms::of_uncreated(&name);
        if terms.tenants != Tenants::none() && api.pools.settings(&name).tenants != terms.tenants {
            let message = format!(
                "the pool {name} stays: without its list every tenant could use it; allow every tenant first, by \
                 `postrider pools update {name} --all-tenants`"
            );
            return Err(status::precondition("POOL_IN_USE", message));
        }
        let audit = api.entry("DeletePool", None, &name);
        api.pools.remove(&name, audit).await.map_err(|error| status::store(&error))?;
        api.lanes.pool_changed(name, terms).await;
        Ok(Response::new(v1::DeletePoolResponse {}))
    }
}

impl Api {
    /// Refuses a pool that does not allow the tenant: a caller that is confined to it gets the same answer, by the same
    /// steps, whether there is such a pool or not.
    pub(super) fn check_pool(&self, tenant: &TenantId, name: &PoolName) -> Result<(), Status> {
        if self.pools.allow(name, tenant) {
            return Ok(());
        }
        let advice = (self.caller.scope == Scope::Everything).then(|| self.advise(tenant, name));
        Err(status::pool_not_available(tenant, name, advice.as_deref()))
    }

    /// The same for the pool of a subscription, for calls that have something sent.
    pub(super) fn check_pool_of(&self, subscription: &Subscription) -> Result<(), Status> {
        self.check_pool(&subscription.tenant, &subscription.pool)
    }

    fn advise(&self, tenant: &TenantId, name: &PoolName) -> String {
        if self.is_known_pool(name) {
            format!("allow it by `postrider pools update {name} --add-tenant {tenant}`")
        } else {
            format!(
                "there is no such pool; create it by `postrider pools create {name} --add-tenant {tenant}`"
            )
        }
    }

    /// What the maker of a join token should look at.
    pub(super) fn warnings_of_pool(&self, name: &PoolName) -> Vec<String> {
        if !self.pools.settings(name).tenants.are_none() {
            return Vec::new();
        }
        let verb = if self.pools.get(name).is_some() { "update" } else { "create" };
        vec![format!(
            "pool: no tenant may use the pool {name} yet; allow one by `postrider pools {verb} {name} --add-tenant TENANT`"
        )]
    }

    /// Takes a tenant that is about to be deleted off every list, so that none of the same id inherits its pools. Must be
    /// called while changes are held off.
    pub(super) async fn leave_pools(&self, tenant: &TenantId) -> Result<(), Status> {
        for mut row in self.pools.list() {
            let Tenants::Only(tenants) = &mut row.settings.tenants else { continue };
            if !tenants.remove(tenant) {
                continue;
            }
            row.updated = self.clock.wall();
            let detail = format!("the tenant {tenant} is deleted, and off the list");
            self.save_pool(row, "UpdatePool", detail).await?;
        }
        Ok(())
    }

    /// Whether a pool was created, or has agents, or lets some in.
    fn is_known_pool(&self, name: &PoolName) -> bool {
        let created = self.pools.get(name).is_some() || *name == PoolName::default_pool();
        created || self.pools_with_agents().contains(name)
    }

    async fn save_pool(&self, row: PoolRow, action: &str, detail: String) -> Result<Pool, Status> {
        let (name, terms) = (row.name.clone(), row.terms());
        let audit = Entry { detail, ..self.entry(action, None, &name) };
        self.pools.put(row, audit).await.map_err(|error| status::store(&error))?;
        self.lanes.pool_changed(name.clone(), terms).await;
        let status = self.census().await.remove(&name).unwrap_or_default();
        Ok(self.show_pool(&name, status))
    }

    /// Reads and judges what a pool is to have, whose list of tenants was `former`. A fallback that nobody knows would help
    /// nobody; a tenant that is not there yet would get the pool unseen when somebody creates it.
    fn settings(&self, name: &PoolName, wire: &Pool, former: &Tenants) -> Result<Settings, Status> {
        let within = |violations: Vec<Violation>| {
            let within: Vec<_> = violations.into_iter().map(|violation| violation.within("pool")).collect();
            status::invalid(&within)
        };
        let settings = pool::read(wire).map_err(within)?;
        let mut fallbacks = self.pools.fallbacks();
        fallbacks.remove(name);
        let mut violations = settings.violations(name, &fallbacks);
        if let Some(fallback) = settings.fallback.as_ref().filter(|_| violations.is_empty())
            && !self.is_known_pool(fallback)
        {
            let problem = format!("names {fallback}, which is no pool; create it first");
            violations.push(Violation::new("fallback_pool", problem));
        }
        let is_there = |tenant: &TenantId| self.registry.tenant_status(tenant) == TenantStatus::Active;
        let unknown = former.added_by(&settings.tenants).into_iter().filter(|tenant| !is_there(tenant));
        violations.extend(unknown.map(|tenant| {
            Violation::new("tenants", format!("names {tenant}, which is no tenant; create it first"))
        }));
        if violations.is_empty() { Ok(settings) } else { Err(within(violations)) }
    }

    fn show_pool(&self, name: &PoolName, status: PoolStatus) -> Pool {
        let row = self.pools.get(name);
        let settings = row.as_ref().map_or_else(|| Settings::uncreated(name), |row| row.settings.clone());
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
            let Subscription { pool, tenant, .. } = &row.subscription;
            if let Some(status) = census.get_mut(pool) {
                status.subscriptions += 1;
                status.not_allowed_subscriptions += u32::from(!self.pools.allow(pool, tenant));
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
    format!("'{}', {fallback}, for {}", settings.description, settings.tenants)
}

/// The list with these tenants more and these less.
fn changed(tenants: &Tenants, added: &[String], removed: &[String]) -> Result<Tenants, Status> {
    let read = |field: &str, texts: &[String]| -> Result<Vec<TenantId>, Status> {
        texts.iter().map(|text| status::parse(field, text)).collect()
    };
    let (added, removed) = (read("add_tenants", added)?, read("remove_tenants", removed)?);
    tenants.changed(&added, &removed).map_err(|violation| status::invalid(&[violation]))
}

/// Which tenants an update lets in and shuts out, for the audit log.
fn moved(before: &Tenants, after: &Tenants) -> String {
    let list = |tenants: Vec<TenantId>| Tenants::Only(tenants.into_iter().collect()).to_string();
    let part = |word: &str, tenants: Vec<TenantId>| match tenants.is_empty() {
        true => String::new(),
        false => format!("; {word} {}", list(tenants)),
    };
    part("allows", before.added_by(after)) + &part("no longer allows", after.added_by(before))
}
