//! The keys of one subscription: pending → active → retiring → revoked.
//!
//! Each scheme has at most one pending and one active key, and some scheme always has an active one. A time is an
//! argument everywhere: the end of an overlap is judged when a POST is signed, and needs no sweeper.

use std::time::Duration;

use super::secret::{Scheme, Secret};
use crate::id::KeyId;
use crate::time::Timestamp;

/// How long a former key signs beside its successor when nobody says otherwise.
pub const DEFAULT_OVERLAP: Duration = Duration::from_secs(24 * 3600);
/// How long a former key may sign beside its successor.
pub const MAX_OVERLAP: Duration = Duration::from_secs(7 * 24 * 3600);
/// How many keys may be retiring at once, of all schemes.
pub const MAX_RETIRING: usize = 3;
/// How many keys of a subscription are remembered, revoked ones included.
pub const MAX_KEYS: usize = 20;

/// A key of one subscription, and when it signs.
#[derive(Clone, Debug, PartialEq)]
pub struct SigningKey {
    /// Which key.
    pub id: KeyId,
    /// By what it signs.
    pub scheme: Scheme,
    /// Absent once the key is revoked and its secret erased.
    pub secret: Option<Secret>,
    /// When it was made.
    pub created: Timestamp,
    /// Whether it waits to be made active, and signs nothing but probes.
    pub pending: bool,
    /// Until when a retiring key signs; absent while pending or active.
    pub retire: Option<Timestamp>,
}

/// Whether a key signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// Signs probes alone, until it is made active.
    Pending,
    /// Signs.
    Active,
    /// Signs until its time.
    Retiring,
    /// Signs no more.
    Revoked,
}

impl SigningKey {
    /// A key that was never used, made active by being put into a ring.
    #[must_use]
    pub fn new(id: KeyId, secret: Secret, created: Timestamp) -> Self {
        Self { id, scheme: secret.scheme(), secret: Some(secret), created, pending: false, retire: None }
    }

    /// Whether the key signs at `now`.
    #[must_use]
    pub fn state(&self, now: Timestamp) -> KeyState {
        match (&self.secret, self.retire) {
            (Some(_), None) if self.pending => KeyState::Pending,
            (Some(_), None) => KeyState::Active,
            (Some(_), Some(retire)) if now < retire => KeyState::Retiring,
            _ => KeyState::Revoked,
        }
    }

    /// Whether the key signs every POST at `now`.
    #[must_use]
    pub fn signs(&self, now: Timestamp) -> bool {
        matches!(self.state(now), KeyState::Active | KeyState::Retiring)
    }

    fn is_active(&self) -> bool {
        self.secret.is_some() && self.retire.is_none() && !self.pending
    }
}

/// The keys of one subscription, newest first. Each scheme has at most one active key, and one has.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyRing(Vec<SigningKey>);

/// Why a change of keys is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Rotation would leave too many keys signing.
    #[error(
        "{MAX_RETIRING} keys are retiring already; revoke one of them first, or rotate with an overlap of 0"
    )]
    TooManyRetiring,
    /// The overlap is too long.
    #[error("the overlap is at most 7 days")]
    OverlapTooLong,
    /// No such key.
    #[error("the subscription has no such key")]
    NotFound,
    /// The active key cannot be revoked.
    #[error("this is the only active key; rotate with an overlap of 0 to replace and revoke it")]
    Active,
    /// The secret is erased.
    #[error("the key is revoked and its secret is erased")]
    Revoked,
    /// The key was active once, and is on its way out.
    #[error("the key is retiring; make a new one with the same secret once this one is revoked")]
    Retiring,
    /// A second key would be pending.
    #[error("a key of this scheme is pending already; activate or revoke it first")]
    Pending,
    /// The key is in the ring already.
    #[error(
        "a key of this subscription has this secret already; revoke that one first, or give another secret"
    )]
    KnownSecret,
    /// A profile would have nothing to sign with.
    #[error(
        "a signature profile other than standard_webhooks needs an active key of scheme v1; create one first, or keep standard_webhooks alone"
    )]
    ProfileWithoutKey,
    /// The key's signatures would stand nowhere.
    #[error(
        "only the profile standard_webhooks shows signatures of scheme v1a; give the subscription that profile, or revoke its v1a key"
    )]
    KeyWithoutProfile,
}

impl KeyRing {
    /// The ring of a new subscription.
    #[must_use]
    pub fn new(first: SigningKey) -> Self {
        Self(vec![first])
    }

    /// The ring as it was stored, newest first.
    #[must_use]
    pub fn restore(keys: Vec<SigningKey>) -> Self {
        Self(keys)
    }

