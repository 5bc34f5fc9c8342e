//! A type per kind of id, so that none can stand where another belongs.
//!
//! Ids that Postrider makes are ULIDs (48 bits of time, 80 random bits) behind a prefix that names their
//! kind: they sort by age and cannot be guessed.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use ulid::Ulid;

use crate::time::Timestamp;

/// Why a text is not an id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be {expected}")]
pub struct IdError {
    expected: &'static str,
}

const ULID_LENGTH: usize = 26;

fn parse_ulid(text: &str, prefix: &str) -> Option<Ulid> {
    let rest = text.strip_prefix(prefix)?;
    if rest.len() != ULID_LENGTH || rest.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return None;
    }
    Ulid::from_string(rest).ok().filter(|ulid| write_ulid(*ulid) == rest)
}

fn write_ulid(ulid: Ulid) -> String {
    ulid.to_string().to_ascii_lowercase()
}

macro_rules! ulid_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal, $expected:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Ulid);

        impl $name {
            /// A new id, made of a time and 80 random bits.
            #[must_use]
            pub fn new(now: Timestamp, random: u128) -> Self {
                Self(Ulid::from_parts(u64::try_from(now.as_millis()).unwrap_or(0), random))
            }

            /// The id whose 16 bytes these are.
            #[must_use]
            pub fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Ulid::from_bytes(bytes))
            }

            /// 16 bytes that sort as the ids do.
            #[must_use]
            pub fn to_bytes(self) -> [u8; 16] {
                self.0.to_bytes()
            }

            /// When the id was made.
            #[must_use]
            pub fn created(self) -> Timestamp {
                Timestamp::from_millis(i64::try_from(self.0.timestamp_ms()).unwrap_or(i64::MAX))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), write_ulid(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                parse_ulid(text, $prefix).map(Self).ok_or(IdError { expected: $expected })
            }
        }
    };
}

ulid_id!(
    /// A subscription.
    SubscriptionId, "sub_", "a subscription id: 'sub_' and 26 characters, as `postrider subscriptions list` shows"
);
ulid_id!(
    /// A signing key.
    KeyId, "key_", "a signing key id: 'key_' and 26 characters, as `postrider keys list` shows"
);
ulid_id!(
    /// A token: of the API, or for enrolling agents.
    TokenId, "tok_", "a token id: 'tok_' and 26 characters, as `postrider tokens list` shows"
);
ulid_id!(
    /// An operation.
    OperationId, "opr_", "an operation id: 'opr_' and 26 characters, as `postrider operations list` shows"
);
ulid_id!(
    /// A data key: what secrets in the store are sealed with.
    DataKeyId, "dk_", "a data key id: 'dk_' and 26 characters, as `postrider secrets status` shows"
);
ulid_id!(
    /// An event, as the store and the lanes know it. Users see an [`EventId`].
    EventKey, "evt_", "an event id: 'evt_' and 26 characters"
);

impl EventKey {
    /// The first key that an event accepted at `time` can have: a bound for searches by time.
    #[must_use]
    pub fn first_at(time: Timestamp) -> Self {
        Self::new(time, 0)
    }

    /// The key right behind this one: where to go on after it.
    #[must_use]
    pub fn next(self) -> Self {
        Self::from_bytes(u128::from_be_bytes(self.to_bytes()).saturating_add(1).to_be_bytes())
    }
}

/// A delivery: its subscription and its number in that subscription's lane, counted from 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeliveryId {
    /// The subscription it is owed to.
    pub subscription: SubscriptionId,
    /// Its number in the lane.
    pub sequence: u64,
}

impl fmt::Display for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "dlv_{}-{}", write_ulid(self.subscription.0), self.sequence)
    }
}

impl fmt::Debug for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for DeliveryId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let expected =
            "a delivery id such as dlv_01h455vb4pex5vsknk084sn02q-7, as `postrider deliveries list` shows";
        let parse = || {
            let rest = text.strip_prefix("dlv_")?;
            let (subscription, sequence) = rest.split_once('-')?;
            let subscription = SubscriptionId(parse_ulid(subscription, "")?);
            let number = sequence.parse().ok().filter(|number: &u64| number.to_string() == sequence)?;
            Some(Self { subscription, sequence: number })
        };
        parse().ok_or(IdError { expected })
    }
}

macro_rules! name_id {
    ($(#[$doc:meta])* $name:ident, $valid:path, $expected:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                if $valid(text) { Ok(Self(text.into())) } else { Err(IdError { expected: $expected }) }
            }
        }
    };
}

