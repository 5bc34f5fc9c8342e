//! A subscription. What the file does not say is the default, but for whether it is paused.

use postrider_domain::id::SubscriptionId;
use postrider_proto::v1::{self, SubscriptionState};

use super::{Declared, Key, Node, Problems, Section, Value, Wanted, fields};
use crate::commands::signature_profile;
use crate::time::{duration_to_wire, parse_duration};
use crate::view::parse_word;

/// Stands for the id and tenant of a subscription that is only read to be judged.
const NO_ID: &str = "sub_00000000000000000000000000";
const NO_TENANT: &str = "x";

pub(super) fn read(node: &Node, problems: &mut Problems) -> Option<Declared<v1::Subscription>> {
    let before = problems.0.len();
    let mut section = Section::open(node, "a subscription", problems);
    let id = section
        .parsed("id", problems, |text| text.parse::<SubscriptionId>().map_err(|error| error.to_string()));
    let name = section.text("name", problems).unwrap_or_default();
    let paused = section.truth("paused", problems);
    let lines: Vec<(&str, usize)> =
        fields::SUBSCRIPTION.iter().map(|field| (*field, section.line_of(field))).collect();
    let mut message = v1::Subscription { name: name.clone(), ..message(&mut section, problems) };
    section.close(problems);
    let key = match (id, name.as_str()) {
        (Some(id), _) => Key::Id(id.to_string()),
        (None, "") => {
            problems.add(node.line, "a subscription needs a name, or the id of one that there is");
            return None;
        }
        (None, name) => Key::Name(name.to_owned()),
    };
    // What could not be read is told already: it would only be told again.
    if problems.0.len() == before {
        judge(&mut message, &lines, node.line, problems);
    }
    let mut fields = fields::of_subscription(&message);
    if id.is_some() && name.is_empty() {
        fields.remove("name");
    }
    if let Some(paused) = paused {
        fields.insert("paused", paused.into());
    }
    Some(Declared { wanted: Wanted { line: node.line, key, fields }, message })
}

/// Judges it as the server would, and fills in what it would.
fn judge(message: &mut v1::Subscription, lines: &[(&str, usize)], line: usize, problems: &mut Problems) {
    let judged = v1::Subscription {
        id: NO_ID.to_owned(),
        tenant: NO_TENANT.to_owned(),
        state: SubscriptionState::Active.into(),
        create_time: Some(prost_types::Timestamp::default()),
        update_time: Some(prost_types::Timestamp::default()),
        ..message.clone()
    };
    match postrider_proto::subscription::read(&judged) {
        Ok(read) => *message = postrider_proto::subscription::write(&read),
        Err(violations) => {
            for violation in violations {
                let at = lines.iter().find(|(field, _)| violation.field.starts_with(field));
                problems.add(at.map_or(line, |(_, line)| *line), violation.to_string());
            }
        }
    }
}

fn message(section: &mut Section<'_>, problems: &mut Problems) -> v1::Subscription {
    let duration = |text: &str| parse_duration(text).map(duration_to_wire);
    let event_types = section.texts("event_types", problems).unwrap_or_default();
    let format = section.parsed("body_format", problems, parse_word::<v1::BodyFormat>);
    v1::Subscription {
        url: section.text("url", problems).unwrap_or_default(),
        event_types: event_types.into_iter().map(|(_, text)| text).collect(),
        filter: section.text("filter", problems).unwrap_or_default(),
        description: section.text("description", problems).unwrap_or_default(),
        pool: section.text("pool", problems).unwrap_or_default(),
        body_format: format.unwrap_or_default().into(),
        headers: headers(section, problems),
        signature_profiles: profiles(section, problems),
        retry_policy: section.take("retry_policy").map(|node| retries(node, problems)),
        rate_limit: section.take("rate_limit").map(|node| rate_limit(node, problems)),
        order: section.parsed("order", problems, parse_word::<v1::DeliveryOrder>).unwrap_or_default().into(),
        head_of_line: section
            .parsed("head_of_line", problems, parse_word::<v1::HeadOfLine>)
            .unwrap_or_default()
            .into(),
        failure_policy: section.take("failure_policy").map(|node| failures(node, problems)),
        allow_fallback_pool: section.truth("allow_fallback_pool", problems).unwrap_or_default(),
        validation_handshake: section.truth("validation_handshake", problems).unwrap_or_default(),
        max_in_flight: section.number("max_in_flight", problems).unwrap_or_default(),
        timeout: section.parsed("timeout", problems, duration),
        connect_timeout: section.parsed("connect_timeout", problems, duration),
        ..v1::Subscription::default()
    }
}

fn headers(section: &mut Section<'_>, problems: &mut Problems) -> std::collections::HashMap<String, String> {
    let Some(node) = section.take("headers") else { return std::collections::HashMap::new() };
    let Value::Map(entries) = &node.value else {
        problems.add(node.line, format!("headers must be a mapping, and is {}", node.kind()));
        return std::collections::HashMap::new();
    };
    let mut headers = std::collections::HashMap::new();
    for (line, name, value) in entries {
        match &value.value {
            Value::Scalar(text, _) if !value.is_nothing() => drop(headers.insert(name.clone(), text.clone())),
            _ => {
                problems.add(*line, format!("the header {name} must have a text; '***' keeps the one it has"))
            }
        }
    }
    headers
}

fn profiles(section: &mut Section<'_>, problems: &mut Problems) -> Vec<v1::SignatureProfile> {
    let texts = section.texts("signature_profiles", problems).unwrap_or_default();
    let mut profiles = Vec::new();
    for (line, text) in texts {
        match signature_profile::parse(&text) {
            Ok(profile) => profiles.push(profile),
            Err(problem) => problems.add(line, problem),
        }
    }
    profiles
}

fn retries(node: &Node, problems: &mut Problems) -> v1::RetryPolicy {
    let duration = |text: &str| parse_duration(text).map(duration_to_wire);
    let mut section = Section::open(node, "retry_policy", problems);
    let mut schedule = Vec::new();
    for (line, text) in section.texts("schedule", problems).unwrap_or_default() {
        match duration(&text) {
            Ok(delay) => schedule.push(delay),
            Err(problem) => problems.add(line, problem),
        }
    }
    let policy = v1::RetryPolicy {
        initial_delay: section.parsed("initial_delay", problems, duration),
        factor: section.number("factor", problems).unwrap_or_default(),
        max_delay: section.parsed("max_delay", problems, duration),
        window: section.parsed("window", problems, duration),
        jitter: section.number("jitter", problems),
        schedule,
    };
    section.close(problems);
    policy
}

fn failures(node: &Node, problems: &mut Problems) -> v1::FailurePolicy {
    let mut section = Section::open(node, "failure_policy", problems);
    let disable_after = |text: &str| parse_duration(text).map(duration_to_wire);
    let meanwhile = section.parsed("while_disabled", problems, parse_word::<v1::WhileDisabled>);
    let policy = v1::FailurePolicy {
        disable_after: section.parsed("disable_after", problems, disable_after),
        while_disabled: meanwhile.unwrap_or_default().into(),
    };
    section.close(problems);
    policy
}

fn rate_limit(node: &Node, problems: &mut Problems) -> v1::RateLimit {
    let mut section = Section::open(node, "rate_limit", problems);
    let limit = v1::RateLimit {
        per_second: section.number("per_second", problems).unwrap_or_default(),
        burst: section.number("burst", problems).unwrap_or_default(),
    };
    section.close(problems);
    limit
}
