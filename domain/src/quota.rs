//! What a tenant may use, and what its stored events count for.

use std::num::{NonZeroU32, NonZeroU64};

use crate::pace::Pace;
use crate::violation::Violation;

/// The most events or deliveries a second, and at once, that a quota may name.
pub const MAX_RATE: u32 = 1_000_000;
/// The most event types that a quota may name.
pub const MAX_EVENT_TYPES: u32 = 100_000;
/// How a tenant's quota says that there is no limit, whatever the default is.
pub const NO_LIMIT: u32 = u32::MAX;
/// The same for stored bytes.
pub const NO_LIMIT_OF_BYTES: u64 = u64::MAX;
/// The most deliveries that one event may make. They are written in one commit, and everybody else's events wait for it.
pub const MAX_FAN_OUT: usize = 5_000;
/// Seconds of the rate that a burst of deliveries has, unless it is set.
const BURST_SECONDS: u32 = 2;
/// What an event counts for beside its content.
const EVENT: u64 = 256;
/// What a delivery counts for.
const DELIVERY: u64 = 128;

/// What a tenant may use. `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// How many subscriptions.
    pub max_subscriptions: Option<NonZeroU32>,
    /// How many events it may emit.
    pub emit: Option<Rate>,
    /// How many deliveries its events may make. An event without any counts as one.
    pub deliveries: Option<Rate>,
    /// What its stored events may count for.
    pub max_stored: Option<NonZeroU64>,
    /// How many event types.
    pub max_event_types: Option<NonZeroU32>,
}

/// How often something may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// So often a second.
    pub per_second: NonZeroU32,
    /// So often at once.
    pub burst: NonZeroU32,
}

/// What was set for a tenant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnQuota {
    /// Of [`Quota::max_subscriptions`].
    pub max_subscriptions: Limit<NonZeroU32>,
    /// Of [`Quota::emit`].
    pub emit: Limit<Rate>,
    /// Of [`Quota::deliveries`].
    pub deliveries: Limit<Rate>,
    /// Of [`Quota::max_stored`].
    pub max_stored: Limit<NonZeroU64>,
    /// Of [`Quota::max_event_types`].
    pub max_event_types: Limit<NonZeroU32>,
}

/// A limit of a tenant's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Limit<T> {
    /// What every tenant has.
    #[default]
    Default,
    /// There is none.
    Off,
    /// Its own.
    At(T),
}

impl<T> Limit<T> {
    /// The limit in force.
    fn over(self, default: Option<T>) -> Option<T> {
        match self {
            Self::Default => default,
            Self::Off => None,
            Self::At(limit) => Some(limit),
        }
    }
}

impl Rate {
    /// So many a second and at once; `None` when either is 0.
    #[must_use]
    pub fn new(per_second: u32, burst: u32) -> Option<Self> {
        Some(Self { per_second: NonZeroU32::new(per_second)?, burst: NonZeroU32::new(burst)? })
    }

    /// The rule that holds a tenant to it.
    #[must_use]
    pub fn pace(self) -> Pace {
        Pace::new(self.per_second, self.burst)
    }
}

/// The burst of a rate of deliveries that names none.
#[must_use]
pub fn delivery_burst(per_second: u32) -> u32 {
    per_second.saturating_mul(BURST_SECONDS).min(MAX_RATE)
}

impl Quota {
    /// What every tenant has unless settings or its own quota say otherwise.
    pub const STANDARD: Self = Self {
        max_subscriptions: NonZeroU32::new(1000),
        emit: None,
        deliveries: match (NonZeroU32::new(1000), NonZeroU32::new(1000 * BURST_SECONDS)) {
            (Some(per_second), Some(burst)) => Some(Rate { per_second, burst }),
            _ => None,
        },
        max_stored: NonZeroU64::new(4 * 1024 * 1024 * 1024),
        max_event_types: NonZeroU32::new(1000),
    };

    /// Whether a tenant that has so many event types may have one more.
    #[must_use]
    pub fn admits_event_type(&self, has: usize) -> bool {
        self.max_event_types.is_none_or(|max| has < max.get() as usize)
    }

    /// Whether a tenant that has so many subscriptions may have one more.
    #[must_use]
    pub fn admits_subscription(&self, has: usize) -> bool {
        self.max_subscriptions.is_none_or(|max| has < max.get() as usize)
    }
}

