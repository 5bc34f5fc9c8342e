//! Wires the agent together and keeps its tasks.
//!
//! Dramatis personae: each stream to the control plane is a task ([`crate::session`]); each of its jobs is a
//! task of that stream; each connection to an endpoint has a task in the transport's pool. One sweep closes
//! idle connections. Whatever ends with an error ends all.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use postrider_domain::egress::Policy;
use tokio::task::{JoinError, JoinSet};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity as TlsIdentity};
use tracing::Instrument as _;

use crate::config::{Config, TlsFiles};
use crate::session::{Credit, Identity, Link, Rejected, Stream};
use crate::transport::guard::Guard;
use crate::transport::http::{HttpTransport, TransportError};
use crate::transport::tls::system_roots;

/// Why the agent ended other than by doing what it was told.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// Coming back is useless until somebody changes something.
    #[error(transparent)]
    Rejected(#[from] Rejected),
    /// The way to endpoints could not be set up.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// A file for TLS towards the control plane went away or is no good.
    #[error("{path} cannot be read", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// TLS towards the control plane could not be set up.
    #[error("TLS for the control plane could not be set up; check the files under `tls`")]
    Tls(#[source] tonic::transport::Error),
    /// A task died of a fault of ours.
    #[error("a stream's task has failed")]
    Task(#[from] JoinError),
    /// Told to stop, and not done in time.
    #[error("stopped after {}s of grace with jobs under way or outcomes not acknowledged", .0.as_secs())]
    GraceExceeded(Duration),
}

/// Runs the agent until `stop` is cancelled and everything is finished and reported, or the grace is over.
///
/// # Errors
///
/// [`AppError`].
pub async fn run(config: Config, stop: CancellationToken) -> Result<(), AppError> {
    let policy = Policy { own_addresses: interface_addresses(), ..config.egress.clone() };
    let guard = Arc::new(Guard::new(policy));
    let transport = Arc::new(HttpTransport::new(Arc::clone(&guard), system_roots(), &config.dns_servers)?);
    let link = Link::new(endpoint(&config)?, Arc::clone(&guard), config.max_in_flight_bytes);
    let identity = Arc::new(Identity {
        agent_id: config.agent_id.to_string(),
        pool: config.pool.to_string(),
        instance_id: format!("{:032x}", rand::random::<u128>()),
        egress_policy_hash: guard.policy_hash(),
    });
    tracing::info!(
        agent = identity.agent_id,
        pool = identity.pool,
        instance = identity.instance_id,
        control_plane = %config.control_plane,
        egress_policy = identity.egress_policy_hash,
        version = env!("CARGO_PKG_VERSION"),
        "agent started"
    );
    let mut streams = JoinSet::new();
    for (number, credit) in (0..).zip(shares(&config)) {
        let span = tracing::info_span!("stream", number);
        let transport = Arc::clone(&transport);
        let stream =
            Stream::new(Arc::clone(&identity), number, credit, link.clone(), transport, stop.clone());
        streams.spawn(stream.run().instrument(span));
    }
    tokio::select! {
        ended = all_end(&mut streams) => ended,
        () = transport.sweep() => Ok(()),
        () = grace_is_over(&stop, config.shutdown_grace) => Err(AppError::GraceExceeded(config.shutdown_grace)),
    }
}

/// Waits for all streams, or for the first that fails.
async fn all_end(streams: &mut JoinSet<Result<(), Rejected>>) -> Result<(), AppError> {
    while let Some(ended) = streams.join_next().await {
        ended??;
    }
    tracing::info!("agent stopped: everything is reported");
    Ok(())
}

async fn grace_is_over(stop: &CancellationToken, grace: Duration) {
    stop.cancelled().await;
    sleep(grace).await;
}

/// The streams' shares of the agent's credit: equal, and nothing lost to rounding.
fn shares(config: &Config) -> impl Iterator<Item = Credit> {
    let (streams, jobs, bytes) = (config.streams, config.max_in_flight, config.max_in_flight_bytes);
    (0..streams).map(move |i| Credit {
        jobs: jobs / streams + u32::from(i < jobs % streams),
        bytes: bytes / u64::from(streams),
    })
}

/// The addresses of this machine. If they cannot be found out, the private ones are still refused.
fn interface_addresses() -> Vec<IpAddr> {
    match if_addrs::get_if_addrs() {
        Ok(interfaces) => interfaces.iter().map(if_addrs::Interface::ip).collect(),
        Err(error) => {
            tracing::warn!("this machine's own addresses cannot be listed, so jobs may call them: {error}");
            Vec::new()
        }
    }
}

fn endpoint(config: &Config) -> Result<Endpoint, AppError> {
    let endpoint = Endpoint::from(config.control_plane.clone());
    if config.control_plane.scheme_str() != Some("https") {
        return Ok(endpoint);
    }
    endpoint.tls_config(client_tls(&config.tls)?).map_err(AppError::Tls)
}

fn client_tls(files: &TlsFiles) -> Result<ClientTlsConfig, AppError> {
    let mut tls = ClientTlsConfig::new();
    tls = match &files.ca {
        Some(ca) => tls.ca_certificate(Certificate::from_pem(read(ca)?)),
        None => tls.trust_anchors(system_roots().roots),
    };
    if let (Some(cert), Some(key)) = (&files.cert, &files.key) {
        tls = tls.identity(TlsIdentity::from_pem(read(cert)?, read(key)?));
    }
    if let Some(name) = &files.server_name {
        tls = tls.domain_name(name);
    }
    Ok(tls)
}

fn read(path: &Path) -> Result<Vec<u8>, AppError> {
    std::fs::read(path).map_err(|source| AppError::File { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Args;

    #[test]
    fn credit_is_shared_out_completely() {
        let args = Args {
            control_plane: Some("http://localhost:1".into()),
            agent_id: Some("a".into()),
            streams: Some("3".into()),
            max_in_flight: Some("8".into()),
            ..Args::default()
        };
        let config = Config::load(&args, std::iter::empty()).unwrap();
        let jobs: Vec<_> = shares(&config).map(|credit| credit.jobs).collect();
        assert_eq!(jobs, [3, 3, 2]);
    }
}
