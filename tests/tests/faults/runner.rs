//! Runs trials, some at a time, each on a thread and a runtime of its own and within a time limit, and writes the
//! table.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use postrider_tests::binaries;
use postrider_tests::clock::now;
use postrider_tests::process::raise_file_limit;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use crate::report::{HEAD, Report};
use crate::rig::command::run as run_command;
use crate::rig::shim::Shim;

/// How many trials run at once: they mostly wait.
const AT_ONCE: usize = 3;
/// A trial of the short form, and of the long one, has ended by then.
const SHORT_LIMIT: Duration = Duration::from_secs(150);
const LONG_LIMIT: Duration = Duration::from_secs(900);

/// A trial that runs.
pub(crate) type Running<'a> = Pin<Box<dyn Future<Output = Result<()>> + 'a>>;

/// One trial.
#[derive(Clone, Copy)]
pub(crate) struct Trial {
    /// The fault's number in the table of faults.
    pub(crate) fault: &'static str,
    /// Its name: `family.trial`.
    pub(crate) name: &'static str,
    /// Whether it belongs to the long form only.
    pub(crate) is_long: bool,
    /// Carries it out.
    pub(crate) run: for<'a> fn(&'a mut Context) -> Running<'a>,
}

/// Makes a [`Trial`] of an asynchronous function; `long` leaves it out of the short form.
macro_rules! trial {
    ($fault:literal, $name:literal, $run:path) => {
        $crate::runner::trial!(@ $fault, $name, $run, false)
    };
    ($fault:literal, $name:literal, $run:path, long) => {
        $crate::runner::trial!(@ $fault, $name, $run, true)
    };
    (@ $fault:literal, $name:literal, $run:path, $long:literal) => {
        $crate::runner::Trial {
            fault: $fault,
            name: $name,
            is_long: $long,
            run: |context| Box::pin($run(context)),
        }
    };
}
pub(crate) use trial;

/// What a trial is given, and what it reports.
pub(crate) struct Context {
    /// A folder of its own, in memory.
    pub(crate) folder: PathBuf,
    /// Whether all of it is wanted.
    pub(crate) is_full: bool,
    /// The trial's own random numbers.
    pub(crate) random: StdRng,
    /// The library to preload.
    pub(crate) shim: Shim,
    /// What it has seen.
    pub(crate) report: Report,
}

impl Context {
    /// A number for the short form, another for the long one.
    pub(crate) fn choose(&self, short: usize, full: usize) -> usize {
        if self.is_full { full } else { short }
    }
}

/// What the command line and the environment ask for.
struct Wanted {
    is_full: bool,
    names: Vec<String>,
    seed: u64,
}

impl Wanted {
    fn read() -> Result<Self> {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let full = std::env::var("POSTRIDER_FAULTS").is_ok_and(|value| value == "full");
        let seed = match std::env::var("POSTRIDER_FAULTS_SEED") {
            Ok(seed) => seed.parse().context("POSTRIDER_FAULTS_SEED is not a number")?,
            Err(_) => rand::random::<u32>().into(),
        };
        let is_option = |argument: &&String| argument.starts_with("--");
        let options: Vec<&String> = arguments.iter().filter(is_option).collect();
        ensure!(
            options.iter().all(|option| *option == "--full"),
            "the only option is --full; other arguments are parts of trials' names"
        );
        let names = arguments.iter().filter(|argument| !is_option(argument)).cloned().collect();
        Ok(Self { is_full: full || !options.is_empty(), names, seed })
    }

    fn has(&self, trial: &Trial) -> bool {
        // Who names a trial gets it, in the short form too.
        let is_meant = self.names.is_empty() && (self.is_full || !trial.is_long);
        is_meant || self.names.iter().any(|name| trial.name.contains(name.as_str()))
    }
}