    /// All keys, newest first.
    #[must_use]
    pub fn keys(&self) -> &[SigningKey] {
        &self.0
    }

    /// The key of that id, or when `id` is `None` the active one; of those, that of the older scheme.
    #[must_use]
    pub fn get(&self, id: Option<KeyId>) -> Option<&SigningKey> {
        match id {
            Some(id) => self.0.iter().find(|key| key.id == id),
            None => self.0.iter().filter(|key| key.is_active()).min_by_key(|key| key.scheme),
        }
    }

    /// The active key of a scheme.
    #[must_use]
    pub fn active(&self, scheme: Scheme) -> Option<&SigningKey> {
        self.0.iter().find(|key| key.scheme == scheme && key.is_active())
    }

    /// The keys that sign at `now`: by scheme, and of each the active one first, then those that retire, newest first.
    #[must_use]
    pub fn signing(&self, now: Timestamp) -> Vec<&SigningKey> {
        let mut keys: Vec<_> = self.0.iter().filter(|key| key.signs(now)).collect();
        keys.sort_by_key(|key| (key.scheme, key.retire.is_some()));
        keys
    }

    /// The secret of a key that is not revoked.
    ///
    /// # Errors
    /// [`KeyError::NotFound`], or [`KeyError::Revoked`].
    pub fn reveal(&self, id: Option<KeyId>, now: Timestamp) -> Result<(&SigningKey, &Secret), KeyError> {
        let key = self.get(id).ok_or(KeyError::NotFound)?;
        match &key.secret {
            Some(secret) if key.state(now) != KeyState::Revoked => Ok((key, secret)),
            _ => Err(KeyError::Revoked),
        }
    }

    /// Adds a key that signs nothing but probes until it is activated.
    ///
    /// # Errors
    /// [`KeyError::Pending`], [`KeyError::KnownSecret`].
    pub fn add(&mut self, new: SigningKey, now: Timestamp) -> Result<(), KeyError> {
        self.erase_expired(now);
        if self.0.iter().any(|key| key.scheme == new.scheme && key.state(now) == KeyState::Pending) {
            return Err(KeyError::Pending);
        }
        self.check_secret(&new)?;
        self.insert(SigningKey { pending: true, ..new });
        Ok(())
    }

    /// Makes a pending key the active one of its scheme. The former one retires after `overlap`, at once when it is
    /// zero. Activating the active key changes nothing.
    ///
    /// # Errors
    /// [`KeyError::NotFound`], [`KeyError::Revoked`], [`KeyError::Retiring`], [`KeyError::OverlapTooLong`],
    /// [`KeyError::TooManyRetiring`].
    pub fn activate(&mut self, id: KeyId, overlap: Duration, now: Timestamp) -> Result<(), KeyError> {
        let key = self.get(Some(id)).ok_or(KeyError::NotFound)?;
        let scheme = key.scheme;
        match key.state(now) {
            KeyState::Pending => {}
            KeyState::Active => return Ok(()),
            KeyState::Retiring => return Err(KeyError::Retiring),
            KeyState::Revoked => return Err(KeyError::Revoked),
        }
        self.retire(scheme, overlap, now)?;
        self.0.iter_mut().filter(|key| key.id == id).for_each(|key| key.pending = false);
        Ok(())
    }

    /// Makes `new` the active key of its scheme. The former one retires after `overlap`, at once when it is zero.
    ///
    /// # Errors
    /// [`KeyError::OverlapTooLong`], [`KeyError::TooManyRetiring`], [`KeyError::KnownSecret`].
    pub fn rotate(&mut self, new: SigningKey, overlap: Duration, now: Timestamp) -> Result<(), KeyError> {
        self.erase_expired(now);
        self.check_secret(&new)?;
        self.retire(new.scheme, overlap, now)?;
        self.insert(SigningKey { pending: false, ..new });
        Ok(())
    }

    /// Revokes a key and erases its secret. Revoking a revoked key changes nothing. The active key of a scheme can be
    /// revoked when another scheme has one.
    ///
    /// # Errors
    /// [`KeyError::NotFound`], [`KeyError::Active`].
    pub fn revoke(&mut self, id: KeyId, now: Timestamp) -> Result<&SigningKey, KeyError> {
        let active = self.0.iter().filter(|key| key.is_active()).count();
        let key = self.0.iter_mut().find(|key| key.id == id).ok_or(KeyError::NotFound)?;
        if key.is_active() && active == 1 {
            return Err(KeyError::Active);
        }
        key.retire = Some(key.retire.map_or(now, |retire| retire.min(now)));
        key.pending = false;
        key.secret = None;
        Ok(key)
    }

