//! What the operating system knows of this process, under the names that Prometheus' own libraries use. On Linux; elsewhere
//! there is nothing.

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge};

use crate::metrics::Row;

const ROWS: [Row; 5] = [
    Row::plain("process_cpu_seconds_total", "counter", "Processor time that this process has used."),
    Row::plain("process_max_fds", "gauge", "File descriptors that this process may have open."),
    Row::plain("process_open_fds", "gauge", "File descriptors that this process has open."),
    Row::plain("process_resident_memory_bytes", "gauge", "Memory of this process that is resident."),
    Row::plain("process_start_time_seconds", "gauge", "When this process was started."),
];

/// See the [module](self).
pub(crate) struct Process {
    cpu: Counter,
    max_fds: Gauge,
    open_fds: Gauge,
    resident: Gauge,
    started: Gauge,
}

impl Process {
    pub(crate) fn new() -> Self {
        let gauge = |row: usize| Gauge::new(ROWS[row].name, ROWS[row].help).expect("the names are constants");
        Self {
            cpu: Counter::new(ROWS[0].name, ROWS[0].help).expect("the name is a constant"),
            max_fds: gauge(1),
            open_fds: gauge(2),
            resident: gauge(3),
            started: gauge(4),
        }
    }

    /// For the reference page.
    pub(crate) fn rows() -> &'static [Row] {
        &ROWS
    }

    fn look(&self) -> std::io::Result<()> {
        let stat = std::fs::read_to_string("/proc/self/stat")?;
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        if let Some(Stat { cpu, started, resident }) = Stat::read(&stat) {
            self.cpu.reset();
            self.cpu.inc_by(cpu as f64 / ticks);
            self.resident.set(resident as f64 * rustix::param::page_size() as f64);
            if let Some(booted) = booted(&std::fs::read_to_string("/proc/stat")?) {
                self.started.set(booted as f64 + started as f64 / ticks);
            }
        }
        if let Some(most) = most_files(&std::fs::read_to_string("/proc/self/limits")?) {
            self.max_fds.set(most as f64);
        }
        // One is open to look at them.
        self.open_fds.set(std::fs::read_dir("/proc/self/fd")?.count().saturating_sub(1) as f64);
        Ok(())
    }
}

impl Collector for Process {
    fn desc(&self) -> Vec<&Desc> {
        let gauges = [&self.max_fds, &self.open_fds, &self.resident, &self.started];
        self.cpu.desc().into_iter().chain(gauges.into_iter().flat_map(Collector::desc)).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        if self.look().is_err() {
            return Vec::new();
        }
        let gauges = [&self.max_fds, &self.open_fds, &self.resident, &self.started];
        self.cpu.collect().into_iter().chain(gauges.into_iter().flat_map(Collector::collect)).collect()
    }
}

/// What is of use in `/proc/self/stat`: clock ticks, clock ticks since the boot, pages.
#[derive(Debug, PartialEq)]
struct Stat {
    cpu: u64,
    started: u64,
    resident: u64,
}

impl Stat {
    /// The second field is a name that may hold anything; what follows its last bracket is numbers.
    fn read(text: &str) -> Option<Self> {
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self { cpu: field(14)? + field(15)?, started: field(22)?, resident: field(24)? })
    }
}

fn booted(stat: &str) -> Option<u64> {
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

fn most_files(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_blanks_does_not_confuse() {
        let stat =
            "7 (a) b (c)) S 1 7 7 0 -1 4194560 1 0 0 0 21 12 0 0 20 0 4 0 5001 9000 310 18446744073709551615";
        assert_eq!(Stat::read(stat), Some(Stat { cpu: 33, started: 5001, resident: 310 }));
        assert_eq!(Stat::read("7 (a) S 1"), None);
    }

    #[test]
    fn this_process_is_seen() {
        let text = crate::metrics::Catalogue::new().encode();
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.unwrap_or_else(|| panic!("{name} is not in\n{text}")).parse::<f64>().unwrap()
        };
        assert!(value("process_resident_memory_bytes") > 1e6);
        assert!(value("process_open_fds") >= 3.0 && value("process_max_fds") > value("process_open_fds"));
        assert!(value("process_start_time_seconds") > 1.6e9);
        assert!(value("process_cpu_seconds_total") >= 0.0);
    }
}
