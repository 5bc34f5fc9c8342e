//! `postrider pools`: named groups of agents with the same reach.

use std::time::Duration;

use postrider_proto::v1;
use prost_types::FieldMask;

use super::Context;
use crate::failure::{Doing as _, Exit, Failure, Result};
use crate::output::notice;
use crate::pages::{self, Limit};
use crate::time::{duration_to_wire, parse_duration};
use crate::view::pool::Pool;
use crate::view::promised;

/// What to do with pools.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum Command {
    /// Create a pool with a description and settings
    Create {
        /// Name: a-z, 0-9 and '-'
        name: String,
        #[command(flatten)]
        settings: Settings,
    },
    /// Show one pool: its agents, and whether deliveries wait for an agent
    Get {
        /// Name
        name: String,
    },
    /// List pools by name: created pools, and those referred to by agents or subscriptions
    List {
        #[command(flatten)]
        limit: Limit,
    },
    /// Update the given settings
    Update {
        /// Name
        name: String,
        #[command(flatten)]
        settings: Settings,
    },
    /// Delete a pool that nothing refers to
    Delete {
        /// Name
        name: String,
    },
}

/// What a pool has.
#[derive(clap::Args, Debug)]
pub(crate) struct Settings {
    /// Description, at most 500 characters
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Fallback pool: its agents deliver while this pool has none, for subscriptions that allow it; '' on update
    /// removes it
    #[arg(long, value_name = "POOL")]
    fallback: Option<String>,
    /// How long the pool must be without agents before the fallback delivers: 1s to 24h [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    fallback_after: Option<Duration>,
    #[command(flatten)]
    tenants: Tenants,
}

/// Who may use a pool. These are not the `--tenant` of other commands: that one may come from the environment, and nobody
/// should give a pool away by it.
#[derive(clap::Args, Debug, Default)]
pub(crate) struct Tenants {
    /// Allow a tenant's subscriptions to use the pool; may be repeated
    #[arg(long, value_name = "TENANT")]
    add_tenant: Vec<String>,
    /// Stop a tenant's subscriptions from using the pool: their deliveries are held; may be repeated
    #[arg(long, value_name = "TENANT")]
    remove_tenant: Vec<String>,
    /// Allow every tenant to use the pool, including tenants created later
    #[arg(long, conflicts_with_all = ["add_tenant", "remove_tenant", "no_tenants"])]
    all_tenants: bool,
    /// Clear the list of allowed tenants first; without --add-tenant, no tenant may use the pool
    #[arg(long, conflicts_with = "remove_tenant")]
    no_tenants: bool,
}

impl Tenants {
    /// The whole list, if that is what was given.
    fn list(&self) -> Option<Vec<String>> {
        if self.all_tenants {
            return Some(vec!["*".to_owned()]);
        }
        self.no_tenants.then(|| self.add_tenant.clone())
    }

    fn is_empty(&self) -> bool {
        self.add_tenant.is_empty() && self.remove_tenant.is_empty()
    }
}

impl Settings {
    /// The pool as it is to be created.
    fn created(mut self, name: String) -> Result<v1::Pool> {
        if !self.tenants.remove_tenant.is_empty() {
            let failure = Failure::new(Exit::Usage, "a new pool has no tenants to remove");
            return Err(failure.note("--add-tenant lists a tenant that may use it"));
        }
        let tenants = std::mem::take(&mut self.tenants);
        let listed = tenants.list().unwrap_or(tenants.add_tenant);
        Ok(v1::Pool { tenants: listed, ..self.fill(name).0 })
    }

    /// The change; nothing when nothing was given.
    fn updated(mut self, name: String) -> Option<v1::UpdatePoolRequest> {
        let tenants = std::mem::take(&mut self.tenants);
        let (mut pool, mut paths) = self.fill(name);
        let (mut add_tenants, mut remove_tenants) = (Vec::new(), Vec::new());
        if let Some(list) = tenants.list() {
            pool.tenants = list;
            paths.push("tenants".to_owned());
        } else if !tenants.is_empty() {
            (add_tenants, remove_tenants) = (tenants.add_tenant, tenants.remove_tenant);
        } else if paths.is_empty() {
            return None;
        }
        let update_mask = Some(FieldMask { paths });
        Some(v1::UpdatePoolRequest { pool: Some(pool), update_mask, add_tenants, remove_tenants })
    }

