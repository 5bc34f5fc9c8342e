//! `TenantService`.

use postrider_domain::access::Scope;
use postrider_domain::audit::Entry;
use postrider_domain::catalogue::Strictness;
use postrider_domain::id::TenantId;
use postrider_domain::quota::OwnQuota;
use postrider_proto::v1::operation::Work;
use postrider_proto::v1::tenant_service_server::TenantService;
use postrider_proto::v1::{
    CreateTenantRequest, CreateTenantResponse, DeleteTenantRequest, DeleteTenantResponse, GetTenantRequest,
    GetTenantResponse, ListTenantsRequest, ListTenantsResponse, Tenant, TenantDeletion, TenantState,
    TenantUsage, UpdateTenantRequest, UpdateTenantResponse,
};
use postrider_proto::{event_type, tenant, time};
use tonic::{Request, Response, Status};

use super::{Api, operations, page, status, views};
use crate::registry::TenantStatus;
use crate::store::Page;

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
        let (unknown, quota) = (unknown(&wanted)?, quota(&wanted)?);
        let _change = api.registry.change().await;
        match api.registry.tenant_status(&id) {
            TenantStatus::Active => return Err(status::exists("tenant", &wanted.id)),
            TenantStatus::Deleting => return Err(status::deleting(&id)),
            TenantStatus::Unknown => {}
        }
        let now = Some(time::write(api.clock.wall()));
        let state = TenantState::Active.into();
        let tenant =
            Tenant { create_time: now, update_time: now, state, usage: None, quota_in_force: None, ..wanted };
        let audit = Entry { detail: described(&tenant), ..api.entry("CreateTenant", Some(&id), &id) };
        api.store.put_tenant(tenant.clone(), audit).await.map_err(|error| status::store(&error))?;
        api.registry.catalogues.set_unknown(&id, unknown);
        api.registry.add_tenant(id.clone());
        api.apply_quota(&id, quota);
        let tenant = api.with_usage(vec![tenant]).await?.pop();
        Ok(Response::new(CreateTenantResponse { tenant }))
    }

    async fn get_tenant(
        &self,
        request: Request<GetTenantRequest>,
    ) -> Result<Response<GetTenantResponse>, Status> {
        let (api, request) = self.call(request);
        let tenant = api.stored_tenant(&request.tenant).await?;
        let tenant = api.with_usage(vec![tenant]).await?.pop();
        Ok(Response::new(GetTenantResponse { tenant }))
    }

    async fn list_tenants(
        &self,
        request: Request<ListTenantsRequest>,
    ) -> Result<Response<ListTenantsResponse>, Status> {
        let (api, request) = self.call(request);
        let size = page::size(request.page_size)?;
        let after = page::read(LIST, &request.page_token)?;
        let Page { items, next } = api.visible_tenants(after, size).await?;
        let next_page_token = page::write(LIST, next);
        let tenants = api.with_usage(items).await?;
        Ok(Response::new(ListTenantsResponse { tenants, next_page_token }))
    }

    async fn update_tenant(
        &self,
        request: Request<UpdateTenantRequest>,
    ) -> Result<Response<UpdateTenantResponse>, Status> {
        let (api, request) = self.call(request);
        let wanted = request.tenant.unwrap_or_default();
        let fields = api.settable(request.update_mask)?;
        let _change = api.registry.change().await;
        let id = api.tenant(&wanted.id)?;
        let mut tenant = api.stored_tenant(&wanted.id).await?;
        let before = tenant.display_name.clone();
        if fields.contains(&"display_name") {
            check_name(&wanted.display_name)?;
            tenant.display_name = wanted.display_name;
        }
        if fields.contains(&"unknown_event_types") {
            tenant.unknown_event_types = wanted.unknown_event_types;
        }
        let mut detail = format!("display_name: '{before}' → '{}'", tenant.display_name);
        if fields.contains(&"unknown_event_types") {
            let unknown = tenant.unknown_event_types().as_str_name();
            detail = format!("{detail}; unknown_event_types: {unknown}");
        }
        if fields.contains(&"quota") {
            tenant.quota = wanted.quota;
            detail = format!("{detail}; {}", described(&tenant));
        }
        let (unknown, quota) = (unknown(&tenant)?, quota(&tenant)?);
        tenant.update_time = Some(time::write(api.clock.wall()));
        let audit = Entry { detail, ..api.entry("UpdateTenant", Some(&id), &id) };
        api.store.put_tenant(tenant.clone(), audit).await.map_err(|error| status::store(&error))?;
        api.registry.catalogues.set_unknown(&id, unknown);
        api.apply_quota(&id, quota);
        let tenant = api.with_usage(vec![tenant]).await?.pop();
        Ok(Response::new(UpdateTenantResponse { tenant }))
    }

    async fn delete_tenant(
        &self,
        request: Request<DeleteTenantRequest>,
    ) -> Result<Response<DeleteTenantResponse>, Status> {
        let (api, request) = self.call(request);
        let _change = api.registry.change().await;
        let id: TenantId = status::parse("tenant", &request.tenant)?;
        Self::check_not_own(&id)?;
        if api.registry.tenant_status(&id) == TenantStatus::Deleting
            && let Some(row) = api.operations.deletion_of(&id)
        {
            return Ok(Response::new(DeleteTenantResponse { operation: Some(row.operation) }));
        }
        let mut tenant = api.stored_tenant(&request.tenant).await?;
        let subscriptions = api.registry.count(&id);
        if subscriptions > 0 && !request.with_subscriptions {
            return Err(status::precondition(
                "HAS_SUBSCRIPTIONS",
                "the tenant has subscriptions; delete them first, or set with_subscriptions",
            ));
        }
        let tokens = api.tokens.of_tenant(&id);
        let row = api.new_operation(&id, Work::TenantDeletion(TenantDeletion {}));
        let detail = format!(
            "{}: with {subscriptions} subscriptions and the {} tokens that were confined to it",
            row.id,
            tokens.len()
        );
        let audit = Entry { detail, ..api.entry("DeleteTenant", Some(&id), &id) };
        tenant.set_state(TenantState::Deleting);
        api.leave_pools(&id).await?;
        let begun = api.operations.begin_deletion(tenant, row, &tokens, audit).await;
        let row = begun.map_err(|error| operations::refused(&error, &request.tenant))?;
        api.tokens.forget(&tokens);
        api.judge.schemas().forget_all(&id);
        for subscription in api.registry.begin_deletion(&id) {
            api.lanes.deleted(subscription).await;
        }
        Ok(Response::new(DeleteTenantResponse { operation: Some(row.operation) }))
    }
}

