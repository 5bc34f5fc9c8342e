//! `postrider pools`: named groups of agents with the same reach.

use std::time::Duration;

use postrider_proto::v1;
use prost_types::FieldMask;

use super::Context;
use crate::failure::{Doing as _, Exit, Failure, Result};
use crate::pages::{self, Limit};
use crate::time::{duration_to_wire, parse_duration};
use crate::view::pool::Pool;
use crate::view::promised;

/// What to do with pools.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum Verb {
    /// Give a pool a description and settings
    Create {
        /// Its name: a-z, 0-9 and '-'
        name: String,
        #[command(flatten)]
        settings: Settings,
    },
    /// Show one pool: its agents, and whether deliveries wait for some
    Get {
        /// Its name
        name: String,
    },
    /// List pools by name: those that were created, and those that something names
    List {
        #[command(flatten)]
        limit: Limit,
    },
    /// Change what is given
    Update {
        /// Its name
        name: String,
        #[command(flatten)]
        settings: Settings,
    },
    /// Forget a pool that nothing names any more
    Delete {
        /// Its name
        name: String,
    },
}

/// What a pool has.
#[derive(clap::Args, Debug)]
pub(crate) struct Settings {
    /// For people, at most 500 characters
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// The pool whose agents deliver when this one has none, for subscriptions that allow it; '' on update removes it
    #[arg(long, value_name = "POOL")]
    fallback: Option<String>,
    /// How long it must have had no agent: 1s to 24h [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    fallback_after: Option<Duration>,
}

impl Settings {
    /// The pool with what was given, and the paths of that.
    fn fill(self, name: String) -> (v1::Pool, Vec<String>) {
        let mut paths = Vec::new();
        let mut pool = v1::Pool { name, ..v1::Pool::default() };
        if let Some(description) = self.description {
            pool.description = description;
            paths.push("description".to_owned());
        }
        if let Some(fallback) = self.fallback {
            pool.fallback_pool = fallback;
            paths.push("fallback_pool".to_owned());
        }
        if let Some(after) = self.fallback_after {
            pool.fallback_after = Some(duration_to_wire(after));
            paths.push("fallback_after".to_owned());
        }
        (pool, paths)
    }
}

/// Runs the verb.
pub(crate) async fn run(context: &Context, verb: Verb) -> Result<()> {
    let mut api = context.client.pools();
    let pool = match verb {
        Verb::Create { name, settings } => {
            let step = format!("create the pool «{name}»");
            let request = v1::CreatePoolRequest { pool: Some(settings.fill(name).0) };
            api.create_pool(request).await.doing(step)?.into_inner().pool
        }
        Verb::Get { name } => {
            let step = format!("get the pool «{name}»");
            api.get_pool(v1::GetPoolRequest { pool: name }).await.doing(step)?.into_inner().pool
        }
        Verb::List { limit } => {
            let pools = pages::collect(limit, "list pools", async |page_size, page_token| {
                api.list_pools(v1::ListPoolsRequest { page_size, page_token }).await
            });
            return pools.await?.show::<Pool>(context.format);
        }
        Verb::Update { name, settings } => {
            let step = format!("update the pool «{name}»");
            let (pool, paths) = settings.fill(name);
            if paths.is_empty() {
                let failure = Failure::new(Exit::Usage, "nothing to update");
                return Err(failure.note("give what is to change, such as --description or --fallback"));
            }
            let request = v1::UpdatePoolRequest { pool: Some(pool), update_mask: Some(FieldMask { paths }) };
            api.update_pool(request).await.doing(step)?.into_inner().pool
        }
        Verb::Delete { name } => {
            let request = v1::DeletePoolRequest { pool: name.clone() };
            api.delete_pool(request).await.doing(format_args!("delete the pool «{name}»"))?;
            return context.done(format_args!("Deleted {name}."));
        }
    };
    context.format.one(&Pool::from(promised(pool, "pool")?))
}
