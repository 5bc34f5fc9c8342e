//! The part of `SubscriptionService` that has an agent look at an endpoint: diagnoses, and validation handshakes.

use std::sync::Arc;
use std::time::Duration;

use postrider_domain::access::Scope;
use postrider_domain::audit::Entry;
use postrider_domain::id::{AgentId, PoolName};
use postrider_domain::validation::{
    ALLOWED_ORIGIN, ALLOWED_RATE, Answer, REQUEST_ORIGIN, REQUEST_RATE, Validation, judge, wanted_rate,
};
use postrider_proto::agent::{Diagnose, Header};
use postrider_proto::v1::{self, OutcomeClass};
use postrider_proto::{diagnosis, time};
use tonic::Status;

use super::{Api, status};
use crate::diagnoses::{LOOK_WITHIN, Seen, Unseen, Whom};
use crate::dispatch::USER_AGENT;
use crate::secrets::KeyedSubscription;

impl Api {
    pub(super) async fn diagnose(
        &self,
        request: v1::DiagnoseSubscriptionRequest,
    ) -> Result<v1::DiagnoseSubscriptionResponse, Status> {
        let row = self.subscription(&request.tenant, &request.subscription)?;
        self.check_pool_of(&row.subscription)?;
        let diagnose = question(&row, "HEAD", Vec::new());
        let (diagnosis, _) = self.look(&row, &request.agent, diagnose).await?;
        let outcome = diagnosis.outcome().as_str_name();
        let detail = format!("by {} of the pool {}: {outcome}", diagnosis.agent, diagnosis.pool);
        let tenant = Some(&row.subscription.tenant);
        let entry = self.entry("DiagnoseSubscription", tenant, row.subscription.id);
        self.record(Entry { detail, ..entry }).await?;
        Ok(v1::DiagnoseSubscriptionResponse { diagnosis: Some(diagnosis) })
    }

    pub(super) async fn validate(
        &self,
        request: v1::ValidateSubscriptionRequest,
    ) -> Result<v1::ValidateSubscriptionResponse, Status> {
        let row = self.subscription(&request.tenant, &request.subscription)?;
        self.check_pool_of(&row.subscription)?;
        if !row.subscription.handshake {
            let message =
                "the subscription does not want a validation handshake; set validation_handshake first";
            return Err(status::precondition("VALIDATION_NOT_WANTED", message));
        }
        let Some(origin) = &self.webhook_origin else {
            let message =
                "the control plane does not know by which name it asks; set webhook_origin in its settings";
            return Err(status::precondition("WEBHOOK_ORIGIN_UNKNOWN", message));
        };
        let wanted = wanted_rate(row.subscription.rate_limit);
        let mut headers = vec![header(REQUEST_ORIGIN, origin)];
        headers.extend(wanted.map(|rate| header(REQUEST_RATE, &rate.to_string())));
        let diagnose = question(&row, "OPTIONS", headers);
        let (diagnosis, looked) = self.look(&row, &request.agent, diagnose).await?;
        let now = self.clock.wall();
        let answered = matches!(diagnosis.outcome(), OutcomeClass::Success | OutcomeClass::HttpStatus);
        let validation = if answered {
            let answer = Answer {
                status: u16::try_from(diagnosis.http_status).unwrap_or(0),
                origin: looked.header(ALLOWED_ORIGIN),
                rate: looked.header(ALLOWED_RATE),
            };
            judge(origin, wanted, answer, now)
        } else {
            Validation::unreachable(&diagnosis.detail, now)
        };
        let (row, warnings) = self.keep_validation(&request, &row, validation).await?;
        let subscription = Some(self.show(&row).await);
        Ok(v1::ValidateSubscriptionResponse { subscription, diagnosis: Some(diagnosis), warnings })
    }

    /// Writes what the endpoint answered, if the question still stands, and says what is to be looked at.
    async fn keep_validation(
        &self,
        request: &v1::ValidateSubscriptionRequest,
        asked: &KeyedSubscription,
        validation: Validation,
    ) -> Result<(Arc<KeyedSubscription>, Vec<String>), Status> {
        let _change = self.registry.change().await;
        let row = self.subscription(&request.tenant, &request.subscription)?;
        if row.subscription.url != asked.subscription.url || !row.subscription.handshake {
            let message = "the subscription's URL was changed meanwhile; validate it again";
            return Err(status::precondition("SUBSCRIPTION_CHANGED", message));
        }
        let mut row = (*row).clone();
        let mut warnings = Vec::new();
        let slower = validation.slower(row.subscription.rate_limit);
        let pool = &row.subscription.pool;
        let detail = format!("{:?}: {}; in the pool {pool}", validation.state, validation.detail);
        match (slower, validation.allowed_rate) {
            (Some(limit), Some(_)) if request.apply_rate => row.subscription.rate_limit = Some(limit),
            (Some(limit), Some(allowed)) => warnings.push(format!(
                "rate_limit: the endpoint allows {allowed} requests a minute, and nothing keeps to that; set rate_limit to \
                 {} a second, or validate with apply_rate",
                limit.per_second
            )),
            _ => {}
        }
        if !validation.detail.is_empty() {
            warnings.push(format!("validation: {}", validation.detail));
        }
        row.subscription.validation = Some(validation);
        let row = self.save(row, None, "ValidateSubscription", &detail).await?;
        Ok((row, warnings))
    }

