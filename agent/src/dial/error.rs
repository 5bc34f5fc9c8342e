//! Why there is no connection to the control plane, in sentences that say what to do.

use std::io;

use rustls::{AlertDescription, CertificateError, Error};

use super::address::Address;
use super::proxy::ProxyError;

/// Why there is no connection to the control plane.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// A name has no address.
    #[error("{host} cannot be resolved: check the name and this machine's name servers")]
    Resolve {
        /// The name.
        host: String,
        /// Why.
        source: io::Error,
    },
    /// Nobody answers there.
    #[error("{whom} at {address} cannot be reached")]
    Connect {
        /// The control plane or the proxy.
        whom: &'static str,
        /// Where.
        address: Address,
        /// Why.
        source: io::Error,
    },
    /// It took too long.
    #[error("no connection to {0} within 10 s")]
    Timeout(Address),
    /// The proxy did not help.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// Its certificate is no good.
    #[error("{0}")]
    Certificate(CertificateProblem),
    /// It did not like this agent's certificate.
    #[error("{}", refusal(*.0))]
    Refused(AlertDescription),
    /// It is somebody else.
    #[error("{0} speaks TLS, but is not the control plane's port for agents: check the address and its port")]
    NotForAgents(Address),
    /// TLS failed otherwise.
    #[error("no TLS session with {address}: is it the control plane's port for agents?")]
    Tls {
        /// Where.
        address: Address,
        /// Why.
        source: io::Error,
    },
    /// It hung up before it said anything.
    #[error("{0} closed the connection at once: is it the control plane's port for agents?")]
    Closed(Address),
    /// The connection broke before it was of use.
    #[error("the connection to {address} broke")]
    Broken {
        /// Where.
        address: Address,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// What is wrong with the control plane's certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateProblem {
    /// It is from somebody whom the join token does not name.
    #[error(
        "the control plane's certificate is not from the authority that the join token names: was the join token \
         made by this control plane, and does nothing on the way end TLS? The join token was not sent"
    )]
    NotPinned,
    /// It is from somebody unknown.
    #[error(
        "the control plane's certificate is not from an authority that this agent trusts: is the address right, and \
         does nothing on the way end TLS? To join another control plane, give its join token as `join` and an empty \
         `state_dir`"
    )]
    UnknownAuthority,
    /// Its time is over, or has not come.
    #[error(
        "the control plane's certificate {0}: check this machine's clock, and if it is right, the control plane's \
         certificate"
    )]
    Time(&'static str),
    /// It is for another name.
    #[error(
        "the control plane's certificate is not for the name that was dialled: check the address, or give the name in \
         the certificate as `tls.server_name`{0}"
    )]
    Name(String),
    /// Something else.
    #[error("the control plane's certificate cannot be used: {0}")]
    Other(String),
}

impl DialError {
    /// Reads what went wrong on a TLS stream with `address`.
    pub(super) fn of_tls(source: io::Error, address: &Address) -> DialError {
        let error = source.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
        match error {
            Some(Error::InvalidCertificate(problem)) => DialError::Certificate(problem.into()),
            Some(Error::AlertReceived(alert)) if is_refusal(*alert) => DialError::Refused(*alert),
            Some(Error::AlertReceived(
                AlertDescription::NoApplicationProtocol | AlertDescription::UnrecognisedName,
            )) => DialError::NotForAgents(address.clone()),
            Some(_) => DialError::Tls { address: address.clone(), source },
            None if source.kind() == io::ErrorKind::UnexpectedEof => DialError::Closed(address.clone()),
            None => DialError::Broken { address: address.clone(), source: source.into() },
        }
    }

    /// What the control plane said of this agent's certificate, if that is what went wrong.
    #[must_use]
    pub fn refused(&self) -> Option<AlertDescription> {
        match self {
            DialError::Refused(alert) => Some(*alert),
            _ => None,
        }
    }
}

impl From<&CertificateError> for CertificateProblem {
    fn from(error: &CertificateError) -> CertificateProblem {
        use CertificateError as Wrong;
        match error {
            Wrong::ApplicationVerificationFailure => CertificateProblem::NotPinned,
            Wrong::UnknownIssuer | Wrong::BadSignature => CertificateProblem::UnknownAuthority,
            Wrong::Expired | Wrong::ExpiredContext { .. } => CertificateProblem::Time("has expired"),
            Wrong::NotValidYet | Wrong::NotValidYetContext { .. } => {
                CertificateProblem::Time("is not valid yet")
            }
            Wrong::NotValidForName => CertificateProblem::Name(String::new()),
            Wrong::NotValidForNameContext { presented, .. } => {
                CertificateProblem::Name(format!(" (it is for: {})", presented.join(", ")))
            }
            other => CertificateProblem::Other(other.to_string()),
        }
    }
}

/// Whether an alert is about the certificate of whoever receives it.
fn is_refusal(alert: AlertDescription) -> bool {
    use AlertDescription as Alert;
    matches!(
        alert,
        Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::CertificateRequired
            | Alert::UnknownCA
            | Alert::AccessDenied
    )
}

fn refusal(alert: AlertDescription) -> String {
    use AlertDescription as Alert;
    let (why, advice) = match alert {
        Alert::CertificateRevoked | Alert::AccessDenied => {
            ("this agent was revoked", "if that was not meant, give a new join token as `join`")
        }
        Alert::CertificateExpired => (
            "it has expired, or the control plane's clock is wrong",
            "if it does not go away, give a new join token as `join`",
        ),
        Alert::CertificateRequired => {
            ("there is none, and it wants one", "check that the address is its port for agents")
        }
        _ => (
            "it does not know who issued it",
            "while its authorities change this resolves without action; otherwise give a new join token as `join`",
        ),
    };
    format!("the control plane refused this agent's certificate ({alert:?}): {why}; {advice}")
}
