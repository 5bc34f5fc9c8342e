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
    display_name: String,
    enroll_time: Option<String>,
    certificate_expire_time: Option<String>,
    revoke_time: Option<String>,
    duplicate_time: Option<String>,
    drain_time: Option<String>,
    #[serde(skip)]
    last_seen: String,
}

impl From<v1::Agent> for Agent {
    fn from(agent: v1::Agent) -> Self {
        Self {
            state: word::<v1::AgentState>(agent.state),
            connect_time: time(agent.connect_time.as_ref()),
            last_seen_time: time(agent.last_seen_time.as_ref()),
            enroll_time: time(agent.enroll_time.as_ref()),
            certificate_expire_time: time(agent.certificate_expire_time.as_ref()),
            revoke_time: time(agent.revoke_time.as_ref()),
            duplicate_time: time(agent.duplicate_time.as_ref()),
            drain_time: time(agent.drain_time.as_ref()),
            display_name: agent.display_name,
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

    /// An alarm must not be overlooked in a list.
    fn state_with_alarm(&self) -> String {
        if self.duplicate_time.is_some() { format!("{} (copied?)", self.state) } else { self.state.clone() }
    }

    fn alarm(&self) -> String {
        self.duplicate_time.as_ref().map_or_else(String::new, |time| {
            format!("two processes used this identity, last at {time}; revoke it if you do not know why")
        })
    }
}

impl View for Agent {
    const COLUMNS: &'static [&'static str] = &["ID", "POOL", "STATE", "IN FLIGHT", "LAST SEEN", "VERSION"];

    fn row(&self) -> Vec<String> {
        vec![
            self.id.clone(),
            self.pool.clone(),
            self.state_with_alarm(),
            self.load(),
            self.last_seen.clone(),
            self.version.clone(),
        ]
    }

    fn details(&self) -> Vec<(&'static str, String)> {
        vec![
            ("Agent", self.id.clone()),
            ("Name", self.display_name.clone()),
            ("Pool", self.pool.clone()),
            ("State", self.state.clone()),
            ("Alarm", self.alarm()),
            ("Drained", self.drain_time.as_ref().map(|time| format!("since {time}")).unwrap_or_default()),
            ("Version", self.version.clone()),
            ("Instance", self.instance.clone()),
            ("Connected", self.connect_time.clone().unwrap_or_default()),
            ("Last seen", self.last_seen_time.clone().unwrap_or_default()),
            ("In flight", self.load()),
            ("Streams", self.streams.to_string()),
            ("Egress policy", self.egress_policy_hash.clone()),
            ("Enrolled", self.enroll_time.clone().unwrap_or_default()),
            (
                "Certificate",
                self.certificate_expire_time.as_ref().map(|end| format!("until {end}")).unwrap_or_default(),
            ),
            ("Revoked", self.revoke_time.clone().unwrap_or_default()),
        ]
    }
}
