//! `SubscriptionService`.

use std::sync::Arc;

use postrider_domain::audit::Entry;
use postrider_domain::event::{Attributes, Event, EventTypeName, content_digest};
use postrider_domain::headers::CustomHeaders;
use postrider_domain::id::{EventKey, KeyId, SubscriptionId};
use postrider_domain::lane::health::View;
use postrider_domain::signing::KeyRing;
use postrider_domain::subscription::{DisableCause, State, Subscription};
use postrider_domain::violation::Violation;
use postrider_proto::v1::subscription_service_server::SubscriptionService;
use postrider_proto::v1::{self, SubscriptionState};
use postrider_proto::{health, subscription, time};
use tonic::{Request, Response, Status};

use super::signing_keys::{check_keys, new_key};
use super::{Api, changes, page, requests, status, views};
use crate::disabler::Change;
use crate::schedule::LaneSettings;
use crate::secrets::{KeyedSubscription, seal_subscription};
use crate::store::{Accept, RequestKey, RequestRow, SubscriptionRow};

const LIST: &str = "subscriptions";
const TEST_TYPE: &str = "postrider.test";
const SETTABLE: [&str; 19] = [
    "name",
    "url",
    "event_types",
    "description",
    "pool",
    "body_format",
    "headers",
    "retry_policy",
    "max_in_flight",
    "timeout",
    "connect_timeout",
    "signature_profiles",
    "filter",
    "rate_limit",
    "order",
    "head_of_line",
    "failure_policy",
    "allow_fallback_pool",
    "validation_handshake",
];

#[tonic::async_trait]
impl SubscriptionService for Api {
    async fn create_subscription(
        &self,
        request: Request<v1::CreateSubscriptionRequest>,
    ) -> Result<Response<v1::CreateSubscriptionResponse>, Status> {
        let (api, request) = self.call(request);
        let mut wanted = request.subscription.clone().unwrap_or_default();
        let tenant = api.tenant(&wanted.tenant)?;
        let content = views::without_maps(&request);
        let id = api.request("CreateSubscription", &tenant, &request.request_id, &content)?;
        let _change = api.registry.change().await;
        if let Some(made) = api.repeated(id.as_ref()).await? {
            let row = api.subscription(&wanted.tenant, &made)?;
            let entry = api.entry("CreateSubscription", Some(&tenant), row.subscription.id);
            api.record(changes::repeated(entry, &request.request_id)).await?;
            return api.created(&row).await;
        }
        api.check_subscriptions(&tenant)?;
        unhide(&mut wanted, &CustomHeaders::default())?;
        let now = api.clock.wall();
        let new = SubscriptionId::new(now, rand::random());
        let wire = v1::Subscription {
            id: new.to_string(),
            state: SubscriptionState::Active.into(),
            state_reason: String::new(),
            disable_cause: 0,
            create_time: Some(time::write(now)),
            update_time: Some(time::write(now)),
            validation: None,
            ..wanted
        };
        let subscription = read(&wire)?;
        api.check_name_is_free(&subscription)?;
        let keys = KeyRing::new(new_key(&request.secret, "", now)?);
        let row = KeyedSubscription { subscription, keys };
        check_keys(&row)?;
        let remembered = api.remember(id, &new.to_string());
        let row = api.save(row, remembered, "CreateSubscription", &changes::new(&wire)).await?;
        api.created(&row).await
    }

    async fn get_subscription(
        &self,
        request: Request<v1::GetSubscriptionRequest>,
    ) -> Result<Response<v1::GetSubscriptionResponse>, Status> {
        let (api, request) = self.call(request);
        let row = api.subscription(&request.tenant, &request.subscription)?;
        Ok(Response::new(v1::GetSubscriptionResponse { subscription: api.show_all(&[&row]).await.pop() }))
    }

    async fn list_subscriptions(
        &self,
        request: Request<v1::ListSubscriptionsRequest>,
    ) -> Result<Response<v1::ListSubscriptionsResponse>, Status> {
        let (api, request) = self.call(request);
        let tenant = api.tenant(&request.tenant)?;
        let size = page::size(request.page_size)?;
        let mut rows = api.registry.list(&tenant, page::read(LIST, &request.page_token)?, size + 1);
        let next_page_token = page::after(LIST, &mut rows, size, |row| row.subscription.id.to_string());
        let subscriptions = api.show_all(&rows.iter().map(AsRef::as_ref).collect::<Vec<_>>()).await;
        Ok(Response::new(v1::ListSubscriptionsResponse { subscriptions, next_page_token }))
    }

