//! Keeps a process from starting threads, as the limit of processes of a container does.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Resource, Rlimit, geteuid, getrlimit, prlimit};

/// Where pids cgroups are: version 1, version 2.
const GROUPS: [&str; 2] = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"];

/// As long as it lives, the process can start no thread.
#[derive(Debug)]
pub struct NoThreads {
    process: Pid,
    by: By,
}

#[derive(Debug)]
enum By {
    /// The limit of the user's processes, and what it was before. It does not count for root.
    Limit(Rlimit),
    /// A group with a limit of its own.
    Group(PathBuf),
}

impl NoThreads {
    /// Begins.
    ///
    /// # Errors
    /// When the system does not let this process do that: it must not be root, or must be able to make a pids cgroup.
    pub fn of(process: Pid) -> Result<Self> {
        if geteuid().is_root() {
            let found = GROUPS.iter().map(Path::new).find(|group| group.join("cgroup.procs").exists());
            let group = found.context("root's threads are limited by a pids cgroup alone; there is none")?;
            return Self::by_group(process, group).context("a pids cgroup cannot be made");
        }
        // The process has inherited this one's. The hard limit stays, so that the soft one can be raised again.
        let lower = Rlimit { current: Some(1), maximum: getrlimit(Resource::Nproc).maximum };
        let before = prlimit(Some(process), Resource::Nproc, lower);
        let before = before.context("the limit of processes cannot be set")?;
        Ok(Self { process, by: By::Limit(before) })
    }

    fn by_group(process: Pid, parent: &Path) -> Result<Self> {
        // Version 2 wants to be told so; version 1 has no such file.
        let control = parent.join("cgroup.subtree_control");
        if control.exists() {
            std::fs::write(control, "+pids")?;
        }
        let group = parent.join(format!("postrider-test-{}", process.as_raw_nonzero()));
        std::fs::create_dir(&group)?;
        let limited = Self { process, by: By::Group(group.clone()) };
        std::fs::write(group.join("cgroup.procs"), process.as_raw_nonzero().to_string())?;
        std::fs::write(group.join("pids.max"), "1")?;
        Ok(limited)
    }
}

impl Drop for NoThreads {
    fn drop(&mut self) {
        // It may have ended, which is as good.
        match &self.by {
            By::Limit(before) => drop(prlimit(Some(self.process), Resource::Nproc, *before)),
            By::Group(group) => {
                let parent = group.parent().unwrap_or(group);
                let process = self.process.as_raw_nonzero().to_string();
                drop(std::fs::write(group.join("pids.max"), "max"));
                drop(std::fs::write(parent.join("cgroup.procs"), process));
                drop(std::fs::remove_dir(group));
            }
        }
    }
}
