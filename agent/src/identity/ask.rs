//! Asks the control plane for a certificate, once: the two calls, and what their answers mean.

use std::time::Duration;

use postrider_domain::id::{AgentId, PoolName};
use postrider_domain::join::Join;
use postrider_proto::agent::enrollment_service_client::EnrollmentServiceClient;
use postrider_proto::agent::identity_service_client::IdentityServiceClient;
use postrider_proto::agent::{EnrollRequest, Identity, RenewRequest};
use rustls::pki_types::CertificateDer;
use tokio::time::timeout;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::key::{Key, KeyError};
use crate::dial::{DialError, Dialer, Security};
use crate::with_causes;

/// For an answer.
const WITHIN: Duration = Duration::from_secs(15);
/// The largest answer.
const MAX_ANSWER: usize = 128 << 10;
/// The certificates in one, and their bytes.
const MAX_CERTIFICATES: usize = 16;
const MAX_CERTIFICATE_BYTES: usize = 32 << 10;
/// The longest wait that is taken from the control plane.
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// What the control plane says who this agent is.
pub(super) struct Granted {
    pub(super) agent_id: AgentId,
    pub(super) pool: PoolName,
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) bundle: Vec<CertificateDer<'static>>,
    pub(super) renew_after: Duration,
    pub(super) valid_for: Duration,
}

/// Why there is no certificate.
#[derive(Debug)]
pub(super) enum Failure {
    /// The control plane does not want this agent, or this token. Asking again is of no use.
    Refused(String),
    /// It does not want this key or this request.
    BadRequest(String),
    /// Not now.
    Later {
        why: String,
        /// When the control plane wants to be asked again.
        after: Option<Duration>,
    },
}

/// Asks to become an agent. `security` is without an identity.
pub(super) async fn enroll(
    dialer: &Dialer,
    security: &Security,
    join: &Join,
    key: &Key,
    name: &str,
) -> Result<Granted, Failure> {
    let certificate_request = key.request()?.into();
    // The token leaves only after the other side was recognised.
    let channel = dialer.dial(security).await?;
    let request = EnrollRequest {
        token: join.token().expose_text().as_str().to_owned(),
        certificate_request,
        display_name: name.to_owned(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let mut client = EnrollmentServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER);
    match in_time(client.enroll(request)).await?.map(|response| response.into_inner().identity) {
        Ok(identity) => granted(identity),
        Err(status) => Err(match status.code() {
            Code::Unauthenticated => Failure::Refused(status.message().to_owned()),
            Code::InvalidArgument => Failure::BadRequest(status.message().to_owned()),
            _ => later(&status),
        }),
    }
}

/// Asks for a certificate for a new key. `security` has the present identity.
pub(super) async fn renew(dialer: &Dialer, security: &Security, key: &Key) -> Result<Granted, Failure> {
    let certificate_request = key.request()?.into();
    let channel = dialer.dial(security).await?;
    let mut client = IdentityServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER);
    let answer = in_time(client.renew(RenewRequest { certificate_request })).await?;
    match answer.map(|response| response.into_inner().identity) {
        Ok(identity) => granted(identity),
        Err(status) => Err(match status.code() {
            Code::PermissionDenied => Failure::Refused(status.message().to_owned()),
            Code::InvalidArgument => Failure::BadRequest(status.message().to_owned()),
            _ => later(&status),
        }),
    }
}

async fn in_time<T>(call: impl Future<Output = Result<T, Status>>) -> Result<Result<T, Status>, Failure> {
    let late =
        |_| Failure::Later { why: "the control plane gave no answer within 15 s".to_owned(), after: None };
    timeout(WITHIN, call).await.map_err(late)
}

fn later(status: &Status) -> Failure {
    let why = match status.code() {
        Code::Unimplemented => {
            "the control plane there does not know this call: is it the port for agents?".to_owned()
        }
        code => format!("{}: {}", code.description(), status.message()),
    };
    let after = status.get_details_retry_info().and_then(|info| info.retry_delay);
    Failure::Later { why, after: after.map(|after| after.min(LONGEST_WAIT)) }
}

