//! Judges the settings of what every tenant may use.

use std::num::{NonZeroU32, NonZeroU64};
use std::ops::RangeInclusive;

use postrider_domain::pace::Pace;
use postrider_domain::quota::{MAX_EVENT_TYPES, MAX_RATE, Quota, Rate, delivery_burst};

use super::Settings;
use super::checker::Checker;

/// How many events or deliveries a second, or at once, a limit may allow.
const RATES: RangeInclusive<u32> = 1..=MAX_RATE;
/// The same where 0 means that there is no limit.
const RATES_OR_NONE: RangeInclusive<u32> = 0..=MAX_RATE;
/// Attempts a second that any one destination gets, unless a setting says otherwise.
const DESTINATION_RATE: u32 = 1000;
/// Bytes of a MiB.
const MIB: u64 = 1024 * 1024;

impl Checker {
    pub(super) fn tenant_quota(&mut self, settings: &Settings) -> Quota {
        let standard = Quota::STANDARD;
        let subscriptions = standard.max_subscriptions.map_or(0, NonZeroU32::get);
        let stored = standard.max_stored.map_or(0, NonZeroU64::get) / MIB;
        let max_subscriptions = self.number(
            "tenant_max_subscriptions",
            settings.tenant_max_subscriptions,
            subscriptions,
            0..=1_000_000,
        );
        let event_types = standard.max_event_types.map_or(0, NonZeroU32::get);
        let max_event_types = self.number(
            "tenant_max_event_types",
            settings.tenant_max_event_types,
            event_types,
            0..=MAX_EVENT_TYPES,
        );
        let stored =
            self.number("tenant_max_stored_mib", settings.tenant_max_stored_mib, stored, 0..=1_073_741_824);
        Quota {
            max_subscriptions: NonZeroU32::new(max_subscriptions),
            emit: self.emit_rate(settings.tenant_emit_rate, settings.tenant_emit_burst),
            deliveries: self.delivery_rate(settings.tenant_delivery_rate, settings.tenant_delivery_burst),
            max_stored: NonZeroU64::new(stored.saturating_mul(MIB)),
            max_event_types: NonZeroU32::new(max_event_types),
        }
    }

    /// How often any one destination is called; `None` for as often as subscriptions allow.
    pub(super) fn destination_limit(&mut self, rate: Option<u32>, burst: Option<u32>) -> Option<Pace> {
        let per_second = self.number("destination_rate", rate, DESTINATION_RATE, RATES_OR_NONE);
        self.require(
            per_second > 0 || burst.is_none(),
            "destination_burst is set, but destination_rate is 0, which is no limit; unset one of them",
        );
        let burst = burst.filter(|_| per_second > 0);
        let fifth = (per_second / 5).max(1);
        let burst = self.number("destination_burst", burst, fifth, RATES);
        Some(Pace::new(NonZeroU32::new(per_second)?, NonZeroU32::new(burst)?))
    }

    fn emit_rate(&mut self, rate: Option<u32>, burst: Option<u32>) -> Option<Rate> {
        self.require(
            rate.is_some() || burst.is_none(),
            "tenant_emit_burst needs tenant_emit_rate; set both, or neither",
        );
        let per_second = self.number("tenant_emit_rate", Some(rate?), 1, RATES);
        let burst = self.number("tenant_emit_burst", burst, per_second, RATES);
        Rate::new(per_second, burst)
    }

    fn delivery_rate(&mut self, rate: Option<u32>, burst: Option<u32>) -> Option<Rate> {
        let standard = Quota::STANDARD.deliveries.map_or(0, |rate| rate.per_second.get());
        let per_second = self.number("tenant_delivery_rate", rate, standard, RATES_OR_NONE);
        self.require(
            per_second > 0 || burst.is_none(),
            "tenant_delivery_burst is set, but tenant_delivery_rate is 0, which is no limit; unset one of them",
        );
        let burst = burst.filter(|_| per_second > 0);
        let burst = self.number("tenant_delivery_burst", burst, delivery_burst(per_second).max(1), RATES);
        Rate::new(per_second, burst)
    }
}
