//! Endpoints that answer badly, late, endlessly, or not at all.

use std::time::Duration;

use anyhow::{Context as _, Result};
use postrider_proto::v1::{self, DeliveryState, OutcomeClass};
use postrider_tests::api::{duration, event, no_retries, retries};
use postrider_tests::clock::now;
use postrider_tests::receiver::Answer;
use postrider_tests::wait::{eventually, when};
use postrider_tests::world::World;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// What an attempt may take in these tests.
const TIMEOUT: Duration = Duration::from_secs(2);

fn wanted(retry_policy: Option<v1::RetryPolicy>) -> v1::Subscription {
    v1::Subscription { retry_policy, timeout: Some(duration(TIMEOUT)), ..v1::Subscription::default() }
}

#[tokio::test]
async fn redirects_are_not_followed() -> Result<()> {
    let world = World::start().await?;
    for (path, status) in [("/301", 301), ("/302", 302), ("/307", 307), ("/308", 308)] {
        let elsewhere = world.receiver.url("/elsewhere");
        world.receiver.script(path, [Answer::Header(status, "location", elsewhere)]);
        let once = v1::Subscription { event_types: vec![format!("to.{status}")], ..wanted(no_retries()) };
        world.subscribe_with(path, once).await?;
        let (_, delivery) = world.api.emit_to_one(event(&format!("to.{status}"), "{}")).await?;
        let (_, attempts) = world.api.delivery_in(&delivery, DeliveryState::Exhausted).await?;
        let [attempt] = attempts.as_slice() else { anyhow::bail!("{attempts:?}") };
        assert_eq!((attempt.outcome(), attempt.http_status), (OutcomeClass::HttpStatus, u32::from(status)));
        let location = attempt.response_headers.iter().find(|header| header.name == "location");
        assert!(location.is_some_and(|header| header.value.ends_with("/elsewhere")), "it is shown where to");
    }
    assert_eq!(world.receiver.posts_to("/elsewhere").len(), 0);
    assert_eq!(world.receiver.count(), 4);
    Ok(())
}

#[tokio::test]
async fn retry_after_is_honoured() -> Result<()> {
    let world = World::start().await?;
    for (path, status) in [("/429", 429), ("/503", 503)] {
        let asked = Answer::Header(status, "retry-after", "3".to_owned());
        world.receiver.script(path, [asked, Answer::Status(204)]);
        // Of itself, the schedule would come back after a second.
        world.subscribe_with(path, wanted(retries([Duration::from_secs(1); 5]))).await?;
    }
    let emitted = world.api.emit(event("a.b", "{}")).await?;
    assert_eq!(emitted.deliveries, 2);
    eventually("both have come back", async || Ok(when(world.receiver.count() == 4))).await?;
    for path in ["/429", "/503"] {
        let posts = world.receiver.posts_to(path);
        let waited = posts[1].at - posts[0].at;
        assert!(waited >= Duration::from_millis(2_990), "{path} was asked again after {waited:?}");
    }
    Ok(())
}

#[tokio::test]
async fn nonsense_in_retry_after_is_ignored() -> Result<()> {
    let world = World::start().await?;
    let nonsense = Answer::Header(503, "retry-after", "-5, soon".to_owned());
    world.receiver.script("/a", [nonsense, Answer::Status(204)]);
    world.subscribe_with("/a", wanted(retries([Duration::from_secs(1)]))).await?;
    let (_, delivery) = world.api.emit_to_one(event("a.b", "{}")).await?;
    world.api.delivery_in(&delivery, DeliveryState::Delivered).await?;
    let posts = world.receiver.posts();
    assert!(posts[1].at - posts[0].at >= Duration::from_millis(990));
    Ok(())
}

