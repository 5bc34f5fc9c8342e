//! The admin ports of both programs: what they count, whether they live and are ready, and what is logged.

use std::time::Duration;

use anyhow::{Context as _, Result};
use postrider_proto::v1::{self, DeliveryState};
use postrider_tests::api::{event, no_retries};
use postrider_tests::receiver::Answer;
use postrider_tests::scrape::{Admin, Scrape};
use postrider_tests::wait::{eventually, when, within};
use postrider_tests::world::{AgentSettings, World};
use rustix::process::Signal;

const VERSION: &str = env!("CARGO_PKG_VERSION");
const LISTEN: &str = "admin_listen = \"127.0.0.1:0\"";
/// Longer than an attempt that is under way, shorter than a grace.
const DRAINED_WITHIN: Duration = Duration::from_secs(30);

fn settings() -> AgentSettings {
    AgentSettings { admin: true, log: "info".into(), ..AgentSettings::default() }
}

async fn world() -> Result<World> {
    World::with(settings(), &[LISTEN]).await
}

fn of_control_plane(world: &World) -> Result<Admin> {
    world.control_plane.admin().context("the control plane has no admin port")
}

/// The agent's port, when it has said where it is.
async fn of_agent(world: &World) -> Result<Admin> {
    eventually("the agent has its admin port", async || Ok(world.agent.admin())).await
}

/// Waits until `/readyz` is answered so: 200, or 503 with a reason that has these words.
async fn ready(admin: Admin, status: u16, words: &str) -> Result<()> {
    eventually(&format!("/readyz is {status} '{words}'"), async || {
        let (found, body) = admin.get("/readyz").await?;
        Ok(when(found == status && body.contains(words)))
    })
    .await
}

async fn lives(admin: Admin) -> Result<()> {
    assert_eq!(admin.get("/livez").await?, (200, "ok\n".to_owned()));
    Ok(())
}

#[track_caller]
fn expect(scrape: &Scrape, values: &[(&str, f64)]) {
    for (series, value) in values {
        assert_eq!(scrape.find(series), Some(*value), "{series} in\n{}", scrape.0);
    }
}

/// Three deliveries that succeed, one that fails for good, one event that came twice, and one that is none.
async fn work(world: &World) -> Result<()> {
    world.receiver.script("/bad", [Answer::Status(500)]);
    let of = |name: &str| v1::Subscription {
        event_types: vec![name.to_owned()],
        retry_policy: no_retries(),
        ..v1::Subscription::default()
    };
    world.subscribe_with("/good", of("good.one")).await?;
    world.subscribe_with("/bad", of("bad.one")).await?;
    for number in 0..3 {
        let (_, delivery) =
            world.api.emit_to_one(event("good.one", &format!("{{\"number\":{number}}}"))).await?;
        world.api.delivery_in(&delivery, DeliveryState::Delivered).await?;
    }
    let (_, delivery) = world.api.emit_to_one(event("bad.one", "{}")).await?;
    world.api.delivery_in(&delivery, DeliveryState::Exhausted).await?;
    let twice = v1::NewEvent { idempotency_key: "once".into(), ..event("nobody.wants", "{}") };
    assert!(!world.api.emit(twice.clone()).await?.duplicate);
    assert!(world.api.emit(twice).await?.duplicate);
    assert!(world.api.emit(event("good.one", "no JSON")).await.is_err());
    Ok(())
}

