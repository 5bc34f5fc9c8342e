//! Pools, shown.

use postrider_proto::v1;
use serde::Serialize;

use super::{duration, time};
use crate::output::View;

/// Mirrors `postrider.v1.Pool`.
#[derive(Debug, Serialize)]
pub(crate) struct Pool {
    name: String,
    description: String,
    fallback_pool: String,
    fallback_after: Option<String>,
    tenants: Vec<String>,
    create_time: Option<String>,
    update_time: Option<String>,
    status: Status,
}

/// Mirrors `postrider.v1.PoolStatus`.
#[derive(Debug, Serialize)]
struct Status {
    connected_agents: u32,
    draining_agents: u32,
    disconnected_agents: u32,
    versions: Vec<Version>,
    in_flight: u32,
    max_in_flight: u32,
    subscriptions: u32,
    no_agent_since: Option<String>,
    held_subscriptions: u32,
    fallback_active: bool,
    not_allowed_subscriptions: u32,
}

/// Mirrors `postrider.v1.AgentVersion`.
#[derive(Debug, Serialize)]
struct Version {
    version: String,
    agents: u32,
}

impl From<v1::Pool> for Pool {
    fn from(pool: v1::Pool) -> Self {
        let status = pool.status.unwrap_or_default();
        let versions = status.versions.into_iter();
        Self {
            fallback_after: duration(pool.fallback_after.as_ref()),
            create_time: time(pool.create_time.as_ref()),
            update_time: time(pool.update_time.as_ref()),
            status: Status {
                connected_agents: status.connected_agents,
                draining_agents: status.draining_agents,
                disconnected_agents: status.disconnected_agents,
                versions: versions.map(|of| Version { version: of.version, agents: of.agents }).collect(),
                in_flight: status.in_flight,
                max_in_flight: status.max_in_flight,
                subscriptions: status.subscriptions,
                no_agent_since: time(status.no_agent_since.as_ref()),
                held_subscriptions: status.held_subscriptions,
                fallback_active: status.fallback_active,
                not_allowed_subscriptions: status.not_allowed_subscriptions,
            },
            name: pool.name,
            tenants: pool.tenants,
            description: pool.description,
            fallback_pool: pool.fallback_pool,
        }
    }
}

impl Pool {
    fn agents(&self) -> String {
        let Status { connected_agents, draining_agents, disconnected_agents, .. } = &self.status;
        let counts = [
            (connected_agents, "connected"),
            (draining_agents, "draining"),
            (disconnected_agents, "disconnected"),
        ];
        let some = counts.iter().filter(|(count, _)| **count > 0);
        let told: Vec<String> = some.map(|(count, word)| format!("{count} {word}")).collect();
        if told.is_empty() { "none".to_owned() } else { told.join(", ") }
    }

    fn load(&self) -> String {
        format!("{}/{}", self.status.in_flight, self.status.max_in_flight)
    }

    fn fallback(&self) -> String {
        let after = self.fallback_after.as_deref().unwrap_or_default();
        let active = if self.status.fallback_active { "; it delivers now" } else { "" };
        match self.fallback_pool.as_str() {
            "" => String::new(),
            pool => format!("{pool}, after {after} without an agent{active}"),
        }
    }

    fn tenants(&self) -> String {
        match self.tenants.as_slice() {
            [] => "none".to_owned(),
            [every] if every == "*" => "all".to_owned(),
            tenants => tenants.join(", "),
        }
    }

    /// The same for a table, where a long list is cut.
    fn few_tenants(&self) -> String {
        const SHOWN: usize = 3;
        match self.tenants.len().checked_sub(SHOWN).filter(|more| *more > 0) {
            None => self.tenants(),
            Some(more) => format!("{} and {more} more", self.tenants[..SHOWN].join(", ")),
        }
    }

    /// What is held since the pool does not allow it.
    fn not_allowed(&self) -> String {
        match self.status.not_allowed_subscriptions {
            0 => String::new(),
            count => {
                format!("deliveries of {count} subscriptions are held: the pool does not allow their tenants")
            }
        }
    }

    /// What waits, in words that cannot be overlooked.
    fn held(&self) -> String {
        match (&self.status.no_agent_since, self.status.held_subscriptions) {
            (None, _) | (_, 0) => String::new(),
            (Some(since), held) => {
                format!(
                    "deliveries of {held} subscriptions wait: no agent takes jobs since {since}; no attempt is spent"
                )
            }
        }
    }
}

impl View for Pool {
    const COLUMNS: &'static [&'static str] =
        &["NAME", "TENANTS", "AGENTS", "IN FLIGHT", "SUBSCRIPTIONS", "HELD", "FALLBACK", "DESCRIPTION"];

    fn row(&self) -> Vec<String> {
        let fallback = match (self.fallback_pool.as_str(), self.status.fallback_active) {
            (pool, true) => format!("{pool} (active)"),
            (pool, false) => pool.to_owned(),
        };
        vec![
            self.name.clone(),
            self.few_tenants(),
            self.agents(),
            self.load(),
            self.status.subscriptions.to_string(),
            self.status.held_subscriptions.to_string(),
            fallback,
            self.description.clone(),
        ]
    }

    fn details(&self) -> Vec<(&'static str, String)> {
        let versions = self.status.versions.iter().map(|of| format!("{} × {}", of.agents, of.version));
        vec![
            ("Pool", self.name.clone()),
            ("Description", self.description.clone()),
            ("Tenants", self.tenants()),
            ("Not allowed", self.not_allowed()),
            ("Agents", self.agents()),
            ("Versions", versions.collect::<Vec<_>>().join(", ")),
            ("In flight", self.load()),
            ("Subscriptions", self.status.subscriptions.to_string()),
            ("Held", self.held()),
            ("Fallback", self.fallback()),
            (
                "Created",
                self.create_time.clone().unwrap_or_else(|| "only named, by what is in it".to_owned()),
            ),
            ("Updated", self.update_time.clone().unwrap_or_default()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_use_a_pool_is_told() {
        let many = ["a", "b", "c", "d", "e"];
        let table = [
            (&[][..], "none", "none"),
            (&["*"], "all", "all"),
            (&["a", "b"], "a, b", "a, b"),
            (&many, "a, b, c, d, e", "a, b, c and 2 more"),
        ];
        for (tenants, all, few) in table {
            let tenants = tenants.iter().map(ToString::to_string).collect();
            let pool = Pool::from(v1::Pool { tenants, ..Default::default() });
            assert_eq!((pool.tenants().as_str(), pool.few_tenants().as_str()), (all, few));
        }
    }

    #[test]
    fn what_waits_is_told() {
        let status = v1::PoolStatus {
            disconnected_agents: 2,
            held_subscriptions: 3,
            no_agent_since: Some(prost_types::Timestamp { seconds: 1_770_028_200, nanos: 0 }),
            ..Default::default()
        };
        let pool = Pool::from(v1::Pool { name: "edge".into(), status: Some(status), ..Default::default() });
        assert_eq!(pool.agents(), "2 disconnected");
        assert!(
            pool.held().starts_with("deliveries of 3 subscriptions wait: no agent takes jobs since 2026")
        );
        let json = serde_json::to_value(&pool).unwrap();
        assert_eq!((json.as_object().unwrap().len(), json["status"].as_object().unwrap().len()), (8, 11));
    }
}
