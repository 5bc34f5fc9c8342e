//! The audit log: every change and every secret shown leaves one record that says who, what, when and from where.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use postrider_proto::v1::{self, Role};
use postrider_tests::api::Api;
use postrider_tests::world::{Guarded, NewToken};
use serde_json::Value;
use tonic::Code;

use super::calls::{self, Call, REQUEST_ID};
use super::things::Things;
use super::{code, make};

/// The records after this number, oldest first.
async fn records_after(admin: &Api, number: u64) -> Result<Vec<v1::AuditRecord>> {
    let request = v1::ListAuditRecordsRequest { page_size: 100, ..Default::default() };
    let mut records = admin.audit().list_audit_records(request).await?.into_inner().records;
    // What Postrider does by itself, and later, is not the call's.
    records.retain(|record| record.sequence > number && record.actor != "postrider");
    records.reverse();
    Ok(records)
}

async fn last(admin: &Api) -> Result<u64> {
    let request = v1::ListAuditRecordsRequest { page_size: 1, ..Default::default() };
    let newest = admin.audit().list_audit_records(request).await?.into_inner().records;
    Ok(newest.first().map_or(0, |record| record.sequence))
}

/// Whether a call of this name changes or reveals something that somebody may be asked about later. Emitting does not
/// count: events are the record of themselves.
fn must_be_recorded(call: &Call) -> bool {
    let quiet = ["Get", "List", "Watch", "Emit", "Explain", "Verify", "CheckSubscription"];
    // The table resumes a subscription that is not paused, and gives jobs again to an agent that is not drained.
    let nothing_new = ["ResumeSubscription", "UndrainAgent"];
    let is_quiet = quiet.iter().any(|verb| call.method().starts_with(verb));
    !is_quiet && call.code == Code::Ok && !nothing_new.contains(&call.method())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_change_leaves_exactly_one_record() -> Result<()> {
    let world = Guarded::start(&[]).await?;
    let channel = world.control_plane.channel()?;
    let token = world.token(Role::Admin, None).await?;
    for call in calls::all() {
        assert_eq!(
            call.audited.is_some(),
            must_be_recorded(&call),
            "{}: what does the table say?",
            call.name
        );
        let things = Things::make(&world).await?;
        let before = last(&world.admin).await?;
        let answer = make(&channel, &token.secret, &call, &things).await;
        assert_eq!(code(&answer), call.code, "{}: {answer:?}", call.name);
        let records = records_after(&world.admin, before).await?;
        let expected: Vec<String> = call.audited.map(|target| target(&things)).into_iter().collect();
        assert_eq!(records.len(), expected.len(), "{}: {records:#?}", call.name);
        for (record, target) in records.iter().zip(&expected) {
            judge(record, &call, &token, target, &things).with_context(|| format!("{record:?}"))?;
        }
    }
    let checked = world.admin.audit().verify_audit_log(v1::VerifyAuditLogRequest::default()).await?;
    assert!(checked.get_ref().intact, "{checked:?}");
    Ok(())
}

fn judge(
    record: &v1::AuditRecord,
    call: &Call,
    token: &NewToken,
    target: &str,
    things: &Things,
) -> Result<()> {
    ensure!(record.action == call.method(), "another action");
    ensure!(record.actor == token.id, "another actor");
    ensure!(record.address == "127.0.0.1", "another address");
    ensure!(record.target.starts_with(target), "another target than {target}");
    let whose = match call.method() {
        "CreateTenant" => things.new_tenant.as_str(),
        "DeleteTenant" => &things.empty_tenant,
        "RevokeAgent" | "CreateJoinToken" | "RevokeJoinToken" | "RotateAuthority" | "RewrapSecrets"
        | "Backup" | "CreatePool" | "UpdatePool" | "DeletePool" => "",
        _ => &things.tenant,
    };
    ensure!(record.tenant == *whose, "another tenant");
    let has_id = [
        "CreateSubscription",
        "CreateSigningKey",
        "ActivateSigningKey",
        "RotateSigningKey",
        "RetryDelivery",
        "ReplayDeliveries",
        "RotateSigningKeys",
    ];
    let request_id = if has_id.contains(&call.method()) { REQUEST_ID } else { "" };
    ensure!(record.request_id == request_id, "another request");
    let time = record.time.as_ref().context("no time")?.seconds;
    let now = std::time::UNIX_EPOCH.elapsed()?.as_secs().cast_signed();
    ensure!((now - 60..=now + 1).contains(&time), "another time");
    ensure!(!record.detail.contains("whsec_") && !record.detail.contains("prt_"), "a secret");
    Ok(())
}

#[tokio::test]
async fn a_record_says_what_has_changed_and_no_secret() -> Result<()> {
    let world = Guarded::start(&[]).await?;
    let things = Things::make(&world).await?;
    let api = world.control_plane.api(&things.tenant)?;
    let before = last(&world.admin).await?;
    let changed = v1::Subscription {
        tenant: things.tenant.clone(),
        id: things.subscription.clone(),
        url: "https://new.example.com/in?token=t0psecret".into(),
        headers: [("authorization".to_owned(), "Bearer t0psecret".to_owned())].into(),
        timeout: Some(postrider_tests::api::duration(Duration::from_secs(3))),
        ..Default::default()
    };
    let paths = ["url", "headers", "timeout", "pool"].map(str::to_owned).to_vec();
    let update_mask = Some(prost_types::FieldMask { paths });
    let request = v1::UpdateSubscriptionRequest { subscription: Some(changed), update_mask };
    api.subscriptions().update_subscription(request).await?;
    let subscription = things.subscription.clone();
    let rotate = v1::RotateSigningKeyRequest {
        tenant: things.tenant.clone(),
        subscription,
        request_id: "once".into(),
        ..Default::default()
    };
    let first = api.signing_keys().rotate_signing_key(rotate.clone()).await?.into_inner();
    let again = api.signing_keys().rotate_signing_key(rotate.clone()).await?.into_inner();
    assert_eq!(first.secret, again.secret);
    // A request id is its caller's: nobody else is shown the secret by it.
    let other = world.token(Role::Operator, Some(&things.tenant)).await?;
    let other = world.api(&things.tenant, &other.secret)?;
    let theirs = other.signing_keys().rotate_signing_key(rotate).await?.into_inner();
    assert_ne!(first.secret, theirs.secret);

    let records = records_after(&world.admin, before).await?;
    let details: Vec<&str> = records.iter().map(|record| record.detail.as_str()).collect();
    assert_eq!(
        details[0],
        "pool default; url: https://hooks.example.com/ → https://new.example.com/in?…; headers: none → authorization; \
         timeout: 15s → 3s"
    );
    assert!(details[1].starts_with("key_"), "{details:?}");
    assert_eq!(records[2].action, "RevealSigningKey", "a repeat that shows a secret is a reveal");
    assert!(details[2].starts_with("key_") && details[2].ends_with("by a repeated RotateSigningKey"));
    let all = format!("{records:?}");
    for secret in ["t0psecret", &first.secret, &theirs.secret] {
        assert!(!all.contains(secret), "{all}");
    }
    Ok(())
}

#[tokio::test]
async fn what_is_refused_or_changes_nothing_leaves_no_record() -> Result<()> {
    let world = Guarded::start(&[]).await?;
    let things = Things::make(&world).await?;
    let (api, tenant) = (world.control_plane.api(&things.tenant)?, things.tenant.clone());
    let before = last(&world.admin).await?;
    let ended =
        v1::CancelDeliveryRequest { tenant: tenant.clone(), delivery: things.delivery.replace("-1", "-2") };
    let refused = api.deliveries().cancel_delivery(ended).await.err().context("it was cancelled twice")?;
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let busy = v1::DeleteTenantRequest { tenant: tenant.clone(), ..Default::default() };
    api.tenants().delete_tenant(busy).await.err().context("a tenant with subscriptions was deleted")?;
    let subscription = things.subscription.clone();
    let active = v1::ResumeSubscriptionRequest { tenant: tenant.clone(), subscription: subscription.clone() };
    api.subscriptions().resume_subscription(active).await?;
    let nothing = v1::RevealSigningKeyRequest {
        tenant,
        subscription,
        signing_key: "key_00000000000000000000000000".into(),
    };
    api.signing_keys().reveal_signing_key(nothing).await.err().context("a key that never was")?;
    assert_eq!(records_after(&world.admin, before).await?, []);
    Ok(())
}

#[tokio::test]
async fn an_auditor_lists_filters_and_verifies_with_the_command() -> Result<()> {
    let world = Guarded::start(&[]).await?;
    let (own, other) = (Things::make(&world).await?, Things::make(&world).await?);
    let admin = world.token(Role::Admin, None).await?;
    let cli = world.cli(&admin.secret);
    let list = async |arguments: &[&str]| -> Result<Vec<Value>> {
        let found = cli.json(&[&["audit", "list", "--limit", "0"], arguments].concat()).await?;
        Ok(found.as_array().context("not a list")?.clone())
    };
    let all = list(&[]).await?;
    let numbers: Vec<u64> = all.iter().filter_map(|record| record["sequence"].as_u64()).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).rev().collect::<Vec<_>>(), "newest first, without gaps");
    let of_own = list(&["--tenant", &own.tenant]).await?;
    assert!(!of_own.is_empty() && of_own.iter().all(|record| record["tenant"] == own.tenant.as_str()));
    let rotations = list(&["--tenant", &other.tenant, "--action", "RotateSigningKey"]).await?;
    assert_eq!(rotations.len(), 1, "{rotations:?}");
    assert_eq!(rotations[0]["target"], other.subscription.as_str());
    let by = rotations[0]["actor"].as_str().context("no actor")?;
    let theirs = list(&["--actor", by]).await?;
    let expected: Vec<&Value> = all.iter().filter(|record| record["actor"] == by).collect();
    // Postrider itself and the agents that enrolled are in the log too.
    assert!(theirs.iter().eq(expected) && theirs.len() < all.len(), "{theirs:?}");
    assert_eq!(list(&["--actor", "tok_nobody"]).await?.len(), 0);
    assert_eq!(list(&["--since", "1h"]).await?.len(), all.len());
    let first = cli.run(&["audit", "list", "--limit", "3"]).await?;
    assert!(first.stdout.lines().count() == 4 && first.stderr.contains("more"), "{first:?}");

    let intact = cli.json(&["audit", "verify"]).await?;
    assert_eq!((&intact["intact"], &intact["checked"]), (&true.into(), &intact["head_sequence"]));
    let head = format!("{}:{}", intact["head_sequence"], intact["head_hash"].as_str().context("no hash")?);
    Things::make(&world).await?;
    let later = cli.run(&["audit", "verify", "--known", &head]).await?;
    assert!(later.code == 0 && later.stdout.contains("intact"), "{later:?}");
    for (wrong, said) in [
        (format!("3:{}", "ab".repeat(32)), "record 3 is not the one that was seen before"),
        (format!("9999:{}", "ab".repeat(32)), "and 9999 was seen before"),
    ] {
        let broken = cli.run(&["audit", "verify", "--known", &wrong]).await?;
        assert!(broken.code == 7 && broken.stdout.contains(said), "{broken:?}");
    }
    let viewer = world.token(Role::Viewer, None).await?;
    let refused = world.cli(&viewer.secret).run(&["audit", "list"]).await?;
    assert!(refused.code == 4 && refused.stderr.contains("ROLE_NOT_PERMITTED"), "{refused:?}");
    Ok(())
}