    async fn update_subscription(
        &self,
        request: Request<v1::UpdateSubscriptionRequest>,
    ) -> Result<Response<v1::UpdateSubscriptionResponse>, Status> {
        let (api, request) = self.call(request);
        let mut wanted = request.subscription.unwrap_or_default();
        let fields = views::mask(request.update_mask, &SETTABLE)?;
        let _change = api.registry.change().await;
        let row = api.subscription(&wanted.tenant, &wanted.id)?;
        let before = subscription::write(&row.subscription);
        let mut wire = before.clone();
        if fields.contains(&"headers") {
            unhide(&mut wanted, &row.subscription.headers)?;
        }
        fields.iter().for_each(|field| set(&mut wire, &wanted, field));
        wire.update_time = Some(time::write(api.clock.wall()));
        if wire.url != before.url || !wire.validation_handshake {
            // It was another endpoint that answered.
            wire.validation = None;
        }
        let row = KeyedSubscription { subscription: read(&wire)?, ..(*row).clone() };
        check_keys(&row)?;
        api.check_name_is_free(&row.subscription)?;
        let detail = changes::between(&before, &subscription::write(&row.subscription));
        let moves = before.url != row.subscription.url.as_str();
        if moves {
            // Written before the URL is: after a crash, too, nobody takes the former receiver's answers for the new one's.
            api.uses.moved(row.subscription.id, api.clock.wall());
            api.uses.write().await;
        }
        let row = api.save(row, None, "UpdateSubscription", &detail).await?;
        if moves {
            api.uses.moved(row.subscription.id, api.clock.wall());
        }
        if row.subscription.drops() && fields.contains(&"failure_policy") {
            api.changes.want(Change::Sweep(row.subscription.id));
        }
        let subscription = Some(api.show(&row).await);
        Ok(Response::new(v1::UpdateSubscriptionResponse { subscription, warnings: api.warnings(&row) }))
    }

    async fn pause_subscription(
        &self,
        request: Request<v1::PauseSubscriptionRequest>,
    ) -> Result<Response<v1::PauseSubscriptionResponse>, Status> {
        let (api, request) = self.call(request);
        let row =
            api.set_state(&request.tenant, &request.subscription, State::Paused, "PauseSubscription").await?;
        let subscription = Some(api.show(&row).await);
        Ok(Response::new(v1::PauseSubscriptionResponse { subscription }))
    }

    async fn resume_subscription(
        &self,
        request: Request<v1::ResumeSubscriptionRequest>,
    ) -> Result<Response<v1::ResumeSubscriptionResponse>, Status> {
        let (api, request) = self.call(request);
        let row = api
            .set_state(&request.tenant, &request.subscription, State::Active, "ResumeSubscription")
            .await?;
        let subscription = Some(api.show(&row).await);
        Ok(Response::new(v1::ResumeSubscriptionResponse { subscription }))
    }

    async fn delete_subscription(
        &self,
        request: Request<v1::DeleteSubscriptionRequest>,
    ) -> Result<Response<v1::DeleteSubscriptionResponse>, Status> {
        let (api, request) = self.call(request);
        let _change = api.registry.change().await;
        let row = api.subscription(&request.tenant, &request.subscription)?;
        let mut row = (*row).clone();
        row.keys.erase();
        row.subscription.headers = CustomHeaders::default();
        let row = SubscriptionRow { deleted: Some(api.clock.wall()), ..seal_subscription(&api.sealer, &row) };
        let audit = api.entry("DeleteSubscription", Some(&row.subscription.tenant), row.subscription.id);
        api.store.put_subscription(&row, None, audit).await.map_err(|error| status::store(&error))?;
        api.registry.remove(row.subscription.id);
        api.lanes.deleted(row.subscription.id).await;
        Ok(Response::new(v1::DeleteSubscriptionResponse {}))
    }

