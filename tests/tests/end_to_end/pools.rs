//! Pools of agents: what they show, who stands in when one has no agent, and agents that are drained.

use std::time::Duration;

use anyhow::{Context as _, Result};
use postrider_proto::v1::{self, AgentState, DeliveryState, HoldReason};
use postrider_tests::api::{duration, event};
use postrider_tests::receiver::{Answer, Receiver};
use postrider_tests::wait::{eventually, when};
use postrider_tests::world::{Agent, AgentSettings, World};
use prost_types::FieldMask;
use tonic::Code;

async fn pool(world: &World, name: &str) -> Result<(v1::Pool, v1::PoolStatus)> {
    let request = v1::GetPoolRequest { pool: name.to_owned() };
    let pool = world.api.pools().get_pool(request).await?.into_inner().pool.context("no pool")?;
    let status = pool.status.clone().context("no status")?;
    Ok((pool, status))
}

async fn create(world: &World, pool: v1::Pool) -> Result<v1::Pool, tonic::Status> {
    let request = v1::CreatePoolRequest { pool: Some(pool) };
    Ok(world.api.pools().create_pool(request).await?.into_inner().pool.unwrap_or_default())
}

fn named(name: &str) -> v1::Pool {
    v1::Pool { name: name.to_owned(), ..v1::Pool::default() }
}

/// An agent of another pool, started and connected.
async fn agent_of(world: &World, id: &str, pool: &str) -> Result<Agent> {
    let join = Some(world.api.join(pool, 5).await?.expose_text().to_string());
    let settings =
        AgentSettings { id: id.to_owned(), pool: pool.to_owned(), join, ..world.agent.settings.clone() };
    let mut agent = Agent::new(world.folder(), settings);
    agent.start()?;
    world.api.agent_connected(id, agent.settings.streams).await?;
    Ok(agent)
}

async fn held_by_nobody(world: &World, delivery: &str) -> Result<()> {
    eventually("the delivery waits for an agent", async || {
        let (found, attempts) = world.api.delivery(delivery).await?;
        Ok(when(found.hold_reason() == HoldReason::NoAgent && attempts.is_empty()))
    })
    .await
}

#[tokio::test]
async fn a_pool_shows_its_agents_and_what_waits_for_some() -> Result<()> {
    let world = World::start().await?;
    let (default, status) = pool(&world, "default").await?;
    assert_eq!((status.connected_agents, status.versions.len(), status.subscriptions), (1, 1, 0));
    assert!(status.max_in_flight > 0 && status.no_agent_since.is_none() && default.create_time.is_none());
    let unknown = world.api.pools().get_pool(v1::GetPoolRequest { pool: "nowhere".into() }).await;
    assert_eq!(unknown.err().map(|status| status.code()), Some(Code::NotFound));

    // A pool must allow the tenant; an admin hears how.
    let wanted = v1::Subscription {
        tenant: world.api.tenant(),
        url: world.receiver.url("/a"),
        event_types: vec!["*".into()],
        pool: "edge".into(),
        ..v1::Subscription::default()
    };
    let request = v1::CreateSubscriptionRequest { subscription: Some(wanted), ..Default::default() };
    let refused =
        world.api.subscriptions().create_subscription(request.clone()).await.err().context("made")?;
    let advice = format!("postrider pools create edge --add-tenant {}", world.api.tenant());
    assert!(refused.message().contains(&advice), "{refused:?}");
    let printed = world.cli().run(&["pools", "create", "edge", "--description", "At the edge."]).await?;
    assert!(printed.stderr.contains("No tenant may use the pool edge yet"), "{printed:?}");
    let printed = world.cli().run(&["pools", "update", "edge", "--add-tenant", &world.api.tenant()]).await?;
    assert!(printed.stdout.contains(&world.api.tenant()), "{printed:?}");
    let made = world.api.subscriptions().create_subscription(request).await?.into_inner();
    assert!(made.subscription.context("no subscription")?.no_agent);
    let (_, delivery) = world.api.emit_to_one(event("a.b", "{}")).await?;
    held_by_nobody(&world, &delivery).await?;
    let (edge, status) = pool(&world, "edge").await?;
    assert_eq!((status.connected_agents, status.subscriptions, status.held_subscriptions), (0, 1, 1));
    assert!(status.no_agent_since.is_some() && edge.create_time.is_some());
    let printed = world.cli().run(&["pools", "get", "edge"]).await?;
    assert!(printed.stdout.contains("deliveries of 1 subscriptions wait"), "{}", printed.stdout);
    let listed = world.cli().json(&["pools", "list"]).await?;
    let names: Vec<_> =
        listed.as_array().context("a list")?.iter().map(|pool| pool["name"].clone()).collect();
    assert_eq!(names, ["default", "edge"]);

    let in_use = world.api.pools().delete_pool(v1::DeletePoolRequest { pool: "edge".into() }).await;
    assert_eq!(in_use.err().map(|status| status.code()), Some(Code::FailedPrecondition));
    let mut agent = agent_of(&world, "edge-1", "edge").await?;
    world.api.delivery_in(&delivery, DeliveryState::Delivered).await?;
    let (_, status) = pool(&world, "edge").await?;
    assert_eq!((status.connected_agents, status.held_subscriptions), (1, 0));
    agent.kill()?;
    eventually("the agent is gone", async || {
        let (_, status) = pool(&world, "edge").await?;
        Ok(when(status.disconnected_agents == 1 && status.no_agent_since.is_some()))
    })
    .await
}

