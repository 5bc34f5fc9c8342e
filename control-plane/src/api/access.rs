//! Who may call what: one table of every call.
//!
//! [`super::gate`] knows the caller and asks this about the role. Whose things a caller sees is judged where a tenant is
//! looked up, in [`super::Api::tenant`]: to a confined caller other tenants do not exist.

use std::net::IpAddr;
use std::sync::Arc;

use postrider_domain::access::Permission::{self, Administer, Emit, Operate, Read, Reveal};
use postrider_domain::access::{Role, Scope};
use tonic::Status;

use self::Reach::{Everything, Own};
use super::status;
use crate::listen::Holder;
use crate::reads::{Name, Reader};
use crate::tokens::TokenStatus;

/// What a call is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// Things of a tenant: callers that are confined to one may make it.
    Own,
    /// Things of all: only unconfined callers may make it.
    Everything,
}

/// Every call of the API: what it takes, and what it is about. What is not here cannot be called.
pub(super) const CALLS: &[(&str, Permission, Reach)] = &[
    ("postrider.v1.AgentService/CreateJoinToken", Administer, Everything),
    ("postrider.v1.AgentService/DrainAgent", Operate, Everything),
    ("postrider.v1.AgentService/GetAgent", Read, Everything),
    ("postrider.v1.AgentService/ListAgents", Read, Everything),
    ("postrider.v1.AgentService/ListAuthorities", Administer, Everything),
    ("postrider.v1.AgentService/ListJoinTokens", Administer, Everything),
    ("postrider.v1.AgentService/RevokeAgent", Administer, Everything),
    ("postrider.v1.AgentService/RevokeJoinToken", Administer, Everything),
    ("postrider.v1.AgentService/RotateAuthority", Administer, Everything),
    ("postrider.v1.AgentService/UndrainAgent", Operate, Everything),
    ("postrider.v1.AuditService/ListAuditRecords", Administer, Own),
    ("postrider.v1.AuditService/VerifyAuditLog", Administer, Everything),
    ("postrider.v1.BackupService/Backup", Administer, Everything),
    ("postrider.v1.DeliveryService/CancelDelivery", Operate, Own),
    ("postrider.v1.DeliveryService/GetDelivery", Read, Own),
    ("postrider.v1.DeliveryService/ListDeliveries", Read, Own),
    ("postrider.v1.DeliveryService/RetryDelivery", Operate, Own),
    ("postrider.v1.DeliveryService/WatchDeliveries", Read, Own),
    ("postrider.v1.EventService/Emit", Emit, Own),
    ("postrider.v1.EventService/EmitBatch", Emit, Own),
    ("postrider.v1.EventService/EmitStream", Emit, Own),
    ("postrider.v1.EventService/ExplainMatch", Read, Own),
    ("postrider.v1.EventService/GetEvent", Read, Own),
    ("postrider.v1.EventService/ListEvents", Read, Own),
    ("postrider.v1.EventTypeService/CreateEventType", Operate, Own),
    ("postrider.v1.EventTypeService/DeleteEventType", Operate, Own),
    ("postrider.v1.EventTypeService/GetEventType", Read, Own),
    ("postrider.v1.EventTypeService/ListEventTypes", Read, Own),
    ("postrider.v1.EventTypeService/UpdateEventType", Operate, Own),
    ("postrider.v1.OperationService/CancelOperation", Operate, Own),
    ("postrider.v1.OperationService/GetOperation", Read, Own),
    ("postrider.v1.OperationService/ListOperations", Read, Own),
    ("postrider.v1.OperationService/PauseOperation", Operate, Own),
    ("postrider.v1.OperationService/ReplayDeliveries", Operate, Own),
    ("postrider.v1.OperationService/ResumeOperation", Operate, Own),
    ("postrider.v1.OperationService/RotateSigningKeys", Operate, Own),
    ("postrider.v1.PoolService/CreatePool", Administer, Everything),
    ("postrider.v1.PoolService/DeletePool", Administer, Everything),
    ("postrider.v1.PoolService/GetPool", Read, Everything),
    ("postrider.v1.PoolService/ListPools", Read, Everything),
    ("postrider.v1.PoolService/UpdatePool", Administer, Everything),
    ("postrider.v1.SecretService/GetSecretsStatus", Administer, Everything),
    ("postrider.v1.SecretService/RewrapSecrets", Administer, Everything),
    ("postrider.v1.SigningKeyService/ActivateSigningKey", Operate, Own),
    ("postrider.v1.SigningKeyService/CreateSigningKey", Operate, Own),
    ("postrider.v1.SigningKeyService/ListSigningKeys", Read, Own),
    ("postrider.v1.SigningKeyService/RevealSigningKey", Reveal, Own),
    ("postrider.v1.SigningKeyService/RevokeSigningKey", Operate, Own),
    ("postrider.v1.SigningKeyService/RotateSigningKey", Operate, Own),
    ("postrider.v1.SigningKeyService/TestSigningKey", Operate, Own),
    ("postrider.v1.SubscriptionService/CheckSubscription", Operate, Own),
    ("postrider.v1.SubscriptionService/CreateSubscription", Operate, Own),
    ("postrider.v1.SubscriptionService/DeleteSubscription", Operate, Own),
    ("postrider.v1.SubscriptionService/DiagnoseSubscription", Operate, Own),
    ("postrider.v1.SubscriptionService/GetSubscription", Read, Own),
    ("postrider.v1.SubscriptionService/ListSubscriptions", Read, Own),
    ("postrider.v1.SubscriptionService/PauseSubscription", Operate, Own),
    ("postrider.v1.SubscriptionService/ResumeSubscription", Operate, Own),
    ("postrider.v1.SubscriptionService/TestSubscription", Operate, Own),
    ("postrider.v1.SubscriptionService/UpdateSubscription", Operate, Own),
    ("postrider.v1.SubscriptionService/ValidateSubscription", Operate, Own),
    ("postrider.v1.SystemService/GetSystem", Administer, Everything),
    ("postrider.v1.TenantService/CreateTenant", Administer, Everything),
    ("postrider.v1.TenantService/DeleteTenant", Administer, Everything),
    ("postrider.v1.TenantService/GetTenant", Read, Own),
    ("postrider.v1.TenantService/ListTenants", Read, Own),
    ("postrider.v1.TenantService/UpdateTenant", Administer, Own),
    ("postrider.v1.TokenService/CreateToken", Administer, Own),
    ("postrider.v1.TokenService/ListTokens", Administer, Own),
    ("postrider.v1.TokenService/RevokeToken", Administer, Own),
];

