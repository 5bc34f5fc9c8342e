//! The only place where a `tonic::Status` is made: code, sentence, and `google.rpc` details.

use std::str::FromStr;
use std::time::Duration;

use postrider_domain::access::Role;
use postrider_domain::id::{PoolName, TenantId};
use postrider_domain::token::TokenError;
use postrider_domain::violation::Violation;
use postrider_proto::{time, v1};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::compute::Refused;
use crate::emit::EmitError;
use crate::judging::JudgeError;
use crate::reads::Busy;
use crate::schedule::Refusal;
use crate::schemas::SchemaError;
use crate::secrets::SecretsError;
use crate::store::backup::BackupError;
use crate::store::{Conflict, StoreError};
use crate::watchers::TooMany;

const DOMAIN: &str = "postrider";
/// When to come back after the accept queue was full.
const OVERLOADED_RETRY: Duration = Duration::from_millis(250);
/// When to come back after the store was away.
const STORE_RETRY: Duration = Duration::from_secs(2);
/// When to come back after too many streams watched.
const WATCHERS_RETRY: Duration = Duration::from_secs(5);

/// When to come back after too many enrollments.
const ENROLLMENT_RETRY: Duration = Duration::from_secs(10);

fn status(code: Code, reason: &str, message: impl Into<String>, mut details: ErrorDetails) -> Status {
    details.set_error_info(reason, DOMAIN, std::collections::HashMap::new());
    Status::with_error_details(code, message, details)
}

/// Fields are wrong.
pub(crate) fn invalid(violations: &[Violation]) -> Status {
    let mut details = ErrorDetails::new();
    for violation in violations {
        details.add_bad_request_violation(&violation.field, &violation.problem);
    }
    let sentences: Vec<String> = violations.iter().map(ToString::to_string).collect();
    status(Code::InvalidArgument, "INVALID_ARGUMENT", sentences.join("; "), details)
}

/// One field is wrong.
pub(crate) fn invalid_field(field: &str, problem: impl Into<String>) -> Status {
    invalid(&[Violation::new(field, problem)])
}

/// Reads a field, or says what is wrong with it.
pub(super) fn parse<T: FromStr<Err: ToString>>(field: &str, text: &str) -> Result<T, Status> {
    text.parse().map_err(|error: T::Err| invalid_field(field, error.to_string()))
}

/// There is no such thing.
pub(super) fn not_found(kind: &str, id: &str) -> Status {
    let mut details = ErrorDetails::new();
    details.set_resource_info(kind, id, "", "");
    status(
        Code::NotFound,
        "NOT_FOUND",
        format!("there is no {kind} '{id}'; it may have been deleted, or never existed"),
        details,
    )
}

/// There is such a thing already.
pub(super) fn exists(kind: &str, id: &str) -> Status {
    let mut details = ErrorDetails::new();
    details.set_resource_info(kind, id, "", "");
    status(
        Code::AlreadyExists,
        "ALREADY_EXISTS",
        format!("there is a {kind} '{id}' already; choose another name, or update that one"),
        details,
    )
}

/// A request id was used for something else.
pub(super) fn request_id_reused() -> Status {
    status(
        Code::AlreadyExists,
        "REQUEST_ID_REUSED",
        "request_id was used for another request in the last 24 hours; use a new one for each request",
        ErrorDetails::new(),
    )
}

/// It cannot be done as things stand.
pub(super) fn precondition(reason: &str, message: impl Into<String>) -> Status {
    let message = message.into();
    let mut details = ErrorDetails::new();
    details.add_precondition_failure_violation(reason, "", &message);
    status(Code::FailedPrecondition, reason, message, details)
}

/// The pool is not there for the tenant: whether it exists is nobody's business who may not use it. `advice` is for
/// callers that see all pools.
pub(super) fn pool_not_available(tenant: &TenantId, pool: &PoolName, advice: Option<&str>) -> Status {
    let next = advice
        .unwrap_or("name another pool, or ask the operator of Postrider which pools the tenant may use");
    let message = format!("the pool {pool} is not available to the tenant {tenant}: {next}");
    precondition("POOL_NOT_AVAILABLE", message)
}

/// Who would be asked is not there now.
pub(super) fn unreachable_now(reason: &str, message: impl Into<String>) -> Status {
    status(Code::Unavailable, reason, message, ErrorDetails::new())
}

