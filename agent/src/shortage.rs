//! What the agent's own machine lacks: open files, memory, ports, threads. That is the agent's trouble and never an
//! endpoint's: a job that could not be started for it goes back to the control plane, uncounted.

use std::fmt;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit, setrlimit};

use crate::clock::{Instant, now};

/// What is lacking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shortage {
    /// This process may not open more files.
    OpenFiles,
    /// The machine may not open more files.
    SystemOpenFiles,
    /// Memory.
    Memory,
    /// The system's memory for sockets.
    SocketBuffers,
    /// Ports on this side of connections.
    LocalPorts,
    /// Threads.
    Threads,
}

const ALL: [Shortage; 6] = [
    Shortage::OpenFiles,
    Shortage::SystemOpenFiles,
    Shortage::Memory,
    Shortage::SocketBuffers,
    Shortage::LocalPorts,
    Shortage::Threads,
];

/// The words of [`Shortage::as_str`], in the order of the kinds.
pub(crate) const WORDS: [&str; ALL.len()] =
    ["open_files", "system_open_files", "memory", "socket_buffers", "local_ports", "threads"];

impl Shortage {
    /// What was lacking when a file or a socket could not be opened, if it was that.
    #[must_use]
    pub fn of(error: &io::Error) -> Option<Shortage> {
        match Errno::from_io_error(error)? {
            Errno::MFILE => Some(Shortage::OpenFiles),
            Errno::NFILE => Some(Shortage::SystemOpenFiles),
            Errno::NOMEM => Some(Shortage::Memory),
            Errno::NOBUFS => Some(Shortage::SocketBuffers),
            _ => None,
        }
    }

    /// The same for a connection to `peer`. A machine without IPv6 says of its connections what it says when it has no
    /// port left, so that counts for IPv4 alone.
    #[must_use]
    pub fn of_connecting(error: &io::Error, peer: std::net::SocketAddr) -> Option<Shortage> {
        let no_port = peer.is_ipv4() && Errno::from_io_error(error) == Some(Errno::ADDRNOTAVAIL);
        if no_port { Some(Shortage::LocalPorts) } else { Shortage::of(error) }
    }

    /// The word for metrics and for the control plane's log.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        WORDS[self as usize]
    }

    fn sentence(self) -> &'static str {
        match self {
            Shortage::OpenFiles => {
                "this process has reached its limit of open files: raise it (ulimit -n, LimitNOFILE=), or lower \
                 `max_in_flight`"
            }
            Shortage::SystemOpenFiles => {
                "this machine has reached its limit of open files: raise fs.file-max, or look for the process that holds them"
            }
            Shortage::Memory => {
                "this machine has no memory left for sockets or buffers: raise the memory limit, or lower `max_in_flight`"
            }
            Shortage::SocketBuffers => {
                "the system has no memory left for socket buffers: raise net.ipv4.tcp_mem, or lower `max_in_flight`"
            }
            Shortage::LocalPorts => {
                "this machine has no local port left for connections: widen net.ipv4.ip_local_port_range, or lower \
                 `max_in_flight`"
            }
            Shortage::Threads => {
                "no thread can be started: raise the limit of processes (ulimit -u, TasksMax=, the container's pids limit)"
            }
        }
    }
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.sentence())
    }
}

/// How often the log speaks of a shortage.
const SPEAK: Duration = Duration::from_secs(30);

/// Where shortages are reported: each is counted, and the log has a line for a kind now and then.
pub struct Shortages {
    count: Box<dyn Fn(Shortage) + Send + Sync>,
    told: Mutex<[Told; ALL.len()]>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Told {
    at: Option<Instant>,
    since: u64,
}

impl Default for Shortages {
    fn default() -> Shortages {
        Shortages::new(|_| {})
    }
}

impl fmt::Debug for Shortages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shortages")
    }
}

impl Shortages {
    /// Tells `count` of each.
    pub fn new(count: impl Fn(Shortage) + Send + Sync + 'static) -> Shortages {
        Shortages { count: Box::new(count), told: Mutex::default() }
    }

    /// Something is lacking.
    pub(crate) fn report(&self, shortage: Shortage) {
        (self.count)(shortage);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(times) = told[shortage as usize].speak(now()) {
            tracing::warn!(
                shortage = shortage.as_str(),
                times,
                "jobs wait or go back to the control plane without using an attempt: {shortage}"
            );
        }
    }
}

impl Told {
    /// How often it was, if it is time to say so.
    fn speak(&mut self, now: Instant) -> Option<u64> {
        self.since += 1;
        if self.at.is_some_and(|at| now < at + SPEAK) {
            return None;
        }
        self.at = Some(now);
        Some(std::mem::take(&mut self.since))
    }
}

