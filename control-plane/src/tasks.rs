//! The names of the tasks that the control plane lives by: in the log, in errors, and in the label of a metric.

/// Answers the admin port.
pub const ADMIN_PORT: &str = "admin_port";
/// Accepts connections to the agents' port.
pub const AGENT_CONNECTIONS: &str = "agent_connections";
/// Serves the agents' port.
pub const AGENT_SERVER: &str = "agent_server";
/// Accepts connections to the API's port.
pub const API_CONNECTIONS: &str = "api_connections";
/// Serves the API's port.
pub const API_SERVER: &str = "api_server";
/// Exports the head of the audit log.
pub const AUDIT_HEAD: &str = "audit_head";
/// Streams the records of the audit log.
pub const AUDIT_STREAM: &str = "audit_stream";
/// Looks after authorities, join tokens and identities.
pub const CERTIFICATES: &str = "certificates";
/// Writes accepted events.
pub const COMMITTER: &str = "committer";
/// Disables and enables subscriptions.
pub const DISABLER: &str = "disabler";
/// Writes how signing keys were used.
pub const KEY_USES: &str = "key_uses";
/// Asks the scheduler and the store for signs of life.
pub const LIVENESS: &str = "liveness";
/// Emits operational events.
pub const OPERATIONAL_EVENTS: &str = "operational_events";
/// Carries out operations, such as a replay.
pub const OPERATIONS: &str = "operations";
/// Lets things age out.
pub const RETENTION: &str = "retention";
/// Moves secrets to a new data key.
pub const REWRAPPER: &str = "rewrapper";
/// Owns the schedule of the lanes.
pub const SCHEDULER: &str = "scheduler";
/// Writes the new states of deliveries.
pub const SETTLER: &str = "settler";
/// Says when the store cannot go on in this process.
pub const STORE: &str = "store";
/// Follows the API's TLS files.
pub const TLS_FILES: &str = "tls_files";
/// Writes token uses and ends expired tokens.
pub const TOKEN_USES: &str = "token_uses";
/// Looks at sizes and at certificates' ends, for metrics.
pub const UPKEEP: &str = "upkeep";

/// All of them.
pub const ALL: [&str; 22] = [
    ADMIN_PORT,
    AGENT_CONNECTIONS,
    AGENT_SERVER,
    API_CONNECTIONS,
    API_SERVER,
    AUDIT_HEAD,
    AUDIT_STREAM,
    CERTIFICATES,
    COMMITTER,
    DISABLER,
    KEY_USES,
    LIVENESS,
    OPERATIONAL_EVENTS,
    OPERATIONS,
    RETENTION,
    REWRAPPER,
    SCHEDULER,
    SETTLER,
    STORE,
    TLS_FILES,
    TOKEN_USES,
    UPKEEP,
];
