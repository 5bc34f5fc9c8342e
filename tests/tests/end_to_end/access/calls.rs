//! The table: every call, who may make it, what it is about, and what the audit log is told. It is written by hand, from
//! what the documentation promises, and knows nothing of the table in the control plane.

#![expect(clippy::needless_update, reason = "the macro leaves unset whatever a call does not name")]

use bytes::Bytes;
use postrider_proto::v1::{self, Role};
use postrider_tests::api::event;
use prost::Message as _;
use tonic::Code;

use super::things::Things;

/// A call.
pub(super) struct Call {
    /// Its name.
    pub(super) name: &'static str,
    /// The roles that may make it.
    pub(super) roles: &'static [Role],
    /// What it is about.
    pub(super) about: About,
    /// How it ends for those who may.
    pub(super) code: Code,
    /// Its message.
    pub(super) message: fn(&Things) -> Bytes,
    /// What its audit record names as its target. `None`: there is no record.
    pub(super) audited: Option<fn(&Things) -> String>,
}

/// What a call is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum About {
    /// A tenant that it names: to those who are confined to another, there is none.
    Tenant,
    /// Something within a tenant that it names.
    Within,
    /// Whatever its caller sees: others' things are not among it.
    Visible,
    /// Things of all: not for those who are confined.
    Everything,
}

use About::{Everything, Tenant, Visible, Within};

const ADMIN: &[Role] = &[Role::Admin];
const READ: &[Role] = &[Role::Admin, Role::Operator, Role::Viewer];
const OPERATE: &[Role] = &[Role::Admin, Role::Operator];
const EMIT: &[Role] = &[Role::Admin, Role::Operator, Role::Emitter];

/// What requests with an id have as theirs.
pub(super) const REQUEST_ID: &str = "the-request";

macro_rules! message {
    ($kind:ident { $($field:ident: $value:expr),* $(,)? }) => {
        v1::$kind { $($field: $value.into(),)* ..Default::default() }.encode_to_vec().into()
    };
}

macro_rules! call {
    ($name:literal, $roles:ident, $about:ident, |$t:ident| $kind:ident { $($field:ident: $value:expr),* $(,)? }) => {
        Call {
            name: concat!("postrider.v1.", $name),
            roles: $roles,
            about: $about,
            code: Code::Ok,
            message: |$t| message!($kind { $($field: $value),* }),
            audited: None,
        }
    };
}

impl Call {
    /// It leaves a record about this.
    fn audits(self, target: fn(&Things) -> String) -> Self {
        Self { audited: Some(target), ..self }
    }

    fn ends(self, code: Code) -> Self {
        Self { code, ..self }
    }

    /// What is after the service's name.
    pub(super) fn method(&self) -> &'static str {
        self.name.rsplit('/').next().unwrap_or_default()
    }
}

