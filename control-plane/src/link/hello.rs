//! Judges an agent's Hello.

use bytes::Bytes;
use postrider_domain::id::{AgentId, PoolName};
use postrider_domain::time::Timestamp;
use postrider_proto::agent::{Hello, Reject, RejectCode};
use postrider_proto::diagnosis;
use postrider_proto::session::{JobKey, MAX_CREDIT, PROTOCOL, TEST_POST_CAPABILITY, max_claims};

use crate::diagnoses::Abilities;
use crate::job_tags::JobTags;
use crate::listen::AgentCertificate;
use crate::schedule::{Connected, Station};
use crate::store::AgentRow;

const MAX_IN_FLIGHT: u32 = 65_536;
const MAX_TEXT: usize = 128;
/// More outcomes than any process reports.
const MAX_SEQUENCE: u64 = 1 << 62;
/// Streams one process may have.
pub(super) const MAX_STREAMS: u32 = 16;

/// A Hello that may be answered with Welcome.
pub struct Accepted {
    /// The stream, for the schedule.
    pub connected: Connected,
    /// The agent, for the store.
    pub row: AgentRow,
    /// How many bytes of job bodies it can hold.
    pub max_bytes: u64,
    /// The sequence of the first outcome that follows.
    pub next_outcome: u64,
    /// The tags of the jobs that it names, in their order.
    pub tags: Vec<Bytes>,
    /// What it can do beyond the protocol version.
    pub abilities: Abilities,
}

/// Judges a Hello; `now` is what people see as the time of connection.
///
/// # Errors
/// What the agent is told when it may not stay.
pub fn judge(hello: Hello, now: Timestamp) -> Result<Accepted, Reject> {
    if hello.protocol_min > PROTOCOL || hello.protocol_max < PROTOCOL {
        let theirs = format!("{} to {}", hello.protocol_min, hello.protocol_max);
        return Err(permanent(
            RejectCode::ProtocolVersion,
            format!(
                "the agent speaks protocol {theirs}, this control plane {PROTOCOL}; install an agent of a version near the control plane's"
            ),
        ));
    }
    let bad = |field: &str, problem: &str| permanent(RejectCode::InvalidHello, format!("{field} {problem}"));
    let id: AgentId = hello.agent_id.parse().map_err(|error| bad("agent_id", &format!("{error}")))?;
    let pool: PoolName = hello.pool.parse().map_err(|error| bad("pool", &format!("{error}")))?;
    if hello.instance_id.is_empty() || hello.instance_id.len() > MAX_TEXT {
        return Err(bad("instance_id", "must have 1 to 128 bytes"));
    }
    if hello.stream >= MAX_STREAMS {
        return Err(bad("stream", "must be below 16"));
    }
    if !(1..=MAX_IN_FLIGHT).contains(&hello.max_in_flight) {
        return Err(bad("max_in_flight", "must be 1 to 65536"));
    }
    if [&hello.agent_version, &hello.egress_policy_hash].into_iter().any(|text| text.len() > MAX_TEXT) {
        return Err(bad("agent_version and egress_policy_hash", "must have at most 128 bytes"));
    }
    let most = max_claims(hello.max_in_flight);
    if hello.in_flight.len() > most {
        return Err(bad("in_flight", &format!("must name at most {most} jobs with this max_in_flight")));
    }
    if hello.next_outcome_sequence > MAX_SEQUENCE {
        return Err(bad("next_outcome_sequence", "must be the number of an outcome"));
    }
    let tags = hello.in_flight.iter().map(|key| key.tag.clone()).collect();
    let in_flight: Option<Vec<JobKey>> = hello.in_flight.iter().map(JobKey::read).collect();
    let in_flight = in_flight.ok_or_else(|| bad("in_flight", "must name deliveries"))?;
    let row = AgentRow {
        id: id.clone(),
        pool: pool.to_string(),
        version: hello.agent_version,
        instance: hello.instance_id.clone(),
        connected_at: now,
        last_seen: now,
        streams: 1,
        egress_policy_hash: hello.egress_policy_hash,
        max_in_flight: hello.max_in_flight,
        drained: None,
    };
    let can = |capability: &str| hello.capabilities.iter().any(|name| name == capability);
    let abilities = Abilities { look: can(diagnosis::CAPABILITY), post: can(TEST_POST_CAPABILITY) };
    let station = Station { agent: id, instance: hello.instance_id, stream: hello.stream };
    let max_in_flight = hello.max_in_flight.min(MAX_CREDIT) as usize;
    let connected = Connected { station, pool, max_in_flight, in_flight, drained: false };
    Ok(Accepted {
        connected,
        row,
        max_bytes: hello.max_in_flight_bytes.max(1),
        next_outcome: hello.next_outcome_sequence.max(1),
        tags,
        abilities,
    })
}

