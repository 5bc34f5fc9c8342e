//! The commands that talk to a control plane, and those that need nobody: one file each.

pub(crate) mod agents;
pub(crate) mod apply;
pub(crate) mod audit;
pub(crate) mod authorities;
pub(crate) mod backup;
pub(crate) mod cancel;
pub(crate) mod completions;
pub(crate) mod deliveries;
pub(crate) mod egress;
pub(crate) mod emit;
pub(crate) mod emit_lines;
pub(crate) mod event_types;
pub(crate) mod events;
pub(crate) mod explain;
pub(crate) mod export;
pub(crate) mod follow;
pub(crate) mod input;
pub(crate) mod join_tokens;
pub(crate) mod keys;
pub(crate) mod looks;
pub(crate) mod operations;
pub(crate) mod pools;
pub(crate) mod replay;
pub(crate) mod retry;
pub(crate) mod rotate_all;
pub(crate) mod secrets;
pub(crate) mod signature_profile;
pub(crate) mod store;
pub(crate) mod subscription_settings;
pub(crate) mod subscriptions;
pub(crate) mod tail;
pub(crate) mod tenants;
pub(crate) mod tokens;
pub(crate) mod verify;

use crate::client::Client;
use crate::failure::{Exit, Failure, Result};
use crate::output::Format;

/// What every command needs.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    /// The control plane.
    pub(crate) client: Client,
    /// How to print.
    pub(crate) format: Format,
    /// From `--tenant` or the environment.
    pub(crate) tenant: Option<String>,
}

impl Context {
    /// The tenant, which most commands need.
    pub(crate) fn tenant(&self) -> Result<String> {
        self.tenant.clone().filter(|tenant| !tenant.is_empty()).ok_or_else(|| {
            Failure::new(Exit::Usage, "which tenant? give --tenant or set POSTRIDER_TENANT")
                .note("`postrider tenants list` shows them")
        })
    }

    /// Tells a person what was done; programs get JSON instead.
    pub(crate) fn done(&self, sentence: impl std::fmt::Display) -> Result<()> {
        match self.format {
            Format::Table => crate::output::print(&format!("{sentence}\n")),
            Format::Json => self.format.json(&serde_json::json!({})),
        }
    }
}
