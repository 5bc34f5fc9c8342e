//! The rules of Postrider, as pure functions and state machines.
//!
//! Nothing here does I/O, reads a clock or draws a random number: time and randomness come in as
//! arguments, decisions go out as values, and the caller stores or sends them. Every rule that a
//! user can observe lives here once, and is tested here without a socket or a sleep.
//!
//! In the order in which an event meets them: [`event`], [`pattern`] with [`filter`], [`subscription`], [`body`],
//! [`signing`], [`egress`], [`outcome`], [`delivery`] with [`retry`], and [`lane`].

pub mod access;
pub mod affinity;
pub mod audit;
pub mod body;
pub mod catalogue;
pub mod certificate;
pub mod cost;
pub mod delivery;
pub mod destination;
pub mod egress;
pub mod event;
pub mod explain;
pub mod fair;
pub mod filter;
pub mod frames;
pub mod headers;
pub mod holders;
pub mod id;
pub mod identity;
pub mod join;
pub mod json;
pub mod lane;
pub mod operation;
pub mod order;
pub mod outcome;
pub mod pace;
pub mod pattern;
pub mod pool;
pub mod quota;
pub mod retry;
pub mod schema;
pub mod sealed;
pub mod secret_file;
pub mod service_link;
pub mod shares;
pub mod signing;
pub mod subscription;
pub mod time;
pub mod token;
pub mod trace;
pub mod turns;
pub mod validation;
pub mod violation;
