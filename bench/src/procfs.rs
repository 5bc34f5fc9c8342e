//! What the kernel knows of a process: CPU time, memory, bytes written; and of a folder: the disk it takes.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;

/// A process's id.
pub(crate) type ProcessId = u32;

/// CPU time that a process has used so far, in user and kernel mode, all its threads.
pub(crate) fn cpu_time(process: ProcessId) -> anyhow::Result<Duration> {
    cpu(process, 2)
}

/// The same, with that of its children that have ended.
pub(crate) fn cpu_time_with_ended_children(process: ProcessId) -> anyhow::Result<Duration> {
    cpu(process, 4)
}

/// CPU time that the whole machine has used so far.
pub(crate) fn machine_cpu_time() -> anyhow::Result<Duration> {
    let text = std::fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
    busy_ticks(&text).map(time).context("/proc/stat is not understood")
}

fn cpu(process: ProcessId, fields: usize) -> anyhow::Result<Duration> {
    let text = read(process, "stat")?;
    let ticks = cpu_ticks(&text, fields);
    ticks.map(time).with_context(|| format!("/proc/{process}/stat is not understood"))
}

fn time(ticks: u64) -> Duration {
    Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
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

/// User and kernel time of a `stat` line, and then those of its children that have ended. The second field is the
/// program's name in parentheses, which may hold anything.
fn cpu_ticks(stat: &str, fields: usize) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let times: Vec<&str> = after_name.split_ascii_whitespace().skip(11).take(fields).collect();
    if times.len() < fields { None } else { times.iter().map(|field| field.parse::<u64>().ok()).sum() }
}

/// All but idling and waiting of the machine's `stat`: user, nice, system, interrupts.
fn busy_ticks(stat: &str) -> Option<u64> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let fields: Option<Vec<u64>> = line.split_ascii_whitespace().map(|field| field.parse().ok()).collect();
    match fields?.as_slice() {
        [user, nice, system, _idle, _waiting, interrupts, soft, ..] => {
            Some(user + nice + system + interrupts + soft)
        }
        _ => None,
    }
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
        let tail = "S 1 2 3 4 5 6 7 8 9 10 250 50 7 3 20 0 4 0 100 0 0";
        for name in ["sink", "a b", "x) S 1 (y"] {
            assert_eq!(cpu_ticks(&format!("42 ({name}) {tail}"), 2), Some(300));
            assert_eq!(cpu_ticks(&format!("42 ({name}) {tail}"), 4), Some(310));
        }
        assert_eq!(cpu_ticks("42 (sink) S 1", 2), None);
        assert_eq!(cpu_ticks("", 2), None);
    }

    #[test]
    fn the_machine_is_busy_when_it_neither_idles_nor_waits() {
        assert_eq!(busy_ticks("cpu  1 2 4 1000 1000 8 16 1000 0 0\ncpu0 1 1 1 1 1 1 1\n"), Some(31));
        assert_eq!(busy_ticks("intr 5\n"), None);
        assert!(machine_cpu_time().unwrap() > Duration::ZERO);
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
