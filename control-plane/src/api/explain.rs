//! Why an event is owed to whom.

use std::sync::Arc;

use postrider_domain::cost::Budget;
use postrider_domain::event::{Attributes, EventTypeName, check_data};
use postrider_domain::explain::{Accepted, Answer, Explanation, explain};
use postrider_domain::filter::Facts;
use postrider_domain::id::{DeliveryId, SubscriptionId, TenantId};
use postrider_domain::subscription::Subscription;
use postrider_domain::time::{EventTime, Timestamp};
use postrider_domain::violation::Violation;
use postrider_proto::v1::explain_match_request::Subject;
use postrider_proto::v1::{self, FilterAnswer, MatchExplanation};
use postrider_proto::{subscription, time};
use tonic::Status;

use super::{Api, page, status};
use crate::compute::{Kind, Slice, Work};
use crate::secrets::KeyedSubscription;

const LIST: &str = "explanations";
/// Explanations on a page: with their deliveries, that many are at most about 1 MiB.
const MAX_PAGE: usize = 100;

/// What is asked about.
struct Asked {
    event_type: EventTypeName,
    timestamp: EventTime,
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
        let size = page::size(request.page_size)?.min(MAX_PAGE);
        let list = page::of(LIST, &tenant);
        let after: Option<SubscriptionId> = page::read(&list, &request.page_token)?;
        let rows = match request.subscription.as_str() {
            "" => self.registry.list(&tenant, after, size + 1),
            id => vec![self.subscription(&request.tenant, id)?],
        };
        let (asked, rows) = (Arc::new(asked), Arc::new(rows));
        let explaining = Explaining { asked: asked.clone(), rows: rows.clone(), size };
        let bytes = asked.data.as_ref().map_or(0, bytes::Bytes::len);
        let explained = self.judge.compute().run(&tenant, bytes, explaining).await;
        let (mut explanations, last) = explained.map_err(|refused| status::not_computed(&tenant, refused))?;
        for (id, explanation) in &mut explanations {
            let row = rows.iter().find(|row| row.subscription.id == *id);
            explanation.explanation +=
                &row.map_or_else(String::new, |row| self.barred(row, explanation.wanted));
        }
        let next_page_token = page::write(&list, last.filter(|_| explanations.len() < rows.len()));
        let explanations = self.with_deliveries(&tenant, &asked, explanations).await?;
        Ok(v1::ExplainMatchResponse { explanations, next_page_token })
    }

    /// That the pool does not allow the tenant, as the end of an explanation.
    fn barred(&self, row: &KeyedSubscription, wanted: bool) -> String {
        let Subscription { pool, tenant, .. } = &row.subscription;
        if !wanted || self.pools.allow(pool, tenant) {
            return String::new();
        }
        format!(
            " The pool {pool} is not available to the tenant: deliveries wait until it is, or until the subscription gets \
             another pool."
        )
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
        let timestamp = event.timestamp.as_ref().map(|given| time::read_event("supposed.timestamp", given));
        let timestamp = timestamp.transpose().map_err(|violation| status::invalid(&[violation]))?;
        Ok(Asked {
            event_type: status::parse("supposed.type", &event.r#type)?,
            timestamp: timestamp.unwrap_or_else(|| self.clock.wall().into()),
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

/// What is to be explained: an event, to so many of these subscriptions.
struct Explaining {
    asked: Arc<Asked>,
    rows: Arc<Vec<Arc<KeyedSubscription>>>,
    size: usize,
}

/// Explanations, and the last one's subscription.
type Explained = (Vec<(SubscriptionId, MatchExplanation)>, Option<SubscriptionId>);

impl Work for Explaining {
    type Output = Explained;
    const KIND: Kind = Kind::Explain;

    /// All at once: it costs no more than the filters of one event may.
    fn step(&mut self, _: &Slice, _: &mut Budget) -> Option<Explained> {
        Some(judge(&self.asked, &self.rows, self.size))
    }
}

/// As many as the page holds and the event's budget allows, and the last one's subscription.
fn judge(asked: &Asked, rows: &[Arc<KeyedSubscription>], size: usize) -> Explained {
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

fn write(subscription: &Subscription, explanation: Explanation<'_>) -> MatchExplanation {
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
