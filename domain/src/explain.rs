//! Why an event is owed to a subscription, or is not.

use crate::event::EventTypeName;
use crate::filter::{Facts, Unanswered};
use crate::pattern::Pattern;
use crate::subscription::{DisableCause, State, Subscription};
use crate::time::Timestamp;

/// What a filter says of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// No pattern matches, so it was not asked.
    NotAsked,
    /// The subscription has no filter.
    NoFilter,
    /// The event passes.
    Passes,
    /// It does not.
    Rejects,
    /// There is no answer, so the event is owed.
    Unanswered(Unanswered),
    /// The event's data is erased: nobody knows any more.
    Unknown,
}

/// What is known of an event that was accepted.
#[derive(Clone, Copy, Debug)]
pub struct Accepted {
    /// When.
    pub at: Timestamp,
    /// Whether it is owed to the subscription as a delivery.
    pub owed: bool,
}

/// How a subscription, as it is now, judges an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation<'s> {
    /// Whether the event is owed, by the subscription as it is now.
    pub wanted: bool,
    /// The first pattern that the event's type has.
    pub pattern: Option<&'s Pattern>,
    /// What the filter says; asked only when a pattern matches.
    pub answer: Answer,
    /// All of it, as sentences for people.
    pub text: String,
}

/// Explains. Without `facts` the event's data is erased; without `accepted` the event is supposed.
#[must_use]
pub fn explain<'s>(
    subscription: &'s Subscription,
    event_type: &EventTypeName,
    facts: Option<&Facts<'_>>,
    accepted: Option<Accepted>,
) -> Explanation<'s> {
    let pattern = subscription.patterns.iter().find(|pattern| pattern.matches(event_type));
    let answer = match (&subscription.filter, facts) {
        _ if pattern.is_none() => Answer::NotAsked,
        (None, _) => Answer::NoFilter,
        (Some(_), None) => Answer::Unknown,
        (Some(filter), Some(facts)) => match filter.passes(facts) {
            Ok(true) => Answer::Passes,
            Ok(false) => Answer::Rejects,
            Err(unanswered) => Answer::Unanswered(unanswered),
        },
    };
    let matched = pattern.is_some() && !matches!(answer, Answer::Rejects | Answer::Unknown);
    let wanted = matched && !subscription.drops();
    let mut sentences = vec![judgement(event_type, pattern, &answer)];
    sentences.extend(dropped(subscription, matched));
    sentences.extend(history(subscription, wanted, &answer, accepted));
    sentences.extend(state(subscription, wanted || accepted.is_some_and(|accepted| accepted.owed)));
    Explanation { wanted, pattern, answer, text: sentences.join(" ") }
}

fn judgement(event_type: &EventTypeName, pattern: Option<&Pattern>, answer: &Answer) -> String {
    let Some(pattern) = pattern else {
        return format!("No pattern of the subscription matches {event_type}.");
    };
    let matches = format!("The pattern {pattern} matches {event_type}");
    match answer {
        Answer::NotAsked | Answer::NoFilter => format!("{matches}, and there is no filter."),
        Answer::Passes => format!("{matches}, and the event passes the filter."),
        Answer::Rejects => format!("{matches}, but the event does not pass the filter."),
        Answer::Unanswered(why) => {
            format!("{matches}, and the filter has no answer, so the event is delivered: {why}.")
        }
        Answer::Unknown => {
            format!(
                "{matches}; what the filter says cannot be found out any more, for the event's data is erased."
            )
        }
    }
}

/// What was so when the event was accepted, where it differs from now.
fn history(
    subscription: &Subscription,
    wanted: bool,
    answer: &Answer,
    accepted: Option<Accepted>,
) -> Option<String> {
    let accepted = accepted?;
    match (accepted.owed, wanted) {
        (true, true) => None,
        (true, false) if *answer == Answer::Unknown => None,
        (true, false) => Some(
            "It has a delivery all the same: it was a test event, or the subscription was another when the event was accepted."
                .into(),
        ),
        (false, _) if subscription.created > accepted.at => {
            Some("The subscription was created after the event was accepted, so it has no delivery.".into())
        }
        (false, true) if subscription.updated > accepted.at => Some(
            "It has no delivery: the subscription has been changed since, and did not want it when it was accepted."
                .into(),
        ),
        (false, true) => Some(
            "It has no delivery: it was a test event of another subscription, or the subscription was not known yet when it was \
             accepted."
                .into(),
        ),
        (false, false) => None,
    }
}

fn dropped(subscription: &Subscription, matched: bool) -> Option<String> {
    match &subscription.state {
        State::Disabled { reason, .. } if matched && subscription.drops() => Some(format!(
            "But the subscription is disabled ({reason}), and its failure policy drops events while it is disabled: they are \
             not delivered."
        )),
        _ => None,
    }
}

