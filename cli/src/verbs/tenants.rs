//! `postrider tenants`: the accounts of the platform that runs Postrider.

use postrider_proto::v1;
use prost_types::FieldMask;

use super::Context;
use crate::failure::{Doing as _, Result};
use crate::pages::{self, Limit};
use crate::view::tenant::Tenant;
use crate::view::{parse_word, promised};

/// What to do with tenants.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum Verb {
    /// Create a tenant
    Create {
        /// Its id: 1 to 63 characters of a-z, 0-9 and '-'. It never changes
        id: String,
        /// A name for people
        #[arg(long, value_name = "TEXT", default_value = "")]
        display_name: String,
    },
    /// Show one tenant
    Get {
        /// Its id
        id: String,
    },
    /// List tenants by id
    List {
        #[command(flatten)]
        limit: Limit,
    },
    /// Change a tenant
    Update {
        /// Its id
        id: String,
        /// The new name; empty removes it
        #[arg(long, value_name = "TEXT", required_unless_present = "unknown_event_types")]
        display_name: Option<String>,
        /// What follows when an event's type is not in the catalogue: off, warn or reject
        #[arg(long, value_name = "STRICTNESS", value_parser = parse_word::<v1::Strictness>)]
        unknown_event_types: Option<v1::Strictness>,
    },
    /// Delete a tenant that has no subscriptions
    Delete {
        /// Its id
        id: String,
    },
}

/// Runs the verb.
pub(crate) async fn run(context: &Context, verb: Verb) -> Result<()> {
    let mut api = context.client.tenants();
    match verb {
        Verb::Create { id, display_name } => {
            let step = format!("create the tenant «{id}»");
            let tenant = Some(v1::Tenant { id, display_name, ..Default::default() });
            let answer = api.create_tenant(v1::CreateTenantRequest { tenant }).await.doing(step)?;
            show(context, answer.into_inner().tenant)
        }
        Verb::Get { id } => {
            let step = format!("get the tenant «{id}»");
            let answer = api.get_tenant(v1::GetTenantRequest { tenant: id }).await.doing(step)?;
            show(context, answer.into_inner().tenant)
        }
        Verb::List { limit } => {
            let tenants = pages::collect(limit, "list tenants", async |page_size, page_token| {
                api.list_tenants(v1::ListTenantsRequest { page_size, page_token }).await
            });
            tenants.await?.show::<Tenant>(context.format)
        }
        Verb::Update { id, display_name, unknown_event_types } => {
            let step = format!("update the tenant «{id}»");
            let given = [
                ("display_name", display_name.is_some()),
                ("unknown_event_types", unknown_event_types.is_some()),
            ];
            let paths =
                given.into_iter().filter(|(_, given)| *given).map(|(path, _)| path.to_owned()).collect();
            let tenant = v1::Tenant {
                id,
                display_name: display_name.unwrap_or_default(),
                unknown_event_types: unknown_event_types.unwrap_or_default().into(),
                ..Default::default()
            };
            let request =
                v1::UpdateTenantRequest { tenant: Some(tenant), update_mask: Some(FieldMask { paths }) };
            let answer = api.update_tenant(request).await.doing(step)?;
            show(context, answer.into_inner().tenant)
        }
        Verb::Delete { id } => {
            let request = v1::DeleteTenantRequest { tenant: id.clone() };
            api.delete_tenant(request).await.doing(format_args!("delete the tenant «{id}»"))?;
            context.done(format_args!("Deleted {id}."))
        }
    }
}

fn show(context: &Context, tenant: Option<v1::Tenant>) -> Result<()> {
    context.format.one(&Tenant::from(promised(tenant, "tenant")?))
}
