//! A JSON Schema of an event type's data: read when the type is saved, asked when an event is emitted.
//!
//! Validation is the `jsonschema` crate's, which never reaches for the network here. What is here bounds it: references
//! lead only into the same schema and never in a circle, so that what a validation costs is known beforehand.

use std::fmt;
use std::sync::Arc;

use jsonschema::{PatternOptions, Validator};
use serde_json::Value;

use crate::event::MAX_DEPTH;

/// How many bytes a schema may have.
pub const MAX_SCHEMA: usize = 64 * 1024;
/// How many rules a schema may have when each reference is replaced by what it leads to.
pub const MAX_RULES: u64 = 5_000;
/// What a validation may cost: rules times bytes.
const MAX_COST: u64 = 100_000_000;
/// How many mistakes of an event are told.
const MAX_TOLD: usize = 5;
const MAX_PATTERN: usize = 256 * 1024;

/// A schema that was judged.
#[derive(Clone)]
pub struct Schema(Arc<Compiled>);

struct Compiled {
    validator: Validator,
    rules: u64,
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Schema({} rules)", self.0.rules)
    }
}

impl Schema {
    /// Reads a schema: draft 2020-12 unless its `$schema` names another.
    ///
    /// # Errors
    /// Why it is not one, or not one that can be used here.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > MAX_SCHEMA {
            return Err(format!("has {} bytes, the limit is {MAX_SCHEMA}", text.len()));
        }
        crate::event::check_data(text.as_bytes(), MAX_SCHEMA).map_err(|violation| violation.problem)?;
        let schema: Value = serde_json::from_str(text).map_err(|error| format!("is not JSON: {error}"))?;
        if !schema.is_object() {
            return Err("must be a JSON object, as in {\"type\": \"object\"}".into());
        }
        let mut count = Count { root: &schema, rules: 0 };
        count.rules(&schema, 0)?;
        let rules = count.rules;
        let options = jsonschema::options()
            .with_pattern_options(PatternOptions::regex().size_limit(MAX_PATTERN).dfa_size_limit(MAX_PATTERN))
            .offline();
        let validator = options.build(&schema).map_err(|error| {
            let place = error.instance_path().to_string();
            let place = if place.is_empty() { "/".to_owned() } else { place };
            format!("is not a JSON Schema (at {place}): {}", shortened(&error.masked().to_string()))
        })?;
        Ok(Self(Arc::new(Compiled { validator, rules })))
    }

    /// What of this data the schema does not allow; nothing when it is valid. Values are not quoted.
    #[must_use]
    pub fn mistakes(&self, data: &[u8]) -> Vec<String> {
        let cost = self.0.rules.saturating_mul(u64::try_from(data.len()).unwrap_or(u64::MAX));
        if cost > MAX_COST {
            return vec![format!(
                "cannot be validated: {} bytes are too many for a schema of {} rules",
                data.len(),
                self.0.rules
            )];
        }
        let Ok(data) = serde_json::from_slice::<Value>(data) else {
            return vec!["cannot be validated: it has a number out of range".into()];
        };
        let told = |error: jsonschema::ValidationError<'_>| {
            let place = error.instance_path().to_string();
            let place = if place.is_empty() { "it" } else { &place };
            format!("{}: {}", shortened(place), shortened(&error.masked().to_string()))
        };
        self.0.validator.iter_errors(&data).take(MAX_TOLD).map(told).collect()
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(200).collect()
}

/// Counts rules with each reference replaced by what it leads to.
struct Count<'s> {
    root: &'s Value,
    rules: u64,
}

