//! `SubscriptionService`.

mod fields;
mod wanted;

use std::sync::Arc;

use postrider_domain::access::Role;
use postrider_domain::audit::Entry;
use postrider_domain::egress::EndpointUrl;
use postrider_domain::headers::CustomHeaders;
use postrider_domain::id::SubscriptionId;
use postrider_domain::lane::health::View;
use postrider_domain::signing::KeyRing;
use postrider_domain::subscription::{DisableCause, State};
use postrider_proto::v1;
use postrider_proto::v1::subscription_service_server::SubscriptionService;
use postrider_proto::{health, subscription, time};
use tonic::{Request, Response, Status};

use super::signing_keys::{check_keys, new_key};
use super::{Api, changes, page, status, views};
use crate::disabler::Change;
use crate::schedule::LaneSettings;
use crate::secrets::{KeyedSubscription, seal_subscription};
use crate::store::{RequestKey, RequestRow, SubscriptionRow};

const LIST: &str = "subscriptions";
/// Subscriptions that are shown between two looks at how large the page is.
const CHUNK: usize = 50;
/// The warning of a repeated create that shows no secret.
const SECRET_LEFT_OUT: &str = "secret: left out, because the signing keys have changed since the subscription was \
                               created; an admin can show the present one with `postrider keys reveal`";

#[tonic::async_trait]
impl SubscriptionService for Api {
    async fn create_subscription(
        &self,
        request: Request<v1::CreateSubscriptionRequest>,
    ) -> Result<Response<v1::CreateSubscriptionResponse>, Status> {
        let (api, request) = self.call(request);
        let wanted = request.subscription.clone().unwrap_or_default();
        let tenant = api.tenant(&wanted.tenant)?;
        let content = views::without_maps(&request);
        let id = api.request("CreateSubscription", &tenant, &request.request_id, &content)?;
        let _change = api.registry.change().await;
        if let Some(made) = api.repeated(id.as_ref()).await? {
            let row = api.subscription(&wanted.tenant, &made)?;
            return api.created_before(&row, &request.request_id).await.map(Response::new);
        }
        api.check_subscriptions(&tenant)?;
        let subscription = api.wanted(wanted)?;
        api.check_name_is_free(&subscription)?;
        let keys = KeyRing::new(new_key(&request.secret, "", subscription.created)?);
        let row = KeyedSubscription { subscription, keys };
        check_keys(&row)?;
        let remembered = api.remember(id, &row.subscription.id.to_string());
        let detail = changes::new(&subscription::write(&row.subscription));
        let row = api.save(row, remembered, "CreateSubscription", &detail).await?;
        api.created(&row).await.map(Response::new)
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
        let list = page::of(LIST, &tenant);
        let rows = api.registry.list(&tenant, page::read(&list, &request.page_token)?, size + 1);
        let (subscriptions, next) = api.show_page(&rows, size).await;
        let next_page_token = page::write(&list, next);
        Ok(Response::new(v1::ListSubscriptionsResponse { subscriptions, next_page_token }))
    }

    async fn update_subscription(
        &self,
        request: Request<v1::UpdateSubscriptionRequest>,
    ) -> Result<Response<v1::UpdateSubscriptionResponse>, Status> {
        let (api, request) = self.call(request);
        let wanted = request.subscription.unwrap_or_default();
        let fields = views::mask(request.update_mask, &fields::SETTABLE)?;
        let _change = api.registry.change().await;
        let row = api.subscription(&wanted.tenant, &wanted.id)?;
        let before = subscription::write(&row.subscription);
        let row = api.changed(&row, wanted, &fields)?;
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
        Ok(Response::new(v1::UpdateSubscriptionResponse { subscription, warnings: warnings(&row) }))
    }

