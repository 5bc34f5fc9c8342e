//! YAML as a tree that knows its lines. What no file here needs is refused: anchors, tags, several documents, a key twice.

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

use super::Problem;

/// How deep lists and mappings may be in each other.
const MAX_DEPTH: usize = 100;

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    /// Its line, from 1.
    pub(crate) line: usize,
    /// The value.
    pub(crate) value: Value,
}

/// What a file can hold.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    /// A text, and whether it stood in quotes or as a block: then it is a text whatever it looks like.
    Scalar(String, bool),
    /// A list.
    List(Vec<Node>),
    /// A mapping, in the order of the file: line and text of a key, and its value.
    Map(Vec<(usize, String, Node)>),
}

impl Node {
    /// What it is, for people.
    pub(crate) fn kind(&self) -> &'static str {
        match &self.value {
            Value::Scalar(text, false) if text.is_empty() || text == "null" || text == "~" => "nothing",
            Value::Scalar(..) => "a text",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }

    /// Whether it is there and says nothing.
    pub(crate) fn is_nothing(&self) -> bool {
        self.kind() == "nothing"
    }

    /// The same as JSON: what stands without quotes is a number, a truth or nothing if it looks like one.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::List(items) => items.iter().map(Self::to_json).collect(),
            Value::Map(entries) => {
                let entry = |(_, key, value): &(usize, String, Self)| (key.clone(), value.to_json());
                serde_json::Value::Object(entries.iter().map(entry).collect())
            }
            Value::Scalar(text, true) => text.clone().into(),
            Value::Scalar(..) if self.is_nothing() => serde_json::Value::Null,
            Value::Scalar(text, false) => match text.as_str() {
                "true" => true.into(),
                "false" => false.into(),
                _ => text
                    .parse::<serde_json::Number>()
                    .map_or_else(|_| text.clone().into(), serde_json::Value::Number),
            },
        }
    }
}

/// Something that is not closed yet.
enum Open {
    List(usize, Vec<Node>),
    Map(usize, Vec<(usize, String, Node)>, Option<(usize, String)>),
}

/// Reads the only document of a text.
pub(crate) fn parse(text: &str) -> Result<Node, Vec<Problem>> {
    let mut builder = Builder { open: Vec::new(), root: None, problems: Vec::new() };
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| {
            vec![Problem::new(error.marker().line(), format!("it is not YAML: {}", error.info()))]
        })?;
        builder.take(event, span);
        if builder.open.len() > MAX_DEPTH {
            return Err(vec![Problem::new(span.start.line(), "it is nested too deep")]);
        }
    }
    match (builder.root, builder.problems.is_empty()) {
        (Some(root), true) => Ok(root),
        (None, true) => Err(vec![Problem::new(1, "it is empty")]),
        (_, false) => Err(builder.problems),
    }
}

struct Builder {
    open: Vec<Open>,
    root: Option<Node>,
    problems: Vec<Problem>,
}

impl Builder {
    fn take(&mut self, event: Event<'_>, span: Span) {
        let line = span.start.line();
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse(line, anchor > 0, tag.is_some());
                let quoted = style != ScalarStyle::Plain;
                self.add(Node { line, value: Value::Scalar(text.into_owned(), quoted) });
            }
            Event::SequenceStart(anchor, tag) => {
                self.refuse(line, anchor > 0, tag.is_some());
                self.open.push(Open::List(line, Vec::new()));
            }
            Event::MappingStart(anchor, tag) => {
                self.refuse(line, anchor > 0, tag.is_some());
                self.open.push(Open::Map(line, Vec::new(), None));
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Open::List(line, items)) => self.add(Node { line, value: Value::List(items) }),
                Some(Open::Map(line, entries, _)) => self.add(Node { line, value: Value::Map(entries) }),
                None => {}
            },
            Event::Alias(_) => {
                self.problems.push(Problem::new(line, "aliases are not known here; write it out"));
                self.add(Node { line, value: Value::Scalar(String::new(), true) });
            }
            Event::DocumentStart(_) if self.root.is_some() => {
                self.problems.push(Problem::new(line, "a file is about one tenant: one document"));
            }
            _ => {}
        }
    }

    fn refuse(&mut self, line: usize, anchor: bool, tag: bool) {
        for (there, what) in [(anchor, "anchors"), (tag, "tags")] {
            if there {
                self.problems.push(Problem::new(line, format!("{what} are not known here; write it out")));
            }
        }
    }

    fn add(&mut self, node: Node) {
        match self.open.last_mut() {
            Some(Open::List(_, items)) => items.push(node),
            Some(Open::Map(_, entries, key @ None)) => match node.value {
                Value::Scalar(text, _) => {
                    if let Some((first, ..)) = entries.iter().find(|(_, known, _)| *known == text) {
                        let problem = format!("'{text}' is set already, on line {first}");
                        self.problems.push(Problem::new(node.line, problem));
                    }
                    *key = Some((node.line, text));
                }
                _ => {
                    self.problems.push(Problem::new(node.line, "a key must be a text"));
                    *key = Some((node.line, String::new()));
                }
            },
            Some(Open::Map(_, entries, key)) => {
                let (line, text) = key.take().unwrap_or_default();
                entries.push((line, text, node));
            }
            None if self.root.is_none() => self.root = Some(node),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_know_their_lines() {
        let root = parse("a: 1\nb:\n  - x\n  - \"2\"\nc: |\n  text\n  more\n").unwrap();
        let Value::Map(entries) = &root.value else { panic!("{root:?}") };
        let lines: Vec<_> = entries.iter().map(|(line, key, _)| (*line, key.as_str())).collect();
        assert_eq!(lines, [(1, "a"), (2, "b"), (5, "c")]);
        let json = root.to_json();
        assert_eq!(json, serde_json::json!({ "a": 1, "b": ["x", "2"], "c": "text\nmore\n" }));
    }

    #[test]
    fn what_is_not_known_here_is_refused_with_its_line() {
        let problem = |text: &str| parse(text).unwrap_err().remove(0);
        assert_eq!(problem("a: 1\na: 2"), Problem::new(2, "'a' is set already, on line 1"));
        assert_eq!(problem("a: &x 1\n").line, 1);
        assert!(problem("a: &x 1\nb: *x\n").problem.contains("anchors"));
        assert!(problem("\na: !!str 1\n").problem.contains("tags"));
        assert_eq!(problem("a: 1\n---\nb: 2\n").line, 2);
        assert!(problem("").problem.contains("empty"));
        assert!(problem("a: [1\nb: 2").problem.starts_with("it is not YAML"));
        assert!(problem(&"[".repeat(5000)).line == 1);
    }
}