impl OwnQuota {
    /// Reads numbers of which 0 means the default, and [`NO_LIMIT`] or [`NO_LIMIT_OF_BYTES`] none.
    ///
    /// # Errors
    /// Every one that is out of range.
    pub fn new(
        max_subscriptions: u32,
        (emit_rate, emit_burst): (u32, u32),
        (delivery_rate, delivery_burst): (u32, u32),
        max_stored: u64,
        max_event_types: u32,
    ) -> Result<Self, Vec<Violation>> {
        let mut violations = Vec::new();
        let emit = rate(["emit_rate", "emit_burst"], emit_rate, emit_burst, emit_rate, &mut violations);
        let burst = self::delivery_burst(delivery_rate);
        let fields = ["delivery_rate", "delivery_burst"];
        let deliveries = rate(fields, delivery_rate, delivery_burst, burst, &mut violations);
        if (MAX_EVENT_TYPES + 1..NO_LIMIT).contains(&max_event_types) {
            let most =
                "must be at most 100000; 0 means that it is not set, and 4294967295 that there is no limit";
            violations.push(Violation::new("max_event_types", most));
        }
        if !violations.is_empty() {
            return Err(violations);
        }
        let max_stored = match NonZeroU64::new(max_stored) {
            None => Limit::Default,
            Some(NonZeroU64::MAX) => Limit::Off,
            Some(max) => Limit::At(max),
        };
        let (max_subscriptions, max_event_types) = (count(max_subscriptions), count(max_event_types));
        Ok(Self { max_subscriptions, emit, deliveries, max_stored, max_event_types })
    }

    /// The quota in force, where every tenant has this one unless it has its own.
    #[must_use]
    pub fn over(&self, default: &Quota) -> Quota {
        Quota {
            max_subscriptions: self.max_subscriptions.over(default.max_subscriptions),
            emit: self.emit.over(default.emit),
            deliveries: self.deliveries.over(default.deliveries),
            max_stored: self.max_stored.over(default.max_stored),
            max_event_types: self.max_event_types.over(default.max_event_types),
        }
    }
}

fn count(number: u32) -> Limit<NonZeroU32> {
    match NonZeroU32::new(number) {
        None => Limit::Default,
        Some(NonZeroU32::MAX) => Limit::Off,
        Some(max) => Limit::At(max),
    }
}