    /// The pool with what was given but its tenants, and the paths of that.
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

pub(crate) async fn run(context: &Context, command: Command) -> Result<()> {
    let mut api = context.client.pools();
    let pool = match command {
        Command::Create { name, settings } => {
            let step = format!("create the pool '{name}'");
            let request = v1::CreatePoolRequest { pool: Some(settings.created(name)?) };
            let pool = api.create_pool(request).await.doing(step)?.into_inner().pool;
            hint(pool.as_ref());
            pool
        }
        Command::Get { name } => {
            let step = format!("get the pool '{name}'");
            api.get_pool(v1::GetPoolRequest { pool: name }).await.doing(step)?.into_inner().pool
        }
        Command::List { limit } => {
            let pools = pages::collect(limit, "list pools", async |page_size, page_token| {
                api.list_pools(v1::ListPoolsRequest { page_size, page_token }).await
            });
            return pools.await?.show::<Pool>(context.format);
        }
        Command::Update { name, settings } => {
            let step = format!("update the pool '{name}'");
            let Some(request) = settings.updated(name) else {
                let failure = Failure::new(Exit::Usage, "nothing to update");
                return Err(failure.note(
                    "nothing to update: give at least one setting, such as --fallback or --add-tenant",
                ));
            };
            api.update_pool(request).await.doing(step)?.into_inner().pool
        }
        Command::Delete { name } => {
            let request = v1::DeletePoolRequest { pool: name.clone() };
            api.delete_pool(request).await.doing(format_args!("delete the pool '{name}'"))?;
            return context.done(format_args!("Deleted {name}."));
        }
    };
    context.format.one(&Pool::from(promised(pool, "pool")?))
}

/// A pool that nobody may use is of no use yet.
fn hint(pool: Option<&v1::Pool>) {
    if let Some(v1::Pool { name, .. }) = pool.filter(|pool| pool.tenants.is_empty()) {
        notice(format_args!(
            "No tenant may use the pool {name} yet; allow one by `postrider pools update {name} --add-tenant TENANT`."
        ));
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        settings: Settings,
    }

    fn settings(line: &str) -> Settings {
        Line::parse_from(std::iter::once("x").chain(line.split_whitespace())).settings
    }

    #[test]
    fn a_list_of_tenants_is_changed_or_replaced() {
        let table = [
            ("--add-tenant a --add-tenant b", None, vec!["a", "b"], vec![]),
            ("--remove-tenant a", None, vec![], vec!["a"]),
            ("--add-tenant a --remove-tenant b", None, vec!["a"], vec!["b"]),
            ("--all-tenants", Some(vec!["*"]), vec![], vec![]),
            ("--no-tenants", Some(vec![]), vec![], vec![]),
            ("--no-tenants --add-tenant a", Some(vec!["a"]), vec![], vec![]),
        ];
        for (line, list, added, removed) in table {
            let request = settings(line).updated("edge".into()).unwrap();
            let paths = request.update_mask.unwrap().paths;
            assert_eq!(paths.contains(&"tenants".to_owned()), list.is_some(), "{line}");
            assert_eq!(request.pool.unwrap().tenants, list.unwrap_or_default(), "{line}");
            assert_eq!(
                (request.add_tenants, request.remove_tenants),
                (owned(&added), owned(&removed)),
                "{line}"
            );
        }
        assert!(settings("").updated("edge".into()).is_none());
        for line in
            ["--all-tenants --add-tenant a", "--all-tenants --no-tenants", "--no-tenants --remove-tenant a"]
        {
            assert!(Line::try_parse_from(std::iter::once("x").chain(line.split(' '))).is_err(), "{line}");
        }
    }

    #[test]
    fn a_new_pool_is_nobodys_unless_somebody_is_named() {
        let made = |line: &str| settings(line).created("edge".into()).map(|pool| pool.tenants);
        assert_eq!(made("").unwrap(), owned(&[]));
        assert_eq!(made("--add-tenant a").unwrap(), owned(&["a"]));
        assert_eq!(made("--all-tenants").unwrap(), owned(&["*"]));
        assert!(made("--remove-tenant a").is_err());
    }

    fn owned(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }
}