#[tokio::test]
async fn pools_are_changed_deleted_and_outlive_a_restart() -> Result<()> {
    let mut world = World::start().await?;
    for name in ["spare", "edge"] {
        create(&world, named(name)).await?;
    }
    let again = create(&world, named("edge")).await.err().context("made twice")?;
    assert_eq!(again.code(), Code::AlreadyExists);
    let update = |pool: v1::Pool| {
        let update_mask = Some(FieldMask { paths: vec!["fallback_pool".into(), "fallback_after".into()] });
        v1::UpdatePoolRequest { pool: Some(pool), update_mask, ..Default::default() }
    };
    let falls_back = |name: &str, on: &str| v1::Pool { fallback_pool: on.into(), ..named(name) };
    world.api.pools().update_pool(update(falls_back("edge", "spare"))).await?;
    for (name, on) in [("spare", "edge"), ("edge", "edge"), ("edge", "nobody")] {
        let refused = world.api.pools().update_pool(update(falls_back(name, on))).await;
        assert_eq!(refused.err().map(|status| status.code()), Some(Code::InvalidArgument), "{name} {on}");
    }
    world.control_plane.kill()?;
    world.control_plane.restart().await?;
    assert_eq!(pool(&world, "edge").await?.0.fallback_pool, "spare");
    let delete = |pool: &str| v1::DeletePoolRequest { pool: pool.to_owned() };
    let needed = world.api.pools().delete_pool(delete("spare")).await;
    assert_eq!(needed.err().map(|status| status.code()), Some(Code::FailedPrecondition));
    for name in ["edge", "spare"] {
        world.api.pools().delete_pool(delete(name)).await?;
    }
    let gone = world.api.pools().delete_pool(delete("spare")).await;
    assert_eq!(gone.err().map(|status| status.code()), Some(Code::NotFound));
    let audited = v1::ListAuditRecordsRequest { action: "UpdatePool".into(), ..Default::default() };
    let records = world.api.audit().list_audit_records(audited).await?.into_inner().records;
    assert!(records.len() == 1 && records[0].detail.contains("falls back on spare"), "{records:?}");
    Ok(())
}

