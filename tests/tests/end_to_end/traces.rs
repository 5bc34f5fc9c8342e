//! Traces: one from emit to settle, with the agent's POST in it, at a collector that keeps what it is sent.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use postrider_proto::v1;
use postrider_tests::api::{event, retries};
use postrider_tests::collector::{Collector, Span};
use postrider_tests::receiver::Answer;
use postrider_tests::wait::eventually;
use postrider_tests::world::{AgentSettings, TENANT, World};

const CLIENTS: &str = "00f067aa0ba902b7";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PATIENCE: Duration = Duration::from_secs(20);

fn parent(flags: &str) -> String {
    format!("00-{TRACE}-{CLIENTS}-{flags}")
}

async fn world_with(collector: &Collector) -> Result<World> {
    let url = collector.url();
    let egress = format!("[traces]\nendpoint = \"{url}\"\n");
    World::with(
        AgentSettings { egress, ..AgentSettings::default() },
        &[&format!("traces_endpoint = '{url}'")],
    )
    .await
}

/// The spans of a trace, once there are as many of that name.
async fn spans(collector: &Collector, trace: &str, name: &str, count: usize) -> Result<Vec<Span>> {
    eventually(&format!("{count} spans {name} of {trace}"), async || {
        let spans = collector.trace(trace);
        let found = spans.iter().filter(|span| span.name == name).count();
        Ok((found >= count).then_some(spans))
    })
    .await
}

fn named<'a>(spans: &'a [Span], name: &str) -> Vec<&'a Span> {
    spans.iter().filter(|span| span.name == name).collect()
}

fn told(world: &World, path: &str) -> Vec<String> {
    let header = |post: postrider_tests::receiver::Post| {
        post.headers.get("traceparent").and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
    };
    world.receiver.posts_to(path).into_iter().map(header).collect()
}

#[tokio::test]
async fn one_trace_leads_from_the_emitter_to_the_receiver_and_back() -> Result<()> {
    let collector = Collector::start().await?;
    let world = world_with(&collector).await?;
    let wanted = v1::Subscription { retry_policy: retries([Duration::from_secs(1)]), ..Default::default() };
    world.subscribe_with("/a", wanted).await?;
    world.receiver.script("/a", [Answer::Status(500), Answer::Status(204)]);
    let emitted =
        v1::NewEvent { trace_parent: parent("01"), trace_state: "a=1".into(), ..event("a.b", "{}") };
    let emitted = world.api.emit(emitted).await?;
    world.api.all_ended(PATIENCE).await?;
    let spans = spans(&collector, TRACE, "settle", 2).await?;
    let spans = if named(&spans, "POST").len() < 2 {
        self::spans(&collector, TRACE, "POST", 2).await?
    } else {
        spans
    };

    let [emit] = named(&spans, "emit")[..] else { anyhow::bail!("{spans:#?}") };
    assert_eq!((emit.parent.as_str(), emit.service.as_str()), (CLIENTS, "postrider-control-plane"));
    assert_eq!(emit.said("postrider.event.id"), emitted.event_id);
    assert_eq!((emit.said("postrider.tenant"), emit.said("postrider.event.deliveries")), (TENANT, "1"));
    assert_eq!(named(&spans, "store")[0].parent, emit.id);
    assert!(named(&spans, "lane").iter().all(|span| span.parent == emit.id));
    let attempts = named(&spans, "attempt");
    let about = |span: &&Span| (span.said("postrider.attempt").to_owned(), span.failure.clone());
    assert_eq!(
        attempts.iter().map(about).collect::<Vec<_>>(),
        [("1".into(), "http_status".into()), ("2".into(), String::new())]
    );
    for (number, attempt) in attempts.iter().enumerate() {
        assert_eq!(attempt.parent, emit.id);
        for name in ["dispatch", "settle", "POST"] {
            assert_eq!(named(&spans, name)[number].parent, attempt.id, "{name} {number}");
        }
    }
    let posts = named(&spans, "POST");
    assert_eq!(posts[0].service, "postrider-agent");
    assert_eq!(posts[0].said("http.response.status_code"), "500");
    assert_eq!((posts[1].said("server.address"), posts[1].failure.as_str()), ("127.0.0.1", ""));
    assert_eq!(told(&world, "/a"), [posts[0].traceparent(), posts[1].traceparent()]);
    let state = world.receiver.posts_to("/a").remove(0).headers.remove("tracestate");
    assert_eq!(state.context("no state")?, "a=1");
    ensure!(spans.iter().all(|span| span.time.0 <= span.time.1 && span.trace == TRACE));
    let secrets = format!("{spans:?}");
    ensure!(!secrets.contains("/a\""), "a span holds the path of a subscription: {secrets}");
    Ok(())
}

#[tokio::test]
async fn whoever_began_a_trace_decides_whether_it_is_told() -> Result<()> {
    let collector = Collector::start().await?;
    let world = world_with(&collector).await?;
    world.subscribe("/a").await?;
    let not_sampled = v1::NewEvent { trace_parent: parent("00"), ..event("a.b", "{}") };
    world.api.emit(not_sampled).await?;
    world.api.all_ended(PATIENCE).await?;
    assert_eq!(told(&world, "/a"), [parent("00")]);

    // An instrumented client says it in the call's metadata.
    let request = v1::EmitRequest { tenant: TENANT.to_owned(), event: Some(event("a.b", "{}")) };
    let mut request = tonic::Request::new(request);
    request.metadata_mut().insert("traceparent", parent("01").parse()?);
    world.api.events().emit(request).await?;
    let found = spans(&collector, TRACE, "settle", 1).await?;
    assert_eq!(named(&found, "emit")[0].parent, CLIENTS);
    assert_eq!(named(&found, "emit").len(), 1, "the first one was not sampled");

    // Without any trace one begins here.
    world.api.emit(event("a.b", "{}")).await?;
    let root = eventually("a trace of its own", async || {
        Ok(collector.all().into_iter().find(|span| span.name == "emit" && span.parent.is_empty()))
    });
    let root = root.await?;
    spans(&collector, &root.trace, "POST", 1).await?;
    Ok(())
}

#[tokio::test]
async fn a_collector_that_is_away_holds_nothing_up() -> Result<()> {
    let collector = Collector::start().await?;
    let (address, world) = (collector.address(), world_with(&collector).await?);
    world.subscribe("/a").await?;
    drop(collector);
    for _ in 0..200 {
        world.api.emit(event("a.b", "{}")).await?;
    }
    world.api.all_ended(PATIENCE).await?;
    assert_eq!(world.receiver.count(), 200);
    let back = Collector::at(address).await?;
    eventually("spans at the collector that is back", async || {
        world.api.emit(event("a.b", "{}")).await?;
        Ok((!back.all().is_empty()).then_some(()))
    })
    .await
}
