//! All keys of a tenant are rotated by an operation, once each, whoever is killed meanwhile.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use postrider_proto::v1::{self, OperationState, SigningKeyState};
use postrider_tests::api::Api;
use postrider_tests::wait::{PATIENCE, eventually, when};
use postrider_tests::world::World;
use rustix::process::Signal;

const SUBSCRIPTIONS: usize = 70;

async fn get(api: &Api, id: &str) -> Result<v1::Operation> {
    let request = v1::GetOperationRequest { tenant: api.tenant(), operation: id.to_owned() };
    let answer = api.operations().get_operation(request).await?;
    answer.into_inner().operation.context("an answer without an operation")
}

async fn keys(api: &Api, subscription: &str) -> Result<Vec<v1::SigningKey>> {
    let request = v1::ListSigningKeysRequest { tenant: api.tenant(), subscription: subscription.to_owned() };
    Ok(api.signing_keys().list_signing_keys(request).await?.into_inner().signing_keys)
}

#[tokio::test]
async fn a_tenants_keys_are_rotated_once_each_though_the_control_plane_is_killed() -> Result<()> {
    let mut world = World::start().await?;
    let mut subscriptions = Vec::new();
    for number in 0..SUBSCRIPTIONS {
        subscriptions.push(world.subscribe(&format!("/{number}")).await?.subscription);
    }
    // One more key cannot retire here.
    let full = subscriptions[5].clone();
    for _ in 0..3 {
        let request = v1::RotateSigningKeyRequest {
            tenant: world.api.tenant(),
            subscription: full.clone(),
            ..v1::RotateSigningKeyRequest::default()
        };
        world.api.signing_keys().rotate_signing_key(request).await?;
    }

    let begun = world.cli().json(&["keys", "rotate-all", "--overlap", "1h"]).await?;
    let id = begun[0]["id"].as_str().context("no id")?.to_owned();
    eventually("it is under way", async || Ok(when(get(&world.api, &id).await?.done >= 19))).await?;
    world.control_plane.signal(Signal::KILL)?;
    world.control_plane.exit(PATIENCE).await?;
    world.control_plane.restart().await?;
    let shown = world.cli().json(&["operations", "show", &id, "--wait"]).await?;
    assert_eq!((&shown["state"], &shown["skipped"]), (&"done".into(), &1.into()), "{shown:#}");
    let problem = get(&world.api, &id).await?.problem;
    assert!(problem.contains(&full) && problem.contains("retiring"), "{problem}");
    let operation = get(&world.api, &id).await?;
    assert_eq!(operation.state(), OperationState::Done);
    assert_eq!(operation.done + operation.skipped, operation.matched);

    for subscription in subscriptions.iter().filter(|subscription| **subscription != full) {
        let states: Vec<SigningKeyState> =
            keys(&world.api, subscription).await?.iter().map(v1::SigningKey::state).collect();
        assert_eq!(states, [SigningKeyState::Active, SigningKeyState::Retiring], "{subscription}");
    }
    let own = keys(&world.api, &full).await?;
    assert_eq!(own.len(), 4, "the one that is full has no new key");
    let ids: BTreeSet<String> = own.into_iter().map(|key| key.id).collect();
    assert_eq!(ids.len(), 4);
    Ok(())
}

#[tokio::test]
async fn every_tenants_keys_are_rotated_by_an_operation_each() -> Result<()> {
    let world = World::start().await?;
    let other = world.api.tenants();
    let tenant = v1::Tenant { id: "other".into(), ..v1::Tenant::default() };
    other.clone().create_tenant(v1::CreateTenantRequest { tenant: Some(tenant) }).await?;
    let route = world.subscribe("/a").await?;
    let before = keys(&world.api, &route.subscription).await?;
    let cli = world.cli();
    let begun = cli.json(&["keys", "rotate-all", "--every-tenant", "--overlap", "0", "--wait"]).await?;
    let mut tenants: Vec<&str> = begun
        .as_array()
        .context("no list")?
        .iter()
        .filter_map(|operation| operation["tenant"].as_str())
        .collect();
    tenants.sort_unstable();
    let own = world.api.tenant();
    let mut expected = vec![own.as_str(), "other", "postrider"];
    expected.sort_unstable();
    assert_eq!(tenants, expected);
    let after = keys(&world.api, &route.subscription).await?;
    assert_eq!((after[0].state(), after[1].state()), (SigningKeyState::Active, SigningKeyState::Revoked));
    assert_eq!(after[1].id, before[0].id);
    let refused = cli.run(&["keys", "rotate-all", "--overlap", "8d"]).await?;
    assert!(refused.code == 4 && refused.stderr.contains("7 days"), "{refused:?}");
    let refused = cli.run(&["keys", "rotate-all", "--scheme", "v9"]).await?;
    assert!(refused.code == 4 && refused.stderr.contains("scheme"), "{refused:?}");
    Ok(())
}
