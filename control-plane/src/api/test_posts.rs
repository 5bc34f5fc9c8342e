//! Test events: one POST each, sent at once by an agent and answered directly. Called by
//! `SubscriptionService` and `SigningKeyService`.
//!
//! A test event is no delivery. The store, the lanes and the health of the subscription never hear
//! of it, and it does not matter whether the subscription is paused, disabled or failing. What the
//! answer shows of a signing key is noted, as it is with deliveries.

use std::sync::Arc;

use bytes::Bytes;
use postrider_domain::audit::Entry;
use postrider_domain::event::{Attributes, Event, EventTypeName};
use postrider_domain::id::{EventKey, KeyId};
use postrider_domain::outcome::{Attempt, Class, Outcome};
use postrider_domain::signing::{KeyError, KeyState, SigningKey, key_test_verdict, test_verdict};
use postrider_domain::time::Timestamp;
use postrider_proto::session::Report;
use postrider_proto::{attempt, v1};
use tonic::Status;

use super::{Api, status, views};
use crate::diagnoses::{LOOK_WITHIN, Poster, Unseen, Whom};
use crate::dispatch;
use crate::secrets::KeyedSubscription;

/// The type of a test event when the caller names none.
const TEST_TYPE: &str = "postrider.test";

/// What is particular to one test event.
struct Wanted<'a> {
    /// The call, as the audit log names it.
    action: &'static str,
    event_type: &'a str,
    request_id: &'a str,
    /// The key that alone signs it; all that sign now if there is none.
    key: Option<KeyId>,
}

/// What came of a test event.
struct Answered {
    event_id: String,
    attempt: Attempt,
}

impl Api {
    pub(super) async fn test(
        &self,
        request: v1::TestSubscriptionRequest,
    ) -> Result<v1::TestSubscriptionResponse, Status> {
        let row = self.subscription(&request.tenant, &request.subscription)?;
        self.check_pool_of(&row.subscription)?;
        let wanted = Wanted {
            action: "TestSubscription",
            event_type: &request.event_type,
            request_id: &request.request_id,
            key: None,
        };
        let Answered { event_id, attempt } = self.send_test(&row, wanted).await?;
        let verdict = test_verdict(&attempt.outcome);
        Ok(v1::TestSubscriptionResponse { event_id, attempt: Some(attempt::write(&attempt)), verdict })
    }

    pub(super) async fn test_key(
        &self,
        request: v1::TestSigningKeyRequest,
    ) -> Result<v1::TestSigningKeyResponse, Status> {
        let row = self.subscription(&request.tenant, &request.subscription)?;
        self.check_pool_of(&row.subscription)?;
        let wanted = Wanted {
            action: "TestSigningKey",
            event_type: &request.event_type,
            request_id: &request.request_id,
            key: Some(status::parse("signing_key", &request.signing_key)?),
        };
        let Answered { event_id, attempt } = self.send_test(&row, wanted).await?;
        let verdict = key_test_verdict(&attempt.outcome);
        Ok(v1::TestSigningKeyResponse { event_id, attempt: Some(attempt::write(&attempt)), verdict })
    }

    /// Sends one test event, and waits for what came of it.
    async fn send_test(&self, row: &Arc<KeyedSubscription>, wanted: Wanted<'_>) -> Result<Answered, Status> {
        let key = wanted.key;
        // What is wrong with the request is said before an agent is looked for.
        signers(row, key, self.clock.wall())?;
        let event = self.test_event(row, wanted.event_type).await?;
        let poster = self.poster(row)?;
        let signed = key.map(|key| format!(", signed only with {key}")).unwrap_or_default();
        let entry = self.entry(wanted.action, Some(&row.subscription.tenant), row.subscription.id);
        let entry = Entry {
            request_id: wanted.request_id.to_owned(),
            detail: format!(
                "{} of type {}{signed}, by {} of the pool {}",
                event.id,
                event.event_type,
                poster.agent(),
                poster.pool()
            ),
            ..entry
        };
        // Recorded first: nothing is sent that is not on record.
        self.record(entry).await?;
        let (event_id, agent) = (event.id.to_string(), poster.agent().clone());
        // The key may have been revoked, and the URL changed, while the record was written.
        let (tenant, id) = (&row.subscription.tenant, row.subscription.id);
        let row = self.registry.get_of(tenant, id);
        let row = row.ok_or_else(|| status::not_found("subscription", &id.to_string()))?;
        self.check_pool_of(&row.subscription)?;
        let started = self.clock.wall();
        let mut outcome = self.post(&row, poster, &event, key, started).await?;
        if let Some(response) = &mut outcome.response {
            row.subscription.headers.hide_in(response);
        }
        Ok(Answered { event_id, attempt: Attempt { number: 1, started, agent, outcome } })
    }

