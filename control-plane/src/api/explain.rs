//! Why an event is owed to whom.

use std::sync::Arc;

use postrider_domain::event::{Attributes, EventTypeName, check_data};
use postrider_domain::explain::{Accepted, Answer, Explanation, explain};
use postrider_domain::filter::Facts;
use postrider_domain::id::{DeliveryId, SubscriptionId, TenantId};
use postrider_domain::time::Timestamp;
use postrider_domain::violation::Violation;
use postrider_proto::v1::explain_match_request::Subject;
use postrider_proto::v1::{self, FilterAnswer, MatchExplanation};
use postrider_proto::{subscription, time};
use tonic::Status;

use super::{Api, page, status};
use crate::secrets::KeyedSubscription;

const LIST: &str = "explanations";

/// What is asked about.
struct Asked {
    event_type: EventTypeName,
    timestamp: Timestamp,
    attributes: Attributes,
    /// Nothing when retention has erased it.
    data: Option<bytes::Bytes>,
    /// When it was accepted, and what it is owed as; nothing when it is only supposed.
    accepted: Option<(Timestamp, Vec<DeliveryId>)>,
}

impl Api {
    pub(super) async fn explain(
        &self,
        request: v1::ExplainMatchRequest,
    ) -> Result<v1::ExplainMatchResponse, Status> {
        let tenant = self.tenant(&request.tenant)?;
        let asked = match request.subject {
            Some(Subject::Event(id)) => self.stored(&tenant, &id).await?,
            Some(Subject::Supposed(event)) => self.supposed(event)?,
            None => {
                return Err(status::invalid_field(
                    "event",
                    "must be the id of an event, or supposed must hold one",
                ));
            }
        };
        let size = page::size(request.page_size)?;
        let after: Option<SubscriptionId> = page::read(LIST, &request.page_token)?;
        let rows = match request.subscription.as_str() {
            "" => self.registry.list(&tenant, after, size + 1),
            id => vec![self.subscription(&request.tenant, id)?],
        };
        let (explanations, last) = judge(&asked, &rows, size);
        let next_page_token = page::write(LIST, last.filter(|_| explanations.len() < rows.len()));
        let explanations = self.with_deliveries(&tenant, &asked, explanations).await?;
        Ok(v1::ExplainMatchResponse { explanations, next_page_token })
    }

    async fn stored(&self, tenant: &TenantId, id: &str) -> Result<Asked, Status> {
        let row = self.event_row(tenant, id).await?;
        let erased = row.is_erased();
        let event = row.event;
        Ok(Asked {
            event_type: event.event_type,
            timestamp: event.timestamp,
            attributes: event.attributes,
            data: (!erased).then_some(event.data),
            accepted: Some((event.accepted, row.deliveries)),
        })
    }

    fn supposed(&self, event: v1::NewEvent) -> Result<Asked, Status> {
        let within = |violation: Violation| status::invalid(&[violation.within("supposed")]);
        check_data(&event.data, self.max_event_bytes).map_err(within)?;
        let timestamp = event.timestamp.as_ref().map(|given| time::read("supposed.timestamp", given));
        let timestamp = timestamp.transpose().map_err(|violation| status::invalid(&[violation]))?;
        Ok(Asked {
            event_type: status::parse("supposed.type", &event.r#type)?,
            timestamp: timestamp.unwrap_or_else(|| self.clock.wall()),
            attributes: Attributes::new(event.attributes).map_err(within)?,
            data: Some(event.data),
            accepted: None,
        })
    }

    /// Puts the deliveries of a stored event beside its explanations.
    async fn with_deliveries(
        &self,
        tenant: &TenantId,
        asked: &Asked,
        explanations: Vec<(SubscriptionId, MatchExplanation)>,
    ) -> Result<Vec<MatchExplanation>, Status> {
        let Some((_, deliveries)) = &asked.accepted else {
            return Ok(explanations.into_iter().map(|(_, explanation)| explanation).collect());
        };
        let mut rows = Vec::new();
        for (subscription, _) in &explanations {
            if let Some(id) = deliveries.iter().find(|id| id.subscription == *subscription) {
                let row = self.store.delivery_of(tenant, *id).await;
                rows.extend(row.map_err(|error| status::store(&error))?);
            }
        }
        let mut views = self.views(tenant, rows).await?;
        let with_delivery = |(_, mut explanation): (_, MatchExplanation)| {
            let place = views.iter().position(|view| view.subscription == explanation.subscription);
            explanation.delivery = place.map(|place| views.swap_remove(place));
            explanation
        };
        Ok(explanations.into_iter().map(with_delivery).collect())
    }
}

/// As many as the page holds and the event's budget allows, and the last one's subscription.
fn judge(
    asked: &Asked,
    rows: &[Arc<KeyedSubscription>],
    size: usize,
) -> (Vec<(SubscriptionId, MatchExplanation)>, Option<SubscriptionId>) {
    let data = asked.data.as_deref();
    let facts = data.map(|data| Facts::new(&asked.event_type, asked.timestamp, &asked.attributes, data));
    let mut explanations: Vec<(SubscriptionId, MatchExplanation)> = Vec::new();
    for row in rows.iter().take(size) {
        let subscription = &row.subscription;
        let costly = |facts| subscription.filter.as_ref().is_some_and(|filter| !filter.can_afford(facts));
        if !explanations.is_empty() && facts.as_ref().is_some_and(costly) {
            break;
        }
        let accepted = asked.accepted.as_ref().map(|(at, deliveries)| Accepted {
            at: *at,
            owed: deliveries.iter().any(|delivery| delivery.subscription == subscription.id),
        });
        let explanation = explain(subscription, &asked.event_type, facts.as_ref(), accepted);
        explanations.push((subscription.id, write(subscription, explanation)));
    }
    let last = explanations.last().map(|(id, _)| *id);
    (explanations, last)
}

fn write(
    subscription: &postrider_domain::subscription::Subscription,
    explanation: Explanation<'_>,
) -> MatchExplanation {
    let shown = subscription::show(subscription);
    let (answer, error) = match explanation.answer {
        Answer::NotAsked => (FilterAnswer::Unspecified, String::new()),
        Answer::NoFilter => (FilterAnswer::NoFilter, String::new()),
        Answer::Passes => (FilterAnswer::Passes, String::new()),
        Answer::Rejects => (FilterAnswer::Rejects, String::new()),
        Answer::Unanswered(why) => (FilterAnswer::NoAnswer, why.to_string()),
        Answer::Unknown => (FilterAnswer::Unknown, String::new()),
    };
    MatchExplanation {
        subscription: shown.id,
        wanted: explanation.wanted,
        matching_pattern: explanation.pattern.map(ToString::to_string).unwrap_or_default(),
        filter_answer: answer.into(),
        filter_error: error,
        subscription_state: shown.state,
        subscription_state_reason: shown.state_reason,
        delivery: None,
        explanation: explanation.text,
    }
}
