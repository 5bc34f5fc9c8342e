//! Explanations, shown.

use postrider_proto::v1;
use serde::Serialize;

use super::delivery::Delivery;
use super::{word, word_unless_unspecified};
use crate::output::View;

/// Mirrors `postrider.v1.MatchExplanation`.
#[derive(Debug, Serialize)]
pub(crate) struct Explanation {
    subscription: String,
    wanted: bool,
    matching_pattern: String,
    filter_answer: Option<String>,
    filter_error: String,
    subscription_state: String,
    subscription_state_reason: String,
    delivery: Option<Delivery>,
    explanation: String,
}

impl From<v1::MatchExplanation> for Explanation {
    fn from(explanation: v1::MatchExplanation) -> Self {
        Self {
            filter_answer: word_unless_unspecified::<v1::FilterAnswer>(explanation.filter_answer),
            subscription_state: word::<v1::SubscriptionState>(explanation.subscription_state),
            delivery: explanation.delivery.map(Delivery::from),
            subscription: explanation.subscription,
            wanted: explanation.wanted,
            matching_pattern: explanation.matching_pattern,
            filter_error: explanation.filter_error,
            subscription_state_reason: explanation.subscription_state_reason,
            explanation: explanation.explanation,
        }
    }
}

impl View for Explanation {
    const COLUMNS: &'static [&'static str] = &["SUBSCRIPTION", "WANTED", "DELIVERY", "WHY"];

    fn row(&self) -> Vec<String> {
        let delivery = self.delivery.as_ref().map(|delivery| delivery.state.clone());
        vec![
            self.subscription.clone(),
            if self.wanted { "yes" } else { "no" }.to_owned(),
            delivery.unwrap_or_else(|| "none".to_owned()),
            self.explanation.clone(),
        ]
    }

    fn details(&self) -> Vec<(&'static str, String)> {
        vec![("Subscription", self.subscription.clone()), ("Why", self.explanation.clone())]
    }
}
