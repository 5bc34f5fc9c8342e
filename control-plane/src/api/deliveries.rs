//! `DeliveryService`.

mod watch;

use std::pin::Pin;
use std::time::Duration;

use futures::stream::Stream;
use postrider_domain::audit::Entry;
use postrider_domain::id::{DeliveryId, SubscriptionId, TenantId};
use postrider_domain::time::Timestamp;
use postrider_proto::attempt;
use postrider_proto::v1::delivery_service_server::DeliveryService;
use postrider_proto::v1::{self, DeliveryState, WatchDeliveriesResponse};
use tonic::{Request, Response, Status};

use super::events::bound;
use super::streams::while_valid;
use super::{Api, page, status};
use crate::schedule::{Answer, Refusal};
use crate::store::{DeliveryPlace, DeliveryQuery, DeliveryRow, Page};

const LIST: &str = "deliveries";
/// How long a change waits for the write of the outcome before it.
const BUSY_WAIT: Duration = Duration::from_millis(10);
const BUSY_TRIES: usize = 200;

#[tonic::async_trait]
impl DeliveryService for Api {
    type WatchDeliveriesStream = Pin<Box<dyn Stream<Item = Result<WatchDeliveriesResponse, Status>> + Send>>;

    async fn get_delivery(
        &self,
        request: Request<v1::GetDeliveryRequest>,
    ) -> Result<Response<v1::GetDeliveryResponse>, Status> {
        let (api, request) = self.call(request);
        let (tenant, id) = api.delivery_id(&request.tenant, &request.delivery).await?;
        let delivery = api.delivery_view(&tenant, id).await?;
        let attempts = api.store.attempts(id).await.map_err(|error| status::store(&error))?;
        let attempts = attempts.iter().map(attempt::write).collect();
        Ok(Response::new(v1::GetDeliveryResponse { delivery: Some(delivery), attempts }))
    }

    async fn list_deliveries(
        &self,
        request: Request<v1::ListDeliveriesRequest>,
    ) -> Result<Response<v1::ListDeliveriesResponse>, Status> {
        let (api, request) = self.call(request);
        let query = api.delivery_query(&request).await?;
        let tenant = query.tenant.clone();
        let (wanted, limit) = (query.states.clone(), query.limit);
        // Attempting is known to the schedule alone: pending and waiting ones are looked through for it.
        let query = DeliveryQuery { states: stored_states(&wanted), limit, ..query };
        let found = api.store.deliveries(query).await.map_err(|error| status::store(&error))?;
        let Page { items, next } = found;
        let place = |row: &DeliveryRow| DeliveryPlace { event: row.delivery.event, id: row.id };
        let places: Vec<DeliveryPlace> = items.iter().map(place).collect();
        let views = places.into_iter().zip(api.views(&tenant, items).await?);
        let is_wanted = |view: &v1::Delivery| wanted.is_empty() || wanted.contains(&view.state());
        let (deliveries, next) = page::fit(views.filter(|(_, view)| is_wanted(view)).collect(), next);
        Ok(Response::new(v1::ListDeliveriesResponse {
            deliveries,
            next_page_token: page::write(&page::of(LIST, &tenant), next),
        }))
    }

    async fn retry_delivery(
        &self,
        request: Request<v1::RetryDeliveryRequest>,
    ) -> Result<Response<v1::RetryDeliveryResponse>, Status> {
        let (api, request) = self.call(request);
        let (tenant, id) = api.delivery_id(&request.tenant, &request.delivery).await?;
        let request_id = api.request("RetryDelivery", &tenant, &request.request_id, &request)?;
        let _change = api.registry.change().await;
        if api.repeated(request_id.as_ref()).await?.is_none() {
            let row = api.registry.get_of(&tenant, id.subscription);
            row.as_ref().map_or(Ok(()), |row| api.check_pool_of(&row.subscription))?;
            api.check_retriable(&tenant, id).await?;
            let audit = Entry {
                request_id: request.request_id.clone(),
                detail: row.map(|row| format!("in the pool {}", row.subscription.pool)).unwrap_or_default(),
                ..api.entry("RetryDelivery", Some(&tenant), id)
            };
            api.when_not_busy(|| api.lanes.retry(id, Some(audit.clone())), &request.delivery).await?;
            if let Some((key, row)) = api.remember(request_id, &request.delivery) {
                api.store.put_request(key, row).await.map_err(|error| status::store(&error))?;
            }
        }
        let delivery = Some(api.delivery_view(&tenant, id).await?);
        Ok(Response::new(v1::RetryDeliveryResponse { delivery }))
    }

