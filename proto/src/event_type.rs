//! Event types: `postrider.v1.EventType` ⇄ [`Entry`].

use postrider_domain::catalogue::{Entry, Strictness};
use postrider_domain::violation::Violation;

use crate::v1;

/// What events of the type are judged by, beside the schema itself.
///
/// # Errors
/// What is wrong with what follows from breaking the schema.
pub fn read(wire: &v1::EventType) -> Result<Entry, Violation> {
    Ok(Entry {
        has_schema: !wire.schema.is_empty(),
        version: wire.schema_version,
        validation: read_strictness("validation", wire.validation)?,
        deprecation: wire.deprecated.then(|| wire.deprecation_message.clone()),
    })
}

/// What follows from breaking a rule.
///
/// # Errors
/// When it is not one of them.
pub fn read_strictness(field: &str, wire: i32) -> Result<Strictness, Violation> {
    match v1::Strictness::try_from(wire) {
        Ok(v1::Strictness::Unspecified | v1::Strictness::Off) => Ok(Strictness::Off),
        Ok(v1::Strictness::Warn) => Ok(Strictness::Warn),
        Ok(v1::Strictness::Reject) => Ok(Strictness::Reject),
        Err(_) => Err(Violation::new(field, "must be STRICTNESS_OFF, STRICTNESS_WARN or STRICTNESS_REJECT")),
    }
}
