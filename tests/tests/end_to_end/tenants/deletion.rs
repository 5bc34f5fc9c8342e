//! A tenant is deleted with all that it has, as an operation, whatever happens meanwhile.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use postrider_proto::v1::emit_result::Result as Emitted;
use postrider_proto::v1::{self, OperationState, TenantState};
use postrider_tests::api::{Api, event, retries};
use postrider_tests::emitter::{Emitter, Load};
use postrider_tests::receiver::Answer;
use postrider_tests::turn;
use postrider_tests::wait::{PATIENCE, eventually, when};
use postrider_tests::world::{TENANT, World};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

const OTHER: &str = "other";

/// Another tenant with a subscription and some deliveries.
async fn another(world: &World) -> Result<Api> {
    let other = world.control_plane.api(OTHER)?;
    other.create_tenant().await?;
    let url = world.receiver.url("/other");
    other.subscribe(v1::Subscription { url, ..Default::default() }, "").await?;
    for _ in 0..20 {
        other.emit(event("a.b", "{}")).await?;
    }
    other.all_ended(PATIENCE).await?;
    Ok(other)
}

/// What there is of a tenant.
async fn picture(api: &Api) -> Result<String> {
    let request = v1::GetTenantRequest { tenant: api.tenant() };
    let tenant = api.tenants().get_tenant(request).await?.into_inner();
    let request = v1::ListEventsRequest { tenant: api.tenant(), page_size: 1000, ..Default::default() };
    let events = api.events().list_events(request).await?.into_inner();
    let deliveries = api.deliveries_in(&[]).await?;
    let request = v1::ListSubscriptionsRequest { tenant: api.tenant(), ..Default::default() };
    let mut subscriptions = api.subscriptions().list_subscriptions(request).await?.into_inner();
    for subscription in &mut subscriptions.subscriptions {
        // What is true only now, or was heard since the start.
        (subscription.health, subscription.no_agent) = (None, false);
    }
    Ok(format!("{tenant:?} {events:?} {deliveries:?} {subscriptions:?}"))
}

async fn delete(api: &Api, with_subscriptions: bool) -> Result<v1::Operation, Status> {
    let request = v1::DeleteTenantRequest { tenant: api.tenant(), with_subscriptions };
    let begun = api.tenants().delete_tenant(request).await?.into_inner();
    begun.operation.ok_or_else(|| Status::internal("no operation in the answer"))
}

