//! The agent against servers of every kind, on loopback: endpoints that behave and that do not, and a control
//! plane that is told by each test what to say. No test sleeps; each waits for what it asks for.

#![expect(clippy::unwrap_used, reason = "a test may fail anywhere")]

mod authority;
mod connect_proxy;
mod control_plane;
mod credentials;
mod dns;
mod early;
mod endpoint;
mod faults;
mod frames;
mod hostile;
mod http;
mod http2;
mod identity;
mod looks;
mod memory;
mod names;
mod namespace;
mod process;
mod proxied;
mod proxy;
mod rebinding;
mod renewal;
mod repeats;
mod secrecy;
mod secured;
mod session;
mod sessions;
mod shortage;
mod tls;
mod tls_control_plane;
mod vectors;
