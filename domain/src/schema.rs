//! A JSON Schema of an event type's data: compiled when it is needed, asked when an event is emitted.
//!
//! Validation is the `jsonschema` crate's, which never reaches for the network here. What is here bounds it: references
//! lead only into the same schema, and in a circle only where that ends (`walk`); what a compiled schema takes of memory is
//! known before it is compiled (`weigh`); and a validation sees the data through a view that charges each look (`view`),
//! and patterns through automata that charge each step (`pattern`).

mod equal;
mod pattern;
mod view;
mod walk;
mod weigh;

use std::fmt;
use std::sync::Arc;

use jsonschema::{PatternOptions, ValidationError, Validator};
use serde_json::Value;

use self::pattern::{Asked, Patterns};
use self::view::{Metered, Seen, with_name_states};
use crate::cost::{Budget, Stopped};
use crate::json;

/// How many bytes a schema may have.
pub const MAX_SCHEMA: usize = 64 * 1024;
/// How many rules a schema may have when each reference is replaced by what it leads to.
pub const MAX_RULES: u64 = 5_000;
/// How many bytes of memory a compiled schema may take.
pub const MAX_MEMORY: usize = 16 * 1024 * 1024;
/// What the validation of one event may cost, in units of about a nanosecond.
pub const EVENT_COST: u64 = 25_000_000;
/// What compiling a schema may cost.
pub const COMPILE_COST: u64 = 250_000_000;
/// How many problems of an event are told.
const MAX_TOLD: usize = 5;
/// What a byte of data costs that is read.
const READ_BYTE: u64 = 6;
/// What a byte of a schema costs that is compiled, beside its patterns.
const COMPILE_BYTE: u64 = 200;
/// What a rule costs that is compiled.
const COMPILE_RULE: u64 = 2_000;

/// A schema that is compiled.
#[derive(Clone)]
pub struct Schema(Arc<Compiled>);

struct Compiled {
    validator: Validator<Metered>,
    size: walk::Size,
    property_states: usize,
    memory: usize,
}

/// Why there is no compiled schema.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// It is not one, or not one that can be used here.
    #[error("{0}")]
    Refused(String),
    /// Compiling it was not finished.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Schema({} rules, {} bytes)", self.0.size.rules, self.0.memory)
    }
}

impl Schema {
    /// Reads a schema: draft 2020-12 unless its `$schema` names another. That may take a tenth of a second.
    ///
    /// # Errors
    /// Why it is not one, or not one that can be used here; or why that was not found out.
    pub fn compile(text: &str, budget: &mut Budget) -> Result<Self, Unusable> {
        budget.metered(COMPILE_COST, || compile(text))?.map_err(Unusable::Refused)
    }

    /// How many bytes of memory it takes, about.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.0.memory
    }

    /// What of this data the schema does not allow; nothing when it is valid. Values are not quoted.
    ///
    /// # Errors
    /// The validation costs too much, or was called off.
    pub fn problems(&self, data: &[u8], budget: &mut Budget) -> Result<Vec<String>, Stopped> {
        budget.spend(data.len() as u64 * READ_BYTE)?;
        let Ok(data) = json::read::<Value>(data) else {
            return Ok(vec!["cannot be validated: it is not JSON".into()]);
        };
        let validator = &self.0.validator;
        let with_names = |work: &dyn Fn() -> Vec<String>| with_name_states(self.0.property_states, work);
        budget.metered(EVENT_COST, || {
            with_names(&|| {
                if validator.is_valid(Seen(&data)) {
                    return Vec::new();
                }
                let told: Vec<_> =
                    validator.iter_errors(Seen(&data)).take(MAX_TOLD).map(|error| tell(&error)).collect();
                if told.is_empty() { vec!["it does not follow the schema".into()] } else { told }
            })
        })
    }
}

fn tell(error: &ValidationError<'_>) -> String {
    let place = error.instance_path().to_string();
    let place = if place.is_empty() { "it" } else { &place };
    format!("{}: {}", shortened(place), shortened(&error.masked().to_string()))
}

fn compile(text: &str) -> Result<Schema, String> {
    if text.len() > MAX_SCHEMA {
        return Err(format!("has {} bytes, the limit is {MAX_SCHEMA}", text.len()));
    }
    crate::event::check_data(text.as_bytes(), MAX_SCHEMA).map_err(|violation| violation.problem)?;
    let schema: Value = json::read(text.as_bytes()).map_err(|error| format!("is not JSON: {error}"))?;
    if !schema.is_object() {
        return Err("must be a JSON object, as in {\"type\": \"object\"}".into());
    }
    let size = walk::size(&schema)?;
    let patterns = Patterns::new(MAX_MEMORY);
    let weight = weigh::weigh(&schema, text.len(), size.rules, &patterns)?;
    let memory = weight.memory + patterns.memory();
    if memory > MAX_MEMORY {
        return Err(too_large(MAX_MEMORY));
    }
    crate::cost::charge(text.len() as u64 * COMPILE_BYTE + size.rules * COMPILE_RULE);
    let validator = validator(&schema, patterns)?;
    Ok(Schema(Arc::new(Compiled { validator, size, property_states: weight.property_states, memory })))
}

fn validator(schema: &Value, patterns: Patterns) -> Result<Validator<Metered>, String> {
    let property =
        PatternOptions::regex().size_limit(weigh::PROPERTY_SIZE).dfa_size_limit(weigh::PROPERTY_CACHE);
    let options = jsonschema::options_for::<Metered>()
        .with_pattern_options(property)
        .with_format("regex", pattern::is_regex)
        .with_keyword("pattern", move |_, value, _| {
            let text = value.as_str().ok_or_else(|| ValidationError::custom("pattern must be a string"))?;
            let pattern = patterns.get(text).map_err(ValidationError::custom)?;
            Ok(Box::new(Asked { pattern, text: text.into() }))
        })
        .offline();
    options.build(schema).map_err(|error| {
        let place = error.instance_path().to_string();
        let place = if place.is_empty() { "/".to_owned() } else { place };
        format!("is not a JSON Schema (at {place}): {}", shortened(&error.masked().to_string()))
    })
}

fn too_large(most: usize) -> String {
    format!(
        "would take more than {} MiB of memory when it is compiled; write fewer or smaller patterns, with small repetitions \
         and without classes of Unicode such as \\p{{L}}",
        most >> 20
    )
}

fn shortened(text: &str) -> String {
    text.chars().take(200).collect()
}

#[cfg(test)]
mod tests;