impl Api {
    /// A tenant, even while it is being deleted.
    async fn stored_tenant(&self, id: &str) -> Result<Tenant, Status> {
        let tenant: TenantId = status::parse("tenant", id)?;
        if !self.caller.scope.sees(&tenant) || self.registry.tenant_status(&tenant) == TenantStatus::Unknown {
            return Err(status::not_found("tenant", id));
        }
        let stored = self.store.tenant(&tenant).await.map_err(|error| status::store(&error))?;
        stored.ok_or_else(|| status::not_found("tenant", id))
    }

    /// Tenants by id: all, or the one to which the caller is confined.
    async fn visible_tenants(
        &self,
        after: Option<TenantId>,
        limit: usize,
    ) -> Result<Page<Tenant, TenantId>, Status> {
        let all = |items| Page { items, next: None };
        match &self.caller.scope {
            Scope::Everything => {
                self.store.tenants(after, limit).await.map_err(|error| status::store(&error))
            }
            Scope::Tenant(own) if after.is_none() => Ok(all(vec![self.stored_tenant(own.as_str()).await?])),
            Scope::Tenant(_) | Scope::Nothing => Ok(all(Vec::new())),
        }
    }
}

impl Api {
    /// The fields that an update is about. What a tenant may use is not its own business.
    fn settable(&self, mask: Option<prost_types::FieldMask>) -> Result<Vec<&'static str>, Status> {
        let named = mask.as_ref().is_some_and(|mask| mask.paths.iter().any(|path| path == "quota"));
        let mut fields = views::mask(mask, &["display_name", "unknown_event_types", "quota"])?;
        if self.caller.scope != Scope::Everything {
            if named {
                return Err(status::confined("UpdateTenant with quota"));
            }
            fields.retain(|field| *field != "quota");
        }
        Ok(fields)
    }

    fn apply_quota(&self, tenant: &TenantId, quota: OwnQuota) {
        self.registry.set_quota(tenant, quota);
        let in_force = (quota != OwnQuota::default()).then(|| self.registry.quota(tenant));
        self.emitter.limit(tenant, in_force.as_ref());
    }

    /// Whether the tenant may have one subscription more. Must be called while changes are held off.
    pub(super) fn check_subscriptions(&self, tenant: &TenantId) -> Result<(), Status> {
        let (quota, has) = (self.registry.quota(tenant), self.registry.count(tenant));
        if quota.admits_subscription(has) {
            return Ok(());
        }
        let message = format!(
            "the tenant has {has} subscriptions and may have no more; delete some, or ask the operator for more"
        );
        self.emitter.refused_by_quota("subscriptions");
        Err(status::quota_exceeded("TENANT_SUBSCRIPTIONS_EXCEEDED", tenant, &message, None))
    }

    /// Tenants as users see them: with what they use now, and may use.
    async fn with_usage(&self, mut tenants: Vec<Tenant>) -> Result<Vec<Tenant>, Status> {
        let ids: Vec<TenantId> = tenants.iter().filter_map(|tenant| tenant.id.parse().ok()).collect();
        let stored = self.store.stored_bytes(ids.clone()).await.map_err(|error| status::store(&error))?;
        for ((tenant, id), stored_bytes) in tenants.iter_mut().zip(ids).zip(stored) {
            if tenant.state() == TenantState::Unspecified {
                // Written before there were states.
                tenant.set_state(TenantState::Active);
            }
            let subscriptions = u32::try_from(self.registry.count(&id)).unwrap_or(u32::MAX);
            tenant.usage = Some(TenantUsage { subscriptions, stored_bytes });
            tenant.quota_in_force = Some(tenant::write_quota(&self.registry.quota(&id)));
        }
        Ok(tenants)
    }
}

fn quota(tenant: &Tenant) -> Result<OwnQuota, Status> {
    tenant::read_quota(tenant.quota.as_ref()).map_err(|violations| {
        let within: Vec<_> =
            violations.into_iter().map(|violation| violation.within("quota").within("tenant")).collect();
        status::invalid(&within)
    })
}

/// A tenant's quota, as the audit log shows it.
fn described(tenant: &Tenant) -> String {
    let Some(quota) = &tenant.quota else { return "quota: none".to_owned() };
    format!(
        "quota: max_subscriptions {}, emit_rate {}, emit_burst {}, max_stored_bytes {}, max_event_types {}, delivery_rate {}, \
         delivery_burst {}",
        quota.max_subscriptions,
        quota.emit_rate,
        quota.emit_burst,
        quota.max_stored_bytes,
        quota.max_event_types,
        quota.delivery_rate,
        quota.delivery_burst
    )
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
