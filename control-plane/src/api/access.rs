//! Who may call what: one table of every call, and the gate in front of the API that applies it.
//!
//! The gate knows the caller and judges the role. Whose things a caller sees is judged where a tenant is looked up, in
//! [`super::Api::tenant`]: to a confined caller other tenants do not exist.

use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use http::{Extensions, HeaderMap, header};
use postrider_domain::access::Permission::{self, Administer, Emit, Operate, Read, Reveal};
use postrider_domain::access::{Role, Scope};
use postrider_domain::token::{Kind, Token, TokenError};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use self::Reach::{Everything, Own};
use super::status;
use crate::clock::Clock;
use crate::listen::Peer;
use crate::tokens::Tokens;

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
    ("postrider.v1.AgentService/GetAgent", Read, Everything),
    ("postrider.v1.AgentService/ListAgents", Read, Everything),
    ("postrider.v1.AgentService/ListAuthorities", Administer, Everything),
    ("postrider.v1.AgentService/ListJoinTokens", Administer, Everything),
    ("postrider.v1.AgentService/RevokeAgent", Administer, Everything),
    ("postrider.v1.AgentService/RevokeJoinToken", Administer, Everything),
    ("postrider.v1.AgentService/RotateAuthority", Administer, Everything),
    ("postrider.v1.AuditService/ListAuditRecords", Administer, Own),
    ("postrider.v1.AuditService/VerifyAuditLog", Administer, Everything),
    ("postrider.v1.DeliveryService/CancelDelivery", Operate, Own),
    ("postrider.v1.DeliveryService/GetDelivery", Read, Own),
    ("postrider.v1.DeliveryService/ListDeliveries", Read, Own),
    ("postrider.v1.DeliveryService/RetryDelivery", Operate, Own),
    ("postrider.v1.DeliveryService/WatchDeliveries", Read, Own),
    ("postrider.v1.EventService/Emit", Emit, Own),
    ("postrider.v1.EventService/EmitBatch", Emit, Own),
    ("postrider.v1.EventService/EmitStream", Emit, Own),
    ("postrider.v1.EventService/GetEvent", Read, Own),
    ("postrider.v1.EventService/ListEvents", Read, Own),
    ("postrider.v1.EventTypeService/CreateEventType", Operate, Own),
    ("postrider.v1.EventTypeService/DeleteEventType", Operate, Own),
    ("postrider.v1.EventTypeService/GetEventType", Read, Own),
    ("postrider.v1.EventTypeService/ListEventTypes", Read, Own),
    ("postrider.v1.EventTypeService/UpdateEventType", Operate, Own),
    ("postrider.v1.SigningKeyService/ListSigningKeys", Read, Own),
    ("postrider.v1.SigningKeyService/RevealSigningKey", Reveal, Own),
    ("postrider.v1.SigningKeyService/RevokeSigningKey", Operate, Own),
    ("postrider.v1.SigningKeyService/RotateSigningKey", Operate, Own),
    ("postrider.v1.SubscriptionService/CreateSubscription", Operate, Own),
    ("postrider.v1.SubscriptionService/DeleteSubscription", Operate, Own),
    ("postrider.v1.SubscriptionService/GetSubscription", Read, Own),
    ("postrider.v1.SubscriptionService/ListSubscriptions", Read, Own),
    ("postrider.v1.SubscriptionService/PauseSubscription", Operate, Own),
    ("postrider.v1.SubscriptionService/ResumeSubscription", Operate, Own),
    ("postrider.v1.SubscriptionService/TestSubscription", Operate, Own),
    ("postrider.v1.SubscriptionService/UpdateSubscription", Operate, Own),
    ("postrider.v1.TenantService/CreateTenant", Administer, Everything),
    ("postrider.v1.TenantService/DeleteTenant", Administer, Everything),
    ("postrider.v1.TenantService/GetTenant", Read, Own),
    ("postrider.v1.TenantService/ListTenants", Read, Own),
    ("postrider.v1.TenantService/UpdateTenant", Administer, Own),
    ("postrider.v1.TokenService/CreateToken", Administer, Own),
    ("postrider.v1.TokenService/ListTokens", Administer, Own),
    ("postrider.v1.TokenService/RevokeToken", Administer, Own),
];

/// What anybody may ask: whether the server is well, and what it serves.
const OPEN: [&str; 2] = ["grpc.health.", "grpc.reflection."];
/// Failed authentications of one address in a second, and in a burst: more are answered without being looked at.
const FAILURES_PER_SECOND: u32 = 5;
const FAILURES_BURST: u32 = 50;

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
    /// Cancelled when it may not any more: streams end then.
    pub ended: CancellationToken,
}

impl Caller {
    /// Who sees nothing: what is not told who calls.
    #[must_use]
    pub fn nobody() -> Self {
        Self { scope: Scope::Nothing, role: Role::Viewer, ..Self::postrider() }
    }

    /// Postrider itself.
    #[must_use]
    pub fn postrider() -> Self {
        Self {
            actor: "postrider".into(),
            role: Role::Admin,
            scope: Scope::Everything,
            address: None,
            ended: CancellationToken::new(),
        }
    }
}

