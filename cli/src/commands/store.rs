//! `postrider store`: what can be done with an embedded store while no control plane uses it.

use postrider_control_plane::check::Command;
use postrider_control_plane::store::{Checked, StoreError};
use serde_json::json;

use crate::failure::{Exit, Failure, Result};
use crate::output::{Format, print};

/// Does it.
pub(crate) fn run(command: &Command, format: Format) -> Result<()> {
    let Command::Check(args) = command;
    let checked = args.carry_out().map_err(refused)?;
    match format {
        Format::Table => print(&format!("{checked}\n")),
        Format::Json => format.json(&of(&checked)),
    }
}

fn of(checked: &Checked) -> serde_json::Value {
    json!({
        "commits": checked.commits,
        "rows": checked.rows,
        "tenants": checked.tenants,
        "subscriptions": checked.subscriptions,
        "events": checked.events,
        "deliveries": checked.deliveries,
        "audit_records": checked.audit_records,
    })
}

fn refused(error: StoreError) -> Failure {
    let exit = match error {
        StoreError::Lost(_) | StoreError::Damaged { .. } => Exit::BadSignature,
        StoreError::Busy(_) => Exit::Usage,
        _ => Exit::Unexpected,
    };
    Failure::new(exit, Failure::from(anyhow::Error::from(error)).message())
}
