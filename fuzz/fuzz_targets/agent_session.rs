//! What an agent says on its stream. Agents run in other people's networks, so one may be anybody's by now: what is
//! kept of its words is bounded.

#![no_main]

use libfuzzer_sys::fuzz_target;
use postrider_control_plane::link::hello::judge;
use postrider_domain::outcome::{Class, Outcome};
use postrider_domain::time::Timestamp;
use postrider_proto::agent::agent_message::Message as Said;
use postrider_proto::agent::{self, AgentMessage};
use postrider_proto::attempt;
use postrider_proto::diagnosis::{self, Found};
use postrider_proto::session::{
    JobKey, MAX_KEPT_DETAIL, MAX_KEPT_HEADERS, MAX_KEPT_RESPONSE, Report, read_report,
};
use prost::Message as _;

/// The longest sentence that a rejected agent is told.
const MAX_SENTENCE: usize = 400;

fuzz_target!(|data: &[u8]| {
    match AgentMessage::decode(data).ok().and_then(|message| message.message) {
        Some(Said::Hello(hello)) => hear_hello(hello),
        Some(Said::Diagnosis(diagnosis)) => hear_diagnosis(diagnosis),
        Some(Said::TestPostOutcome(said)) => said.outcome.into_iter().for_each(hear_outcome),
        Some(Said::Outcomes(outcomes)) => outcomes.outcomes.into_iter().for_each(hear_outcome),
        _ => {}
    }
});

fn hear_hello(hello: agent::Hello) {
    let now = Timestamp::from_millis(1_770_028_200_000);
    let claimed = hello.clone();
    let accepted = match judge(hello, now) {
        Ok(accepted) => accepted,
        Err(reject) => {
            assert!(reject.permanent && reject.code != 0);
            assert!((1..MAX_SENTENCE).contains(&reject.message.len()), "{}", reject.message.len());
            return;
        }
    };
    let connected = &accepted.connected;
    assert_eq!(connected.station.agent.as_str(), claimed.agent_id);
    assert_eq!(connected.pool.as_str(), claimed.pool);
    assert!(connected.station.stream < 16 && (1..=65_536).contains(&connected.max_in_flight));
    assert!(accepted.max_bytes > 0);
    let row = &accepted.row;
    for text in [&row.version, &row.instance, &row.egress_policy_hash] {
        assert!(text.len() <= 128);
    }
    assert!(!row.instance.is_empty());
    let tagged = connected.in_flight.iter().zip(accepted.tags.clone());
    let written = tagged.map(|(key, tag)| key.write(tag)).collect::<Vec<_>>();
    assert_eq!(written, claimed.in_flight);
}

fn hear_outcome(wire: agent::Outcome) {
    let (key, status) = (wire.key.as_ref().and_then(JobKey::read), wire.http_status);
    let Some(Report::Made(outcome)) = read_report(wire) else { return };
    bounded(&outcome);
    if outcome.class == Class::Success {
        assert!((200..300).contains(&status));
    }
    assert_eq!(outcome.response.is_some(), status != 0);
    assert_ne!(outcome.class, Class::AgentLost, "an agent cannot say this of itself");
    let Some(key) = key else { return };
    let agent = "agt-1".parse().expect("an agent's id");
    let started = Timestamp::from_millis(1_770_028_200_000);
    let made = postrider_domain::outcome::Attempt { number: key.attempt, started, agent, outcome: *outcome };
    assert_eq!(attempt::read(attempt::write(&made)), Some(made), "it is not kept as it was told");
}

fn hear_diagnosis(wire: agent::Diagnosis) {
    let Some(Found::Looked(looked)) = diagnosis::read(wire) else { return };
    assert!(looked.headers.len() <= 4 && looked.headers.iter().all(|(_, value)| value.len() <= 256));
    let mut shown = looked.shown;
    assert!(shown.certificates.len() <= 8 && shown.addresses.len() <= 64);
    assert!(shown.detail.len() <= MAX_KEPT_DETAIL && shown.encoded_len() < 128 * 1024);
    diagnosis::confine(&mut shown);
    assert!(shown.addresses.is_empty() && shown.peer.is_empty() && shown.refusal.is_empty());
}

fn bounded(outcome: &Outcome) {
    assert!(outcome.detail.len() <= MAX_KEPT_DETAIL);
    assert!(outcome.http_version.len() <= 16 && outcome.tls_version.len() <= 16);
    let Some(response) = &outcome.response else { return };
    assert!(response.body.len() <= MAX_KEPT_RESPONSE);
    let headers = response.headers.iter().map(|(name, value)| name.len() + value.len());
    assert!(headers.sum::<usize>() <= MAX_KEPT_HEADERS && response.headers.len() <= MAX_KEPT_HEADERS / 8);
}