/// It was asked for too often.
pub(super) fn too_often(reason: &str, message: impl Into<String>, wait: Duration) -> Status {
    let message = format!("{}; come back in {} s", message.into(), wait.as_secs() + 1);
    status(Code::ResourceExhausted, reason, message, ErrorDetails::with_retry_info(Some(wait)))
}

/// There is no turn for a read now.
pub(super) fn busy(busy: Busy) -> Status {
    let (reason, message) = match busy {
        Busy::Token => (
            "TOKEN_READS_EXCEEDED",
            "too many reads of this token wait for their turn; send fewer at a time, and repeat this one later",
        ),
        Busy::Tenant => (
            "TENANT_READS_EXCEEDED",
            "too many reads of this tenant's tokens wait for their turn; send fewer at a time, and repeat this one later",
        ),
        Busy::All => ("READS_OVERLOADED", "too many reads wait for their turn; repeat this one later"),
        Busy::Stopping => return stopping(),
    };
    status(Code::ResourceExhausted, reason, message, ErrorDetails::with_retry_info(Some(OVERLOADED_RETRY)))
}

/// Too many streams watch.
pub(super) fn too_many_watchers(refused: TooMany) -> Status {
    let (reason, whose, max) = match refused {
        TooMany::OfToken(max) => ("TOKEN_WATCHERS_EXCEEDED", "this token has", max),
        TooMany::OfTenant(max) => ("TENANT_WATCHERS_EXCEEDED", "this tenant's tokens have", max),
    };
    let message =
        format!("{whose} {max} streams that watch deliveries, and may have no more; end one of them");
    status(Code::ResourceExhausted, reason, message, ErrorDetails::with_retry_info(Some(WATCHERS_RETRY)))
}

/// The tenant is being deleted.
pub(super) fn deleting(tenant: &TenantId) -> Status {
    let message = format!(
        "the tenant '{tenant}' is being deleted; `postrider operations list --tenant {tenant}` shows its progress"
    );
    precondition("TENANT_DELETING", message)
}

/// The tenant would use more than it may.
pub(super) fn quota_exceeded(
    reason: &str,
    tenant: &TenantId,
    message: &str,
    retry: Option<Duration>,
) -> Status {
    let mut details = ErrorDetails::new();
    details.add_quota_failure_violation(format!("tenants/{tenant}"), message);
    if let Some(retry) = retry {
        details.set_retry_info(Some(retry));
    }
    status(Code::ResourceExhausted, reason, message, details)
}

/// Nobody said who calls.
pub(super) fn no_token() -> Status {
    unauthenticated(
        "TOKEN_MISSING",
        "a token is needed: send it as metadata 'authorization: Bearer prt_…'; an admin makes one with `postrider \
         tokens create`",
    )
}

/// It is not clear who calls.
pub(super) fn several_tokens() -> Status {
    unauthenticated(
        "TOKEN_MALFORMED",
        "the metadata 'authorization' was sent more than once; send it once, with one token",
    )
}

/// What was sent is no token.
pub(super) fn malformed_token(error: &TokenError) -> Status {
    unauthenticated("TOKEN_MALFORMED", format!("what was sent as the token {error}"))
}

/// The token is not known, or not any more: which of these is nobody's business.
pub(super) fn unknown_token() -> Status {
    unauthenticated("TOKEN_UNKNOWN", "the token is unknown, revoked or expired; ask an admin for another one")
}

fn unauthenticated(reason: &str, message: impl Into<String>) -> Status {
    status(Code::Unauthenticated, reason, message, ErrorDetails::new())
}

/// Too many calls without a valid token have come from one address.
pub(super) fn too_many_failures(wait: Duration) -> Status {
    let details = ErrorDetails::with_retry_info(Some(wait));
    let message = "too many calls without a valid token came from this address; retry later";
    status(Code::ResourceExhausted, "TOO_MANY_FAILURES", message, details)
}

/// The caller's role does not permit the call.
pub(super) fn not_permitted(role: Role, call: &str) -> Status {
    let message = format!("the role {} does not permit {call}; use a token of another role", role.as_str());
    status(Code::PermissionDenied, "ROLE_NOT_PERMITTED", message, ErrorDetails::new())
}

/// The call is about all tenants, the caller is confined to one.
pub(super) fn confined(call: &str) -> Status {
    let message = format!("{call} is for tokens that are not confined to a tenant; this one is");
    status(Code::PermissionDenied, "TOKEN_CONFINED", message, ErrorDetails::new())
}

