//! `EventTypeService`.

use postrider_domain::audit::Entry;
use postrider_domain::catalogue;
use postrider_domain::event::{EventTypeName, check_data};
use postrider_domain::id::TenantId;
use postrider_domain::schema::{MAX_SCHEMA, Schema};
use postrider_domain::violation::Violation;
use postrider_proto::v1::event_type_service_server::EventTypeService;
use postrider_proto::v1::{
    CreateEventTypeRequest, CreateEventTypeResponse, DeleteEventTypeRequest, DeleteEventTypeResponse,
    EventType, FormerSchema, GetEventTypeRequest, GetEventTypeResponse, ListEventTypesRequest,
    ListEventTypesResponse, UpdateEventTypeRequest, UpdateEventTypeResponse,
};
use postrider_proto::{event_type, time};
use tonic::{Request, Response, Status};

use super::{Api, page, status, views};
use crate::store::Page;

const LIST: &str = "event_types";
const MAX_DESCRIPTION: usize = 2000;
const MAX_MESSAGE: usize = 500;
/// Schemas before the present one that are kept.
const MAX_FORMER: usize = 10;
const SETTABLE: [&str; 6] =
    ["description", "example", "schema", "validation", "deprecated", "deprecation_message"];
const MAX_EXAMPLE: usize = 64 * 1024;

#[tonic::async_trait]
impl EventTypeService for Api {
    async fn create_event_type(
        &self,
        request: Request<CreateEventTypeRequest>,
    ) -> Result<Response<CreateEventTypeResponse>, Status> {
        let (api, request) = self.call(request);
        let wanted = request.event_type.unwrap_or_default();
        let tenant = api.tenant(&wanted.tenant)?;
        Self::check_not_own(&tenant)?;
        let name: EventTypeName = status::parse("event_type.name", &wanted.name)?;
        let first = EventType { schema_version: u32::from(!wanted.schema.is_empty()), ..wanted };
        let wanted = EventType { former_schemas: Vec::new(), warning_count: 0, ..first };
        // Compiled before changes are held off: others' changes need not wait for it.
        let judged = api.checked(&tenant, &wanted).await?;
        let _change = api.registry.change().await;
        if api.store.event_type(&tenant, &name).await.map_err(|error| status::store(&error))?.is_some() {
            return Err(status::exists("event type", &wanted.name));
        }
        api.check_event_types(&tenant)?;
        let now = Some(time::write(api.clock.wall()));
        let event_type = EventType { create_time: now, update_time: now, ..wanted };
        let audit = api.entry("CreateEventType", Some(&tenant), &name);
        api.store.put_event_type(event_type.clone(), audit).await.map_err(|error| status::store(&error))?;
        api.keep_event_type(&tenant, name, judged);
        Ok(Response::new(CreateEventTypeResponse { event_type: Some(event_type) }))
    }

    async fn get_event_type(
        &self,
        request: Request<GetEventTypeRequest>,
    ) -> Result<Response<GetEventTypeResponse>, Status> {
        let (api, request) = self.call(request);
        let mut event_type = api.stored_event_type(&request.tenant, &request.name).await?;
        event_type.warning_count = api.warned(&event_type)?;
        Ok(Response::new(GetEventTypeResponse { event_type: Some(event_type) }))
    }

    async fn list_event_types(
        &self,
        request: Request<ListEventTypesRequest>,
    ) -> Result<Response<ListEventTypesResponse>, Status> {
        let (api, request) = self.call(request);
        let tenant = api.tenant(&request.tenant)?;
        let size = page::size(request.page_size)?;
        let list = page::of(LIST, &tenant);
        let after = page::read(&list, &request.page_token)?;
        let found = api.store.event_types(&tenant, after, size).await;
        let Page { items: mut event_types, next } = found.map_err(|error| status::store(&error))?;
        for event_type in &mut event_types {
            event_type.schema.clear();
            event_type.former_schemas.clear();
            event_type.warning_count = api.warned(event_type)?;
        }
        let next_page_token = page::write(&list, next);
        Ok(Response::new(ListEventTypesResponse { event_types, next_page_token }))
    }

    async fn update_event_type(
        &self,
        request: Request<UpdateEventTypeRequest>,
    ) -> Result<Response<UpdateEventTypeResponse>, Status> {
        let (api, request) = self.call(request);
        let wanted = request.event_type.unwrap_or_default();
        let fields = views::mask(request.update_mask, &SETTABLE)?;
        let now = Some(time::write(api.clock.wall()));
        let (mut event_type, judged, _change) = loop {
            let stored = api.stored_event_type(&wanted.tenant, &wanted.name).await?;
            let mut changed = stored.clone();
            for field in &fields {
                set(&mut changed, &wanted, field, now);
            }
            // Compiled before changes are held off: others' changes need not wait for it.
            let judged = api.checked(&api.tenant(&wanted.tenant)?, &changed).await?;
            let change = api.registry.change().await;
            if api.stored_event_type(&wanted.tenant, &wanted.name).await? == stored {
                break (changed, judged, change);
            }
        };
        event_type.update_time = now;
        let (tenant, name) = (api.tenant(&event_type.tenant)?, status::parse("name", &event_type.name)?);
        Self::check_not_own(&tenant)?;
        let entry = api.entry("UpdateEventType", Some(&tenant), &name);
        let audit = Entry { detail: fields.join(", "), ..entry };
        api.store.put_event_type(event_type.clone(), audit).await.map_err(|error| status::store(&error))?;
        api.keep_event_type(&tenant, name, judged);
        Ok(Response::new(UpdateEventTypeResponse { event_type: Some(event_type) }))
    }

