//! `postrider audit`: who changed or revealed what.

use std::path::{Path, PathBuf};

use postrider_control_plane::audit_head;
use postrider_proto::v1;

use super::Context;
use super::events::Span;
use crate::failure::{Doing as _, Exit, Failure, Result};
use crate::pages::{self, Limit};
use crate::view::audit::{AuditRecord, Verdict};

/// What to do with the audit log.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum Command {
    /// List records, newest first; with --tenant only those of the tenant
    List {
        /// Only records of this actor: the ID of a token or an agent
        #[arg(long, value_name = "ID", default_value = "")]
        actor: String,
        /// Only records of this action, such as RotateSigningKey
        #[arg(long, value_name = "NAME", default_value = "")]
        action: String,
        #[command(flatten)]
        span: Span,
        #[command(flatten)]
        limit: Limit,
    },
    /// Verify the hash chain of the whole log; exit with 7 if a record is missing or was changed
    Verify {
        /// Head printed by an earlier check; verify that the log still contains it
        #[arg(long, value_name = "NUMBER:HASH", value_parser = parse_head)]
        known: Option<Head>,
        /// File written by the control plane (setting audit_head_file), instead of --known
        #[arg(long, value_name = "FILE", conflicts_with = "known")]
        head_file: Option<PathBuf>,
    },
}

/// A record's number and hash.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    sequence: u64,
    hash: String,
}

fn parse_head(text: &str) -> std::result::Result<Head, String> {
    let parsed = text
        .split_once(':')
        .and_then(|(sequence, hash)| Some(Head { sequence: sequence.parse().ok()?, hash: hash.to_owned() }));
    parsed.ok_or_else(|| "give NUMBER:HASH, as `audit verify` prints the head".to_owned())
}

/// The head that a control plane has exported.
fn read_head(file: &Path) -> Result<Head> {
    let refused = |why: String| Failure::new(Exit::Usage, format!("--head-file: {why}"));
    let read =
        audit_head::read(file).map_err(|error| refused(format!("{:#}", anyhow::Error::from(error))))?;
    let exported = read.ok_or_else(|| refused(format!("there is no {}", file.display())))?;
    Ok(Head { sequence: exported.head.sequence, hash: exported.hash() })
}

pub(crate) async fn run(context: &Context, command: Command) -> Result<()> {
    let mut api = context.client.audit();
    match command {
        Command::List { actor, action, span, limit } => {
            let tenant = context.tenant.clone().unwrap_or_default();
            let (start_time, end_time) = span.to_wire();
            let records = pages::collect(limit, "list audit records", async |page_size, page_token| {
                let (tenant, actor, action) = (tenant.clone(), actor.clone(), action.clone());
                let request = v1::ListAuditRecordsRequest {
                    tenant,
                    actor,
                    action,
                    start_time,
                    end_time,
                    page_size,
                    page_token,
                };
                api.list_audit_records(request).await
            });
            records.await?.show::<AuditRecord>(context.format)
        }
        Command::Verify { known, head_file } => {
            let known = head_file.as_deref().map_or(Ok(known), |file| read_head(file).map(Some))?;
            let (known_sequence, known_hash) =
                known.map(|head| (head.sequence, head.hash)).unwrap_or_default();
            let request = v1::VerifyAuditLogRequest { known_sequence, known_hash };
            let answer = api.verify_audit_log(request).await.doing("check the audit log")?;
            let verdict = Verdict::from(answer.into_inner());
            context.format.one(&verdict)?;
            if verdict.intact {
                return Ok(());
            }
            Err(Failure::new(Exit::BadSignature, "the audit log is not what was written"))
        }
    }
}
