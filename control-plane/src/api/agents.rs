//! `AgentService`.

use std::collections::BTreeMap;

use postrider_domain::audit::Entry;
use postrider_domain::id::{AgentId, PoolName};
use postrider_proto::time;
use postrider_proto::v1;
use postrider_proto::v1::agent_service_server::AgentService;
use postrider_proto::v1::{
    Agent, AgentState, GetAgentRequest, GetAgentResponse, ListAgentsRequest, ListAgentsResponse,
};
use tonic::{Request, Response, Status};

use super::{Api, page, status};
use crate::agents::{AgentView, REMEMBERED};
use crate::store::IdentityRow;

const LIST: &str = "agents";
const MAX_REASON: usize = 200;
/// Agents that are looked at between two looks at where a page ends.
const CHUNK: usize = 1000;

#[tonic::async_trait]
impl AgentService for Api {
    async fn list_agents(
        &self,
        request: Request<ListAgentsRequest>,
    ) -> Result<Response<ListAgentsResponse>, Status> {
        let (api, request) = self.call(request);
        let size = page::size(request.page_size)?;
        let after: Option<AgentId> = page::read(LIST, &request.page_token)?;
        if !request.pool.is_empty() {
            let _known_form: PoolName = status::parse("pool", &request.pool)?;
        }
        let found = api.visible_agents_of(&request.pool, after, size + 1);
        let mut shown = Vec::with_capacity(found.len());
        for (id, seen) in found {
            let view = api.agent_view(&id, seen).await;
            shown.push((id, view));
        }
        let (agents, next_page_token) =
            page::fill(LIST, shown, size, |(id, _)| id.to_string(), |(_, view)| view);
        Ok(Response::new(ListAgentsResponse { agents, next_page_token }))
    }

    async fn get_agent(
        &self,
        request: Request<GetAgentRequest>,
    ) -> Result<Response<GetAgentResponse>, Status> {
        let (api, request) = self.call(request);
        let id: AgentId = status::parse("agent", &request.agent)?;
        let seen = api.visible_agent(&id).ok_or_else(|| status::not_found("agent", &request.agent))?;
        Ok(Response::new(GetAgentResponse { agent: Some(api.agent_view(&id, seen).await) }))
    }

    async fn revoke_agent(
        &self,
        request: Request<v1::RevokeAgentRequest>,
    ) -> Result<Response<v1::RevokeAgentResponse>, Status> {
        let (api, request) = self.call(request);
        let id: AgentId = status::parse("agent", &request.agent)?;
        if request.reason.chars().count() > MAX_REASON {
            return Err(status::invalid_field("reason", "must have at most 200 characters"));
        }
        let audit = Entry { detail: request.reason, ..api.entry("RevokeAgent", None, &id) };
        let revoked = api.identities.revoke(&id, audit).await.map_err(|error| status::store(&error))?;
        let revoked = revoked.ok_or_else(|| status::not_found("agent", &request.agent))?;
        let view = api.visible_agent(&id).and_then(|seen| seen.view);
        let agent = api.agent_view(&id, Seen { view, identity: Some(revoked) }).await;
        Ok(Response::new(v1::RevokeAgentResponse { agent: Some(agent) }))
    }

    async fn drain_agent(
        &self,
        request: Request<v1::DrainAgentRequest>,
    ) -> Result<Response<v1::DrainAgentResponse>, Status> {
        let (api, request) = self.call(request);
        let agent = Some(api.set_drained(&request.agent, true).await?);
        Ok(Response::new(v1::DrainAgentResponse { agent }))
    }

    async fn undrain_agent(
        &self,
        request: Request<v1::UndrainAgentRequest>,
    ) -> Result<Response<v1::UndrainAgentResponse>, Status> {
        let (api, request) = self.call(request);
        let agent = Some(api.set_drained(&request.agent, false).await?);
        Ok(Response::new(v1::UndrainAgentResponse { agent }))
    }

