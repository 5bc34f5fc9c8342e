//! `OperationService`.

use postrider_domain::access::Scope;
use postrider_domain::audit::Entry;
use postrider_domain::event::EventTypeName;
use postrider_domain::id::{OperationId, TenantId};
use postrider_domain::operation::Action;
use postrider_domain::signing::{MAX_OVERLAP, Scheme};
use postrider_domain::time::Timestamp;
use postrider_domain::violation::Violation;
use postrider_proto::time;
use postrider_proto::v1::operation::Work;
use postrider_proto::v1::operation_service_server::OperationService;
use postrider_proto::v1::{self, DeliveryState, OperationState};
use tonic::{Request, Response, Status};

use super::events::bound;
use super::signing_keys::read_overlap;
use super::{Api, page, requests, status};
use crate::operations::{OperationError, rotation};
use crate::registry::TenantStatus;
use crate::store::{OperationRow, Page};

const LIST: &str = "operations";
const MAX_TYPES: usize = 100;
const MAX_RATE: u32 = 10_000;

#[tonic::async_trait]
impl OperationService for Api {
    async fn replay_deliveries(
        &self,
        request: Request<v1::ReplayDeliveriesRequest>,
    ) -> Result<Response<v1::ReplayDeliveriesResponse>, Status> {
        let (api, request) = self.call(request);
        let tenant = api.tenant(&request.tenant)?;
        let request_id = api.request("ReplayDeliveries", &tenant, &request.request_id, &request)?;
        let replay = request.replay.unwrap_or_default();
        api.check_replay(&request.tenant, &replay)?;
        let about = if replay.subscription.is_empty() { &request.tenant } else { &replay.subscription };
        let audit = api.entry("ReplayDeliveries", Some(&tenant), about);
        let operation = Some(api.begin_once(&tenant, request_id, Work::Replay(replay), audit).await?);
        Ok(Response::new(v1::ReplayDeliveriesResponse { operation }))
    }

    async fn rotate_signing_keys(
        &self,
        request: Request<v1::RotateSigningKeysRequest>,
    ) -> Result<Response<v1::RotateSigningKeysResponse>, Status> {
        let (api, request) = self.call(request);
        let tenant = api.tenant(&request.tenant)?;
        let request_id = api.request("RotateSigningKeys", &tenant, &request.request_id, &request)?;
        let rotation = request.key_rotation.unwrap_or_default();
        check_rotation(&rotation)?;
        let audit = api.entry("RotateSigningKeys", Some(&tenant), &request.tenant);
        let operation = Some(api.begin_once(&tenant, request_id, Work::KeyRotation(rotation), audit).await?);
        Ok(Response::new(v1::RotateSigningKeysResponse { operation }))
    }

    async fn get_operation(
        &self,
        request: Request<v1::GetOperationRequest>,
    ) -> Result<Response<v1::GetOperationResponse>, Status> {
        let (api, request) = self.call(request);
        let tenant = api.tenant_of_operations(&request.tenant).await?;
        let operation = Some(api.operation(&tenant, &request.operation).await?.operation);
        Ok(Response::new(v1::GetOperationResponse { operation }))
    }

    async fn list_operations(
        &self,
        request: Request<v1::ListOperationsRequest>,
    ) -> Result<Response<v1::ListOperationsResponse>, Status> {
        let (api, request) = self.call(request);
        let tenant = api.tenant_of_operations(&request.tenant).await?;
        let size = page::size(request.page_size)?;
        let list = page::of(LIST, &tenant);
        let found = api.operations.list(&tenant, page::read(&list, &request.page_token)?, size).await;
        let Page { items, next } = found.map_err(|error| status::store(&error))?;
        let seen = items.into_iter().filter(|row| api.sees(row));
        let (operations, next) = page::fit(seen.map(|row| (row.id, row.operation)).collect(), next);
        let next_page_token = page::write(&list, next);
        Ok(Response::new(v1::ListOperationsResponse { operations, next_page_token }))
    }

    async fn pause_operation(
        &self,
        request: Request<v1::PauseOperationRequest>,
    ) -> Result<Response<v1::PauseOperationResponse>, Status> {
        let (api, request) = self.call(request);
        let changed = api
            .change_operation(&request.tenant, &request.operation, Action::Pause, "PauseOperation")
            .await?;
        Ok(Response::new(v1::PauseOperationResponse { operation: Some(changed) }))
    }

