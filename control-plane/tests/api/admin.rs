//! What the admin port says when the store cannot be written.

use std::sync::Arc;
use std::time::Duration;

use postrider_control_plane::admin::Admin;
use postrider_control_plane::metrics::Metrics;
use postrider_control_plane::metrics::levels::Sources;
use postrider_telemetry::admin::Program as _;

use crate::world::World;

#[tokio::test]
async fn a_store_that_cannot_be_written_is_not_ready_and_lives() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::start(folder.path()).await;
    let api = &world.api;
    let admin = Admin::new(api.clock, Arc::<Metrics>::default());
    assert!(admin.ready().await.unwrap_err()[0].starts_with("starting"));
    let sources = || Sources {
        lanes: api.lanes.clone(),
        agents: api.agents.clone(),
        pools: api.pools.clone(),
        registry: api.registry.clone(),
        clock: api.clock,
    };
    admin.serving(sources());
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
}