fn reason(status: &Status) -> String {
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_it_is_found_though_the_control_plane_is_killed_and_others_are_untouched() -> Result<()> {
    let _turn = turn::take().await;
    let mut world = World::with_max_in_flight(16).await?;
    let other = another(&world).await?;
    let before = picture(&other).await?;
    let wanted =
        v1::Subscription { retry_policy: retries([Duration::from_secs(60); 3]), ..Default::default() };
    world.receiver.script("/bad", [Answer::Status(500)]);
    world.receiver.script("/slow", [Answer::Late(204, Duration::from_secs(2))]);
    world.subscribe_with("/bad", wanted).await?;
    world.subscribe("/slow").await?;
    world.subscribe("/fast").await?;
    let named = v1::NewEvent { id: "own-1".into(), idempotency_key: "k".into(), ..event("a.b", "{}") };
    world.api.emit(named).await?;
    Emitter::start(world.api.clone(), Load { events: 3_000, per_second: 3_000 }).done().await?;

    let refused = delete(&world.api, false).await.err().context("it was deleted with its subscriptions")?;
    assert_eq!(reason(&refused), "HAS_SUBSCRIPTIONS");
    let begun = delete(&world.api, true).await?;
    assert!(begun.id.starts_with("opr_") && begun.tenant == TENANT, "{begun:?}");
    // Killed at once, and again when some of it is gone.
    world.control_plane.kill()?;
    world.control_plane.restart().await?;
    assert_eq!(delete(&world.api, false).await?.id, begun.id, "a repeat is the same operation");
    eventually("some of it is gone", async || {
        let request = v1::GetOperationRequest { tenant: TENANT.into(), operation: begun.id.clone() };
        let found = world.api.operations().get_operation(request).await?.into_inner().operation;
        Ok(when(found.is_some_and(|operation| operation.done > 500)))
    })
    .await?;
    world.control_plane.kill()?;
    world.control_plane.restart().await?;
    let done = world.api.operation_done(&begun.id).await?;
    assert!(done.done > 3_000 && (done.progress - 1.0).abs() < f64::EPSILON, "{done:?}");
    for answer in [
        world.api.emit(event("a.b", "{}")).await.err(),
        delete(&world.api, true).await.err(),
        world.api.tenants().get_tenant(v1::GetTenantRequest { tenant: TENANT.into() }).await.err(),
    ] {
        assert_eq!(answer.map(|status| status.code()), Some(Code::NotFound));
    }
    assert_eq!(picture(&other).await?, before, "another tenant has changed");

    // The id stands for a new tenant: nothing of the former one comes back, not even after another restart.
    world.api.create_tenant().await?;
    world.control_plane.kill()?;
    world.control_plane.restart().await?;
    world.agent_connected().await?;
    assert_eq!(world.api.deliveries_in(&[]).await?, []);
    let named = v1::NewEvent { id: "own-1".into(), idempotency_key: "k".into(), ..event("c.d", "{}") };
    let accepted = world.api.emit(named).await?;
    ensure!(!accepted.duplicate && accepted.deliveries == 0, "{accepted:?}");
    let tenant = world.api.tenants().get_tenant(v1::GetTenantRequest { tenant: TENANT.into() }).await?;
    let usage = tenant.into_inner().tenant.and_then(|tenant| tenant.usage).context("no usage")?;
    assert_eq!((usage.subscriptions, usage.stored_bytes), (0, 256 + 2));
    Ok(())
}

#[tokio::test]
async fn while_it_goes_on_the_tenant_can_only_be_looked_at() -> Result<()> {
    let world = World::start().await?;
    let route = world.subscribe("/a").await?;
    for _ in 0..200 {
        world.api.emit(event("a.b", "{}")).await?;
    }
    let begun = delete(&world.api, true).await?;
    let named = |id: &str| v1::PauseOperationRequest { tenant: TENANT.into(), operation: id.to_owned() };
    // It may be done before this: then there is nothing to see here.
    if world.api.operations().pause_operation(named(&begun.id)).await.is_err() {
        return Ok(());
    }
    let cancel = v1::CancelOperationRequest { tenant: TENANT.into(), operation: begun.id.clone() };
    let refused = world.api.operations().cancel_operation(cancel).await.err().context("it was cancelled")?;
    assert_eq!(reason(&refused), "OPERATION_FINAL");
    let get = v1::GetTenantRequest { tenant: TENANT.into() };
    let tenant = world.api.tenants().get_tenant(get).await?.into_inner().tenant.context("no tenant")?;
    assert_eq!(tenant.state(), TenantState::Deleting);
    let subscription = v1::GetSubscriptionRequest { tenant: TENANT.into(), subscription: route.subscription };
    let tenant = v1::Tenant { id: TENANT.into(), ..Default::default() };
    for refused in [
        world.api.emit(event("a.b", "{}")).await.err(),
        world.api.subscriptions().get_subscription(subscription).await.err(),
        world.api.tenants().create_tenant(v1::CreateTenantRequest { tenant: Some(tenant) }).await.err(),
    ] {
        let refused = refused.context("a call was let through")?;
        assert_eq!(
            (refused.code(), reason(&refused).as_str()),
            (Code::FailedPrecondition, "TENANT_DELETING")
        );
    }
    let resume = v1::ResumeOperationRequest { tenant: TENANT.into(), operation: begun.id.clone() };
    world.api.operations().resume_operation(resume).await?;
    let done = world.api.operation_done(&begun.id).await?;
    assert_eq!(done.state(), OperationState::Done);
    // Who did it, and that it was done, is still on record.
    let request = v1::ListAuditRecordsRequest { tenant: TENANT.into(), ..Default::default() };
    let records = world.api.audit().list_audit_records(request).await?.into_inner().records;
    let actions: Vec<_> = records.iter().map(|record| record.action.as_str()).collect();
    assert!(actions.contains(&"DeleteTenant") && actions[0] == "TenantDeleted", "{actions:?}");
    Ok(())
}

#[tokio::test]
async fn the_command_deletes_a_tenant_and_waits() -> Result<()> {
    let world = World::start().await?;
    world.subscribe("/a").await?;
    world.api.emit(event("a.b", "{}")).await?;
    let cli = world.cli();
    let refused = cli.run(&["tenants", "delete", TENANT]).await?;
    assert!(refused.code == 4 && refused.stderr.contains("subscriptions"), "{refused:?}");
    let deleted = cli.json(&["tenants", "delete", TENANT, "--with-subscriptions", "--wait"]).await?;
    assert_eq!((&deleted["state"], &deleted["tenant_deletion"]), (&"done".into(), &serde_json::json!({})));
    assert_eq!(cli.run(&["tenants", "get", TENANT]).await?.code, 3);
    let listed = cli.run(&["operations", "list"]).await?;
    assert!(listed.stdout.contains("tenant deletion"), "{listed:?}");
    Ok(())
}

/// Emits, one after the other, until that is refused.
async fn emit(api: Api) -> Status {
    loop {
        match api.emit(event("a.b", "{}")).await {
            Err(status) if status.code() != Code::ResourceExhausted => return status,
            _ => {}
        }
    }
}

/// Emits in a stream, until an event is refused: for which reason.
async fn stream(api: Api) -> Result<String> {
    let (sender, queue) = mpsc::channel(64);
    let mut answers = api.events().emit_stream(ReceiverStream::new(queue)).await?.into_inner();
    let tenant = api.tenant();
    let feeding = tokio::spawn(async move {
        for reference in 0.. {
            let (tenant, event) = (tenant.clone(), Some(event("a.b", "{}")));
            if sender.send(v1::EmitStreamRequest { reference, tenant, event }).await.is_err() {
                return;
            }
        }
    });
    let refused = loop {
        let answer = answers.message().await?.context("the stream has ended")?.result;
        if let Some(Emitted::Error(error)) = answer.and_then(|result| result.result) {
            break error.reason;
        }
    };
    // Ends the request too. Dropping the answers alone leaves it open until the server ends the whole connection.
    feeding.abort();
    Ok(refused)
}

/// Emitters go on by every way while the tenant is deleted: from some moment on each event is refused, none comes back
/// afterwards, and the id is soon free for another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn emitters_that_go_on_are_refused_and_leave_nothing() -> Result<()> {
    let _turn = turn::take().await;
    let world = World::start().await?;
    world.subscribe("/a").await?;
    let emitters: Vec<_> = (0..4).map(|_| tokio::spawn(emit(world.api.clone()))).collect();
    let streaming = tokio::spawn(stream(world.api.clone()));
    eventually("deliveries arrive", async || Ok(when(world.receiver.count() > 300))).await?;
    let begun = delete(&world.api, true).await?;
    for emitter in emitters {
        let refused = emitter.await?;
        assert!(matches!(refused.code(), Code::FailedPrecondition | Code::NotFound), "{refused:?}");
    }
    let refused = streaming.await??;
    assert!(["TENANT_DELETING", "NOT_FOUND"].contains(&refused.as_str()), "{refused}");
    world.api.operation_done(&begun.id).await?;
    world.api.create_tenant().await?;
    assert_eq!(world.api.deliveries_in(&[]).await?, []);
    let request = v1::ListEventsRequest { tenant: TENANT.into(), ..Default::default() };
    assert_eq!(world.api.events().list_events(request).await?.into_inner().events, []);
    Ok(())
}
