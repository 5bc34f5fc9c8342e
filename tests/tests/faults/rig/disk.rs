//! Disks of the trials: file systems on image files, whose power can be cut, and a file system in memory whose size
//! can change.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::command::run;

/// How often a busy file system is unmounted again: the kernel may take a moment to let go of a killed process.
const TRIES: usize = 50;
/// Between two of those.
const PAUSE: Duration = Duration::from_millis(100);

/// The kind of a file system on an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Ext4,
    Xfs,
}

/// A file system on an image file, mounted at a folder.
pub(crate) struct Image {
    kind: Kind,
    file: PathBuf,
    at: PathBuf,
}

impl Image {
    /// Makes a file system of so many MiB and mounts it. XFS needs 300.
    pub(crate) fn make(kind: Kind, file: &Path, mib: u64, at: &Path) -> Result<Self> {
        std::fs::File::create(file)?.set_len(mib * 1024 * 1024)?;
        std::fs::create_dir_all(at)?;
        let image = file.display().to_string();
        match kind {
            Kind::Ext4 => run("mkfs.ext4", &["-q", "-F", "-m", "0", "-E", "lazy_itable_init=1", &image])?,
            Kind::Xfs => run("mkfs.xfs", &["-q", "-f", &image])?,
        };
        let made = Self { kind, file: file.to_owned(), at: at.to_owned() };
        made.mount()?;
        Ok(made)
    }

    /// Mounts it. The kernel's own commits of ext4 are put off: what is on the disk was synced.
    pub(crate) fn mount(&self) -> Result<()> {
        let options = match self.kind {
            Kind::Ext4 => "loop,commit=300",
            Kind::Xfs => "loop",
        };
        run("mount", &["-o", options, &self.file.display().to_string(), &self.place()]).map(drop)
    }

    /// Cuts its power: everything that is not on the disk is dropped, and every later write fails.
    pub(crate) fn cut(&self) -> Result<()> {
        run("xfs_io", &["-x", "-c", "shutdown", &self.place()]).map(drop)
    }

    /// Unmounts it. No process may use it.
    pub(crate) fn unmount(&self) -> Result<()> {
        let mut last = Ok(String::new());
        for _ in 0..TRIES {
            last = run("umount", &[&self.place()]);
            match &last {
                Err(error) if error.to_string().contains("busy") => std::thread::sleep(PAUSE),
                _ => break,
            }
        }
        last.map(drop)
    }

    /// Copies the device as it is now, without what the kernel has not written, and uses the copy from the next mount
    /// on.
    pub(crate) fn copy(&mut self) -> Result<()> {
        let copy = self.file.with_extension(match self.file.extension() {
            Some(extension) if extension == "a" => "b",
            _ => "a",
        });
        run("cp", &["--sparse=always", &self.file.display().to_string(), &copy.display().to_string()])?;
        self.file = copy;
        Ok(())
    }

    /// Makes it read-only, or writable again.
    pub(crate) fn read_only(&self, is_read_only: bool) -> Result<()> {
        let option = if is_read_only { "remount,ro" } else { "remount,rw" };
        run("mount", &["-o", option, &self.place()]).map(drop)
    }

    fn place(&self) -> String {
        self.at.display().to_string()
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        // It may be unmounted already; the namespace's end takes care of the rest.
        drop(run("umount", &["--lazy", &self.place()]));
    }
}

/// A file system in memory, mounted at a folder.
pub(crate) struct Memory(PathBuf);

impl Memory {
    /// Mounts one of so many MiB.
    pub(crate) fn mount(at: &Path, mib: u64) -> Result<Self> {
        std::fs::create_dir_all(at)?;
        run("mount", &["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs", &at.display().to_string()])?;
        Ok(Self(at.to_owned()))
    }

    /// Changes its size.
    pub(crate) fn resize(&self, mib: u64) -> Result<()> {
        let options = format!("remount,size={mib}m");
        run("mount", &["-o", &options, &self.0.display().to_string()]).map(drop)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        drop(run("umount", &["--lazy", &self.0.display().to_string()]));
    }
}

/// Fills a file system with one file until so many KiB are free. A file that is there grows.
pub(crate) fn fill(folder: &Path, leave_kib: u64) -> Result<PathBuf> {
    let filler = folder.join("filler");
    let mut file = std::fs::File::options().create(true).append(true).open(&filler)?;
    loop {
        let room = free_kib(folder)?.saturating_sub(leave_kib).min(1024);
        if room == 0 {
            return Ok(filler);
        }
        match file.write_all(&vec![0xa5; usize::try_from(room)? * 1024]) {
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => return Ok(filler),
            written => written.context("the filler cannot be written")?,
        }
    }
}

/// The free space of a file system, in KiB.
pub(crate) fn free_kib(folder: &Path) -> Result<u64> {
    let found = rustix::fs::statvfs(folder)?;
    Ok(found.f_bavail * found.f_frsize / 1024)
}
