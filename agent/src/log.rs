//! The agent's log, on standard error: for people or for programs.
//!
//! It is its owner's log, so it may name addresses. It never holds a body, a header's value or a key.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::{Log, LogFormat};

/// Starts logging, unless the process does so already.
pub(crate) fn start(log: &Log) {
    let filter = EnvFilter::new(&log.filter);
    let builder = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match log.format {
        LogFormat::Human => {
            builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).finish().try_init()
        }
        LogFormat::Json => builder.json().flatten_event(true).finish().try_init(),
    };
    if let Err(error) = started {
        tracing::debug!("logging is set up already: {error}");
    }
}
