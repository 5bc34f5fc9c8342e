//! Operations: how fast a tenant starts them, how many are kept, and who sees those of a tenant
//! that was there before.

use std::time::Duration;

use postrider_control_plane::store::OperationRow;
use postrider_domain::id::OperationId;
use postrider_proto::v1::operation_service_server::OperationService as _;
use postrider_proto::v1::tenant_service_server::TenantService as _;
use postrider_proto::v1::{self, OperationState, Replay};
use tokio::task::JoinHandle;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::world::{World, admin, confined};

/// Lets operations do their work.
fn work(world: &World) -> JoinHandle<()> {
    tokio::spawn(world.api.operations.clone().run(world.api.by_itself()))
}

async fn dry_run(world: &World, tenant: &str) -> Result<String, Status> {
    let replay = Some(Replay { dry_run: true, ..Default::default() });
    let request = v1::ReplayDeliveriesRequest { tenant: tenant.into(), replay, ..Default::default() };
    let begun = world.api.replay_deliveries(confined(tenant, request)).await?;
    Ok(begun.into_inner().operation.unwrap().id)
}

async fn list(world: &World, tenant: &str, size: i32) -> (Vec<v1::Operation>, String) {
    let request = v1::ListOperationsRequest { tenant: tenant.into(), page_size: size, ..Default::default() };
    let found = world.api.list_operations(admin(request)).await.unwrap().into_inner();
    (found.operations, found.next_page_token)
}

async fn until<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    for _ in 0..600 {
        if is_so().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{what}");
}

#[tokio::test]
async fn dry_runs_are_started_only_so_fast_and_other_tenants_start_theirs() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::start(folder.path()).await;
    for tenant in ["acme", "other"] {
        world.tenant(tenant).await;
    }
    let working = work(&world);
    let (mut started, mut refused) = (0, None);
    while refused.is_none() {
        match dry_run(&world, "acme").await {
            Ok(_) => started += 1,
            // That many have not ended.
            Err(status) if status.code() == Code::FailedPrecondition => tokio::task::yield_now().await,
            Err(status) => refused = Some(status),
        }
        assert!(started < 1000, "nothing stops it");
    }
    let (refused, details) = refused.map(|refused| (refused.code(), refused.get_error_details())).unwrap();
    assert_eq!(refused, Code::ResourceExhausted);
    assert_eq!(details.error_info().unwrap().reason, "TENANT_OPERATIONS_RATE_EXCEEDED");
    assert!(details.retry_info().unwrap().retry_delay.is_some());
    assert!(started >= 50, "{started}");
    dry_run(&world, "other").await.unwrap();
    // Those that have ended are found all the same, a page at a time.
    until("all are done", || async {
        list(&world, "acme", 1000).await.0.iter().all(|operation| operation.state() == OperationState::Done)
    })
    .await;
    let (page, next) = list(&world, "acme", 3).await;
    assert!(page.len() == 3 && !next.is_empty());
    let get = v1::GetOperationRequest { tenant: "acme".into(), operation: page[0].id.clone() };
    let found = world.api.get_operation(admin(get)).await.unwrap().into_inner().operation.unwrap();
    assert_eq!(found, page[0]);
    working.abort();
    world.end().await;
}

#[tokio::test]
async fn the_newest_thousand_of_a_tenant_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::start(folder.path()).await;
    world.tenant("acme").await;
    let former = (0..1200_u128).map(|number| {
        let id = OperationId::new(postrider_domain::time::Timestamp::from_millis(1_000), number);
        let operation = v1::Operation {
            id: id.to_string(),
            tenant: "acme".into(),
            state: OperationState::Done.into(),
            ..Default::default()
        };
        OperationRow { id, operation, cursor: String::new() }
    });
    let former: Vec<_> = former.collect();
    let writes = former.iter().map(|row| world.api.store.put_operation(row, None));
    futures::future::join_all(writes).await.into_iter().for_each(Result::unwrap);
    dry_run(&world, "acme").await.unwrap();
    let (mut found, mut token) = (0, String::new());
    loop {
        let request = v1::ListOperationsRequest { tenant: "acme".into(), page_size: 300, page_token: token };
        let page = world.api.list_operations(confined("acme", request)).await.unwrap().into_inner();
        found += page.operations.len();
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(found, 1000);
    world.end().await;
}

#[tokio::test]
async fn a_tenant_made_anew_under_an_old_name_sees_nothing_of_the_former_ones_operations() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::start(folder.path()).await;
    let things = world.tenant("acme").await;
    let working = work(&world);
    let former = dry_run(&world, "acme").await.unwrap();
    let delete =
        v1::DeleteTenantRequest { tenant: "acme".into(), with_subscriptions: true, ..Default::default() };
    let begun = world.api.delete_tenant(admin(delete)).await.unwrap().into_inner().operation.unwrap();
    until("the tenant is gone", || async {
        let get = v1::GetTenantRequest { tenant: "acme".into() };
        world.api.get_tenant(admin(get)).await.is_err()
    })
    .await;
    // The deletion is what is left, for those who see all.
    let (left, _) = list(&world, "acme", 9).await;
    assert_eq!(left.iter().map(|one| one.id.as_str()).collect::<Vec<_>>(), [begun.id.as_str()]);
    let again = v1::Tenant { id: things.tenant.clone(), ..Default::default() };
    world.api.create_tenant(admin(v1::CreateTenantRequest { tenant: Some(again) })).await.unwrap();
    let request = v1::ListOperationsRequest { tenant: "acme".into(), ..Default::default() };
    let seen = world.api.list_operations(confined("acme", request)).await.unwrap().into_inner();
    assert_eq!(seen.operations, []);
    for id in [&former, &begun.id] {
        let get = v1::GetOperationRequest { tenant: "acme".into(), operation: id.clone() };
        let refused = world.api.get_operation(confined("acme", get)).await.unwrap_err();
        assert_eq!(refused.code(), Code::NotFound);
        let cancel = v1::CancelOperationRequest { tenant: "acme".into(), operation: id.clone() };
        let refused = world.api.cancel_operation(confined("acme", cancel)).await.unwrap_err();
        assert_eq!(refused.code(), Code::NotFound);
    }
    assert_eq!(list(&world, "acme", 9).await.0.len(), 1, "the operator sees it");
    working.abort();
    world.end().await;
}
