//! The names of the tasks that the agent lives by: in the log, in errors, and in the label of a metric.

/// Answers the admin port.
pub const ADMIN_PORT: &str = "admin_port";
/// Enrolls, renews the certificate, and starts streams.
pub const IDENTITY: &str = "identity";
/// A stream to the control plane, with its jobs and outcomes.
pub const STREAM: &str = "stream";
/// Keeps the transport up to date: idle connections, this machine's addresses, credentials on disk.
pub const TRANSPORT: &str = "transport";

/// All of them.
pub const ALL: [&str; 4] = [ADMIN_PORT, IDENTITY, STREAM, TRANSPORT];