/// Stands in front of the API.
#[derive(Clone)]
pub struct Gate {
    /// Without tokens everybody is let in: for development, on loopback only.
    tokens: Option<Arc<Tokens>>,
    clock: Clock,
    failures: Arc<DefaultKeyedRateLimiter<IpAddr>>,
}

impl Gate {
    /// A gate that knows these tokens. `None` lets everybody in.
    #[must_use]
    pub fn new(tokens: Option<Arc<Tokens>>, clock: Clock) -> Self {
        let (rate, burst) = (FAILURES_PER_SECOND, FAILURES_BURST);
        let quota = |rate: u32, burst: u32| {
            Some(Quota::per_second(rate.try_into().ok()?).allow_burst(burst.try_into().ok()?))
        };
        let quota = quota(rate, burst).expect("neither is zero");
        Self { tokens, clock, failures: Arc::new(RateLimiter::keyed(quota)) }
    }

    /// Judges a call by its path, such as `/postrider.v1.EventService/Emit`. `None` for what is open to anybody.
    fn admit(
        &self,
        path: &str,
        headers: &HeaderMap,
        extensions: &Extensions,
    ) -> Result<Option<Caller>, Status> {
        let call = path.trim_start_matches('/');
        if OPEN.iter().any(|open| call.starts_with(open)) {
            return Ok(None);
        }
        let address = extensions.get::<Peer>().map(|peer| peer.address.ip());
        let caller = self.identify(headers, address)?;
        judge(&caller, call)?;
        Ok(Some(caller))
    }

    fn identify(&self, headers: &HeaderMap, address: Option<IpAddr>) -> Result<Caller, Status> {
        let Some(tokens) = &self.tokens else {
            return Ok(Caller { actor: "anonymous".into(), address, ..Caller::postrider() });
        };
        let token = read_token(headers).map_err(|status| self.count_failure(address, status))?;
        let found = tokens.recognise(&token, self.clock.wall());
        let found = found.ok_or_else(|| self.count_failure(address, status::unknown_token()))?;
        Ok(Caller {
            actor: found.row.id.to_string().into(),
            role: found.row.role,
            scope: found.row.scope.clone(),
            address,
            ended: found.ended,
        })
    }

    /// The status, unless too many have come from there.
    fn count_failure(&self, address: Option<IpAddr>, status: Status) -> Status {
        let Some(address) = address else { return status };
        self.failures.retain_recent();
        if self.failures.check_key(&address).is_ok() { status } else { status::too_many_failures() }
    }
}

fn read_token(headers: &HeaderMap) -> Result<Token, Status> {
    let text = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let text = text.and_then(|text| text.strip_prefix("Bearer ")).ok_or_else(status::no_token)?;
    Token::parse(Kind::Api, text.trim()).map_err(|error| match error {
        TokenError::Form(_) | TokenError::Checksum => status::malformed_token(&error),
    })
}

/// Applies the table.
fn judge(caller: &Caller, call: &str) -> Result<(), Status> {
    let Some((_, permission, reach)) = CALLS.iter().find(|(name, ..)| *name == call) else {
        return Err(status::unknown_call(call));
    };
    if !caller.role.permits(*permission) {
        return Err(status::not_permitted(caller.role, call));
    }
    if *reach == Everything && caller.scope != Scope::Everything {
        return Err(status::confined(call));
    }
    Ok(())
}

impl<S> Layer<S> for Gate {
    type Service = Gated<S>;

    fn layer(&self, inner: S) -> Gated<S> {
        Gated { gate: self.clone(), inner }
    }
}

/// A service behind the gate.
#[derive(Clone)]
pub struct Gated<S> {
    gate: Gate,
    inner: S,
}

impl<S> Service<http::Request<Body>> for Gated<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = futures::future::Either<S::Future, std::future::Ready<Result<Self::Response, S::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        match self.gate.admit(request.uri().path(), request.headers(), request.extensions()) {
            Ok(caller) => {
                if let Some(caller) = caller {
                    request.extensions_mut().insert(caller);
                }
                futures::future::Either::Left(self.inner.call(request))
            }
            Err(status) => futures::future::Either::Right(std::future::ready(Ok(status.into_http()))),
        }
    }
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
    fn changes_and_secrets_take_more_than_reading() {
        for (call, permission, _) in CALLS {
            let method = call.rsplit('/').next().unwrap();
            let reads = ["Get", "List", "Watch"].iter().any(|verb| method.starts_with(verb));
            let about_trust = ["Audit", "Token", "Authorit"].iter().any(|word| call.contains(word));
            assert_eq!(*permission == Read, reads && !about_trust, "{call}");
        }
    }

    #[test]
    fn without_tokens_at_the_gate_nobody_is_turned_away_and_with_them_everybody_unknown() {
        let open = Gate::new(None, Clock::start());
        let emit = "/postrider.v1.EventService/Emit";
        assert!(open.admit(emit, &HeaderMap::new(), &Extensions::new()).unwrap().is_some());
        assert!(
            open.admit("/grpc.health.v1.Health/Check", &HeaderMap::new(), &Extensions::new())
                .unwrap()
                .is_none()
        );
    }
}
