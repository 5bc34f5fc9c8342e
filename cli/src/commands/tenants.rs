//! `postrider tenants`: the accounts of the platform that runs Postrider.

use postrider_domain::quota::NO_LIMIT;
use postrider_proto::v1;
use prost_types::FieldMask;

use super::{Context, operations};
use crate::failure::{Doing as _, Result};
use crate::pages::{self, Limit};
use crate::view::operation::Operation;
use crate::view::tenant::Tenant;
use crate::view::{limit, parse_word, promised};

/// What to do with tenants.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum Command {
    /// Create a tenant
    Create {
        /// ID: 1 to 63 characters of a-z, 0-9 and '-'. It cannot be changed
        id: String,
        /// Display name
        #[arg(long, value_name = "TEXT", default_value = "")]
        display_name: String,
    },
    /// Show one tenant
    Get {
        /// ID
        id: String,
    },
    /// List tenants by id
    List {
        #[command(flatten)]
        limit: Limit,
    },
    /// Update a tenant
    Update(Update),
    /// Delete a tenant and everything that belongs to it, as an operation
    Delete {
        /// ID
        id: String,
        /// Delete it even if it has subscriptions
        #[arg(long)]
        with_subscriptions: bool,
        /// Wait until the deletion is complete
        #[arg(long)]
        wait: bool,
    },
}

/// What is changed.
#[derive(clap::Args, Debug)]
#[group(skip)]
#[command(group = clap::ArgGroup::new("change").required(true).multiple(true))]
pub(crate) struct Update {
    /// ID
    id: String,
    /// New display name; empty removes it
    #[arg(long, value_name = "TEXT", group = "change")]
    display_name: Option<String>,
    /// How to handle events whose type is not in the catalogue: off, warn or reject
    #[arg(long, value_name = "STRICTNESS", value_parser = parse_word::<v1::Strictness>, group = "change")]
    unknown_event_types: Option<v1::Strictness>,
    /// Maximum number of subscriptions, or "default" or "unlimited"
    #[arg(long, value_name = "COUNT", value_parser = limit::read, group = "change")]
    max_subscriptions: Option<u32>,
    /// Maximum events per second, or "default" or "unlimited"
    #[arg(long, value_name = "PER SECOND", value_parser = limit::read, group = "change")]
    emit_rate: Option<u32>,
    /// Maximum burst of events; 0 for the events of one second
    #[arg(long, value_name = "COUNT", group = "change")]
    emit_burst: Option<u32>,
    /// Maximum deliveries per second that its events cause, or "default" or "unlimited"
    #[arg(long, value_name = "PER SECOND", value_parser = limit::read, group = "change")]
    delivery_rate: Option<u32>,
    /// Maximum burst of deliveries; 0 for the deliveries of two seconds
    #[arg(long, value_name = "COUNT", group = "change")]
    delivery_burst: Option<u32>,
    /// Maximum size of its stored events in bytes, or "default" or "unlimited"
    #[arg(long, value_name = "BYTES", value_parser = limit::read_bytes, group = "change")]
    max_stored_bytes: Option<u64>,
    /// Maximum number of event types, or "default" or "unlimited"
    #[arg(long, value_name = "COUNT", value_parser = limit::read, group = "change")]
    max_event_types: Option<u32>,
}

pub(crate) async fn run(context: &Context, command: Command) -> Result<()> {
    let mut api = context.client.tenants();
    match command {
        Command::Create { id, display_name } => {
            let step = format!("create the tenant '{id}'");
            let tenant = Some(v1::Tenant { id, display_name, ..Default::default() });
            let answer = api.create_tenant(v1::CreateTenantRequest { tenant }).await.doing(step)?;
            show(context, answer.into_inner().tenant)
        }
        Command::Get { id } => {
            let step = format!("get the tenant '{id}'");
            let answer = api.get_tenant(v1::GetTenantRequest { tenant: id }).await.doing(step)?;
            show(context, answer.into_inner().tenant)
        }
        Command::List { limit } => {
            let tenants = pages::collect(limit, "list tenants", async |page_size, page_token| {
                api.list_tenants(v1::ListTenantsRequest { page_size, page_token }).await
            });
            tenants.await?.show::<Tenant>(context.format)
        }
        Command::Update(update) => self::update(context, update).await,
        Command::Delete { id, with_subscriptions, wait } => {
            let step = format!("delete the tenant '{id}'");
            let request = v1::DeleteTenantRequest { tenant: id.clone(), with_subscriptions };
            let answer = api.delete_tenant(request).await.doing(step)?;
            let begun = promised(answer.into_inner().operation, "operation")?;
            let context = Context { tenant: Some(id), ..context.clone() };
            let operation = if wait { operations::follow(&context, begun).await? } else { begun };
            context.format.one(&Operation::from(operation))
        }
    }
}

async fn update(context: &Context, update: Update) -> Result<()> {
    let mut api = context.client.tenants();
    let step = format!("update the tenant '{}'", update.id);
    let quota = [
        update.max_subscriptions.is_some(),
        update.emit_rate.is_some(),
        update.emit_burst.is_some(),
        update.max_stored_bytes.is_some(),
        update.max_event_types.is_some(),
        update.delivery_rate.is_some(),
        update.delivery_burst.is_some(),
    ];
    let of_quota = quota.contains(&true);
    let mut tenant = v1::Tenant {
        id: update.id.clone(),
        display_name: update.display_name.clone().unwrap_or_default(),
        unknown_event_types: update.unknown_event_types.unwrap_or_default().into(),
        ..Default::default()
    };
    if of_quota {
        // A quota is set as a whole: what is not named stays.
        let request = v1::GetTenantRequest { tenant: update.id };
        let now = promised(api.get_tenant(request).await.doing(&step)?.into_inner().tenant, "tenant")?;
        let now = now.quota.unwrap_or_default();
        tenant.quota = Some(v1::TenantQuota {
            max_subscriptions: update.max_subscriptions.unwrap_or(now.max_subscriptions),
            emit_rate: update.emit_rate.unwrap_or(now.emit_rate),
            emit_burst: update.emit_burst.unwrap_or(burst(update.emit_rate, now.emit_burst)),
            delivery_rate: update.delivery_rate.unwrap_or(now.delivery_rate),
            delivery_burst: update.delivery_burst.unwrap_or(burst(update.delivery_rate, now.delivery_burst)),
            max_stored_bytes: update.max_stored_bytes.unwrap_or(now.max_stored_bytes),
            max_event_types: update.max_event_types.unwrap_or(now.max_event_types),
        });
    }
    let given = [
        ("display_name", update.display_name.is_some()),
        ("unknown_event_types", update.unknown_event_types.is_some()),
        ("quota", of_quota),
    ];
    let paths = given.into_iter().filter(|(_, given)| *given).map(|(path, _)| path.to_owned()).collect();
    let request = v1::UpdateTenantRequest { tenant: Some(tenant), update_mask: Some(FieldMask { paths }) };
    let answer = api.update_tenant(request).await.doing(step)?;
    show(context, answer.into_inner().tenant)
}

/// The burst that stays when a rate is set: none where there is no rate of its own any more.
fn burst(rate: Option<u32>, now: u32) -> u32 {
    if matches!(rate, Some(0 | NO_LIMIT)) { 0 } else { now }
}

fn show(context: &Context, tenant: Option<v1::Tenant>) -> Result<()> {
    context.format.one(&Tenant::from(promised(tenant, "tenant")?))
}
