//! Damaged store files: single flipped bits, cut tails, emptied and deleted files, and copies of a data directory in
//! use. A start either serves everything that was acknowledged, or it fails (or the program stops) with a sentence
//! that says that the store is damaged and what to do. It never serves less without a word.

mod place;
mod stock;

use anyhow::{Context as _, Result, ensure};
use rand::Rng as _;

use self::place::{Damage, damage};
use self::stock::{Ending, Seen, Stock};
use crate::report::counted;
use crate::rig::Rig;
use crate::rig::command::run;
use crate::rig::feed::Plan;
use crate::rig::look::Look;
use crate::runner::{Context, Trial, trial};

pub(crate) const TRIALS: &[Trial] = &[
    trial!("F12", "damage.flipped_bits", flipped_bits),
    trial!("F12", "damage.cut_tails", cut_tails),
    trial!("F12", "damage.emptied_files", emptied_files),
    trial!("F12", "damage.deleted_files", deleted_files),
    trial!("F12", "damage.copies_in_use", copies_in_use),
];

async fn flipped_bits(context: &mut Context) -> Result<()> {
    let places = context.choose(4, 20);
    damaged(context, Damage::Flip, places).await
}

async fn cut_tails(context: &mut Context) -> Result<()> {
    let places = context.choose(4, 20);
    damaged(context, Damage::Cut, places).await
}

async fn emptied_files(context: &mut Context) -> Result<()> {
    // Every file, in both forms.
    damaged(context, Damage::Empty, usize::MAX).await
}

async fn deleted_files(context: &mut Context) -> Result<()> {
    damaged(context, Damage::Delete, usize::MAX).await
}

/// Damages so many places (or every file) of a store that was stopped by SIGTERM, and as many of one that was killed.
async fn damaged(context: &mut Context, how: Damage, places: usize) -> Result<()> {
    let mut endings = Vec::new();
    for ending in [Ending::Terminated, Ending::Killed] {
        let folder = context.folder.join(format!("{ending:?}"));
        let mut stock = Stock::make(&folder, ending).await?;
        context.report.events += stock.rig.ledger.acknowledged_count();
        for number in 0..how.rounds(places, &stock.template)? {
            let copy = folder.join(format!("place-{number}"));
            run("cp", &["-a", &stock.template.display().to_string(), &copy.display().to_string()])?;
            let what = damage(&copy.join("store"), how, number, &mut context.random)?;
            let seen = stock.start_on(&copy, &mut context.report).await;
            let seen = seen.with_context(|| format!("{ending:?}, {what}"))?;
            if let Seen::Bad(problem) = &seen {
                context.report.problems.push(format!("{ending:?}, {what}: {problem}"));
            }
            endings.push(seen.label().to_owned());
            context.report.rounds += 1;
            std::fs::remove_dir_all(&copy)?;
        }
    }
    context.report.note(counted(&endings));
    Ok(())
}

/// A copy of a data directory in use is not promised to be consistent; it must not be silently without something that
/// was acknowledged before the copy began.
async fn copies_in_use(context: &mut Context) -> Result<()> {
    let mut rig = Rig::prepare(&context.folder).await?;
    let mut endings = Vec::new();
    let rounds = copies(context, &mut rig, &mut endings).await;
    context.report.note(counted(&endings));
    rig.finish(&mut context.report, rounds).await
}

async fn copies(context: &mut Context, rig: &mut Rig, endings: &mut Vec<String>) -> Result<()> {
    rig.first_start().await?;
    let original = rig.disk().join("data");
    for number in 0..context.choose(4, 20) {
        let feed = rig.feed(Plan::endless())?;
        feed.more(context.random.random_range(30..90)).await?;
        let before = rig.ledger.events();
        let copy = rig.disk().join(format!("copy-{number}"));
        run("cp", &["-a", &original.display().to_string(), &copy.display().to_string()])?;
        feed.stop().await?;
        rig.control_plane.kill()?;
        rig.control_plane.set_data_dir(&copy);
        if let Some(log) = rig.failed_start().await {
            ensure!(!log.contains("panicked"), "a start on a copy panics: {log}");
            ensure!(log.contains("damaged"), "a start on a copy fails without the word damaged: {log}");
            endings.push("refused in words".to_owned());
        } else {
            let look = Look::at(&rig.api()?, &before, rig.routes.len()).await?;
            let missing = look.missing.len();
            if missing > 0 {
                context.report.problems.push(format!("copy {number}: {missing} events are silently gone"));
                context.report.lost += missing;
            }
            endings.push(if missing == 0 { "serves everything" } else { "SILENT LOSS" }.to_owned());
            rig.control_plane.kill()?;
        }
        std::fs::remove_dir_all(&copy)?;
        rig.control_plane.set_data_dir(&original);
        rig.control_plane.restart().await?;
        context.report.rounds += 1;
    }
    Ok(())
}
