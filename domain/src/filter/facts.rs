//! What filters know of one event. Its data is read at most once, when the first filter asks for it.

use std::cell::{Cell, OnceCell};
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use cel::objects::{Key, KeyRef, Map};
use cel::{Context, Env, Value};

use super::anchor::Found;
use super::{BUDGET, Unanswered, compare, json};
use crate::event::{Attributes, EventTypeName};
use crate::time::EventTime;

pub(super) static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| {
    let mut environment = Env::stdlib();
    compare::declare(&mut environment);
    Arc::new(environment)
});

/// What it costs to read an event's data, and each byte of it.
const READ_BASE: u64 = 1_000;
const READ_BYTE: u64 = 15;

/// An event as filters see it.
pub struct Facts<'e> {
    event_type: &'e EventTypeName,
    timestamp: EventTime,
    attributes: &'e Attributes,
    json: &'e [u8],
    data: OnceCell<Result<Value, Unanswered>>,
    context: OnceCell<Result<Context<'static, 'static>, Unanswered>>,
    budget: Cell<u64>,
}

impl<'e> Facts<'e> {
    /// Of an event whose data is JSON that was checked.
    #[must_use]
    pub fn new(
        event_type: &'e EventTypeName,
        timestamp: impl Into<EventTime>,
        attributes: &'e Attributes,
        json: &'e [u8],
    ) -> Self {
        Self {
            event_type,
            timestamp: timestamp.into(),
            attributes,
            json,
            data: OnceCell::new(),
            context: OnceCell::new(),
            budget: Cell::new(BUDGET),
        }
    }

    /// The event's type.
    #[must_use]
    pub fn event_type(&self) -> &EventTypeName {
        self.event_type
    }

    /// What is at a path from `event` down.
    #[must_use]
    pub fn at(&self, path: &[Box<str>]) -> Found<'_> {
        match path {
            [name] if **name == *"type" => Found::Text(self.event_type.as_str()),
            [name, key] if **name == *"attributes" => {
                self.attributes.get(key).map_or(Found::Missing, Found::Text)
            }
            [name, below @ ..] if **name == *"data" => match self.data() {
                Ok(data) => find(data, below),
                Err(_) => Found::NoPlace,
            },
            _ => Found::NoPlace,
        }
    }

    /// Reads the data now, so that it is not read while somebody waits.
    pub fn prepare(&self) {
        let _read_or_not = self.data();
    }

    /// What was used for the event so far, in units of about a nanosecond: to read its data, and by filters.
    #[must_use]
    pub fn used(&self) -> u64 {
        let read = if self.data.get().is_some() { Self::reading(self.size()) } else { 0 };
        read + (BUDGET - self.budget.get())
    }

    /// What it costs to read an event of so many bytes.
    #[must_use]
    pub fn reading(size: usize) -> u64 {
        READ_BASE + READ_BYTE * size as u64
    }

    /// Bytes that a filter may have to look at.
    pub(super) fn size(&self) -> usize {
        let attributes = self.attributes.iter().map(|(name, value)| name.len() + value.len());
        self.json.len() + attributes.sum::<usize>()
    }

    /// What is left for the event.
    pub(super) fn left(&self) -> u64 {
        self.budget.get()
    }

    /// Takes what an evaluation costs from what is left for the event.
    pub(super) fn spend(&self, cost: u64) -> Result<(), Unanswered> {
        let Some(left) = self.budget.get().checked_sub(cost) else {
            return Err(Unanswered("not evaluated: the filters that the event meets cost too much".into()));
        };
        self.budget.set(left);
        Ok(())
    }

    pub(super) fn context(&self) -> Result<&Context<'static, 'static>, Unanswered> {
        let made = self.context.get_or_init(|| {
            let mut context = Context::with_env(ENVIRONMENT.clone());
            context.add_variable_from_value("event", self.event()?);
            Ok(context)
        });
        made.as_ref().map_err(Clone::clone)
    }

    fn data(&self) -> Result<&Value, Unanswered> {
        let read = || json::read(self.json).map_err(|_| Unanswered("the data is not JSON".into()));
        self.data.get_or_init(read).as_ref().map_err(Clone::clone)
    }

    /// What was wrong when there was no answer: above all that the data cannot be read.
    pub(super) fn unreadable(&self, otherwise: Unanswered) -> Unanswered {
        self.data().err().unwrap_or(otherwise)
    }

    fn event(&self) -> Result<Value, Unanswered> {
        let (seconds, nanos) = (self.timestamp.cut().as_seconds(), self.timestamp.subsec_nanos());
        let timestamp = chrono::DateTime::from_timestamp(seconds, nanos)
            .ok_or_else(|| Unanswered("the timestamp is out of range".into()))?;
        let attributes = self.attributes.iter().map(|(name, value)| (name, text(value)));
        let known = [
            ("type", text(self.event_type.as_str())),
            ("timestamp", Value::Timestamp(timestamp.fixed_offset())),
            ("attributes", map(attributes)),
        ];
        // Without data that can be read, only filters that ask for it have no answer.
        let data = self.data().ok().map(|data| ("data", data.clone()));
        Ok(map(known.into_iter().chain(data)))
    }
}

fn find<'v>(data: &'v Value, path: &[Box<str>]) -> Found<'v> {
    let mut value = data;
    for (at, name) in path.iter().enumerate() {
        let Value::Map(map) = value else { return Found::NoPlace };
        value = match map.get(&KeyRef::String(name)) {
            Some(value) => value,
            None if at + 1 == path.len() => return Found::Missing,
            None => return Found::NoPlace,
        };
    }
    match value {
        Value::String(text) => Found::Text(text),
        _ => Found::Other,
    }
}

fn text(text: &str) -> Value {
    Value::String(Arc::new(text.to_owned()))
}

fn map<'n>(entries: impl IntoIterator<Item = (&'n str, Value)>) -> Value {
    let entries = entries.into_iter().map(|(name, value)| (Key::String(Arc::new(name.to_owned())), value));
    Value::Map(Map { map: Arc::new(entries.collect::<HashMap<_, _>>()) })
}