#[tokio::test]
async fn a_fallback_delivers_only_where_it_may_and_until_an_agent_is_back() -> Result<()> {
    let world = World::start().await?;
    let after = Some(duration(Duration::from_secs(1)));
    let edge = v1::Pool { fallback_pool: "default".into(), fallback_after: after, ..named("edge") };
    create(&world, v1::Pool { tenants: vec![world.api.tenant()], ..edge }).await?;
    let of_edge = |allow_fallback_pool| v1::Subscription {
        pool: "edge".into(),
        allow_fallback_pool,
        event_types: vec![if allow_fallback_pool { "a.may" } else { "a.may_not" }.into()],
        ..v1::Subscription::default()
    };
    world.subscribe_with("/may", of_edge(true)).await?;
    world.subscribe_with("/may-not", of_edge(false)).await?;
    let (_, may) = world.api.emit_to_one(event("a.may", "{}")).await?;
    let (_, may_not) = world.api.emit_to_one(event("a.may_not", "{}")).await?;
    let (_, attempts) = world.api.delivery_in(&may, DeliveryState::Delivered).await?;
    let spare = world.agent_connected().await?;
    assert_eq!(attempts[0].agent, spare.id, "an agent of the fallback delivered");
    held_by_nobody(&world, &may_not).await?;
    let (_, status) = pool(&world, "edge").await?;
    assert!(status.fallback_active && status.held_subscriptions == 1, "{status:?}");

    let _agent = agent_of(&world, "edge-1", "edge").await?;
    world.api.delivery_in(&may_not, DeliveryState::Delivered).await?;
    let (_, again) = world.api.emit_to_one(event("a.may", "{}")).await?;
    let (_, attempts) = world.api.delivery_in(&again, DeliveryState::Delivered).await?;
    let own = world.api.agent("edge-1").await?.context("the agent of the pool")?;
    assert_eq!(attempts[0].agent, own.id);
    assert!(!pool(&world, "edge").await?.1.fallback_active);
    assert_eq!(world.receiver.count(), 3);
    Ok(())
}

#[tokio::test]
async fn a_drained_agent_finishes_gets_nothing_and_stays_so_across_restarts_of_the_control_plane()
-> Result<()> {
    let mut world = World::start().await?;
    world.receiver.script("/a", [Answer::Late(204, Duration::from_secs(2)), Answer::Status(204)]);
    world.subscribe("/a").await?;
    let (_, first) = world.api.emit_to_one(event("a.b", "{}")).await?;
    eventually("the first is under way", async || Ok(when(world.receiver.open("/a") == 1))).await?;
    let agent = world.agent_connected().await?;
    let drained = world.cli().json(&["agents", "drain", &agent.id, "--wait"]).await?;
    assert_eq!((&drained["state"], &drained["in_flight"]), (&"draining".into(), &0.into()));
    assert!(drained["drain_time"].is_string());
    world.api.delivery_in(&first, DeliveryState::Delivered).await?;
    let (_, second) = world.api.emit_to_one(event("a.b", "{}")).await?;
    held_by_nobody(&world, &second).await?;
    assert_eq!(pool(&world, "default").await?.1.draining_agents, 1);

    world.control_plane.kill()?;
    world.control_plane.restart().await?;
    eventually("the agent is back, drained", async || {
        let found = world.api.agent(&agent.id).await?;
        Ok(when(found.is_some_and(|agent| agent.state() == AgentState::Draining && agent.streams == 2)))
    })
    .await?;
    held_by_nobody(&world, &second).await?;
    assert_eq!(world.receiver.count(), 1);
    let undrained = world.cli().json(&["agents", "undrain", &agent.id]).await?;
    assert_eq!(undrained["state"], "connected");
    world.api.delivery_in(&second, DeliveryState::Delivered).await?;

    let nobody = world.api.agents().drain_agent(v1::DrainAgentRequest { agent: "nobody".into() }).await;
    assert_eq!(nobody.err().map(|status| status.code()), Some(Code::NotFound));
    // A new run of its process is not drained any more.
    world.api.agents().drain_agent(v1::DrainAgentRequest { agent: agent.id.clone() }).await?;
    world.agent.kill()?;
    world.agent.settings.join = Some(String::new());
    world.agent.start()?;
    let back = world.api.agent_connected(&agent.id, 2).await?;
    assert!(back.drain_time.is_none());
    let (_, third) = world.api.emit_to_one(event("a.b", "{}")).await?;
    world.api.delivery_in(&third, DeliveryState::Delivered).await?;
    Ok(())
}

