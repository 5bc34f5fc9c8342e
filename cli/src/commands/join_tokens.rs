//! `postrider agents join-tokens`: what agents enroll with.

use std::time::Duration;

use postrider_proto::v1;

use super::Context;
use crate::failure::{Doing as _, Result};
use crate::output::{Format, notice, print};
use crate::pages::{self, Limit};
use crate::time::{duration_to_wire, parse_duration};
use crate::view::join_token::{JoinToken, NewJoinToken};
use crate::view::promised;

/// What to do with join tokens.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum Command {
    /// Create a join token: the only setting that an agent needs to connect (`join`)
    ///
    /// The token contains the control plane's address, a secret, and the fingerprint of the control plane's
    /// authority. Keep it secret until it is used up or has expired.
    Create {
        /// Pool that the agents join
        #[arg(long, value_name = "POOL", default_value = "default")]
        pool: String,
        /// Number of agents that may enroll with it (the replicas of a deployment): 1 to 10000
        #[arg(long, value_name = "NUMBER", default_value_t = 1)]
        uses: u32,
        /// Lifetime: 1m to 366d [default: 15m]
        #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
        lifetime: Option<Duration>,
        /// Display name
        #[arg(long, value_name = "TEXT", default_value = "")]
        display_name: String,
    },
    /// List join tokens, oldest first, without the tokens themselves
    List {
        #[command(flatten)]
        limit: Limit,
    },
    /// Revoke a join token now; agents that enrolled with it stay
    Revoke {
        /// Token ID: tok_…
        token: String,
    },
}

pub(crate) async fn run(context: &Context, command: Command) -> Result<()> {
    let mut api = context.client.agents();
    match command {
        Command::Create { pool, uses, lifetime, display_name } => {
            let lifetime = lifetime.map(duration_to_wire);
            let request = v1::CreateJoinTokenRequest { display_name, pool, max_uses: uses, lifetime };
            let made = api.create_join_token(request).await.doing("create a join token")?.into_inner();
            let token = JoinToken::from(promised(made.join_token, "join_token")?);
            if context.format == Format::Json {
                return context.format.one(&NewJoinToken::new(token, made.join, made.warnings));
            }
            made.warnings.iter().for_each(|warning| notice(format_args!("warning: {warning}")));
            notice(token.promise());
            print(&format!("{}\n", made.join))
        }
        Command::List { limit } => {
            let tokens = pages::collect(limit, "list join tokens", async |page_size, page_token| {
                api.list_join_tokens(v1::ListJoinTokensRequest { page_size, page_token }).await
            });
            tokens.await?.show::<JoinToken>(context.format)
        }
        Command::Revoke { token } => {
            let request = v1::RevokeJoinTokenRequest { join_token: token.clone() };
            api.revoke_join_token(request).await.doing(format_args!("revoke {token}"))?;
            context.done(format_args!("Revoked {token}."))
        }
    }
}
