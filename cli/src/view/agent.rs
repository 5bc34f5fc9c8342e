//! Agents, shown.

use postrider_proto::v1;
use serde::Serialize;

use super::{time, time_for_table, word};
use crate::output::View;

/// Mirrors `postrider.v1.Agent`.
#[derive(Debug, Serialize)]
pub(crate) struct Agent {
    id: String,
    pool: String,
    state: String,
    version: String,
    instance: String,
    connect_time: Option<String>,
    last_seen_time: Option<String>,
    in_flight: u32,
    max_in_flight: u32,
    streams: u32,
    egress_policy_hash: String,
    #[serde(skip)]
    last_seen: String,
}

impl From<v1::Agent> for Agent {
    fn from(agent: v1::Agent) -> Self {
        Self {
            state: word::<v1::AgentState>(agent.state),
            connect_time: time(agent.connect_time.as_ref()),
            last_seen_time: time(agent.last_seen_time.as_ref()),
            last_seen: time_for_table(agent.last_seen_time.as_ref()),
            id: agent.id,
            pool: agent.pool,
            version: agent.version,
            instance: agent.instance,
            in_flight: agent.in_flight,
            max_in_flight: agent.max_in_flight,
            streams: agent.streams,
            egress_policy_hash: agent.egress_policy_hash,
        }
    }
}

impl Agent {
    fn load(&self) -> String {
        format!("{}/{}", self.in_flight, self.max_in_flight)
    }
}

impl View for Agent {
    const COLUMNS: &'static [&'static str] = &["ID", "POOL", "STATE", "IN FLIGHT", "LAST SEEN", "VERSION"];

    fn row(&self) -> Vec<String> {
        vec![
            self.id.clone(),
            self.pool.clone(),
            self.state.clone(),
            self.load(),
            self.last_seen.clone(),
            self.version.clone(),
        ]
    }

    fn details(&self) -> Vec<(&'static str, String)> {
        vec![
            ("Agent", self.id.clone()),
            ("Pool", self.pool.clone()),
            ("State", self.state.clone()),
            ("Version", self.version.clone()),
            ("Instance", self.instance.clone()),
            ("Connected", self.connect_time.clone().unwrap_or_default()),
            ("Last seen", self.last_seen_time.clone().unwrap_or_default()),
            ("In flight", self.load()),
            ("Streams", self.streams.to_string()),
            ("Egress policy", self.egress_policy_hash.clone()),
        ]
    }
}
