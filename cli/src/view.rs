//! How the API's messages look: as JSON that mirrors their fields, and as lines for people.
//!
//! Every field is always there: one that the message leaves unset is `null`. Times are RFC 3339,
//! durations seconds with an `s`, enum values lower-case words, an event's data embedded JSON.

pub(crate) mod agent;
pub(crate) mod attempt;
pub(crate) mod audit;
pub(crate) mod authority;
pub(crate) mod delivery;
pub(crate) mod diagnosis;
pub(crate) mod event;
pub(crate) mod event_type;
pub(crate) mod explanation;
pub(crate) mod health;
pub(crate) mod join_token;
pub(crate) mod key;
pub(crate) mod limit;
pub(crate) mod operation;
pub(crate) mod pool;
pub(crate) mod secrets;
pub(crate) mod subscription;
pub(crate) mod tenant;
pub(crate) mod test_post;
pub(crate) mod token;

use postrider_proto::v1;

use crate::failure::{Exit, Failure, Result};
use crate::time::{duration_json, for_table, rfc3339};

/// An enum of the API, as lower-case words without their prefix.
pub(crate) trait Word: TryFrom<i32> + Into<i32> + Copy {
    /// What its names begin with.
    const PREFIX: &'static str;

    /// The name in the `.proto` file.
    fn name(self) -> &'static str;

    /// The value of that name.
    fn named(name: &str) -> Option<Self>;
}

macro_rules! word {
    ($name:ident, $prefix:literal) => {
        impl Word for v1::$name {
            const PREFIX: &'static str = $prefix;

            fn name(self) -> &'static str {
                self.as_str_name()
            }

            fn named(name: &str) -> Option<Self> {
                Self::from_str_name(name)
            }
        }
    };
}

word!(SubscriptionState, "SUBSCRIPTION_STATE_");
word!(DisableCause, "DISABLE_CAUSE_");
word!(HealthState, "HEALTH_STATE_");
word!(WhileDisabled, "WHILE_DISABLED_");
word!(BodyFormat, "BODY_FORMAT_");
word!(DeliveryOrder, "DELIVERY_ORDER_");
word!(HeadOfLine, "HEAD_OF_LINE_");
word!(Strictness, "STRICTNESS_");
word!(TenantState, "TENANT_STATE_");
word!(FilterAnswer, "FILTER_ANSWER_");
word!(SigningKeyState, "SIGNING_KEY_STATE_");
word!(SignatureEncoding, "SIGNATURE_ENCODING_");
word!(DeliveryState, "DELIVERY_STATE_");
word!(HoldReason, "HOLD_REASON_");
word!(OutcomeClass, "OUTCOME_CLASS_");
word!(AgentState, "AGENT_STATE_");
word!(Role, "ROLE_");
word!(RewrapState, "REWRAP_STATE_");
word!(OperationState, "OPERATION_STATE_");
word!(ValidationState, "VALIDATION_STATE_");

/// The word of an enum's value; a value newer than this command is its number.
pub(crate) fn word<W: Word>(value: i32) -> String {
    W::try_from(value).map_or_else(
        |_| value.to_string(),
        |known| known.name().trim_start_matches(W::PREFIX).to_ascii_lowercase(),
    )
}

/// The word of an enum's value, `None` when it is unspecified.
pub(crate) fn word_unless_unspecified<W: Word>(value: i32) -> Option<String> {
    (value != 0).then(|| word::<W>(value))
}

/// Reads a word of an enum.
pub(crate) fn parse_word<W: Word>(text: &str) -> std::result::Result<W, String> {
    let name = format!("{}{}", W::PREFIX, text.to_ascii_uppercase().replace('-', "_"));
    W::named(&name).filter(|value| (*value).into() != 0).ok_or_else(|| {
        let words: Vec<String> =
            (1..).map_while(|n| W::try_from(n).ok()).map(|w| word::<W>(w.into())).collect();
        format!("give one of: {}", words.join(", "))
    })
}

pub(crate) fn time(time: Option<&prost_types::Timestamp>) -> Option<String> {
    time.map(rfc3339)
}

pub(crate) fn time_for_table(time: Option<&prost_types::Timestamp>) -> String {
    time.map(for_table).unwrap_or_default()
}

pub(crate) fn duration(duration: Option<&prost_types::Duration>) -> Option<String> {
    duration.map(duration_json)
}

/// The part of an answer that the contract promises.
pub(crate) fn promised<T>(part: Option<T>, name: &str) -> Result<T> {
    part.ok_or_else(|| {
        Failure::new(Exit::Unexpected, format!("the server's answer has no {name}; is it another version?"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use v1::{DeliveryState, HoldReason};

    #[test]
    fn enums_are_lower_case_words() {
        assert_eq!(word::<DeliveryState>(DeliveryState::Delivered.into()), "delivered");
        assert_eq!(word::<v1::OutcomeClass>(8), "refused_by_policy");
        assert_eq!(word::<DeliveryState>(99), "99");
        assert_eq!(word_unless_unspecified::<HoldReason>(0), None);
        assert_eq!(parse_word::<DeliveryState>("exhausted"), Ok(DeliveryState::Exhausted));
        assert_eq!(parse_word::<v1::BodyFormat>("standard-webhooks"), Ok(v1::BodyFormat::StandardWebhooks));
        assert_eq!(
            parse_word::<v1::BodyFormat>("x"),
            Err("give one of: event, standard_webhooks, cloudevents, cloudevents_binary, data".into())
        );
        assert!(parse_word::<DeliveryState>("unspecified").is_err());
    }
}
