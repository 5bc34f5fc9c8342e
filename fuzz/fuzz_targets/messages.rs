//! Messages of strangers: any bytes as any request, and the readings that turn what was sent into what is meant.
//!
//! The first byte chooses the message, the others are it. New messages go to the end, so that seeds keep their meaning.

#![no_main]

use libfuzzer_sys::fuzz_target;
use postrider_domain::retry::MAX_RETRY_AFTER;
use postrider_domain::time::Timestamp;
use postrider_proto::{agent, attempt, delivery, store, subscription, time, v1};
use prost::Message;

/// A message that nothing but the wire format limits.
type Decode = fn(&[u8]);

macro_rules! messages {
    ($($module:ident: $($name:ident)+;)+) => { &[$($(decode::<$module::$name>),+),+] };
}

const MESSAGES: &[Decode] = messages! {
    v1: ListAgentsRequest GetAgentRequest RevokeAgentRequest CreateJoinTokenRequest ListJoinTokensRequest
        RevokeJoinTokenRequest ListAuthoritiesRequest RotateAuthorityRequest ListAuditRecordsRequest
        VerifyAuditLogRequest GetDeliveryRequest ListDeliveriesRequest RetryDeliveryRequest CancelDeliveryRequest
        WatchDeliveriesRequest CreateEventTypeRequest GetEventTypeRequest ListEventTypesRequest
        UpdateEventTypeRequest DeleteEventTypeRequest EmitRequest EmitBatchRequest EmitStreamRequest GetEventRequest
        ListEventsRequest ExplainMatchRequest ListSigningKeysRequest RotateSigningKeyRequest RevokeSigningKeyRequest
        CreateSigningKeyRequest ActivateSigningKeyRequest TestSigningKeyRequest
        RevealSigningKeyRequest CreateSubscriptionRequest GetSubscriptionRequest ListSubscriptionsRequest
        UpdateSubscriptionRequest PauseSubscriptionRequest ResumeSubscriptionRequest DeleteSubscriptionRequest
        TestSubscriptionRequest CreateTenantRequest GetTenantRequest ListTenantsRequest UpdateTenantRequest
        DeleteTenantRequest CreateTokenRequest ListTokensRequest RevokeTokenRequest
        ReplayDeliveriesRequest RotateSigningKeysRequest GetOperationRequest ListOperationsRequest
        PauseOperationRequest ResumeOperationRequest CancelOperationRequest;
    agent: EnrollRequest RenewRequest AgentMessage ControlMessage;
    v1: GetSecretsStatusRequest RewrapSecretsRequest GetSystemRequest;
    v1: CreatePoolRequest GetPoolRequest ListPoolsRequest UpdatePoolRequest DeletePoolRequest DrainAgentRequest
        UndrainAgentRequest DiagnoseSubscriptionRequest ValidateSubscriptionRequest BackupRequest BackupResponse;
};

/// Messages that have a reading.
const READINGS: &[Decode] = &[read_subscription, read_attempt, read_delivery, read_time, read_duration];

fuzz_target!(|data: &[u8]| {
    let Some((&choice, bytes)) = data.split_first() else { return };
    if let Some(decode) = READINGS.iter().chain(MESSAGES).nth(choice.into()) {
        decode(bytes);
    }
});

/// What is decoded takes about the room of its bytes, and is the same when it is sent on.
fn decode<M: Message + Default>(bytes: &[u8]) {
    let Ok(message) = M::decode(bytes) else { return };
    let length = message.encoded_len();
    let again = M::decode(message.encode_to_vec().as_slice()).expect("what is encoded is decoded");
    assert_eq!(again.encoded_len(), length);
}

fn read_subscription(bytes: &[u8]) {
    let Ok(mut wire) = v1::Subscription::decode(bytes) else { return };
    // What the server sets.
    "sub_01h455vb4pex5vsknk084sn02q".clone_into(&mut wire.id);
    "acme".clone_into(&mut wire.tenant);
    match subscription::read(&wire) {
        Ok(read) => {
            assert_eq!(subscription::read(&subscription::write(&read)).as_ref(), Ok(&read));
            assert!(read.retry.violations().is_empty());
            assert_eq!(read.headers.len(), wire.headers.len());
            assert_eq!(read.patterns.len(), wire.event_types.len());
            usable(&read.retry);
        }
        Err(violations) => {
            assert!(!violations.is_empty());
            assert!(violations.iter().all(|violation| !violation.field.is_empty()));
            let shown = format!("{violations:?}");
            let elsewhere = without_header_values(wire.clone());
            for value in wire.headers.values().filter(|value| value.len() >= 24) {
                let known = elsewhere.contains(&value.to_lowercase());
                assert!(known || !shown.contains(value.as_str()), "a header's value is shown");
            }
        }
    }
}

/// All text of a subscription except its headers' values, in lower case. Errors may quote any of it.
fn without_header_values(mut wire: v1::Subscription) -> String {
    wire.headers.values_mut().for_each(String::clear);
    format!("{wire:?} {}", String::from_utf8_lossy(&wire.encode_to_vec())).to_lowercase()
}

/// A policy that is accepted never panics and never waits for nothing.
fn usable(policy: &postrider_domain::retry::Policy) {
    let now = Timestamp::from_millis(1_770_028_200_000);
    for failures in [0, 1, 2, 50, 51, u32::MAX] {
        for random in [0.0, 0.999] {
            let due = policy.next(failures, now, now, random);
            assert!(due.is_none_or(|due| due > now));
        }
        assert!(policy.next_after(MAX_RETRY_AFTER, failures, now, now).is_none_or(|due| due > now));
    }
}

fn read_attempt(bytes: &[u8]) {
    let Some(read) = v1::Attempt::decode(bytes).ok().and_then(attempt::read) else { return };
    assert_eq!(attempt::read(attempt::write(&read)), Some(read));
}

fn read_delivery(bytes: &[u8]) {
    let Ok(record) = store::DeliveryRecord::decode(bytes) else { return };
    let Some(read) = delivery::read_record(7, &record) else { return };
    assert_eq!(delivery::read_record(7, &delivery::write_record(&read, None)), Some(read));
}

fn read_time(bytes: &[u8]) {
    let Ok(wire) = prost_types::Timestamp::decode(bytes) else { return };
    let Ok(read) = time::read("time", &wire) else { return };
    assert_eq!(time::read("time", &time::write(read)), Ok(read));
    assert_eq!(read.as_seconds(), wire.seconds);
    assert_eq!(Timestamp::parse(&read.to_string()), Ok(read), "what is shown is another time");
}

fn read_duration(bytes: &[u8]) {
    let Ok(wire) = prost_types::Duration::decode(bytes) else { return };
    let Ok(read) = time::read_duration("duration", &wire) else { return };
    assert_eq!(time::write_duration(read), wire);
    let _saturates = Timestamp::MAX + read;
}