    async fn delete_event_type(
        &self,
        request: Request<DeleteEventTypeRequest>,
    ) -> Result<Response<DeleteEventTypeResponse>, Status> {
        let (api, request) = self.call(request);
        let _change = api.registry.change().await;
        let found = api.stored_event_type(&request.tenant, &request.name).await?;
        let (tenant, name) = (api.tenant(&found.tenant)?, status::parse("name", &found.name)?);
        Self::check_not_own(&tenant)?;
        let audit = api.entry("DeleteEventType", Some(&tenant), &name);
        api.store.delete_event_type(&tenant, &name, audit).await.map_err(|error| status::store(&error))?;
        if let Some(number) = api.registry.catalogues.remove(&tenant, &name) {
            api.judge.schemas().forget(&tenant, number);
        }
        Ok(Response::new(DeleteEventTypeResponse {}))
    }
}

/// What events of a type are judged by, with its schema, which is compiled.
type Checked = (catalogue::Entry, Option<Schema>);

impl Api {
    /// Checks a type that is to be saved, and compiles its schema.
    async fn checked(&self, tenant: &TenantId, event_type: &EventType) -> Result<Checked, Status> {
        let entry = check_shape(event_type)?;
        if !entry.has_schema {
            return Ok((entry, None));
        }
        let (schema, example) = (event_type.schema.clone(), event_type.example.clone());
        let compiled = self.judge.schemas().compile(tenant, schema, example).await;
        let compiled = compiled.map_err(|error| status::not_judged(tenant, &error.into()))?;
        let compiled = compiled.map_err(|problem| refuse(Violation::new("schema", problem)))?;
        if compiled.problems.is_empty() {
            return Ok((entry, Some(compiled.schema)));
        }
        let problem = format!("does not follow the schema: {}", compiled.problems.join("; "));
        Err(refuse(Violation::new("example", problem)))
    }

    /// A type was written: events are judged by it from now on.
    fn keep_event_type(&self, tenant: &TenantId, name: EventTypeName, (entry, schema): Checked) {
        let (number, before) = self.registry.catalogues.put(tenant, name, entry);
        let schemas = self.judge.schemas();
        if let Some(before) = before {
            schemas.forget(tenant, before);
        }
        if let Some(schema) = schema {
            schemas.put(tenant, number, Ok(schema));
        }
    }

    /// Whether the tenant may have one event type more. Must be called while changes are held off.
    fn check_event_types(&self, tenant: &TenantId) -> Result<(), Status> {
        let (quota, has) = (self.registry.quota(tenant), self.registry.catalogues.count(tenant));
        if quota.admits_event_type(has) {
            return Ok(());
        }
        let message = format!(
            "the tenant has {has} event types and may have no more; delete some, or ask the operator for more"
        );
        self.emitter.refused_by_quota("event_types");
        Err(status::quota_exceeded("TENANT_EVENT_TYPES_EXCEEDED", tenant, &message, None))
    }

    fn warned(&self, event_type: &EventType) -> Result<u64, Status> {
        let (tenant, name) = (self.tenant(&event_type.tenant)?, status::parse("name", &event_type.name)?);
        Ok(self.registry.catalogues.warned(&tenant, &name))
    }

    async fn stored_event_type(&self, tenant: &str, name: &str) -> Result<EventType, Status> {
        let (tenant, parsed) = (self.tenant(tenant)?, status::parse("name", name)?);
        let stored = self.store.event_type(&tenant, &parsed).await.map_err(|error| status::store(&error))?;
        stored.ok_or_else(|| status::not_found("event type", name))
    }
}

fn set(stored: &mut EventType, wanted: &EventType, field: &str, now: Option<prost_types::Timestamp>) {
    match field {
        "description" => stored.description.clone_from(&wanted.description),
        "example" => stored.example.clone_from(&wanted.example),
        "schema" if stored.schema != wanted.schema => {
            let schema = std::mem::replace(&mut stored.schema, wanted.schema.clone());
            if stored.schema_version > 0 {
                let former = FormerSchema { version: stored.schema_version, schema, replace_time: now };
                stored.former_schemas.insert(0, former);
                stored.former_schemas.truncate(MAX_FORMER);
            }
            stored.schema_version += 1;
        }
        "validation" => stored.validation = wanted.validation,
        "deprecated" => stored.deprecated = wanted.deprecated,
        "deprecation_message" => stored.deprecation_message.clone_from(&wanted.deprecation_message),
        _ => {}
    }
}

/// What can be said without compiling the schema.
fn check_shape(event_type: &EventType) -> Result<catalogue::Entry, Status> {
    if event_type.description.chars().count() > MAX_DESCRIPTION {
        return Err(status::invalid_field("event_type.description", "must have at most 2000 characters"));
    }
    if event_type.deprecation_message.chars().count() > MAX_MESSAGE {
        return Err(status::invalid_field(
            "event_type.deprecation_message",
            "must have at most 500 characters",
        ));
    }
    let entry = event_type::read(event_type).map_err(refuse)?;
    if event_type.schema.len() > MAX_SCHEMA {
        let problem = format!("has {} bytes, the limit is {MAX_SCHEMA}", event_type.schema.len());
        return Err(refuse(Violation::new("schema", problem)));
    }
    if !event_type.example.is_empty() {
        check_data(event_type.example.as_bytes(), MAX_EXAMPLE)
            .map_err(|violation| refuse(Violation::new("example", violation.problem)))?;
    }
    Ok(entry)
}

fn refuse(violation: Violation) -> Status {
    status::invalid(&[violation.within("event_type")])
}