/// Two agents could each open a connection to every endpoint; one will do for what comes now and then.
#[tokio::test]
async fn a_quiet_subscription_keeps_to_one_agent_and_its_connection() -> Result<()> {
    const ENDPOINTS: usize = 6;
    const ROUNDS: usize = 10;
    let mut receivers = Vec::new();
    for _ in 0..ENDPOINTS {
        receivers.push(Receiver::start().await?);
    }
    let ports = receivers.iter().map(Receiver::port).collect();
    let world = World::with(AgentSettings { ports, ..AgentSettings::default() }, &[]).await?;
    let _second = world.another_agent("agent-2").await?;
    for receiver in &receivers {
        let wanted = v1::Subscription { url: receiver.url("/"), ..v1::Subscription::default() };
        world.api.subscribe(wanted, "").await?;
    }
    for round in 1..=ROUNDS {
        world.api.emit(event("a.b", "{}")).await?;
        eventually("everybody has it", async || {
            Ok(when(receivers.iter().all(|receiver| receiver.count() == round)))
        })
        .await?;
    }
    let opened: Vec<usize> = receivers.iter().map(Receiver::connections).collect();
    assert_eq!(opened, [1; ENDPOINTS], "connections by endpoint");
    Ok(())
}

/// From the attacker's side: a tenant guesses another's pool, and had a subscription in it once.
#[tokio::test]
async fn a_tenant_gets_nothing_sent_by_an_agent_of_a_foreign_pool() -> Result<()> {
    let world = World::start().await?;
    world.api.allow_pool("onprem").await?;
    let _victim = agent_of(&world, "onprem-1", "onprem").await?;
    let evil = world.control_plane.api("evil")?;
    evil.create_tenant().await?;
    let wanted = |path: &str, pool: &str| v1::Subscription {
        tenant: "evil".into(),
        url: world.receiver.url(path),
        event_types: vec!["*".into()],
        pool: pool.into(),
        ..v1::Subscription::default()
    };
    let refused = async |pool: &str| {
        let request = v1::CreateSubscriptionRequest {
            subscription: Some(wanted("/transfer", pool)),
            ..Default::default()
        };
        let refused = evil.subscriptions().create_subscription(request).await.err().context("it was made")?;
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
        anyhow::Ok(())
    };
    refused("onprem").await?;
    refused("nowhere").await?;

    let lists = async |add: &[&str], remove: &[&str]| {
        let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        let request = v1::UpdatePoolRequest {
            pool: Some(named("onprem")),
            add_tenants: owned(add),
            remove_tenants: owned(remove),
            ..Default::default()
        };
        world.api.pools().update_pool(request).await
    };
    lists(&["evil"], &[]).await?;
    let stored = evil.subscribe(wanted("/stored", "onprem"), "").await?.id;
    lists(&[], &["evil"]).await?;
    let (_, delivery) = evil.emit_to_one(event("a.b", "{}")).await?;
    eventually("the delivery is held", async || {
        let (found, attempts) = evil.delivery(&delivery).await?;
        Ok(when(found.hold_reason() == HoldReason::PoolNotAllowed && attempts.is_empty()))
    })
    .await?;
    let request =
        v1::DiagnoseSubscriptionRequest { tenant: "evil".into(), subscription: stored, ..Default::default() };
    let seen = evil.subscriptions().diagnose_subscription(request).await;
    assert_eq!(seen.err().map(|status| status.code()), Some(Code::FailedPrecondition));
    // The victim's own deliveries pass the agent meanwhile: it is there, and would have sent the other.
    let own = v1::Subscription { pool: "onprem".into(), ..v1::Subscription::default() };
    world.subscribe_with("/own", own).await?;
    let (_, honest) = world.api.emit_to_one(event("a.b", "{}")).await?;
    world.api.delivery_in(&honest, DeliveryState::Delivered).await?;
    assert_eq!(world.receiver.posts_to("/stored").len() + world.receiver.posts_to("/transfer").len(), 0);
    lists(&["evil"], &[]).await?;
    evil.delivery_in(&delivery, DeliveryState::Delivered).await?;
    assert_eq!(world.receiver.posts_to("/stored").len(), 1);
    Ok(())
}
