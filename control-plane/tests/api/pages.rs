//! Lists of things that are as large as they may be: no page is larger than a mebibyte and one
//! thing.

use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use postrider_control_plane::store::{
    AgentRow, JoinTokenRow, OperationRow, PoolRow, Settle, Settlement, Store as _, TokenRow,
};
use postrider_domain::access::{Role, Scope};
use postrider_domain::audit::Entry;
use postrider_domain::delivery::{Delivery, State};
use postrider_domain::event::{Attributes, Event};
use postrider_domain::id::{DeliveryId, EventKey, OperationId, TokenId};
use postrider_domain::outcome::{Attempt, Class, Outcome, Response};
use postrider_domain::pool::Settings;
use postrider_domain::time::Timestamp;
use postrider_domain::token::{Kind, SECRET_BYTES, Token};
use postrider_proto::v1;
use postrider_proto::v1::agent_service_server::AgentService as _;
use postrider_proto::v1::audit_service_server::AuditService as _;
use postrider_proto::v1::delivery_service_server::DeliveryService as _;
use postrider_proto::v1::event_service_server::EventService as _;
use postrider_proto::v1::event_type_service_server::EventTypeService as _;
use postrider_proto::v1::operation_service_server::OperationService as _;
use postrider_proto::v1::pool_service_server::PoolService as _;
use postrider_proto::v1::subscription_service_server::SubscriptionService as _;
use postrider_proto::v1::tenant_service_server::TenantService as _;
use postrider_proto::v1::token_service_server::TokenService as _;
use prost::Message;
use tonic::Status;

use crate::readers::{entry, fill};
use crate::world::{World, admin, open};

const MIB: usize = 1024 * 1024;

/// An answer of a list: how many things, the size of the largest, the size of all, and the next
/// page's token.
struct Page {
    count: usize,
    largest: usize,
    bytes: usize,
    next: String,
}

type Lists = (&'static str, usize, fn(&World, String) -> BoxFuture<'_, Result<Page, Status>>);

macro_rules! lists {
    ($($least:literal $name:ident: $kind:ident { $($field:ident: $value:expr),* } -> $things:ident;)+) => {
        [$((stringify!($name), $least, |world: &World, page_token: String| {
            Box::pin(async move {
                let request =
                    v1::$kind { page_token, page_size: 1000, $($field: $value.into(),)* ..Default::default() };
                let answer = world.api.$name(admin(request)).await?.into_inner();
                Ok(Page {
                    count: answer.$things.len(),
                    largest: answer.$things.iter().map(Message::encoded_len).max().unwrap_or(0),
                    bytes: answer.encoded_len(),
                    next: answer.next_page_token,
                })
            })
        })),+]
    };
}

/// Every list of things that may be large, and how many there are at least.
fn lists() -> [Lists; 12] {
    lists! {
        60 list_events: ListEventsRequest { tenant: "acme" } -> events;
        600 list_deliveries: ListDeliveriesRequest { tenant: "acme" } -> deliveries;
        40 list_event_types: ListEventTypesRequest { tenant: "acme" } -> event_types;
        120 list_subscriptions: ListSubscriptionsRequest { tenant: "acme" } -> subscriptions;
        200 list_operations: ListOperationsRequest { tenant: "acme" } -> operations;
        300 list_audit_records: ListAuditRecordsRequest { tenant: "acme" } -> records;
        150 list_tenants: ListTenantsRequest {} -> tenants;
        150 list_tokens: ListTokensRequest {} -> tokens;
        150 list_join_tokens: ListJoinTokensRequest {} -> join_tokens;
        150 list_pools: ListPoolsRequest {} -> pools;
        150 list_agents: ListAgentsRequest {} -> agents;
        120 explain_match: ExplainMatchRequest { tenant: "acme", subject: supposed() } -> explanations;
    }
}

