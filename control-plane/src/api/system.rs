//! `SystemService`.

use std::time::Duration;

use postrider_proto::v1::system_service_server::SystemService;
use postrider_proto::{time, v1};
use tokio::time::timeout;
use tonic::{Request, Response, Status};

use super::Api;

/// How long a part may take to give a sign of life.
const SIGN_WITHIN: Duration = Duration::from_secs(5);

#[tonic::async_trait]
impl SystemService for Api {
    async fn get_system(
        &self,
        request: Request<v1::GetSystemRequest>,
    ) -> Result<Response<v1::GetSystemResponse>, Status> {
        let (api, _) = self.call(request);
        let leftover = api.tokens.leftover_bootstrap_file(api.clock.wall());
        let (problems, seen, leftover) = tokio::join!(api.problems(), api.watched.look(), leftover);
        let agents = api.agent_address.as_ref();
        Ok(Response::new(v1::GetSystemResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            time: Some(time::write(api.clock.machine_wall())),
            start_time: Some(time::write(api.clock.started())),
            epoch: api.store.epoch(),
            problems,
            store_bytes: seen.size.unwrap_or_default(),
            disk_free_bytes: seen.free,
            api_certificate_expire_time: seen.api_certificate.map(|validity| time::write(validity.until)),
            api_certificate_start_time: seen.api_certificate.map(|validity| time::write(validity.from)),
            refused_certificates: api.watched.refused(),
            leftover_bootstrap_token_file: leftover
                .map(|file| file.display().to_string())
                .unwrap_or_default(),
            agent_address: agents.map(|(host, port)| authority(host, *port)).unwrap_or_default(),
        }))
    }
}

impl Api {
    async fn problems(&self) -> Vec<String> {
        let of_lanes = async {
            match timeout(SIGN_WITHIN, self.lanes.beat()).await {
                Ok(Some(())) => None,
                Ok(None) => Some("the lanes' task has ended; restart the control plane".to_owned()),
                Err(_) => Some(silent("the lanes' task")),
            }
        };
        let of_store = async {
            match timeout(SIGN_WITHIN, self.store.beat()).await {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(format!("nothing can be accepted: {error}")),
                Err(_) => Some(silent("the store's writer")),
            }
        };
        let (lanes, store) = tokio::join!(of_lanes, of_store);
        lanes.into_iter().chain(store).collect()
    }
}

fn silent(who: &str) -> String {
    format!("{who} has not answered within {} s", SIGN_WITHIN.as_secs())
}

fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}
