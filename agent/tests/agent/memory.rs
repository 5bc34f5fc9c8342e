//! What a process has of memory and sockets.

/// This process's.
pub(crate) fn resident_bytes() -> u64 {
    resident_bytes_of("self")
}

/// That of the process with this id.
pub(crate) fn resident_bytes_of(pid: &str) -> u64 {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// The most that the process with this id ever had.
pub(crate) fn peak_bytes(pid: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// How many files and sockets the process with this id has open.
pub(crate) fn descriptors(pid: &str) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}
