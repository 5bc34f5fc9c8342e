use std::future::{pending, ready};

use super::*;
use crate::metrics::{Catalogue, Label};

const TASK: [Label; 1] = [Label { name: "task", values: &["vital", "other"] }];

fn supervisor() -> (Supervisor, Catalogue, CancellationToken) {
    let (mut catalogue, stop) = (Catalogue::new(), CancellationToken::new());
    let failures = catalogue.counters("failures_total", "Failures.", &TASK);
    (Supervisor::new(stop.clone(), failures), catalogue, stop)
}

fn counted(catalogue: &Catalogue, task: &str) -> bool {
    catalogue.encode().contains(&format!("failures_total{{task=\"{task}\"}} 1\n"))
}

type Work = std::pin::Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

#[tokio::test]
async fn every_way_in_which_a_task_ends_too_early_is_a_failure_that_names_it() {
    let table: [(Work, Cause); 4] = [
        (Box::pin(ready(Ok(()))), Cause::Ended),
        (Box::pin(ready(Err("no port".to_owned()))), Cause::Failed("no port".to_owned())),
        (Box::pin(async { panic!("index {}", 7) }), Cause::Panicked("index 7".to_owned())),
        (Box::pin(async { panic!("plain") }), Cause::Panicked("plain".to_owned())),
    ];
    for (work, cause) in table {
        let (supervisor, catalogue, stop) = supervisor();
        let mut tasks = supervisor.tasks();
        tasks.spawn("other", pending());
        tasks.spawn_fallible("vital", work);
        assert_eq!(supervisor.failed().await, TaskFailed { task: "vital", cause });
        assert!(stop.is_cancelled(), "nothing new may be accepted");
        assert!(counted(&catalogue, "vital") && !counted(&catalogue, "other"));
        assert_eq!(tasks.shutdown(Duration::from_secs(60)).await, [""; 0]);
        assert_eq!(supervisor.failure().map(|failed| failed.task), Some("vital"), "the first one stays");
    }
}

#[tokio::test]
async fn an_aborted_task_is_a_failure_unless_its_owner_ends_it() {
    let (supervisor, catalogue, _) = supervisor();
    let mut tasks = supervisor.tasks();
    tasks.spawn("vital", pending());
    assert_eq!(supervisor.names(), ["vital"]);
    tasks.shutdown(Duration::from_secs(60)).await;
    let mut tasks = supervisor.tasks();
    tasks.spawn("vital", pending());
    drop(tasks);
    tokio::task::yield_now().await;
    assert_eq!(supervisor.failure(), None);

    let mut tasks = supervisor.tasks();
    tasks.spawn("vital", pending());
    assert!(!supervisor.abort("nothing"));
    assert!(supervisor.abort("vital"));
    let failed = supervisor.failed().await;
    assert_eq!(failed, TaskFailed { task: "vital", cause: Cause::Aborted });
    assert!(failed.to_string().starts_with("the task vital was aborted; "), "{failed}");
    assert!(counted(&catalogue, "vital"));
}

#[tokio::test]
async fn once_the_stop_has_begun_tasks_may_end() {
    let (supervisor, catalogue, stop) = supervisor();
    let mut tasks = supervisor.tasks();
    let until = stop.clone();
    tasks.spawn("vital", async move { until.cancelled().await });
    tasks.spawn("other", async { panic!("in the end") });
    stop.cancel();
    tasks.ended().await;
    assert_eq!(supervisor.failure(), None);
    assert!(!counted(&catalogue, "vital") && !counted(&catalogue, "other"));
}

#[tokio::test]
async fn a_task_within_another_may_end_and_must_not_panic() {
    let (supervisor, catalogue, _) = supervisor();
    assert_eq!(supervisor.run("vital", ready(7)).await, Ok(7));
    assert_eq!(supervisor.failure(), None);
    let work = async { if counted(&catalogue, "vital") { 1 } else { panic!("no count") } };
    let failed = supervisor.run("vital", work).await.unwrap_err();
    assert_eq!(failed.cause, Cause::Panicked("no count".to_owned()));
    assert_eq!(supervisor.failed().await, failed);

    let (supervisor, ..) = self::supervisor();
    let other = supervisor.clone();
    let (aborted, ()) = tokio::join!(supervisor.run("vital", pending::<()>()), async {
        assert_eq!(other.names(), ["vital"]);
        assert!(other.abort("vital"));
    });
    assert_eq!(aborted, Err(TaskFailed { task: "vital", cause: Cause::Aborted }));
    assert_eq!(supervisor.names(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_never_yields_does_not_hold_up_the_shutdown() {
    let (supervisor, _, _) = supervisor();
    let mut tasks = supervisor.tasks();
    let (entered, inside) = tokio::sync::oneshot::channel();
    let (release, released) = std::sync::mpsc::channel::<()>();
    tasks.spawn("vital", async move {
        entered.send(()).unwrap();
        let _released = released.recv();
    });
    inside.await.unwrap();
    assert_eq!(tasks.shutdown(Duration::from_millis(1)).await, ["vital"]);
    drop(release);
}
