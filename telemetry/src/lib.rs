//! What the control plane and the agent show of themselves to whoever runs them. It knows nothing of deliveries: each
//! program says what its metrics, reasons and spans are. And what keeps both running or ends them: supervised tasks, threads
//! for blocking work, and a limit of the stop.

pub mod admin;
pub mod blocking;
pub mod log;
pub mod metrics;
mod process;
pub mod tasks;
pub mod traces;
mod untrusted;
pub mod watchdog;

pub use self::untrusted::Untrusted;
