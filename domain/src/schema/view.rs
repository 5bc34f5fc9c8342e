//! JSON data as a validation sees it: each look at it is charged ([`crate::cost`]), and once nothing is left to spend,
//! nothing is seen any more, so that the validation ends.
//!
//! Two comparisons of the `jsonschema` crate are replaced, because their cost is not bounded by the data: `uniqueItems`
//! hashes arrays without their shape and numbers as doubles, so that data can be made whose items all collide, and errors
//! keep a copy of the value that they are about.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::HashSet;
use std::slice;

use jsonschema::JsonType;
use jsonschema::json::{Array, Json, Node, NodeIdentity, Object, SerdeJson};
use serde_json::{Map, Number, Value, map};

use super::equal;
use crate::cost::{charge, may_go_on};

/// What a look at a value costs.
const LOOK: u64 = 8;
/// What a look for a property costs.
const LOOKUP: u64 = 40;
/// How long names usually are at most.
const USUAL_NAME: usize = 256;
/// What an error costs that a validation makes: it holds where it was found.
const ERROR: u64 = 2_000;
/// What an error keeps of the value it is about: nothing, for errors do not quote data.
static HIDDEN: Value = Value::Null;

thread_local! {
    /// How many states the patterns have that a property's name is compared with.
    static NAME_STATES: Cell<u64> = const { Cell::new(0) };
}

/// Does work in which names of properties are compared with patterns of so many states.
pub(super) fn with_name_states<T>(states: usize, work: impl FnOnce() -> T) -> T {
    NAME_STATES.set(states as u64);
    work()
}

/// What a look at a name costs. Its comparison with patterns is not done here and cannot be stopped: for a name of the
/// usual length it is charged as what it nearly always is, for a longer one as the worst that it can be.
fn name_cost(length: usize) -> u64 {
    let states = NAME_STATES.get();
    let byte = if length <= USUAL_NAME { 1 + states / 8 } else { 1 + states * 5 };
    LOOK + bytes(length) * byte
}

/// The representation of data that charges.
pub(super) struct Metered;

/// A value that charges.
#[derive(Clone, Copy)]
pub(super) struct Seen<'a>(pub(super) &'a Value);

/// An object that charges.
pub(super) struct SeenObject<'a>(&'a Map<String, Value>);

/// An array that charges.
pub(super) struct SeenArray<'a>(&'a [Value]);

/// The properties of an object.
pub(super) struct Members<'a>(map::Iter<'a>);

/// The items of an array.
pub(super) struct Elements<'a>(slice::Iter<'a, Value>);

fn look(cost: u64) -> Option<()> {
    charge(cost).then_some(())
}

fn bytes(length: usize) -> u64 {
    length as u64
}

impl Json for Metered {
    type Node<'a> = Seen<'a>;
    type PreparedKey = String;
    type StringBuffer = ();

    const KEYS_PER_LOOKUP: usize = SerdeJson::KEYS_PER_LOOKUP;
    const ACYCLIC: bool = true;

    fn prepare_key(key: &str) -> String {
        key.to_owned()
    }

    fn with_string_node<T>(_buffer: &mut (), string: &str, f: impl FnOnce(Seen<'_>) -> T) -> T {
        f(Seen(&Value::String(string.to_owned())))
    }
}

impl<'a> Node<'a, Metered> for Seen<'a> {
    type Object = SeenObject<'a>;
    type Array = SeenArray<'a>;
    type Number = &'a Number;

    fn as_object(&self) -> Option<SeenObject<'a>> {
        look(LOOK)?;
        self.0.as_object().map(SeenObject)
    }

    fn as_array(&self) -> Option<SeenArray<'a>> {
        look(LOOK)?;
        self.0.as_array().map(|items| SeenArray(items))
    }

    fn as_string(&self) -> Option<Cow<'a, str>> {
        let Value::String(text) = self.0 else {
            look(LOOK)?;
            return None;
        };
        // Whoever asks may read all of it.
        look(LOOK + bytes(text.len()))?;
        Some(Cow::Borrowed(text))
    }

    fn as_number(&self) -> Option<&'a Number> {
        look(LOOK)?;
        match self.0 {
            Value::Number(number) => Some(number),
            _ => None,
        }
    }

    fn as_boolean(&self) -> Option<bool> {
        look(LOOK)?;
        self.0.as_bool()
    }

    fn is_null(&self) -> bool {
        charge(LOOK) && self.0.is_null()
    }

    fn json_type(&self) -> JsonType {
        if !charge(LOOK) {
            return JsonType::Null;
        }
        match self.0 {
            Value::Null => JsonType::Null,
            Value::Bool(_) => JsonType::Boolean,
            Value::Number(_) => JsonType::Number,
            Value::String(_) => JsonType::String,
            Value::Array(_) => JsonType::Array,
            Value::Object(_) => JsonType::Object,
        }
    }

    fn equals_value(&self, expected: &Value) -> bool {
        equal::equal(self.0, expected)
    }

    fn to_value(&self) -> Cow<'a, Value> {
        charge(ERROR);
        // An error says how many items an array has too many.
        Cow::Borrowed(if self.0.is_array() { self.0 } else { &HIDDEN })
    }

    fn identity(&self) -> Option<NodeIdentity> {
        Some(NodeIdentity::new(std::ptr::from_ref::<Value>(self.0) as usize))
    }
}

impl<'a> Object<'a, Metered> for SeenObject<'a> {
    type Node = Seen<'a>;
    type MemberName = &'a str;
    type MembersIter = Members<'a>;

    fn len(&self) -> usize {
        self.0.len()
    }

    fn get(&self, key: &String) -> Option<Seen<'a>> {
        look(LOOKUP)?;
        self.0.get(key).map(Seen)
    }

    fn members(&self) -> Members<'a> {
        Members(self.0.iter())
    }
}

impl<'a> Iterator for Members<'a> {
    type Item = (&'a str, Seen<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let (name, value) = self.0.next()?;
        look(name_cost(name.len()))?;
        Some((name, Seen(value)))
    }
}

impl<'a> Array<'a, Metered> for SeenArray<'a> {
    type Node = Seen<'a>;
    type ElementsIter = Elements<'a>;

    fn len(&self) -> usize {
        self.0.len()
    }

    fn elements(&self) -> Elements<'a> {
        Elements(self.0.iter())
    }

    fn is_unique(&self) -> bool {
        let mut seen = HashSet::with_capacity(self.0.len());
        self.0.iter().all(|item| !may_go_on() || seen.insert(equal::key(item)))
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = Seen<'a>;

    fn next(&mut self) -> Option<Seen<'a>> {
        let item = self.0.next()?;
        look(LOOK)?;
        Some(Seen(item))
    }
}
