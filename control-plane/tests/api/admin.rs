//! What the admin port says when the store cannot be written.

use std::sync::Arc;
use std::time::Duration;

use postrider_control_plane::admin::Admin;
use postrider_control_plane::clock::Clock;
use postrider_control_plane::metrics::Metrics;
use postrider_control_plane::metrics::levels::Sources;
use postrider_control_plane::tasks::{LIVENESS, SETTLER};
use postrider_telemetry::admin::Program as _;
use postrider_telemetry::tasks::Supervisor;

use tokio_util::sync::CancellationToken;

use crate::world::World;

#[tokio::test]
async fn a_store_that_cannot_be_written_is_not_ready_and_lives() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::start(folder.path()).await;
    let api = &world.api;
    let metrics = Arc::<Metrics>::default();
    let supervisor = Supervisor::new(CancellationToken::new(), metrics.task_failures());
    let admin = Admin::new(api.clock, metrics.clone(), supervisor.clone());
    assert!(admin.ready().await.unwrap_err()[0].starts_with("starting"));
    let sources = || Sources {
        lanes: api.lanes.clone(),
        agents: api.agents.clone(),
        pools: api.pools.clone(),
        registry: api.registry.clone(),
        clock: api.clock,
    };
    admin.serving(sources(), api.watched.clone());
    assert_eq!(admin.ready().await, Ok(()));
    world.store.fail(&["beat"]);
    let watch = tokio::spawn(admin.clone().watch(api.lanes.clone(), api.store.clone()));
    let refused = async {
        loop {
            match admin.ready().await {
                Ok(()) => tokio::task::yield_now().await,
                Err(why) => return why,
            }
        }
    };
    let why =
        tokio::time::timeout(Duration::from_secs(20), refused).await.expect("the write is tried at once");
    assert_eq!(why, ["nothing can be accepted: the store is not available: the test says so"]);
    assert_eq!(admin.alive().await, Ok(()), "a restart would not help");
    watch.abort();
    world.store.panic(&["beat"]);
    let mut running = supervisor.tasks();
    running.spawn(LIVENESS, admin.clone().watch(api.lanes.clone(), api.store.clone()));
    assert_eq!(supervisor.failed().await.task, LIVENESS);
    assert!(admin.alive().await.unwrap_err()[0].contains("the test has beat panic"), "a restart does help");
}

#[tokio::test]
async fn once_a_task_has_failed_it_is_neither_alive_nor_ready_and_names_the_task() {
    let metrics = Arc::<Metrics>::default();
    let supervisor = Supervisor::new(CancellationToken::new(), metrics.task_failures());
    let admin = Admin::new(Clock::start(), metrics, supervisor.clone());
    let mut tasks = supervisor.tasks();
    tasks.spawn(SETTLER, async { panic!("the test says so") });
    supervisor.failed().await;
    let why = admin.alive().await.unwrap_err();
    assert!(why[0].starts_with("the task settler panicked: the test says so"), "{why:?}");
    assert_eq!(admin.ready().await, Err(why.clone()));
    admin.stopping();
    assert_eq!(admin.alive().await, Err(why), "while it winds up too");
    let shown = admin.metrics().await;
    assert!(shown.contains("postrider_task_failures_total{task=\"settler\"} 1"), "{shown}");
}
