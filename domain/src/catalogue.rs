//! What a tenant's catalogue says of an event when it is emitted: its schema, whether its type is deprecated or unknown.

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
    /// What its data must be.
    pub schema: Option<Schema>,
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

/// Judges an event by its type's entry, or by what is said of types that have none.
///
/// # Errors
/// A violation of `type` or `data`.
pub fn judge(
    name: &EventTypeName,
    entry: Option<&Entry>,
    unknown: Strictness,
    data: &[u8],
) -> Result<Vec<Warning>, Violation> {
    let Some(entry) = entry else {
        let message = format!("{name} is not in the tenant's catalogue of event types");
        return match unknown {
            Strictness::Off => Ok(Vec::new()),
            Strictness::Warn => Ok(vec![Warning { reason: "UNKNOWN_EVENT_TYPE", message }]),
            Strictness::Reject => {
                Err(Violation::new("type", format!("{message}; add it there, or mend the name")))
            }
        };
    };
    let mut warnings = Vec::new();
    if let Some(why) = &entry.deprecation {
        let why = if why.is_empty() { String::new() } else { format!(": {why}") };
        warnings
            .push(Warning { reason: "DEPRECATED_EVENT_TYPE", message: format!("{name} is deprecated{why}") });
    }
    let schema = entry.schema.as_ref().filter(|_| entry.validation != Strictness::Off);
    let mistakes = schema.map(|schema| schema.mistakes(data)).unwrap_or_default();
    if !mistakes.is_empty() {
        let message = format!(
            "does not follow version {} of the schema of {name}: {}",
            entry.version,
            mistakes.join("; ")
        );
        if entry.validation == Strictness::Reject {
            return Err(Violation::new("data", message));
        }
        warnings.push(Warning { reason: "SCHEMA_VIOLATION", message: format!("the data {message}") });
    }
    Ok(warnings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_judged_by_its_entry() {
        let name: EventTypeName = "order.placed".parse().unwrap();
        let schema = Schema::parse(r#"{"required": ["id"]}"#).unwrap();
        let entry = |validation, deprecation: Option<&str>| Entry {
            schema: Some(schema.clone()),
            version: 3,
            validation,
            deprecation: deprecation.map(ToOwned::to_owned),
        };
        let ask = |entry: Option<&Entry>, unknown, data: &str| {
            let judged = judge(&name, entry, unknown, data.as_bytes());
            judged
                .map(|warnings| warnings.iter().map(|warning| warning.reason).collect::<Vec<_>>())
                .map_err(|violation| violation.field)
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
        let warning = &judge(&name, Some(&entry(Warn, Some("use b"))), Off, b"{}").unwrap();
        assert_eq!(warning[0].message, "order.placed is deprecated: use b");
        assert!(warning[1].message.contains("version 3 of the schema of order.placed"), "{warning:?}");
    }
}
