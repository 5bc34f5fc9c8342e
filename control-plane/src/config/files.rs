//! What `config check` looks at beside the settings themselves: the files that a start reads later than these, and a sentence of
//! all that was looked at. It opens no socket and no store, and asks nobody.

use std::path::Path;

use postrider_domain::time::Timestamp;

use super::{Config, ConfigError};
use crate::secret_file;
use crate::tokens::read_bootstrap_token;

/// What was looked at, and found good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    looked: Vec<String>,
    /// What will have to be done.
    warnings: Vec<String>,
}

impl std::fmt::Display for Look {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the settings are fine; looked at:")?;
        self.looked.iter().try_for_each(|part| write!(f, "\n  - {part}"))?;
        self.warnings.iter().try_for_each(|warning| write!(f, "\nwarning: {warning}"))?;
        f.write_str("\nnot checked: whether the addresses are free, and the store")
    }
}

impl Config {
    /// Looks at the files that [`super::load`] has not read, as a start does.
    ///
    /// # Errors
    /// Every problem at once.
    pub fn look(&self, file: Option<&Path>, now: Timestamp) -> Result<Look, ConfigError> {
        let (mut looked, mut warnings, mut problems) = (Vec::new(), Vec::new(), Vec::new());
        let file = file.map(|file| format!("{}, ", file.display())).unwrap_or_default();
        looked.push(format!("{file}flags and environment: every setting is known and within its bounds"));
        looked.push(format!("kek: {}", self.keks));
        if let Some(vault) = self.vault_token_file.as_deref().filter(|_| self.keks.asks_vault()) {
            match secret_file::read(vault) {
                Ok(_) => looked.push(format!("vault_token_file: {}; Vault was not asked", vault.display())),
                Err(error) => problems.push(format!("vault_token_file: {:#}", anyhow::Error::from(error))),
            }
        }
        if let Some(tls) = &self.tls {
            let clients = tls.client_ca.as_ref().map(|ca| format!(", tls_client_ca: {}", ca.display()));
            let clients = clients.unwrap_or_default();
            looked.push(format!(
                "tls_cert, tls_key: {}, {}, which belong together{clients}",
                tls.cert.display(),
                tls.key.display()
            ));
            match tls.check(now) {
                Ok((faults, soon)) => {
                    problems.extend(faults);
                    warnings.extend(soon);
                }
                Err(error) => problems.push(error.to_string()),
            }
        }
        for authority in &self.authority.files {
            match authority.check(now) {
                Ok(soon) => {
                    looked.push(format!("agent_ca: {} may issue", authority.cert.display()));
                    let path = authority.cert.display();
                    warnings.extend(soon.map(|soon| format!("agent_ca: {path} {soon}: renew it")));
                }
                Err(error) => problems.push(format!("{:#}", anyhow::Error::from(error))),
            }
        }
        match self.bootstrap_token_file.as_deref() {
            None => {}
            // It may be removed when it has served.
            Some(file) if !file.exists() => looked.push(format!(
                "bootstrap_token_file: {} is not there, and has to be when no admin's token is valid yet",
                file.display()
            )),
            Some(file) => match read_bootstrap_token(file) {
                Ok(token) => looked.push(format!(
                    "bootstrap_token_file: holds {}; delete the file after the first start",
                    token.id()
                )),
                Err(error) => problems.push(format!("{error:#}")),
            },
        }
        if problems.is_empty() { Ok(Look { looked, warnings }) } else { Err(ConfigError(problems)) }
    }
}
