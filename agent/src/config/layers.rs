//! Settings as text from several layers, by name, with the problems found so far.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use clap::Args as _;
use postrider_domain::service_link::is_service_link;
use toml::Value;

use super::ENV_PREFIX;
use super::args::Args;

/// A setting as it was given, and where.
struct Given {
    value: Written,
    source: String,
}

enum Written {
    /// One value, or a list with commas.
    Text(String),
    /// A list in the file.
    List(Vec<String>),
    /// As many tables of the same name, in the file. What is in them has keys such as `egress.credentials[1].ca`.
    Tables(usize),
}

/// See the [module](self).
#[derive(Default)]
pub(super) struct Layers {
    given: BTreeMap<String, Given>,
    problems: Vec<String>,
}

impl Layers {
    pub(super) fn problem(&mut self, problem: impl Into<String>) {
        self.problems.push(problem.into());
    }

    /// All problems, with one for each setting that nobody asked for.
    pub(super) fn finish(mut self) -> Vec<String> {
        for (key, given) in &self.given {
            self.problems.push(format!("`{key}` in {} is not a setting of the agent", given.source));
        }
        self.problems
    }

    /// Refuses variables with the agent's prefix that no setting has: a typing error would go unnoticed.
    pub(super) fn check_variables(&mut self, names: impl Iterator<Item = String>) {
        let command = Args::augment_args(clap::Command::new("agent"));
        let known = |name: &str| {
            command.get_arguments().any(|argument| argument.get_env().is_some_and(|env| env == name))
        };
        let mine: BTreeSet<_> = names.filter(|name| name.starts_with(ENV_PREFIX)).collect();
        let is_link = |name: &str| is_service_link(name, |other| mine.contains(other));
        for name in mine.iter().filter(|name| !known(name) && !is_link(name)) {
            self.problem(format!("the environment variable {name} is not a setting of the agent"));
        }
    }

    pub(super) fn add_file(&mut self, text: &str, path: &Path) {
        let source = path.display().to_string();
        match text.parse::<toml::Table>() {
            Ok(table) => self.add_table("", table, &source),
            // Not the whole error: that repeats the line, and a secret may be on it.
            Err(error) => {
                let line = error.span().map_or(1, |span| text[..span.start].lines().count().max(1));
                self.problem(format!("{source} is not valid TOML, on line {line}: {}", error.message()));
            }
        }
    }

    pub(super) fn add_args(&mut self, args: &Args) {
        for (key, text) in args.given() {
            let source = "a flag or the environment".to_owned();
            self.given.insert(key.to_owned(), Given { value: Written::Text(text.to_owned()), source });
        }
    }

    /// Whether somebody has given this setting, well or badly.
    pub(super) fn is_given(&self, key: &str) -> bool {
        self.given.contains_key(key)
    }

    /// Takes a setting out if its text is empty.
    pub(super) fn drop_empty(&mut self, key: &str) {
        if matches!(self.given.get(key), Some(Given { value: Written::Text(text), .. }) if text.trim().is_empty())
        {
            self.given.remove(key);
        }
    }

    /// Takes a setting out without reading it, if it is given.
    pub(super) fn take(&mut self, key: &str) -> bool {
        self.given.remove(key).is_some()
    }

    /// A setting that has to be there.
    pub(super) fn required<T>(&mut self, key: &str, read: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        if !self.given.contains_key(key) {
            let variable = format!("{ENV_PREFIX}{}", key.to_ascii_uppercase().replace('.', "_"));
            self.problem(format!("`{key}` is missing: give it in the file, as {variable} or as a flag"));
        }
        self.option(key, read)
    }

    /// A setting with a default.
    pub(super) fn or<T>(&mut self, key: &str, default: T, read: impl Fn(&str) -> Result<T, String>) -> T {
        self.option(key, read).unwrap_or(default)
    }

    /// A setting that may be missing.
    pub(super) fn option<T>(&mut self, key: &str, read: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let Given { value, source } = self.given.remove(key)?;
        let read = match value {
            Written::Text(text) => read(&text),
            Written::List(_) => Err("is a list, but has one value only".to_owned()),
            Written::Tables(_) => Err("is a table, but has one value only".to_owned()),
        };
        read.map_err(|why| self.problem(format!("`{key}` in {source} {why}"))).ok()
    }

    /// A setting with any number of values.
    pub(super) fn list<T>(
        &mut self,
        key: &str,
        default: Vec<T>,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<T> {
        let Some(Given { value, source }) = self.given.remove(key) else { return default };
        let texts = match value {
            Written::List(texts) => texts,
            Written::Text(text) => split(&text),
            Written::Tables(_) => {
                self.problem(format!("`{key}` in {source} is a table, but must be a list"));
                return Vec::new();
            }
        };
        let mut values = Vec::with_capacity(texts.len());
        for text in texts {
            match read(&text) {
                Ok(value) => values.push(value),
                Err(why) => self.problem(format!("`{key}` in {source} {why}")),
            }
        }
        values
    }

    /// The keys' beginnings of the tables `[[key]]`, in order. Only the file can have such tables.
    pub(super) fn tables(&mut self, key: &str) -> Vec<String> {
        match self.given.remove(key) {
            None => Vec::new(),
            Some(Given { value: Written::Tables(count), .. }) => {
                (1..=count).map(|number| format!("{key}[{number}].")).collect()
            }
            Some(Given { value: Written::List(texts), .. }) if texts.is_empty() => Vec::new(),
            Some(Given { source, .. }) => {
                self.problem(format!("`{key}` in {source} must be given as [[{key}]] tables in the file"));
                Vec::new()
            }
        }
    }

    /// Whether no problem names this setting yet.
    pub(super) fn is_faultless(&self, key: &str) -> bool {
        let named = format!("`{key}`");
        !self.problems.iter().any(|problem| problem.contains(&named))
    }

    /// Drops all settings but those whose keys begin with `beginning`, for whoever needs only these.
    pub(super) fn keep_only(&mut self, beginning: &str) {
        self.given.retain(|key, _| key.starts_with(beginning));
    }

    fn add_table(&mut self, prefix: &str, table: toml::Table, source: &str) {
        for (name, value) in table {
            let key = format!("{prefix}{name}");
            if let Value::Table(table) = value {
                self.add_table(&format!("{key}."), table, source);
                continue;
            }
            let written = match &value {
                Value::Array(values) if values.first().is_some_and(Value::is_table) => {
                    self.add_tables(&key, values, source)
                }
                Value::Array(values) => {
                    values.iter().map(scalar).collect::<Option<Vec<_>>>().map(Written::List)
                }
                value => scalar(value).map(Written::Text),
            };
            match written {
                Some(value) => {
                    self.given.insert(key, Given { value, source: source.to_owned() });
                }
                None => self.problem(format!("`{key}` in {source} has a {} in it", value.type_str())),
            }
        }
    }

    /// `None` if there is something else among the tables.
    fn add_tables(&mut self, key: &str, values: &[Value], source: &str) -> Option<Written> {
        let tables = values.iter().map(Value::as_table).collect::<Option<Vec<_>>>()?;
        for (number, &table) in (1..).zip(&tables) {
            self.add_table(&format!("{key}[{number}]."), table.clone(), source);
        }
        Some(Written::Tables(tables.len()))
    }
}

/// A number and its text mean the same, so that `"512"` from a template works as 512 does.
fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Boolean(boolean) => Some(boolean.to_string()),
        Value::Float(_) | Value::Datetime(_) | Value::Array(_) | Value::Table(_) => None,
    }
}

fn split(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
}
