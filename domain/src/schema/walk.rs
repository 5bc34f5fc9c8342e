//! The walk over a schema before it is compiled. It counts what a validation may cost and refuses what cannot be bounded
//! or would be fetched. Only schemas are schemas here: the values of `const`, `enum`, `default`, `examples` and unknown
//! keywords are data, and the keys of `properties`, `$defs` and the like are names.
//!
//! A schema may refer to itself where each step goes deeper into the data and no place of the data is reached twice:
//! lists and trees of any depth. Anything else could take time that doubles with each level.

use std::collections::HashMap;

use serde_json::{Map, Value};
use url::Url;

use super::{MAX_RULES, shortened};
use crate::event::MAX_DEPTH;

/// The base that the validator gives to schemas without `$id`.
const BASE: &str = "json-schema:///";

/// What a walk finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    /// Rules, with each reference replaced by what it leads to.
    pub(super) rules: u64,
}

/// Walks a schema.
pub(super) fn size(root: &Value) -> Result<Size, String> {
    let mut walk = Walk::new(root)?;
    walk.anchors(root, 0)?;
    walk.stack.push((root, 0));
    let reach = walk.schema(root, Place::default())?;
    if reach.twice {
        return Err(circle("so that a place of the data is validated more than once"));
    }
    Ok(Size { rules: walk.rules })
}

fn circle(how: &str) -> String {
    format!(
        "refers to itself in a circle {how}; a schema may refer to itself only below properties, items and the like, and \
         once for each of them"
    )
}

/// Where the walk is.
#[derive(Clone, Copy, Default)]
struct Place {
    /// In schemas and references.
    depth: usize,
    /// In the data, from where the walk began.
    level: usize,
}

impl Place {
    fn here(self) -> Self {
        Self { depth: self.depth + 1, ..self }
    }

    fn below(self) -> Self {
        Self { depth: self.depth + 1, level: self.level + 1 }
    }
}

/// Which places of the data are validated by a reference of the schema to itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Reach {
    /// The present one.
    here: bool,
    /// Items of the present one, or what is in them.
    items: bool,
    /// Properties of the present one, or what is in them.
    properties: bool,
    /// One of them more than once.
    twice: bool,
}

impl Reach {
    fn any(self) -> bool {
        self.here || self.items || self.properties
    }

    /// Both may apply to one place.
    fn and(self, other: Self) -> Self {
        let twice = (self.here && other.any())
            || (self.any() && other.here)
            || (self.items && other.items)
            || (self.properties && other.properties);
        let joined = self.or(other);
        Self { twice: joined.twice || twice, ..joined }
    }

    /// They apply to different places.
    fn or(self, other: Self) -> Self {
        Self {
            here: self.here || other.here,
            items: self.items || other.items,
            properties: self.properties || other.properties,
            twice: self.twice || other.twice,
        }
    }

    /// Of a schema for items of the place, or else for its properties.
    fn seen_from_above(self, items: bool) -> Self {
        Self { here: false, items: items && self.any(), properties: !items && self.any(), twice: self.twice }
    }
}

struct Walk<'s> {
    root: &'s Value,
    /// The schema's own address, without a fragment.
    base: Url,
    /// The keyword that gives a part an address of its own.
    id: &'static str,
    anchors: HashMap<&'s str, &'s Value>,
    rules: u64,
    /// The schemas that are being walked through references, with their level.
    stack: Vec<(&'s Value, usize)>,
}