fn granted(identity: Option<Identity>) -> Result<Granted, Failure> {
    let unusable = |what: &str| Failure::Later {
        why: format!("the control plane's answer cannot be used, for {what}"),
        after: None,
    };
    let identity = identity.ok_or_else(|| unusable("it is empty"))?;
    let certificates = || identity.certificate_chain.iter().chain(&identity.trust_bundle);
    let bytes: usize = certificates().map(|certificate| certificate.len()).sum();
    if certificates().count() > MAX_CERTIFICATES || bytes > MAX_CERTIFICATE_BYTES {
        return Err(unusable("it has too many certificates"));
    }
    if identity.certificate_chain.is_empty() || identity.trust_bundle.is_empty() {
        return Err(unusable("certificates are missing"));
    }
    if identity.renew_after_seconds == 0 || identity.renew_after_seconds >= identity.valid_for_seconds {
        return Err(unusable("the certificate would end before it is renewed"));
    }
    let seconds = |seconds: u32| Duration::from_secs(seconds.into());
    let der = |certificates: Vec<_>| -> Vec<CertificateDer<'static>> {
        certificates.into_iter().map(|der: bytes::Bytes| CertificateDer::from(der.to_vec())).collect()
    };
    Ok(Granted {
        agent_id: identity.agent_id.parse().map_err(|_| unusable("the agent's id is none"))?,
        pool: identity.pool.parse().map_err(|_| unusable("the pool's name is none"))?,
        renew_after: seconds(identity.renew_after_seconds),
        valid_for: seconds(identity.valid_for_seconds),
        chain: der(identity.certificate_chain),
        bundle: der(identity.trust_bundle),
    })
}

impl From<DialError> for Failure {
    fn from(error: DialError) -> Failure {
        Failure::Later { why: with_causes(&error), after: None }
    }
}

impl From<KeyError> for Failure {
    fn from(error: KeyError) -> Failure {
        Failure::Later { why: with_causes(&error), after: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic_types::ErrorDetails;

    fn identity() -> Identity {
        Identity {
            agent_id: "a-1".into(),
            pool: "acme".into(),
            certificate_chain: vec![b"leaf"[..].into()],
            trust_bundle: vec![b"root"[..].into()],
            renew_after_seconds: 50,
            valid_for_seconds: 100,
        }
    }

    #[test]
    fn an_answer_that_cannot_be_used_says_why() {
        let good = granted(Some(identity())).ok().unwrap();
        assert_eq!((good.agent_id.to_string().as_str(), good.chain.len(), good.bundle.len()), ("a-1", 1, 1));
        let table = [
            (None, "empty"),
            (Some(Identity { agent_id: "No".into(), ..identity() }), "the agent's id"),
            (Some(Identity { pool: String::new(), ..identity() }), "the pool's name"),
            (Some(Identity { certificate_chain: Vec::new(), ..identity() }), "missing"),
            (Some(Identity { trust_bundle: Vec::new(), ..identity() }), "missing"),
            (Some(Identity { renew_after_seconds: 0, ..identity() }), "end before"),
            (Some(Identity { valid_for_seconds: 50, ..identity() }), "end before"),
            (Some(Identity { trust_bundle: vec![b"x"[..].into(); 17], ..identity() }), "too many"),
            (Some(Identity { trust_bundle: vec![vec![0; 40_000].into()], ..identity() }), "too many"),
        ];
        for (answer, word) in table {
            let Err(Failure::Later { why, .. }) = granted(answer) else { panic!("{word}") };
            assert!(why.contains(word), "{why}");
        }
    }

    #[test]
    fn the_control_plane_says_when_to_ask_again_within_reason() {
        for (delay, expected) in [(7, 7), (86_400, 600)] {
            let details = ErrorDetails::with_retry_info(Some(Duration::from_secs(delay)));
            let status = Status::with_error_details(Code::ResourceExhausted, "too many", details);
            let Failure::Later { why, after } = later(&status) else { panic!() };
            assert!(why.contains("too many"));
            assert_eq!(after, Some(Duration::from_secs(expected)));
        }
        let Failure::Later { why, after: None } = later(&Status::unimplemented("")) else { panic!() };
        assert!(why.contains("port for agents"));
    }
}
