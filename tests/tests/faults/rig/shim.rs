//! The library that is preloaded into programs (`shim.c`): it makes file operations fail, or kills the program at one
//! of them.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use postrider_tests::world::ControlPlane;

use super::command::run;

/// Writes, truncations and allocations.
pub(crate) const WRITES: &str = "w";
/// Everything that changes files.
pub(crate) const CHANGES: &str = "wscorud";

/// The compiled library.
#[derive(Clone, Debug)]
pub(crate) struct Shim(PathBuf);

/// What happens to operations.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Action {
    /// They fail with this errno.
    Error(i32),
    /// The program is killed before.
    KillBefore,
    /// The program is killed after.
    KillAfter,
    /// The program is killed after half of a write.
    Tear,
}

/// The shim of one control plane.
pub(crate) struct Control {
    file: File,
    trace: PathBuf,
    generation: u64,
}

impl Shim {
    /// Compiles it.
    pub(crate) fn build(folder: &Path) -> Result<Self> {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/faults/shim.c");
        let library = folder.join("shim.so");
        let output = library.display().to_string();
        run(
            "cc",
            &[
                "-shared",
                "-fPIC",
                "-O1",
                "-Wall",
                "-Wextra",
                "-Werror",
                "-o",
                &output,
                source,
                "-ldl",
                "-lpthread",
            ],
        )
        .context("the shim cannot be compiled")?;
        Ok(Self(library))
    }

    /// Has the next starts of a control plane load it, for what is below a folder. The control file is in `folder`.
    pub(crate) fn load(
        &self,
        folder: &Path,
        control_plane: &mut ControlPlane,
        below: &Path,
    ) -> Result<Control> {
        let (control, trace) = (folder.join("shim-control"), folder.join("shim-trace"));
        let file = File::options().write(true).create(true).truncate(true).open(&control)?;
        file.set_len(4096)?;
        let below = below.canonicalize().context("the folder that the shim watches")?;
        control_plane.set_env("LD_PRELOAD", Some(self.0.clone().into()));
        control_plane.set_env("FAULT_CONTROL", Some(control.into()));
        control_plane.set_env("FAULT_FOLDER", Some(below.into()));
        let mut control = Control { file, trace, generation: 0 };
        control.off()?;
        Ok(control)
    }
}

impl Control {
    /// From now on, operations of these classes, from the `first` (1 is the next) on and `count` of them (0: all),
    /// are treated so.
    pub(crate) fn set(&mut self, action: Action, classes: &str, first: usize, count: usize) -> Result<()> {
        let (word, argument) = match action {
            Action::Error(errno) => ("error", errno),
            Action::KillBefore => ("before", 0),
            Action::KillAfter => ("after", 0),
            Action::Tear => ("tear", 0),
        };
        self.off()?;
        self.generation += 1;
        let line = format!("0 {} {word} {classes} {first} {count} {argument}\n\0", self.generation);
        self.file.write_all_at(line.as_bytes(), 0)?;
        self.file.write_all_at(b"1", 0)?;
        Ok(())
    }

    /// From now on nothing happens.
    pub(crate) fn off(&mut self) -> Result<()> {
        self.file.write_all_at(b"0", 0)?;
        Ok(())
    }

    /// Has the next starts write a line for each operation, or no longer.
    pub(crate) fn trace(&self, control_plane: &mut ControlPlane, is_on: bool) {
        control_plane.set_env("FAULT_TRACE", is_on.then(|| self.trace.clone().into()));
    }

    /// The operations since the last call, as `class path`.
    pub(crate) fn take_trace(&self) -> Result<Vec<String>> {
        let text = match std::fs::read_to_string(&self.trace) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error.into()),
        };
        // The program has it open for appending.
        File::options().write(true).open(&self.trace).and_then(|file| file.set_len(0)).ok();
        Ok(text.lines().map(str::to_owned).collect())
    }
}