    /// Has an agent look; what it has seen, as the caller may see it.
    async fn look(
        &self,
        row: &KeyedSubscription,
        agent: &str,
        diagnose: Diagnose,
    ) -> Result<(v1::Diagnosis, diagnosis::Looked), Status> {
        let agent: Option<AgentId> =
            (!agent.is_empty()).then(|| status::parse("agent", agent)).transpose()?;
        let pools = self.pools_of(row);
        let (method, url) = (diagnose.method.clone(), self.show_url(&row.subscription.url));
        let now = self.clock.wall();
        let whom = Whom { pools: &pools, agent: agent.as_ref() };
        let seen = self.diagnoses.ask(row.subscription.id, whom, diagnose).await;
        let Seen { agent, pool, looked } = seen.map_err(|unseen| self.refusal(&unseen))?;
        let mut shown = v1::Diagnosis {
            agent: agent.to_string(),
            pool: pool.to_string(),
            time: Some(time::write(now)),
            method,
            url,
            ..looked.shown.clone()
        };
        if self.caller.scope != Scope::Everything {
            diagnosis::confine(&mut shown);
        }
        Ok((shown, looked))
    }

    /// The pools whose agents may deliver for a subscription, its own first: those that allow its tenant.
    pub(super) fn pools_of(&self, row: &KeyedSubscription) -> Vec<PoolName> {
        let own = row.subscription.pool.clone();
        let fallback = self.pools.get(&own).and_then(|pool| pool.settings.fallback);
        let fallback = fallback.filter(|_| row.subscription.allow_fallback);
        let pools = std::iter::once(own).chain(fallback);
        pools.filter(|pool| self.pools.allow(pool, &row.subscription.tenant)).collect()
    }

    /// Why nobody has looked, as the caller may know it: agents and their versions are the operator's business.
    pub(super) fn refusal(&self, unseen: &Unseen) -> Status {
        let message = match self.caller.scope {
            Scope::Everything => unseen.to_string(),
            _ => unseen.for_tenants(),
        };
        refusal(unseen, message)
    }
}

/// The request of a look: with the headers that the endpoint gets with every delivery, so that it answers as it would then.
/// Nothing is signed, since nothing is delivered.
fn question(row: &KeyedSubscription, method: &str, headers: Vec<Header>) -> Diagnose {
    let subscription = &row.subscription;
    let custom = subscription.headers.iter().map(|(name, value)| header(name, value));
    let headers = std::iter::once(header("user-agent", USER_AGENT)).chain(headers).chain(custom).collect();
    let millis = |duration: Duration| u32::try_from(duration.as_millis()).unwrap_or(u32::MAX);
    Diagnose {
        id: 0,
        method: method.to_owned(),
        url: subscription.url.as_str().to_owned(),
        headers,
        connect_timeout_ms: millis(subscription.connect_timeout.min(LOOK_WITHIN)),
        timeout_ms: millis(subscription.timeout.min(LOOK_WITHIN)),
    }
}

fn header(name: &str, value: &str) -> Header {
    Header { name: name.to_owned(), value: value.to_owned() }
}

fn refusal(unseen: &Unseen, message: String) -> Status {
    match unseen {
        Unseen::NoAgent(_) => status::unreachable_now("NO_AGENT", message),
        Unseen::Lost(_) => status::unreachable_now("AGENT_LOST", message),
        Unseen::NotThere(_) => status::precondition("AGENT_NOT_THERE", message),
        Unseen::TooOld { .. } => status::precondition("AGENT_TOO_OLD", message),
        Unseen::Busy(_) => status::too_often("AGENT_BUSY", message, Duration::from_secs(1)),
        Unseen::TooManyTests => status::too_often("TOO_MANY_TESTS", message, Duration::from_secs(1)),
        Unseen::TestedTooOften(wait) => status::too_often("TOO_MANY_TESTS", message, *wait),
        Unseen::TooOften(wait) => status::too_often("TOO_MANY_LOOKS", message, *wait),
    }
}
