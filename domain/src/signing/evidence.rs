//! What is known of a key's use, and what that says about revoking it.

use super::profile::Profiles;
use super::ring::{KeyRing, KeyState, SigningKey};
use crate::time::Timestamp;

/// How a key was used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyUse {
    /// When it last signed a POST.
    pub signed: Option<Timestamp>,
    /// When the receiver last accepted a POST that this key alone had signed, which shows that it has the key.
    pub accepted: Option<Timestamp>,
}

/// What to do about a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Pending, and the receiver was not seen to have it.
    Test,
    /// Pending, and the receiver has it.
    Activate,
    /// The receiver was seen to have another active key.
    Revoke,
    /// Retiring, and the receiver was not seen to have an active key.
    TestActive,
    /// It is the only key that the receiver can be relied upon to have.
    Keep,
    /// It is revoked.
    Nothing,
}

impl Advice {
    /// What to do about a key of this ring at `now`. `used` tells how a key was used.
    #[must_use]
    pub fn of(
        key: &SigningKey,
        ring: &KeyRing,
        profiles: &Profiles,
        used: impl Fn(&SigningKey) -> KeyUse,
        now: Timestamp,
    ) -> Self {
        let has = |key: &SigningKey| used(key).accepted.is_some();
        let mut others =
            ring.keys().iter().filter(|other| other.id != key.id && other.state(now) == KeyState::Active);
        match key.state(now) {
            KeyState::Pending if has(key) => Self::Activate,
            KeyState::Pending => Self::Test,
            KeyState::Revoked => Self::Nothing,
            KeyState::Active if profiles.need(key.scheme) => Self::Keep,
            KeyState::Active | KeyState::Retiring if others.any(has) => Self::Revoke,
            KeyState::Active => Self::Keep,
            KeyState::Retiring => Self::TestActive,
        }
    }

    /// Whether nothing is lost when the key is revoked now.
    #[must_use]
    pub fn is_safe(self) -> bool {
        self == Self::Revoke
    }

    /// For people.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Test => "hand it to the receiver, then test it",
            Self::Activate => "the receiver has it: activate it",
            Self::Revoke => "safe to revoke: the receiver has accepted another active key",
            Self::TestActive => "test the active key first: the receiver was not seen to have it",
            Self::Keep => "the receiver needs it: create another key to replace it",
            Self::Nothing => "",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::KeyId;
    use crate::signing::{DEFAULT_OVERLAP, Scheme, Secret};

    fn key(scheme: Scheme, number: u8) -> SigningKey {
        let now = Timestamp::default();
        SigningKey::new(KeyId::new(now, number.into()), Secret::generate(scheme, &[number; 32]), now)
    }

    fn advice(ring: &KeyRing, number: u8, accepted: &[u8]) -> Advice {
        let now = Timestamp::default();
        let id = |number: u8| KeyId::new(now, number.into());
        let used = |key: &SigningKey| KeyUse {
            signed: None,
            accepted: accepted.iter().any(|number| id(*number) == key.id).then_some(now),
        };
        Advice::of(ring.get(Some(id(number))).unwrap(), ring, &Profiles::default(), used, now)
    }

    #[test]
    fn a_key_is_safe_to_revoke_when_another_active_one_was_accepted_alone() {
        let now = Timestamp::default();
        let mut ring = KeyRing::new(key(Scheme::V1, 1));
        assert_eq!(advice(&ring, 1, &[1]), Advice::Keep);
        ring.add(key(Scheme::V1, 2), now).unwrap();
        assert_eq!(advice(&ring, 2, &[]), Advice::Test);
        assert_eq!(advice(&ring, 2, &[2]), Advice::Activate);
        assert_eq!(advice(&ring, 1, &[2]), Advice::Keep, "what is pending does not sign yet");
        ring.activate(KeyId::new(now, 2), DEFAULT_OVERLAP, now).unwrap();
        assert_eq!(advice(&ring, 1, &[1]), Advice::TestActive);
        assert_eq!(advice(&ring, 1, &[1, 2]), Advice::Revoke);
        assert_eq!(advice(&ring, 2, &[1, 2]), Advice::Keep, "a retiring key does not stay");
        ring.rotate(key(Scheme::V1a, 3), DEFAULT_OVERLAP, now).unwrap();
        assert_eq!(advice(&ring, 2, &[2]), Advice::Keep);
        assert_eq!(advice(&ring, 2, &[3]), Advice::Revoke, "the receiver has moved on to v1a");
        ring.revoke(KeyId::new(now, 1), now).unwrap();
        assert_eq!(advice(&ring, 1, &[2]), Advice::Nothing);
        assert!(Advice::Revoke.is_safe() && !Advice::Keep.is_safe() && !Advice::TestActive.is_safe());
    }
}
