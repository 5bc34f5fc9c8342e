//! A tenant as a file: what [`super::read`] reads. Nothing secret is in it: keys are not, and values of headers are `***`.

use std::fmt::Write as _;

use postrider_proto::v1;
use serde_json::Value;

use super::fields;
use super::plan::Fields;
use crate::json::pretty;

/// What a subscription has when nobody says otherwise.
fn defaults() -> Fields {
    let least = v1::Subscription {
        id: "sub_00000000000000000000000000".to_owned(),
        tenant: "x".to_owned(),
        url: "https://x.example.com/".to_owned(),
        event_types: vec!["*".to_owned()],
        state: v1::SubscriptionState::Active.into(),
        create_time: Some(prost_types::Timestamp::default()),
        update_time: Some(prost_types::Timestamp::default()),
        ..v1::Subscription::default()
    };
    let read = postrider_proto::subscription::read(&least);
    read.map(|read| fields::of_subscription(&postrider_proto::subscription::write(&read))).unwrap_or_default()
}

/// The file of a tenant.
pub(crate) fn file(
    tenant: &v1::Tenant,
    event_types: &[v1::EventType],
    subscriptions: &[v1::Subscription],
) -> String {
    let mut out =
        String::from("# What `postrider apply` makes a tenant. No secrets are in here.\npostrider: 1\n");
    let of_tenant = fields::of_tenant(tenant);
    out += "tenant:\n";
    line(&mut out, 2, "id", &tenant.id.clone().into());
    for field in fields::TENANT {
        line(&mut out, 2, field, &of_tenant[field]);
    }
    out += if event_types.is_empty() { "event_types: []\n" } else { "event_types:\n" };
    for event_type in event_types {
        let of_type = fields::of_event_type(event_type);
        item(&mut out, "name", &event_type.name.clone().into());
        for field in fields::EVENT_TYPE {
            let text = match field {
                "example" => &event_type.example,
                "schema" => &event_type.schema,
                _ => "",
            };
            match (text, &of_type[field]) {
                (_, Value::Null | Value::Bool(false)) => {}
                (_, Value::String(text)) if text.is_empty() || (field == "validation" && text == "off") => {}
                ("", value) => line(&mut out, 4, field, value),
                // As it was given, so that every digit stays.
                (text, _) => block(&mut out, 4, field, &pretty(text)),
            }
        }
    }
    out += if subscriptions.is_empty() { "subscriptions: []\n" } else { "subscriptions:\n" };
    let defaults = defaults();
    for subscription in subscriptions {
        write_subscription(&mut out, subscription, &defaults);
    }
    out
}

fn write_subscription(out: &mut String, subscription: &v1::Subscription, defaults: &Fields) {
    // Without a name nothing else finds it again.
    let (key, value) = match subscription.name.as_str() {
        "" => ("id", &subscription.id),
        name => ("name", &name.to_owned()),
    };
    item(out, key, &value.clone().into());
    let of_subscription = fields::of_subscription(subscription);
    for field in fields::SUBSCRIPTION.into_iter().filter(|field| *field != "name") {
        let value = &of_subscription[field];
        let said = ["url", "event_types"].contains(&field) || Some(value) != defaults.get(field);
        match (field, said) {
            (_, false) => {}
            ("headers", true) => {
                let names: Vec<&str> =
                    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
                out.push_str("    headers:\n");
                names.iter().for_each(|name| line(out, 6, name, &"***".into()));
            }
            _ => line(out, 4, field, value),
        }
    }
    if subscription.state() == v1::SubscriptionState::Paused {
        line(out, 4, "paused", &true.into());
    }
}

fn item(out: &mut String, key: &str, value: &Value) {
    let _ok = writeln!(out, "  - {key}: {}", scalar(value));
}

fn line(out: &mut String, indent: usize, key: &str, value: &Value) {
    let space = " ".repeat(indent);
    match value {
        Value::Object(members) => {
            let _ok = writeln!(out, "{space}{}:", plain(key));
            members.iter().for_each(|(key, value)| line(out, indent + 2, key, value));
        }
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(scalar).collect();
            let _ok = writeln!(out, "{space}{}: [{}]", plain(key), items.join(", "));
        }
        scalar_value => {
            let _ok = writeln!(out, "{space}{}: {}", plain(key), scalar(scalar_value));
        }
    }
}

/// A text as it is, whatever is in it.
fn block(out: &mut String, indent: usize, key: &str, text: &str) {
    let space = " ".repeat(indent);
    let printable = text.chars().all(|c| c == '\n' || !c.is_control());
    if !printable || text.starts_with([' ', '\n']) {
        return line(out, indent, key, &text.into());
    }
    let _ok = writeln!(out, "{space}{key}: |-");
    for text in text.lines() {
        let _ok = writeln!(out, "{space}  {text}");
    }
}