/// The caller wants to give away more than it has.
pub(super) fn more_than_own() -> Status {
    status(
        Code::PermissionDenied,
        "MORE_THAN_OWN",
        "a token confined to a tenant makes tokens for that tenant only; set tenant",
        ErrorDetails::new(),
    )
}

/// The caller's token has ceased to be valid while the call streamed.
pub(super) fn token_ended() -> Status {
    unauthenticated("TOKEN_ENDED", "the token was revoked or has expired")
}

/// The join token does not make an agent: why not is nobody's business.
pub(crate) fn join_token_unusable() -> Status {
    unauthenticated(
        "JOIN_TOKEN_UNUSABLE",
        "the join token is unknown, revoked, expired or used up; create another one: `postrider agents \
         join-tokens create`",
    )
}

/// Only an agent may call this.
pub(crate) fn no_certificate() -> Status {
    unauthenticated("CERTIFICATE_MISSING", "an agent's certificate is needed: enroll with a join token first")
}

/// The agent is revoked, or forgotten.
pub(crate) fn agent_revoked() -> Status {
    status(
        Code::PermissionDenied,
        "AGENT_REVOKED",
        "the agent is revoked; to run it again, remove its identity and enroll with a new join token",
        ErrorDetails::new(),
    )
}

/// The agent has shown a key that a newer one has replaced.
pub(crate) fn agent_key_replaced() -> Status {
    status(
        Code::PermissionDenied,
        "AGENT_KEY_REPLACED",
        "this certificate's key was replaced by a newer one, so another process uses the same identity; remove this \
         copy, or revoke the agent and enroll again with a new join token",
        ErrorDetails::new(),
    )
}

/// The agent has shown a key whose successor came into use moments ago.
pub(crate) fn agent_key_just_replaced() -> Status {
    let message = "a newer key of this agent has just come into use; connect with the newest certificate";
    status(Code::Unavailable, "AGENT_KEY_JUST_REPLACED", message, ErrorDetails::new())
}

/// Too many have wanted to enroll or renew from one address.
pub(crate) fn too_many_enrollments() -> Status {
    let details = ErrorDetails::with_retry_info(Some(ENROLLMENT_RETRY));
    let message = "too many agents enroll from this address at once; come back later";
    status(Code::ResourceExhausted, "TOO_MANY_ENROLLMENTS", message, details)
}

/// Too much is being sent at once.
pub(crate) fn too_much_at_once() -> Status {
    let details = ErrorDetails::with_retry_info(Some(OVERLOADED_RETRY));
    let message = "too many large messages are being sent at once; send fewer at a time, or come back later";
    status(Code::ResourceExhausted, "TOO_MUCH_AT_ONCE", message, details)
}

/// A caller has as many connections as it may while others need theirs.
pub(crate) fn too_many_connections() -> Status {
    let details = ErrorDetails::with_retry_info(Some(OVERLOADED_RETRY));
    let message = "your share of the server's connections is in use; reuse the connections you have, close those you do not need, or ask the operator to raise max_api_connections";
    status(Code::ResourceExhausted, "TOO_MANY_CONNECTIONS", message, details)
}

/// A token, or its tenant, has as many calls under way as it may.
pub(crate) fn too_many_calls(most: usize) -> Status {
    let details = ErrorDetails::with_retry_info(Some(OVERLOADED_RETRY));
    let message = format!(
        "too many concurrent calls of this token or its tenant: a token may have {most}, and all tokens share the server's capacity; wait for calls to end, end streams you do not need, or ask the operator to raise max_token_calls"
    );
    status(Code::ResourceExhausted, "TOO_MANY_CALLS", message, details)
}

/// No certificate could be made.
pub(crate) fn not_issued() -> Status {
    let details = ErrorDetails::with_retry_info(Some(STORE_RETRY));
    status(
        Code::Unavailable,
        "NOT_ISSUED",
        "no certificate could be issued; the control plane's log says why",
        details,
    )
}

/// The call has taken too long.
pub(super) fn too_late(deadline: Duration) -> Status {
    let message = format!(
        "there is no answer within {deadline:?}; what was asked for may still be done: look before you repeat it, or \
         repeat it with the same request_id or idempotency_key"
    );
    status(Code::DeadlineExceeded, "DEADLINE_EXCEEDED", message, ErrorDetails::new())
}

/// The message has more bytes than the call takes; `problem` says how many, and the limit.
pub(super) fn too_large(problem: &str) -> Status {
    let message =
        format!("{problem}; send less at once, or a reference to large content instead of the content");
    status(Code::OutOfRange, "MESSAGE_TOO_LARGE", message, ErrorDetails::new())
}