fn rate(
    [rate, burst]: [&'static str; 2],
    per_second: u32,
    at_once: u32,
    default_burst: u32,
    violations: &mut Vec<Violation>,
) -> Limit<Rate> {
    if per_second == NO_LIMIT && at_once == 0 {
        return Limit::Off;
    }
    for (field, value) in [(rate, per_second), (burst, at_once)] {
        if value > MAX_RATE {
            let most = "must be at most 1000000; 0 means that it is not set, and a rate of 4294967295 without a burst that \
                there is no limit";
            violations.push(Violation::new(field, most));
        }
    }
    if per_second == 0 && at_once > 0 {
        violations.push(Violation::new(burst, format!("needs {rate}")));
    }
    let burst = if at_once == 0 { default_burst } else { at_once };
    Rate::new(per_second, burst).map_or(Limit::Default, Limit::At)
}

/// Whether so much may be stored beside what is stored.
#[must_use]
pub fn admits(max_stored: Option<NonZeroU64>, stored: u64, more: u64) -> bool {
    max_stored.is_none_or(|max| stored.saturating_add(more) <= max.get())
}

/// What an event's content counts for: its data and attributes. It is freed when retention erases them.
#[must_use]
pub fn content(data: usize, attributes: impl Iterator<Item = usize>) -> u64 {
    (data + attributes.sum::<usize>()) as u64
}

/// What an event counts for beside its content, with the deliveries that it is owed as. It is freed when the event is
/// removed.
#[must_use]
pub fn frame(deliveries: usize) -> u64 {
    EVENT + DELIVERY * deliveries as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_are_a_quota_or_say_what_is_wrong() {
        assert_eq!(OwnQuota::new(0, (0, 0), (0, 0), 0, 0), Ok(OwnQuota::default()));
        let rate = |per_second, burst| Limit::At(Rate::new(per_second, burst).unwrap());
        for (given, expected) in [((5, 0), rate(5, 5)), ((5, 3), rate(5, 3)), ((NO_LIMIT, 0), Limit::Off)] {
            assert_eq!(OwnQuota::new(3, given, (0, 0), 9, 9).unwrap().emit, expected, "{given:?}");
        }
        for (given, expected) in
            [((5, 0), rate(5, 10)), ((MAX_RATE, 0), rate(MAX_RATE, MAX_RATE)), ((5, 3), rate(5, 3))]
        {
            assert_eq!(OwnQuota::new(3, (0, 0), given, 9, 9).unwrap().deliveries, expected, "{given:?}");
        }
        let fields = |quota: Result<OwnQuota, Vec<Violation>>| -> Vec<String> {
            quota.unwrap_err().into_iter().map(|violation| violation.field).collect()
        };
        let much = (MAX_RATE + 1, MAX_RATE + 1);
        let all = ["emit_rate", "emit_burst", "delivery_rate", "delivery_burst", "max_event_types"];
        for types in [MAX_EVENT_TYPES + 1, NO_LIMIT - 1] {
            assert_eq!(fields(OwnQuota::new(0, much, much, 0, types)), all);
        }
        assert_eq!(fields(OwnQuota::new(0, (0, 1), (0, 1), 0, 0)), ["emit_burst", "delivery_burst"]);
        assert_eq!(fields(OwnQuota::new(0, (NO_LIMIT, 1), (0, 0), 0, 0)), ["emit_rate"]);
    }

    #[test]
    fn a_tenant_has_the_default_unless_its_own_quota_says_a_number_or_none() {
        let standard = Quota::STANDARD;
        assert!(
            standard.max_subscriptions.is_some()
                && standard.deliveries.is_some()
                && standard.max_stored.is_some()
                && standard.max_event_types.is_some()
        );
        assert_eq!(OwnQuota::default().over(&standard), standard);
        assert_eq!(OwnQuota::default().over(&Quota::default()), Quota::default());
        let none =
            OwnQuota::new(NO_LIMIT, (NO_LIMIT, 0), (NO_LIMIT, 0), NO_LIMIT_OF_BYTES, NO_LIMIT).unwrap();
        assert_eq!(none.over(&standard), Quota::default());
        let own = OwnQuota::new(1, (2, 3), (4, 5), 6, 7).unwrap().over(&standard);
        let expected = Quota {
            max_subscriptions: NonZeroU32::new(1),
            emit: Rate::new(2, 3),
            deliveries: Rate::new(4, 5),
            max_stored: NonZeroU64::new(6),
            max_event_types: NonZeroU32::new(7),
        };
        assert_eq!(own, expected);
    }

    #[test]
    fn a_quota_admits_up_to_it_and_not_beyond() {
        let quota = OwnQuota::new(2, (0, 0), (0, 0), 100, 3).unwrap().over(&Quota::default());
        assert_eq!([0, 1, 2, 3].map(|has| quota.admits_subscription(has)), [true, true, false, false]);
        assert_eq!([1, 2, 3, 4].map(|has| quota.admits_event_type(has)), [true, true, false, false]);
        let none = Quota::default();
        assert!(none.admits_subscription(usize::MAX) && none.admits_event_type(usize::MAX));
        for (stored, more, expected) in
            [(0, 100, true), (0, 101, false), (99, 1, true), (100, 1, false), (u64::MAX, 1, false)]
        {
            assert_eq!(admits(quota.max_stored, stored, more), expected, "{stored} {more}");
        }
        assert!(admits(None, u64::MAX, u64::MAX));
    }

    proptest! {
        /// However events come, are erased and removed: what is stored is what they count for, and never above the quota.
        #[test]
        fn what_is_stored_adds_up_and_stays_within(
            max in 1_u64..20_000,
            events in prop::collection::vec((0_usize..2000, 0_usize..5, any::<bool>(), any::<bool>()), 0..60),
        ) {
            let (mut stored, mut kept) = (0, Vec::new());
            for (data, deliveries, erases, removes) in events {
                let more = content(data, std::iter::empty()) + frame(deliveries);
                if admits(NonZeroU64::new(max), stored, more) {
                    stored += more;
                    kept.push((data, deliveries, false));
                }
                prop_assert!(stored <= max);
                if erases && let Some(event) = kept.iter_mut().find(|(.., erased)| !erased) {
                    stored -= content(event.0, std::iter::empty());
                    event.2 = true;
                }
                if removes && !kept.is_empty() {
                    let (data, deliveries, erased) = kept.remove(0);
                    stored -= frame(deliveries);
                    if !erased {
                        stored -= content(data, std::iter::empty());
                    }
                }
                let sum: u64 = kept
                    .iter()
                    .map(|(data, deliveries, erased)| frame(*deliveries) + if *erased { 0 } else { *data as u64 })
                    .sum();
                prop_assert_eq!(stored, sum);
            }
        }
    }
}
