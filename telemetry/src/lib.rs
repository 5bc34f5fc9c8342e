//! What the control plane and the agent show of themselves to whoever runs them. It knows nothing of deliveries: each
//! program says what its metrics, reasons and spans are.

pub mod admin;
pub mod log;
pub mod metrics;
mod process;
pub mod traces;
