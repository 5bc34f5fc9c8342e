//! `EnrollmentService` and `IdentityService`: how an agent gets its identity, and a new certificate for it.

use std::sync::Arc;

use postrider_domain::token::{Kind, Token};
use postrider_proto::agent::enrollment_service_server::EnrollmentService;
use postrider_proto::agent::identity_service_server::IdentityService;
use postrider_proto::agent::{EnrollRequest, EnrollResponse, RenewRequest, RenewResponse};
use tonic::{Request, Response, Status};
use tracing::{info, warn};

use super::callers::Callers;
use crate::api::status;
use crate::authority::{Authorities, AuthorityError, RequestedKey};
use crate::clock::Clock;
use crate::identities::{Candidate, EnrollError, Identities, Refusal};
use crate::listen::{AgentCertificate, Peer};
use crate::metrics::Metrics;
use crate::store::IdentityRow;

/// Characters of a name for people.
const MAX_NAME: usize = 200;

/// Implements both services.
#[derive(Clone)]
pub struct Registrar {
    authorities: Arc<Authorities>,
    identities: Arc<Identities>,
    clock: Clock,
    callers: Arc<Callers>,
    metrics: Arc<Metrics>,
}

impl Registrar {
    /// One that issues by these authorities.
    #[must_use]
    pub fn new(
        authorities: Arc<Authorities>,
        identities: Arc<Identities>,
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { authorities, identities, clock, callers: Arc::new(Callers::new(clock)), metrics }
    }
}

#[tonic::async_trait]
impl EnrollmentService for Registrar {
    async fn enroll(&self, request: Request<EnrollRequest>) -> Result<Response<EnrollResponse>, Status> {
        let peer = peer(&request)?;
        self.callers.count(peer.network())?;
        let address = peer.address.ip();
        let request = request.into_inner();
        let token = Token::parse(Kind::Join, &request.token).map_err(|_| status::join_token_unusable())?;
        let key = read_key(&request.certificate_request)?;
        let name = request.display_name;
        if name.chars().count() > MAX_NAME || name.chars().any(char::is_control) {
            return Err(status::invalid_field("display_name", "must have at most 200 printable characters"));
        }
        let now = self.clock.wall();
        let candidate = Candidate { token, key: key.pin, display_name: name, address: address.to_string() };
        let issue = |row: &IdentityRow| self.authorities.issue(row, &key, now);
        match self.identities.enroll(candidate, now, issue).await {
            Ok(identity) => {
                info!(agent = identity.agent_id, pool = identity.pool, %address, "agent enrolled");
                Ok(Response::new(EnrollResponse { identity: Some(identity) }))
            }
            Err(EnrollError::Unusable) => {
                warn!(%address, "rejected an enrollment: the join token is unknown, revoked, expired or used up");
                Err(status::join_token_unusable())
            }
            Err(EnrollError::Refused(refusal)) => {
                self.metrics.duplicate();
                warn!(%address, %refusal, "rejected an enrollment with a used join token and the agent's first key");
                Err(status::join_token_unusable())
            }
            Err(EnrollError::Issue(error)) => Err(not_issued(&error)),
            Err(EnrollError::Store(error)) => Err(status::store(&error)),
        }
    }
}

#[tonic::async_trait]
impl IdentityService for Registrar {
    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RenewResponse>, Status> {
        let peer = peer(&request)?.clone();
        self.callers.count(peer.network())?;
        let present = certificate(&peer)?;
        let key = read_key(&request.into_inner().certificate_request)?;
        if key.pin == present.key.key {
            let problem = "must be for a new key: this one is the present certificate's";
            return Err(status::invalid_field("certificate_request", problem));
        }
        let now = self.clock.wall();
        let agent = &present.identity.agent;
        let issue = |row: &IdentityRow| self.authorities.issue(row, &key, now);
        let address = peer.address.ip().to_string();
        match self.identities.renew(agent, (present.key, key.pin), address, now, issue).await {
            Ok(identity) => Ok(Response::new(RenewResponse { identity: Some(identity) })),
            Err(EnrollError::Unusable | EnrollError::Refused(Refusal::Revoked)) => {
                Err(status::agent_revoked())
            }
            Err(EnrollError::Refused(Refusal::JustReplaced)) => Err(status::agent_key_just_replaced()),
            Err(EnrollError::Refused(Refusal::Replaced)) => {
                self.metrics.duplicate();
                warn!(%agent, address = %peer.address.ip(), "rejected a renewal with a key that was replaced");
                Err(status::agent_key_replaced())
            }
            Err(EnrollError::Issue(error)) => Err(not_issued(&error)),
            Err(EnrollError::Store(error)) => Err(status::store(&error)),
        }
    }
}

/// Who calls. The listener puts it there.
fn peer<T>(request: &Request<T>) -> Result<&Peer, Status> {
    request.extensions().get().ok_or_else(status::no_certificate)
}

/// The agent that calls.
pub(super) fn certificate(peer: &Peer) -> Result<Arc<AgentCertificate>, Status> {
    peer.agent.clone().ok_or_else(status::no_certificate)
}

fn read_key(request: &[u8]) -> Result<RequestedKey, Status> {
    RequestedKey::read(request).ok_or_else(|| {
        status::invalid_field("certificate_request", "must be a signed PKCS#10 certificate request, DER")
    })
}

fn not_issued(error: &AuthorityError) -> Status {
    tracing::error!(%error, "failed to issue an agent's certificate");
    status::not_issued()
}