#[tokio::test]
async fn counters_move_by_exactly_what_was_done() -> Result<()> {
    let world = world().await?;
    let before = of_control_plane(&world)?.scrape().await?;
    work(&world).await?;
    let after = of_control_plane(&world)?.scrape().await?;
    for (series, by) in [
        ("postrider_emits_total{result=\"accepted\"}", 5.0),
        ("postrider_emits_total{result=\"duplicate\"}", 1.0),
        ("postrider_emits_total{result=\"refused\"}", 1.0),
        ("postrider_emit_duration_seconds_count", 6.0),
        ("postrider_dispatch_delay_seconds_count", 4.0),
        ("postrider_deliveries_ended_total{state=\"delivered\"}", 3.0),
        ("postrider_deliveries_ended_total{state=\"exhausted\"}", 1.0),
        ("postrider_deliveries_ended_total{state=\"cancelled\"}", 0.0),
        ("postrider_attempts_total{outcome=\"success\"}", 3.0),
        ("postrider_attempts_total{outcome=\"http_status\"}", 1.0),
        ("postrider_attempts_total{outcome=\"timeout\"}", 0.0),
        ("postrider_attempt_duration_seconds_count{phase=\"total\"}", 4.0),
        ("postrider_attempt_duration_seconds_count{phase=\"tls\"}", 0.0),
        ("postrider_settle_lag_seconds_count", 4.0),
        ("postrider_store_write_errors_total", 0.0),
        ("postrider_agents_lost_total", 0.0),
        ("postrider_subscriptions{state=\"active\"}", 2.0),
    ] {
        assert_eq!(after.value(series)? - before.value(series)?, by, "{series}");
    }
    assert!(after.value("postrider_store_write_duration_seconds_count")? > 0.0);
    expect(
        &after,
        &[
            (&format!("postrider_build_info{{version=\"{VERSION}\"}}"), 1.0),
            (&format!("postrider_agents{{pool=\"default\",version=\"{VERSION}\"}}"), 1.0),
            ("postrider_agent_connects_total{result=\"welcomed\"}", 2.0),
            ("postrider_agent_connects_total{result=\"rejected\"}", 0.0),
            ("postrider_deliveries_waiting{pool=\"default\"}", 0.0),
            ("postrider_oldest_waiting_seconds{pool=\"default\"}", 0.0),
            ("postrider_jobs_in_flight{pool=\"default\"}", 0.0),
            ("postrider_agent_credit{pool=\"default\"}", 512.0),
            ("postrider_breakers_open", 0.0),
            ("postrider_subscriptions{state=\"paused\"}", 0.0),
        ],
    );
    let agent = of_agent(&world).await?.scrape().await?;
    expect(
        &agent,
        &[
            (&format!("postrider_agent_build_info{{version=\"{VERSION}\"}}"), 1.0),
            ("postrider_agent_streams", 2.0),
            ("postrider_agent_stream_connects_total{result=\"welcomed\"}", 2.0),
            ("postrider_agent_stream_connects_total{result=\"failed\"}", 0.0),
            ("postrider_agent_draining", 0.0),
            ("postrider_agent_jobs_in_flight", 0.0),
            ("postrider_agent_max_jobs_in_flight", 512.0),
            ("postrider_agent_attempts_total{outcome=\"success\"}", 3.0),
            ("postrider_agent_attempts_total{outcome=\"http_status\"}", 1.0),
            ("postrider_agent_attempt_duration_seconds_count{phase=\"total\"}", 4.0),
            ("postrider_agent_outbox_outcomes", 0.0),
            ("postrider_agent_outbox_capacity", 32_768.0),
        ],
    );
    Ok(())
}

#[tokio::test]
async fn sizes_certificates_and_the_process_are_seen() -> Result<()> {
    let world = world().await?;
    let admin = of_control_plane(&world)?;
    let scrape = eventually("the store was looked at", async || {
        let scrape = admin.scrape().await?;
        let seen =
            scrape.find("postrider_certificate_expiry_timestamp_seconds{certificate=\"api\"}").is_some();
        Ok(seen.then_some(scrape))
    })
    .await?;
    let agent = of_agent(&world).await?.scrape().await?;
    let started = scrape.value("process_start_time_seconds")?;
    assert!(started > 1.7e9);
    for certificate in ["api", "agents_authority"] {
        let series =
            format!("postrider_certificate_expiry_timestamp_seconds{{certificate=\"{certificate}\"}}");
        assert!(scrape.value(&series)? > started, "{certificate}");
    }
    assert!(scrape.value("postrider_store_size_bytes")? > 0.0);
    assert!(scrape.value("postrider_store_disk_free_bytes")? > 0.0);
    assert!(scrape.value("postrider_connections{port=\"api\"}")? >= 1.0);
    assert!(scrape.value("postrider_connections{port=\"agents\"}")? >= 2.0);
    assert!(agent.value("postrider_agent_certificate_expiry_timestamp_seconds")? > started);
    for scrape in [&scrape, &agent] {
        assert!(scrape.value("process_resident_memory_bytes")? > 1e6);
        assert!(scrape.value("process_open_fds")? < scrape.value("process_max_fds")?);
        assert!(scrape.value("process_cpu_seconds_total")? >= 0.0);
    }
    Ok(())
}

#[tokio::test]
async fn a_pool_without_agents_is_listed_with_what_waits() -> Result<()> {
    let mut world = world().await?;
    let admin = of_control_plane(&world)?;
    world.api.allow_pool("edge").await?;
    let edge = v1::Subscription { pool: "edge".into(), ..v1::Subscription::default() };
    world.subscribe_with("/a", edge).await?;
    let (_, delivery) = world.api.emit_to_one(event("a.b", "{}")).await?;
    let scrape = eventually("the delivery has waited for a while", async || {
        let scrape = admin.scrape().await?;
        let old = scrape.value("postrider_oldest_waiting_seconds{pool=\"edge\"}")? > 0.5;
        Ok(old.then_some(scrape))
    })
    .await?;
    expect(
        &scrape,
        &[
            ("postrider_agents{pool=\"edge\",version=\"\"}", 0.0),
            ("postrider_deliveries_waiting{pool=\"edge\"}", 1.0),
            ("postrider_agent_credit{pool=\"edge\"}", 0.0),
            ("postrider_oldest_waiting_seconds{pool=\"default\"}", 0.0),
        ],
    );
    world.agent.kill()?;
    eventually("the agent is lost, and its pool has none", async || {
        let scrape = admin.scrape().await?;
        let lost = scrape.value("postrider_agents_lost_total")? == 2.0;
        Ok(when(lost && scrape.find("postrider_agents{pool=\"default\",version=\"\"}") == Some(0.0)))
    })
    .await?;
    world.api.delivery(&delivery).await?;
    Ok(())
}