/// A job that is named and was not given to this agent, if there is one.
#[must_use]
pub fn false_claim(accepted: &Accepted, tags: &JobTags) -> Option<JobKey> {
    let Connected { station, in_flight, .. } = &accepted.connected;
    let mut claims = in_flight.iter().zip(&accepted.tags);
    claims.find(|(key, tag)| !tags.was_given(**key, &station.agent, tag)).map(|(key, _)| *key)
}

/// What is claimed must be what the certificate says.
pub(super) fn compare(accepted: &Accepted, certificate: Option<&AgentCertificate>) -> Result<(), Reject> {
    let Some(certificate) = certificate else { return Ok(()) };
    let (claimed, identity) = (&accepted.connected, &certificate.identity);
    if claimed.station.agent == identity.agent && claimed.pool == identity.pool {
        return Ok(());
    }
    Err(permanent(
        RejectCode::IdentityMismatch,
        format!(
            "the agent claims to be {} of pool {}, but its certificate says {} of pool {}; enroll it again",
            claimed.station.agent, claimed.pool, identity.agent, identity.pool
        ),
    ))
}

pub(super) fn permanent(code: RejectCode, message: impl Into<String>) -> Reject {
    Reject { code: code.into(), message: message.into(), permanent: true, retry_after_ms: 0 }
}

pub(super) fn temporary(code: RejectCode, message: impl Into<String>) -> Reject {
    Reject { code: code.into(), message: message.into(), permanent: false, retry_after_ms: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Hello {
        Hello {
            protocol_min: 1,
            protocol_max: 3,
            agent_id: "a-1".into(),
            pool: "default".into(),
            instance_id: "x".into(),
            max_in_flight: 8,
            ..Hello::default()
        }
    }

    #[test]
    fn each_bad_field_is_refused_by_name() {
        assert!(judge(hello(), Timestamp::default()).is_ok());
        let named = postrider_proto::agent::JobKey {
            delivery_id: format!("dlv_{}-1", "0".repeat(26)),
            ..Default::default()
        };
        let bad: [(Hello, &str); 10] = [
            (Hello { in_flight: vec![named.clone(); 1_033], ..hello() }, "at most 1032 jobs"),
            (Hello { next_outcome_sequence: u64::MAX, ..hello() }, "next_outcome_sequence"),
            (Hello { protocol_min: 2, ..hello() }, "protocol"),
            (Hello { protocol_max: 0, ..hello() }, "protocol"),
            (Hello { agent_id: "A".into(), ..hello() }, "agent_id"),
            (Hello { pool: String::new(), ..hello() }, "pool"),
            (Hello { instance_id: String::new(), ..hello() }, "instance_id"),
            (Hello { stream: 16, ..hello() }, "stream"),
            (Hello { max_in_flight: 0, ..hello() }, "max_in_flight"),
            (
                Hello { in_flight: vec![postrider_proto::agent::JobKey::default()], ..hello() },
                "must name deliveries",
            ),
        ];
        let most = Hello { in_flight: vec![named; 1_032], ..hello() };
        assert!(judge(most, Timestamp::default()).is_ok());
        for (hello, word) in bad {
            let reject = judge(hello, Timestamp::default()).err().unwrap();
            assert!(reject.permanent && reject.message.contains(word), "{reject:?}");
        }
    }
}