impl Count<'_> {
    fn rules(&mut self, value: &Value, depth: usize) -> Result<(), String> {
        self.rules += 1;
        if self.rules > MAX_RULES || depth > MAX_DEPTH {
            return Err(format!(
                "has more than {MAX_RULES} rules when its references are followed, or refers to itself in a circle"
            ));
        }
        match value {
            Value::Object(entries) => {
                for (keyword, value) in entries {
                    self.keyword(keyword, value, depth)?;
                }
            }
            Value::Array(items) => items.iter().try_for_each(|item| self.rules(item, depth + 1))?,
            _ => {}
        }
        Ok(())
    }

    fn keyword(&mut self, keyword: &str, value: &Value, depth: usize) -> Result<(), String> {
        match (keyword, value) {
            // Counted where it is referred to. Below the root it may be the name of a property.
            ("$defs" | "definitions", Value::Object(_)) if depth == 0 => Ok(()),
            ("$ref", Value::String(reference)) => {
                let target = reference.strip_prefix('#').and_then(|pointer| self.root.pointer(pointer));
                let Some(target) = target else {
                    return Err(format!(
                        "has the $ref «{}»; references may only lead into the same schema, as in #/$defs/address",
                        shortened(reference)
                    ));
                };
                let target = target.clone();
                self.rules(&target, depth + 1)
            }
            ("$dynamicRef" | "$recursiveRef", _) => {
                Err(format!("has {keyword}, which is not allowed; use $ref"))
            }
            ("$id" | "id", Value::String(_)) if depth > 0 => {
                Err(format!("has {keyword} below its root, which is not allowed"))
            }
            (_, value) => self.rules(value, depth + 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemas_are_read_or_refused_with_a_reason() {
        let doubling: Vec<String> = (0..40)
            .map(|n| {
                format!(
                    r##""a{n}":{{"allOf":[{{"$ref":"#/$defs/a{m}"}},{{"$ref":"#/$defs/a{m}"}}]}}"##,
                    m = n + 1
                )
            })
            .collect();
        let doubling = format!(r##"{{"$ref":"#/$defs/a0","$defs":{{{},"a40":{{}}}}}}"##, doubling.join(","));
        let table = [
            (r#"{"type": "object", "required": ["id"]}"#, ""),
            (r##"{"properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"type": "string"}}}"##, ""),
            (r#"{"$schema": "http://json-schema.org/draft-07/schema#", "items": [{"type": "string"}]}"#, ""),
            ("{", "is not JSON"),
            ("5", "must be a JSON object"),
            (r#"{"type": "objekt"}"#, "is not a JSON Schema (at /type)"),
            (r#"{"$ref": "https://example.com/schema.json"}"#, "only lead into the same schema"),
            (r#"{"$ref": "file:///etc/passwd"}"#, "only lead into the same schema"),
            (r##"{"$ref": "#/$defs/none"}"##, "only lead into the same schema"),
            (r##"{"$ref": "#"}"##, "in a circle"),
            (r##"{"properties": {"a": {"$ref": "#"}}}"##, "in a circle"),
            (
                r##"{"properties": {"definitions": {"allOf": [{"$ref": "#"}, {"$ref": "#"}]}}}"##,
                "in a circle",
            ),
            (&doubling, "more than 5000 rules"),
            (r##"{"$dynamicRef": "#a"}"##, "not allowed"),
            (r#"{"properties": {"a": {"$id": "https://example.com/"}}}"#, "below its root"),
            (r#"{"$schema": "https://example.com/mine"}"#, "is not a JSON Schema"),
            (r#"{"pattern": "("}"#, "is not a JSON Schema"),
            (r#"{"pattern": "((a{1,100}){1,100}){1,100}"}"#, "is not a JSON Schema"),
        ];
        for (text, part) in table {
            match (Schema::parse(text), part) {
                (Ok(_), "") => {}
                (Err(problem), part) if !part.is_empty() && problem.contains(part) => {}
                (found, _) => panic!("{text}: {found:?}"),
            }
        }
    }

    #[test]
    fn mistakes_say_where_and_quote_no_value() {
        let schema = Schema::parse(
            r#"{"type": "object", "required": ["id"], "properties": {"amount": {"type": "number"}, "code": {"pattern": "^[a-z]+$"}}}"#,
        )
        .unwrap();
        assert_eq!(schema.mistakes(br#"{"id": 1, "amount": 2.5, "code": "abc"}"#), Vec::<String>::new());
        let mistakes = schema.mistakes(br#"{"amount": "secret", "code": "SECRET"}"#).join("; ");
        assert!(mistakes.contains("/amount") && mistakes.contains("id"), "{mistakes}");
        assert!(!mistakes.to_lowercase().contains("secret"), "{mistakes}");
        assert!(schema.mistakes(br#"{"id": 1e999}"#)[0].contains("out of range"));
        let many = format!("{{\"allOf\": [{}{{}}]}}", "{\"type\": \"object\"},".repeat(1000));
        let large = format!("{{\"x\": \"{}\"}}", "x".repeat(200_000));
        assert!(
            Schema::parse(&many).unwrap().mistakes(large.as_bytes())[0].contains("too many for a schema")
        );
    }
}
