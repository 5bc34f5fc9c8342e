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
    assert_eq!(ring.rotate(key(4, now), Duration::from_secs(8 * 86400), now), Err(KeyError::OverlapTooLong));
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
    // Keys of Ed25519 are slow to make without optimisation.
    #![proptest_config(ProptestConfig::with_cases(64))]

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
