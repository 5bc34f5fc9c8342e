//! A store with events that are delivered and events that are not, and what a control plane does on a damaged copy.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use postrider_proto::v1::DeliveryState;
use postrider_tests::checker::Verdict;
use postrider_tests::clock::now;
use postrider_tests::receiver::Post;
use postrider_tests::wait::{PATIENCE, when, within};
use rustix::process::Signal;

use crate::report::Report;
use crate::rig::Rig;
use crate::rig::feed::Plan;
use crate::rig::look::Look;

/// Events that are delivered everywhere.
const DELIVERED: usize = 150;
/// Events after them that are not delivered by the pool `late`.
const WAITING: usize = 60;
/// By when a control plane that serves has delivered what waits.
const DELIVERS_WITHIN: Duration = Duration::from_secs(30);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(100);

/// How the store was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Terminated,
    Killed,
}

/// What a control plane did on a damaged copy.
#[derive(Debug)]
pub(crate) enum Seen {
    /// It serves, and delivers, everything.
    Serves,
    /// It did not start, and said so.
    Refuses,
    /// It started, and said or ended with saying that the store is damaged.
    Stops,
    /// Something that must never be.
    Bad(String),
}

impl Seen {
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Serves => "serves everything",
            Self::Refuses => "refused in words",
            Self::Stops => "stopped in words",
            Self::Bad(_) => "BAD",
        }
    }
}

/// A store, its control plane and its agents. Nothing runs.
pub(crate) struct Stock {
    pub(crate) rig: Rig,
    /// The data directory as it was left.
    pub(crate) template: PathBuf,
    posts: Vec<Post>,
}

impl Stock {
    /// Makes one in a folder.
    pub(crate) async fn make(folder: &Path, ending: Ending) -> Result<Self> {
        let mut rig = Rig::prepare(folder).await?;
        let template = rig.disk().join("data");
        rig.first_start().await?;
        let late = rig.late.as_mut().context("the rig has two agents")?;
        late.start()?;
        rig.api()?.agent_connected("late", 2).await?;
        rig.feed(Plan::steady(DELIVERED))?.ended().await?;
        arrived(&rig, "/late", DELIVERED).await?;
        settled(&rig).await?;
        rig.late.as_mut().context("the rig has two agents")?.kill()?;
        rig.feed(Plan::steady(WAITING))?.ended().await?;
        arrived(&rig, "/live", DELIVERED + WAITING).await?;
        within(PATIENCE, "only the late deliveries wait", async || {
            Ok(when(unfinished(&rig).await? == WAITING))
        })
        .await?;
        match ending {
            Ending::Terminated => {
                rig.control_plane.signal(Signal::TERM)?;
                let status = rig.control_plane.exit(PATIENCE).await?;
                ensure!(status.success(), "a stop ends with {status}");
            }
            Ending::Killed => rig.control_plane.kill()?,
        }
        rig.live.as_mut().context("the rig has two agents")?.kill()?;
        let posts = rig.receiver.posts();
        Ok(Self { rig, template, posts })
    }

    /// Starts the control plane on a damaged copy, looks at everything, and ends it.
    pub(crate) async fn start_on(&mut self, copy: &Path, report: &mut Report) -> Result<Seen> {
        self.rig.control_plane.set_data_dir(copy);
        let started = self.rig.failed_start().await;
        if let Some(log) = started {
            report.note_code(&log);
            return Ok(judge(&log, Seen::Refuses));
        }
        let from = self.rig.receiver.count();
        let served = self.look(report, from).await;
        let log = self.rig.control_plane.last_log();
        let ended = self.rig.control_plane.ended()?;
        for agent in [&mut self.rig.live, &mut self.rig.late].into_iter().flatten() {
            // It may not have been started.
            drop(agent.kill());
        }
        if ended.is_some() {
            return Ok(judge(&log, Seen::Stops));
        }
        self.rig.control_plane.kill()?;
        match served {
            Ok(seen) => Ok(seen),
            // It serves badly, and says why.
            Err(_) if log.contains("damaged") => Ok(judge(&log, Seen::Stops)),
            Err(error) => Ok(Seen::Bad(format!("it serves, but not everything: {error:#}"))),
        }
    }

    /// Whether everything is there and is delivered.
    async fn look(&mut self, report: &mut Report, from: usize) -> Result<Seen> {
        let rig = &mut self.rig;
        let look = Look::at(&rig.api()?, &rig.ledger.events(), rig.routes.len()).await?;
        if let Some(first) = look.missing.first() {
            report.lost += look.missing.len();
            return Ok(Seen::Bad(format!("SILENT LOSS of {} events: {first}", look.missing.len())));
        }
        ensure!(look.told == 0, "{} events are not shown", look.told);
        for agent in [&mut rig.live, &mut rig.late].into_iter().flatten() {
            agent.start()?;
        }
        let begun = now();
        while unfinished(rig).await? > 0 {
            ensure!(begun.elapsed() < DELIVERS_WITHIN, "deliveries wait");
            ensure!(rig.control_plane.ended()?.is_none(), "it ended");
            tokio::time::sleep(PAUSE).await;
        }
        let new = rig.receiver.posts().split_off(from);
        report.posts += new.len();
        let posts: Vec<Post> = self.posts.iter().cloned().chain(new).collect();
        let verdict = Verdict::of(&rig.ledger, &rig.routes, &posts);
        report.lost += verdict.lost.len();
        report.unexpected += verdict.unexpected.len();
        report.dup += verdict.repeated.len();
        if let Some(first) = verdict.lost.first().or(verdict.unexpected.first()) {
            let (lost, unexpected) = (verdict.lost.len(), verdict.unexpected.len());
            return Ok(Seen::Bad(format!(
                "SILENT LOSS: lost {lost}, unexpected {unexpected}, such as {first}"
            )));
        }
        Ok(Seen::Serves)
    }
}

/// A refusal, or a stop, must say that the store is damaged and what to do, and must not be a panic.
fn judge(log: &str, good: Seen) -> Seen {
    let log = log.to_lowercase();
    if log.contains("panicked") {
        return Seen::Bad(format!("a panic: {}", line_with(&log, "panicked")));
    }
    if !log.contains("damaged") {
        return Seen::Bad(format!("it does not say that the store is damaged: {}", last_line(&log)));
    }
    if !log.contains("backup") && !log.contains("restore") {
        return Seen::Bad(format!("it does not say what to do: {}", line_with(&log, "damaged")));
    }
    good
}

fn line_with(log: &str, word: &str) -> String {
    log.lines().find(|line| line.contains(word)).unwrap_or_default().to_owned()
}

fn last_line(log: &str) -> String {
    log.lines().last().unwrap_or_default().to_owned()
}

async fn unfinished(rig: &Rig) -> Result<usize> {
    let states = [DeliveryState::Pending, DeliveryState::Attempting, DeliveryState::Waiting];
    Ok(rig.api()?.deliveries_in(&states).await?.len())
}

async fn settled(rig: &Rig) -> Result<()> {
    within(PATIENCE, "nothing waits", async || Ok(when(unfinished(rig).await? == 0))).await
}

async fn arrived(rig: &Rig, path: &str, goal: usize) -> Result<()> {
    within(PATIENCE, &format!("{goal} deliveries have arrived at {path}"), async || {
        Ok(when(rig.receiver.posts_to(path).len() >= goal))
    })
    .await
}
