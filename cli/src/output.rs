//! What goes to stdout: aligned columns for people, JSON for programs.
//!
//! Notices go to stderr, so that stdout can be piped. A reader who has gone away ends the command
//! quietly.

use std::io::{ErrorKind, Write as _};

use serde::Serialize;

use crate::failure::{Doing as _, Exit, Failure, Result};

/// For whom the output is.
#[derive(clap::ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Format {
    /// Aligned columns, for people
    #[default]
    Table,
    /// JSON, for programs
    Json,
}

/// Something that can be shown both ways. Its JSON mirrors the field names of the API.
pub(crate) trait View: Serialize {
    /// The columns' titles.
    const COLUMNS: &'static [&'static str];

    /// One line of a table.
    fn row(&self) -> Vec<String>;

    /// Everything, as label and value. A value may have several lines.
    fn details(&self) -> Vec<(&'static str, String)>;
}

impl Format {
    /// Shows one thing.
    pub(crate) fn one<V: View>(self, view: &V) -> Result<()> {
        match self {
            Self::Json => self.json(view),
            Self::Table => print(&details(&view.details())),
        }
    }

    /// Shows a list.
    pub(crate) fn list<V: View>(self, views: &[V]) -> Result<()> {
        match self {
            Self::Json => self.json(&views),
            Self::Table if views.is_empty() => {
                notice("(none)");
                Ok(())
            }
            Self::Table => print(&table(V::COLUMNS, &views.iter().map(View::row).collect::<Vec<_>>())),
        }
    }

    /// Prints a JSON document.
    pub(crate) fn json<S: Serialize + ?Sized>(self, value: &S) -> Result<()> {
        let text =
            serde_json::to_string_pretty(value).map_err(|error| Failure::from(anyhow::Error::from(error)))?;
        print(&(text + "\n"))
    }

    /// Prints one line of JSON, for streams.
    pub(crate) fn json_line<S: Serialize + ?Sized>(self, value: &S) -> Result<()> {
        let text = serde_json::to_string(value).map_err(|error| Failure::from(anyhow::Error::from(error)))?;
        print(&(text + "\n"))
    }
}

/// Writes to stdout at once.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Failure::silent(Exit::Ok)),
        result => result.doing("write to stdout"),
    }
}

/// Tells a person something that is not the output itself.
pub(crate) fn notice(text: impl std::fmt::Display) {
    eprintln!("{text}");
}

/// Lines whose columns start below each other. Widths are counted in characters.
pub(crate) fn table(titles: &[&str], rows: &[Vec<String>]) -> String {
    let titles: Vec<String> = titles.iter().map(|title| (*title).to_owned()).collect();
    let visible_row = |row: &Vec<String>| row.iter().map(|cell| visible(cell, ' ')).collect::<Vec<_>>();
    let rows: Vec<Vec<String>> = std::iter::once(titles).chain(rows.iter().map(visible_row)).collect();
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// The text without control characters, which could take over the terminal: much of what is shown was written by
/// tenants, or by whoever answers at their URLs.
pub(crate) fn visible(text: &str, line_break: char) -> String {
    let shown = |c: char| match c {
        '\n' => line_break,
        c if c.is_control() => char::REPLACEMENT_CHARACTER,
        c => c,
    };
    text.chars().filter(|c| *c != '\r').map(shown).collect()
}

/// Labels and values below each other; empty values are left out.
pub(crate) fn details(pairs: &[(&str, String)]) -> String {
    let shown = pairs.iter().filter(|(_, value)| !value.is_empty());
    let width = shown.clone().map(|(label, _)| label.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for (label, value) in shown {
        for (number, line) in visible(value, '\n').lines().enumerate() {
            let label = if number == 0 { label } else { "" };
            text.push_str(format!("{label:<width$}  {line}").trim_end());
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows =
            [vec!["ä".to_owned(), "one\ntwo\u{1b}[2J".to_owned()], vec!["longer".to_owned(), String::new()]];
        assert_eq!(table(&["ID", "NAME"], &rows), "ID      NAME\nä       one two\u{fffd}[2J\nlonger\n");
    }

    #[test]
    fn empty_details_are_left_out() {
        let pairs = [("Id", "a".to_owned()), ("Reason", String::new()), ("Headers", "x: 1\ny: 2".to_owned())];
        assert_eq!(details(&pairs), "Id       a\nHeaders  x: 1\n         y: 2\n");
    }
}