    async fn check_subscription(
        &self,
        request: Request<v1::CheckSubscriptionRequest>,
    ) -> Result<Response<v1::CheckSubscriptionResponse>, Status> {
        let (api, request) = self.call(request);
        let wanted = request.subscription.unwrap_or_default();
        if wanted.id.is_empty() {
            api.tenant(&wanted.tenant)?;
            let subscription = api.wanted(wanted)?;
            let keys = KeyRing::new(new_key("", "", subscription.created)?);
            let row = KeyedSubscription { subscription, keys };
            check_keys(&row)?;
            return Ok(Response::new(v1::CheckSubscriptionResponse { warnings: warnings(&row) }));
        }
        let fields = views::mask(request.update_mask, &fields::SETTABLE)?;
        let row = api.subscription(&wanted.tenant, &wanted.id)?;
        let row = api.changed(&row, wanted, &fields)?;
        Ok(Response::new(v1::CheckSubscriptionResponse { warnings: warnings(&row) }))
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
        let entry = api.entry("DeleteSubscription", Some(&row.subscription.tenant), row.subscription.id);
        let audit = Entry { detail: changes::gone(&subscription::write(&row.subscription)), ..entry };
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
        api.test(request).await.map(Response::new)
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

impl Api {
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
        let shown = self.show_row(row);
        v1::Subscription { no_agent: !unserved.is_empty() && !shown.pool_not_allowed, ..shown }
    }

    /// Subscriptions as users see them who look, with all that only the running control plane knows
    /// of them. So many of the first, a few at a time, until they are enough bytes; and where the
    /// list goes on.
    async fn show_page(
        &self,
        rows: &[Arc<KeyedSubscription>],
        size: usize,
    ) -> (Vec<v1::Subscription>, Option<SubscriptionId>) {
        let (mut shown, mut bytes) = (Vec::new(), 0);
        for chunk in rows[..size.min(rows.len())].chunks(CHUNK) {
            let views = self.show_all(&chunk.iter().map(AsRef::as_ref).collect::<Vec<_>>()).await;
            bytes += views.iter().map(prost::Message::encoded_len).sum::<usize>();
            shown.extend(chunk.iter().map(|row| row.subscription.id).zip(views));
            if bytes >= page::MAX_BYTES {
                break;
            }
        }
        let next = shown.last().map(|(id, _)| *id).filter(|_| shown.len() < rows.len());
        page::fit(shown, next)
    }

    async fn show_all(&self, rows: &[&KeyedSubscription]) -> Vec<v1::Subscription> {
        let ids: Vec<_> = rows.iter().map(|row| row.subscription.id).collect();
        let unserved = self.lanes.unserved(ids.clone()).await;
        let views = self.lanes.health(ids).await;
        let shown = |(row, view): (&&KeyedSubscription, Option<View>)| {
            let shown = self.show_row(row);
            v1::Subscription {
                health: view.as_ref().map(health::write),
                no_agent: unserved.contains(&row.subscription.id) && !shown.pool_not_allowed,
                ..shown
            }
        };
        rows.iter().zip(views).map(shown).collect()
    }

    /// The same, without what only the schedule knows.
    fn show_row(&self, row: &KeyedSubscription) -> v1::Subscription {
        let mut shown = subscription::show(&row.subscription);
        shown.url = self.show_url(&row.subscription.url);
        shown.pool_not_allowed = !self.pools.allow(&row.subscription.pool, &row.subscription.tenant);
        if let Some(failures) = self.registry.unanswered(row.subscription.id) {
            shown.filter_error_count = failures.count;
            shown.last_filter_error = failures.last.to_string();
            shown.last_filter_error_time = Some(time::write(failures.time));
        }
        shown
    }

    /// Where deliveries go, as the caller may see it: secrets in paths and queries are for those who may change them.
    pub(super) fn show_url(&self, url: &EndpointUrl) -> String {
        match self.caller.role {
            Role::Viewer => subscription::hide_path(url),
            Role::Admin | Role::Operator | Role::Emitter => url.as_str().to_owned(),
        }
    }

    async fn created(&self, row: &KeyedSubscription) -> Result<v1::CreateSubscriptionResponse, Status> {
        let now = self.clock.wall();
        let (key, secret) = row.keys.reveal(None, now).map_err(|error| views::key_error(&error))?;
        Ok(v1::CreateSubscriptionResponse {
            subscription: Some(self.show(row).await),
            signing_key: Some(self.show_key(row, key, now)),
            secret: secret.expose_text().to_string(),
            warnings: warnings(row),
        })
    }

    /// Answers a repeated call. The secret is in the answer only while the key that the first call made is the only
    /// one: the caller may not see a key that somebody else has made since.
    async fn created_before(
        &self,
        row: &KeyedSubscription,
        request_id: &str,
    ) -> Result<v1::CreateSubscriptionResponse, Status> {
        let entry = self.entry("CreateSubscription", Some(&row.subscription.tenant), row.subscription.id);
        if let Some(first) = row.keys.sole() {
            let answer = self.created(row).await?;
            self.record(changes::revealed_again(entry, first.id, request_id)).await?;
            return Ok(answer);
        }
        self.record(changes::repeated(entry, request_id)).await?;
        let active = row.keys.get(None).map(|key| self.show_key(row, key, self.clock.wall()));
        let mut shown = warnings(row);
        shown.push(SECRET_LEFT_OUT.to_owned());
        let (subscription, secret) = (Some(self.show(row).await), String::new());
        Ok(v1::CreateSubscriptionResponse { subscription, signing_key: active, secret, warnings: shown })
    }
}

/// What the settings mean that may surprise.
fn warnings(row: &KeyedSubscription) -> Vec<String> {
    let subscription = &row.subscription;
    let format = subscription.format.warning().map(|warning| format!("body_format: {warning}"));
    let unvalidated = (subscription.handshake && subscription.validation.is_none()).then(|| {
        let id = subscription.id;
        format!("validation_handshake: the endpoint was not asked yet; do it by `postrider subscriptions validate {id}`")
    });
    format.into_iter().chain(unvalidated).collect()
}
