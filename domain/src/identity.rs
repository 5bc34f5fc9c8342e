//! Who an agent is: the one name that its certificate carries, as a SPIFFE ID.
//!
//! Source: the SPIFFE ID and X509-SVID specifications: a URI without port, query or fragment, whose path segments are
//! letters, digits, '.', '-' and '_', at most 2048 bytes long.

pub mod keys;

use std::fmt;
use std::str::FromStr;

use crate::id::{AgentId, PoolName};

const SCHEME: &str = "spiffe://";
const MAX_TRUST_DOMAIN: usize = 255;

/// The operator's name for all agents of one control plane: part of each agent's identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustDomain(String);

impl Default for TrustDomain {
    fn default() -> Self {
        Self("postrider".to_owned())
    }
}

impl FromStr for TrustDomain {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-._".contains(&byte);
        if (1..=MAX_TRUST_DOMAIN).contains(&text.len()) && text.bytes().all(allowed) {
            Ok(Self(text.to_owned()))
        } else {
            Err("must have 1 to 255 characters of a-z, 0-9, '-', '.' and '_'")
        }
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An agent's name, written `spiffe://<trust domain>/pool/<pool>/agent/<agent>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentIdentity {
    /// Whose agent.
    pub trust_domain: TrustDomain,
    /// Its pool.
    pub pool: PoolName,
    /// Which agent.
    pub agent: AgentId,
}

impl fmt::Display for AgentIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/pool/{}/agent/{}", self.trust_domain, self.pool, self.agent)
    }
}

impl FromStr for AgentIdentity {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = "must be spiffe://<trust domain>/pool/<pool>/agent/<agent>";
        let rest = text.strip_prefix(SCHEME).ok_or(wrong)?;
        let parts: Vec<&str> = rest.split('/').collect();
        let [trust_domain, "pool", pool, "agent", agent] = parts.as_slice() else { return Err(wrong) };
        Ok(Self {
            trust_domain: trust_domain.parse()?,
            pool: pool.parse().map_err(|_| wrong)?,
            agent: agent.parse().map_err(|_| wrong)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_identity_has_one_spelling() {
        let text = "spiffe://prod.example.com/pool/acme-onprem/agent/agt-1";
        let identity: AgentIdentity = text.parse().unwrap();
        assert_eq!((identity.pool.as_str(), identity.agent.as_str()), ("acme-onprem", "agt-1"));
        assert_eq!(identity.to_string(), text);
        for wrong in [
            "",
            "spiffe://",
            "https://a/pool/b/agent/c",
            "SPIFFE://a/pool/b/agent/c",
            "spiffe:///pool/b/agent/c",
            "spiffe://A/pool/b/agent/c",
            "spiffe://a:1/pool/b/agent/c",
            "spiffe://a/pool/b/agent/c/",
            "spiffe://a/pool/b/agent/c?d",
            "spiffe://a/pool/b/agent/",
            "spiffe://a/pool/../agent/c",
            "spiffe://a/agent/c/pool/b",
        ] {
            assert!(wrong.parse::<AgentIdentity>().is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,100}") {
            drop(text.parse::<AgentIdentity>());
        }
    }
}
