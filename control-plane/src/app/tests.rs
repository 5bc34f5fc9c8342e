//! The control plane in this process, whose tasks are killed one after the other, or whose store panics or hangs.

use std::future::{pending, ready};
use std::path::Path;
use std::time::Duration;

use postrider_domain::id::SubscriptionId;
use postrider_proto::v1::delivery_service_server::DeliveryService as _;
use postrider_proto::v1::event_service_server::EventService as _;
use postrider_proto::v1::subscription_service_server::SubscriptionService as _;
use postrider_proto::v1::tenant_service_server::TenantService as _;
use postrider_telemetry::admin::Program as _;
use postrider_telemetry::tasks::{Cause, TaskFailed};
use tonic::{Code, Request};

use super::*;
use crate::config::{Settings, load};
use crate::disabler::Change;

#[path = "../../tests/api/watched.rs"]
#[expect(dead_code, reason = "the tests of the API use the rest")]
mod watched;

const PATIENCE: Duration = Duration::from_secs(60);

fn write(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// With everything that has a task of its own.
fn config(folder: &Path) -> Config {
    std::fs::create_dir_all(folder).unwrap();
    let [kek, cert, key] = ["kek", "cert", "key"].map(|name| folder.join(name));
    write(&kek, &"5a".repeat(32));
    let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    write(&cert, &pair.cert.pem());
    write(&key, &pair.signing_key.serialize_pem());
    let any = || Some("127.0.0.1:0".to_owned());
    let settings = Settings {
        kek: Some(vec![format!("file:{}", kek.display())]),
        data_dir: Some(folder.to_owned()),
        api_listen: any(),
        agent_listen: any(),
        admin_listen: any(),
        tls_cert: Some(cert),
        tls_key: Some(key),
        audit_stream: Some(format!("file:{}", folder.join("audit.jsonl").display())),
        ..Settings::default()
    };
    load(None, settings, std::iter::empty()).unwrap()
}

/// One whose store is watched.
async fn started(folder: &Path, prepare: fn(&watched::Watched)) -> (Parts, Arc<watched::Watched>) {
    let (send, store) = std::sync::mpsc::channel();
    let open: Open = Box::new(move |options, writes, reserve| {
        let store = watched::Watched::new(Arc::new(SledStore::open_measured(options, writes, reserve)?));
        prepare(&store);
        send.send(store.clone()).unwrap();
        Ok(store)
    });
    let parts = start(config(folder), Process { open, ..Process::default() }).await.unwrap();
    (parts, store.recv().unwrap())
}

/// How it ends by itself.
async fn failure(parts: Parts) -> TaskFailed {
    let ended = parts.until(pending(), Watchdog::default(), PATIENCE);
    let error = tokio::time::timeout(PATIENCE, ended).await.expect("it ends soon").unwrap_err();
    error.downcast().expect("it is a task's failure")
}

fn by_admin<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.extensions_mut().insert(Caller::postrider());
    request
}

