//! What a tenant may use, and that it is told.

use std::time::Duration;

use anyhow::{Context as _, Result};
use postrider_proto::v1::{self, emit_result::Result as Emitted};
use postrider_tests::api::{Api, event};
use postrider_tests::clock::now;
use postrider_tests::wait::PATIENCE;
use postrider_tests::world::{AgentSettings, Guarded, TENANT, World};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

fn update(quota: v1::TenantQuota, paths: &[&str]) -> v1::UpdateTenantRequest {
    let paths = paths.iter().map(|path| (*path).to_owned()).collect();
    let tenant = v1::Tenant { id: TENANT.into(), quota: Some(quota), ..Default::default() };
    v1::UpdateTenantRequest { tenant: Some(tenant), update_mask: Some(prost_types::FieldMask { paths }) }
}

async fn set(api: &Api, quota: v1::TenantQuota) -> Result<v1::Tenant> {
    let answer = api.tenants().update_tenant(update(quota, &["quota"])).await?;
    answer.into_inner().tenant.context("no tenant in the answer")
}

async fn stored(api: &Api) -> Result<u64> {
    let request = v1::GetTenantRequest { tenant: api.tenant() };
    let tenant = api.tenants().get_tenant(request).await?.into_inner().tenant;
    Ok(tenant.and_then(|tenant| tenant.usage).context("no usage")?.stored_bytes)
}

/// The reason of a refusal by quota, that it says so in the details too, and when to come back.
fn exceeded(status: &Status) -> (String, Option<Duration>) {
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    let details = status.get_error_details();
    let violation = details.quota_failure().and_then(|failure| failure.violations.first());
    assert_eq!(violation.map(|violation| violation.subject.as_str()), Some("tenants/acme"));
    let reason = details.error_info().map(|info| info.reason.clone()).unwrap_or_default();
    (reason, details.retry_info().and_then(|info| info.retry_delay))
}

#[tokio::test]
async fn subscriptions_up_to_the_quota_and_no_more() -> Result<()> {
    let mut world = World::start().await?;
    world.subscribe("/a").await?;
    let tenant = set(&world.api, v1::TenantQuota { max_subscriptions: 2, ..Default::default() }).await?;
    assert_eq!(tenant.usage.map(|usage| usage.subscriptions), Some(1));
    let second = world.subscribe("/b").await?;
    world.control_plane.kill()?;
    world.control_plane.restart().await?;
    let url = world.receiver.url("/c");
    let refused = world.api.subscribe(v1::Subscription { url, ..Default::default() }, "").await;
    let refused = refused.err().context("a third was made")?.downcast::<Status>()?;
    assert_eq!(exceeded(&refused), ("TENANT_SUBSCRIPTIONS_EXCEEDED".into(), None));
    let request = v1::DeleteSubscriptionRequest { tenant: TENANT.into(), subscription: second.subscription };
    world.api.subscriptions().delete_subscription(request).await?;
    world.subscribe("/c").await?;
    Ok(())
}

