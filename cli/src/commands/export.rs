//! `postrider export`: a tenant as a file, for `postrider apply`.

use postrider_proto::v1;

use super::Context;
use crate::declare::write;
use crate::failure::{Doing as _, Exit, Failure, Result};
use crate::output::{Format, notice, print};
use crate::pages::{self, Limit};
use crate::view::promised;

/// Prints the tenant's settings, catalogue and subscriptions; no secrets.
pub(crate) async fn run(context: &Context) -> Result<()> {
    if context.format == Format::Json {
        return Err(Failure::new(Exit::Usage, "a file is YAML; leave --output out"));
    }
    let id = context.tenant()?;
    let tenant = tenant(context, &id).await?;
    let (event_types, subscriptions) = (event_types(context, &id).await?, subscriptions(context, &id).await?);
    print(&write::file(&tenant, &event_types, &subscriptions))?;
    let nameless = subscriptions.iter().filter(|subscription| subscription.name.is_empty()).count();
    if nameless > 0 {
        notice(format_args!(
            "{nameless} subscriptions have no name: in another tenant their ids are not found; give them names"
        ));
    }
    Ok(())
}

/// The tenant.
pub(super) async fn tenant(context: &Context, id: &str) -> Result<v1::Tenant> {
    let request = v1::GetTenantRequest { tenant: id.to_owned() };
    let answer = context.client.tenants().get_tenant(request).await;
    promised(answer.doing(format!("get the tenant '{id}'"))?.into_inner().tenant, "tenant")
}

/// Its catalogue, with schemas.
pub(super) async fn event_types(context: &Context, tenant: &str) -> Result<Vec<v1::EventType>> {
    let mut api = context.client.event_types();
    let listed = pages::collect(Limit::none(), "list event types", async |page_size, page_token| {
        let tenant = tenant.to_owned();
        api.list_event_types(v1::ListEventTypesRequest { tenant, page_size, page_token }).await
    });
    let mut event_types = Vec::new();
    for entry in listed.await?.entries {
        // Lists leave schemas out.
        let step = format!("get the event type '{}'", entry.name);
        let request = v1::GetEventTypeRequest { tenant: tenant.to_owned(), name: entry.name };
        let answer = context.client.event_types().get_event_type(request).await.doing(step)?;
        event_types.push(promised(answer.into_inner().event_type, "event_type")?);
    }
    Ok(event_types)
}

/// Its subscriptions.
pub(super) async fn subscriptions(context: &Context, tenant: &str) -> Result<Vec<v1::Subscription>> {
    let mut api = context.client.subscriptions();
    let listed = pages::collect(Limit::none(), "list subscriptions", async |page_size, page_token| {
        let tenant = tenant.to_owned();
        api.list_subscriptions(v1::ListSubscriptionsRequest { tenant, page_size, page_token }).await
    });
    Ok(listed.await?.entries)
}
