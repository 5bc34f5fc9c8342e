//! The tenant of operational events and its catalogue, which are there from the first start on.

use postrider_domain::audit::Entry;
use postrider_domain::event::EventTypeName;
use postrider_domain::id::TenantId;
use postrider_domain::time::Timestamp;
use postrider_domain::violation::Violation;
use postrider_proto::v1::{EventType, Tenant};
use postrider_proto::{event_type, time};
use tracing::warn;

use super::body;
use crate::registry::Registry;
use crate::store::{Store, StoreError};

/// A type of operational events: its name, what has happened, and an example.
type Entries = [(&'static str, &'static str, &'static str); 8];

/// Every type.
pub(super) const TYPES: Entries = [
    (
        body::FAILING,
        "An endpoint has failed continuously for an hour, a day or three days (failing_for_seconds): emitted once for each, unless the subscription is disabled by then. disable_time says when it will be.",
        include_str!("examples/subscription.failing.json"),
    ),
    (
        body::DISABLED,
        "A subscription was disabled: its endpoint answered 410 Gone (cause gone), or failed continuously for as long as its failure policy allows (cause failing; then it is probed, and enabled again when it responds). events_meanwhile says whether events are queued (queue) or dropped (drop).",
        include_str!("examples/subscription.disabled.json"),
    ),
    (
        body::RECOVERING,
        "An endpoint that was reported as failing, or whose subscription was disabled for it (enabled_again), responds again: its deliveries go out, few at once at first.",
        include_str!("examples/subscription.recovering.json"),
    ),
    (
        body::RECOVERED,
        "An endpoint that was reported as failing is healthy: five attempts have succeeded.",
        include_str!("examples/subscription.recovered.json"),
    ),
    (
        body::BACKLOG_GROWING,
        "More deliveries wait for a subscription, or longer without an attempt, than backlog_warn_count and backlog_warn_age \
         allow. Told again only after both were down to half.",
        include_str!("examples/subscription.backlog_growing.json"),
    ),
    (
        body::KEY_EXPIRING,
        "A retiring signing key will soon sign no more: in a day, or in the last quarter of a shorter overlap. The receiver has \
         to know the active key by then.",
        include_str!("examples/signing_key.expiring.json"),
    ),
    (
        body::OFFLINE,
        "An agent that did not take its leave has had no stream for agent_offline_after; or, without an agent, deliveries have \
         waited for so long in a pool in which no agent is connected (waiting_deliveries).",
        include_str!("examples/agent.offline.json"),
    ),
    (
        body::ONLINE,
        "An agent, or a pool, that was reported as offline is back.",
        include_str!("examples/agent.online.json"),
    ),
];

/// Makes the tenant and its catalogue as they are to be.
///
/// # Errors
/// When the store fails.
pub async fn prepare(store: &dyn Store, registry: &Registry, now: Timestamp) -> Result<(), StoreError> {
    let tenant = TenantId::postrider();
    let entry = |action: &str, target: &str| Entry {
        time: now,
        actor: "postrider".to_owned(),
        address: String::new(),
        action: action.to_owned(),
        target: target.to_owned(),
        tenant: Some(TenantId::postrider()),
        request_id: String::new(),
        detail: String::new(),
    };
    let written = Some(time::write(now));
    if store.tenant(&tenant).await?.is_none() {
        let new = Tenant {
            id: tenant.to_string(),
            display_name: "Operational events of Postrider itself".to_owned(),
            create_time: written,
            update_time: written,
            ..Tenant::default()
        };
        store.put_tenant(new, entry("CreateTenant", tenant.as_str())).await?;
        registry.add_tenant(tenant.clone());
    }
    for (name, description, example) in TYPES {
        let Ok(parsed) = name.parse::<EventTypeName>() else { continue };
        let stored = store.event_type(&tenant, &parsed).await?;
        let example = example.trim();
        if stored
            .as_ref()
            .is_some_and(|stored| stored.description == description && stored.example == example)
        {
            continue;
        }
        let action = if stored.is_some() { "UpdateEventType" } else { "CreateEventType" };
        let wanted = EventType {
            tenant: tenant.to_string(),
            name: name.to_owned(),
            description: description.to_owned(),
            example: example.to_owned(),
            create_time: stored.and_then(|stored| stored.create_time).or(written),
            update_time: written,
            ..EventType::default()
        };
        match event_type::read(&wanted) {
            Ok(read) => {
                let _number = registry.catalogues.put(&tenant, parsed, read);
            }
            Err(violation) => tell(name, &violation),
        }
        store.put_event_type(wanted, entry(action, name)).await?;
    }
    Ok(())
}

fn tell(name: &str, violation: &Violation) {
    warn!(name, %violation, "an event type of operational events differs from its definition");
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use postrider_domain::lane::Backlog;
    use postrider_domain::lane::health::{Failure, State, View};
    use postrider_domain::outcome::Class;
    use postrider_domain::signing::Scheme;
    use postrider_domain::subscription::{DisableCause, Subscription};
    use postrider_proto::v1;
    use serde_json::Value;

    use super::super::Told;
    use super::super::notice::{About, Away};
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn subscription() -> Subscription {
        let wire = v1::Subscription {
            id: "sub_01h455vb4pex5vsknk084sn02q".into(),
            tenant: "acme".into(),
            url: "https://hooks.example.com/in?token=s3cret".into(),
            event_types: vec!["*".into()],
            ..v1::Subscription::default()
        };
        postrider_proto::subscription::read(&wire).unwrap()
    }

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    fn failing(failing_for: Duration) -> Box<View> {
        let since = at("2026-02-02T10:30:00Z");
        let now = since + failing_for;
        Box::new(View {
            state: State::CircuitOpen,
            failing_since: Some(since),
            failures: 301,
            last_success: Some(since - Duration::from_secs(2)),
            last_failure: Some(Failure {
                time: now,
                class: Class::HttpStatus,
                status: Some(503),
                detail: "the endpoint answered 503".into(),
            }),
            next_probe: Some(now + Duration::from_secs(300)),
            disable_at: Some(since + 5 * DAY),
            backlog: Backlog { count: 1204, more: false, oldest: Some(since) },
        })
    }

    fn well() -> Box<View> {
        let last = failing(DAY);
        Box::new(View { failing_since: None, failures: 0, next_probe: None, disable_at: None, ..*last })
    }

    fn samples() -> Vec<Told> {
        let of = |about: About| body::of_subscription(&about, &subscription());
        let given_up = Box::new(View { disable_at: None, ..*failing(5 * DAY) });
        let agent = "agt-01h455vb4pex5vsknk084sn02q".parse().unwrap();
        let away = |agent, waiting| Away {
            pool: "acme-onprem".parse().unwrap(),
            agent,
            since: at("2026-02-02T10:30:00Z"),
            waiting,
        };
        vec![
            of(About::Failing(DAY, failing(DAY))),
            of(About::Disabled {
                cause: DisableCause::Failing,
                reason: "the endpoint has failed continuously for 5 days, since 2026-02-02T10:30:00Z; the last attempt: \
                         status 503"
                    .into(),
                view: Some(given_up),
            }),
            of(About::Recovering(well(), true)),
            of(About::Recovered(well())),
            of(About::BacklogGrowing(failing(DAY).backlog)),
            of(About::KeyExpiring {
                key: "key_01h455vb4pex5vsknk084sn02q".parse().unwrap(),
                scheme: Scheme::V1,
                ends: at("2026-02-03T10:30:00Z"),
            }),
            body::of_agent(body::OFFLINE, &away(None, 12)),
            body::of_agent(body::ONLINE, &away(Some((agent, "rack-7".into())), 0)),
        ]
    }

    #[test]
    fn examples_are_what_is_told_and_no_token_of_a_url_is() {
        for (told, (name, description, example)) in samples().into_iter().zip(TYPES) {
            assert_eq!(told.event_type.as_str(), name);
            let example: Value = serde_json::from_str(example).unwrap();
            let expected = serde_json::to_string_pretty(&told.data).unwrap();
            assert_eq!(example, told.data, "{name} should be\n{expected}");
            assert!(!expected.contains("s3cret"), "{name}");
            assert!(description.len() <= 2000 && !told.attributes.is_empty());
        }
        let once: Vec<bool> = samples().iter().map(|told| told.id.is_some()).collect();
        assert_eq!(once, [true, true, false, false, false, true, false, false]);
    }
}
