//! What the control plane says of itself and its agents. A question that is refused is a finding too.

use postrider_domain::time::Timestamp;
use postrider_proto::v1;
use tonic::{Code, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use super::{Finding, judge};
use crate::client::Client;
use crate::clock;
use crate::failure::{Doing as _, Failure, Result};
use crate::pages::{Limit, collect};

/// All that can be asked with this token. `shown` is when the certificate expires that the API has
/// shown.
pub(super) async fn everything(client: &Client, shown: Option<Timestamp>) -> Vec<Finding> {
    let mut findings = vec![health(client).await];
    let before = clock::now();
    let system = match client.system().get_system(v1::GetSystemRequest {}).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => {
            findings.push(refused(&status));
            return findings;
        }
    };
    let after = clock::now();
    findings.extend(of_system(&system, shown, (before, after)));
    for more in [of_agents(client, &system.version).await, of_secrets(client).await] {
        findings.extend(more.unwrap_or_else(|failure| vec![unanswered(&failure)]));
    }
    findings
}

async fn health(client: &Client) -> Finding {
    let request = HealthCheckRequest { service: String::new() };
    match HealthClient::new(client.channel()).check(request).await {
        Ok(answer) if answer.get_ref().status() == ServingStatus::Serving => {
            Finding::ok("health", "the control plane serves")
        }
        Ok(_) => Finding::problem("health", "the control plane is stopping", "wait until it is back"),
        Err(status) => Finding::problem(
            "health",
            format!("the control plane's health cannot be asked: {}", status.message()),
            "check that Postrider's API listens there, and that proxies in front of it pass gRPC (HTTP/2)",
        ),
    }
}

fn of_system(
    system: &v1::GetSystemResponse,
    shown: Option<Timestamp>,
    (before, after): (Timestamp, Timestamp),
) -> Vec<Finding> {
    let mut findings = vec![judge::version(&system.version)];
    if let Some(time) = &system.time {
        findings.push(judge::clock(judge::from_wire(time), before, after));
    }
    let next = "look at the control plane's log and at its /readyz";
    findings.extend(system.problems.iter().map(|problem| Finding::problem("health", problem.clone(), next)));
    findings.extend(judge::configured(system, shown, after));
    findings.extend(judge::bootstrap(system));
    findings.push(judge::store(system));
    findings.push(judge::agent_address(system));
    findings
}

async fn of_agents(client: &Client, version: &str) -> Result<Vec<Finding>> {
    let pools = collect(Limit::ALL, "list the pools", async |page_size, page_token| {
        client.pools().list_pools(v1::ListPoolsRequest { page_size, page_token }).await
    });
    let pools = pools.await?.entries;
    let agents = collect(Limit::ALL, "list the agents", async |page_size, page_token| {
        let request = v1::ListAgentsRequest { pool: String::new(), page_size, page_token };
        client.agents().list_agents(request).await
    });
    let agents = agents.await?.entries;
    let authorities = client.agents().list_authorities(v1::ListAuthoritiesRequest {}).await;
    let authorities = authorities.doing("list the authorities")?.into_inner();
    let mut findings = judge::authorities(&authorities.authorities, clock::now());
    findings.extend(pools.iter().map(judge::pool));
    findings.extend(judge::versions(&pools, version));
    findings.extend(judge::agents(&agents, clock::now()));
    Ok(findings)
}

async fn of_secrets(client: &Client) -> Result<Vec<Finding>> {
    let sealed = client.secrets().get_secrets_status(v1::GetSecretsStatusRequest {}).await;
    let sealed = sealed.doing("get the status of the secrets")?.into_inner();
    let tokens = collect(Limit::ALL, "list the tokens", async |page_size, page_token| {
        let request = v1::ListTokensRequest { page_size, page_token };
        client.tokens().list_tokens(request).await
    });
    let tokens = tokens.await?.entries;
    let mut findings = vec![judge::secrets(&sealed)];
    findings.extend(judge::tokens(&tokens, clock::now()));
    Ok(findings)
}

fn unanswered(failure: &Failure) -> Finding {
    Finding::problem("health", failure.to_string(), "look at the control plane's log")
}

fn refused(status: &Status) -> Finding {
    let told = status.message();
    match status.code() {
        Code::Unauthenticated => Finding::problem(
            "token",
            format!("the token is not accepted: {told}"),
            "give an admin's token with --token-file (POSTRIDER_TOKEN_FILE)",
        ),
        Code::PermissionDenied => Finding::warning(
            "token",
            format!("the rest cannot be seen with this token: {told}"),
            "give the token of an admin that is not confined to a tenant",
        ),
        Code::Unimplemented => Finding::warning(
            "version",
            "the control plane does not know this question: it is older than this command",
            "use the command of the control plane's version",
        ),
        code => Finding::problem(
            "health",
            format!("the control plane did not answer ({code:?}): {told}"),
            "look at its log",
        ),
    }
}