/// A value on a line. JSON's texts are YAML's.
fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => plain(text),
        other => other.to_string(),
    }
}

/// A text without quotes where nobody can take it for something else.
fn plain(text: &str) -> String {
    let safe = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    let begins = text.starts_with(|c: char| c.is_ascii_alphabetic());
    let a_word = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    let said_otherwise = a_word.contains(&text.to_ascii_lowercase().as_str());
    if begins && text.chars().all(safe) && !said_otherwise {
        return text.to_owned();
    }
    Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::declare::plan::{Actual, Step, plan};
    use crate::declare::read;

    fn subscription(wanted: v1::Subscription) -> v1::Subscription {
        let wire = v1::Subscription {
            tenant: "acme".into(),
            state: if wanted.state == 0 { v1::SubscriptionState::Active.into() } else { wanted.state },
            create_time: Some(prost_types::Timestamp::default()),
            update_time: Some(prost_types::Timestamp::default()),
            ..wanted
        };
        let read = postrider_proto::subscription::read(&wire).unwrap();
        postrider_proto::subscription::show(&read)
    }

    #[test]
    fn what_is_written_reads_back_and_changes_nothing() {
        let tenant = v1::Tenant {
            id: "acme".into(),
            display_name: "Acme: \"the\" #1\n".into(),
            quota: Some(v1::TenantQuota {
                max_subscriptions: 5,
                delivery_rate: u32::MAX,
                ..Default::default()
            }),
            ..Default::default()
        };
        let event_type = v1::EventType {
            name: "a.b".into(),
            description: "yes".into(),
            example: r#"{"n":1.50,"t":"x: y\n"}"#.into(),
            schema: r#"{"type":"object"}"#.into(),
            ..Default::default()
        };
        let named = subscription(v1::Subscription {
            id: "sub_01h455vb4pex5vsknk084sn02q".into(),
            name: "billing".into(),
            url: "https://hooks.example.com/in?a=b".into(),
            event_types: vec!["a.*".into(), "*".into()],
            filter: "event.data.n > 1 && event.type == \"a.b\"".into(),
            headers: [("authorization".to_owned(), "Bearer s3cret".to_owned())].into(),
            timeout: Some(prost_types::Duration { seconds: 2, nanos: 500_000_000 }),
            rate_limit: Some(v1::RateLimit { per_second: 2.5, burst: 4 }),
            order: v1::DeliveryOrder::PerKey.into(),
            head_of_line: v1::HeadOfLine::Block.into(),
            failure_policy: Some(v1::FailurePolicy {
                disable_after: Some(prost_types::Duration { seconds: 3_600, nanos: 0 }),
                while_disabled: v1::WhileDisabled::Drop.into(),
            }),
            allow_fallback_pool: true,
            state: v1::SubscriptionState::Paused.into(),
            ..Default::default()
        });
        let nameless = subscription(v1::Subscription {
            id: "sub_01h455vb4pex5vsknk084sn02r".into(),
            url: "https://hooks.example.com/".into(),
            event_types: vec!["*".into()],
            ..Default::default()
        });
        let text = file(&tenant, std::slice::from_ref(&event_type), &[named.clone(), nameless.clone()]);
        assert!(!text.contains("s3cret") && text.contains(r#"authorization: "***""#), "{text}");
        let read = read::file(&text).unwrap_or_else(|problems| panic!("{problems:#?}\n{text}"));
        let (_, settings) = read.settings.unwrap();
        assert_eq!(settings, fields::of_tenant(&tenant));
        let types: Vec<_> = read.event_types.unwrap().into_iter().map(|declared| declared.wanted).collect();
        assert_eq!(types[0].fields, fields::of_event_type(&event_type));
        let wanted: Vec<_> =
            read.subscriptions.unwrap().into_iter().map(|declared| declared.wanted).collect();
        let actual = |subscription: &v1::Subscription| {
            let mut fields = fields::of_subscription(subscription);
            fields.insert("paused", fields::is_paused(subscription));
            Actual { id: subscription.id.clone(), name: subscription.name.clone(), fields }
        };
        let steps = plan(&wanted, &[actual(&named), actual(&nameless)], true).unwrap();
        assert_eq!(steps, [Step::Keep(0, 0), Step::Keep(1, 1)], "{text}");
    }

    #[test]
    fn only_what_cannot_be_taken_for_something_else_is_plain() {
        for (text, expected) in [
            ("a.b", "a.b"),
            ("5s", "\"5s\""),
            ("no", "\"no\""),
            ("", "\"\""),
            ("a: b", "\"a: b\""),
            ("*", "\"*\""),
        ] {
            assert_eq!(plain(text), expected);
        }
    }
}
