//! What a token that is confined to another tenant can do: costly schemas and filters, lists, watches, fan-out, operations,
//! connections.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use postrider_proto::v1::{self, Role, Strictness};
use postrider_tests::api::{Api, event};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::{Code, Status};

use crate::street::{EVIL, Street};

/// How long a caller of a costly call waits before it goes away.
const GONE_AFTER: Duration = Duration::from_secs(5);

/// What an attacker's call may be answered with: anything but a fault of ours.
fn allowed<T>(answer: Result<T, Status>) -> Result<Option<T>> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(status) => {
            // A client that resets many streams loses its connection.
            let gone = status.message() == "transport error";
            let refused = !matches!(status.code(), Code::Internal | Code::Unknown | Code::DataLoss) || gone;
            ensure!(refused, "a fault of ours: {status:?}");
            Ok(None)
        }
    }
}

async fn create_type(api: &Api, name: &str, schema: String) -> Result<bool> {
    let event_type = v1::EventType {
        tenant: EVIL.to_owned(),
        name: name.to_owned(),
        schema,
        validation: Strictness::Reject.into(),
        ..v1::EventType::default()
    };
    let request = v1::CreateEventTypeRequest { event_type: Some(event_type) };
    let answer = timeout(GONE_AFTER, api.event_types().create_event_type(request)).await;
    Ok(answer.is_ok_and(|answer| answer.is_ok()))
}

async fn emit_batch(api: Api, events: Vec<v1::NewEvent>) -> Result<()> {
    let request = v1::EmitBatchRequest { tenant: EVIL.to_owned(), events };
    if let Ok(answer) = timeout(GONE_AFTER, api.events().emit_batch(request)).await {
        allowed(answer)?;
    }
    Ok(())
}

async fn all(mut calls: JoinSet<Result<()>>) -> Result<()> {
    while let Some(called) = calls.join_next().await {
        called??;
    }
    Ok(())
}

fn subscription(path: &str, filter: &str) -> v1::Subscription {
    v1::Subscription {
        tenant: EVIL.to_owned(),
        url: format!("http://127.0.0.1:9/{path}"),
        event_types: vec!["*".to_owned()],
        pool: EVIL.to_owned(),
        filter: filter.to_owned(),
        ..v1::Subscription::default()
    }
}

/// Makes so many subscriptions, or as many as are allowed.
async fn subscribe(api: &Api, count: usize, filter: &str) -> Result<usize> {
    for made in 0..count {
        let request = v1::CreateSubscriptionRequest {
            subscription: Some(subscription(&made.to_string(), filter)),
            ..v1::CreateSubscriptionRequest::default()
        };
        match api.subscriptions().create_subscription(request).await {
            Err(status) if status.code() == Code::ResourceExhausted => return Ok(made),
            answer => drop(answer?),
        }
    }
    Ok(count)
}