    /// Erases every secret: the subscription is deleted.
    pub fn erase(&mut self) {
        for key in &mut self.0 {
            key.secret = None;
        }
    }

    /// The active key of the scheme retires, if there is one.
    fn retire(&mut self, scheme: Scheme, overlap: Duration, now: Timestamp) -> Result<(), KeyError> {
        if overlap > MAX_OVERLAP {
            return Err(KeyError::OverlapTooLong);
        }
        let retiring = self.0.iter().filter(|key| key.state(now) == KeyState::Retiring).count();
        if self.active(scheme).is_some() && !overlap.is_zero() && retiring >= MAX_RETIRING {
            return Err(KeyError::TooManyRetiring);
        }
        let former = self.0.iter_mut().filter(|key| key.scheme == scheme && key.is_active());
        former.for_each(|key| key.retire = Some(now + overlap));
        self.erase_expired(now);
        Ok(())
    }

    /// Two keys with one secret could not be told apart by what they sign.
    fn check_secret(&self, new: &SigningKey) -> Result<(), KeyError> {
        let known = new.secret.is_some() && self.0.iter().any(|key| key.secret == new.secret);
        if known { Err(KeyError::KnownSecret) } else { Ok(()) }
    }

    /// Puts a key in front, and forgets the oldest revoked ones.
    fn insert(&mut self, key: SigningKey) {
        self.0.insert(0, key);
        while self.0.len() > MAX_KEYS {
            let Some(oldest) = self.0.iter().rposition(|key| key.secret.is_none()) else { return };
            self.0.remove(oldest);
        }
    }

