//! The control plane: owns subscriptions, signing keys, events, schedule and history, and streams signed jobs to
//! agents.

pub mod clock;
pub mod emit;
pub mod lanes;
pub mod recent;
pub mod registry;
pub mod schedule;
pub mod settle;
pub mod store;
pub mod watch;
