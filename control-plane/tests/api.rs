//! The API in one process, over a store that says what is asked of it, fails when it is told to, and keeps callers waiting.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is how a mistake is told")]
#![expect(clippy::needless_update, reason = "macros leave unset whatever a call does not name")]

#[path = "api/admin.rs"]
mod admin;

#[path = "api/faults.rs"]
mod faults;

#[path = "api/reads.rs"]
mod reads;
#[path = "api/rewraps.rs"]
mod rewraps;

#[path = "api/sharing.rs"]
mod sharing;

#[path = "api/tampering.rs"]
mod tampering;

#[path = "api/watched.rs"]
mod watched;

#[path = "api/world.rs"]
mod world;
