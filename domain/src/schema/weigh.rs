//! What a schema takes of memory once it is compiled, known before it is.
//!
//! All patterns are made here, so that too many or too large ones are refused before anything else is made of them.

use serde_json::Value;

use super::pattern::{Pattern, Patterns};
use super::walk::{Kind, kind};

/// What a rule takes, with what the compiler keeps beside it.
const RULE: usize = 1024;
/// How many times the compiler keeps the text of a schema.
const COPIES: usize = 6;
/// What any schema takes.
const BASE: usize = 4 * 1024;
/// The caches that the compiler's own automaton of a property pattern may fill.
pub(super) const PROPERTY_CACHE: usize = 32 * 1024;
/// How large that automaton may be.
pub(super) const PROPERTY_SIZE: usize = 256 * 1024;
/// How many such caches there are: two for each thread that validates at the same time, about.
const PROPERTY_CACHES: usize = 4;
/// How often the compiler's automaton of a property pattern is as large as the one here.
const PROPERTY_COPIES: usize = 4;
/// How many states a property pattern may have.
const MAX_PROPERTY_STATES: usize = 1000;

/// What was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Weight {
    /// Bytes, without the patterns of `pattern`.
    pub(super) memory: usize,
    /// States of the patterns that one property may be compared with.
    pub(super) property_states: usize,
}

/// Weighs a schema of so many bytes and rules.
pub(super) fn weigh(schema: &Value, text: usize, rules: u64, patterns: &Patterns) -> Result<Weight, String> {
    let rules = usize::try_from(rules).unwrap_or(usize::MAX);
    let memory = BASE + rules.saturating_mul(RULE) + text * COPIES;
    let mut weight = Weight { memory, property_states: 0 };
    add(schema, 0, patterns, &mut weight)?;
    Ok(weight)
}

/// Adds what a schema takes that is at a path of so many bytes: each of its rules keeps the path.
fn add(schema: &Value, path: usize, patterns: &Patterns, weight: &mut Weight) -> Result<(), String> {
    let Value::Object(entries) = schema else { return Ok(()) };
    for (keyword, value) in entries {
        let path = path + keyword.len() + 1;
        weight.memory += 2 * path;
        match (keyword.as_str(), value) {
            ("pattern", Value::String(text)) => drop(patterns.get(text)?),
            ("patternProperties", Value::Object(all)) => {
                let mut states = 0;
                for text in all.keys() {
                    let pattern = patterns.get(text)?;
                    states += property(&pattern, weight)?;
                }
                weight.property_states = weight.property_states.max(states);
            }
            _ => {}
        }
        match kind(keyword, value) {
            Kind::Here(all) | Kind::Items(all) | Kind::Properties(all) => {
                all.into_iter().try_for_each(|schema| add(schema, path + 4, patterns, weight))?;
            }
            Kind::Named(all) | Kind::Definitions(all) => {
                for (name, schema) in all {
                    add(schema, path + name.len() + 1, patterns, weight)?;
                }
            }
            Kind::Compared | Kind::Other => {}
        }
    }
    Ok(())
}

/// Adds what the compiler's own automaton takes; its states.
fn property(pattern: &Pattern, weight: &mut Weight) -> Result<usize, String> {
    let states = pattern.states();
    if states > MAX_PROPERTY_STATES {
        return Err("has a pattern of properties that is too large; write one with smaller repetitions and without classes \
                    of Unicode such as \\p{L}"
            .into());
    }
    if states > 0 {
        weight.memory += PROPERTY_COPIES * pattern.memory() + PROPERTY_CACHES * PROPERTY_CACHE;
    }
    Ok(states)
}
