//! What a fresh control plane is filled with: tenant, event types, subscription, and one event.
//!
//! Everything that is there already is used again, so that a data directory can be run many times.

use std::time::Duration;

use postrider_domain::time::Timestamp;
use postrider_proto::v1::{self, AgentState, SubscriptionState};
use prost_types::FieldMask;
use tonic::{Code, Response, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::catalogue::{
    CATALOGUE, EXAMPLE_DATA, EXAMPLE_TIMESTAMP, EXAMPLE_TYPE, Entry, TENANT, TENANT_NAME,
};
use super::ports::Ports;
use crate::client::Client;
use crate::failure::{Doing as _, Exit, Failure, Result};
use crate::pages::{self, Limit};
use crate::time::to_wire;
use crate::view::promised;

/// By this, `dev` finds its subscription again when the receiver has moved to another port.
const DESCRIPTION: &str = "sample receiver of postrider dev";
/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(20);

/// What was made or found.
pub(crate) struct Seed {
    /// The subscription's id.
    pub(crate) subscription: String,
    /// Its active secret, for the receiver.
    pub(crate) secret: String,
}

/// Waits until the control plane serves.
pub(crate) async fn healthy(client: &Client) {
    let mut health = HealthClient::new(client.channel());
    loop {
        if let Ok(answer) = health.check(HealthCheckRequest::default()).await
            && answer.get_ref().status() == ServingStatus::Serving
        {
            return;
        }
        tokio::time::sleep(POLL).await;
    }
}

/// A join token for the agent.
pub(crate) async fn join(client: &Client) -> Result<String> {
    let request = v1::CreateJoinTokenRequest { display_name: "postrider dev".into(), ..Default::default() };
    Ok(client.agents().create_join_token(request).await.doing("create a join token")?.into_inner().join)
}

/// Waits until an agent takes jobs.
pub(crate) async fn agent_connected(client: &Client) -> Result<()> {
    let mut agents = client.agents();
    loop {
        let answer = agents.list_agents(v1::ListAgentsRequest::default()).await.doing("list agents")?;
        if answer.get_ref().agents.iter().any(|agent| agent.state() == AgentState::Connected) {
            return Ok(());
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Makes what is missing.
pub(crate) async fn plant(client: &Client, ports: &Ports) -> Result<Seed> {
    let tenant = v1::Tenant { id: TENANT.into(), display_name: TENANT_NAME.into(), ..Default::default() };
    let request = v1::CreateTenantRequest { tenant: Some(tenant) };
    unless_there(client.tenants().create_tenant(request).await).doing("create the tenant")?;
    for Entry { name, description, example } in CATALOGUE {
        let event_type = v1::EventType {
            tenant: TENANT.into(),
            name: name.into(),
            description: description.into(),
            example: example.into(),
            ..Default::default()
        };
        let request = v1::CreateEventTypeRequest { event_type: Some(event_type) };
        unless_there(client.event_types().create_event_type(request).await)
            .doing(format_args!("create the event type {name}"))?;
    }
    match found(client, ports).await? {
        Some(subscription) => reuse(client, ports, subscription).await,
        None => subscribe(client, ports).await,
    }
}

/// That something is there already is as good as having made it.
fn unless_there<T>(answer: std::result::Result<Response<T>, Status>) -> std::result::Result<(), Status> {
    match answer {
        Err(status) if status.code() != Code::AlreadyExists => Err(status),
        _ => Ok(()),
    }
}

async fn found(client: &Client, ports: &Ports) -> Result<Option<v1::Subscription>> {
    let mut api = client.subscriptions();
    let all = pages::collect(Limit::ALL, "list subscriptions", async |page_size, page_token| {
        let tenant = TENANT.into();
        api.list_subscriptions(v1::ListSubscriptionsRequest { tenant, page_size, page_token }).await
    });
    let (here, elsewhere): (Vec<_>, Vec<_>) =
        all.await?.entries.into_iter().partition(|subscription| subscription.url == ports.receiver_url());
    let moved = elsewhere.into_iter().find(|subscription| subscription.description == DESCRIPTION);
    Ok(here.into_iter().next().or(moved))
}

async fn subscribe(client: &Client, ports: &Ports) -> Result<Seed> {
    let subscription = v1::Subscription {
        tenant: TENANT.into(),
        url: ports.receiver_url(),
        event_types: vec!["*".into()],
        description: DESCRIPTION.into(),
        body_format: v1::BodyFormat::Event.into(),
        ..Default::default()
    };
    let request = v1::CreateSubscriptionRequest { subscription: Some(subscription), ..Default::default() };
    let answer = client.subscriptions().create_subscription(request).await;
    let answer = answer.doing("create the subscription")?.into_inner();
    let subscription = promised(answer.subscription, "subscription")?;
    Ok(Seed { subscription: subscription.id, secret: answer.secret })
}

async fn reuse(client: &Client, ports: &Ports, found: v1::Subscription) -> Result<Seed> {
    let (tenant, id) = (String::from(TENANT), found.id.clone());
    let mut api = client.subscriptions();
    if found.url != ports.receiver_url() {
        let moved = v1::Subscription { url: ports.receiver_url(), ..found.clone() };
        let update_mask = Some(FieldMask { paths: vec!["url".into()] });
        let request = v1::UpdateSubscriptionRequest { subscription: Some(moved), update_mask };
        api.update_subscription(request).await.doing("move the subscription to the receiver's port")?;
    }
    if found.state() != SubscriptionState::Active {
        let request = v1::ResumeSubscriptionRequest { tenant: tenant.clone(), subscription: id.clone() };
        api.resume_subscription(request).await.doing("resume the subscription")?;
    }
    let secret = reveal(client, &tenant, &id).await.doing("reveal the subscription's secret")?;
    Ok(Seed { subscription: id, secret })
}

/// The active secret of a subscription.
pub(crate) async fn reveal(
    client: &Client,
    tenant: &str,
    subscription: &str,
) -> std::result::Result<String, Status> {
    let request = v1::RevealSigningKeyRequest {
        tenant: tenant.into(),
        subscription: subscription.into(),
        ..Default::default()
    };
    Ok(client.signing_keys().reveal_signing_key(request).await?.into_inner().secret)
}

/// An event that was emitted.
pub(crate) struct Emitted {
    /// Its id.
    pub(crate) event: String,
    /// One of its deliveries.
    pub(crate) delivery: String,
}

/// Emits the documentation's example.
pub(crate) async fn emit_example(client: &Client) -> Result<Emitted> {
    let timestamp = Timestamp::parse(EXAMPLE_TIMESTAMP).expect("the example's timestamp is RFC 3339");
    let event = v1::NewEvent {
        r#type: EXAMPLE_TYPE.into(),
        data: EXAMPLE_DATA.into(),
        timestamp: Some(to_wire(timestamp)),
        ..Default::default()
    };
    let request = v1::EmitRequest { tenant: TENANT.into(), event: Some(event) };
    let accepted = client.events().emit(request).await.doing("emit the example")?.into_inner();
    let request = v1::GetEventRequest { tenant: TENANT.into(), event: accepted.event_id.clone() };
    let event = client.events().get_event(request).await.doing("get the example")?.into_inner().event;
    let delivery = promised(event, "event")?.deliveries.into_iter().next().ok_or_else(|| {
        Failure::new(Exit::Unexpected, "the example has no delivery, although a subscription matches")
    })?;
    Ok(Emitted { event: accepted.event_id, delivery })
}