/// A stream could not be read on.
pub(super) fn unread(status: &Status) -> Status {
    match status.code() {
        Code::OutOfRange => too_large(status.message()),
        code => Status::new(code, status.message()),
    }
}

/// Something that must not happen has happened.
pub(super) fn fault() -> Status {
    let message = "the control plane has failed to carry out the call; its log says how";
    status(Code::Internal, "FAULT", message, ErrorDetails::new())
}

/// There is no such call.
pub(super) fn unknown_call(call: &str) -> Status {
    status(Code::Unimplemented, "UNKNOWN_CALL", format!("there is no {call}"), ErrorDetails::new())
}

/// The program is stopping.
pub(super) fn stopping() -> Status {
    let details = ErrorDetails::with_retry_info(Some(STORE_RETRY));
    status(Code::Unavailable, "STOPPING", "the control plane is stopping; repeat the call", details)
}

/// The store failed.
pub(crate) fn store(error: &StoreError) -> Status {
    if let StoreError::Deleting(tenant) = error {
        return deleting(tenant);
    }
    tracing::error!(%error, "a call failed in the store");
    match error {
        StoreError::Deleting(tenant) => deleting(tenant),
        StoreError::Full(_) => {
            let details = ErrorDetails::with_retry_info(Some(STORE_RETRY));
            status(Code::ResourceExhausted, "STORE_FULL", error.to_string(), details)
        }
        StoreError::Unavailable(_) | StoreError::Busy(_) => {
            let details = ErrorDetails::with_retry_info(Some(STORE_RETRY));
            status(
                Code::Unavailable,
                "STORE_UNAVAILABLE",
                "the store is not available, and it is not known whether the change was stored; read it again, or repeat the \
                 call",
                details,
            )
        }
        StoreError::InUse(..) => status(Code::Internal, "INTERNAL", error.to_string(), ErrorDetails::new()),
        StoreError::Damaged { .. } | StoreError::Lost(_) | StoreError::Version { .. } => status(
            Code::DataLoss,
            "STORE_DAMAGED",
            "the store is damaged; the control plane's log says where",
            ErrorDetails::new(),
        ),
    }
}

/// A backup cannot go on.
pub(super) fn backup(error: &BackupError) -> Status {
    let details = || ErrorDetails::with_retry_info(Some(STORE_RETRY));
    match error {
        BackupError::Store(error) => store(error),
        BackupError::TooSlow { .. } => {
            status(Code::ResourceExhausted, "BACKUP_TOO_SLOW", error.to_string(), ErrorDetails::new())
        }
        BackupError::WriteFailed => {
            status(Code::Unavailable, "STORE_UNAVAILABLE", error.to_string(), details())
        }
        BackupError::Closed => stopping(),
    }
}

/// Secrets cannot be sealed anew.
pub(super) fn secrets(error: &SecretsError) -> Status {
    match error {
        SecretsError::Store(error) => store(error),
        SecretsError::Kek(_) => {
            tracing::warn!(%error, "failed to reach the key-encryption key");
            status(Code::Unavailable, "KEK_UNAVAILABLE", error.to_string(), ErrorDetails::new())
        }
        SecretsError::KekMissing { .. }
        | SecretsError::Canary { .. }
        | SecretsError::Shut { .. }
        | SecretsError::Senseless { .. } => {
            tracing::error!(%error, "failed to decrypt secrets");
            status(Code::DataLoss, "SECRETS_SHUT", error.to_string(), ErrorDetails::new())
        }
    }
}

/// An event was not accepted.
pub(super) fn emit(tenant: &TenantId, error: &EmitError) -> Status {
    match error {
        EmitError::Overloaded => {
            let details = ErrorDetails::with_retry_info(Some(OVERLOADED_RETRY));
            status(Code::ResourceExhausted, "OVERLOADED", error.to_string(), details)
        }
        EmitError::ShareUsed => {
            let details = ErrorDetails::with_retry_info(Some(OVERLOADED_RETRY));
            status(Code::ResourceExhausted, "TENANT_OVERLOADED", error.to_string(), details)
        }
        EmitError::TooFast(wait) => {
            quota_exceeded("TENANT_RATE_EXCEEDED", tenant, &error.to_string(), Some(enough(*wait)))
        }
        EmitError::TooManyDeliveries(wait) => {
            quota_exceeded("TENANT_DELIVERY_RATE_EXCEEDED", tenant, &error.to_string(), Some(enough(*wait)))
        }
        EmitError::TooWide(_) => {
            let next =
                "give the subscriptions narrower event types or filters, or spread them over several tenants";
            precondition("EVENT_FAN_OUT_EXCEEDED", format!("{error}; {next}"))
        }
        EmitError::Conflict(conflict) => refused_by_store(tenant, *conflict),
        EmitError::Store(error) => store(error),
        EmitError::Stopping => stopping(),
    }
}

