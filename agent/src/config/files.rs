//! What `config check` looks at beside the settings themselves: the files that a start reads later than these, and a sentence of
//! all that was looked at. It opens no socket, makes nothing, and can be done beside an agent at work.

use std::fmt;
use std::path::Path;

use postrider_domain::time::Timestamp;

use super::{Config, ControlPlane, Enrolled, Problems};
use crate::dial::tls::read_authorities;
use crate::identity::directory::Directory;
use crate::transport::credentials;
use crate::with_causes;

/// What was looked at, and found good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    looked: Vec<String>,
    /// What will have to be done.
    warnings: Vec<String>,
}

impl fmt::Display for Look {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the settings are fine; looked at:")?;
        self.looked.iter().try_for_each(|part| write!(f, "\n  - {part}"))?;
        self.warnings.iter().try_for_each(|warning| write!(f, "\nwarning: {warning}"))?;
        f.write_str("\nnot looked at: whether the control plane can be reached, and lets this agent in")
    }
}

impl Config {
    /// Looks at the files that [`Config::load`] has not read, as a start does.
    ///
    /// # Errors
    ///
    /// [`Problems`], all of them.
    pub fn look(&self, file: Option<&Path>, now: Timestamp) -> Result<Look, Problems> {
        let file = file.map(|file| format!("{}, ", file.display())).unwrap_or_default();
        let mut looked =
            vec![format!("{file}flags and environment: every setting is known and within its bounds")];
        let mut problems = Vec::new();
        match &self.control_plane {
            ControlPlane::Plaintext(_) => {
                looked.push("insecure: a control plane on this machine, without TLS".to_owned());
            }
            ControlPlane::Enrolled(enrolled) => look_enrolled(enrolled, &mut looked, &mut problems),
        }
        let files = |entry: &credentials::Settings| {
            [&entry.ca, &entry.client_cert, &entry.client_key, &entry.headers_file]
                .into_iter()
                .flatten()
                .count()
        };
        let files: usize = self.egress.credentials.iter().map(files).sum();
        if files > 0 {
            looked.push(format!(
                "egress.credentials: {} tables, with {files} files",
                self.egress.credentials.len()
            ));
        }
        let mut warnings = Vec::new();
        for (number, entry) in (1..).zip(&self.egress.credentials) {
            let named = |problem: credentials::Problem| {
                format!("`egress.credentials[{number}].{}` {}", problem.setting, problem.why)
            };
            match entry.expiry(now) {
                Ok(soon) => warnings.extend(soon.map(named)),
                Err(problem) => problems.push(named(problem)),
            }
        }
        if problems.is_empty() { Ok(Look { looked, warnings }) } else { Err(Problems(problems)) }
    }
}

fn look_enrolled(enrolled: &Enrolled, looked: &mut Vec<String>, problems: &mut Vec<String>) {
    let join = enrolled.identity.join.as_ref();
    if join.is_some() {
        looked.push("join: a join token; whether it is still good only the control plane knows".to_owned());
    }
    if let Some(path) = &enrolled.ca {
        match read_authorities(path) {
            Ok(_) => looked.push(format!("tls.ca: {}", path.display())),
            Err(error) => problems.push(format!("`tls.ca` cannot be used: {}", with_causes(&error))),
        }
    }
    let Some(path) = &enrolled.identity.state_dir else { return };
    match Directory::look(path) {
        Ok(true) => looked.push(format!("state_dir: {} has this agent's identity", path.display())),
        Ok(false) if join.is_none() => problems.push(format!(
            "`state_dir` is {}, which has no identity yet: give the join token that `postrider agents join-tokens create` \
             prints as `join`",
            path.display()
        )),
        Ok(false) => looked.push(format!("state_dir: {} has no identity yet; it comes by enrolling", path.display())),
        Err(error) => problems.push(format!("`state_dir`: {}", with_causes(&error))),
    }
}
