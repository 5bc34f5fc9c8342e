//! Those who want to be agents, too many or too often.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use postrider_domain::join::Join;
use postrider_proto::agent::enrollment_service_client::EnrollmentServiceClient;
use postrider_proto::agent::{EnrollRequest, Identity};
use postrider_tests::applicant::{AgentPort, new_key, request};
use rcgen::KeyPair;
use tokio::task::JoinSet;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::Besieged;

/// Connections, and calls on each: more in all than one network may make at once, and no more on one connection than a
/// client without a certificate may make.
const CONNECTIONS: u8 = 8;
const CALLS: usize = 50;
/// What one network may make at once.
const BURST: usize = 200;

/// A connection to the agents' port from an address of this machine.
pub(super) fn channel(port: &AgentPort, from: [u8; 4]) -> Result<Channel> {
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&port.trust));
    let endpoint = Endpoint::from_shared(port.url.clone())?.local_address(Some(IpAddr::from(from)));
    Ok(endpoint.tls_config(tls)?.connect_lazy())
}

async fn enroll(channel: &Channel, join: &Join) -> Result<Identity, Status> {
    let key = new_key().map_err(|error| Status::internal(error.to_string()))?;
    enroll_with(channel, join, &key).await
}

pub(super) async fn enroll_with(channel: &Channel, join: &Join, key: &KeyPair) -> Result<Identity, Status> {
    let request = EnrollRequest {
        token: join.token().expose_text().to_string(),
        certificate_request: request(key).map_err(|error| Status::internal(error.to_string()))?,
        ..EnrollRequest::default()
    };
    let answer = EnrollmentServiceClient::new(channel.clone()).enroll(request).await?.into_inner();
    answer.identity.ok_or_else(|| Status::internal("no identity in the answer"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_enrolls_too_often_is_told_when_to_come_back() -> Result<()> {
    let besieged = Besieged::start(&[]).await?;
    let port = besieged.agents().await?;
    let used_up = besieged.api.join("acme", 1).await?;
    enroll(&channel(&port, [127, 0, 0, 1])?, &used_up).await?;
    let (flooding, token) = (port.clone(), used_up.clone());
    let flood = async move {
        let mut callers = JoinSet::new();
        for _ in 0..CONNECTIONS {
            let (channel, token) = (channel(&flooding, [127, 0, 0, 1])?, token.clone());
            callers.spawn(async move {
                let mut refused = Vec::new();
                for _ in 0..CALLS {
                    refused.extend(enroll(&channel, &token).await.err());
                }
                refused
            });
        }
        Ok(callers.join_all().await.into_iter().flatten().collect::<Vec<_>>())
    };
    let refused = besieged.under("enrollments", 32, flood).await?;
    let (too_many, looked_at): (Vec<_>, Vec<_>) =
        refused.into_iter().partition(|status| status.code() == Code::ResourceExhausted);
    ensure!(looked_at.iter().all(|status| status.code() == Code::Unauthenticated), "{looked_at:?}");
    ensure!((BURST - 1..BURST + 150).contains(&looked_at.len()), "{} were looked at", looked_at.len());
    let told = too_many.first().context("none was turned away")?;
    let wait = told.get_error_details().retry_info().and_then(|info| info.retry_delay);
    ensure!(wait.is_some_and(|wait| wait >= Duration::from_secs(1)), "{told:?}");
    // Another network is not to blame.
    let join = besieged.api.join("acme", 1).await?;
    enroll(&channel(&port, [127, 0, 0, 2])?, &join).await?;
    Ok(())
}

#[tokio::test]
async fn a_client_without_a_certificate_makes_few_calls() -> Result<()> {
    let besieged = Besieged::start(&[]).await?;
    let port = besieged.agents().await?;
    let join = besieged.api.join("acme", 1).await?;
    let channel = channel(&port, [127, 0, 0, 1])?;
    enroll(&channel, &join).await?;
    let cut = async {
        loop {
            let refused = enroll(&channel, &join).await.err().context("it has enrolled twice")?;
            if refused.code() != Code::Unauthenticated {
                return anyhow::Ok(refused);
            }
        }
    };
    let cut: Status = tokio::time::timeout(Duration::from_secs(20), cut).await??;
    ensure!(cut.code() != Code::ResourceExhausted, "the connection is cut first: {cut:?}");
    // A new connection is a new beginning.
    let again = enroll(&channel, &join).await.err().context("it has enrolled twice")?;
    assert_eq!(again.code(), Code::Unauthenticated, "{again:?}");
    Ok(())
}