    async fn create_join_token(
        &self,
        request: Request<v1::CreateJoinTokenRequest>,
    ) -> Result<Response<v1::CreateJoinTokenResponse>, Status> {
        let (api, request) = self.call(request);
        api.make_join_token(request).await.map(Response::new)
    }

    async fn list_join_tokens(
        &self,
        request: Request<v1::ListJoinTokensRequest>,
    ) -> Result<Response<v1::ListJoinTokensResponse>, Status> {
        let (api, request) = self.call(request);
        api.page_of_join_tokens(&request).map(Response::new)
    }

    async fn revoke_join_token(
        &self,
        request: Request<v1::RevokeJoinTokenRequest>,
    ) -> Result<Response<v1::RevokeJoinTokenResponse>, Status> {
        let (api, request) = self.call(request);
        api.end_join_token(&request.join_token).await.map(Response::new)
    }

    async fn list_authorities(
        &self,
        request: Request<v1::ListAuthoritiesRequest>,
    ) -> Result<Response<v1::ListAuthoritiesResponse>, Status> {
        let (api, _) = self.call(request);
        Ok(Response::new(api.all_authorities()))
    }

    async fn rotate_authority(
        &self,
        request: Request<v1::RotateAuthorityRequest>,
    ) -> Result<Response<v1::RotateAuthorityResponse>, Status> {
        let (api, request) = self.call(request);
        api.new_authority(&request).await.map(Response::new)
    }
}

/// What is known of an agent: that it was here, that it has enrolled, or both.
#[derive(Default)]
struct Seen {
    view: Option<AgentView>,
    identity: Option<IdentityRow>,
}

impl Seen {
    fn pool(&self) -> &str {
        let of_view = self.view.as_ref().map(|view| view.row.pool.as_str());
        of_view.or(self.identity.as_ref().map(|identity| identity.pool.as_str())).unwrap_or_default()
    }
}

impl Api {
    /// Agents that are connected or were lately, and those that have enrolled: so many, after this
    /// one.
    fn visible_agents(&self, after: Option<&AgentId>, limit: usize) -> BTreeMap<AgentId, Seen> {
        let since = self.clock.wall() - REMEMBERED;
        let is_visible = |view: &AgentView| !view.holders.is_empty() || view.row.last_seen >= since;
        let mut seen: BTreeMap<AgentId, Seen> = BTreeMap::new();
        for view in self.agents.page(after, limit, is_visible) {
            let id = view.row.id.clone();
            seen.entry(id).or_default().view = Some(view);
        }
        for identity in self.identities.page(after, limit) {
            let id = identity.agent.clone();
            seen.entry(id).or_default().identity = Some(identity);
        }
        if let Some(behind) = seen.keys().nth(limit).cloned() {
            // What is known of these may be incomplete.
            seen.split_off(&behind);
        }
        seen
    }

    /// The same of a pool; of all, when it is empty.
    fn visible_agents_of(
        &self,
        pool: &str,
        mut after: Option<AgentId>,
        limit: usize,
    ) -> Vec<(AgentId, Seen)> {
        let mut found = Vec::new();
        while found.len() < limit {
            let chunk = self.visible_agents(after.as_ref(), CHUNK);
            let Some(last) = chunk.keys().next_back().cloned() else { break };
            after = Some(last);
            found.extend(chunk.into_iter().filter(|(_, seen)| pool.is_empty() || seen.pool() == pool));
        }
        found.truncate(limit);
        found
    }

    fn visible_agent(&self, id: &AgentId) -> Option<Seen> {
        let since = self.clock.wall() - REMEMBERED;
        let view = self.agents.get(id);
        let view = view.filter(|view| !view.holders.is_empty() || view.row.last_seen >= since);
        let identity = self.identities.get(id);
        (view.is_some() || identity.is_some()).then_some(Seen { view, identity })
    }

