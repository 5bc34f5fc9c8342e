//! What the kernel knows of a process: CPU time, memory, bytes written; and of a folder: the disk it takes.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;

/// A process's id.
pub(crate) type ProcessId = u32;

/// CPU time that a process has used so far, in user and kernel mode, all its threads.
pub(crate) fn cpu_time(process: ProcessId) -> anyhow::Result<Duration> {
    let text = read(process, "stat")?;
    let ticks = cpu_ticks(&text).with_context(|| format!("/proc/{process}/stat is not understood"))?;
    let per_second = rustix::param::clock_ticks_per_second();
    Ok(Duration::from_secs_f64(ticks as f64 / per_second as f64))
}

/// Memory of a process that is in RAM now, in MiB.
pub(crate) fn resident_mib(process: ProcessId) -> anyhow::Result<f64> {
    status_mib(process, "VmRSS")
}

/// The most memory of a process that has ever been in RAM, in MiB.
pub(crate) fn peak_mib(process: ProcessId) -> anyhow::Result<f64> {
    status_mib(process, "VmHWM")
}

/// Bytes that a process has caused to be written to disk so far.
pub(crate) fn written_bytes(process: ProcessId) -> anyhow::Result<u64> {
    let text = read(process, "io")?;
    field(&text, "write_bytes").with_context(|| format!("/proc/{process}/io is not understood"))
}

/// Bytes of disk that a folder takes with all that is in it.
pub(crate) fn disk_bytes(folder: &Path) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let entry = entry?;
        // A file may go away while the store runs.
        let Ok(metadata) = entry.metadata() else { continue };
        bytes += if metadata.is_dir() { disk_bytes(&entry.path())? } else { metadata.blocks() * 512 };
    }
    Ok(bytes)
}

fn read(process: ProcessId, file: &str) -> anyhow::Result<String> {
    let path = format!("/proc/{process}/{file}");
    std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}: has the process ended?"))
}

fn status_mib(process: ProcessId, name: &str) -> anyhow::Result<f64> {
    let text = read(process, "status")?;
    let kib = field(&text, name).with_context(|| format!("/proc/{process}/status is not understood"))?;
    Ok(kib as f64 / 1024.0)
}

/// User and kernel time of a `stat` line. The second field is the program's name in parentheses, which may hold
/// anything.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let kernel: u64 = fields.next()?.parse().ok()?;
    Some(user + kernel)
}

/// The number of a line `name: number …`.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_is_read_whatever_the_name() {
        let tail = "S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 4 0 100 0 0";
        for name in ["sink", "a b", "x) S 1 (y"] {
            assert_eq!(cpu_ticks(&format!("42 ({name}) {tail}")), Some(300));
        }
        assert_eq!(cpu_ticks("42 (sink) S 1"), None);
        assert_eq!(cpu_ticks(""), None);
    }

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let text = "VmRSSX:\t1 kB\nVmRSS:\t  2048 kB\nThreads:\t3\n";
        assert_eq!(field(text, "VmRSS"), Some(2048));
        assert_eq!(field(text, "Threads"), Some(3));
        assert_eq!(field(text, "Vm"), None);
    }

    #[test]
    fn this_process_can_be_looked_at() {
        let process = std::process::id();
        assert!(cpu_time(process).is_ok());
        assert!(resident_mib(process).unwrap() > 0.5);
        assert!(peak_mib(process).unwrap() > 0.5);
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("a")).unwrap();
        std::fs::write(folder.path().join("a/b"), [1; 10_000]).unwrap();
        assert!(disk_bytes(folder.path()).unwrap() <= 64 * 1024);
    }
}