    async fn test_subscription(
        &self,
        request: Request<v1::TestSubscriptionRequest>,
    ) -> Result<Response<v1::TestSubscriptionResponse>, Status> {
        let (api, request) = self.call(request);
        let row = api.subscription(&request.tenant, &request.subscription)?;
        let id = api.request("TestSubscription", &row.subscription.tenant, &request.request_id, &request)?;
        let test = TestEvent {
            action: "TestSubscription",
            event_type: &request.event_type,
            request_id: &request.request_id,
            probed_key: None,
        };
        let (event_id, delivery_id) = api.emit_test(&row, id, test).await?;
        Ok(Response::new(v1::TestSubscriptionResponse { event_id, delivery_id }))
    }

    async fn diagnose_subscription(
        &self,
        request: Request<v1::DiagnoseSubscriptionRequest>,
    ) -> Result<Response<v1::DiagnoseSubscriptionResponse>, Status> {
        let (api, request) = self.call(request);
        api.diagnose(request).await.map(Response::new)
    }

    async fn validate_subscription(
        &self,
        request: Request<v1::ValidateSubscriptionRequest>,
    ) -> Result<Response<v1::ValidateSubscriptionResponse>, Status> {
        let (api, request) = self.call(request);
        api.validate(request).await.map(Response::new)
    }
}

/// What is particular to a test event.
pub(super) struct TestEvent<'a> {
    /// The call, as the audit log is told.
    pub(super) action: &'static str,
    /// Its type; the default one when empty.
    pub(super) event_type: &'a str,
    /// The caller's id for the call.
    pub(super) request_id: &'a str,
    /// The key that alone signs it.
    pub(super) probed_key: Option<KeyId>,
}

impl Api {
    /// Whether no other subscription of the tenant has its name. Must be called while changes are held off.
    fn check_name_is_free(&self, wanted: &Subscription) -> Result<(), Status> {
        let taken = |row: &Arc<KeyedSubscription>| {
            row.subscription.name == wanted.name && row.subscription.id != wanted.id
        };
        if !wanted.name.is_empty() && self.registry.list(&wanted.tenant, None, usize::MAX).iter().any(taken) {
            return Err(status::exists("subscription named", &wanted.name));
        }
        Ok(())
    }

    /// Writes a subscription and who changed it, then makes it known.
    pub(super) async fn save(
        &self,
        row: KeyedSubscription,
        remembered: Option<(RequestKey, RequestRow)>,
        action: &str,
        detail: &str,
    ) -> Result<Arc<KeyedSubscription>, Status> {
        let audit = Entry {
            request_id: remembered.as_ref().map(|(key, _)| key.request_id.clone()).unwrap_or_default(),
            detail: detail.to_owned(),
            ..self.entry(action, Some(&row.subscription.tenant), row.subscription.id)
        };
        let sealed = seal_subscription(&self.sealer, &row);
        self.store
            .put_subscription(&sealed, remembered, audit)
            .await
            .map_err(|error| status::store(&error))?;
        let settings = LaneSettings::from(&row.subscription);
        let row = self.registry.put(row);
        self.lanes.changed(settings).await;
        Ok(row)
    }

    async fn set_state(
        &self,
        tenant: &str,
        id: &str,
        state: State,
        action: &str,
    ) -> Result<Arc<KeyedSubscription>, Status> {
        let _change = self.registry.change().await;
        let row = self.subscription(tenant, id)?;
        if row.subscription.state == state {
            return Ok(row);
        }
        self.put_state(&row, state, action, "").await
    }