#[tokio::test]
async fn stored_bytes_hold_for_every_way_to_emit_and_over_a_restart() -> Result<()> {
    let mut world = World::start().await?;
    world.subscribe("/a").await?;
    let each = 256 + 128 + 2;
    set(&world.api, v1::TenantQuota { max_stored_bytes: 4 * each, ..Default::default() }).await?;
    world.api.emit(event("a.b", "{}")).await?;
    let keyed = v1::NewEvent { idempotency_key: "k".into(), ..event("a.b", "{}") };
    world.api.emit(keyed.clone()).await?;
    assert_eq!(stored(&world.api).await?, 2 * each);
    let request = v1::EmitBatchRequest { tenant: TENANT.into(), events: vec![event("a.b", "{}"); 4] };
    let results = world.api.events().emit_batch(request).await?.into_inner().results;
    let reasons: Vec<_> = results
        .into_iter()
        .map(|result| match result.result {
            Some(Emitted::Error(error)) => error.reason,
            _ => String::new(),
        })
        .collect();
    assert_eq!(reasons, ["", "", "TENANT_STORAGE_EXCEEDED", "TENANT_STORAGE_EXCEEDED"]);
    world.control_plane.kill()?;
    world.control_plane.restart().await?;
    assert_eq!(stored(&world.api).await?, 4 * each);
    let refused = world.api.emit(event("a.b", "{}")).await.err().context("it was accepted")?;
    assert_eq!(exceeded(&refused), ("TENANT_STORAGE_EXCEEDED".into(), None));
    assert!(world.api.emit(keyed).await?.duplicate, "a repeat of what was accepted is not refused");
    let (sender, queue) = mpsc::channel(4);
    let request =
        v1::EmitStreamRequest { reference: 7, tenant: TENANT.into(), event: Some(event("a.b", "{}")) };
    sender.send(request).await?;
    let mut answers = world.api.events().emit_stream(ReceiverStream::new(queue)).await?.into_inner();
    let answer = answers.message().await?.context("no answer")?.result.and_then(|result| result.result);
    assert!(matches!(answer, Some(Emitted::Error(error)) if error.reason == "TENANT_STORAGE_EXCEEDED"));
    // With more room it goes on; of the sum, nothing is forgotten.
    set(&world.api, v1::TenantQuota { max_stored_bytes: 5 * each, ..Default::default() }).await?;
    world.api.emit(event("a.b", "{}")).await?;
    assert_eq!(stored(&world.api).await?, 5 * each);
    Ok(())
}