/// Runs the trials that are asked for and writes the table. Says whether all have passed.
pub(crate) fn run(trials: &[Trial]) -> Result<bool> {
    let wanted = Wanted::read()?;
    let chosen: Vec<Trial> = trials.iter().filter(|trial| wanted.has(trial)).copied().collect();
    ensure!(!chosen.is_empty(), "no trial has such a name; there are: {}", names(trials).join(", "));
    has_own_mounts()?;
    raise_file_limit()?;
    let work = Work::make()?;
    let shim = Shim::build(&work.0)?;
    println!("seed {} ({} form)", wanted.seed, if wanted.is_full { "long" } else { "short" });
    let queue = Mutex::new(chosen.iter().enumerate());
    let rows = Mutex::new(vec![None; chosen.len()]);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let Some((number, trial)) = queue.lock().expect("no trial panics here").next() else {
                        return;
                    };
                    let report = one(trial, &work.0, &shim, &wanted);
                    rows.lock().expect("no trial panics here")[number] = Some(report);
                }
            });
        }
    });
    let reports: Vec<Report> =
        rows.into_inner().expect("no trial panics here").into_iter().flatten().collect();
    write_table(&chosen, &reports, &wanted)?;
    Ok(reports.len() == chosen.len() && reports.iter().all(Report::passes))
}

/// Runs one trial to its end, whatever that is.
fn one(trial: &Trial, work: &Path, shim: &Shim, wanted: &Wanted) -> Report {
    let begun = now();
    let context = Context {
        folder: work.join(trial.name),
        is_full: wanted.is_full,
        random: StdRng::seed_from_u64(wanted.seed),
        shim: shim.clone(),
        report: Report::default(),
    };
    let name = trial.name;
    let run = trial.run;
    let limit = if wanted.is_full { LONG_LIMIT } else { SHORT_LIMIT };
    let report = std::thread::scope(|scope| {
        scope.spawn(move || carry_out(run, context, limit)).join().unwrap_or_else(|_| {
            let problems = vec!["the trial panicked; see above".to_owned()];
            Report { problems, ..Report::default() }
        })
    });
    println!("{} [{:.1} s]", report.row(trial.fault, name), begun.elapsed().as_secs_f64());
    for problem in &report.problems {
        println!("    {name}: {problem}");
    }
    report
}

fn carry_out(
    run: for<'a> fn(&'a mut Context) -> Running<'a>,
    mut context: Context,
    limit: Duration,
) -> Report {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let result = runtime.context("no runtime").and_then(|runtime| {
        std::fs::create_dir_all(&context.folder)?;
        let ended = runtime.block_on(async { tokio::time::timeout(limit, run(&mut context)).await });
        ended.unwrap_or_else(|_| Err(anyhow::anyhow!("the trial did not end within {limit:?}")))
    });
    if let Err(error) = result {
        context.report.problems.push(format!("{error:#}"));
    }
    context.report
}

fn names(trials: &[Trial]) -> Vec<&'static str> {
    trials.iter().map(|trial| trial.name).collect()
}

/// Mounts must not reach the rest of the machine.
fn has_own_mounts() -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "they mount file systems, which needs root: run `make faults`"
    );
    let namespace = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/mnt")).ok();
    ensure!(
        namespace("self") != namespace("1") || namespace("1").is_none(),
        "they need a mount namespace of their own: run `make faults`, or this program by `unshare --mount`"
    );
    Ok(())
}

/// The folder of all trials: a file system in memory, so that nothing but the programs syncs the images in it.
struct Work(PathBuf);

impl Work {
    fn make() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("postrider-faults-").tempdir()?.keep();
        run_command("mount", &["-t", "tmpfs", "-o", "size=6g", "tmpfs", &folder.display().to_string()])?;
        Ok(Self(folder))
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if std::env::var_os("KEEP_WORLDS").is_some() {
            println!("logs and stores are copied to {}.kept", self.0.display());
            let copy = format!("{}.kept", self.0.display());
            drop(run_command("cp", &["-a", "--sparse=always", &self.0.display().to_string(), &copy]));
        }
        // The namespace ends with this process, and its mounts with it.
        drop(run_command("umount", &["--lazy", &self.0.display().to_string()]));
        drop(std::fs::remove_dir(&self.0));
    }
}

fn write_table(trials: &[Trial], reports: &[Report], wanted: &Wanted) -> Result<()> {
    let folder = binaries::target_folder()?.join("faults");
    std::fs::create_dir_all(&folder)?;
    let mut rows: Vec<String> =
        trials.iter().zip(reports).map(|(trial, report)| report.row(trial.fault, trial.name)).collect();
    rows.insert(0, HEAD.to_owned());
    rows.push(format!("\nSeed {}, {} form.", wanted.seed, if wanted.is_full { "long" } else { "short" }));
    let file = folder.join("latest.md");
    std::fs::write(&file, rows.join("\n") + "\n")?;
    println!("the table is in {}", file.display());
    Ok(())
}
