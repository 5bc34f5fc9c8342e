//! Authorities of agents' certificates, shown.

use postrider_proto::v1;
use serde::Serialize;

use super::time;
use crate::output::View;

/// Mirrors `postrider.v1.Authority`.
#[derive(Debug, Serialize)]
pub(crate) struct Authority {
    id: String,
    certificate: String,
    external: bool,
    create_time: Option<String>,
    expire_time: Option<String>,
    retire_time: Option<String>,
}

impl From<v1::Authority> for Authority {
    fn from(authority: v1::Authority) -> Self {
        Self {
            create_time: time(authority.create_time.as_ref()),
            expire_time: time(authority.expire_time.as_ref()),
            retire_time: time(authority.retire_time.as_ref()),
            id: authority.id,
            certificate: authority.certificate,
            external: authority.external,
        }
    }
}

impl Authority {
    fn role(&self) -> String {
        match &self.retire_time {
            None => "trusted".to_owned(),
            Some(until) => format!("trusted until {until}"),
        }
    }

    fn source(&self) -> String {
        if self.external { "agent_ca".to_owned() } else { "built in".to_owned() }
    }
}

impl View for Authority {
    const COLUMNS: &'static [&'static str] = &["ID", "SOURCE", "STATE", "EXPIRES"];

    fn row(&self) -> Vec<String> {
        vec![self.id.clone(), self.source(), self.role(), self.expire_time.clone().unwrap_or_default()]
    }

    fn details(&self) -> Vec<(&'static str, String)> {
        vec![
            ("Authority", self.id.clone()),
            ("Source", self.source()),
            ("State", self.role()),
            ("Known since", self.create_time.clone().unwrap_or_default()),
            ("Expires", self.expire_time.clone().unwrap_or_default()),
            ("Certificate", self.certificate.trim_end().to_owned()),
        ]
    }
}
