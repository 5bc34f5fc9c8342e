//! The only place where a `tonic::Status` is made: code, sentence, and `google.rpc` details.

use std::str::FromStr;
use std::time::Duration;

use postrider_domain::access::Role;
use postrider_domain::id::TenantId;
use postrider_domain::token::TokenError;
use postrider_domain::violation::Violation;
use postrider_proto::{time, v1};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::emit::EmitError;
use crate::schedule::Refusal;
use crate::secrets::SecretsError;
use crate::store::backup::BackupError;
use crate::store::{Conflict, StoreError};

const DOMAIN: &str = "postrider";
/// When to come back after the accept queue was full.
const OVERLOADED_RETRY: Duration = Duration::from_millis(250);
/// When to come back after the store was away.
const STORE_RETRY: Duration = Duration::from_secs(2);

/// When to come back after too many enrolments.
const ENROLMENT_RETRY: Duration = Duration::from_secs(10);

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
        format!("there is no {kind} «{id}»; it may have been deleted, or never existed"),
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
        format!("there is a {kind} «{id}» already; choose another name, or update that one"),
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

/// Who would be asked is not there now.
pub(super) fn unreachable_now(reason: &str, message: impl Into<String>) -> Status {
    status(Code::Unavailable, reason, message, ErrorDetails::new())
}

/// It was asked for too often.
pub(super) fn too_often(reason: &str, message: impl Into<String>, wait: Duration) -> Status {
    let message = format!("{}; come back in {} s", message.into(), wait.as_secs() + 1);
    status(Code::ResourceExhausted, reason, message, ErrorDetails::with_retry_info(Some(wait)))
}

/// The tenant is being deleted.
pub(super) fn deleting(tenant: &TenantId) -> Status {
    let message = format!(
        "the tenant «{tenant}» is being deleted; `postrider operations list --tenant {tenant}` shows how far that is"
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
        "a token is needed: send it as metadata «authorization: Bearer prt_…»; an admin makes one with `postrider \
         tokens create`",
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
    let message = "too many calls without a valid token have come from this address; come back later";
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
        "the join token is unknown, revoked, expired or used up; get another join string: `postrider agents \
         enroll-token create`",
    )
}

/// Only an agent may call this.
pub(crate) fn no_certificate() -> Status {
    unauthenticated("CERTIFICATE_MISSING", "an agent's certificate is needed: enrol with a join string first")
}

/// The agent is revoked, or forgotten.
pub(crate) fn agent_revoked() -> Status {
    status(
        Code::PermissionDenied,
        "AGENT_REVOKED",
        "the agent is revoked; to run it again, remove its identity and enrol with a new join string",
        ErrorDetails::new(),
    )
}

/// Too many have wanted to enrol or renew from one address.
pub(crate) fn too_many_enrolments() -> Status {
    let details = ErrorDetails::with_retry_info(Some(ENROLMENT_RETRY));
    let message = "too many agents enrol from this address at once; come back later";
    status(Code::ResourceExhausted, "TOO_MANY_ENROLMENTS", message, details)
}

/// Too much is being sent at once.
pub(crate) fn too_much_at_once() -> Status {
    let details = ErrorDetails::with_retry_info(Some(OVERLOADED_RETRY));
    let message = "too many large messages are being sent at once; send fewer at a time, or come back later";
    status(Code::ResourceExhausted, "TOO_MUCH_AT_ONCE", message, details)
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
        StoreError::Unavailable(_) => {
            let details = ErrorDetails::with_retry_info(Some(STORE_RETRY));
            status(
                Code::Unavailable,
                "STORE_UNAVAILABLE",
                "the store is not available; nothing was changed for sure: repeat the call",
                details,
            )
        }
        StoreError::InUse(..) => status(Code::Internal, "INTERNAL", error.to_string(), ErrorDetails::new()),
        StoreError::Damaged { .. } | StoreError::Version { .. } => status(
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
            tracing::warn!(%error, "a key-encryption key could not be asked");
            status(Code::Unavailable, "KEK_UNAVAILABLE", error.to_string(), ErrorDetails::new())
        }
        SecretsError::KekMissing { .. }
        | SecretsError::Canary { .. }
        | SecretsError::Shut { .. }
        | SecretsError::Senseless { .. } => {
            tracing::error!(%error, "secrets do not open");
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
            // Whole milliseconds, rounded up: what is told must be enough.
            let wait = Duration::from_millis(1 + u64::try_from(wait.as_millis()).unwrap_or(u64::MAX - 1));
            quota_exceeded("TENANT_RATE_EXCEEDED", tenant, &error.to_string(), Some(wait))
        }
        EmitError::Conflict(conflict) => refused_by_store(tenant, *conflict),
        EmitError::Store(error) => store(error),
        EmitError::Stopping => stopping(),
    }
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
