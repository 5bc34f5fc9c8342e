//! Schemas and filters that were written to cost much: whoever writes them is refused, and nobody else notices.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use postrider_control_plane::api::Api;
use postrider_control_plane::store::Store as _;
use postrider_domain::audit::Entry;
use postrider_domain::time::Timestamp;
use postrider_proto::v1::emit_result::Result as Emitted;
use postrider_proto::v1::event_service_server::EventService as _;
use postrider_proto::v1::event_type_service_server::EventTypeService as _;
use postrider_proto::v1::subscription_service_server::SubscriptionService as _;
use postrider_proto::v1::tenant_service_server::TenantService as _;
use postrider_proto::v1::{self, NewEvent, Strictness};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::world::{World, admin, open};

const EVIL: &str = "evil";
const ACME: &str = "acme";

fn event(name: &str, data: &str) -> NewEvent {
    NewEvent { r#type: name.into(), data: data.to_owned().into(), ..Default::default() }
}

fn text(bytes: usize) -> String {
    format!("\"{}\"", "a".repeat(bytes))
}

/// 45 KB that once took a thread for hours.
fn costly() -> String {
    format!("{{\"allOf\":[{}{{}}]}}", r#"{"not":{"pattern":"a[^!]{120}aa!x"}},"#.repeat(1200))
}

/// Whose patterns take so much memory.
fn large(patterns: usize, number: usize) -> String {
    let pattern = |n| format!(r#"{{"pattern":"\\p{{L}}{{6}}xy{number}z{n}"}}"#);
    let patterns: Vec<String> = (0..patterns).map(pattern).collect();
    format!("{{\"anyOf\":[{},{{}}]}}", patterns.join(","))
}

fn event_type(tenant: &str, name: &str, schema: &str, validation: Strictness) -> v1::EventType {
    v1::EventType {
        tenant: tenant.into(),
        name: name.into(),
        schema: schema.into(),
        validation: validation.into(),
        ..Default::default()
    }
}

async fn create(
    api: &Api,
    tenant: &str,
    name: &str,
    schema: &str,
    validation: Strictness,
) -> Result<v1::EventType, Status> {
    let event_type = Some(event_type(tenant, name, schema, validation));
    let made = api.create_event_type(admin(v1::CreateEventTypeRequest { event_type })).await?;
    Ok(made.into_inner().event_type.unwrap())
}

async fn batch(api: &Api, tenant: &str, events: Vec<NewEvent>) -> Result<Vec<v1::EmitResult>, Status> {
    let request = v1::EmitBatchRequest { tenant: tenant.into(), events, ..Default::default() };
    Ok(api.emit_batch(admin(request)).await?.into_inner().results)
}

async fn emit(api: &Api, tenant: &str, event: NewEvent) -> Result<v1::EmitResponse, Status> {
    let request = v1::EmitRequest { tenant: tenant.into(), event: Some(event) };
    Ok(api.emit(admin(request)).await?.into_inner())
}

fn reason(status: &Status) -> String {
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}

/// An honest tenant, whose type has a schema, beside an evil one.
async fn start(folder: &Path) -> World {
    let world = World::start(folder).await;
    world.tenant(EVIL).await;
    world.tenant(ACME).await;
    let schema = r#"{"type":"object","required":["id"],"properties":{"id":{"pattern":"^ord_[0-9]+$"}}}"#;
    create(&world.api, ACME, "order.placed", schema, Strictness::Reject).await.unwrap();
    world
}

/// Emits for the honest tenant while others attack; each call succeeds.
async fn acme_emits(world: &World, times: usize) {
    for number in 0..times {
        let event = event("order.placed", &format!("{{\"id\":\"ord_{number}\"}}"));
        let emitted = tokio::time::timeout(Duration::from_secs(20), emit(&world.api, ACME, event)).await;
        let emitted = emitted.expect("an answer within the usual deadline").unwrap();
        assert_eq!(emitted.warnings, []);
    }
}

async fn until_idle(world: &World) {
    let idle = async {
        while world.api.judge.compute().counts() != (0, 0) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), idle).await.expect("what nobody waits for ends");
}

async fn metric(world: &World, line: &str) -> f64 {
    let text = world.metrics.show(None).await;
    let found = text.lines().find_map(|found| found.strip_prefix(line)?.trim().parse().ok());
    found.unwrap_or_else(|| panic!("{line} is not in\n{text}"))
}

/// Emits batches until told to stop; how often that was answered.
fn attack(
    world: &World,
    events: &[NewEvent],
    stop: &Arc<AtomicBool>,
) -> tokio::task::JoinHandle<Vec<Result<Vec<v1::EmitResult>, Status>>> {
    let (api, events, stop) = (world.api.clone(), events.to_vec(), stop.clone());
    tokio::spawn(async move {
        let mut answers = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            answers.push(batch(&api, EVIL, events.clone()).await);
        }
        answers
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_costly_schema_stalls_nobody_and_lets_nothing_pass() {
    let folder = tempfile::tempdir().unwrap();
    let world = start(folder.path()).await;
    create(&world.api, EVIL, "evil.costly", &costly(), Strictness::Reject).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let costly = event("evil.costly", &text(15_000));
    let mut attacks = vec![attack(&world, &vec![costly.clone(); 2], &stop)];
    attacks.push(attack(&world, &vec![costly.clone(); 250], &stop));
    attacks.push(attack(&world, &vec![costly.clone(); 250], &stop));
    acme_emits(&world, 40).await;
    stop.store(true, Ordering::Relaxed);
    let mut answers = Vec::new();
    for attack in attacks {
        answers.extend(attack.await.unwrap());
    }
    assert!(!answers.is_empty());
    for answer in answers {
        match answer {
            Ok(results) => results.into_iter().for_each(|result| match result.result.unwrap() {
                Emitted::Error(error) => {
                    assert_eq!(error.code, Code::InvalidArgument as i32, "{error:?}");
                    assert!(error.message.contains("costs too much for 15002 bytes"), "{error:?}");
                }
                Emitted::Accepted(accepted) => panic!("accepted without a validation: {accepted:?}"),
            }),
            Err(status) => {
                assert_eq!(
                    (status.code(), reason(&status)),
                    (Code::ResourceExhausted, "CALL_TOO_COSTLY".into())
                );
                assert!(status.get_details_retry_info().is_some(), "{status:?}");
            }
        }
    }
    until_idle(&world).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_ends_when_its_caller_has_gone() {
    let folder = tempfile::tempdir().unwrap();
    let world = start(folder.path()).await;
    create(&world.api, EVIL, "evil.costly", &costly(), Strictness::Warn).await.unwrap();
    let events = vec![event("evil.costly", &text(15_000)); 9];
    for _ in 0..20 {
        let gone = batch(&world.api, EVIL, events.clone());
        drop(tokio::time::timeout(Duration::from_millis(10), gone).await);
    }
    until_idle(&world).await;
    acme_emits(&world, 1).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schemas_take_a_bounded_memory() {
    let folder = tempfile::tempdir().unwrap();
    let world = start(folder.path()).await;
    let refused =
        create(&world.api, EVIL, "evil.large", &large(1600, 0), Strictness::Reject).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("would take more than 16 MiB of memory"), "{refused}");
    acme_emits(&world, 1).await;
    for number in 0..4 {
        let name = format!("evil.large{number}");
        create(&world.api, EVIL, &name, &large(30, number), Strictness::Reject).await.unwrap();
    }
    for number in [0, 1, 2, 3, 0] {
        emit(&world.api, EVIL, event(&format!("evil.large{number}"), "5")).await.unwrap();
        let bytes = metric(&world, "postrider_schema_cache_bytes").await;
        assert!((1e6..f64::from(17 << 20)).contains(&bytes), "{bytes}");
    }
    let compiled = metric(&world, "postrider_compute_turn_seconds_count{kind=\"compile\"}").await;
    assert!(compiled > 6.0, "what found no room was compiled again: {compiled}");
    // The honest tenant's was pushed out by none of these.
    acme_emits(&world, 1).await;
    assert_eq!(metric(&world, "postrider_compute_turn_seconds_count{kind=\"compile\"}").await, compiled);
    let delete = v1::DeleteEventTypeRequest { tenant: EVIL.into(), name: "evil.large0".into() };
    world.api.delete_event_type(admin(delete)).await.unwrap();
    let delete = v1::DeleteTenantRequest { tenant: EVIL.into(), with_subscriptions: true };
    world.api.delete_tenant(admin(delete)).await.unwrap();
    let bytes = metric(&world, "postrider_schema_cache_bytes").await;
    assert!(bytes < 1e6, "{bytes}");
    world.end().await;
}

/// As a version saved them that knew no limit.
async fn store_evil_types(folder: &Path) {
    let world = start(folder).await;
    world.end().await;
    let store = open(folder);
    for number in 0..4 {
        let name = format!("evil.stored{number}");
        let stored = v1::EventType {
            schema_version: 1,
            ..event_type(EVIL, &name, &large(1600, number), Strictness::Reject)
        };
        let audit = Entry {
            time: Timestamp::default(),
            actor: "test".into(),
            address: String::new(),
            action: "CreateEventType".into(),
            target: name,
            tenant: Some(EVIL.parse().unwrap()),
            request_id: String::new(),
            detail: String::new(),
        };
        store.put_event_type(stored, audit).await.unwrap();
    }
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_compiles_nothing_and_stored_schemas_that_are_too_large_are_refused_when_used() {
    let folder = tempfile::tempdir().unwrap();
    store_evil_types(folder.path()).await;
    let world = World::start(folder.path()).await;
    assert_eq!(metric(&world, "postrider_compute_turn_seconds_count{kind=\"compile\"}").await, 0.0);
    assert_eq!(metric(&world, "postrider_schema_cache_bytes").await, 0.0);
    for _ in 0..2 {
        let refused = emit(&world.api, EVIL, event("evil.stored1", "5")).await.unwrap_err();
        assert_eq!((refused.code(), reason(&refused)), (Code::FailedPrecondition, "SCHEMA_UNUSABLE".into()));
        assert!(refused.message().contains("update the schema of the event type"), "{refused}");
    }
    assert_eq!(metric(&world, "postrider_compute_turn_seconds_count{kind=\"compile\"}").await, 1.0);
    acme_emits(&world, 3).await;
    let wanted =
        v1::EventType { schema: "{}".into(), ..event_type(EVIL, "evil.stored1", "", Strictness::Reject) };
    let update_mask = Some(prost_types::FieldMask { paths: vec!["schema".into()] });
    let request = v1::UpdateEventTypeRequest { event_type: Some(wanted), update_mask, ..Default::default() };
    world.api.update_event_type(admin(request)).await.unwrap();
    emit(&world.api, EVIL, event("evil.stored1", "5")).await.unwrap();
    world.end().await;
}

/// Some 800 characters of conditions, which no value finds faster.
fn filter(number: usize) -> String {
    let term = |n: usize| format!("event.data.a{n} != {number}.5");
    (0..33).map(term).collect::<Vec<_>>().join(" && ")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_of_one_tenant_stall_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let world = start(folder.path()).await;
    for number in 0..120 {
        let wanted = v1::Subscription {
            tenant: EVIL.into(),
            url: "https://hooks.example.com/".into(),
            event_types: vec!["*".into()],
            filter: filter(number),
            ..Default::default()
        };
        let request = v1::CreateSubscriptionRequest { subscription: Some(wanted), ..Default::default() };
        world.api.create_subscription(admin(request)).await.unwrap();
    }
    let fields: Vec<String> = (0..33).map(|n| format!("\"a{n}\":{n}")).collect();
    let evil = event("evil.any", &format!("{{{}}}", fields.join(",")));
    let stop = Arc::new(AtomicBool::new(false));
    let attacks: Vec<_> = (0..8).map(|_| attack(&world, &vec![evil.clone(); 1000], &stop)).collect();
    acme_emits(&world, 40).await;
    stop.store(true, Ordering::Relaxed);
    for attack in attacks {
        for answer in attack.await.unwrap() {
            let status = answer.expect_err("1000 such events cost more than a call may");
            assert_eq!((status.code(), reason(&status)), (Code::ResourceExhausted, "CALL_TOO_COSTLY".into()));
            assert!(status.message().contains("send fewer events at once"), "{status}");
        }
    }
    until_idle(&world).await;
    let few = batch(&world.api, EVIL, vec![evil; 3]).await.unwrap();
    for result in few {
        match result.result.unwrap() {
            Emitted::Accepted(accepted) => assert_eq!(accepted.deliveries, 121),
            Emitted::Error(error) => panic!("{error:?}"),
        }
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenants_backlog_is_bounded_and_says_when_to_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let world = start(folder.path()).await;
    create(&world.api, EVIL, "evil.costly", &costly(), Strictness::Reject).await.unwrap();
    let events = vec![event("evil.costly", &text(200_000)); 20];
    let busy = Arc::new(AtomicU32::new(0));
    let calls: Vec<_> = (0..8)
        .map(|_| {
            let (api, events, busy) = (world.api.clone(), events.clone(), busy.clone());
            tokio::spawn(async move {
                let refused = batch(&api, EVIL, events).await.unwrap_err();
                assert_eq!(refused.code(), Code::ResourceExhausted);
                assert!(refused.get_details_retry_info().is_some(), "{refused:?}");
                let is_busy = reason(&refused) == "TENANT_COMPUTE_BUSY";
                busy.fetch_add(is_busy.into(), Ordering::Relaxed);
            })
        })
        .collect();
    acme_emits(&world, 5).await;
    for call in calls {
        call.await.unwrap();
    }
    assert!(busy.load(Ordering::Relaxed) >= 3, "{busy:?}");
    assert!(metric(&world, "postrider_compute_refused_total{reason=\"busy\"}").await >= 3.0);
    until_idle(&world).await;
    world.end().await;
}

#[tokio::test]
async fn event_types_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let world = start(folder.path()).await;
    let quota = Some(v1::TenantQuota { max_event_types: 3, ..Default::default() });
    let tenant = Some(v1::Tenant { id: EVIL.into(), quota, ..Default::default() });
    let update_mask = Some(prost_types::FieldMask { paths: vec!["quota".into()] });
    world.api.update_tenant(admin(v1::UpdateTenantRequest { tenant, update_mask })).await.unwrap();
    for name in ["evil.a", "evil.b"] {
        create(&world.api, EVIL, name, "", Strictness::Off).await.unwrap();
    }
    let refused = create(&world.api, EVIL, "evil.c", "", Strictness::Off).await.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused)),
        (Code::ResourceExhausted, "TENANT_EVENT_TYPES_EXCEEDED".into())
    );
    let delete = v1::DeleteEventTypeRequest { tenant: EVIL.into(), name: "evil.a".into() };
    world.api.delete_event_type(admin(delete)).await.unwrap();
    create(&world.api, EVIL, "evil.c", "", Strictness::Off).await.unwrap();
    world.end().await;
}
