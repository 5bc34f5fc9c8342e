//! Makes sled sync what it writes.
//!
//! sled 0.34 on Linux calls `sync_file_range` after each write to its log, which promises nothing after a power cut: neither the
//! file's new length and extents nor the device's cache are written. Where the kernel does not know that call, sled calls
//! `fsync` instead. So this process is told that its kernel does not know it: a seccomp filter, which every thread has, answers
//! `ENOSYS` to this one call and allows every other one.
//!
//! sled's own order of writes rests on it: it uses a segment of its log again only when what replaces its content is "stable".

use std::sync::OnceLock;

use crate::store::StoreError;

/// Installs the filter, once in a process.
///
/// # Errors
/// When the kernel refuses it: then sled's files are not safe against a power cut.
pub(super) fn require() -> Result<(), StoreError> {
    static DONE: OnceLock<Result<(), String>> = OnceLock::new();
    DONE.get_or_init(install).clone().map_err(|problem| {
        StoreError::Unavailable(format!(
            "failed to install the seccomp filter that makes the store sync its files: {problem}; the kernel needs \
             CONFIG_SECCOMP_FILTER, and the container's security profile must allow the calls seccomp and prctl"
        ))
    })
}

#[cfg(target_os = "linux")]
fn install() -> Result<(), String> {
    use std::collections::BTreeMap;

    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

    let of = |error: seccompiler::BackendError| error.to_string();
    let architecture = TargetArch::try_from(std::env::consts::ARCH).map_err(of)?;
    let unknown = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    let rules = BTreeMap::from([(libc::SYS_sync_file_range, Vec::new())]);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, unknown, architecture).map_err(of)?;
    let program = BpfProgram::try_from(filter).map_err(of)?;
    seccompiler::apply_filter_all_threads(&program).map_err(|error| error.to_string())
}

/// Elsewhere sled syncs by itself.
#[cfg(not(target_os = "linux"))]
fn install() -> Result<(), String> {
    Ok(())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #[test]
    fn the_call_that_syncs_nothing_is_unknown_from_then_on() {
        super::require().unwrap();
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        assert!(status.lines().any(|line| line == "Seccomp:\t2"), "no filter is installed: {status}");
        // In a thread that was not started by this one, too.
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        assert!(status.lines().any(|line| line == "Seccomp:\t2"), "{status}");
    }
}
