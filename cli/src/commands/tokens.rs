//! `postrider tokens`: who may call the API.

use std::time::Duration;

use postrider_domain::id::TokenId;
use postrider_domain::token::{Kind, SECRET_BYTES, Token as Secret};
use postrider_proto::v1;
use zeroize::Zeroizing;

use super::Context;
use crate::clock;
use crate::failure::{Doing as _, Result};
use crate::output::{notice, print};
use crate::pages::{self, Limit};
use crate::time::{duration_to_wire, parse_duration};
use crate::view::token::{NewToken, Token};
use crate::view::{parse_word, promised};

/// What to do with tokens.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum Command {
    /// Create a token and print it (it is shown only once)
    ///
    /// With --tenant (or POSTRIDER_TENANT) the token is confined to that tenant and cannot see any other.
    Create {
        /// Role: admin (everything), operator (daily work), emitter (only emit) or viewer (read only)
        #[arg(long, value_parser = parse_word::<v1::Role>)]
        role: v1::Role,
        /// Display name
        #[arg(long, value_name = "TEXT", default_value = "")]
        display_name: String,
        /// Lifetime, such as 90d or 1h [default: until it is revoked]
        #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
        lifetime: Option<Duration>,
    },
    /// List tokens, oldest first, without the tokens themselves
    List {
        #[command(flatten)]
        limit: Limit,
    },
    /// Revoke a token immediately
    Revoke {
        /// Token ID: tok_…
        #[arg(value_name = "TOKEN")]
        id: String,
        /// Also revoke the tokens that it created, and their descendants
        #[arg(long)]
        with_children: bool,
    },
    /// Generate a token for the setting bootstrap_token_file (offline)
    Generate,
}

pub(crate) async fn run(context: &Context, command: Command) -> Result<()> {
    let mut api = context.client.tokens();
    match command {
        Command::Create { role, display_name, lifetime } => {
            let tenant = context.tenant.clone().unwrap_or_default();
            let lifetime = lifetime.map(duration_to_wire);
            let request = v1::CreateTokenRequest { display_name, role: role.into(), tenant, lifetime };
            let made = api.create_token(request).await.doing("create a token")?.into_inner();
            context.format.one(&NewToken::new(promised(made.token, "token")?, made.secret))?;
            notice("The secret is shown this once: keep it. Programs send it as `authorization: Bearer …`.");
            Ok(())
        }
        Command::List { limit } => {
            let tokens = pages::collect(limit, "list tokens", async |page_size, page_token| {
                api.list_tokens(v1::ListTokensRequest { page_size, page_token }).await
            });
            tokens.await?.show::<Token>(context.format)
        }
        Command::Revoke { id, with_children } => {
            let request = v1::RevokeTokenRequest { token: id.clone(), with_children };
            let answer = api.revoke_token(request).await.doing(format_args!("revoke {id}"))?.into_inner();
            let (revoked, left) = (answer.revoked_children.len(), answer.remaining_children);
            if !left.is_empty() {
                notice(format!(
                    "{} tokens that it made are still valid: {}. Repeat with --with-children to revoke them.",
                    left.len(),
                    left.join(", ")
                ));
            }
            match revoked {
                0 => context.done(format_args!("Revoked {id}.")),
                count => context.done(format_args!("Revoked {id} and {count} tokens that it made.")),
            }
        }
        Command::Generate => print(&format!("{}\n", new_token().as_str())),
    }
}

/// A new token that no control plane knows yet.
pub(crate) fn new_token() -> Zeroizing<String> {
    let id = TokenId::new(clock::now(), rand::random());
    Secret::new(Kind::Api, id, rand::random::<[u8; SECRET_BYTES]>()).expose_text()
}
