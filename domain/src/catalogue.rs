//! What a tenant's catalogue says of an event when it is emitted: its schema, whether its type is deprecated or unknown.

use crate::cost::{Budget, Stopped};
use crate::event::EventTypeName;
use crate::schema::Schema;
use crate::violation::Violation;

/// What follows when an event breaks a rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strictness {
    /// Nothing.
    #[default]
    Off,
    /// It is accepted, and the emitter is warned.
    Warn,
    /// It is refused.
    Reject,
}

/// What the catalogue has of a type.
#[derive(Clone, Debug, Default)]
pub struct Entry {
    /// Whether there is a schema of its data.
    pub has_schema: bool,
    /// Which version of the schema it is.
    pub version: u32,
    /// Whether data is validated.
    pub validation: Strictness,
    /// Why it should not be emitted any more, and what instead.
    pub deprecation: Option<String>,
}

/// A reason to look into an emitter, though its event is accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// A stable word.
    pub reason: &'static str,
    /// A sentence for people.
    pub message: String,
}

impl Entry {
    /// Whether its schema is asked when an event is emitted.
    #[must_use]
    pub fn validates(&self) -> bool {
        self.has_schema && self.validation != Strictness::Off
    }
}

/// Why an event is not accepted, or not yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It breaks a rule: a violation of `type` or `data`.
    Broken(Violation),
    /// The schema that it would have to follow cannot be used: a sentence.
    Unusable(String),
    /// It was not judged: the call costs too much, or its caller is gone.
    Stopped(Stopped),
}

/// An event that is judged.
#[derive(Clone, Copy, Debug)]
pub struct Judged<'e> {
    /// Its type.
    pub name: &'e EventTypeName,
    /// Its data.
    pub data: &'e [u8],
}

/// Judges an event by its type's entry, or by what is said of types that have none. The schema is there when the entry
/// [validates](Entry::validates); instead of it, why it cannot be used.
///
/// # Errors
/// Why the event is not accepted.
pub fn judge(
    event: Judged<'_>,
    entry: Option<&Entry>,
    schema: Option<Result<&Schema, &str>>,
    unknown: Strictness,
    budget: &mut Budget,
) -> Result<Vec<Warning>, Refusal> {
    let Some(entry) = entry else { return of_unknown_type(event.name, unknown) };
    let mut warnings = Vec::new();
    if let Some(why) = &entry.deprecation {
        let why = if why.is_empty() { String::new() } else { format!(": {why}") };
        let message = format!("{} is deprecated{why}", event.name);
        warnings.push(Warning { reason: "DEPRECATED_EVENT_TYPE", message });
    }
    if let Some(schema) = schema.filter(|_| entry.validates()) {
        warnings.extend(validate(event, entry, schema, budget)?);
    }
    Ok(warnings)
}

fn of_unknown_type(name: &EventTypeName, unknown: Strictness) -> Result<Vec<Warning>, Refusal> {
    let message = format!("{name} is not in the tenant's catalogue of event types");
    match unknown {
        Strictness::Off => Ok(Vec::new()),
        Strictness::Warn => Ok(vec![Warning { reason: "UNKNOWN_EVENT_TYPE", message }]),
        Strictness::Reject => {
            Err(Refusal::Broken(Violation::new("type", format!("{message}; add it there, or mend the name"))))
        }
    }
}

