//! `EventTypeService`.

use postrider_domain::audit::Entry;
use postrider_domain::catalogue;
use postrider_domain::event::{EventTypeName, check_data};
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
        let entry = check(&wanted)?;
        let _change = api.registry.change().await;
        if api.store.event_type(&tenant, &name).await.map_err(|error| status::store(&error))?.is_some() {
            return Err(status::exists("event type", &wanted.name));
        }
        let now = Some(time::write(api.clock.wall()));
        let event_type = EventType { create_time: now, update_time: now, ..wanted };
        let audit = api.entry("CreateEventType", Some(&tenant), &name);
        api.store.put_event_type(event_type.clone(), audit).await.map_err(|error| status::store(&error))?;
        api.registry.catalogues.put(&tenant, name, entry);
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
        let after = page::read(LIST, &request.page_token)?;
        let found = api.store.event_types(&tenant, after, size + 1).await;
        let mut event_types = found.map_err(|error| status::store(&error))?;
        for event_type in &mut event_types {
            event_type.schema.clear();
            event_type.former_schemas.clear();
            event_type.warning_count = api.warned(event_type)?;
        }
        let next_page_token = page::after(LIST, &mut event_types, size, |event_type| event_type.name.clone());
        Ok(Response::new(ListEventTypesResponse { event_types, next_page_token }))
    }

    async fn update_event_type(
        &self,
        request: Request<UpdateEventTypeRequest>,
    ) -> Result<Response<UpdateEventTypeResponse>, Status> {
        let (api, request) = self.call(request);
        let wanted = request.event_type.unwrap_or_default();
        let fields = views::mask(request.update_mask, &SETTABLE)?;
        let _change = api.registry.change().await;
        let mut event_type = api.stored_event_type(&wanted.tenant, &wanted.name).await?;
        let now = Some(time::write(api.clock.wall()));
        for field in &fields {
            set(&mut event_type, &wanted, field, now);
        }
        let judged = check(&event_type)?;
        event_type.update_time = now;
        let (tenant, name) = (api.tenant(&event_type.tenant)?, status::parse("name", &event_type.name)?);
        Self::check_not_own(&tenant)?;
        let entry = api.entry("UpdateEventType", Some(&tenant), &name);
        let audit = Entry { detail: fields.join(", "), ..entry };
        api.store.put_event_type(event_type.clone(), audit).await.map_err(|error| status::store(&error))?;
        api.registry.catalogues.put(&tenant, name, judged);
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
        api.registry.catalogues.remove(&tenant, &name);
        Ok(Response::new(DeleteEventTypeResponse {}))
    }
}

impl Api {
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

/// What events of the type are judged by.
fn check(event_type: &EventType) -> Result<catalogue::Entry, Status> {
    if event_type.description.chars().count() > MAX_DESCRIPTION {
        return Err(status::invalid_field("event_type.description", "must have at most 2000 characters"));
    }
    if event_type.deprecation_message.chars().count() > MAX_MESSAGE {
        return Err(status::invalid_field(
            "event_type.deprecation_message",
            "must have at most 500 characters",
        ));
    }
    let refuse = |violation: Violation| status::invalid(&[violation.within("event_type")]);
    let entry = event_type::read(event_type).map_err(refuse)?;
    if event_type.example.is_empty() {
        return Ok(entry);
    }
    check_data(event_type.example.as_bytes(), MAX_EXAMPLE)
        .map_err(|violation| refuse(Violation::new("example", violation.problem)))?;
    let mistakes = entry.schema.as_ref().map(|schema| schema.mistakes(event_type.example.as_bytes()));
    match mistakes.filter(|mistakes| !mistakes.is_empty()) {
        None => Ok(entry),
        Some(mistakes) => {
            let problem = format!("does not follow the schema: {}", mistakes.join("; "));
            Err(refuse(Violation::new("example", problem)))
        }
    }
}