#[tokio::test]
async fn failed_attempts_are_repeated_by_the_schedule_with_the_same_id() -> Result<()> {
    let world = World::start().await?;
    let delays = [1, 2].map(Duration::from_secs);
    world.receiver.script("/a", [Answer::Reset, Answer::Status(500), Answer::Status(200)]);
    world.subscribe_with("/a", wanted(retries(delays))).await?;
    let (id, delivery) = world.api.emit_to_one(event("a.b", r#"{"n":1}"#)).await?;
    let (delivered, attempts) = world.api.delivery_in(&delivery, DeliveryState::Delivered).await?;
    assert_eq!(delivered.attempt_count, 3);
    let outcomes: Vec<_> = attempts.iter().map(v1::Attempt::outcome).collect();
    assert_eq!(outcomes, [OutcomeClass::Protocol, OutcomeClass::HttpStatus, OutcomeClass::Success]);
    // The endpoint had read all of it before it reset the connection: it must recognise the repeat.
    assert!(attempts[0].request_sent && attempts[0].http_status == 0);
    let posts = world.receiver.posts();
    assert!(posts.iter().all(|post| post.id == id && post.body == posts[0].body));
    for (number, delay) in delays.into_iter().enumerate() {
        let waited = posts[number + 1].at - posts[number].at;
        assert!(waited + Duration::from_millis(10) >= delay, "attempt {} after {waited:?}", number + 2);
    }
    Ok(())
}

#[tokio::test]
async fn bodies_without_end_cost_nothing_but_their_first_bytes() -> Result<()> {
    let world = World::start().await?;
    let answers = [
        ("/endless/200", Answer::EndlessBody(200), DeliveryState::Delivered),
        ("/endless/500", Answer::EndlessBody(500), DeliveryState::Exhausted),
        ("/drip/200", Answer::DrippingBody(200), DeliveryState::Delivered),
    ];
    for (number, (path, answer, state)) in answers.into_iter().enumerate() {
        world.receiver.script(path, [answer]);
        let event_type = format!("body.b{number}");
        let once = v1::Subscription { event_types: vec![event_type.clone()], ..wanted(no_retries()) };
        world.subscribe_with(path, once).await?;
        let begun = now();
        let (_, delivery) = world.api.emit_to_one(event(&event_type, "{}")).await?;
        let (_, attempts) = world.api.delivery_in(&delivery, state).await?;
        let kept = attempts[0].response_body.len();
        assert!((1..=4096).contains(&kept), "{path}: {kept} bytes of the body are kept");
        // Not the length of the body decides when the attempt ends, but the attempt's own deadline.
        assert!(begun.elapsed() < TIMEOUT + Duration::from_secs(8), "{path} took {:?}", begun.elapsed());
    }
    Ok(())
}

#[tokio::test]
async fn headers_that_drip_or_never_come_end_at_the_deadline() -> Result<()> {
    let world = World::start().await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    tokio::spawn(drip_headers(listener));
    let mut settings = world.agent.settings.clone();
    settings.id = "agent-2".into();
    settings.pool = "dripping".into();
    world.api.allow_pool("dripping").await?;
    settings.join = Some(world.api.join("dripping", 1).await?.expose_text().to_string());
    settings.ports = vec![port];
    let mut agent = postrider_tests::world::Agent::new(world.folder(), settings);
    agent.start()?;
    world.receiver.script("/hangs", [Answer::Hang]);
    let hangs = v1::Subscription { event_types: vec!["it.hangs".into()], ..wanted(no_retries()) };
    world.subscribe_with("/hangs", hangs).await?;
    let drips = v1::Subscription {
        url: format!("http://127.0.0.1:{port}/"),
        pool: "dripping".into(),
        event_types: vec!["it.drips".into()],
        ..wanted(no_retries())
    };
    world.api.subscribe(drips, "").await?;
    for event_type in ["it.hangs", "it.drips"] {
        let (_, delivery) = world.api.emit_to_one(event(event_type, "{}")).await?;
        let (_, attempts) = world.api.delivery_in(&delivery, DeliveryState::Exhausted).await?;
        assert_eq!(attempts[0].outcome(), OutcomeClass::Timeout, "{event_type}: {attempts:?}");
        let total = attempts[0].timings.as_ref().and_then(|timings| timings.total);
        let total = Duration::try_from(total.context("no total")?)?;
        assert!(total >= TIMEOUT && total < TIMEOUT + Duration::from_secs(1), "{event_type} took {total:?}");
    }
    Ok(())
}

/// Answers every connection with a header line that never ends.
async fn drip_headers(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let mut request = [0; 4096];
            let mut alive = stream.read(&mut request).await.is_ok()
                && stream.write_all(b"HTTP/1.1 200 OK\r\nx-drip: ").await.is_ok();
            while alive {
                tokio::time::sleep(Duration::from_millis(50)).await;
                alive = stream.write_all(b"x").await.is_ok();
            }
        });
    }
}

#[tokio::test]
async fn what_the_agent_may_not_reach_is_refused_and_says_so() -> Result<()> {
    let world = World::start().await?;
    // The agent's egress policy knows the receiver's port, and not this one.
    let elsewhere = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/", elsewhere.local_addr()?);
    let refused = v1::Subscription { url, ..wanted(no_retries()) };
    world.api.subscribe(refused, "").await?;
    let (_, delivery) = world.api.emit_to_one(event("a.b", "{}")).await?;
    let (_, attempts) = world.api.delivery_in(&delivery, DeliveryState::Exhausted).await?;
    assert_eq!(attempts[0].outcome(), OutcomeClass::RefusedByPolicy);
    assert!(!attempts[0].request_sent && !attempts[0].detail.is_empty());
    let dialled = tokio::time::timeout(Duration::from_millis(1), elsewhere.accept()).await;
    assert!(dialled.is_err(), "the address was dialled");
    Ok(())
}
