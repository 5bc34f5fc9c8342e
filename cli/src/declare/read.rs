//! Reads a tenant file from its YAML tree. Reports every problem with its line.

use postrider_proto::v1;
use serde_json::Value as Json;

use super::fields;
use super::plan::{Fields, Key, Wanted};
use super::yaml::{Node, Value};
use super::{Problem, yaml};

mod event_type;
mod subscription;
mod tenant;

/// The only version of files.
const VERSION: &str = "1";

/// What a file wants.
#[derive(Debug, Default)]
pub(crate) struct File {
    /// The tenant's id, if it says one.
    pub(crate) tenant: Option<String>,
    /// The tenant's settings that it says.
    pub(crate) settings: Option<(v1::Tenant, Fields)>,
    /// The catalogue, if it is in the file.
    pub(crate) event_types: Option<Vec<Declared<v1::EventType>>>,
    /// The subscriptions, if they are in the file.
    pub(crate) subscriptions: Option<Vec<Declared<v1::Subscription>>>,
}

/// A thing of a file.
#[derive(Debug)]
pub(crate) struct Declared<T> {
    /// To compare by.
    pub(crate) wanted: Wanted,
    /// To send.
    pub(crate) message: T,
}

/// Reads a file.
///
/// # Errors
/// Every problem in it, by line.
pub(crate) fn file(text: &str) -> Result<File, Vec<Problem>> {
    let root = yaml::parse(text)?;
    let mut problems = Problems::default();
    let mut file = File::default();
    let mut top = Section::open(&root, "the file", &mut problems);
    let version = top.text("postrider", &mut problems);
    if version.as_deref() != Some(VERSION) {
        problems.add(root.line, format!("say which version the file is of: `postrider: {VERSION}`"));
    }
    if let Some(node) = top.take("tenant") {
        (file.tenant, file.settings) = tenant::read(node, &mut problems);
    }
    file.event_types = top.list("event_types", &mut problems).map(|nodes| {
        let read = nodes.iter().filter_map(|node| event_type::read(node, &mut problems)).collect();
        once(&read, "event type", &mut problems);
        read
    });
    file.subscriptions = top.list("subscriptions", &mut problems).map(|nodes| {
        let read = nodes.iter().filter_map(|node| subscription::read(node, &mut problems)).collect();
        once(&read, "subscription", &mut problems);
        read
    });
    top.close(&mut problems);
    problems.end(file)
}

/// Nothing may be in the file twice.
fn once<T>(things: &Vec<Declared<T>>, what: &str, problems: &mut Problems) {
    let mut seen = std::collections::HashMap::new();
    for thing in things {
        let (Key::Id(key) | Key::Name(key)) = &thing.wanted.key;
        let name = thing.wanted.fields.get("name").and_then(Json::as_str).filter(|name| !name.is_empty());
        let keys: std::collections::BTreeSet<&str> =
            [Some(key.as_str()), name].into_iter().flatten().collect();
        for key in keys {
            if let Some(first) = seen.insert(key.to_owned(), thing.wanted.line) {
                problems
                    .add(thing.wanted.line, format!("the {what} '{key}' is there already, on line {first}"));
            }
        }
    }
}

/// What is wrong so far.
#[derive(Debug, Default)]
pub(super) struct Problems(Vec<Problem>);

impl Problems {
    fn add(&mut self, line: usize, problem: impl Into<String>) {
        self.0.push(Problem::new(line, problem));
    }

    fn end<T>(mut self, value: T) -> Result<T, Vec<Problem>> {
        self.0.sort();
        self.0.dedup();
        if self.0.is_empty() { Ok(value) } else { Err(self.0) }
    }
}

/// A mapping with known keys: any other key is a problem.
pub(super) struct Section<'a> {
    line: usize,
    what: &'a str,
    entries: Vec<(usize, &'a str, &'a Node)>,
    known: Vec<&'static str>,
}

impl<'a> Section<'a> {
    fn open(node: &'a Node, what: &'a str, problems: &mut Problems) -> Self {
        let mut section = Self { line: node.line, what, entries: Vec::new(), known: Vec::new() };
        match &node.value {
            Value::Map(entries) => {
                section.entries =
                    entries.iter().map(|(line, key, value)| (*line, key.as_str(), value)).collect();
            }
            _ => problems.add(node.line, format!("{what} must be a mapping, and is {}", node.kind())),
        }
        section
    }

    /// The value of a key, unless it says nothing.
    fn take(&mut self, key: &'static str) -> Option<&'a Node> {
        self.known.push(key);
        let place = self.entries.iter().position(|(_, known, _)| *known == key)?;
        let (_, _, node) = self.entries.remove(place);
        (!node.is_nothing()).then_some(node)
    }

    fn text(&mut self, key: &'static str, problems: &mut Problems) -> Option<String> {
        let node = self.take(key)?;
        let Value::Scalar(text, _) = &node.value else {
            problems.add(node.line, format!("{key} must be a text, and is {}", node.kind()));
            return None;
        };
        Some(text.clone())
    }

    /// A text that something else is read from.
    fn parsed<T>(
        &mut self,
        key: &'static str,
        problems: &mut Problems,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let line = self.line_of(key);
        let text = self.text(key, problems)?;
        parse(&text).map_err(|problem| problems.add(line, format!("{key}: {problem}"))).ok()
    }

    fn number<T: std::str::FromStr>(&mut self, key: &'static str, problems: &mut Problems) -> Option<T> {
        self.parsed(key, problems, |text| {
            text.parse().map_err(|_| format!("'{text}' is not a number that it can be"))
        })
    }

    fn truth(&mut self, key: &'static str, problems: &mut Problems) -> Option<bool> {
        self.parsed(key, problems, |text| text.parse().map_err(|_| "say true or false".to_owned()))
    }

    fn list(&mut self, key: &'static str, problems: &mut Problems) -> Option<&'a [Node]> {
        let node = self.take(key)?;
        match &node.value {
            Value::List(items) => Some(items),
            _ => {
                problems.add(node.line, format!("{key} must be a list, and is {}", node.kind()));
                None
            }
        }
    }

    fn texts(&mut self, key: &'static str, problems: &mut Problems) -> Option<Vec<(usize, String)>> {
        let mut texts = Vec::new();
        for item in self.list(key, problems)? {
            match &item.value {
                Value::Scalar(text, _) => texts.push((item.line, text.clone())),
                _ => problems.add(item.line, format!("{key} must hold texts, and this is {}", item.kind())),
            }
        }
        Some(texts)
    }

    /// JSON: as text, or written out.
    fn json(&mut self, key: &'static str) -> Option<String> {
        let node = self.take(key)?;
        Some(match &node.value {
            Value::Scalar(text, _) => text.trim_end().to_owned(),
            _ => node.to_json().to_string(),
        })
    }

    fn line_of(&self, key: &str) -> usize {
        self.entries.iter().find(|(_, known, _)| *known == key).map_or(self.line, |(line, ..)| *line)
    }

    /// What is left was not asked for.
    fn close(self, problems: &mut Problems) {
        for (line, key, _) in self.entries {
            let (what, known) = (self.what, self.known.join(", "));
            problems.add(line, format!("{what} has no '{key}'; it can have: {known}"));
        }
    }
}

#[cfg(test)]
mod tests;