/// What the limit of open files leaves room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Attempts at once.
    pub attempts: u32,
    /// Idle connections.
    pub idle: usize,
    /// Name lookups at once, each with two sockets or more.
    pub lookups: usize,
}

/// Files that are opened beside those for jobs: streams to the control plane, the admin port, settings that are read again.
const OTHERS: u64 = 16;
/// More lookups at once are of no use.
const MOST_LOOKUPS: u64 = 256;

impl Room {
    /// Raises the limit as far as this process may, and shares it out.
    #[must_use]
    pub fn make() -> Room {
        let mut limit = getrlimit(Resource::Nofile);
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::warn!("failed to raise the limit of open files: {error}");
        }
        let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        // Where the system does not say what is open, it is about this.
        let open = std::fs::read_dir("/proc/self/fd").map_or(16, |files| files.count() as u64);
        Room::within(files, open)
    }

    /// Of so many files, of which some are open.
    fn within(files: u64, open: u64) -> Room {
        let free = files.saturating_sub(open + OTHERS);
        let share = |eighths: u64| free / 8 * eighths + free % 8 * eighths / 8;
        Room {
            attempts: u32::try_from(share(5)).unwrap_or(u32::MAX).max(1),
            idle: usize::try_from(share(2)).unwrap_or(usize::MAX),
            lookups: usize::try_from((free / 16).clamp(1, MOST_LOOKUPS)).expect("it is small"),
        }
    }

    /// At most this many jobs at once, of these that are wanted. Each stream has one at least.
    #[must_use]
    pub fn jobs(&self, wanted: u32, streams: u32) -> u32 {
        let jobs = wanted.min(self.attempts.max(streams));
        if jobs < wanted {
            tracing::warn!(
                max_in_flight = jobs,
                wanted,
                "the limit of open files allows fewer jobs in flight than `max_in_flight`; raise it (ulimit -n, LimitNOFILE=)"
            );
        }
        jobs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;

    #[test]
    fn what_the_machine_lacks_is_told_from_what_the_endpoint_does() {
        let (v4, v6): (SocketAddr, SocketAddr) =
            ("1.1.1.1:443".parse().unwrap(), "[2606::1]:443".parse().unwrap());
        for (errno, for_v4, for_v6) in [
            (Errno::MFILE, Some("open_files"), Some("open_files")),
            (Errno::NFILE, Some("system_open_files"), Some("system_open_files")),
            (Errno::NOMEM, Some("memory"), Some("memory")),
            (Errno::NOBUFS, Some("socket_buffers"), Some("socket_buffers")),
            (Errno::ADDRNOTAVAIL, Some("local_ports"), None),
            (Errno::CONNREFUSED, None, None),
            (Errno::NETUNREACH, None, None),
            (Errno::TIMEDOUT, None, None),
            (Errno::CONNRESET, None, None),
        ] {
            let error = io::Error::from(errno);
            let word = |peer| Shortage::of_connecting(&error, peer).map(Shortage::as_str);
            assert_eq!((word(v4), word(v6)), (for_v4, for_v6), "{errno:?}");
        }
        assert_eq!(Shortage::of(&io::Error::other("x")), None);
        for (shortage, word) in ALL.into_iter().zip(WORDS) {
            assert_eq!(shortage.as_str(), word);
        }
    }

    #[test]
    fn the_log_is_not_flooded() {
        let start = now();
        let mut told = Told::default();
        assert_eq!(told.speak(start), Some(1));
        assert_eq!(told.speak(start), None);
        assert_eq!(told.speak(start + SPEAK / 2), None);
        assert_eq!(told.speak(start + SPEAK), Some(3));
    }

    #[test]
    fn files_are_shared_out() {
        let room = |files, open| {
            let Room { attempts, idle, lookups } = Room::within(files, open);
            (attempts, idle, lookups)
        };
        assert_eq!(room(64, 16), (20, 8, 2));
        assert_eq!(room(1024, 16), (620, 248, 62));
        assert_eq!(room(10, 16), (1, 0, 1));
        assert_eq!(room(u64::MAX, 16).0, u32::MAX);
        for files in 40..5000 {
            let (attempts, idle, lookups) = room(files, 16);
            let used = u64::from(attempts) + idle as u64 + 2 * lookups as u64 + 16 + OTHERS;
            assert!(used <= files + 2, "{files}: {used}");
        }
        assert_eq!(Room::within(64, 16).jobs(512, 2), 20);
        assert_eq!(Room::within(64, 16).jobs(8, 2), 8);
        assert_eq!(Room::within(1, 16).jobs(512, 2), 2);
    }
}
