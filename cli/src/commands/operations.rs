//! `postrider operations`: work on many things that goes on by itself.

use std::time::Duration;

use postrider_proto::v1::{self, OperationState};

use super::Context;
use crate::failure::{Doing as _, Result};
use crate::output::notice;
use crate::pages::{self, Limit};
use crate::view::operation::{Operation, percent};
use crate::view::promised;

/// How often it is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What to do with operations.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum Command {
    /// List operations, newest first
    List {
        #[command(flatten)]
        limit: Limit,
    },
    /// Show one operation with its progress
    #[command(visible_alias = "get")]
    Show {
        /// ID
        id: String,
        /// Wait until it has ended
        #[arg(long)]
        wait: bool,
    },
    /// Pause a running operation
    Pause {
        /// ID
        id: String,
    },
    /// Resume a paused operation
    Resume {
        /// ID
        id: String,
    },
    /// Cancel an operation; completed work is not undone
    Cancel {
        /// ID
        id: String,
    },
}

pub(crate) async fn run(context: &Context, command: Command) -> Result<()> {
    let tenant = context.tenant()?;
    let mut api = context.client.operations();
    let doing = |what: &str, id: &str| format!("{what} the operation '{id}'");
    let operation = match command {
        Command::List { limit } => return list(context, limit).await,
        Command::Show { id, wait } => {
            let found = get(context, id).await?;
            if wait { Some(follow(context, found).await?) } else { Some(found) }
        }
        Command::Pause { id } => {
            let step = doing("pause", &id);
            let request = v1::PauseOperationRequest { tenant, operation: id };
            api.pause_operation(request).await.doing(step)?.into_inner().operation
        }
        Command::Resume { id } => {
            let step = doing("resume", &id);
            let request = v1::ResumeOperationRequest { tenant, operation: id };
            api.resume_operation(request).await.doing(step)?.into_inner().operation
        }
        Command::Cancel { id } => {
            let step = doing("cancel", &id);
            let request = v1::CancelOperationRequest { tenant, operation: id };
            api.cancel_operation(request).await.doing(step)?.into_inner().operation
        }
    };
    context.format.one(&Operation::from(promised(operation, "operation")?))
}

async fn list(context: &Context, limit: Limit) -> Result<()> {
    let tenant = context.tenant()?;
    let mut api = context.client.operations();
    let operations = pages::collect(limit, "list operations", async |page_size, page_token| {
        let tenant = tenant.clone();
        api.list_operations(v1::ListOperationsRequest { tenant, page_size, page_token }).await
    });
    operations.await?.show::<Operation>(context.format)
}

async fn get(context: &Context, id: String) -> Result<v1::Operation> {
    let step = format!("get the operation '{id}'");
    let request = v1::GetOperationRequest { tenant: context.tenant()?, operation: id };
    let answer = context.client.operations().get_operation(request).await.doing(step)?;
    promised(answer.into_inner().operation, "operation")
}

/// Looks at an operation until it has ended, and tells on stderr how far it is.
pub(crate) async fn follow(context: &Context, mut operation: v1::Operation) -> Result<v1::Operation> {
    let mut told = String::new();
    while !matches!(operation.state(), OperationState::Done | OperationState::Cancelled) {
        tokio::time::sleep(LOOK_EVERY).await;
        operation = get(context, operation.id).await?;
        let now =
            format!("{}: {} of {} done", percent(operation.progress), operation.done, operation.matched);
        if now != told {
            notice(format_args!("{now}"));
            told = now;
        }
    }
    Ok(operation)
}
