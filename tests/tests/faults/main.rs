//! Fault trials with real processes: power cuts, full and failing disks, kills at named points, damaged files, and
//! exhausted limits. Each trial runs the release binaries in a world of its own and compares what was acknowledged
//! with what a receiver logged.
//!
//! Run by `make faults` (every trial in its long form) and `make test` (the short form), because it mounts file
//! systems: it needs root and a mount namespace of its own. It has its own runner and not the standard test harness,
//! because its result is a table: `target/faults/latest.md`. A trial that lacks something fails; none is skipped.

mod damage;
mod failing;
mod full;
mod kill_points;
mod limits;
mod power;
mod report;
mod rig;
mod runner;

use std::process::ExitCode;

fn main() -> ExitCode {
    let families =
        [power::TRIALS, full::TRIALS, failing::TRIALS, damage::TRIALS, kill_points::TRIALS, limits::TRIALS];
    match runner::run(&families.concat()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("the fault trials cannot run: {error:#}");
            ExitCode::FAILURE
        }
    }
}
