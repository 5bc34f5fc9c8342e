//! How old a connection to the API may become. The server says goodbye then and takes no new calls on it; what is under way
//! ends in its own time. So clients spread over the servers behind a load balancer again and again, and what a client has
//! once taken it does not keep for good.
//!
//! Connections that were made at the same moment, such as after a restart, must not end at the same moment: the port has
//! several servers, which differ in the age alone, and each connection goes to one of them by chance.

use std::time::Duration;

use anyhow::bail;
use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Server;

/// The parts of an age that ages differ by.
const PARTS: u32 = 20;
/// The parts that the lowest and the highest age have.
const LOWEST: u32 = 16;
const HIGHEST: u32 = 24;

/// The ages at which the servers of the port end connections, around this one.
pub(super) fn spread(age: Option<Duration>) -> Vec<Option<Duration>> {
    let Some(age) = age else { return vec![None] };
    (LOWEST..=HIGHEST).map(|parts| Some(age / PARTS * parts)).collect()
}

/// A server that ends connections at this age.
pub(super) fn limited(server: Server, age: Option<Duration>) -> Server {
    match age {
        Some(age) => server.max_connection_age(age),
        None => server,
    }
}

/// Runs all servers of the port. None may end before it is closed.
pub(super) async fn run_all<F>(servers: Vec<F>, closing: CancellationToken) -> anyhow::Result<()>
where
    F: Future<Output = Result<(), tonic::transport::Error>>,
{
    let mut servers: FuturesUnordered<F> = servers.into_iter().collect();
    while let Some(ended) = servers.next().await {
        ended?;
        if !closing.is_cancelled() {
            bail!("a server of the API's port has ended before the port was closed");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_lie_around_the_one_that_is_set() {
        let minutes = |count: u64| Duration::from_secs(60 * count);
        let ages = spread(Some(minutes(5)));
        assert_eq!((ages[0], ages[8], ages.len()), (Some(minutes(4)), Some(minutes(6)), 9));
        let sum: Duration = ages.iter().flatten().sum();
        assert_eq!(sum / 9, minutes(5));
        assert_eq!(spread(None), [None]);
    }

    #[tokio::test]
    async fn a_server_that_ends_early_is_an_error_and_the_close_is_none() {
        let closing = CancellationToken::new();
        let servers = || vec![std::future::ready(Ok(()))];
        assert!(run_all(servers(), closing.clone()).await.is_err());
        closing.cancel();
        assert!(run_all(servers(), closing).await.is_ok());
    }
}