fn validate(
    event: Judged<'_>,
    entry: &Entry,
    schema: Result<&Schema, &str>,
    budget: &mut Budget,
) -> Result<Option<Warning>, Refusal> {
    let rejects = entry.validation == Strictness::Reject;
    let of = format!("version {} of the schema of {}", entry.version, event.name);
    let schema = match schema {
        Ok(schema) => schema,
        Err(problem) => {
            let message = format!("{of} cannot be used: it {problem}; update the schema of the event type");
            let warning = Warning { reason: "SCHEMA_UNUSABLE", message: message.clone() };
            return if rejects { Err(Refusal::Unusable(message)) } else { Ok(Some(warning)) };
        }
    };
    let (reason, message) = match schema.problems(event.data, budget) {
        Ok(problems) if problems.is_empty() => return Ok(None),
        Ok(problems) => ("SCHEMA_VIOLATION", format!("does not follow {of}: {}", problems.join("; "))),
        Err(Stopped::TooCostly) => (
            "NOT_VALIDATED",
            format!(
                "cannot be validated by {of}: that costs too much for {} bytes; emit less data in one event, or simplify \
                 the schema (its patterns above all)",
                event.data.len()
            ),
        ),
        Err(stopped) => return Err(Refusal::Stopped(stopped)),
    };
    if rejects {
        return Err(Refusal::Broken(Violation::new("data", message)));
    }
    Ok(Some(Warning { reason, message: format!("the data {message}") }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_judged_by_its_entry() {
        let name: EventTypeName = "order.placed".parse().unwrap();
        let mut budget = Budget::new(u64::MAX - 1, None);
        let schema = Schema::compile(r#"{"required": ["id"]}"#, &mut budget).unwrap();
        let entry = |validation, deprecation: Option<&str>| Entry {
            has_schema: true,
            version: 3,
            validation,
            deprecation: deprecation.map(ToOwned::to_owned),
        };
        let judge_by = |schema, entry: Option<&Entry>, unknown, data: &str| {
            let event = Judged { name: &name, data: data.as_bytes() };
            judge(event, entry, Some(schema), unknown, &mut Budget::new(1_000_000, None))
        };
        let ask = |entry: Option<&Entry>, unknown, data: &str| {
            judge_by(Ok(&schema), entry, unknown, data)
                .map(|warnings| warnings.iter().map(|warning| warning.reason).collect::<Vec<_>>())
                .map_err(|refusal| match refusal {
                    Refusal::Broken(violation) => violation.field,
                    other => format!("{other:?}"),
                })
        };
        use Strictness::{Off, Reject, Warn};
        assert_eq!(ask(None, Off, "{}"), Ok(vec![]));
        assert_eq!(ask(None, Warn, "{}"), Ok(vec!["UNKNOWN_EVENT_TYPE"]));
        assert_eq!(ask(None, Reject, "{}"), Err("type".into()));
        assert_eq!(ask(Some(&entry(Off, None)), Reject, "{}"), Ok(vec![]));
        assert_eq!(ask(Some(&entry(Warn, None)), Off, "{}"), Ok(vec!["SCHEMA_VIOLATION"]));
        assert_eq!(ask(Some(&entry(Reject, None)), Off, "{}"), Err("data".into()));
        assert_eq!(
            ask(Some(&entry(Reject, Some("use b"))), Off, r#"{"id": 1}"#),
            Ok(vec!["DEPRECATED_EVENT_TYPE"])
        );
        let warning = judge_by(Ok(&schema), Some(&entry(Warn, Some("use b"))), Off, "{}").unwrap();
        assert_eq!(warning[0].message, "order.placed is deprecated: use b");
        assert!(warning[1].message.contains("version 3 of the schema of order.placed"), "{warning:?}");
        let unusable = judge_by(Err("is too large"), Some(&entry(Reject, None)), Off, "{}");
        assert!(
            matches!(&unusable, Err(Refusal::Unusable(why)) if why.contains("is too large")),
            "{unusable:?}"
        );
        let unusable = judge_by(Err("is too large"), Some(&entry(Warn, None)), Off, "{}").unwrap();
        assert_eq!(unusable[0].reason, "SCHEMA_UNUSABLE");
        let used_up = judge(
            Judged { name: &name, data: b"{}" },
            Some(&entry(Warn, None)),
            Some(Ok(&schema)),
            Off,
            &mut Budget::new(10, None),
        );
        assert_eq!(used_up, Err(Refusal::Stopped(Stopped::UsedUp)));
    }
}
