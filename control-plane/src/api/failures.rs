//! Calls without a valid token: counted by where they come from, and told in the log.
//!
//! Whoever has no token cannot make this remember much, log much or work long: networks that are remembered and lines
//! that are written are bounded, and what a failure costs does not depend on how many there were.

use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ahash::HashMap;
use postrider_domain::pace::{Meter, Pace};
use tonic::Status;
use tonic_types::StatusExt as _;
use tracing::warn;

use super::status;
use crate::clock::Clock;
use crate::listen::network_of;

/// Failures of one network in a second, and at once: more are answered with 'come back later'.
const FAILURES: (u32, u32) = (5, 50);
/// Lines of the log in a second, and at once, of all networks together.
const LINES: (u32, u32) = (2, 20);
/// How often one network gets a line.
const LINE_EVERY: Duration = Duration::from_secs(60);
/// Networks that are remembered. Beyond it, those that are new share one meter.
const MAX_NETWORKS: usize = 4096;
/// How often it is looked for networks that may be forgotten.
const FORGET_EVERY: Duration = Duration::from_secs(1);

/// Counts failures.
pub(super) struct Failures {
    clock: Clock,
    pace: Pace,
    line_pace: Pace,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    networks: HashMap<IpAddr, Network>,
    lines: Meter,
    forgot: Duration,
}

#[derive(Default)]
struct Network {
    meter: Meter,
    /// When it had its last line, and failures since.
    line: Option<Duration>,
    unsaid: u64,
}

impl Failures {
    pub(super) fn new(clock: Clock) -> Self {
        let pace = |(rate, burst): (u32, u32)| {
            let [rate, burst] = [rate, burst].map(|number| NonZeroU32::new(number).expect("it is not zero"));
            Pace::new(rate, burst)
        };
        Self { clock, pace: pace(FAILURES), line_pace: pace(LINES), seen: Mutex::default() }
    }

    /// What a caller from there is told: the status, unless too many have failed from there.
    pub(super) fn count(&self, address: Option<IpAddr>, failure: Status) -> Status {
        let Some(address) = address else { return failure };
        let now = self.clock.since_start();
        let mut seen = self.seen();
        let network = seen.remembered(network_of(address), now);
        let found = seen.networks.entry(network).or_default();
        let taken = self.pace.take(&mut found.meter, now);
        found.unsaid += 1;
        let due = found.line.is_none_or(|line| line + LINE_EVERY <= now);
        if due && self.line_pace.take(&mut seen.lines, now).is_ok() {
            seen.say(network, now, &failure);
        }
        taken.map_or_else(status::too_many_failures, |()| failure)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    /// The network, or, with too many remembered, the one that stands for all others.
    fn remembered(&mut self, network: IpAddr, now: Duration) -> IpAddr {
        if self.networks.len() < MAX_NETWORKS || self.networks.contains_key(&network) {
            return network;
        }
        if self.forgot + FORGET_EVERY <= now {
            self.forgot = now;
            self.networks.retain(|_, network| {
                !network.meter.is_idle(now) || network.line.is_some_and(|line| line + LINE_EVERY > now)
            });
        }
        if self.networks.len() < MAX_NETWORKS { network } else { Ipv6Addr::UNSPECIFIED.into() }
    }

    fn say(&mut self, network: IpAddr, now: Duration, failure: &Status) {
        let Some(found) = self.networks.get_mut(&network) else { return };
        let failures = std::mem::take(&mut found.unsaid);
        found.line = Some(now);
        let details = failure.get_error_details();
        let reason = details.error_info().map_or("", |info| info.reason.as_str());
        warn!(address = %network, failures, reason, "rejected calls without a valid token");
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    fn failures() -> Failures {
        Failures::new(Clock::start())
    }

    fn codes(failures: &Failures, address: IpAddr, count: u32) -> Vec<Code> {
        (0..count).map(|_| failures.count(Some(address), status::no_token()).code()).collect()
    }

    #[test]
    fn a_flood_is_told_to_come_back_later_and_others_are_not() {
        let failures = failures();
        let codes = codes(&failures, [192, 0, 2, 1].into(), 60);
        assert_eq!(codes[..50], [Code::Unauthenticated; 50]);
        assert_eq!(codes[59], Code::ResourceExhausted);
        let other = failures.count(Some([192, 0, 2, 2].into()), status::no_token());
        assert_eq!(other.code(), Code::Unauthenticated);
        let later = failures.count(Some([192, 0, 2, 1].into()), status::no_token());
        let wait = later.get_error_details().retry_info().unwrap().retry_delay.unwrap();
        assert!(wait > Duration::ZERO && wait <= Duration::from_millis(200), "{wait:?}");
    }

    #[test]
    fn one_party_cannot_come_from_many_addresses_of_its_network() {
        let failures = failures();
        let of = |last: u16| Ipv6Addr::new(0x2001, 0xdb8, 0, 1, last, 2, 3, last).into();
        let last = (0..60).map(|last| failures.count(Some(of(last)), status::no_token()).code()).last();
        assert_eq!(last, Some(Code::ResourceExhausted));
        let mapped = Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0xc000, 0x0201).into();
        assert_eq!(network_of(mapped), IpAddr::from([192, 0, 2, 1]));
    }

    #[test]
    fn memory_is_bounded_whoever_comes() {
        let failures = failures();
        for number in 0..200_000_u32 {
            let address = IpAddr::V4((0x0a00_0000 + number).into());
            let _answer = failures.count(Some(address), status::no_token());
        }
        let seen = failures.seen();
        assert!(seen.networks.len() <= MAX_NETWORKS + 1, "{}", seen.networks.len());
    }
}
