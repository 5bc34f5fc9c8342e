//! `postrider agents`: the processes that POST.

use std::time::Duration;

use postrider_proto::v1;

use super::{Context, authorities, join_tokens};
use crate::failure::{Doing as _, Result};
use crate::pages::{self, Limit};
use crate::view::agent::Agent;
use crate::view::promised;

/// How often it is looked whether an agent is done.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What to do with agents.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum Command {
    /// List agents: enrolled ones, and others seen in the last 24 hours
    List {
        /// Only agents of this pool
        #[arg(long, value_name = "POOL", default_value = "")]
        pool: String,
        #[command(flatten)]
        limit: Limit,
    },
    /// Show one agent
    Get {
        /// ID
        id: String,
    },
    /// Revoke an agent: it is rejected from now on, and its connections are closed within seconds
    ///
    /// The join token that it used cannot be used again. Other agents that enrolled with the same token keep working.
    Revoke {
        /// ID
        id: String,
        /// Reason, for the audit log
        #[arg(long, value_name = "TEXT", default_value = "")]
        reason: String,
    },
    /// Stop sending jobs to an agent; it finishes its current jobs and stays connected
    ///
    /// The drain ends with `undrain`, or when the agent restarts.
    Drain {
        /// ID
        id: String,
        /// Wait until it has no jobs left
        #[arg(long)]
        wait: bool,
    },
    /// Send jobs to a drained agent again
    Undrain {
        /// ID
        id: String,
    },
    /// Manage the join tokens that agents enroll with
    #[command(subcommand)]
    JoinTokens(join_tokens::Command),
    /// Manage the authorities that issue agent certificates
    #[command(subcommand)]
    Authorities(authorities::Command),
}

pub(crate) async fn run(context: &Context, command: Command) -> Result<()> {
    let mut api = context.client.agents();
    match command {
        Command::List { pool, limit } => {
            let agents = pages::collect(limit, "list agents", async |page_size, page_token| {
                api.list_agents(v1::ListAgentsRequest { pool: pool.clone(), page_size, page_token }).await
            });
            agents.await?.show::<Agent>(context.format)
        }
        Command::Get { id } => {
            let step = format!("get the agent '{id}'");
            let answer = api.get_agent(v1::GetAgentRequest { agent: id }).await.doing(step)?;
            context.format.one(&Agent::from(promised(answer.into_inner().agent, "agent")?))
        }
        Command::Revoke { id, reason } => {
            let step = format!("revoke the agent '{id}'");
            let answer = api.revoke_agent(v1::RevokeAgentRequest { agent: id, reason }).await.doing(step)?;
            context.format.one(&Agent::from(promised(answer.into_inner().agent, "agent")?))
        }
        Command::Drain { id, wait } => {
            let step = format!("drain the agent '{id}'");
            let answer = api.drain_agent(v1::DrainAgentRequest { agent: id }).await.doing(step)?;
            let mut agent = promised(answer.into_inner().agent, "agent")?;
            while wait && agent.in_flight > 0 {
                tokio::time::sleep(LOOK_EVERY).await;
                let request = v1::GetAgentRequest { agent: agent.id };
                let answer = api.get_agent(request).await.doing("see whether the agent is done")?;
                agent = promised(answer.into_inner().agent, "agent")?;
            }
            context.format.one(&Agent::from(agent))
        }
        Command::Undrain { id } => {
            let step = format!("give the agent '{id}' jobs again");
            let answer = api.undrain_agent(v1::UndrainAgentRequest { agent: id }).await.doing(step)?;
            context.format.one(&Agent::from(promised(answer.into_inner().agent, "agent")?))
        }
        Command::JoinTokens(command) => join_tokens::run(context, command).await,
        Command::Authorities(command) => authorities::run(context, command).await,
    }
}
