//! What calls are about: a tenant with one of everything, and names that stand for nothing.

use anyhow::{Context as _, Result};
use postrider_domain::id::{AgentId, DeliveryId, EventKey, KeyId, OperationId, SubscriptionId, TokenId};
use postrider_domain::time::Timestamp;
use postrider_proto::v1;
use postrider_tests::api::{self, Api, duration};
use postrider_tests::applicant::new_key;
use postrider_tests::world::Guarded;

/// One of everything, by name. Names of two sets have the same lengths, so that answers can be compared byte by byte.
#[derive(Clone, Debug)]
pub(super) struct Things {
    /// A tenant.
    pub(super) tenant: String,
    /// A tenant that has nothing.
    pub(super) empty_tenant: String,
    /// A tenant that is not there yet.
    pub(super) new_tenant: String,
    /// A type in the catalogue.
    pub(super) event_type: String,
    /// A subscription.
    pub(super) subscription: String,
    /// Its key that retires.
    pub(super) key: String,
    /// Its key that waits to be activated.
    pub(super) pending_key: String,
    /// An event whose delivery waits for an agent.
    pub(super) event: String,
    /// That delivery.
    pub(super) delivery: String,
    /// An event whose delivery has ended.
    pub(super) ended_event: String,
    /// A client's own name of an event.
    pub(super) named_event: String,
    /// A token that is confined to the tenant.
    pub(super) token: String,
    /// A join token that can be used.
    pub(super) join_token: String,
    /// An agent that has enrolled.
    pub(super) agent: String,
    /// An operation that is held.
    pub(super) operation: String,
    /// A pool that nothing else names.
    pub(super) pool: String,
}

fn random() -> u128 {
    rand::random()
}

fn word(prefix: &str) -> String {
    format!("{prefix}-{:016x}", rand::random::<u64>())
}

impl Things {
    /// Names of nothing.
    pub(super) fn missing() -> Self {
        let now = Timestamp::default();
        let subscription = SubscriptionId::new(now, random());
        let event = || EventKey::new(now, random()).to_string();
        Self {
            tenant: word("t"),
            empty_tenant: word("e"),
            new_tenant: word("n"),
            event_type: word("type"),
            subscription: subscription.to_string(),
            key: KeyId::new(now, random()).to_string(),
            pending_key: KeyId::new(now, random()).to_string(),
            event: event(),
            delivery: DeliveryId { subscription, sequence: 1 }.to_string(),
            ended_event: event(),
            named_event: word("own"),
            token: TokenId::new(now, random()).to_string(),
            join_token: TokenId::new(now, random()).to_string(),
            agent: AgentId::new(now, random()).to_string(),
            operation: OperationId::new(now, random()).to_string(),
            pool: word("p"),
        }
    }

    /// Makes one of everything.
    pub(super) async fn make(world: &Guarded) -> Result<Self> {
        let Self { tenant, empty_tenant, new_tenant, event_type, named_event, pool, .. } = Self::missing();
        let api = world.control_plane.api(&tenant)?;
        api.create_tenant().await?;
        world.control_plane.api(&empty_tenant)?.create_tenant().await?;
        let entry = v1::EventType { tenant: tenant.clone(), name: event_type.clone(), ..Default::default() };
        let request = v1::CreateEventTypeRequest { event_type: Some(entry) };
        api.event_types().create_event_type(request).await?;
        let wanted = v1::Subscription { url: "https://hooks.example.com/".into(), ..Default::default() };
        let subscription = api.subscribe(wanted, "").await?.id;
        let key = retiring_key(&api, &subscription).await?;
        let pending_key = pending_key(&api, &subscription).await?;
        let (event, delivery) = api.emit_to_one(api::event("a.b", "{}")).await?;
        let (ended_event, ended) = api.emit_to_one(api::event("a.b", "{}")).await?;
        let request = v1::CancelDeliveryRequest { tenant: tenant.clone(), delivery: ended };
        api.deliveries().cancel_delivery(request).await?;
        let named = v1::NewEvent { id: named_event.clone(), ..api::event("a.b", "{}") };
        api.emit(named).await?;
        let token = world.token(v1::Role::Viewer, Some(&tenant)).await?.id;
        let (join_token, agent) = enrolled(world).await?;
        let operation = paused_operation(&api).await?;
        let wanted = v1::Pool { name: pool.clone(), ..Default::default() };
        world.admin.pools().create_pool(v1::CreatePoolRequest { pool: Some(wanted) }).await?;
        Ok(Self {
            tenant,
            empty_tenant,
            new_tenant,
            event_type,
            subscription,
            key,
            pending_key,
            event,
            delivery,
            ended_event,
            named_event,
            token,
            join_token,
            agent,
            operation,
            pool,
        })
    }

