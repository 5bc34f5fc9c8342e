//! Log lines on standard error, for people or for programs. They never hold a body, a header's value, a key or a token.

use std::io::IsTerminal as _;
use std::sync::Arc;

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

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
    let lines = fmt::layer().with_writer(std::io::stderr);
    let lines = match format {
        Format::Human => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
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