async fn emit(api: &Api) -> Result<String, Code> {
    let event = v1::NewEvent { r#type: "a.b".into(), data: "{}".into(), ..Default::default() };
    let request = v1::EmitRequest { tenant: "acme".into(), event: Some(event) };
    let emitted = api.emit(by_admin(request)).await.map_err(|status| status.code())?;
    Ok(emitted.into_inner().event_id)
}

/// A tenant with a subscription, and an event that waits for it.
async fn prepare(api: &Api) -> (SubscriptionId, String) {
    let tenant = v1::Tenant { id: "acme".into(), ..Default::default() };
    api.create_tenant(by_admin(v1::CreateTenantRequest { tenant: Some(tenant) })).await.unwrap();
    let wanted = v1::Subscription {
        tenant: "acme".into(),
        url: "https://hooks.example.com/".into(),
        event_types: vec!["*".into()],
        ..Default::default()
    };
    let request = v1::CreateSubscriptionRequest { subscription: Some(wanted), ..Default::default() };
    let made = api.create_subscription(by_admin(request)).await.unwrap().into_inner();
    let event = emit(api).await.unwrap();
    let request = v1::ListDeliveriesRequest { tenant: "acme".into(), event, ..Default::default() };
    let found = api.list_deliveries(by_admin(request)).await.unwrap().into_inner().deliveries;
    (made.subscription.unwrap().id.parse().unwrap(), found[0].id.clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whichever_task_dies_the_program_ends_and_names_it() {
    let folder = tempfile::tempdir().unwrap();
    for task in tasks::ALL {
        let (parts, _) = started(folder.path(), |_| {}).await;
        let (supervisor, api, admin) =
            (parts.shown.supervisor().clone(), parts.api.clone(), parts.shown.admin());
        let mut names = supervisor.names();
        names.sort_unstable();
        assert_eq!(names, tasks::ALL, "the names of the metric's label");
        assert!(supervisor.abort(task));
        supervisor.failed().await;
        assert_eq!(emit(&api).await, Err(Code::Unavailable), "after the death of {task}");
        let dead = admin.alive().await.unwrap_err();
        assert!(dead[0].starts_with(&format!("the task {task} was aborted")), "{dead:?}");
        drop((api, admin));
        assert_eq!(failure(parts).await, TaskFailed { task, cause: Cause::Aborted });
    }
}

#[tokio::test]
async fn whichever_verb_of_the_store_panics_the_program_ends_and_names_the_task() {
    type Provoke = for<'a> fn(&'a Api, SubscriptionId, String) -> futures::future::BoxFuture<'a, ()>;
    let table: [(&'static str, &'static str, Provoke); 7] = [
        ("beat", tasks::LIVENESS, |_, _, _| Box::pin(pass())),
        ("size", tasks::UPKEEP, |_, _, _| Box::pin(pass())),
        ("age_out", tasks::RETENTION, |_, _, _| Box::pin(pass())),
        ("accept", tasks::COMMITTER, |api, _, _| {
            Box::pin(async move { assert_eq!(emit(api).await, Err(Code::Unavailable)) })
        }),
        ("settle", tasks::SETTLER, |api, _, delivery| {
            Box::pin(async move {
                let request = v1::CancelDeliveryRequest { tenant: "acme".into(), delivery };
                let cancel = api.cancel_delivery(by_admin(request));
                // Nobody answers any more.
                let _late = tokio::time::timeout(Duration::from_millis(50), cancel).await;
            })
        }),
        ("put_subscription", tasks::DISABLER, |api, subscription, _| {
            Box::pin(async move { api.changes.want(Change::Gone(subscription)) })
        }),
        ("put_key_uses", tasks::KEY_USES, |api, subscription, _| {
            Box::pin(async move {
                api.uses.moved(subscription, api.clock.wall());
                pass().await;
            })
        }),
    ];
    for (method, task, provoke) in table {
        let folder = tempfile::tempdir().unwrap();
        let (parts, store) = started(folder.path(), |_| {}).await;
        let api = parts.api.clone();
        let (subscription, delivery) = prepare(&api).await;
        store.panic(&[method]);
        provoke(&api, subscription, delivery).await;
        let cause = Cause::Panicked(format!("the test has {method} panic"));
        let failed = failure(parts).await;
        assert_eq!(failed, TaskFailed { task, cause }, "{method}");
    }
}

/// A minute goes by.
async fn pass() {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(61)).await;
    tokio::time::resume();
}

#[tokio::test]
async fn reads_of_a_lane_that_panic_are_asked_again() {
    const READS: [&str; 4] = ["fresh", "open", "due", "delivery"];
    let folder = tempfile::tempdir().unwrap();
    let (parts, _) = started(folder.path(), |_| {}).await;
    prepare(&parts.api).await;
    parts.until(ready(()), Watchdog::default(), PATIENCE).await.unwrap();

    let (parts, store) = started(folder.path(), |store| store.panic(&READS)).await;
    let asked = async || loop {
        let seen = store.seen();
        if let Some(method) = READS.iter().find(|method| seen.contains(method)) {
            return *method;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let panicked = asked().await;
    assert_eq!(asked().await, panicked, "it is asked again while it panics");
    store.panic(&[]);
    let backlog =
        async || parts.api.lanes.survey().await.lanes.iter().map(|(_, lane)| lane.count).sum::<u64>();
    assert_eq!(asked().await, panicked, "and once it can be read");
    assert_eq!(backlog().await, 1);
    assert_eq!(parts.shown.supervisor().failure(), None);
    parts.until(ready(()), Watchdog::default(), PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_store_that_never_answers_does_not_hold_up_the_stop() {
    let folder = tempfile::tempdir().unwrap();
    for method in ["close", "put_key_uses"] {
        let (parts, store) = started(&folder.path().join(method), |_| {}).await;
        let (subscription, _) = prepare(&parts.api).await;
        parts.api.uses.moved(subscription, parts.api.clock.wall());
        store.hold(method);
        let stopped = parts.until(ready(()), Watchdog::default(), Duration::from_secs(1));
        let stopped = tokio::time::timeout(Duration::from_secs(1) + AFTER_GRACE, stopped).await;
        let stopped = stopped.expect("it ends within the grace and some seconds");
        match method {
            "close" => {
                let error = stopped.unwrap_err().to_string();
                assert!(error.starts_with("the store did not close within 3 s"), "{error}");
            }
            _ => stopped.unwrap(),
        }
    }
}