    /// These things, as if they were another tenant's.
    pub(super) fn under(&self, tenant: &str) -> Self {
        Self { tenant: tenant.to_owned(), ..self.clone() }
    }

    /// Every name.
    pub(super) fn names(&self) -> [&str; 16] {
        [
            &self.tenant,
            &self.empty_tenant,
            &self.new_tenant,
            &self.event_type,
            &self.subscription,
            &self.key,
            &self.pending_key,
            &self.event,
            &self.delivery,
            &self.ended_event,
            &self.named_event,
            &self.token,
            &self.join_token,
            &self.agent,
            &self.operation,
            &self.pool,
        ]
    }

    /// The bytes with each of these names struck out.
    pub(super) fn struck_out(&self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        for name in self.names() {
            while let Some(at) = find(&bytes, name.as_bytes()) {
                bytes[at..at + name.len()].fill(b'#');
            }
        }
        bytes
    }

    /// Whether the bytes have any of these names.
    pub(super) fn show_in(&self, bytes: &[u8]) -> Option<&str> {
        self.names().into_iter().find(|name| find(bytes, name.as_bytes()).is_some())
    }
}

/// A join token with a use left, and an agent that has enrolled by another.
async fn enrolled(world: &Guarded) -> Result<(String, String)> {
    let port = world.control_plane.agent_port(&world.admin).await?;
    let (left, used) = (world.admin.join("default", 1).await?, world.admin.join("default", 1).await?);
    let identity = port.enroll(&used, &*new_key()?).await?;
    Ok((left.token().id().to_string(), identity.agent_id))
}

/// A replay that is held before it is done: it has five deliveries and takes a second for each.
async fn paused_operation(api: &Api) -> Result<String> {
    let tenant = api.tenant();
    for _ in 0..5 {
        let (_, delivery) = api.emit_to_one(api::event("to.replay", "{}")).await?;
        let request = v1::CancelDeliveryRequest { tenant: tenant.clone(), delivery };
        api.deliveries().cancel_delivery(request).await?;
    }
    let replay = v1::Replay {
        event_types: vec!["to.replay".into()],
        states: vec![v1::DeliveryState::Cancelled.into()],
        max_per_second: 1,
        ..Default::default()
    };
    let request =
        v1::ReplayDeliveriesRequest { tenant: tenant.clone(), replay: Some(replay), ..Default::default() };
    let begun = api.operations().replay_deliveries(request).await?.into_inner().operation;
    let operation = begun.context("an answer without an operation")?.id;
    let request = v1::PauseOperationRequest { tenant, operation: operation.clone() };
    api.operations().pause_operation(request).await?;
    Ok(operation)
}

/// Rotates, and returns the former key.
async fn retiring_key(api: &Api, subscription: &str) -> Result<String> {
    let (tenant, subscription) = (api.tenant(), subscription.to_owned());
    let request = v1::ListSigningKeysRequest { tenant: tenant.clone(), subscription: subscription.clone() };
    let keys = api.signing_keys().list_signing_keys(request).await?.into_inner().signing_keys;
    let overlap = Some(duration(std::time::Duration::from_secs(3600)));
    let request = v1::RotateSigningKeyRequest { tenant, subscription, overlap, ..Default::default() };
    api.signing_keys().rotate_signing_key(request).await?;
    Ok(keys.first().context("a subscription without a key")?.id.clone())
}

/// Makes a key that is not used yet.
async fn pending_key(api: &Api, subscription: &str) -> Result<String> {
    let (tenant, subscription) = (api.tenant(), subscription.to_owned());
    let request = v1::CreateSigningKeyRequest { tenant, subscription, ..Default::default() };
    let made = api.signing_keys().create_signing_key(request).await?.into_inner();
    Ok(made.signing_key.context("no key in the answer")?.id)
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}
