//! A connection is an open file to the system, which gives a program only so many: ports must not take them all, for the
//! store opens files too.

use rustix::process::{Resource, getrlimit, setrlimit};
use tracing::warn;

/// Files that are not for connections: the store's, and TLS files that are read anew.
const OTHERS: u64 = 256;

/// Connections of the API and of agents at once, of these that are wanted: as many as the system has files for.
#[must_use]
pub fn connections(api: usize, agents: usize) -> (usize, usize) {
    let files = raise();
    let fitting = fit(api, agents, files);
    if fitting != (api, agents) {
        warn!(
            files,
            max_api_connections = fitting.0,
            max_agent_connections = fitting.1,
            "the limit of open files allows fewer connections than configured; raise it (ulimit -n, LimitNOFILE=)"
        );
    }
    fitting
}

/// Takes as many as may be had.
fn raise() -> u64 {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        warn!(%error, "failed to raise the limit of open files");
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Neither has less than it wants while the other has more than half.
fn fit(api: usize, agents: usize, files: u64) -> (usize, usize) {
    let all = usize::try_from(files.saturating_sub(OTHERS)).unwrap_or(usize::MAX);
    let share = |wanted: usize, other: usize| wanted.min((all / 2).max(all.saturating_sub(other))).max(1);
    (share(api, agents), share(agents, api))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_files_for_others() {
        assert_eq!(fit(10_000, 10_000, u64::MAX), (10_000, 10_000));
        assert_eq!(fit(10_000, 10_000, 20_256), (10_000, 10_000));
        assert_eq!(fit(10_000, 10_000, 1024), (384, 384));
        assert_eq!(fit(500, 30_000, 1056), (400, 400));
        assert_eq!(fit(5, 1_000_000, 1024), (5, 763));
        assert_eq!(fit(1, 1, 10), (1, 1));
    }

    #[test]
    fn what_may_be_had_is_taken() {
        assert_eq!(raise(), getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX));
    }
}