/// How a call is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// The call waits for a read turn, and stops if its caller disconnects.
    Read,
    /// The call takes read turns itself, and stops if its caller disconnects.
    Waited,
    /// The call emits events.
    Emit,
    /// The call is completed even if its caller disconnects.
    Change,
}

/// How this call is carried out, which takes this permission.
pub(super) fn way(call: &str, permission: Permission) -> Way {
    let method = call.rsplit('/').next().unwrap_or_default();
    let reads = ["Explain", "Get", "List"].iter().any(|verb| method.starts_with(verb));
    match permission {
        _ if reads => Way::Read,
        _ if method.starts_with("Verify") || permission == Read => Way::Waited,
        Emit => Way::Emit,
        Read | Operate | Reveal | Administer => Way::Change,
    }
}

/// Who a call is from.
#[derive(Clone, Debug)]
pub struct Caller {
    /// For the audit log: the token's id.
    pub actor: Arc<str>,
    /// What it may do.
    pub role: Role,
    /// Whose things it sees.
    pub scope: Scope,
    /// Where it calls from.
    pub address: Option<IpAddr>,
    /// How its token stands, shared with all calls that are made with it.
    pub token_status: Arc<TokenStatus>,
}

impl Caller {
    /// Who sees nothing: what is not told who calls.
    #[must_use]
    pub fn nobody() -> Self {
        Self { scope: Scope::Nothing, role: Role::Viewer, ..Self::postrider() }
    }

    /// Whose share of connections it uses: its tenant's, or its own.
    #[must_use]
    pub fn holder(&self) -> Holder {
        match &self.scope {
            Scope::Tenant(tenant) => Holder { party: tenant.as_str().into(), member: self.actor.clone() },
            Scope::Everything | Scope::Nothing => Holder::alone(self.actor.clone()),
        }
    }

    /// Postrider itself.
    #[must_use]
    pub fn postrider() -> Self {
        Self {
            actor: "postrider".into(),
            role: Role::Admin,
            scope: Scope::Everything,
            address: None,
            token_status: Arc::default(),
        }
    }

    /// In whose share it reads.
    #[must_use]
    pub fn reader(&self) -> Reader {
        let member = Name::Token(self.actor.clone());
        let party = self.scope.tenant().map_or_else(|| member.clone(), |tenant| Name::Tenant(tenant.clone()));
        Reader { party, member }
    }
}