name_id!(
    /// A tenant, named by whoever created it.
    TenantId, is_slug, "1 to 63 characters of a-z, 0-9 and '-', with a letter or digit at both ends"
);
name_id!(
    /// A pool of agents.
    PoolName, is_slug, "1 to 63 characters of a-z, 0-9 and '-', with a letter or digit at both ends"
);
name_id!(
    /// An agent, named by the control plane when it enrolls.
    AgentId, is_slug, "1 to 63 characters of a-z, 0-9 and '-', with a letter or digit at both ends"
);
name_id!(
    /// An event as users and receivers know it: what `webhook-id` carries.
    EventId, is_event_id, "1 to 64 characters of a-z, A-Z, 0-9, '_' and '-'"
);

impl TenantId {
    const POSTRIDER: &'static str = "postrider";

    /// Postrider's own tenant: of operational events.
    #[must_use]
    pub fn postrider() -> Self {
        Self(Self::POSTRIDER.into())
    }

    /// Whether it is Postrider's own.
    #[must_use]
    pub fn is_postrider(&self) -> bool {
        self.as_str() == Self::POSTRIDER
    }
}

impl AgentId {
    /// A new id for an agent that enrolls, made of a time and 80 random bits.
    #[must_use]
    pub fn new(now: Timestamp, random: u128) -> Self {
        let ulid = Ulid::from_parts(u64::try_from(now.as_millis()).unwrap_or(0), random);
        Self(format!("agt-{}", write_ulid(ulid)).into())
    }
}

impl PoolName {
    /// The pool of subscriptions and agents that name none.
    #[must_use]
    pub fn default_pool() -> Self {
        Self("default".into())
    }
}

impl From<EventKey> for EventId {
    fn from(key: EventKey) -> Self {
        Self(key.to_string().into())
    }
}

impl EventId {
    /// Whether the id has the form of those that Postrider makes; clients may not choose such.
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        self.0.starts_with("evt_")
    }

    /// The key, when Postrider made the id.
    #[must_use]
    pub fn key(&self) -> Option<EventKey> {
        self.0.parse().ok()
    }
}

fn is_slug(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes.iter().all(|byte| word(*byte) || *byte == b'-')
        && bytes.first().is_some_and(|byte| word(*byte))
        && bytes.last().is_some_and(|byte| word(*byte))
}

fn is_event_id(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ids_read_back(millis in 0_i64..4_000_000_000_000, random: u128, sequence: u64) {
            let now = Timestamp::from_millis(millis);
            let subscription = SubscriptionId::new(now, random);
            prop_assert_eq!(subscription.to_string().parse(), Ok(subscription));
            prop_assert_eq!(subscription.created(), now);
            prop_assert_eq!(SubscriptionId::from_bytes(subscription.to_bytes()), subscription);
            let delivery = DeliveryId { subscription, sequence };
            prop_assert_eq!(delivery.to_string().parse(), Ok(delivery));
            let key = EventKey::new(now, random);
            prop_assert_eq!(EventId::from(key).key(), Some(key));
            let agent = AgentId::new(now, random);
            prop_assert_eq!(agent.as_str().parse(), Ok(agent.clone()));
        }

        #[test]
        fn no_text_panics(text: String) {
            drop((text.parse::<SubscriptionId>(), text.parse::<DeliveryId>(), text.parse::<TenantId>()));
        }
    }

    #[test]
    fn an_id_has_one_spelling() {
        for text in [
            "sub_01H455VB4PEX5VSKNK084SN02Q",
            "sub_01h455vb4pex5vsknk084sn02",
            "sub_01h455vb4pex5vsknk084sn02qq",
            "key_01h455vb4pex5vsknk084sn02q",
            "sub_81h455vb4pex5vsknk084sn02q",
            "sub_01h455vb4pex5vsknk084sn0lq",
            "",
        ] {
            assert!(text.parse::<SubscriptionId>().is_err(), "{text}");
        }
        for text in ["dlv_01h455vb4pex5vsknk084sn02q-07", "dlv_01h455vb4pex5vsknk084sn02q-", "dlv_-1"] {
            assert!(text.parse::<DeliveryId>().is_err(), "{text}");
        }
        assert!("acme-1".parse::<TenantId>().is_ok());
        for text in ["", "-a", "a-", "A", "a_b", "é", &"a".repeat(64)] {
            assert!(text.parse::<TenantId>().is_err(), "{text}");
        }
        assert!("order.1".parse::<EventId>().is_err());
    }
}
