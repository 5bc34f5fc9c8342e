//! Exhausted limits of the operating system: open files of both programs, and threads. Afterwards everything is
//! delivered without a restart by hand; a program that ends with an exit code of its own is started again, as a
//! supervisor does.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use postrider_proto::v1::{self, DeliveryState};
use postrider_tests::clock::now;
use postrider_tests::receiver::Answer;
use postrider_tests::wait::{when, within};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::rig::Rig;
use crate::rig::command::run;
use crate::rig::feed::Plan;
use crate::rig::shim::{Action, Control};
use crate::runner::{Context, Trial, trial};

pub(crate) const TRIALS: &[Trial] = &[
    trial!("Resources", "limits.control_plane_files", control_plane_files),
    trial!("Resources", "limits.agent_files", agent_files),
    trial!("Resources", "limits.threads", threads),
];

/// Files that a control plane may have open: besides 256 of its own, 32 connections for each port.
const SOME_FILES: &str = "--nofile=320:320";
/// Files that an agent may have open, with 512 jobs at once.
const FEW_FILES: &str = "--nofile=64:64";
/// Connections that do nothing.
const SILENT: usize = 200;
/// tokio ends a thread of its blocking pool that was idle for 10 s.
const IDLE: Duration = Duration::from_secs(11);
/// How long a limit is exhausted.
const SHORT: Duration = Duration::from_secs(4);
const LONG: Duration = Duration::from_secs(30);
const EVENTS: usize = 400;
/// errno: the resource is temporarily not available. Source: errno(3).
const EAGAIN: i32 = 11;
/// Calls at once, each of which reads the store.
const READERS: usize = 24;

/// Strangers take the connections of a control plane that may have few files open. Then it may have none for some
/// seconds: neither the ports nor the store can open anything.
async fn control_plane_files(context: &mut Context) -> Result<()> {
    let mut rig = Rig::prepare(&context.folder).await?;
    rig.control_plane.set_launcher(&["prlimit", SOME_FILES]);
    let rounds = few_files(context, &mut rig).await;
    rig.finish(&mut context.report, rounds).await?;
    rig.has_done(EVENTS)
}

async fn few_files(context: &mut Context, rig: &mut Rig) -> Result<()> {
    rig.first_start().await?;
    rig.connected().await?;
    let feed = rig.feed(Plan::endless())?;
    for _ in 0..context.choose(1, 3) {
        let silent = strangers(rig).await;
        pass(context, rig).await?;
        drop(silent);
        rig.serves_again(&mut context.report, 100, true).await?;
        let pid = rig.control_plane.pid().context("no control plane runs")?.as_raw_nonzero().to_string();
        run("prlimit", &["--pid", &pid, "--nofile=3:320"])?;
        drop(strangers(rig).await);
        pass(context, rig).await?;
        if rig.control_plane.pid().is_some_and(|now| now.as_raw_nonzero().to_string() == pid) {
            run("prlimit", &["--pid", &pid, "--nofile=320:320"])?;
        }
        rig.serves_again(&mut context.report, 100, true).await?;
        context.report.rounds += 2;
    }
    feed.more(EVENTS / 2).await?;
    feed.stop().await
}

/// Connections that say nothing, as many as can be had.
async fn strangers(rig: &Rig) -> Vec<TcpStream> {
    let ports = [rig.control_plane.api_address(), rig.control_plane.agents_address()];
    let mut silent = Vec::new();
    for number in 0..SILENT {
        let connect = tokio::time::timeout(Duration::from_millis(100), TcpStream::connect(ports[number % 2]));
        silent.extend(connect.await.into_iter().flatten());
    }
    silent
}

