//! An agent in this process, with one stream.

use postrider_agent::app::{self, AppError};
use postrider_agent::{Args, Config};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::control_plane::ControlPlane;
use crate::endpoint::Endpoint;
use crate::tls_control_plane::TlsControlPlane;

/// It ends with this value, at once.
pub(crate) struct Agent {
    pub(crate) stop: CancellationToken,
    task: JoinHandle<Result<(), AppError>>,
}

impl Agent {
    /// An agent of `control_plane` that may call `endpoint` and hold five jobs.
    pub(crate) fn start(control_plane: &ControlPlane, endpoint: &Endpoint) -> Agent {
        let args = Args {
            control_plane: Some(control_plane.url()),
            agent_id: Some("agent-1".into()),
            streams: Some("1".into()),
            max_in_flight: Some("5".into()),
            egress_allow_cidrs: Some("127.0.0.0/8".into()),
            egress_allow_ports: Some(endpoint.address.port().to_string()),
            egress_allow_http: Some("true".into()),
            shutdown_grace: Some("10s".into()),
            ..Args::default()
        };
        Agent::run(&args)
    }

    /// An agent of a control plane behind TLS, which may call `endpoint` and hold five jobs on each of its streams.
    pub(crate) fn enroll(control_plane: &TlsControlPlane, endpoint: &Endpoint, streams: u32) -> Agent {
        Agent::run(&Args {
            join: Some(control_plane.join().into()),
            streams: Some(streams.to_string()),
            max_in_flight: Some((5 * streams).to_string()),
            egress_allow_cidrs: Some("127.0.0.0/8".into()),
            egress_allow_ports: Some(endpoint.address.port().to_string()),
            egress_allow_http: Some("true".into()),
            shutdown_grace: Some("10s".into()),
            ..Args::default()
        })
    }

    fn run(args: &Args) -> Agent {
        let config = Config::load(args, std::iter::empty()).unwrap();
        let stop = CancellationToken::new();
        let task = tokio::spawn(app::run(config, None, stop.clone()));
        Agent { stop, task }
    }

    /// How it ends.
    pub(crate) async fn ended(mut self) -> Result<(), AppError> {
        (&mut self.task).await.unwrap()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.task.abort();
    }
}
