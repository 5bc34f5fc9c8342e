//! `postrider tenants`: the accounts of the platform that runs Postrider.

use postrider_proto::v1;
use prost_types::FieldMask;

use super::Context;
use crate::failure::{Doing as _, Result};
use crate::pages::{self, Limit};
use crate::view::promised;
use crate::view::tenant::Tenant;

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
    /// Change a tenant's display name
    Update {
        /// Its id
        id: String,
        /// The new name; empty removes it
        #[arg(long, value_name = "TEXT")]
        display_name: String,
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
        Verb::Update { id, display_name } => {
            let step = format!("update the tenant «{id}»");
            let request = v1::UpdateTenantRequest {
                tenant: Some(v1::Tenant { id, display_name, ..Default::default() }),
                update_mask: Some(FieldMask { paths: vec!["display_name".into()] }),
            };
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