    /// Disables an active subscription; one that is disabled for its failures also when its endpoint is gone for good.
    /// `false` when there was nothing to do.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn disable(
        &self,
        id: SubscriptionId,
        cause: DisableCause,
        reason: &str,
    ) -> Result<bool, Status> {
        let _change = self.registry.change().await;
        let Some(row) = self.registry.get(id) else { return Ok(false) };
        let failing = matches!(row.subscription.state, State::Disabled { cause: DisableCause::Failing, .. });
        if row.subscription.state != State::Active && !(failing && cause == DisableCause::Gone) {
            return Ok(false);
        }
        let state = State::Disabled { cause, reason: reason.to_owned() };
        self.put_state(&row, state, "DisableSubscription", reason).await?;
        Ok(true)
    }

    /// Enables a subscription that is disabled for its failures: its endpoint answers.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn enable(&self, id: SubscriptionId) -> Result<(), Status> {
        let _change = self.registry.change().await;
        let Some(row) = self.registry.get(id).filter(|row| row.subscription.probed_every().is_some()) else {
            return Ok(());
        };
        self.put_state(&row, State::Active, "EnableSubscription", "the endpoint answers again").await?;
        Ok(())
    }

    async fn put_state(
        &self,
        row: &KeyedSubscription,
        state: State,
        action: &str,
        detail: &str,
    ) -> Result<Arc<KeyedSubscription>, Status> {
        let mut row = row.clone();
        row.subscription.state = state;
        row.subscription.updated = self.clock.wall();
        self.save(row, None, action, detail).await
    }

    /// A subscription as the answers to changes show it: without its health.
    pub(super) async fn show(&self, row: &KeyedSubscription) -> v1::Subscription {
        let unserved = self.lanes.unserved(vec![row.subscription.id]).await;
        v1::Subscription { no_agent: !unserved.is_empty(), ..self.show_row(row) }
    }

    /// Subscriptions as users see them who look, with all that only the running control plane knows of them.
    async fn show_all(&self, rows: &[&KeyedSubscription]) -> Vec<v1::Subscription> {
        let ids: Vec<_> = rows.iter().map(|row| row.subscription.id).collect();
        let unserved = self.lanes.unserved(ids.clone()).await;
        let views = self.lanes.health(ids).await;
        let shown = |(row, view): (&&KeyedSubscription, Option<View>)| v1::Subscription {
            health: view.as_ref().map(health::write),
            no_agent: unserved.contains(&row.subscription.id),
            ..self.show_row(row)
        };
        rows.iter().zip(views).map(shown).collect()
    }

    /// The same, without what only the schedule knows.
    fn show_row(&self, row: &KeyedSubscription) -> v1::Subscription {
        let mut shown = subscription::show(&row.subscription);
        if let Some(failures) = self.registry.unanswered(row.subscription.id) {
            shown.filter_error_count = failures.count;
            shown.last_filter_error = failures.last.to_string();
            shown.last_filter_error_time = Some(time::write(failures.time));
        }
        shown
    }

    async fn created(
        &self,
        row: &KeyedSubscription,
    ) -> Result<Response<v1::CreateSubscriptionResponse>, Status> {
        let now = self.clock.wall();
        let (key, secret) = row.keys.reveal(None, now).map_err(|error| views::key_error(&error))?;
        Ok(Response::new(v1::CreateSubscriptionResponse {
            subscription: Some(self.show(row).await),
            signing_key: Some(self.show_key(row, key, now)),
            secret: secret.expose_text().to_string(),
            warnings: self.warnings(row),
        }))
    }

    /// What the settings mean that may surprise.
    fn warnings(&self, row: &KeyedSubscription) -> Vec<String> {
        let subscription = &row.subscription;
        let format = subscription.format.warning().map(|warning| format!("body_format: {warning}"));
        let unvalidated = (subscription.handshake && subscription.validation.is_none()).then(|| {
            let id = subscription.id;
            format!("validation_handshake: the endpoint was not asked yet; do it by `postrider subscriptions validate {id}`")
        });
        format.into_iter().chain(self.unknown_pool(&subscription.pool)).chain(unvalidated).collect()
    }

    /// Emits a test event to one subscription, unless the call is repeated; returns the ids of event and delivery.
    pub(super) async fn emit_test(
        &self,
        row: &KeyedSubscription,
        id: Option<requests::Request>,
        test: TestEvent<'_>,
    ) -> Result<(String, String), Status> {
        let _change = self.registry.change().await;
        if let Some(made) = self.repeated(id.as_ref()).await? {
            let (event_id, delivery_id) = made.split_once(' ').unwrap_or((&made, ""));
            return Ok((event_id.to_owned(), delivery_id.to_owned()));
        }
        let accept = self.test_event(row, test).await?;
        let submitted = self
            .emitter
            .try_submit(accept)
            .map_err(|error| status::emit(&row.subscription.tenant, &error))?;
        let accepted =
            submitted.done().await.map_err(|error| status::emit(&row.subscription.tenant, &error))?;
        let event_id = accepted.id.to_string();
        let delivery_id = accepted.deliveries.first().map(ToString::to_string).unwrap_or_default();
        if let Some((key, row)) = self.remember(id, &format!("{event_id} {delivery_id}")) {
            self.store.put_request(key, row).await.map_err(|error| status::store(&error))?;
        }
        Ok((event_id, delivery_id))
    }

    async fn test_event(&self, row: &KeyedSubscription, test: TestEvent<'_>) -> Result<Accept, Status> {
        let tenant = row.subscription.tenant.clone();
        let event_type = if test.event_type.is_empty() { TEST_TYPE } else { test.event_type };
        let name: EventTypeName = status::parse("event_type", event_type)?;
        let entry = self.store.event_type(&tenant, &name).await.map_err(|error| status::store(&error))?;
        let example = entry.map(|entry| entry.example).filter(|example| !example.is_empty());
        let default = format!(r#"{{"subscription":"{}"}}"#, row.subscription.id);
        let data: bytes::Bytes = example.unwrap_or(default).into();
        let now = self.clock.wall();
        let key = EventKey::new(now, rand::random());
        let content = content_digest(&name, None, None, &data, &Attributes::default(), None);
        let event = Event {
            key,
            id: key.into(),
            tenant,
            event_type: name,
            timestamp: now,
            accepted: now,
            data,
            probed_key: test.probed_key,
            attributes: Attributes::default(),
            ordering_key: None,
            trace: None,
        };
        let subscriptions = vec![row.subscription.id];
        let signed = test.probed_key.map(|key| format!(", signed with {key} alone")).unwrap_or_default();
        let audit = Entry {
            request_id: test.request_id.to_owned(),
            detail: format!("{} of type {}{signed}", event.id, event.event_type),
            ..self.entry(test.action, Some(&event.tenant), row.subscription.id)
        };
        let audit = Some(Box::new(audit));
        let max_stored = self.registry.quota(&event.tenant).max_stored;
        Ok(Accept {
            event,
            client_chosen: false,
            idempotency: None,
            content,
            subscriptions,
            audit,
            max_stored,
        })
    }
}

