//! The control plane's API, as far as the bench needs it beside emitting.

use std::time::Duration;

use anyhow::{Context as _, bail};
use postrider_proto::v1;
use postrider_proto::v1::agent_service_client::AgentServiceClient;
use postrider_proto::v1::delivery_service_client::DeliveryServiceClient;
use postrider_proto::v1::operation_service_client::OperationServiceClient;
use postrider_proto::v1::subscription_service_client::SubscriptionServiceClient;
use postrider_proto::v1::tenant_service_client::TenantServiceClient;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::clock;
use crate::payload;
use crate::reach::{Connection, Reach};

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(3);
/// The tenant that every event belongs to.
pub(crate) const TENANT: &str = "bench";

/// A client of the API, over one connection that is opened by the first call and again after a loss.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    /// For what anybody may ask.
    channel: Channel,
    connection: Connection,
}

impl Api {
    /// Of this control plane.
    pub(crate) fn new(reach: &Reach) -> anyhow::Result<Self> {
        let channel = reach.endpoint()?.timeout(Duration::from_secs(20)).connect_lazy();
        Ok(Self { connection: reach.identify(channel.clone())?, channel })
    }

    /// Whether the control plane says that it serves.
    pub(crate) async fn serves(&self) -> bool {
        let answer = HealthClient::new(self.channel.clone()).check(HealthCheckRequest::default()).await;
        answer.is_ok_and(|answer| answer.get_ref().status() == ServingStatus::Serving)
    }

    /// Makes the tenant, without limits: what is measured is the machine.
    pub(crate) async fn create_tenant(&self) -> anyhow::Result<()> {
        let quota = v1::TenantQuota {
            max_subscriptions: u32::MAX,
            max_stored_bytes: u64::MAX,
            emit_rate: u32::MAX,
            delivery_rate: u32::MAX,
            ..Default::default()
        };
        let tenant = v1::Tenant { id: TENANT.into(), quota: Some(quota), ..Default::default() };
        let request = v1::CreateTenantRequest { tenant: Some(tenant) };
        let answer = TenantServiceClient::new(self.connection.clone()).create_tenant(request).await;
        answer.context("cannot make the tenant").map(drop)
    }

    /// Subscribes a URL to the event that is emitted. A cap of 0 is the default.
    pub(crate) async fn subscribe(&self, url: String, max_in_flight: i32) -> anyhow::Result<String> {
        let subscription = v1::Subscription {
            tenant: TENANT.into(),
            url,
            event_types: vec![payload::EVENT_TYPE.into()],
            max_in_flight,
            ..Default::default()
        };
        let request =
            v1::CreateSubscriptionRequest { subscription: Some(subscription), ..Default::default() };
        let answer =
            SubscriptionServiceClient::new(self.connection.clone()).create_subscription(request).await;
        let made = answer.context("cannot subscribe")?.into_inner().subscription.unwrap_or_default();
        Ok(made.id)
    }

    /// Begins to deliver again what a subscription had; gives the operation.
    pub(crate) async fn replay(&self, subscription: String, max_per_second: u32) -> anyhow::Result<String> {
        let replay = v1::Replay { subscription, max_per_second, ..Default::default() };
        let request =
            v1::ReplayDeliveriesRequest { tenant: TENANT.into(), replay: Some(replay), ..Default::default() };
        let answer = self.operations().replay_deliveries(request).await.context("cannot replay")?;
        Ok(answer.into_inner().operation.unwrap_or_default().id)
    }

    /// How an operation stands.
    pub(crate) async fn operation(&self, id: &str) -> anyhow::Result<v1::Operation> {
        let request = v1::GetOperationRequest { tenant: TENANT.into(), operation: id.into() };
        let answer = self.operations().get_operation(request).await.context("cannot see the operation")?;
        Ok(answer.into_inner().operation.unwrap_or_default())
    }

    /// Pauses an operation; whether it had not ended.
    pub(crate) async fn pause(&self, id: &str) -> anyhow::Result<bool> {
        let request = v1::PauseOperationRequest { tenant: TENANT.into(), operation: id.into() };
        match self.operations().pause_operation(request).await {
            Err(status) if status.code() == tonic::Code::FailedPrecondition => Ok(false),
            answer => answer.context("cannot pause the operation").map(|_| true),
        }
    }

    /// Lets an operation go on.
    pub(crate) async fn resume(&self, id: &str) -> anyhow::Result<()> {
        let request = v1::ResumeOperationRequest { tenant: TENANT.into(), operation: id.into() };
        self.operations().resume_operation(request).await.context("cannot resume the operation").map(drop)
    }

    fn operations(&self) -> OperationServiceClient<Connection> {
        OperationServiceClient::new(self.connection.clone())
    }

    /// A join token for the agent.
    pub(crate) async fn join(&self) -> anyhow::Result<String> {
        let request = v1::CreateJoinTokenRequest::default();
        let answer = AgentServiceClient::new(self.connection.clone()).create_join_token(request).await;
        Ok(answer.context("cannot make a join token")?.into_inner().join)
    }

    /// Waits until an agent takes jobs.
    pub(crate) async fn agent_connected(&self, within: Duration) -> anyhow::Result<()> {
        let begun = clock::now();
        while begun.elapsed() < within {
            let request = v1::ListAgentsRequest::default();
            let answer = AgentServiceClient::new(self.connection.clone()).list_agents(request).await;
            let agents = answer.map(|answer| answer.into_inner().agents).unwrap_or_default();
            if agents.iter().any(|agent| agent.state() == v1::AgentState::Connected) {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
        bail!("no agent has connected within {} s", within.as_secs())
    }

    /// Waits until every delivery has ended.
    pub(crate) async fn all_ended(&self, within: Duration) -> anyhow::Result<()> {
        let begun = clock::now();
        while begun.elapsed() < within {
            if !self.any_unended().await.context("cannot list deliveries")? {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
        bail!("some deliveries have not ended within {} s", within.as_secs())
    }

    async fn any_unended(&self) -> Result<bool, tonic::Status> {
        use v1::DeliveryState::{Attempting, Pending, Waiting};
        let mut request = v1::ListDeliveriesRequest {
            tenant: TENANT.into(),
            states: [Pending, Attempting, Waiting].map(i32::from).to_vec(),
            page_size: 1,
            ..Default::default()
        };
        loop {
            let mut client = DeliveryServiceClient::new(self.connection.clone());
            let page = client.list_deliveries(request.clone()).await?.into_inner();
            if !page.deliveries.is_empty() {
                return Ok(true);
            }
            if page.next_page_token.is_empty() {
                return Ok(false);
            }
            request.page_token = page.next_page_token;
        }
    }
}