/// Applies the table: what the call takes, if the caller may make it.
pub(super) fn judge(caller: &Caller, call: &str) -> Result<Permission, Status> {
    let found = CALLS.binary_search_by_key(&call, |(name, ..)| name);
    let (_, permission, reach) = found.map(|at| CALLS[at]).map_err(|_| status::unknown_call(call))?;
    if !caller.role.permits(permission) {
        return Err(status::not_permitted(caller.role, call));
    }
    if reach == Everything && caller.scope != Scope::Everything {
        return Err(status::confined(call));
    }
    Ok(permission)
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use prost_types::FileDescriptorSet;
    use tonic::Code;

    use super::*;

    fn caller(role: Role, scope: Scope) -> Caller {
        Caller { role, scope, ..Caller::postrider() }
    }

    #[test]
    fn every_call_is_in_the_table_once() {
        let descriptors = FileDescriptorSet::decode(postrider_proto::DESCRIPTORS).unwrap();
        let api = descriptors.file.iter().filter(|file| file.package() == "postrider.v1");
        let mut calls: Vec<String> = api
            .flat_map(|file| &file.service)
            .flat_map(|service| {
                service
                    .method
                    .iter()
                    .map(|method| format!("postrider.v1.{}/{}", service.name(), method.name()))
            })
            .collect();
        calls.sort();
        let mut listed: Vec<&str> = CALLS.iter().map(|(call, ..)| *call).collect();
        assert!(listed.is_sorted(), "keep the table in order");
        listed.dedup();
        assert_eq!(listed, calls);
    }

    #[test]
    fn roles_and_confinement_decide_about_every_call() {
        let own = Scope::Tenant("acme".parse().unwrap());
        for (call, permission, reach) in CALLS {
            for role in Role::ALL {
                for scope in [Scope::Everything, own.clone()] {
                    let confined = *reach == Everything && scope == own;
                    let allowed = role.permits(*permission) && !confined;
                    let judged = judge(&caller(role, scope), call);
                    assert_eq!(judged.is_ok(), allowed, "{call} {role:?}");
                    assert!(judged.is_ok() || judged.unwrap_err().code() == Code::PermissionDenied);
                }
            }
        }
        assert!(judge(&caller(Role::Admin, Scope::Everything), "postrider.v1.EventService/Emot").is_err());
    }

    #[test]
    fn calls_that_read_take_turns_and_those_that_change_are_carried_through() {
        for (call, permission, _) in CALLS {
            let method = call.rsplit('/').next().unwrap();
            let expected = match (method, permission) {
                ("WatchDeliveries" | "VerifyAuditLog", _) => Way::Waited,
                (_, Emit) => Way::Emit,
                _ if ["Explain", "Get", "List"].iter().any(|verb| method.starts_with(verb)) => Way::Read,
                _ => Way::Change,
            };
            assert_eq!(way(call, *permission), expected, "{call}");
        }
    }

    /// The table as `docs/operating.md` has it: a line for each kind of call.
    fn documented() -> String {
        let mut kinds: Vec<((Permission, Reach), Vec<String>)> = Vec::new();
        for (call, permission, reach) in CALLS {
            let name = format!("`{}`", call.rsplit('/').next().unwrap());
            match kinds.iter_mut().find(|(kind, _)| *kind == (*permission, *reach)) {
                Some((_, names)) => names.push(name),
                None => kinds.push(((*permission, *reach), vec![name])),
            }
        }
        let order = [Read, Emit, Operate, Reveal, Administer];
        kinds.sort_by_key(|((permission, reach), _)| {
            (order.iter().position(|one| one == permission), *reach == Everything)
        });
        let mut text = "| calls | admin | operator | emitter | viewer | confined to a tenant |\n|---|---|---|---|---|---|\n"
            .to_owned();
        for ((permission, reach), names) in kinds {
            let may = |role: Role| if role.permits(permission) { "yes" } else { "–" };
            let roles = Role::ALL.map(may).join(" | ");
            let confined = if reach == Own { "its own" } else { "–" };
            text += &format!("| {} | {roles} | {confined} |\n", names.join(", "));
        }
        text
    }

    #[test]
    fn the_documentation_has_this_table() {
        let page = include_str!("../../../docs/operating.md");
        let between =
            page.split_once("<!-- calls -->\n").and_then(|(_, rest)| rest.split_once("<!-- /calls -->"));
        let expected = documented();
        assert_eq!(between.map(|(table, _)| table), Some(expected.as_str()), "it should be:\n{expected}");
    }

    #[test]
    fn changes_and_secrets_take_more_than_reading() {
        for (call, permission, _) in CALLS {
            let method = call.rsplit('/').next().unwrap();
            let reads = ["Explain", "Get", "List", "Watch"].iter().any(|verb| method.starts_with(verb));
            let about_trust =
                ["Audit", "Token", "Authorit", "Secret", "System"].iter().any(|word| call.contains(word));
            assert_eq!(*permission == Read, reads && !about_trust, "{call}");
        }
    }
}