#[tokio::test]
async fn pools_beyond_two_hundred_share_a_label() -> Result<()> {
    let world = world().await?;
    for number in 0..203 {
        let pool = Some(v1::Pool { name: format!("p{number:03}"), ..v1::Pool::default() });
        world.api.pools().create_pool(v1::CreatePoolRequest { pool }).await?;
    }
    let scrape = of_control_plane(&world)?.scrape().await?;
    let series: Vec<_> = scrape.series("postrider_agents").collect();
    assert_eq!(series.len(), 201, "{series:#?}");
    expect(
        &scrape,
        &[
            ("postrider_agents{pool=\"other\",version=\"\"}", 0.0),
            (&format!("postrider_agents{{pool=\"default\",version=\"{VERSION}\"}}"), 1.0),
        ],
    );
    assert!(scrape.0.len() < 100_000, "{} bytes", scrape.0.len());
    Ok(())
}

#[tokio::test]
async fn an_agent_is_ready_while_it_has_a_stream_and_is_not_draining() -> Result<()> {
    let mut world = World::without_agent(settings(), &[LISTEN]).await?;
    world.control_plane.kill()?;
    world.agent.start()?;
    let admin = of_agent(&world).await?;
    ready(admin, 503, "no identity yet").await?;
    lives(admin).await?;
    world.control_plane.restart().await?;
    ready(admin, 200, "ok").await?;

    world.control_plane.kill()?;
    ready(admin, 503, "not connected to the control plane").await?;
    lives(admin).await?;
    eventually("it has tried to come back", async || {
        let scrape = admin.scrape().await?;
        Ok(when(scrape.value("postrider_agent_stream_connects_total{result=\"failed\"}")? > 0.0))
    })
    .await?;
    world.control_plane.restart().await?;
    ready(admin, 200, "ok").await?;

    world.receiver.script("/slow", [Answer::Late(204, Duration::from_secs(3))]);
    world.subscribe("/slow").await?;
    world.api.emit(event("a.b", "{}")).await?;
    eventually("the attempt is under way", async || Ok(when(world.receiver.open("/slow") == 1))).await?;
    expect(&admin.scrape().await?, &[("postrider_agent_jobs_in_flight", 1.0)]);
    world.agent.signal(Signal::TERM)?;
    ready(admin, 503, "stopping").await?;
    lives(admin).await?;
    expect(&admin.scrape().await?, &[("postrider_agent_draining", 1.0)]);
    assert!(world.agent.exit(DRAINED_WITHIN).await?.success());
    Ok(())
}

#[tokio::test]
async fn a_control_plane_is_ready_until_it_is_told_to_stop() -> Result<()> {
    let mut world = world().await?;
    let admin = of_control_plane(&world)?;
    ready(admin, 200, "ok").await?;
    lives(admin).await?;
    let version = format!("{{\"program\":\"postrider-control-plane\",\"version\":\"{VERSION}\"}}\n");
    assert_eq!(admin.get("/version").await?, (200, version));
    world.receiver.script("/slow", [Answer::Late(204, Duration::from_secs(3))]);
    world.subscribe("/slow").await?;
    world.api.emit(event("a.b", "{}")).await?;
    eventually("the attempt is under way", async || Ok(when(world.receiver.open("/slow") == 1))).await?;
    expect(&admin.scrape().await?, &[("postrider_jobs_in_flight{pool=\"default\"}", 1.0)]);
    world.control_plane.signal(Signal::TERM)?;
    ready(admin, 503, "stopping").await?;
    lives(admin).await?;
    assert!(world.control_plane.exit(DRAINED_WITHIN).await?.success());
    Ok(())
}

#[tokio::test]
async fn what_is_logged_is_changed_while_programs_run() -> Result<()> {
    let world = world().await?;
    let admin = of_agent(&world).await?;
    world.subscribe("/a").await?;
    let deliver = async || {
        let (_, delivery) = world.api.emit_to_one(event("a.b", "{}")).await?;
        world.api.delivery_in(&delivery, DeliveryState::Delivered).await.map(drop)
    };
    deliver().await?;
    assert!(!world.agent.log().contains("attempt ended"), "{}", world.agent.log());
    assert_eq!(admin.get("/log").await?, (200, "info\n".to_owned()));
    let (status, now) = admin.ask("PUT", "/log", "info,postrider_agent=debug").await?;
    assert_eq!((status, now.trim()), (200, "postrider_agent=debug,info"));
    deliver().await?;
    within(DRAINED_WITHIN, "the agent has written a debug line", async || {
        Ok(when(world.agent.log().contains("attempt ended")))
    })
    .await?;
    let (status, why) = admin.ask("PUT", "/log", "loud=very").await?;
    assert!(status == 400 && why.contains("is not a log filter"), "{why}");

    let admin = of_control_plane(&world)?;
    assert_eq!(admin.ask("PUT", "/log", "info,postrider::attempt=off").await?.0, 200);
    let lines = |world: &World| world.control_plane.log().matches("\"message\":\"attempt\"").count();
    let before = lines(&world);
    deliver().await?;
    assert_eq!(lines(&world), before, "attempts are not logged any more");
    Ok(())
}
