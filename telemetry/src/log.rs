//! Log lines on standard error, for people or for programs. They never hold a body, a header's value, a key or a token.
//!
//! Whatever a value holds, one event is one line: see `OneLine`. Text that somebody else chose is given to
//! the log as [`crate::Untrusted`].

use std::io::{self, IsTerminal as _, Write};
use std::sync::Arc;

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use crate::untrusted::is_harmless;

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Human,
    /// For programs: one JSON object a line.
    Json,
}

/// The filter in force, which can be changed while the program runs.
#[derive(Clone)]
pub struct Filter(Arc<reload::Handle<EnvFilter, Registry>>);

/// Writes each event as one line of bounded length: other control characters than the line's end are escaped, so that no
/// value forges a line or controls a terminal. A formatter's own colours stay as they are.
#[derive(Clone, Copy, Debug)]
struct OneLine<W> {
    to: W,
    colours: bool,
}

/// Bytes of a line. The rest is cut off.
const LONGEST: usize = 16 * 1024;

impl<W: Write> Write for OneLine<W> {
    /// The formatter writes each event whole, with its line's end.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        if is_one_line(event) {
            self.to.write_all(event)?;
        } else {
            let text = String::from_utf8_lossy(event);
            self.to.write_all(one_line(&text, self.colours).as_bytes())?;
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Whether an event can be written as it is: it is short, ends with its line's end, and is printable ASCII otherwise, as
/// nearly all are.
fn is_one_line(event: &[u8]) -> bool {
    let Some((b'\n', text)) = event.split_last() else { return false };
    text.len() <= LONGEST && text.iter().all(|byte| matches!(byte, b' '..=b'~'))
}

fn one_line(event: &str, colours: bool) -> String {
    let event = event.strip_suffix('\n').unwrap_or(event);
    let shown = &event[..event.floor_char_boundary(LONGEST)];
    let mut line = String::with_capacity(shown.len() + 1);
    for character in shown.chars() {
        if is_harmless(character) || colours && character == '\u{1b}' {
            line.push(character);
        } else {
            line.extend(character.escape_default());
        }
    }
    if shown.len() < event.len() {
        line.push_str("… (cut)");
    }
    line.push('\n');
    line
}

/// Why log lines are not written as asked.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Such as `info,postrider_agent::session=debug` is one.
    #[error("{0:?} is not a log filter, such as info or info,postrider_agent::session=debug: {1}")]
    Filter(String, #[source] tracing_subscriber::filter::ParseError),
    /// Somebody else in this process writes log lines.
    #[error("log lines are written already: {0}")]
    Started(#[source] tracing_subscriber::util::TryInitError),
    /// The log has ended.
    #[error("the log filter cannot be changed: {0}")]
    Gone(#[source] reload::Error),
}

/// Writes log lines to standard error from now on.
///
/// # Errors
/// When the filter is wrong, or somebody else in this process writes log lines already.
pub fn start(format: Format, filter: &str) -> Result<Filter, LogError> {
    let (filter, handle) = reload::Layer::new(parse(filter)?);
    let colours = format == Format::Human && io::stderr().is_terminal();
    let lines = fmt::layer().with_writer(move || OneLine { to: io::stderr(), colours });
    let lines = match format {
        Format::Human => lines.with_ansi(colours).boxed(),
        Format::Json => lines.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry().with(filter).with(lines).try_init().map_err(LogError::Started)?;
    Ok(Filter(Arc::new(handle)))
}

/// Whether that is a filter.
///
/// # Errors
/// [`LogError::Filter`] if it is not.
pub fn check(filter: &str) -> Result<(), LogError> {
    parse(filter).map(drop)
}

impl Filter {
    /// From now on that one is in force.
    ///
    /// # Errors
    /// When it is not a filter; the one before stays in force then.
    pub fn set(&self, filter: &str) -> Result<(), LogError> {
        self.0.reload(parse(filter)?).map_err(LogError::Gone)
    }

    /// The one in force, as text.
    #[must_use]
    pub fn get(&self) -> String {
        self.0.with_current(ToString::to_string).unwrap_or_default()
    }
}

fn parse(filter: &str) -> Result<EnvFilter, LogError> {
    EnvFilter::try_new(filter).map_err(|error| LogError::Filter(filter.to_owned(), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_event_is_one_line_whatever_its_values_hold() {
        let forged = "WARN session: gone: x\n2026-11-30T00:00:00Z  INFO app: all is well\r\u{1b}[31m\u{9b}\n";
        let line = one_line(forged, false);
        assert_eq!(line.matches('\n').count(), 1, "{line}");
        assert!(line.ends_with("\\u{1b}[31m\\u{9b}\n") && line.contains("x\\n2026"), "{line}");
        let coloured = one_line("\u{1b}[33mWARN\u{1b}[0m a\nb\n", true);
        assert_eq!(coloured, "\u{1b}[33mWARN\u{1b}[0m a\\nb\n");
        let long = one_line(&"é".repeat(4_000_000), false);
        assert!(long.len() < LONGEST + 20 && long.ends_with("… (cut)\n"), "{}", long.len());
    }

    #[test]
    fn what_is_written_goes_through_as_one_line() {
        let mut to = Vec::new();
        OneLine { to: &mut to, colours: false }.write_all(b"a\nb\xff\n").unwrap();
        assert_eq!(String::from_utf8(to).unwrap(), "a\\nb\u{fffd}\n");
        for (event, as_it_is) in
            [("a b~\n", true), ("a", false), ("a\nb\n", false), ("\u{1b}\n", false), ("é\n", false)]
        {
            assert_eq!(is_one_line(event.as_bytes()), as_it_is, "{event:?}");
            let mut to = Vec::new();
            OneLine { to: &mut to, colours: false }.write_all(event.as_bytes()).unwrap();
            assert_eq!(String::from_utf8(to).unwrap(), one_line(event, false), "{event:?}");
        }
        assert!(!is_one_line(b""));
        assert!(!is_one_line(format!("{}\n", "a".repeat(LONGEST + 1)).as_bytes()));
    }

    #[test]
    fn a_filter_is_changed_while_lines_are_written() {
        let filter = start(Format::Json, "info").unwrap();
        assert!(!tracing::enabled!(tracing::Level::DEBUG));
        filter.set("info,postrider_telemetry=debug").unwrap();
        assert!(tracing::enabled!(tracing::Level::DEBUG));
        assert_eq!(filter.get(), "postrider_telemetry=debug,info");
        let wrong = filter.set("loud=very").unwrap_err().to_string();
        assert!(wrong.starts_with("\"loud=very\" is not a log filter"), "{wrong}");
        assert!(tracing::enabled!(tracing::Level::DEBUG), "what was in force stays");
        assert!(matches!(start(Format::Human, "info"), Err(LogError::Started(_))));
    }
}