    fn poster(&self, row: &KeyedSubscription) -> Result<Poster, Status> {
        let pools = self.pools_of(row);
        let whom = Whom { pools: &pools, agent: None };
        let poster = self.diagnoses.poster(&row.subscription.tenant, row.subscription.id, whom);
        poster.map_err(|unseen| self.refusal(&unseen))
    }

    /// Signs the event, has it POSTed, and notes which keys have signed it and whether one alone
    /// was accepted.
    async fn post(
        &self,
        row: &KeyedSubscription,
        poster: Poster,
        event: &Event,
        key: Option<KeyId>,
        now: Timestamp,
    ) -> Result<Outcome, Status> {
        let keys = signers(row, key, now)?;
        let (mut job, signers) = dispatch::request(row, event, &keys, now);
        let within = dispatch::millis(LOOK_WITHIN);
        job.start_by_ms = self.clock.monotonic_ms() + u64::from(within);
        job.connect_timeout_ms = job.connect_timeout_ms.min(within);
        job.timeout_ms = job.timeout_ms.min(within);
        let subscription = row.subscription.id;
        self.uses.signed(std::iter::once((subscription, &signers[..])), now);
        let agent = poster.agent().clone();
        let outcome = match poster.post(job).await.map_err(|unseen| self.refusal(&unseen))? {
            Report::Made(outcome) => *outcome,
            Report::NotStarted => return Err(self.refusal(&Unseen::Busy(agent))),
        };
        if let ([alone], Class::Success) = (&signers[..], outcome.class) {
            self.uses.accepted(subscription, *alone, now, self.clock.wall());
        }
        Ok(outcome)
    }

    /// An event that is never stored: of the catalogue's example, if there is one.
    async fn test_event(&self, row: &KeyedSubscription, event_type: &str) -> Result<Event, Status> {
        let tenant = row.subscription.tenant.clone();
        let event_type = if event_type.is_empty() { TEST_TYPE } else { event_type };
        let event_type: EventTypeName = status::parse("event_type", event_type)?;
        let entry = self.store.event_type(&tenant, &event_type).await;
        let entry = entry.map_err(|error| status::store(&error))?;
        let example = entry.map(|entry| entry.example).filter(|example| !example.is_empty());
        let default = format!(r#"{{"subscription":"{}"}}"#, row.subscription.id);
        let data: Bytes = example.unwrap_or(default).into();
        let now = self.clock.wall();
        let key = EventKey::new(now, rand::random());
        let attributes = Attributes::default();
        Ok(Event {
            key,
            id: key.into(),
            tenant,
            event_type,
            timestamp: now.into(),
            accepted: now,
            data,
            attributes,
            ordering_key: None,
            trace: None,
        })
    }
}

/// The keys that sign: the one that is tested, or all that sign now.
fn signers(row: &KeyedSubscription, key: Option<KeyId>, now: Timestamp) -> Result<Vec<&SigningKey>, Status> {
    let Some(id) = key else { return Ok(row.keys.signing(now)) };
    let refused = |error: KeyError| views::key_error(&error);
    let key = row.keys.get(Some(id)).ok_or_else(|| refused(KeyError::NotFound))?;
    if key.state(now) == KeyState::Revoked {
        return Err(refused(KeyError::Revoked));
    }
    if !row.subscription.profiles.shows(key.scheme) {
        return Err(refused(KeyError::KeyWithoutProfile));
    }
    Ok(vec![key])
}