/// Events were not judged by schemas and filters, so none of them was accepted.
pub(super) fn not_judged(tenant: &TenantId, error: &JudgeError) -> Status {
    let retry = || ErrorDetails::with_retry_info(Some(OVERLOADED_RETRY));
    match error {
        JudgeError::TooCostly => {
            let message = format!("{error}, with less data; nothing was accepted");
            status(Code::ResourceExhausted, "CALL_TOO_COSTLY", message, retry())
        }
        JudgeError::Refused(refused) | JudgeError::Schema(SchemaError::Refused(refused)) => {
            not_computed(tenant, *refused)
        }
        JudgeError::Schema(SchemaError::Store(error)) => store(error),
        JudgeError::Schema(SchemaError::TooLong) => {
            status(Code::ResourceExhausted, "SCHEMA_TOO_COSTLY", error.to_string(), retry())
        }
    }
}

/// Schemas and filters were not asked, since there was no room for the work.
pub(super) fn not_computed(tenant: &TenantId, refused: Refused) -> Status {
    match refused {
        Refused::Busy => {
            let message = format!("{refused}; emit fewer at once, or come back later");
            quota_exceeded("TENANT_COMPUTE_BUSY", tenant, &message, Some(OVERLOADED_RETRY))
        }
        Refused::Failed => fault(),
    }
}

/// Rounds up to whole milliseconds, so that a retry after the delay is not refused again.
fn enough(wait: Duration) -> Duration {
    Duration::from_millis(1 + u64::try_from(wait.as_millis()).unwrap_or(u64::MAX - 1))
}

fn refused_by_store(tenant: &TenantId, conflict: Conflict) -> Status {
    match conflict {
        Conflict::IdempotencyKey => status(
            Code::AlreadyExists,
            "IDEMPOTENCY_KEY_REUSED",
            "event.idempotency_key was used for an event with other content in the last 24 hours; use a new key for each event",
            ErrorDetails::new(),
        ),
        Conflict::EventId => status(
            Code::AlreadyExists,
            "EVENT_ID_REUSED",
            "there is an event with this event.id and other content; use a new id for each event",
            ErrorDetails::new(),
        ),
        Conflict::StorageUsed { stored, max } => {
            let message = format!(
                "the tenant stores {stored} bytes of events and may store {max}; retention frees some in time, or ask \
                 the operator for more"
            );
            quota_exceeded("TENANT_STORAGE_EXCEEDED", tenant, &message, None)
        }
        Conflict::TenantDeleting => deleting(tenant),
    }
}

/// A delivery was not changed.
pub(super) fn refusal(refusal: Refusal, id: &str) -> Status {
    match refusal {
        Refusal::NotFound => not_found("delivery", id),
        Refusal::UnderWay => precondition("ATTEMPT_UNDER_WAY", refusal.to_string()),
        Refusal::Ended => precondition("DELIVERY_ENDED", refusal.to_string()),
        Refusal::PoolNotAllowed => precondition("POOL_NOT_AVAILABLE", refusal.to_string()),
        Refusal::SubscriptionDeleted => precondition("SUBSCRIPTION_DELETED", refusal.to_string()),
        Refusal::Busy => {
            let details = ErrorDetails::with_retry_info(Some(OVERLOADED_RETRY));
            status(Code::Unavailable, "BUSY", refusal.to_string(), details)
        }
    }
}

/// A refused event of a batch or a stream: the same as the status of a call of its own.
pub(super) fn as_emit_error(status: &Status) -> v1::EmitError {
    let details = status.get_error_details();
    let violation = details.bad_request().and_then(|bad| bad.field_violations.first());
    v1::EmitError {
        code: status.code() as i32,
        reason: details.error_info().map(|info| info.reason.clone()).unwrap_or_default(),
        message: status.message().to_owned(),
        field: violation.map(|violation| violation.field.clone()).unwrap_or_default(),
        retry_delay: details.retry_info().and_then(|info| info.retry_delay).map(time::write_duration),
    }
}