    async fn cancel_delivery(
        &self,
        request: Request<v1::CancelDeliveryRequest>,
    ) -> Result<Response<v1::CancelDeliveryResponse>, Status> {
        let (api, request) = self.call(request);
        let (tenant, id) = api.delivery_id(&request.tenant, &request.delivery).await?;
        let audit = api.entry("CancelDelivery", Some(&tenant), id);
        api.when_not_busy(|| api.lanes.cancel(id, Some(audit.clone())), &request.delivery).await?;
        let delivery = Some(api.delivery_view(&tenant, id).await?);
        Ok(Response::new(v1::CancelDeliveryResponse { delivery }))
    }

    async fn watch_deliveries(
        &self,
        request: Request<v1::WatchDeliveriesRequest>,
    ) -> Result<Response<Self::WatchDeliveriesStream>, Status> {
        let (api, request) = self.call(request);
        let token_status = api.caller.token_status.clone();
        Ok(Response::new(Box::pin(while_valid(watch::begin(api, &request).await?, &token_status))))
    }
}

impl Api {
    /// A delivery's id, and that it is the tenant's.
    async fn delivery_id(&self, tenant: &str, delivery: &str) -> Result<(TenantId, DeliveryId), Status> {
        let tenant = self.tenant(tenant)?;
        let id: DeliveryId = status::parse("delivery", delivery)?;
        // With its subscription deleted, the event tells whose it is; so it does for another's, and for one that never was.
        let own = self.registry.get_of(&tenant, id.subscription).is_some()
            || self.store.delivery_of(&tenant, id).await.map_err(|error| status::store(&error))?.is_some();
        if own { Ok((tenant, id)) } else { Err(status::not_found("delivery", delivery)) }
    }

    async fn stored_delivery(&self, id: DeliveryId) -> Result<Option<DeliveryRow>, Status> {
        self.store.delivery(id).await.map_err(|error| status::store(&error))
    }

    async fn delivery_view(&self, tenant: &TenantId, id: DeliveryId) -> Result<v1::Delivery, Status> {
        let row = self.stored_delivery(id).await?;
        let row = row.ok_or_else(|| status::not_found("delivery", &id.to_string()))?;
        let mut views = self.views(tenant, vec![row]).await?;
        views.pop().ok_or_else(|| status::not_found("delivery", &id.to_string()))
    }

    async fn delivery_query(&self, request: &v1::ListDeliveriesRequest) -> Result<DeliveryQuery, Status> {
        let tenant = self.tenant(&request.tenant)?;
        let subscription: Option<SubscriptionId> = match request.subscription.as_str() {
            "" => None,
            id => Some(self.subscription(&request.tenant, id)?.subscription.id),
        };
        let event = match request.event.as_str() {
            "" => None,
            id => Some(self.event_key(&tenant, id).await?),
        };
        let states: Result<Vec<DeliveryState>, _> =
            request.states.iter().map(|state| DeliveryState::try_from(*state)).collect();
        let states = states.map_err(|_| status::invalid_field("states", "must be states of deliveries"))?;
        let list = page::of(LIST, &tenant);
        Ok(DeliveryQuery {
            tenant,
            subscription,
            event,
            states,
            start: bound("start_time", request.start_time.as_ref(), Timestamp::default())?,
            end: bound("end_time", request.end_time.as_ref(), Timestamp::MAX)?,
            limit: page::size(request.page_size)?,
            after: page::read(&list, &request.page_token)?,
        })
    }

    async fn check_retriable(&self, tenant: &TenantId, id: DeliveryId) -> Result<(), Status> {
        let row = self.stored_delivery(id).await?;
        let row = row.ok_or_else(|| status::not_found("delivery", &id.to_string()))?;
        let heads = self.store.event_heads(tenant, vec![row.delivery.event]).await;
        let head = heads.map_err(|error| status::store(&error))?.into_iter().flatten().next();
        if head.is_none_or(|head| head.erased) {
            return Err(status::precondition(
                "DATA_ERASED",
                "the event's data is erased by retention; emit it again",
            ));
        }
        Ok(())
    }

    /// Waits for the outcome that is just being written, then decides.
    async fn when_not_busy<F: Future<Output = Answer>>(
        &self,
        ask: impl Fn() -> F,
        id: &str,
    ) -> Result<(), Status> {
        let mut answer = ask().await;
        for _ in 0..BUSY_TRIES {
            if answer != Err(Refusal::Busy) {
                break;
            }
            tokio::time::sleep(BUSY_WAIT).await;
            answer = ask().await;
        }
        answer.map_err(|refusal| status::refusal(refusal, id))
    }
}

/// The stored states among which deliveries of the wanted states are found.
fn stored_states(wanted: &[DeliveryState]) -> Vec<DeliveryState> {
    let mut states = wanted.to_vec();
    let open = [DeliveryState::Pending, DeliveryState::Waiting];
    if wanted.iter().any(|state| matches!(state, DeliveryState::Attempting | DeliveryState::Cancelled)) {
        states.extend(open);
    }
    states
}
