//! A control plane that asks for tokens, over TLS, and nothing else: for tests about who may do what.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use postrider_proto::v1::{self, Role};
use tempfile::TempDir;

use super::{ControlPlane, Security, TENANT, TlsFiles};
use crate::api::{Api, duration};
use crate::cli::Cli;

/// The control plane, and its first admin.
#[derive(Debug)]
pub struct Guarded {
    /// The control plane.
    pub control_plane: ControlPlane,
    /// The first admin.
    pub admin: Api,
    tls: TlsFiles,
    folder: TempDir,
}

impl Guarded {
    /// Starts one, with lines of settings, and makes the tenant.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start(lines: &[&str]) -> Result<Self> {
        let mut folder = TempDir::with_prefix("postrider-test-")?;
        folder.disable_cleanup(std::env::var_os("KEEP_WORLDS").is_some());
        let tls = TlsFiles::make(&folder.path().join("tls"))?;
        let control_plane = ControlPlane::start(folder.path(), lines, Security::Tls(tls.clone())).await?;
        let admin = control_plane.api(TENANT)?;
        admin.create_tenant().await?;
        Ok(Self { control_plane, admin, tls, folder })
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A new token; with a tenant, confined to it.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn token(&self, role: Role, tenant: Option<&str>) -> Result<NewToken> {
        self.short_lived_token(role, tenant, None).await
    }

    /// A new token for some time.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn short_lived_token(
        &self,
        role: Role,
        tenant: Option<&str>,
        lifetime: Option<Duration>,
    ) -> Result<NewToken> {
        let request = v1::CreateTokenRequest {
            display_name: format!("{role:?}"),
            role: role.into(),
            tenant: tenant.unwrap_or_default().to_owned(),
            lifetime: lifetime.map(duration),
        };
        let made = self.admin.tokens().create_token(request).await?.into_inner();
        let id = made.token.context("no token in the answer")?.id;
        Ok(NewToken { id, secret: made.secret })
    }

    /// Ends a token.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn revoke(&self, token: &NewToken) -> Result<()> {
        let request = v1::RevokeTokenRequest { token: token.id.clone(), ..Default::default() };
        self.admin.tokens().revoke_token(request).await?;
        Ok(())
    }

    /// The API for a tenant, with a token.
    ///
    /// # Errors
    /// When the TLS files or the token are no good.
    pub fn api(&self, tenant: &str, token: &str) -> Result<Api> {
        Api::new(self.control_plane.channel()?, tenant, token)
    }

    /// The command, for no tenant, with a token.
    #[must_use]
    pub fn cli(&self, token: &str) -> Cli {
        self.cli_without_token().with("POSTRIDER_TOKEN", token)
    }

    /// The command, for no tenant, without a token.
    #[must_use]
    pub fn cli_without_token(&self) -> Cli {
        Cli::new(&self.control_plane.api_url(), "").with("POSTRIDER_CA", &self.tls.ca)
    }
}

/// A token with its secret.
#[derive(Clone, Debug)]
pub struct NewToken {
    /// Its id.
    pub id: String,
    /// The token itself.
    pub secret: String,
}
