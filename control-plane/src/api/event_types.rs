//! `EventTypeService`.

use postrider_domain::audit::Entry;
use postrider_domain::event::{EventTypeName, check_data};
use postrider_domain::violation::Violation;
use postrider_proto::time;
use postrider_proto::v1::event_type_service_server::EventTypeService;
use postrider_proto::v1::{
    CreateEventTypeRequest, CreateEventTypeResponse, DeleteEventTypeRequest, DeleteEventTypeResponse,
    EventType, GetEventTypeRequest, GetEventTypeResponse, ListEventTypesRequest, ListEventTypesResponse,
    UpdateEventTypeRequest, UpdateEventTypeResponse,
};
use tonic::{Request, Response, Status};

use super::{Api, page, status, views};

const LIST: &str = "event_types";
const MAX_DESCRIPTION: usize = 2000;
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
        let name: EventTypeName = status::parse("event_type.name", &wanted.name)?;
        check(&wanted)?;
        let _change = api.registry.change().await;
        if api.store.event_type(&tenant, &name).await.map_err(|error| status::store(&error))?.is_some() {
            return Err(status::exists("event type", &wanted.name));
        }
        let now = Some(time::write(api.clock.wall()));
        let event_type = EventType { create_time: now, update_time: now, ..wanted };
        let audit = api.entry("CreateEventType", Some(&tenant), &name);
        api.store.put_event_type(event_type.clone(), audit).await.map_err(|error| status::store(&error))?;
        Ok(Response::new(CreateEventTypeResponse { event_type: Some(event_type) }))
    }

    async fn get_event_type(
        &self,
        request: Request<GetEventTypeRequest>,
    ) -> Result<Response<GetEventTypeResponse>, Status> {
        let (api, request) = self.call(request);
        let event_type = api.stored_event_type(&request.tenant, &request.name).await?;
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
        let next_page_token = page::after(LIST, &mut event_types, size, |event_type| event_type.name.clone());
        Ok(Response::new(ListEventTypesResponse { event_types, next_page_token }))
    }

    async fn update_event_type(
        &self,
        request: Request<UpdateEventTypeRequest>,
    ) -> Result<Response<UpdateEventTypeResponse>, Status> {
        let (api, request) = self.call(request);
        let wanted = request.event_type.unwrap_or_default();
        let fields = views::mask(request.update_mask, &["description", "example"])?;
        let _change = api.registry.change().await;
        let mut event_type = api.stored_event_type(&wanted.tenant, &wanted.name).await?;
        if fields.contains(&"description") {
            event_type.description = wanted.description;
        }
        if fields.contains(&"example") {
            event_type.example = wanted.example;
        }
        check(&event_type)?;
        event_type.update_time = Some(time::write(api.clock.wall()));
        let entry = api.entry("UpdateEventType", Some(&api.tenant(&event_type.tenant)?), &event_type.name);
        let audit = Entry { detail: fields.join(", "), ..entry };
        api.store.put_event_type(event_type.clone(), audit).await.map_err(|error| status::store(&error))?;
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
        let audit = api.entry("DeleteEventType", Some(&tenant), &name);
        api.store.delete_event_type(&tenant, &name, audit).await.map_err(|error| status::store(&error))?;
        Ok(Response::new(DeleteEventTypeResponse {}))
    }
}

impl Api {
    async fn stored_event_type(&self, tenant: &str, name: &str) -> Result<EventType, Status> {
        let (tenant, parsed) = (self.tenant(tenant)?, status::parse("name", name)?);
        let stored = self.store.event_type(&tenant, &parsed).await.map_err(|error| status::store(&error))?;
        stored.ok_or_else(|| status::not_found("event type", name))
    }
}

fn check(event_type: &EventType) -> Result<(), Status> {
    if event_type.description.chars().count() > MAX_DESCRIPTION {
        return Err(status::invalid_field("event_type.description", "must have at most 2000 characters"));
    }
    if event_type.example.is_empty() {
        return Ok(());
    }
    check_data(event_type.example.as_bytes(), MAX_EXAMPLE)
        .map_err(|violation| status::invalid(&[Violation::new("event_type.example", violation.problem)]))
}
