//! The agent against servers of every kind, on loopback: endpoints that behave and that do not, and a control
//! plane that is told by each test what to say. No test sleeps; each waits for what it asks for.

#![expect(clippy::unwrap_used, reason = "a test may fail anywhere")]

mod control_plane;
mod dns;
mod endpoint;
mod hostile;
mod http;
mod names;
mod process;
mod session;
mod sessions;
mod tls;