fn read(wire: &v1::Subscription) -> Result<postrider_domain::subscription::Subscription, Status> {
    subscription::read(wire).map_err(|violations| {
        let within: Vec<Violation> =
            violations.into_iter().map(|violation| violation.within("subscription")).collect();
        status::invalid(&within)
    })
}

fn unhide(wanted: &mut v1::Subscription, stored: &CustomHeaders) -> Result<(), Status> {
    let unhidden = subscription::unhide(&mut wanted.headers, stored);
    unhidden.map_err(|violation| status::invalid(&[violation.within("subscription")]))
}

fn set(wire: &mut v1::Subscription, wanted: &v1::Subscription, field: &str) {
    match field {
        "name" => wire.name.clone_from(&wanted.name),
        "url" => wire.url.clone_from(&wanted.url),
        "event_types" => wire.event_types.clone_from(&wanted.event_types),
        "description" => wire.description.clone_from(&wanted.description),
        "pool" => wire.pool.clone_from(&wanted.pool),
        "body_format" => wire.body_format = wanted.body_format,
        "headers" => wire.headers.clone_from(&wanted.headers),
        "retry_policy" => wire.retry_policy.clone_from(&wanted.retry_policy),
        "max_in_flight" => wire.max_in_flight = wanted.max_in_flight,
        "timeout" => wire.timeout = wanted.timeout,
        "connect_timeout" => wire.connect_timeout = wanted.connect_timeout,
        "signature_profiles" => wire.signature_profiles.clone_from(&wanted.signature_profiles),
        "filter" => wire.filter.clone_from(&wanted.filter),
        "rate_limit" => wire.rate_limit = wanted.rate_limit,
        "order" => wire.order = wanted.order,
        "head_of_line" => wire.head_of_line = wanted.head_of_line,
        "failure_policy" => wire.failure_policy = wanted.failure_policy,
        "allow_fallback_pool" => wire.allow_fallback_pool = wanted.allow_fallback_pool,
        "validation_handshake" => wire.validation_handshake = wanted.validation_handshake,
        _ => {}
    }
}