#[tokio::test]
async fn a_rate_of_its_own_refuses_calls_and_slows_a_stream_down() -> Result<()> {
    let world = World::start().await?;
    set(&world.api, v1::TenantQuota { emit_rate: 5, emit_burst: 3, ..Default::default() }).await?;
    let started = now();
    let (mut accepted, mut wait) = (0, None);
    while wait.is_none() {
        match world.api.emit(event("a.b", "{}")).await {
            Ok(_) => accepted += 1,
            Err(refused) => {
                let (reason, retry) = exceeded(&refused);
                assert_eq!(reason, "TENANT_RATE_EXCEEDED");
                wait = retry;
            }
        }
    }
    assert!(accepted >= 3 && accepted <= 3 + 1 + 5 * started.elapsed().as_secs(), "{accepted}");
    tokio::time::sleep(wait.context("no retry delay")?).await;
    world.api.emit(event("a.b", "{}")).await?;
    // A stream of the tenant alone waits.
    let (sender, queue) = mpsc::channel(16);
    for reference in 0..6 {
        let event = Some(event("a.b", "{}"));
        sender.send(v1::EmitStreamRequest { reference, tenant: TENANT.into(), event }).await?;
    }
    drop(sender);
    let started = now();
    let mut answers = world.api.events().emit_stream(ReceiverStream::new(queue)).await?.into_inner();
    while let Some(answer) = tokio::time::timeout(PATIENCE, answers.message()).await?? {
        assert!(matches!(answer.result.and_then(|result| result.result), Some(Emitted::Accepted(_))));
    }
    assert!(started.elapsed() >= Duration::from_millis(900), "{:?}", started.elapsed());
    // Without one it is as fast as everybody.
    set(&world.api, v1::TenantQuota::default()).await?;
    for _ in 0..20 {
        world.api.emit(event("a.b", "{}")).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_tenants_own_admin_does_not_set_its_quota() -> Result<()> {
    let world = Guarded::start(&[]).await?;
    world.control_plane.api(TENANT)?.create_tenant().await.ok();
    let token = world.token(v1::Role::Admin, Some(TENANT)).await?;
    let own = world.api(TENANT, &token.secret)?;
    let quota = v1::TenantQuota { max_subscriptions: 1, ..Default::default() };
    let all = world.control_plane.api(TENANT)?;
    set(&all, quota).await?;
    let more = v1::TenantQuota { max_subscriptions: 9, ..Default::default() };
    let refused = own.tenants().update_tenant(update(more, &["quota"])).await.err().context("it was set")?;
    assert_eq!(refused.code(), Code::PermissionDenied);
    // An update of everything is of everything that it may set.
    let tenant = own.tenants().update_tenant(update(more, &[])).await?.into_inner().tenant;
    assert_eq!(tenant.and_then(|tenant| tenant.quota), Some(quota));
    Ok(())
}

#[tokio::test]
async fn the_command_shows_what_is_used_and_changes_what_may_be() -> Result<()> {
    let world = World::start().await?;
    world.subscribe("/a").await?;
    world.api.emit(event("a.b", "{}")).await?;
    let cli = world.cli();
    let set = ["tenants", "update", TENANT, "--max-subscriptions", "5", "--max-stored-bytes", "1000"];
    cli.json(&set).await?;
    let updated = cli.json(&["tenants", "update", TENANT, "--emit-rate", "10"]).await?;
    let quota = serde_json::json!({
        "max_subscriptions": 5, "emit_rate": 10, "emit_burst": 0, "max_stored_bytes": 1000,
        "max_event_types": 0, "delivery_rate": 0, "delivery_burst": 0
    });
    assert_eq!(updated["quota"], quota);
    assert_eq!(updated["usage"], serde_json::json!({ "subscriptions": 1, "stored_bytes": 386 }));
    let shown = cli.run(&["tenants", "get", TENANT]).await?;
    for expected in ["1 of 5", "386 of 1000", "10 a second, 10 at once", "active"] {
        assert!(shown.stdout.contains(expected), "{expected} is missing in {}", shown.stdout);
    }
    let words =
        ["--max-subscriptions", "unlimited", "--max-stored-bytes", "default", "--emit-rate", "unlimited"];
    let updated =
        cli.json(&[&["tenants", "update", TENANT, "--delivery-rate", "7"][..], &words[..]].concat()).await?;
    assert_eq!(updated["quota"]["max_subscriptions"], u32::MAX);
    assert_eq!(updated["quota_in_force"]["delivery_burst"], 14);
    assert_eq!(updated["quota_in_force"]["max_stored_bytes"], 4_u64 << 30);
    let shown = cli.run(&["tenants", "get", TENANT]).await?;
    for expected in ["1 (no limit)", "386 of 4294967296", "7 a second, 14 at once"] {
        assert!(shown.stdout.contains(expected), "{expected} is missing in {}", shown.stdout);
    }
    Ok(())
}

#[tokio::test]
async fn without_a_word_about_it_a_tenant_has_quotas_and_its_flood_is_refused() -> Result<()> {
    let settings =
        ["tenant_delivery_rate = 20", "tenant_delivery_burst = 30", "tenant_max_subscriptions = 3"];
    let world = World::with(AgentSettings::default(), &settings).await?;
    for path in ["/a", "/b", "/c"] {
        world.subscribe(path).await?;
    }
    let url = world.receiver.url("/d");
    let refused = world.api.subscribe(v1::Subscription { url, ..Default::default() }, "").await;
    let refused = refused.err().context("a fourth was made")?.downcast::<Status>()?;
    assert_eq!(exceeded(&refused), ("TENANT_SUBSCRIPTIONS_EXCEEDED".into(), None));
    let started = now();
    let (mut accepted, mut wait) = (0, None);
    while wait.is_none() {
        match world.api.emit(event("a.b", "{}")).await {
            Ok(_) => accepted += 1,
            Err(refused) => {
                let (reason, retry) = exceeded(&refused);
                assert_eq!(reason, "TENANT_DELIVERY_RATE_EXCEEDED");
                wait = retry;
            }
        }
    }
    // Three deliveries each.
    assert!(accepted >= 10 && accepted <= 11 + 7 * (1 + started.elapsed().as_secs()), "{accepted}");
    tokio::time::sleep(wait.context("no retry delay")?).await;
    world.api.emit(event("a.b", "{}")).await?;
    let unlimited = v1::TenantQuota { delivery_rate: u32::MAX, ..Default::default() };
    let tenant = set(&world.api, unlimited).await?;
    assert_eq!(tenant.quota_in_force.context("no quota in force")?.max_subscriptions, 3);
    for _ in 0..50 {
        world.api.emit(event("a.b", "{}")).await?;
    }
    Ok(())
}
