//! One tenant's flood is the flood's own trouble.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use postrider_proto::v1::{self, emit_result};
use postrider_tests::api::{Api, event};
use postrider_tests::clock::now;
use postrider_tests::turn;
use postrider_tests::wait::{eventually, when};
use postrider_tests::world::{AgentSettings, TENANT, World};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic_types::StatusExt as _;

/// Streams of the flood, and calls beside them.
const STREAMS: usize = 12;
const CALLS: usize = 12;
/// The largest event there is.
const LARGE: usize = 250 * 1024;
/// Emits of the quiet tenant in each measurement, and the time between two.
const SAMPLES: usize = 300;
const EVERY: Duration = Duration::from_millis(10);

/// A tenant that emits as much as it can.
struct Flood {
    over: Arc<AtomicBool>,
    accepted: Arc<AtomicUsize>,
    refused: Arc<AtomicUsize>,
    tasks: JoinSet<Result<()>>,
}

impl Flood {
    fn start(world: &World, tenant: &str) -> Result<Self> {
        let mut flood = Self {
            over: Arc::default(),
            accepted: Arc::default(),
            refused: Arc::default(),
            tasks: JoinSet::new(),
        };
        let large =
            v1::NewEvent { data: format!("\"{}\"", "x".repeat(LARGE)).into(), ..event("flood.made", "") };
        for _ in 0..STREAMS {
            let api = world.control_plane.api(tenant)?;
            let (over, accepted) = (flood.over.clone(), flood.accepted.clone());
            flood.tasks.spawn(stream(api, large.clone(), over, accepted));
        }
        for _ in 0..CALLS {
            let api = world.control_plane.api(tenant)?;
            let (over, large, refused) = (flood.over.clone(), large.clone(), flood.refused.clone());
            flood.tasks.spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    match api.emit(large.clone()).await {
                        Err(status) if status.code() == Code::ResourceExhausted => {
                            refused.fetch_add(1, Ordering::Relaxed);
                            let details = status.get_error_details();
                            let wait = details.retry_info().and_then(|retry| retry.retry_delay);
                            tokio::time::sleep(wait.context("no retry delay")?).await;
                        }
                        answer => drop(answer?),
                    }
                }
                Ok(())
            });
        }
        Ok(flood)
    }

    async fn end(mut self) -> Result<(usize, usize)> {
        self.over.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended??;
        }
        Ok((self.accepted.load(Ordering::Relaxed), self.refused.load(Ordering::Relaxed)))
    }
}

/// Sends without waiting for answers, as far as the server reads.
async fn stream(
    api: Api,
    large: v1::NewEvent,
    over: Arc<AtomicBool>,
    accepted: Arc<AtomicUsize>,
) -> Result<()> {
    let (requests, queue) = mpsc::channel(16);
    let mut answers = api.events().emit_stream(ReceiverStream::new(queue)).await?.into_inner();
    let tenant = api.tenant();
    let send = async move {
        while !over.load(Ordering::Relaxed) {
            let request =
                v1::EmitStreamRequest { reference: 1, tenant: tenant.clone(), event: Some(large.clone()) };
            requests.send(request).await.context("the stream is broken")?;
        }
        Ok::<_, anyhow::Error>(())
    };
    let hear = async {
        while let Some(answer) = answers.message().await? {
            let result = answer.result.and_then(|result| result.result);
            // A stream of one tenant waits; it is not refused.
            anyhow::ensure!(matches!(result, Some(emit_result::Result::Accepted(_))), "{result:?}");
            accepted.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    };
    tokio::try_join!(send, hear).map(drop)
}

/// How long a steady emitter's calls took: p50 and p99. None may be refused. It has a thread of its own, so that it does
/// not wait for the flood's own work in this process.
async fn steady(world: &World) -> Result<(Duration, Duration)> {
    let endpoint = world.control_plane.endpoint(None)?.tcp_nodelay(true);
    let token = std::fs::read_to_string(world.control_plane.token_file())?;
    let measure = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async { emit_steadily(&Api::new(endpoint.connect_lazy(), TENANT, &token)?).await })
    };
    tokio::task::spawn_blocking(measure).await?
}

async fn emit_steadily(api: &Api) -> Result<(Duration, Duration)> {
    let mut took = Vec::with_capacity(SAMPLES);
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for _ in 0..SAMPLES {
        tick.tick().await;
        let begun = now();
        api.emit(event("quiet.made", "{}")).await.context("a quiet tenant's emit was refused")?;
        took.push(begun.elapsed());
    }
    took.sort_unstable();
    Ok((took[SAMPLES / 2], took[SAMPLES * 99 / 100]))
}