    async fn resume_operation(
        &self,
        request: Request<v1::ResumeOperationRequest>,
    ) -> Result<Response<v1::ResumeOperationResponse>, Status> {
        let (api, request) = self.call(request);
        let changed = api
            .change_operation(&request.tenant, &request.operation, Action::Resume, "ResumeOperation")
            .await?;
        Ok(Response::new(v1::ResumeOperationResponse { operation: Some(changed) }))
    }

    async fn cancel_operation(
        &self,
        request: Request<v1::CancelOperationRequest>,
    ) -> Result<Response<v1::CancelOperationResponse>, Status> {
        let (api, request) = self.call(request);
        let changed = api
            .change_operation(&request.tenant, &request.operation, Action::Cancel, "CancelOperation")
            .await?;
        Ok(Response::new(v1::CancelOperationResponse { operation: Some(changed) }))
    }
}

impl Api {
    async fn operation(&self, tenant: &TenantId, id: &str) -> Result<OperationRow, Status> {
        let parsed: OperationId = status::parse("operation", id)?;
        let row = self.operations.get(tenant, parsed).await.map_err(|error| status::store(&error))?;
        row.filter(|row| self.sees(row)).ok_or_else(|| status::not_found("operation", id))
    }

    /// Whether the caller sees an operation of a tenant that it sees. That a tenant of the same
    /// name was deleted before is nobody's business whose tenant is another one.
    fn sees(&self, row: &OperationRow) -> bool {
        self.caller.scope == Scope::Everything || !matches!(row.operation.work, Some(Work::TenantDeletion(_)))
    }

    /// The tenant that operations are of: one that is there, is being deleted, or was, for callers that see all.
    async fn tenant_of_operations(&self, id: &str) -> Result<TenantId, Status> {
        let tenant: TenantId = status::parse("tenant", id)?;
        let known = match self.registry.tenant_status(&tenant) {
            TenantStatus::Active | TenantStatus::Deleting => true,
            TenantStatus::Unknown if self.caller.scope == Scope::Everything => {
                self.operations.has_any(&tenant).await.map_err(|error| status::store(&error))?
            }
            TenantStatus::Unknown => false,
        };
        if known && self.caller.scope.sees(&tenant) {
            Ok(tenant)
        } else {
            Err(status::not_found("tenant", id))
        }
    }

    /// Makes an operation of this work and sets it to work; for a repeated call, the operation that the first one made.
    async fn begin_once(
        &self,
        tenant: &TenantId,
        request: Option<requests::Request>,
        work: Work,
        audit: Entry,
    ) -> Result<v1::Operation, Status> {
        let _change = self.registry.change().await;
        // It may have begun to be deleted while this call waited.
        self.check_tenant(tenant)?;
        if let Some(made) = self.repeated(request.as_ref()).await? {
            return Ok(self.operation(tenant, &made).await?.operation);
        }
        let row = self.new_operation(tenant, work);
        let described = row.operation.work.as_ref().map(described).unwrap_or_default();
        let request_id = request.as_ref().map(|request| request.key.request_id.clone()).unwrap_or_default();
        let audit = Entry { detail: format!("{}: {described}", row.id), request_id, ..audit };
        let id = row.id.to_string();
        let row = self.operations.create(tenant, row, audit).await.map_err(|error| refused(&error, &id))?;
        if let Some((key, remembered)) = self.remember(request, &id) {
            self.store.put_request(key, remembered).await.map_err(|error| status::store(&error))?;
        }
        Ok(row.operation)
    }

    /// An operation that begins now.
    pub(super) fn new_operation(&self, tenant: &TenantId, work: Work) -> OperationRow {
        let id = OperationId::new(self.clock.wall(), rand::random());
        let operation = v1::Operation {
            id: id.to_string(),
            tenant: tenant.to_string(),
            work: Some(work),
            state: OperationState::Running.into(),
            create_time: Some(time::write(id.created())),
            ..v1::Operation::default()
        };
        OperationRow { id, operation, cursor: String::new() }
    }