/// Lets the time of a fault pass; what ends meanwhile is started again.
async fn pass(context: &mut Context, rig: &mut Rig) -> Result<()> {
    let end = now() + if context.is_full { LONG } else { SHORT };
    while now() < end {
        rig.supervise(&mut context.report).await?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// An agent with more jobs than it may open connections: no delivery spends an attempt on that.
async fn agent_files(context: &mut Context) -> Result<()> {
    let mut rig = Rig::prepare(&context.folder).await?;
    let rounds = agent_with_few_files(context, &mut rig).await;
    rig.finish(&mut context.report, rounds).await?;
    let delivered = rig.api()?.deliveries_in(&[DeliveryState::Delivered]).await?;
    let again = delivered.iter().filter(|delivery| delivery.attempt_count != 1).count();
    ensure!(again == 0, "{again} deliveries to a healthy endpoint spent more than one attempt");
    Ok(())
}

async fn agent_with_few_files(context: &mut Context, rig: &mut Rig) -> Result<()> {
    rig.first_start().await?;
    rig.connected().await?;
    let live = rig.live.as_mut().context("the rig has two agents")?;
    live.kill()?;
    live.set_launcher(&["prlimit", FEW_FILES]);
    rig.receiver.script("/live", [Answer::Late(204, Duration::from_millis(300))]);
    // All of them are there at once when the agent comes.
    let plan = Plan { events: 300, bytes: 300, at_once: 16, every: Duration::ZERO, is_patient: true };
    rig.feed(plan)?.ended().await?;
    rig.live.as_mut().context("the rig has two agents")?.start()?;
    rig.connected().await?;
    context.report.rounds += 1;
    rig.serves_again(&mut context.report, 100, true).await
}

/// No thread can be started for some seconds, while many calls read and a subscription with a backlog is resumed.
async fn threads(context: &mut Context) -> Result<()> {
    let mut rig = Rig::prepare(&context.folder).await?;
    let disk = rig.disk();
    let mut control = context.shim.load(&context.folder, &mut rig.control_plane, &disk)?;
    let rounds = without_threads(context, &mut rig, &mut control).await;
    control.off()?;
    rig.finish(&mut context.report, rounds).await?;
    rig.has_done(EVENTS)
}

async fn without_threads(context: &mut Context, rig: &mut Rig, control: &mut Control) -> Result<()> {
    rig.first_start().await?;
    rig.connected().await?;
    let api = rig.api()?;
    let subscription = rig.routes[0].subscription.clone();
    for _ in 0..context.choose(1, 3) {
        let (tenant, id) = (api.tenant(), subscription.clone());
        let pause = v1::PauseSubscriptionRequest { tenant, subscription: id };
        api.subscriptions().pause_subscription(pause).await?;
        rig.feed(Plan { at_once: 16, every: Duration::ZERO, ..Plan::steady(EVENTS) })?.ended().await?;
        no_idle_threads(rig).await?;
        control.set(Action::Error(EAGAIN), "t", 1, 0)?;
        let (tenant, id) = (api.tenant(), subscription.clone());
        let resume = v1::ResumeSubscriptionRequest { tenant, subscription: id };
        // It may fail now; then it is repeated.
        let resumed = api.subscriptions().resume_subscription(resume.clone()).await;
        let end = now() + if context.is_full { LONG } else { SHORT };
        while now() < end {
            read_much(rig).await?;
            rig.supervise(&mut context.report).await?;
        }
        control.off()?;
        rig.serves_again(&mut context.report, 100, true).await?;
        if resumed.is_err() {
            api.subscriptions().resume_subscription(resume).await?;
        }
        context.report.rounds += 1;
    }
    Ok(())
}

/// Waits until the threads that did the work before have ended, so that more work needs new ones.
async fn no_idle_threads(rig: &Rig) -> Result<()> {
    let pid = rig.control_plane.pid().context("no control plane runs")?.as_raw_nonzero();
    let count = || -> Result<usize> { Ok(std::fs::read_dir(format!("/proc/{pid}/task"))?.count()) };
    let (mut last, mut since) = (count()?, now());
    within(IDLE * 4, "no thread ends any more", async || {
        if count()? != last {
            (last, since) = (count()?, now());
        }
        Ok(when(since.elapsed() > IDLE))
    })
    .await
}

/// Many calls at once that read the store. Whether they succeed is no matter.
async fn read_much(rig: &Rig) -> Result<()> {
    let mut readers = JoinSet::new();
    for _ in 0..READERS {
        let api = rig.api()?;
        readers.spawn(async move { drop(api.deliveries_in(&[DeliveryState::Waiting]).await) });
    }
    // Each has a time limit of its own; this one is for a control plane that is away.
    let all = async { while readers.join_next().await.is_some() {} };
    drop(tokio::time::timeout(Duration::from_secs(2), all).await);
    Ok(())
}