fn supposed() -> Option<v1::explain_match_request::Subject> {
    let event = v1::NewEvent { r#type: "a.b".into(), data: "{}".into(), ..Default::default() };
    Some(v1::explain_match_request::Subject::Supposed(event))
}

/// Agents that were there before.
async fn leave_agents(folder: &std::path::Path) {
    let store = open(folder);
    let now = postrider_control_plane::clock::Clock::start().wall();
    let agents: Vec<AgentRow> = (0..150)
        .map(|number| AgentRow {
            id: format!("agent-{number}").parse().unwrap(),
            pool: "default".into(),
            version: "x".repeat(16 * 1024),
            instance: String::new(),
            connected_at: now,
            last_seen: now,
            streams: 0,
            egress_policy_hash: String::new(),
            max_in_flight: 1,
            drained: None,
        })
        .collect();
    join_all(agents.iter().map(|row| store.put_agent(row))).await.into_iter().for_each(Result::unwrap);
    store.close().await.unwrap();
}

async fn fill_with_large_things_of_all(world: &World) {
    let now = world.api.clock.wall();
    let large = || "x".repeat(16 * 1024);
    for number in 0..150 {
        let id = TokenId::new(now, number);
        let digest = Token::new(Kind::Api, id, [7; SECRET_BYTES]).digest();
        let row = TokenRow {
            id,
            digest,
            display_name: large(),
            role: Role::Viewer,
            scope: Scope::Everything,
            expires: None,
            last_used: None,
            ancestors: Vec::new(),
        };
        world.api.tokens.add(row, entry("x")).await.unwrap();
        let row = JoinTokenRow {
            id,
            digest,
            display_name: large(),
            pool: "default".parse().unwrap(),
            max_uses: 1,
            uses: 0,
            expires: now + Duration::from_secs(3600),
        };
        world.api.identities.add_join_token(row, entry("x")).await.unwrap();
        let settings = Settings { description: large(), ..Settings::default() };
        let name = format!("pool-{number}").parse().unwrap();
        world
            .api
            .pools
            .put(PoolRow { name, settings, created: now, updated: now }, entry("x"))
            .await
            .unwrap();
    }
}

/// Things that are as large as they may be, or larger, and more than a page of bytes of each.
async fn fill_with_large_things(world: &World) {
    world.tenant("acme").await;
    let store = &world.api.store;
    fill(world, "acme", 60, 200 * 1024).await;
    for number in 0..119 {
        let event_types = (0..99).map(|at| format!("t{number}.{}{at}", "x".repeat(90))).collect();
        let wanted = v1::Subscription {
            tenant: "acme".into(),
            url: format!("https://hooks.example.com/{}", "x".repeat(1500)),
            event_types,
            ..Default::default()
        };
        let request = v1::CreateSubscriptionRequest { subscription: Some(wanted), ..Default::default() };
        world.api.create_subscription(admin(request)).await.unwrap();
    }
    let writes = (0..40).map(|number| {
        let wire = v1::EventType {
            tenant: "acme".into(),
            name: format!("large.t{number}"),
            schema: "x".repeat(64 * 1024),
            ..Default::default()
        };
        store.put_event_type(wire, entry("x"))
    });
    join_all(writes).await.into_iter().for_each(Result::unwrap);
    let operations: Vec<_> = (0..200_u128).map(operation).collect();
    join_all(operations.iter().map(|row| store.put_operation(row, None)))
        .await
        .into_iter()
        .for_each(Result::unwrap);
    let told = (0..300).map(|_| {
        let tenant = Some("acme".parse().unwrap());
        store.put_audit_entry(Entry { tenant, detail: "x".repeat(8 * 1024), ..entry("x") })
    });
    join_all(told).await.into_iter().for_each(Result::unwrap);
    let tenants = (0..150).map(|number| {
        let wire = v1::Tenant {
            id: format!("t{number}"),
            display_name: "x".repeat(16 * 1024),
            ..Default::default()
        };
        store.put_tenant(wire, entry("x"))
    });
    join_all(tenants).await.into_iter().for_each(Result::unwrap);
    fill_with_large_things_of_all(world).await;
    attempt_all(world).await;
}

fn operation(number: u128) -> OperationRow {
    let id = OperationId::new(Timestamp::from_millis(1000), number);
    let replay = v1::Replay {
        event_types: (0..99).map(|at| format!("{}{at}", "x".repeat(90))).collect(),
        ..Default::default()
    };
    let operation = v1::Operation {
        id: id.to_string(),
        tenant: "acme".into(),
        state: v1::OperationState::Done.into(),
        work: Some(v1::operation::Work::Replay(replay)),
        ..Default::default()
    };
    OperationRow { id, operation, cursor: String::new() }
}

/// One event is owed to many subscriptions, each several times, with long answers.
async fn attempt_all(world: &World) {
    let rows = world.api.registry.list(&"acme".parse().unwrap(), None, usize::MAX);
    let ids: Vec<_> = rows.iter().map(|row| row.subscription.id).collect();
    let response = Response { status: 500, body: vec![b'x'; 4096].into(), ..Response::default() };
    let outcome = Outcome { response: Some(response), ..Outcome::failure(Class::HttpStatus, "") };
    let now = Timestamp::from_millis(1_770_028_300_000);
    let attempt = Attempt { number: 1, started: now, agent: "a-1".parse().unwrap(), outcome };
    for round in 0..5 {
        let mut accept = postrider_control_plane::store::Accept {
            subscriptions: ids.clone(),
            client_chosen: false,
            idempotency: None,
            content: [0; 16],
            max_stored: None,
            event: Event {
                key: EventKey::new(now, round),
                id: EventKey::new(now, round).into(),
                tenant: "acme".parse().unwrap(),
                event_type: "a.b".parse().unwrap(),
                timestamp: now.into(),
                accepted: now,
                data: bytes::Bytes::from(vec![b'1'; 200 * 1024]),
                attributes: Attributes::default(),
                ordering_key: None,
                trace: None,
            },
        };
        accept.event.accepted = accept.event.key.created();
        let accepted = world.store.accept(vec![accept]).await.unwrap().pop().unwrap().unwrap();
        let settles = accepted.deliveries.iter().map(|id: &DeliveryId| Settle {
            id: *id,
            was_due: None,
            delivery: Delivery {
                state: State::Exhausted(now),
                attempts: 1,
                ..Delivery::new(id.sequence, accepted.key)
            },
            attempt: Some(attempt.clone()),
        });
        let settlement = Settlement { deliveries: settles.collect(), ..Settlement::default() };
        world.store.settle(settlement).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_page_of_any_list_is_larger_than_a_mebibyte_and_one_thing() {
    let folder = tempfile::tempdir().unwrap();
    leave_agents(folder.path()).await;
    let world = World::start(folder.path()).await;
    fill_with_large_things(&world).await;
    for (name, least, list) in lists() {
        let (mut count, mut token) = (0, String::new());
        loop {
            let page = list(&world, token).await.unwrap();
            assert!(page.bytes <= MIB + page.largest + 64 * 1024, "{name}: {} bytes", page.bytes);
            count += page.count;
            token = page.next;
            if token.is_empty() {
                break;
            }
        }
        assert!(count >= least, "{name}: {count}");
    }
    world.end().await;
}