/// Every call of the API, some in several ways.
pub(super) fn all() -> Vec<Call> {
    [
        tenants(),
        event_types(),
        subscriptions(),
        looks(),
        signing_keys(),
        events(),
        deliveries(),
        operations(),
        pools(),
        others(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn tenants() -> Vec<Call> {
    vec![
        call!("TenantService/CreateTenant", ADMIN, Everything, |t| CreateTenantRequest {
            tenant: v1::Tenant { id: t.new_tenant.clone(), ..Default::default() },
        })
        .audits(|t| t.new_tenant.clone()),
        call!("TenantService/GetTenant", READ, Tenant, |t| GetTenantRequest { tenant: t.tenant.as_str() }),
        call!("TenantService/ListTenants", READ, Visible, |_t| ListTenantsRequest {}),
        call!("TenantService/UpdateTenant", ADMIN, Tenant, |t| UpdateTenantRequest {
            tenant: v1::Tenant { id: t.tenant.clone(), display_name: "New".into(), ..Default::default() },
        })
        .audits(|t| t.tenant.clone()),
        call!("TenantService/DeleteTenant", ADMIN, Everything, |t| DeleteTenantRequest {
            tenant: t.empty_tenant.as_str(),
        })
        .audits(|t| t.empty_tenant.clone()),
    ]
}

fn event_types() -> Vec<Call> {
    vec![
        call!("EventTypeService/CreateEventType", OPERATE, Tenant, |t| CreateEventTypeRequest {
            event_type: v1::EventType {
                tenant: t.tenant.clone(),
                name: "a.new".into(),
                ..Default::default()
            },
        })
        .audits(|_| "a.new".into()),
        call!("EventTypeService/GetEventType", READ, Within, |t| GetEventTypeRequest {
            tenant: t.tenant.as_str(),
            name: t.event_type.as_str(),
        }),
        call!("EventTypeService/ListEventTypes", READ, Tenant, |t| ListEventTypesRequest {
            tenant: t.tenant.as_str(),
        }),
        call!("EventTypeService/UpdateEventType", OPERATE, Within, |t| UpdateEventTypeRequest {
            event_type: v1::EventType {
                tenant: t.tenant.clone(),
                name: t.event_type.clone(),
                description: "Done.".into(),
                ..Default::default()
            },
        })
        .audits(|t| t.event_type.clone()),
        call!("EventTypeService/DeleteEventType", OPERATE, Within, |t| DeleteEventTypeRequest {
            tenant: t.tenant.as_str(),
            name: t.event_type.as_str(),
        })
        .audits(|t| t.event_type.clone()),
    ]
}

fn subscriptions() -> Vec<Call> {
    let subscription: fn(&Things) -> String = |t| t.subscription.clone();
    vec![
        call!("SubscriptionService/CreateSubscription", OPERATE, Tenant, |t| CreateSubscriptionRequest {
            subscription: v1::Subscription {
                tenant: t.tenant.clone(),
                url: "https://hooks.example.com/".into(),
                event_types: vec!["*".into()],
                ..Default::default()
            },
            request_id: REQUEST_ID,
        })
        .audits(|_| "sub_".into()),
        call!("SubscriptionService/CheckSubscription", OPERATE, Tenant, |t| CheckSubscriptionRequest {
            subscription: v1::Subscription {
                tenant: t.tenant.clone(),
                url: "https://hooks.example.com/".into(),
                event_types: vec!["*".into()],
                ..Default::default()
            },
        }),
        call!("SubscriptionService/GetSubscription", READ, Within, |t| GetSubscriptionRequest {
            tenant: t.tenant.as_str(),
            subscription: t.subscription.as_str(),
        }),
        call!("SubscriptionService/ListSubscriptions", READ, Tenant, |t| ListSubscriptionsRequest {
            tenant: t.tenant.as_str(),
        }),
        call!("SubscriptionService/UpdateSubscription", OPERATE, Within, |t| UpdateSubscriptionRequest {
            subscription: v1::Subscription {
                tenant: t.tenant.clone(),
                id: t.subscription.clone(),
                url: "https://hooks.example.com/new".into(),
                ..Default::default()
            },
            update_mask: prost_types::FieldMask { paths: vec!["url".into()] },
        })
        .audits(subscription),
        call!("SubscriptionService/PauseSubscription", OPERATE, Within, |t| PauseSubscriptionRequest {
            tenant: t.tenant.as_str(),
            subscription: t.subscription.as_str(),
        })
        .audits(subscription),
        // Of one that is not paused: nothing changes, and nothing is told.
        call!("SubscriptionService/ResumeSubscription", OPERATE, Within, |t| ResumeSubscriptionRequest {
            tenant: t.tenant.as_str(),
            subscription: t.subscription.as_str(),
        }),
        call!("SubscriptionService/DeleteSubscription", OPERATE, Within, |t| DeleteSubscriptionRequest {
            tenant: t.tenant.as_str(),
            subscription: t.subscription.as_str(),
        })
        .audits(subscription),
        call!("SubscriptionService/TestSubscription", OPERATE, Within, |t| TestSubscriptionRequest {
            tenant: t.tenant.as_str(),
            subscription: t.subscription.as_str(),
            request_id: REQUEST_ID,
        })
        // Nobody is there who could send it.
        .ends(Code::Unavailable),
    ]
}

fn looks() -> Vec<Call> {
    vec![
        // Nobody is there who could look, and nobody wants the handshake.
        call!("SubscriptionService/DiagnoseSubscription", OPERATE, Within, |t| DiagnoseSubscriptionRequest {
            tenant: t.tenant.as_str(),
            subscription: t.subscription.as_str(),
        })
        .ends(Code::Unavailable),
        call!("SubscriptionService/ValidateSubscription", OPERATE, Within, |t| ValidateSubscriptionRequest {
            tenant: t.tenant.as_str(),
            subscription: t.subscription.as_str(),
        })
        .ends(Code::FailedPrecondition),
    ]
}

fn signing_keys() -> Vec<Call> {
    let subscription: fn(&Things) -> String = |t| t.subscription.clone();
    vec![
        call!("SigningKeyService/ListSigningKeys", READ, Within, |t| ListSigningKeysRequest {
            tenant: t.tenant.as_str(),
            subscription: t.subscription.as_str(),
        }),
        call!("SigningKeyService/RotateSigningKey", OPERATE, Within, |t| RotateSigningKeyRequest {
            tenant: t.tenant.as_str(),
            subscription: t.subscription.as_str(),
            request_id: REQUEST_ID,
        })
        .audits(subscription),
        call!("SigningKeyService/CreateSigningKey", OPERATE, Within, |t| CreateSigningKeyRequest {
            tenant: t.tenant.as_str(),
            subscription: t.subscription.as_str(),
            scheme: "v1a",
            request_id: REQUEST_ID,
        })
        .audits(subscription),
        call!("SigningKeyService/ActivateSigningKey", OPERATE, Within, |t| ActivateSigningKeyRequest {
            tenant: t.tenant.as_str(),
            subscription: t.subscription.as_str(),
            signing_key: t.pending_key.as_str(),
            request_id: REQUEST_ID,
        })
        .audits(subscription),
        call!("SigningKeyService/TestSigningKey", OPERATE, Within, |t| TestSigningKeyRequest {
            tenant: t.tenant.as_str(),
            subscription: t.subscription.as_str(),
            signing_key: t.key.as_str(),
            request_id: REQUEST_ID,
        })
        // Nobody is there who could send it.
        .ends(Code::Unavailable),
        call!("SigningKeyService/RevokeSigningKey", OPERATE, Within, |t| RevokeSigningKeyRequest {
            tenant: t.tenant.as_str(),
            subscription: t.subscription.as_str(),
            signing_key: t.key.as_str(),
        })
        .audits(subscription),
        call!("SigningKeyService/RevealSigningKey", ADMIN, Within, |t| RevealSigningKeyRequest {
            tenant: t.tenant.as_str(),
            subscription: t.subscription.as_str(),
        })
        .audits(subscription),
    ]
}

fn events() -> Vec<Call> {
    vec![
        call!("EventService/Emit", EMIT, Tenant, |t| EmitRequest {
            tenant: t.tenant.as_str(),
            event: event("a.b", "{}"),
        }),
        call!("EventService/EmitBatch", EMIT, Tenant, |t| EmitBatchRequest {
            tenant: t.tenant.as_str(),
            events: vec![event("a.b", "{}")],
        }),
        // A stream tells of each event apart: the tests look into its answers.
        call!("EventService/EmitStream", EMIT, Visible, |t| EmitStreamRequest {
            reference: 7_u64,
            tenant: t.tenant.as_str(),
            event: event("a.b", "{}"),
        }),
        call!("EventService/ExplainMatch", READ, Within, |t| ExplainMatchRequest {
            tenant: t.tenant.as_str(),
            subject: v1::explain_match_request::Subject::Event(t.event.clone()),
        }),
        call!("EventService/GetEvent", READ, Within, |t| GetEventRequest {
            tenant: t.tenant.as_str(),
            event: t.event.as_str(),
        }),
        call!("EventService/GetEvent", READ, Within, |t| GetEventRequest {
            tenant: t.tenant.as_str(),
            event: t.named_event.as_str(),
        }),
        call!("EventService/ListEvents", READ, Tenant, |t| ListEventsRequest { tenant: t.tenant.as_str() }),
    ]
}

fn deliveries() -> Vec<Call> {
    let delivery: fn(&Things) -> String = |t| t.delivery.clone();
    vec![
        call!("DeliveryService/GetDelivery", READ, Within, |t| GetDeliveryRequest {
            tenant: t.tenant.as_str(),
            delivery: t.delivery.as_str(),
        }),
        call!("DeliveryService/ListDeliveries", READ, Tenant, |t| ListDeliveriesRequest {
            tenant: t.tenant.as_str(),
        }),
        call!("DeliveryService/ListDeliveries", READ, Within, |t| ListDeliveriesRequest {
            tenant: t.tenant.as_str(),
            subscription: t.subscription.as_str(),
        }),
        call!("DeliveryService/ListDeliveries", READ, Within, |t| ListDeliveriesRequest {
            tenant: t.tenant.as_str(),
            event: t.named_event.as_str(),
        }),
        call!("DeliveryService/RetryDelivery", OPERATE, Within, |t| RetryDeliveryRequest {
            tenant: t.tenant.as_str(),
            delivery: t.delivery.as_str(),
            request_id: REQUEST_ID,
        })
        .audits(delivery),
        call!("DeliveryService/CancelDelivery", OPERATE, Within, |t| CancelDeliveryRequest {
            tenant: t.tenant.as_str(),
            delivery: t.delivery.as_str(),
        })
        .audits(delivery),
        call!("DeliveryService/WatchDeliveries", READ, Within, |t| WatchDeliveriesRequest {
            tenant: t.tenant.as_str(),
            event: t.ended_event.as_str(),
        }),
        call!("DeliveryService/WatchDeliveries", READ, Within, |t| WatchDeliveriesRequest {
            tenant: t.tenant.as_str(),
            subscription: t.subscription.as_str(),
            event: t.ended_event.as_str(),
        }),
    ]
}

fn operations() -> Vec<Call> {
    let operation: fn(&Things) -> String = |t| t.operation.clone();
    vec![
        call!("OperationService/ReplayDeliveries", OPERATE, Tenant, |t| ReplayDeliveriesRequest {
            tenant: t.tenant.as_str(),
            request_id: REQUEST_ID,
        })
        .audits(|t| t.tenant.clone()),
        call!("OperationService/ReplayDeliveries", OPERATE, Within, |t| ReplayDeliveriesRequest {
            tenant: t.tenant.as_str(),
            replay: v1::Replay { subscription: t.subscription.clone(), ..Default::default() },
            request_id: REQUEST_ID,
        })
        .audits(|t| t.subscription.clone()),
        call!("OperationService/RotateSigningKeys", OPERATE, Tenant, |t| RotateSigningKeysRequest {
            tenant: t.tenant.as_str(),
            request_id: REQUEST_ID,
        })
        .audits(|t| t.tenant.clone()),
        call!("OperationService/GetOperation", READ, Within, |t| GetOperationRequest {
            tenant: t.tenant.as_str(),
            operation: t.operation.as_str(),
        }),
        call!("OperationService/ListOperations", READ, Tenant, |t| ListOperationsRequest {
            tenant: t.tenant.as_str(),
        }),
        call!("OperationService/PauseOperation", OPERATE, Within, |t| PauseOperationRequest {
            tenant: t.tenant.as_str(),
            operation: t.operation.as_str(),
        })
        .audits(operation),
        call!("OperationService/ResumeOperation", OPERATE, Within, |t| ResumeOperationRequest {
            tenant: t.tenant.as_str(),
            operation: t.operation.as_str(),
        })
        .audits(operation),
        call!("OperationService/CancelOperation", OPERATE, Within, |t| CancelOperationRequest {
            tenant: t.tenant.as_str(),
            operation: t.operation.as_str(),
        })
        .audits(operation),
    ]
}

fn pools() -> Vec<Call> {
    let pool: fn(&Things) -> String = |t| t.pool.clone();
    vec![
        call!("PoolService/CreatePool", ADMIN, Everything, |t| CreatePoolRequest {
            pool: v1::Pool { name: t.new_tenant.clone(), ..Default::default() },
        })
        .audits(|t| t.new_tenant.clone()),
        call!("PoolService/GetPool", READ, Everything, |t| GetPoolRequest { pool: t.pool.as_str() }),
        call!("PoolService/ListPools", READ, Everything, |_t| ListPoolsRequest {}),
        call!("PoolService/UpdatePool", ADMIN, Everything, |t| UpdatePoolRequest {
            pool: v1::Pool { name: t.pool.clone(), description: "Ours.".into(), ..Default::default() },
        })
        .audits(pool),
        call!("PoolService/DeletePool", ADMIN, Everything, |t| DeletePoolRequest { pool: t.pool.as_str() })
            .audits(pool),
    ]
}

fn others() -> Vec<Call> {
    vec![
        call!("AgentService/ListAgents", READ, Everything, |_t| ListAgentsRequest {}),
        call!("AgentService/GetAgent", READ, Everything, |_t| GetAgentRequest { agent: "nobody" })
            .ends(Code::NotFound),
        call!("AgentService/RevokeAgent", ADMIN, Everything, |t| RevokeAgentRequest {
            agent: t.agent.as_str()
        })
        .audits(|t| t.agent.clone()),
        // It has enrolled and never connected.
        call!("AgentService/DrainAgent", OPERATE, Everything, |t| DrainAgentRequest {
            agent: t.agent.as_str()
        })
        .ends(Code::FailedPrecondition),
        call!("AgentService/UndrainAgent", OPERATE, Everything, |t| UndrainAgentRequest {
            agent: t.agent.as_str()
        }),
        call!("AgentService/CreateJoinToken", ADMIN, Everything, |_t| CreateJoinTokenRequest { pool: "a" })
            .audits(|_| "tok_".into()),
        call!("AgentService/ListJoinTokens", ADMIN, Everything, |_t| ListJoinTokensRequest {}),
        call!("AgentService/RevokeJoinToken", ADMIN, Everything, |t| RevokeJoinTokenRequest {
            join_token: t.join_token.as_str(),
        })
        .audits(|t| t.join_token.clone()),
        call!("AgentService/ListAuthorities", ADMIN, Everything, |_t| ListAuthoritiesRequest {}),
        call!("AgentService/RotateAuthority", ADMIN, Everything, |_t| RotateAuthorityRequest {})
            .audits(|_| String::new()),
        call!("SecretService/GetSecretsStatus", ADMIN, Everything, |_t| GetSecretsStatusRequest {}),
        call!("SecretService/RewrapSecrets", ADMIN, Everything, |_t| RewrapSecretsRequest {})
            .audits(|_| String::new()),
        call!("SystemService/GetSystem", ADMIN, Everything, |_t| GetSystemRequest {}),
        call!("BackupService/Backup", ADMIN, Everything, |_t| BackupRequest {}).audits(|_| String::new()),
        call!("TokenService/CreateToken", ADMIN, Tenant, |t| CreateTokenRequest {
            role: Role::Viewer,
            tenant: t.tenant.as_str(),
        })
        .audits(|_| "tok_".into()),
        call!("TokenService/ListTokens", ADMIN, Visible, |_t| ListTokensRequest {}),
        call!("TokenService/RevokeToken", ADMIN, Within, |t| RevokeTokenRequest { token: t.token.as_str() })
            .audits(|t| t.token.clone()),
        call!("AuditService/ListAuditRecords", ADMIN, Tenant, |t| ListAuditRecordsRequest {
            tenant: t.tenant.as_str(),
        }),
        call!("AuditService/ListAuditRecords", ADMIN, Visible, |_t| ListAuditRecordsRequest {}),
        call!("AuditService/VerifyAuditLog", ADMIN, Everything, |_t| VerifyAuditLogRequest {}),
    ]
}
