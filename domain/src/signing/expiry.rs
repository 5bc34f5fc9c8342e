//! When to say that a retiring key will soon sign no more.

use std::time::Duration;

use super::ring::{KeyRing, SigningKey};
use crate::time::Timestamp;

/// The longest time before the end.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// A day before the end, or, of a shorter overlap, when three quarters of it are over. The overlap is taken to have begun
/// when the newest key of the scheme was made. `None` when the key has no end.
#[must_use]
pub fn expiry_warning(ring: &KeyRing, key: &SigningKey) -> Option<Timestamp> {
    let retire = key.retire?;
    let successors = ring.keys().iter().filter(|other| other.scheme == key.scheme && other.id != key.id);
    let begun = successors.map(|other| other.created).filter(|created| *created <= retire).max();
    let overlap = begun.map_or(Duration::MAX, |begun| retire.since(begun));
    Some(retire - (overlap / 4).min(LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::KeyId;
    use crate::signing::{Scheme, Secret};

    #[test]
    fn it_is_said_a_day_before_or_in_the_last_quarter() {
        let at = |hours: u64| Timestamp::from_millis(1_770_028_200_000) + Duration::from_secs(hours * 3_600);
        let key = |number: u8, hours| {
            let secret = Secret::generate(Scheme::V1, &[number; 32]);
            SigningKey::new(KeyId::new(at(hours), number.into()), secret, at(hours))
        };
        for (overlap, warned) in [(168, 244), (96, 172), (24, 118), (4, 103)] {
            let mut ring = KeyRing::new(key(1, 0));
            ring.rotate(key(2, 100), Duration::from_secs(overlap * 3_600), at(100)).unwrap();
            let [new, former] = ring.keys() else { panic!("two keys") };
            assert_eq!(expiry_warning(&ring, former), Some(at(warned)), "{overlap}");
            assert_eq!(expiry_warning(&ring, new), None);
        }
    }
}
