//! The API as a service or an admin of one tenant uses it.

use std::time::Duration;

use anyhow::{Context as _, Result};
use postrider_domain::join::Join;
use postrider_proto::v1::{self, AgentState, DeliveryState};
use tonic::metadata::AsciiMetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::wait::{eventually, when};

/// States of a delivery that has not ended.
const UNFINISHED: [DeliveryState; 3] =
    [DeliveryState::Pending, DeliveryState::Attempting, DeliveryState::Waiting];

/// One tenant's view of a control plane.
#[derive(Clone, Debug)]
pub struct Api {
    channel: Channel,
    caller: Caller,
    tenant: String,
}

/// Says with each call who makes it.
#[derive(Clone, Debug)]
pub struct Caller(AsciiMetadataValue);

impl Interceptor for Caller {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

macro_rules! service {
    ($(#[$doc:meta])* $name:ident, $module:ident :: $client:ident) => {
        $(#[$doc])*
        #[must_use]
        pub fn $name(&self) -> v1::$module::$client<InterceptedService<Channel, Caller>> {
            v1::$module::$client::with_interceptor(self.channel.clone(), self.caller.clone())
        }
    };
}

impl Api {
    /// Over this connection, for this tenant, with this token.
    ///
    /// # Errors
    /// When the token cannot be sent.
    pub fn new(channel: Channel, tenant: &str, token: &str) -> Result<Self> {
        let caller = Caller(format!("Bearer {token}").parse()?);
        Ok(Self { channel, caller, tenant: tenant.to_owned() })
    }

    /// The tenant.
    #[must_use]
    pub fn tenant(&self) -> String {
        self.tenant.clone()
    }

    service!(
        /// Tenants.
        tenants, tenant_service_client::TenantServiceClient
    );
    service!(
        /// Subscriptions.
        subscriptions, subscription_service_client::SubscriptionServiceClient
    );
    service!(
        /// Signing keys.
        signing_keys, signing_key_service_client::SigningKeyServiceClient
    );
    service!(
        /// The catalogue of event types.
        event_types, event_type_service_client::EventTypeServiceClient
    );
    service!(
        /// Events.
        events, event_service_client::EventServiceClient
    );
    service!(
        /// Tokens.
        tokens, token_service_client::TokenServiceClient
    );
    service!(
        /// The audit log.
        audit, audit_service_client::AuditServiceClient
    );
    service!(
        /// Secrets at rest.
        secrets, secret_service_client::SecretServiceClient
    );
    service!(
        /// Deliveries.
        deliveries, delivery_service_client::DeliveryServiceClient
    );
    service!(
        /// Operations.
        operations, operation_service_client::OperationServiceClient
    );
    service!(
        /// Agents.
        agents, agent_service_client::AgentServiceClient
    );

    service!(
        /// Pools.
        pools, pool_service_client::PoolServiceClient
    );

    /// Makes the tenant.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn create_tenant(&self) -> Result<()> {
        let tenant = v1::Tenant { id: self.tenant(), ..v1::Tenant::default() };
        let request = v1::CreateTenantRequest { tenant: Some(tenant) };
        self.tenants().create_tenant(request).await.context("the tenant is not made")?;
        Ok(())
    }

    /// Deletes the tenant, and waits until it is gone.
    ///
    /// # Errors
    /// When the server refuses, or it is not gone for too long.
    pub async fn delete_tenant(&self, with_subscriptions: bool) -> Result<v1::Operation> {
        let request = v1::DeleteTenantRequest { tenant: self.tenant(), with_subscriptions };
        let begun = self.tenants().delete_tenant(request).await?.into_inner().operation;
        let id = begun.context("no operation in the answer")?.id;
        self.operation_done(&id).await
    }

    /// Waits until an operation is done.
    ///
    /// # Errors
    /// When it is not for too long.
    pub async fn operation_done(&self, id: &str) -> Result<v1::Operation> {
        eventually("the operation is done", async || {
            let request = v1::GetOperationRequest { tenant: self.tenant(), operation: id.to_owned() };
            let found = self.operations().get_operation(request).await?.into_inner().operation;
            Ok(found.filter(|operation| operation.state() == v1::OperationState::Done))
        })
        .await
    }

    /// Makes a subscription; its tenant is this one, and it wants everything unless it says otherwise.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn subscribe(&self, wanted: v1::Subscription, secret: &str) -> Result<Subscribed> {
        let event_types =
            if wanted.event_types.is_empty() { vec!["*".to_owned()] } else { wanted.event_types };
        let subscription = v1::Subscription { tenant: self.tenant(), event_types, ..wanted };
        let request = v1::CreateSubscriptionRequest {
            subscription: Some(subscription),
            secret: secret.to_owned(),
            ..v1::CreateSubscriptionRequest::default()
        };
        let answer = self.subscriptions().create_subscription(request).await?.into_inner();
        let id = answer.subscription.context("no subscription in the answer")?.id;
        Ok(Subscribed { id, secret: answer.secret })
    }

    /// One subscription.
    ///
    /// # Errors
    /// When there is none.
    pub async fn subscription(&self, id: &str) -> Result<v1::Subscription> {
        let request = v1::GetSubscriptionRequest { tenant: self.tenant(), subscription: id.to_owned() };
        let answer = self.subscriptions().get_subscription(request).await?.into_inner();
        answer.subscription.context("no subscription in the answer")
    }

    /// Emits one event.
    ///
    /// # Errors
    /// The server's refusal.
    pub async fn emit(&self, event: v1::NewEvent) -> Result<v1::EmitResponse, Status> {
        let request = v1::EmitRequest { tenant: self.tenant(), event: Some(event) };
        Ok(self.events().emit(request).await?.into_inner())
    }

    /// Emits one event and says as which delivery it is owed to its only subscription.
    ///
    /// # Errors
    /// When the server refuses, or nobody or several are subscribed.
    pub async fn emit_to_one(&self, event: v1::NewEvent) -> Result<(String, String)> {
        let event = self.emit(event).await?.event_id;
        let request = v1::GetEventRequest { tenant: self.tenant(), event: event.clone() };
        let found = self.events().get_event(request).await?.into_inner().event;
        match found.context("no event in the answer")?.deliveries.as_slice() {
            [delivery] => Ok((event, delivery.clone())),
            others => anyhow::bail!("{event} is owed as {others:?}"),
        }
    }

    /// One delivery with its attempts.
    ///
    /// # Errors
    /// When there is none.
    pub async fn delivery(&self, id: &str) -> Result<(v1::Delivery, Vec<v1::Attempt>)> {
        let request = v1::GetDeliveryRequest { tenant: self.tenant(), delivery: id.to_owned() };
        let answer = self.deliveries().get_delivery(request).await?.into_inner();
        Ok((answer.delivery.context("no delivery in the answer")?, answer.attempts))
    }

    /// Waits until a delivery has a state.
    ///
    /// # Errors
    /// When it has another one for too long.
    pub async fn delivery_in(
        &self,
        id: &str,
        state: DeliveryState,
    ) -> Result<(v1::Delivery, Vec<v1::Attempt>)> {
        let mut last = None;
        let reached = eventually("the delivery's state", async || {
            let found = self.delivery(id).await?;
            let reached = found.0.state() == state;
            last = Some(found);
            Ok(when(reached))
        });
        let reached = reached.await;
        reached.with_context(|| format!("{id} is not {state:?}, but {last:?}"))?;
        last.context("never looked")
    }

    /// Deliveries in some of these states, of one page's walk through all.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn deliveries_in(&self, states: &[DeliveryState]) -> Result<Vec<v1::Delivery>> {
        let mut request = v1::ListDeliveriesRequest {
            tenant: self.tenant(),
            states: states.iter().map(|state| i32::from(*state)).collect(),
            page_size: 1000,
            ..v1::ListDeliveriesRequest::default()
        };
        let mut found = Vec::new();
        loop {
            let page = self.deliveries().list_deliveries(request.clone()).await?.into_inner();
            found.extend(page.deliveries);
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                return Ok(found);
            }
        }
    }

    /// Waits until every delivery has ended.
    ///
    /// # Errors
    /// When some do not within `limit`.
    pub async fn all_ended(&self, limit: Duration) -> Result<()> {
        crate::wait::within(limit, "every delivery has ended", async || {
            // Listing all of them is work for the server: not too often.
            tokio::time::sleep(Duration::from_millis(200)).await;
            Ok(when(self.deliveries_in(&UNFINISHED).await?.is_empty()))
        })
        .await
    }

    /// Waits until an agent is connected with all its streams.
    ///
    /// # Errors
    /// When it is not for too long.
    pub async fn agent_connected(&self, id: &str, streams: u32) -> Result<v1::Agent> {
        eventually(&format!("the agent {id} is connected with {streams} streams"), async || {
            let found = self.agent(id).await?;
            Ok(found.filter(|agent| agent.state() == AgentState::Connected && agent.streams == streams))
        })
        .await
    }

    /// Lets the tenant use a pool, which is created if it was not.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn allow_pool(&self, name: &str) -> Result<()> {
        let pool =
            Some(v1::Pool { name: name.to_owned(), tenants: vec![self.tenant()], ..v1::Pool::default() });
        self.pools().create_pool(v1::CreatePoolRequest { pool }).await?;
        Ok(())
    }

    /// Makes a join token for a pool.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn join(&self, pool: &str, max_uses: u32) -> Result<Join> {
        let request = v1::CreateJoinTokenRequest { pool: pool.to_owned(), max_uses, ..Default::default() };
        let made = self.agents().create_join_token(request).await?.into_inner();
        made.join.parse().context("what was made is no join token")
    }

    /// An agent, by its id or by the name that it gave itself, if the control plane knows it.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn agent(&self, id: &str) -> Result<Option<v1::Agent>> {
        let answer = self.agents().list_agents(v1::ListAgentsRequest::default()).await?.into_inner();
        Ok(answer.agents.into_iter().find(|agent| agent.id == id || agent.display_name == id))
    }
}

/// A subscription that was made.
#[derive(Clone, Debug)]
pub struct Subscribed {
    /// Its id.
    pub id: String,
    /// Its first secret.
    pub secret: String,
}

/// An event of a type with some data.
#[must_use]
pub fn event(event_type: &str, data: &str) -> v1::NewEvent {
    v1::NewEvent { r#type: event_type.to_owned(), data: data.to_owned().into(), ..v1::NewEvent::default() }
}

/// A duration on the wire.
#[must_use]
pub fn duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0),
    }
}

/// Retries after exactly these delays.
#[must_use]
pub fn retries(delays: impl IntoIterator<Item = Duration>) -> Option<v1::RetryPolicy> {
    Some(v1::RetryPolicy {
        schedule: delays.into_iter().map(duration).collect(),
        jitter: Some(0.0),
        ..v1::RetryPolicy::default()
    })
}

/// One attempt, and no more.
#[must_use]
pub fn no_retries() -> Option<v1::RetryPolicy> {
    Some(v1::RetryPolicy { window: Some(duration(Duration::ZERO)), ..v1::RetryPolicy::default() })
}