/// What the value of a keyword is.
pub(super) enum Kind<'s> {
    /// Schemas of the same place in the data.
    Here(Vec<&'s Value>),
    /// Schemas of items, which may be the same.
    Items(Vec<&'s Value>),
    /// Schemas of properties, which may be the same.
    Properties(Vec<&'s Value>),
    /// Schemas of properties, each of another.
    Named(&'s Map<String, Value>),
    /// Schemas that apply only where they are referred to.
    Definitions(&'s Map<String, Value>),
    /// Values that are compared with the data.
    Compared,
    /// Not looked at by a validation.
    Other,
}

pub(super) fn kind<'s>(keyword: &str, value: &'s Value) -> Kind<'s> {
    let schema = |value: &Value| value.is_object() || value.is_boolean();
    match (keyword, value) {
        ("allOf" | "anyOf" | "oneOf", Value::Array(all)) => Kind::Here(all.iter().collect()),
        ("not" | "if" | "then" | "else", one) => Kind::Here(vec![one]),
        ("dependentSchemas", Value::Object(all)) => Kind::Here(all.values().collect()),
        ("dependencies", Value::Object(all)) => Kind::Here(all.values().filter(|one| schema(one)).collect()),
        ("properties", Value::Object(all)) => Kind::Named(all),
        ("patternProperties", Value::Object(all)) => Kind::Properties(all.values().collect()),
        ("items" | "prefixItems", Value::Array(all)) => Kind::Items(all.iter().collect()),
        ("items" | "additionalItems" | "unevaluatedItems" | "contains", one) => Kind::Items(vec![one]),
        ("additionalProperties" | "unevaluatedProperties" | "propertyNames", one) => {
            Kind::Properties(vec![one])
        }
        ("$defs" | "definitions", Value::Object(all)) => Kind::Definitions(all),
        ("const" | "enum" | "required" | "dependentRequired", _) => Kind::Compared,
        _ => Kind::Other,
    }
}

fn values(value: &Value) -> u64 {
    let below = match value {
        Value::Array(items) => items.iter().map(values).sum(),
        Value::Object(entries) => entries.values().map(values).sum(),
        _ => 0,
    };
    below + 1
}

impl<'s> Walk<'s> {
    fn new(root: &'s Value) -> Result<Self, String> {
        let dialect = root.get("$schema").and_then(Value::as_str).unwrap_or_default();
        let id = if dialect.contains("draft-04") { "id" } else { "$id" };
        let own = root.get(id).and_then(Value::as_str).unwrap_or_default();
        let base = Url::parse(BASE).and_then(|base| base.join(own));
        let mut base = base.map_err(|error| format!("has the {id} '{}': {error}", shortened(own)))?;
        base.set_fragment(None);
        Ok(Self { root, base, id, anchors: HashMap::new(), rules: 0, stack: Vec::new() })
    }

    /// Collects the anchors of all schemas, those of definitions too.
    fn anchors(&mut self, schema: &'s Value, depth: usize) -> Result<(), String> {
        let Value::Object(entries) = schema else { return Ok(()) };
        if depth > MAX_DEPTH {
            return Err(format!("is nested deeper than {MAX_DEPTH}"));
        }
        for (keyword, value) in entries {
            let id = value.as_str().filter(|_| keyword == self.id);
            let anchor = match keyword.as_str() {
                "$anchor" | "$dynamicAnchor" => value.as_str(),
                _ => id.and_then(|id| id.strip_prefix('#')),
            };
            if let Some(anchor) = anchor.filter(|anchor| !anchor.is_empty()) {
                self.anchors.insert(anchor, schema);
            } else if id.is_some() && depth > 0 {
                return Err(format!("has {keyword} below its root, which is not allowed"));
            }
            let below: Vec<&Value> = match kind(keyword, value) {
                Kind::Here(all) | Kind::Items(all) | Kind::Properties(all) => all,
                Kind::Named(all) | Kind::Definitions(all) => all.values().collect(),
                Kind::Compared | Kind::Other => Vec::new(),
            };
            below.into_iter().try_for_each(|schema| self.anchors(schema, depth + 1))?;
        }
        Ok(())
    }

    fn count(&mut self, rules: u64, depth: usize) -> Result<(), String> {
        self.rules = self.rules.saturating_add(rules);
        if self.rules > MAX_RULES {
            return Err(format!("has more than {MAX_RULES} rules when its references are followed"));
        }
        if depth > MAX_DEPTH {
            return Err(format!("is nested deeper than {MAX_DEPTH} when its references are followed"));
        }
        Ok(())
    }

    fn schema(&mut self, schema: &'s Value, place: Place) -> Result<Reach, String> {
        self.count(1, place.depth)?;
        let Value::Object(entries) = schema else { return Ok(Reach::default()) };
        let before = self.rules;
        let mut reach = Reach::default();
        for (keyword, value) in entries {
            self.count(1, place.depth)?;
            reach = reach.and(self.keyword(keyword, value, place)?);
        }
        if entries.contains_key("unevaluatedProperties") || entries.contains_key("unevaluatedItems") {
            // They validate their neighbours once more, to find what those have left.
            self.count(self.rules - before, place.depth)?;
            reach = reach.and(reach);
        }
        Ok(reach)
    }

    fn keyword(&mut self, keyword: &str, value: &'s Value, place: Place) -> Result<Reach, String> {
        match (keyword, value) {
            ("$ref", Value::String(reference)) => return self.reference(reference, place.here()),
            ("$dynamicRef" | "$recursiveRef", _) => {
                return Err(format!("has {keyword}, which is not allowed; use $ref"));
            }
            _ => {}
        }
        match kind(keyword, value) {
            Kind::Here(all) => self.schemas(all, place.here(), Reach::and),
            Kind::Items(all) => Ok(self.schemas(all, place.below(), Reach::and)?.seen_from_above(true)),
            Kind::Properties(all) => Ok(self.schemas(all, place.below(), Reach::and)?.seen_from_above(false)),
            Kind::Named(all) => {
                let reach = self.schemas(all.values().collect(), place.below(), Reach::or)?;
                Ok(reach.seen_from_above(false))
            }
            Kind::Compared => self.count(values(value), place.depth).map(|()| Reach::default()),
            // Definitions are counted where they are referred to.
            Kind::Definitions(_) | Kind::Other => Ok(Reach::default()),
        }
    }

    fn schemas(
        &mut self,
        schemas: Vec<&'s Value>,
        place: Place,
        join: fn(Reach, Reach) -> Reach,
    ) -> Result<Reach, String> {
        schemas.into_iter().try_fold(Reach::default(), |reach, one| Ok(join(reach, self.schema(one, place)?)))
    }

    fn reference(&mut self, reference: &str, place: Place) -> Result<Reach, String> {
        let target = self.target(reference)?;
        if let Some((_, level)) = self.stack.iter().find(|(walked, _)| std::ptr::eq(*walked, target)) {
            let deeper = place.level > *level;
            let reach = Reach { here: true, ..Reach::default() };
            return if deeper { Ok(reach) } else { Err(circle("at the same place of the data")) };
        }
        self.stack.push((target, place.level));
        let reach = self.schema(target, place);
        self.stack.pop();
        reach
    }

    /// The schema that a reference leads to.
    fn target(&self, reference: &str) -> Result<&'s Value, String> {
        let shown = shortened(reference);
        let mut url =
            self.base.join(reference).map_err(|error| format!("has the $ref '{shown}': {error}"))?;
        let fragment = decoded(url.fragment().unwrap_or_default());
        url.set_fragment(None);
        if url != self.base {
            return Err(format!(
                "has the $ref '{shown}'; references may only lead into the same schema, as in #/$defs/address"
            ));
        }
        let target = match fragment.as_deref() {
            Some(anchor) if !anchor.is_empty() && !anchor.starts_with('/') => {
                self.anchors.get(anchor).copied()
            }
            Some(pointer) => self.root.pointer(pointer),
            None => None,
        };
        match target {
            Some(target) if target.is_object() || target.is_boolean() => Ok(target),
            Some(_) => Err(format!("has the $ref '{shown}', which leads to a value that is no schema")),
            None => Err(format!("has the $ref '{shown}', which leads to nothing in this schema")),
        }
    }
}

/// A fragment without percent escapes; nothing when it is no UTF-8 then.
fn decoded(fragment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(fragment.len());
    let mut rest = fragment.as_bytes();
    while let [first, after @ ..] = rest {
        let escape = after
            .first_chunk::<2>()
            .filter(|digits| *first == b'%' && digits.iter().all(u8::is_ascii_hexdigit));
        let byte = escape.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &after[2..] } else { after };
    }
    String::from_utf8(bytes).ok()
}