fn state(subscription: &Subscription, owed: bool) -> Option<String> {
    match &subscription.state {
        _ if !owed => None,
        State::Active => None,
        State::Paused => Some("The subscription is paused: its deliveries wait until it is resumed.".into()),
        State::Disabled { cause: DisableCause::Gone, reason } => {
            Some(format!("The subscription is disabled ({reason}): its deliveries wait until it is resumed."))
        }
        State::Disabled { cause: DisableCause::Failing, reason } => Some(format!(
            "The subscription is disabled ({reason}): its deliveries wait until its endpoint answers again, or until it is \
             resumed."
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::Format;
    use crate::egress::EndpointUrl;
    use crate::event::Attributes;
    use crate::headers::CustomHeaders;
    use crate::id::{PoolName, SubscriptionId};
    use crate::lane::{FailurePolicy, WhileDisabled};
    use crate::retry::Policy;
    use crate::subscription::{DEFAULT_CONNECT_TIMEOUT, DEFAULT_MAX_IN_FLIGHT, DEFAULT_TIMEOUT};

    const CREATED: i64 = 1_000;
    const UPDATED: i64 = 2_000;
    const DATA: &[u8] = br#"{"amount": 120}"#;

    fn subscription(filter: &str, state: State) -> Subscription {
        Subscription {
            name: String::new(),
            id: SubscriptionId::new(Timestamp::from_millis(CREATED), 1),
            tenant: "acme".parse().unwrap(),
            url: EndpointUrl::parse("https://example.com/in").unwrap(),
            patterns: vec!["invoice.*".parse().unwrap(), "order.*".parse().unwrap()],
            profiles: crate::signing::Profiles::default(),
            filter: (!filter.is_empty()).then(|| filter.parse().unwrap()),
            description: String::new(),
            pool: PoolName::default_pool(),
            allow_fallback: false,
            handshake: false,
            validation: None,
            format: Format::Event,
            headers: CustomHeaders::default(),
            retry: Policy::default(),
            max_in_flight: DEFAULT_MAX_IN_FLIGHT,
            rate_limit: None,
            order: crate::order::Order::None,
            head_of_line: crate::order::HeadOfLine::Skip,
            failure: FailurePolicy { while_disabled: WhileDisabled::Drop, ..FailurePolicy::default() },
            timeout: DEFAULT_TIMEOUT,
            connect_timeout: DEFAULT_CONNECT_TIMEOUT,
            state,
            created: Timestamp::from_millis(CREATED),
            updated: Timestamp::from_millis(UPDATED),
        }
    }

    fn disabled(cause: DisableCause, reason: &str) -> State {
        State::Disabled { cause, reason: reason.to_owned() }
    }

    fn accepted(at: i64, owed: bool) -> Option<Accepted> {
        Some(Accepted { at: Timestamp::from_millis(at), owed })
    }

    #[test]
    fn each_reason_is_told() {
        let large = "event.data.amount > 100";
        let gone = disabled(DisableCause::Gone, "410 Gone");
        let failing = disabled(DisableCause::Failing, "it failed");
        let table = [
            (
                "",
                State::Active,
                "order.placed",
                None,
                true,
                "order.* matches order.placed, and there is no filter.",
            ),
            (
                "",
                State::Active,
                "user.left",
                None,
                false,
                "No pattern of the subscription matches user.left.",
            ),
            (large, State::Active, "order.placed", None, true, "passes the filter."),
            (
                "event.data.amount > 500",
                State::Active,
                "order.placed",
                None,
                false,
                "does not pass the filter.",
            ),
            ("event.data.price > 5", State::Active, "order.placed", None, true, "no 'price' there"),
            (
                large,
                State::Paused,
                "order.placed",
                accepted(3_000, true),
                true,
                "is paused: its deliveries wait",
            ),
            (large, gone, "order.placed", None, true, "is disabled (410 Gone): its deliveries wait"),
            (large, failing, "order.placed", None, false, "(it failed), and its failure policy drops"),
            (large, State::Active, "order.placed", accepted(500, false), true, "created after the event"),
            (large, State::Active, "order.placed", accepted(1_500, false), true, "has been changed since"),
            (large, State::Active, "order.placed", accepted(3_000, false), true, "was not known yet"),
            (large, State::Active, "user.left", accepted(3_000, true), false, "it was a test event, or"),
        ];
        for (filter, state, name, accepted, wanted, part) in table {
            let subscription = subscription(filter, state);
            let name: EventTypeName = name.parse().unwrap();
            let attributes = Attributes::default();
            let facts = Facts::new(&name, Timestamp::from_millis(UPDATED), &attributes, DATA);
            let explained = explain(&subscription, &name, Some(&facts), accepted);
            assert_eq!(explained.wanted, wanted, "{}", explained.text);
            assert!(explained.text.contains(part), "{part}: {}", explained.text);
        }
    }

    #[test]
    fn erased_data_leaves_a_filter_unknown() {
        let name: EventTypeName = "order.placed".parse().unwrap();
        let filtered = subscription("event.data.amount > 1", State::Active);
        let explained = explain(&filtered, &name, None, accepted(3_000, true));
        assert_eq!((explained.wanted, explained.answer), (false, Answer::Unknown));
        assert!(explained.text.contains("is erased"), "{}", explained.text);
        let open = subscription("", State::Active);
        assert!(explain(&open, &name, None, accepted(3_000, true)).wanted);
    }
}