    fn erase_expired(&mut self, now: Timestamp) {
        for key in &mut self.0 {
            if key.state(now) == KeyState::Revoked {
                key.secret = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key_of(scheme: Scheme, number: u128, now: Timestamp) -> SigningKey {
        let secret = Secret::generate(scheme, &[u8::try_from(number).unwrap(); 32]);
        SigningKey::new(KeyId::new(now, number), secret, now)
    }

    fn key(number: u128, now: Timestamp) -> SigningKey {
        key_of(Scheme::V1, number, now)
    }

    fn start() -> Timestamp {
        Timestamp::from_millis(1_000_000)
    }

    #[test]
    fn a_fourth_overlapping_rotation_is_refused() {
        let now = start();
        let mut ring = KeyRing::new(key(0, now));
        for number in 1..=3 {
            ring.rotate(key(number, now), DEFAULT_OVERLAP, now).unwrap();
        }
        assert_eq!(ring.rotate(key(4, now), DEFAULT_OVERLAP, now), Err(KeyError::TooManyRetiring));
        assert_eq!(
            ring.rotate(key(4, now), Duration::from_secs(8 * 86400), now),
            Err(KeyError::OverlapTooLong)
        );
        let oldest = KeyId::new(now, 0);
        ring.revoke(oldest, now).unwrap();
        assert_eq!(ring.reveal(Some(oldest), now).unwrap_err(), KeyError::Revoked);
        ring.rotate(key(4, now), DEFAULT_OVERLAP, now).unwrap();
        assert_eq!(ring.revoke(KeyId::new(now, 4), now).unwrap_err(), KeyError::Active);
        assert_eq!(ring.revoke(KeyId::new(now, 9), now).unwrap_err(), KeyError::NotFound);
        ring.add(key(5, now), now).unwrap();
        let id = KeyId::new(now, 5);
        assert_eq!(ring.activate(id, DEFAULT_OVERLAP, now), Err(KeyError::TooManyRetiring));
        assert_eq!(ring.get(Some(id)).unwrap().state(now), KeyState::Pending);
        ring.activate(id, Duration::ZERO, now).unwrap();
    }

    #[test]
    fn a_pending_key_signs_only_once_it_is_active() {
        let now = start();
        let mut ring = KeyRing::new(key(0, now));
        let (old, new) = (KeyId::new(now, 0), KeyId::new(now, 1));
        assert_eq!(ring.add(key(0, now), now), Err(KeyError::KnownSecret));
        ring.add(key(1, now), now).unwrap();
        assert_eq!(ring.add(key(2, now), now), Err(KeyError::Pending));
        let signing = |ring: &KeyRing, now| ring.signing(now).iter().map(|key| key.id).collect::<Vec<_>>();
        assert_eq!(signing(&ring, now), [old]);
        ring.reveal(Some(new), now).unwrap();
        ring.activate(new, DEFAULT_OVERLAP, now).unwrap();
        assert_eq!(signing(&ring, now), [new, old]);
        let before = ring.clone();
        ring.activate(new, Duration::ZERO, now).unwrap();
        assert_eq!(ring, before, "activating the active key changes nothing");
        assert_eq!(ring.activate(old, DEFAULT_OVERLAP, now), Err(KeyError::Retiring));
        assert_eq!(signing(&ring, now + DEFAULT_OVERLAP), [new]);
        assert_eq!(ring.activate(old, DEFAULT_OVERLAP, now + DEFAULT_OVERLAP), Err(KeyError::Revoked));
        ring.add(key(3, now), now).unwrap();
        ring.revoke(KeyId::new(now, 3), now).unwrap();
        assert_eq!(ring.get(Some(KeyId::new(now, 3))).unwrap().state(now), KeyState::Revoked);
    }

    #[test]
    fn schemes_have_active_keys_of_their_own_and_one_is_enough() {
        let now = start();
        let mut ring = KeyRing::new(key(0, now));
        let (old, new) = (KeyId::new(now, 0), KeyId::new(now, 1));
        ring.rotate(key_of(Scheme::V1a, 1, now), DEFAULT_OVERLAP, now).unwrap();
        let schemes: Vec<_> = ring.signing(now).iter().map(|key| key.scheme).collect();
        assert_eq!(schemes, Scheme::ALL);
        assert_eq!(ring.get(None).unwrap().id, old);
        ring.revoke(old, now).unwrap();
        assert_eq!(ring.get(None).unwrap().id, new);
        assert_eq!(ring.revoke(new, now).unwrap_err(), KeyError::Active);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Rotate(Scheme, u64),
        Add(Scheme),
        Activate(usize, u64),
        Revoke(usize),
        Pass(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let scheme = || prop_oneof![Just(Scheme::V1), Just(Scheme::V1a)];
        let overlap = || prop_oneof![Just(0), 1_u64..200_000];
        prop_oneof![
            (scheme(), overlap()).prop_map(|(scheme, overlap)| Step::Rotate(scheme, overlap)),
            scheme().prop_map(Step::Add),
            (0_usize..5, overlap()).prop_map(|(place, overlap)| Step::Activate(place, overlap)),
            (0_usize..5).prop_map(Step::Revoke),
            (0_u64..100_000).prop_map(Step::Pass),
        ]
    }

    proptest! {
        #[test]
        fn a_ring_always_signs_with_one_active_key_a_scheme_and_at_most_three_retiring_ones(
            steps in prop::collection::vec(step(), 1..60),
        ) {
            let mut now = start();
            let mut ring = KeyRing::new(key(0, now));
            for (number, step) in steps.into_iter().enumerate() {
                let new = |scheme| key_of(scheme, number as u128 + 1, now);
                let at = |ring: &KeyRing, place: usize| ring.keys().get(place).map(|key| key.id);
                match step {
                    Step::Rotate(scheme, overlap) => {
                        let _refused = ring.rotate(new(scheme), Duration::from_secs(overlap), now);
                    }
                    Step::Add(scheme) => {
                        let _refused = ring.add(new(scheme), now);
                    }
                    Step::Activate(place, overlap) => {
                        let overlap = Duration::from_secs(overlap);
                        let _refused = at(&ring, place).map(|id| ring.activate(id, overlap, now));
                    }
                    Step::Revoke(place) => drop(at(&ring, place).map(|id| ring.revoke(id, now).cloned())),
                    Step::Pass(seconds) => now = now + Duration::from_secs(seconds),
                }
                let count = |state| ring.keys().iter().filter(|key| key.state(now) == state).count();
                for scheme in Scheme::ALL {
                    for state in [KeyState::Active, KeyState::Pending] {
                        let same = |key: &&SigningKey| key.scheme == scheme && key.state(now) == state;
                        prop_assert!(ring.keys().iter().filter(same).count() <= 1);
                    }
                }
                prop_assert!(count(KeyState::Active) >= 1);
                prop_assert!(count(KeyState::Retiring) <= MAX_RETIRING);
                prop_assert!(ring.keys().len() <= MAX_KEYS);
                let signing = ring.signing(now);
                prop_assert_eq!(signing.len(), count(KeyState::Active) + count(KeyState::Retiring));
                prop_assert!(signing.iter().all(|key| key.secret.is_some()));
                let newest_first = ring.keys().windows(2).all(|pair| pair[0].id.created() >= pair[1].id.created());
                prop_assert!(newest_first);
            }
        }
    }
}