/// A flood that has begun to be told to wait.
async fn flood(world: &World) -> Result<Flood> {
    world.control_plane.api("flood")?.create_tenant().await?;
    let flood = Flood::start(world, "flood")?;
    eventually("the flood has filled its share", async || {
        let (refused, accepted) = (&flood.refused, &flood.accepted);
        Ok(when(refused.load(Ordering::Relaxed) > 0 && accepted.load(Ordering::Relaxed) > 200))
    })
    .await?;
    Ok(flood)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_one_tenant_hardly_slows_another_down() -> Result<()> {
    let _turn = turn::take().await;
    let world = World::without_agent(AgentSettings::default(), &[]).await?;
    let idle = steady(&world).await?;
    // The same flood, on another control plane: it takes the same of the machine, and nothing of the queue.
    let elsewhere = World::without_agent(AgentSettings::default(), &[]).await?;
    let flooding = flood(&elsewhere).await?;
    let apart = steady(&world).await?;
    flooding.end().await?;
    drop(elsewhere);
    let flooding = flood(&world).await?;
    let beside = steady(&world).await?;
    let (accepted, refused) = flooding.end().await?;
    println!("p50 and p99 idle {idle:?}, flood elsewhere {apart:?}, beside it {beside:?}");
    println!("the flood: {accepted} accepted in streams, {refused} calls refused");
    assert!(beside.1 < apart.1 * 4 + Duration::from_millis(100), "{beside:?} beside it, {apart:?} apart");
    Ok(())
}

/// A control plane whose tenants may emit 20 events at once, and 40 a second.
async fn paced() -> Result<(World, Api)> {
    let lines = ["tenant_emit_rate = 40", "tenant_emit_burst = 20"];
    let world = World::without_agent(AgentSettings::default(), &lines).await?;
    let other = world.control_plane.api("other")?;
    other.create_tenant().await?;
    Ok((world, other))
}

#[tokio::test]
async fn a_tenant_that_is_too_fast_is_told_how_long_to_wait_and_others_are_not() -> Result<()> {
    let (world, other) = paced().await?;
    let emit = async |api: &Api| api.emit(event("a.b", "{}")).await;
    let refused = loop {
        if let Err(status) = emit(&world.api).await {
            break status;
        }
    };
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    let details = refused.get_error_details();
    let reason = details.error_info().map(|info| info.reason.as_str());
    assert_eq!(reason, Some("TENANT_RATE_EXCEEDED"));
    let wait = details.retry_info().and_then(|retry| retry.retry_delay).context("no delay")?;
    assert!(wait > Duration::ZERO && wait <= Duration::from_millis(26), "{wait:?}");
    emit(&other).await.context("another tenant pays for it")?;
    tokio::time::sleep(wait).await;
    emit(&world.api).await.context("the delay was too short")?;

    let request = v1::EmitBatchRequest { tenant: other.tenant(), events: vec![event("a.b", "{}"); 60] };
    let results = other.events().emit_batch(request).await?.into_inner().results;
    let accepted =
        results.iter().filter(|result| matches!(result.result, Some(emit_result::Result::Accepted(_))));
    let accepted = accepted.count();
    assert!((15..40).contains(&accepted), "{accepted} of a batch of 60, after one call");
    Ok(())
}

#[tokio::test]
async fn a_stream_of_one_tenant_is_slowed_down_and_one_of_several_is_not() -> Result<()> {
    let (world, other) = paced().await?;
    let results = async |tenants: &[String]| -> Result<Vec<(String, Option<emit_result::Result>)>> {
        let request = |tenant: &String| v1::EmitStreamRequest {
            reference: 1,
            tenant: tenant.clone(),
            event: Some(event("a.b", "{}")),
        };
        let requests: Vec<_> = tenants.iter().map(request).collect();
        let answers = world.api.events().emit_stream(tokio_stream::iter(requests)).await?.into_inner();
        let answers: Vec<_> = answers.collect::<Result<_, _>>().await?;
        let results = answers.into_iter().map(|answer| answer.result.and_then(|result| result.result));
        Ok(tenants.iter().cloned().zip(results).collect())
    };
    let begun = now();
    let slowed = results(&vec![world.api.tenant(); 60]).await?;
    let all = slowed.iter().all(|(_, result)| matches!(result, Some(emit_result::Result::Accepted(_))));
    assert!(all && slowed.len() == 60, "{slowed:?}");
    assert!(begun.elapsed() > Duration::from_millis(950), "60 events within {:?}", begun.elapsed());

    // The first tenant has nothing left; the second is not held up by that.
    let mut mixed = vec![other.tenant()];
    mixed.extend((0..60).map(|_| world.api.tenant()));
    mixed.extend((0..5).map(|_| other.tenant()));
    let answers = results(&mixed).await?;
    let mut refused = 0;
    for (tenant, result) in answers {
        match result.context("no result")? {
            emit_result::Result::Accepted(_) => {}
            emit_result::Result::Error(error) => {
                assert_eq!((error.reason.as_str(), &tenant), ("TENANT_RATE_EXCEEDED", &world.api.tenant()));
                assert!(error.retry_delay.is_some());
                refused += 1;
            }
        }
    }
    assert!(refused >= 30, "{refused} of 60 were refused");
    Ok(())
}
