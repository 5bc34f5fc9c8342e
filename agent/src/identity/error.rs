//! Why there is no identity, or none any more, in sentences that say what to do.

use std::path::PathBuf;

use super::directory::DirectoryError;
use super::key::KeyError;

/// Why an identity is of no use any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// The control plane has revoked it, and says this.
    Revoked(String),
    /// Its certificate has expired.
    Expired,
    /// There is another in its place already.
    Replaced,
}

/// There is no identity, or none that is of use.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// There is no way to get one.
    #[error(
        "there is no identity in `state_dir`, which is {path}, and nothing to enroll with: give the join token that \
         `postrider agents join-tokens create` prints as `join` or `join_file`",
        path = .0.display()
    )]
    NothingToEnrollWith(PathBuf),
    /// The control plane refused the token.
    #[error(
        "{before}the control plane did not accept the join token ({message}): it is used up, expired or revoked. Make a \
         new one with `postrider agents join-tokens create`, and give what it prints as `join`"
    )]
    TokenRefused {
        /// Why there was a need to enroll again.
        before: String,
        /// What the control plane says.
        message: String,
    },
    /// The control plane could not read the request.
    #[error(
        "the control plane could not use this agent's certificate request ({0}): install an agent of a version near \
         the control plane's, and make a new join token"
    )]
    RequestRefused(String),
    /// The identity has ended, and there is nothing to get another one with.
    #[error(
        "{0}. To enroll again, make a join token with `postrider agents join-tokens create`, and give it as `join`"
    )]
    Ended(String),
    /// The directory cannot be used.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The private key cannot be made or used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The stored identity is whole, and of no use.
    #[error(
        "the identity in {path} cannot be used: remove its files and enroll again, with a new join token",
        path = .path.display()
    )]
    Unusable {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
}

impl Ended {
    pub(super) fn sentence(&self) -> String {
        match self {
            Ended::Revoked(message) => format!("this agent was revoked ({message})"),
            Ended::Expired => "this agent's certificate has expired".to_owned(),
            Ended::Replaced => "this agent's identity was replaced".to_owned(),
        }
    }
}

impl IdentityError {
    /// Whether coming back is useless until somebody changes something.
    #[must_use]
    pub fn is_rejection(&self) -> bool {
        matches!(
            self,
            IdentityError::TokenRefused { .. } | IdentityError::RequestRefused(_) | IdentityError::Ended(_)
        )
    }
}
