//! What operational events say: their types, ids, data and attributes. The catalogue's examples are made here too.

use postrider_domain::event::EventTypeName;
use postrider_domain::lane::health::View;
use postrider_domain::lane::{Backlog, WhileDisabled};
use postrider_domain::subscription::{DisableCause, Subscription};
use postrider_domain::time::Timestamp;
use serde_json::{Map, Value, json};

use super::Told;
use super::notice::{About, Away};

/// An endpoint has failed for long.
pub(super) const FAILING: &str = "subscription.failing";
/// A subscription was disabled.
pub(super) const DISABLED: &str = "subscription.disabled";
/// An endpoint answers again.
pub(super) const RECOVERING: &str = "subscription.recovering";
/// An endpoint is well.
pub(super) const RECOVERED: &str = "subscription.recovered";
/// Too much waits.
pub(super) const BACKLOG_GROWING: &str = "subscription.backlog_growing";
/// A key will soon sign no more.
pub(super) const KEY_EXPIRING: &str = "signing_key.expiring";
/// An agent is away.
pub(super) const OFFLINE: &str = "agent.offline";
/// An agent is there again.
pub(super) const ONLINE: &str = "agent.online";

/// What is said of a subscription.
pub(super) fn of_subscription(about: &About, subscription: &Subscription) -> Told {
    let id = subscription.id;
    let mut data = json!({
        "tenant": subscription.tenant.as_str(),
        "subscription": id.to_string(),
        "url": without_query(subscription.url.as_str()),
        "pool": subscription.pool.as_str(),
    });
    let (event_type, once, more) = match about {
        About::Failing(step, view) => {
            let since = view.failing_since.map_or(0, Timestamp::as_millis);
            let more = json!({ "failing_for_seconds": step.as_secs(), "health": health(view) });
            (FAILING, Some(format!("{id}-failing-{since}-{}", step.as_secs())), more)
        }
        About::Disabled { cause, reason, view } => {
            let since = view.as_ref().and_then(|view| view.failing_since).map(Timestamp::as_millis);
            let more = disabled(*cause, reason, view.as_deref(), subscription.failure.while_disabled);
            (DISABLED, since.map(|since| format!("{id}-disabled-{since}")), more)
        }
        About::Recovering(view, was_disabled) => {
            (RECOVERING, None, json!({ "enabled_again": was_disabled, "health": health(view) }))
        }
        About::Recovered(view) => (RECOVERED, None, json!({ "health": health(view) })),
        About::BacklogGrowing(backlog) => (BACKLOG_GROWING, None, backlog_of(backlog)),
        About::KeyExpiring { key, scheme, ends } => {
            let more =
                json!({ "key": key.to_string(), "scheme": scheme.to_string(), "retire_time": text(*ends) });
            (KEY_EXPIRING, Some(format!("{key}-expiring")), more)
        }
    };
    merge(&mut data, more);
    let attributes = vec![("tenant", subscription.tenant.to_string()), ("subscription", id.to_string())];
    // An id that is too long would only be told twice after a crash.
    let id = once.and_then(|id| id.parse().ok());
    Told { about: Some(subscription.tenant.clone()), event_type: name(event_type), id, data, attributes }
}

/// What is said of an agent, or of a pool without one.
pub(super) fn of_agent(event_type: &str, away: &Away) -> Told {
    let mut data = json!({
        "pool": away.pool.as_str(),
        "agent": away.agent.as_ref().map(|(id, _)| id.as_str()),
        "display_name": away.agent.as_ref().map(|(_, name)| name.as_str()),
        "offline_since": text(away.since),
    });
    let mut attributes = vec![("pool", away.pool.to_string())];
    match &away.agent {
        Some((id, _)) => attributes.push(("agent", id.to_string())),
        None => merge(&mut data, json!({ "waiting_deliveries": away.waiting })),
    }
    Told { about: None, event_type: name(event_type), id: None, data, attributes }
}

fn disabled(cause: DisableCause, reason: &str, view: Option<&View>, meanwhile: WhileDisabled) -> Value {
    let (cause, meanwhile) = match (cause, meanwhile) {
        (DisableCause::Gone, _) => ("gone", "queue"),
        (DisableCause::Failing, WhileDisabled::Queue) => ("failing", "queue"),
        (DisableCause::Failing, WhileDisabled::Drop) => ("failing", "drop"),
    };
    json!({ "cause": cause, "reason": reason, "events_meanwhile": meanwhile, "health": view.map(health) })
}

fn backlog_of(backlog: &Backlog) -> Value {
    json!({
        "backlog": backlog.count,
        "backlog_is_lower_bound": backlog.more,
        "oldest_pending_time": backlog.oldest.map(text),
    })
}

fn health(view: &View) -> Value {
    let failure = view.last_failure.as_ref();
    json!({
        "failing_since": view.failing_since.map(text),
        "consecutive_failures": view.failures,
        "last_success_time": view.last_success.map(text),
        "last_failure": failure.map(|failure| json!({
            "time": text(failure.time),
            "class": failure.class.as_str(),
            "status": failure.status,
            "detail": failure.detail,
        })),
        "next_probe_time": view.next_probe.map(text),
        "disable_time": view.disable_at.map(text),
        "backlog": view.backlog.count,
        "backlog_is_lower_bound": view.backlog.more,
    })
}

fn name(event_type: &str) -> EventTypeName {
    event_type.parse().expect("the names above are names of event types")
}

fn text(time: Timestamp) -> String {
    time.to_string()
}

/// Tokens travel in queries.
fn without_query(url: &str) -> &str {
    url.split_once('?').map_or(url, |(address, _)| address)
}

fn merge(data: &mut Value, more: Value) {
    if let (Value::Object(data), Value::Object(more)) = (data, more) {
        data.extend::<Map<String, Value>>(more);
    }
}