    async fn change_operation(
        &self,
        tenant: &str,
        id: &str,
        requested: Action,
        action: &str,
    ) -> Result<v1::Operation, Status> {
        let tenant = self.tenant_of_operations(tenant).await?;
        let operation = self.operation(&tenant, id).await?.id;
        let audit = self.entry(action, Some(&tenant), operation);
        let row = self.operations.request(&tenant, operation, requested, audit).await;
        Ok(row.map_err(|error| refused(&error, id))?.operation)
    }

    fn check_replay(&self, tenant: &str, replay: &v1::Replay) -> Result<(), Status> {
        if !replay.subscription.is_empty() {
            let row = self.subscription(tenant, &replay.subscription)?;
            self.check_pool_of(&row.subscription)?;
        }
        let start = bound("replay.start_time", replay.start_time.as_ref(), Timestamp::default())?;
        let end = bound("replay.end_time", replay.end_time.as_ref(), Timestamp::MAX)?;
        let mut violations = Vec::new();
        let mut check = |good: bool, field: &str, problem: &str| {
            if !good {
                violations.push(Violation::new(field, problem.to_owned()));
            }
        };
        check(start < end, "replay.end_time", "must be after start_time");
        check(
            replay.max_per_second <= MAX_RATE,
            "replay.max_per_second",
            "must be at most 10000; 0 means 100",
        );
        let types = &replay.event_types;
        let are_types = types.iter().all(|name| name.parse::<EventTypeName>().is_ok());
        check(
            types.len() <= MAX_TYPES && are_types,
            "replay.event_types",
            "must be at most 100 types, as in document.completed; patterns are not known here",
        );
        let ended = [DeliveryState::Delivered, DeliveryState::Exhausted, DeliveryState::Cancelled];
        check(
            replay.states.iter().all(|state| ended.iter().any(|ended| i32::from(*ended) == *state)),
            "replay.states",
            "must be DELIVERED, EXHAUSTED or CANCELLED: what has not ended is attempted anyway",
        );
        if violations.is_empty() { Ok(()) } else { Err(status::invalid(&violations)) }
    }
}

fn check_rotation(rotation: &v1::KeyRotation) -> Result<(), Status> {
    if !rotation.scheme.is_empty() {
        let _known: Scheme = status::parse("key_rotation.scheme", &rotation.scheme)?;
    }
    let overlap = read_overlap(rotation.overlap.as_ref())?;
    if overlap > MAX_OVERLAP {
        return Err(status::invalid_field("key_rotation.overlap", "must be 0 to 7 days"));
    }
    Ok(())
}

/// For the audit log.
fn described(work: &Work) -> String {
    match work {
        Work::Replay(replay) => described_replay(replay),
        Work::KeyRotation(rotation) => match rotation::read(rotation) {
            Some((scheme, overlap)) => {
                format!("keys of scheme {scheme}, the former ones sign for {overlap:?} more")
            }
            None => String::new(),
        },
        Work::TenantDeletion(_) => "the tenant is deleted".to_owned(),
    }
}

fn described_replay(replay: &v1::Replay) -> String {
    let time = |given: Option<&prost_types::Timestamp>| {
        given.and_then(|given| time::read("time", given).ok()).map_or_else(String::new, |at| at.to_string())
    };
    let states: Vec<&str> = replay.states().map(|state| state.as_str_name()).collect();
    format!(
        "replay of states [{}], types [{}], from '{}' to '{}', dry run: {}",
        states.join(", "),
        replay.event_types.join(", "),
        time(replay.start_time.as_ref()),
        time(replay.end_time.as_ref()),
        replay.dry_run
    )
}

pub(super) fn refused(error: &OperationError, id: &str) -> Status {
    match error {
        OperationError::NotFound => status::not_found("operation", id),
        OperationError::Final => status::precondition("OPERATION_FINAL", error.to_string()),
        OperationError::Ended => status::precondition("OPERATION_ENDED", error.to_string()),
        OperationError::TooFast(wait) => {
            status::too_often("TENANT_OPERATIONS_RATE_EXCEEDED", error.to_string(), *wait)
        }
        OperationError::TooMany => status::precondition("TOO_MANY_OPERATIONS", error.to_string()),
        OperationError::Store(error) => status::store(error),
    }
}
