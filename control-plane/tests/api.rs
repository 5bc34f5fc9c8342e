//! The API in one process, over a store that says what is asked of it, fails when it is told to, and keeps callers waiting.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is how a failure is reported")]
#![expect(clippy::needless_update, reason = "macros leave unset whatever a call does not name")]

#[path = "api/accepted.rs"]
mod accepted;

#[path = "api/admin.rs"]
mod admin;

#[path = "api/bootstrap.rs"]
mod bootstrap;

#[path = "api/clocks.rs"]
mod clocks;

#[path = "api/compute.rs"]
mod compute;

#[path = "api/faults.rs"]
mod faults;

#[path = "api/heads.rs"]
mod heads;

#[path = "api/memory.rs"]
mod memory;

#[path = "api/operations.rs"]
mod operations;

#[path = "api/pages.rs"]
mod pages;

#[path = "api/pools.rs"]
mod pools;

#[path = "api/quotas.rs"]
mod quotas;

#[path = "api/readers.rs"]
mod readers;

#[path = "api/reads.rs"]
mod reads;

#[path = "api/reveals.rs"]
mod reveals;

#[path = "api/rewraps.rs"]
mod rewraps;

#[path = "api/sharing.rs"]
mod sharing;

#[path = "api/streaming.rs"]
mod streaming;

#[path = "api/tampering.rs"]
mod tampering;

#[path = "api/trees.rs"]
mod trees;

#[path = "api/urls.rs"]
mod urls;

#[path = "api/watched.rs"]
mod watched;

#[path = "api/world.rs"]
mod world;