/// 1600 patterns, each of which takes thousands of steps a byte in an engine that rebuilds its automaton.
#[tokio::test(flavor = "multi_thread")]
async fn schemas_whose_patterns_cost_much() -> Result<()> {
    let street = Street::start(&[]).await?;
    let operator = street.attacker(Role::Operator).await?;
    let rules = vec![r#"{"not":{"pattern":"a[^!]{120}aa!x"}}"#; 1600].join(",");
    let schema = format!(r#"{{"properties":{{"text":{{"allOf":[{rules}]}}}}}}"#);
    let data = format!(r#"{{"text":"{}"}}"#, "ab".repeat(7_500));
    let attack = async {
        create_type(&operator, "evil.costly", schema).await?;
        for events in [2, 250, 2, 2] {
            let mut calls = JoinSet::new();
            for _ in 0..4 {
                calls.spawn(emit_batch(operator.clone(), vec![event("evil.costly", &data); events]));
            }
            all(calls).await?;
        }
        Ok(())
    };
    street.attack("schemas whose patterns cost much", attack).await
}

/// 2400 patterns of letters outside ASCII: hundreds of MiB each when they are compiled.
#[tokio::test(flavor = "multi_thread")]
async fn schemas_that_are_large_when_compiled() -> Result<()> {
    let mut street = Street::start(&["admin_listen = \"127.0.0.1:0\""]).await?;
    let operator = street.attacker(Role::Operator).await?;
    let rules = vec![r#"{"pattern":"\\p{L}{6}xy"}"#; 2400].join(",");
    let schema = format!(r#"{{"anyOf":[{rules}]}}"#);
    let attack = async {
        for number in 0..6 {
            let name = format!("evil.large{number}");
            create_type(&operator, &name, schema.clone()).await?;
            emit_batch(operator.clone(), vec![event(&name, "\"x\""); 2]).await?;
        }
        Ok(())
    };
    street.attack("schemas that are large when compiled", attack).await?;
    // What is stored of it is not compiled by the next start.
    street.world.control_plane.kill()?;
    street.world.control_plane.restart().await?;
    let mib = street.world.control_plane.memory_mib()?;
    ensure!(mib < 256, "{mib} MiB after a restart");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_that_cost_much() -> Result<()> {
    let street = Street::start(&[]).await?;
    let operator = street.attacker(Role::Operator).await?;
    let part = "event.data.text.contains('nothing of it')";
    let filter = [part; 20].join(" || ");
    let made = subscribe(&operator, 120, &filter).await?;
    ensure!(made == 120, "only {made} subscriptions with filters");
    let data = format!(r#"{{"text":"{}"}}"#, "x".repeat(3_000));
    let attack = async {
        for _ in 0..3 {
            let mut calls = JoinSet::new();
            for _ in 0..8 {
                calls.spawn(emit_batch(operator.clone(), vec![event("evil.filtered", &data); 1000]));
            }
            all(calls).await?;
        }
        Ok(())
    };
    street.attack("filters that cost much", attack).await
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_of_large_events() -> Result<()> {
    let street = Street::start(&[]).await?;
    let (emitter, viewer) = (street.attacker(Role::Emitter).await?, street.attacker(Role::Viewer).await?);
    let operator = street.attacker(Role::Operator).await?;
    subscribe(&operator, 20, "").await?;
    let large = format!("\"{}\"", "x".repeat(250 * 1024));
    for _ in 0..20 {
        emit_batch(emitter.clone(), vec![event("evil.large", &large); 15]).await?;
    }
    let attack = async {
        for _ in 0..6 {
            let mut calls = JoinSet::new();
            for _ in 0..16 {
                let api = viewer.clone();
                calls.spawn(async move {
                    let tenant = EVIL.to_owned();
                    let request = v1::ListEventsRequest {
                        tenant: tenant.clone(),
                        page_size: 1000,
                        ..Default::default()
                    };
                    let events =
                        api.events().max_decoding_message_size(usize::MAX).list_events(request).await;
                    allowed(events)?;
                    let request = v1::ListDeliveriesRequest { tenant, page_size: 1000, ..Default::default() };
                    let mut deliveries = api.deliveries().max_decoding_message_size(usize::MAX);
                    allowed(deliveries.list_deliveries(request).await)?;
                    Ok(())
                });
            }
            all(calls).await?;
        }
        Ok(())
    };
    street.attack("lists of large events", attack).await
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_and_lists_whose_callers_go_away() -> Result<()> {
    let street = Street::start(&[]).await?;
    let (operator, viewer) = (street.attacker(Role::Operator).await?, street.attacker(Role::Viewer).await?);
    subscribe(&operator, 20, "").await?;
    for _ in 0..10 {
        emit_batch(operator.clone(), vec![event("evil.small", "1"); 250]).await?;
    }
    let attack = async {
        for _ in 0..30 {
            let mut calls = JoinSet::new();
            for _ in 0..10 {
                let api = viewer.clone();
                calls.spawn(async move {
                    let request = v1::WatchDeliveriesRequest {
                        tenant: EVIL.to_owned(),
                        from_time: Some(prost_types::Timestamp { seconds: 1, nanos: 0 }),
                        ..v1::WatchDeliveriesRequest::default()
                    };
                    if let Ok(answer) =
                        timeout(Duration::from_millis(100), api.deliveries().watch_deliveries(request)).await
                    {
                        allowed(answer)?;
                    }
                    Ok(())
                });
            }
            for _ in 0..50 {
                let api = viewer.clone();
                calls.spawn(async move {
                    let request = v1::ListEventsRequest {
                        tenant: EVIL.to_owned(),
                        r#type: "evil.nothing".to_owned(),
                        page_size: 1000,
                        ..v1::ListEventsRequest::default()
                    };
                    let mut events = api.events();
                    let list = timeout(Duration::from_millis(10), events.list_events(request));
                    if let Ok(answer) = list.await {
                        allowed(answer)?;
                    }
                    Ok(())
                });
            }
            all(calls).await?;
        }
        Ok(())
    };
    street.attack("watches and lists whose callers go away", attack).await
}

#[tokio::test(flavor = "multi_thread")]
async fn events_to_as_many_subscriptions_as_there_may_be() -> Result<()> {
    let street = Street::start(&[]).await?;
    let operator = street.attacker(Role::Operator).await?;
    let attack = async {
        let made = subscribe(&operator, 3000, "").await?;
        ensure!(made >= 500, "only {made} subscriptions");
        for _ in 0..20 {
            emit_batch(operator.clone(), vec![event("evil.wide", "1"); 20]).await?;
            allowed(operator.emit(event("evil.wide", "1")).await)?;
        }
        Ok(())
    };
    street.attack("events to many subscriptions", attack).await
}

#[tokio::test(flavor = "multi_thread")]
async fn operations_without_end() -> Result<()> {
    let street = Street::start(&[]).await?;
    let operator = street.attacker(Role::Operator).await?;
    subscribe(&operator, 1, "").await?;
    let attack = async {
        for _ in 0..40 {
            let mut calls = JoinSet::new();
            for _ in 0..50 {
                let api = operator.clone();
                calls.spawn(async move {
                    let replay = v1::Replay { dry_run: true, ..v1::Replay::default() };
                    let request = v1::ReplayDeliveriesRequest {
                        tenant: EVIL.to_owned(),
                        replay: Some(replay),
                        ..v1::ReplayDeliveriesRequest::default()
                    };
                    allowed(api.operations().replay_deliveries(request).await)?;
                    Ok(())
                });
            }
            let (api, tenant) = (operator.clone(), EVIL.to_owned());
            calls.spawn(async move {
                let request = v1::ListOperationsRequest { tenant, page_size: 1, ..Default::default() };
                allowed(api.operations().list_operations(request).await)?;
                Ok(())
            });
            all(calls).await?;
        }
        Ok(())
    };
    street.attack("operations without end", attack).await
}

/// The neighbour's connection is a new one: there must be a place for it.
#[tokio::test(flavor = "multi_thread")]
async fn connections_of_one_token() -> Result<()> {
    let street = Street::start(&["max_api_connections = 60"]).await?;
    let token = street.token(Role::Viewer).await?;
    let attack = async {
        let mut held = Vec::new();
        for _ in 0..80 {
            let api = Api::new(street.world.control_plane.channel()?, EVIL, &token)?;
            let request = v1::ListEventsRequest { tenant: EVIL.to_owned(), ..Default::default() };
            allowed(api.events().list_events(request).await)?;
            held.push(api);
        }
        for _ in 0..10 {
            let neighbour = street.world.control_plane.api(&street.world.api.tenant())?;
            neighbour.emit(event("honest.event", "1")).await.context("over a new connection")?;
        }
        drop(held);
        Ok(())
    };
    street.attack("connections of one token", attack).await
}
