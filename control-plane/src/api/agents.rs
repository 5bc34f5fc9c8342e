//! `AgentService`.

use postrider_domain::id::{AgentId, PoolName};
use postrider_proto::time;
use postrider_proto::v1::agent_service_server::AgentService;
use postrider_proto::v1::{
    Agent, AgentState, GetAgentRequest, GetAgentResponse, ListAgentsRequest, ListAgentsResponse,
};
use tonic::{Request, Response, Status};

use super::{Api, page, status};
use crate::agents::{AgentView, REMEMBERED};

const LIST: &str = "agents";

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
        let mut found = api.visible_agents();
        found.retain(|view| request.pool.is_empty() || view.row.pool == request.pool);
        found.retain(|view| after.as_ref().is_none_or(|after| view.row.id > *after));
        let next_page_token = page::after(LIST, &mut found, size, |view| view.row.id.to_string());
        let mut agents = Vec::with_capacity(found.len());
        for view in found {
            agents.push(api.agent_view(view).await);
        }
        Ok(Response::new(ListAgentsResponse { agents, next_page_token }))
    }

    async fn get_agent(
        &self,
        request: Request<GetAgentRequest>,
    ) -> Result<Response<GetAgentResponse>, Status> {
        let (api, request) = self.call(request);
        let id: AgentId = status::parse("agent", &request.agent)?;
        let view = api.visible_agents().into_iter().find(|view| view.row.id == id);
        let view = view.ok_or_else(|| status::not_found("agent", &request.agent))?;
        Ok(Response::new(GetAgentResponse { agent: Some(api.agent_view(view).await) }))
    }
}

impl Api {
    fn visible_agents(&self) -> Vec<AgentView> {
        let since = self.clock.wall() - REMEMBERED;
        let mut views = self.agents.list();
        views.retain(|view| !view.holders.is_empty() || view.row.last_seen >= since);
        views
    }

    async fn agent_view(&self, view: AgentView) -> Agent {
        let AgentView { row, holders, draining } = view;
        let state = match (holders.is_empty(), draining) {
            (true, _) => AgentState::Disconnected,
            (false, true) => AgentState::Draining,
            (false, false) => AgentState::Connected,
        };
        let streams = u32::try_from(holders.len()).unwrap_or(u32::MAX);
        Agent {
            id: row.id.to_string(),
            pool: row.pool,
            state: state.into(),
            version: row.version,
            instance: row.instance,
            connect_time: Some(time::write(row.connected_at)),
            last_seen_time: Some(time::write(row.last_seen)),
            in_flight: u32::try_from(self.lanes.jobs_held(holders).await).unwrap_or(u32::MAX),
            max_in_flight: row.max_in_flight.saturating_mul(streams.max(1)),
            streams,
            egress_policy_hash: row.egress_policy_hash,
        }
    }
}