    /// Drains an agent, or gives it jobs again.
    async fn set_drained(&self, id: &str, drained: bool) -> Result<Agent, Status> {
        let agent: AgentId = status::parse("agent", id)?;
        let seen = self.visible_agent(&agent).ok_or_else(|| status::not_found("agent", id))?;
        let connected = seen.view.as_ref().is_some_and(|view| !view.holders.is_empty());
        let was_drained = seen.view.as_ref().is_some_and(|view| view.row.drained.is_some());
        if drained && !connected {
            let message =
                "the agent is not connected, so it has nothing to finish; revoke it if it must not come back";
            return Err(status::precondition("AGENT_NOT_CONNECTED", message));
        }
        if drained != was_drained {
            let action = if drained { "DrainAgent" } else { "UndrainAgent" };
            self.record(self.entry(action, None, &agent)).await?;
            let since = drained.then(|| self.clock.wall());
            let done = self.agents.set_drained(&agent, since).await;
            if let Some(view) = done.map_err(|error| status::store(&error))? {
                self.lanes.set_drained(view.holders, drained).await;
            }
        }
        let seen = self.visible_agent(&agent).unwrap_or_default();
        Ok(self.agent_view(&agent, seen).await)
    }

    /// The pool, state and version of every agent that is seen and not revoked.
    pub(super) fn agents_by_pool(&self) -> Vec<(PoolName, AgentState, String)> {
        let agents = self.visible_agents_of("", None, usize::MAX).into_iter().map(|(_, seen)| seen);
        let kept =
            agents.filter(|seen| seen.identity.as_ref().is_none_or(|identity| identity.revoked.is_none()));
        let told = kept.filter_map(|seen| {
            let state = seen.view.as_ref().map_or(AgentState::Disconnected, state);
            let version = seen.view.as_ref().map(|view| view.row.version.clone()).unwrap_or_default();
            Some((seen.pool().parse().ok()?, state, version))
        });
        told.collect()
    }

    async fn agent_view(&self, id: &AgentId, seen: Seen) -> Agent {
        let pool = seen.pool().to_owned();
        let agent = match seen.view {
            Some(view) => self.connected_view(view).await,
            None => Agent { state: AgentState::Disconnected.into(), ..Agent::default() },
        };
        let agent = Agent { id: id.to_string(), pool, ..agent };
        let Some(identity) = seen.identity else { return agent };
        let state = if identity.revoked.is_some() { AgentState::Revoked.into() } else { agent.state };
        Agent {
            state,
            display_name: identity.display_name,
            enroll_time: Some(time::write(identity.enrolled)),
            certificate_expire_time: Some(time::write(identity.certificate_expires)),
            revoke_time: identity.revoked.map(time::write),
            duplicate_time: identity.duplicate.map(time::write),
            ..agent
        }
    }

    async fn connected_view(&self, view: AgentView) -> Agent {
        let state = state(&view);
        let AgentView { row, holders, .. } = view;
        let streams = u32::try_from(holders.len()).unwrap_or(u32::MAX);
        Agent {
            state: state.into(),
            version: row.version,
            instance: row.instance,
            connect_time: Some(time::write(row.connected_at)),
            last_seen_time: Some(time::write(row.last_seen)),
            in_flight: u32::try_from(self.lanes.jobs_held(holders).await).unwrap_or(u32::MAX),
            max_in_flight: row.max_in_flight.saturating_mul(streams.max(1)),
            streams,
            egress_policy_hash: row.egress_policy_hash,
            drain_time: row.drained.map(time::write),
            ..Agent::default()
        }
    }
}

fn state(view: &AgentView) -> AgentState {
    match (view.holders.is_empty(), view.draining || view.row.drained.is_some()) {
        (true, _) => AgentState::Disconnected,
        (false, true) => AgentState::Draining,
        (false, false) => AgentState::Connected,
    }
}
