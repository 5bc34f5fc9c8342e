//! `TenantService`.

use postrider_domain::access::Scope;
use postrider_domain::audit::Entry;
use postrider_domain::catalogue::Strictness;
use postrider_domain::id::TenantId;
use postrider_proto::v1::tenant_service_server::TenantService;
use postrider_proto::v1::{
    CreateTenantRequest, CreateTenantResponse, DeleteTenantRequest, DeleteTenantResponse, GetTenantRequest,
    GetTenantResponse, ListTenantsRequest, ListTenantsResponse, Tenant, UpdateTenantRequest,
    UpdateTenantResponse,
};
use postrider_proto::{event_type, time};
use tonic::{Request, Response, Status};

use super::{Api, page, status, views};

const LIST: &str = "tenants";
const MAX_NAME: usize = 200;

#[tonic::async_trait]
impl TenantService for Api {
    async fn create_tenant(
        &self,
        request: Request<CreateTenantRequest>,
    ) -> Result<Response<CreateTenantResponse>, Status> {
        let (api, request) = self.call(request);
        let wanted = request.tenant.unwrap_or_default();
        let id: TenantId = status::parse("tenant.id", &wanted.id)?;
        check_name(&wanted.display_name)?;
        let unknown = unknown(&wanted)?;
        let _change = api.registry.change().await;
        if api.registry.has_tenant(&id) {
            return Err(status::exists("tenant", &wanted.id));
        }
        let now = Some(time::write(api.clock.wall()));
        let tenant = Tenant { create_time: now, update_time: now, ..wanted };
        let audit = api.entry("CreateTenant", Some(&id), &id);
        api.store.put_tenant(tenant.clone(), audit).await.map_err(|error| status::store(&error))?;
        api.registry.catalogues.set_unknown(&id, unknown);
        api.registry.add_tenant(id);
        Ok(Response::new(CreateTenantResponse { tenant: Some(tenant) }))
    }

    async fn get_tenant(
        &self,
        request: Request<GetTenantRequest>,
    ) -> Result<Response<GetTenantResponse>, Status> {
        let (api, request) = self.call(request);
        let tenant = api.stored_tenant(&request.tenant).await?;
        Ok(Response::new(GetTenantResponse { tenant: Some(tenant) }))
    }

    async fn list_tenants(
        &self,
        request: Request<ListTenantsRequest>,
    ) -> Result<Response<ListTenantsResponse>, Status> {
        let (api, request) = self.call(request);
        let size = page::size(request.page_size)?;
        let after = page::read(LIST, &request.page_token)?;
        let mut tenants = api.visible_tenants(after, size + 1).await?;
        let next_page_token = page::after(LIST, &mut tenants, size, |tenant| tenant.id.clone());
        Ok(Response::new(ListTenantsResponse { tenants, next_page_token }))
    }

    async fn update_tenant(
        &self,
        request: Request<UpdateTenantRequest>,
    ) -> Result<Response<UpdateTenantResponse>, Status> {
        let (api, request) = self.call(request);
        let wanted = request.tenant.unwrap_or_default();
        let fields = views::mask(request.update_mask, &["display_name", "unknown_event_types"])?;
        let _change = api.registry.change().await;
        let mut tenant = api.stored_tenant(&wanted.id).await?;
        let before = tenant.display_name.clone();
        if fields.contains(&"display_name") {
            check_name(&wanted.display_name)?;
            tenant.display_name = wanted.display_name;
        }
        if fields.contains(&"unknown_event_types") {
            tenant.unknown_event_types = wanted.unknown_event_types;
        }
        let unknown = unknown(&tenant)?;
        tenant.update_time = Some(time::write(api.clock.wall()));
        let id: TenantId = status::parse("tenant", &tenant.id)?;
        let named = format!("display_name: «{before}» → «{}»", tenant.display_name);
        let detail = if fields.contains(&"unknown_event_types") {
            format!("{named}; unknown_event_types: {}", tenant.unknown_event_types().as_str_name())
        } else {
            named
        };
        let audit = Entry { detail, ..api.entry("UpdateTenant", Some(&id), &id) };
        api.store.put_tenant(tenant.clone(), audit).await.map_err(|error| status::store(&error))?;
        api.registry.catalogues.set_unknown(&id, unknown);
        Ok(Response::new(UpdateTenantResponse { tenant: Some(tenant) }))
    }

    async fn delete_tenant(
        &self,
        request: Request<DeleteTenantRequest>,
    ) -> Result<Response<DeleteTenantResponse>, Status> {
        let (api, request) = self.call(request);
        let _change = api.registry.change().await;
        let tenant = api.tenant(&request.tenant)?;
        Self::check_not_own(&tenant)?;
        if !api.registry.list(&tenant, None, 1).is_empty() {
            return Err(status::precondition(
                "HAS_SUBSCRIPTIONS",
                "the tenant has subscriptions; delete them first",
            ));
        }
        let tokens = api.tokens.of_tenant(&tenant);
        let detail = match tokens.len() {
            0 => String::new(),
            count => format!("and the {count} tokens that were confined to it"),
        };
        let audit = Entry { detail, ..api.entry("DeleteTenant", Some(&tenant), &tenant) };
        api.store.delete_tenant(&tenant, &tokens, audit).await.map_err(|error| status::store(&error))?;
        api.tokens.forget(&tokens);
        api.registry.remove_tenant(&tenant);
        Ok(Response::new(DeleteTenantResponse {}))
    }
}

impl Api {
    async fn stored_tenant(&self, id: &str) -> Result<Tenant, Status> {
        let tenant = self.tenant(id)?;
        let stored = self.store.tenant(&tenant).await.map_err(|error| status::store(&error))?;
        stored.ok_or_else(|| status::not_found("tenant", id))
    }

    /// Tenants by id: all, or the one to which the caller is confined.
    async fn visible_tenants(&self, after: Option<TenantId>, limit: usize) -> Result<Vec<Tenant>, Status> {
        match &self.caller.scope {
            Scope::Everything => {
                self.store.tenants(after, limit).await.map_err(|error| status::store(&error))
            }
            Scope::Tenant(own) if after.is_none() => Ok(vec![self.stored_tenant(own.as_str()).await?]),
            Scope::Tenant(_) | Scope::Nothing => Ok(Vec::new()),
        }
    }
}

fn unknown(tenant: &Tenant) -> Result<Strictness, Status> {
    event_type::read_strictness("tenant.unknown_event_types", tenant.unknown_event_types)
        .map_err(|violation| status::invalid(&[violation]))
}

fn check_name(name: &str) -> Result<(), Status> {
    if name.chars().count() <= MAX_NAME {
        return Ok(());
    }
    Err(status::invalid_field("tenant.display_name", "must have at most 200 characters"))
}
