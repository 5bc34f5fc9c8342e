//! How often somebody asks for an identity, by where it asks from: in bounded memory, whoever asks.

use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ahash::HashMap;
use postrider_domain::pace::{Meter, Pace};
use tonic::Status;

use crate::api::status;
use crate::clock::Clock;

/// Calls of one network in a second, and in a burst: a large deployment behind one address enrolls at once.
const PER_SECOND: NonZeroU32 = NonZeroU32::new(10).expect("it is not zero");
const BURST: NonZeroU32 = NonZeroU32::new(200).expect("it is not zero");
/// Networks that are remembered. Beyond it, those that are new share one allowance.
const MAX_NETWORKS: usize = 10_000;
/// How often it is looked for networks that may be forgotten, when there are so many.
const FORGET_EVERY: Duration = Duration::from_secs(1);

/// See the [module](self).
pub(super) struct Callers {
    clock: Clock,
    pace: Pace,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    meters: HashMap<IpAddr, Meter>,
    forgot: Duration,
}

impl Callers {
    pub(super) fn new(clock: Clock) -> Self {
        Self { clock, pace: Pace::new(PER_SECOND, BURST), seen: Mutex::default() }
    }

    /// Counts a call from a network.
    pub(super) fn count(&self, network: IpAddr) -> Result<(), Status> {
        let now = self.clock.since_start();
        let mut seen = self.seen();
        let counted = seen.remembered(network, now);
        let taken = self.pace.take(seen.meters.entry(counted).or_default(), now);
        taken.map_err(|_| status::too_many_enrollments())
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    /// The network, or, with too many remembered, the one that stands for all others.
    fn remembered(&mut self, network: IpAddr, now: Duration) -> IpAddr {
        if self.meters.len() < MAX_NETWORKS || self.meters.contains_key(&network) {
            return network;
        }
        if self.forgot + FORGET_EVERY <= now {
            self.forgot = now;
            self.meters.retain(|_, meter| !meter.is_idle(now));
        }
        if self.meters.len() < MAX_NETWORKS { network } else { Ipv6Addr::UNSPECIFIED.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;
    use tonic_types::StatusExt as _;

    #[test]
    fn one_network_is_told_to_come_back_later_and_others_are_not() {
        let callers = Callers::new(Clock::start());
        let refused = (0..=2 * BURST.get()).find_map(|_| callers.count([192, 0, 2, 1].into()).err()).unwrap();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        let wait = refused.get_error_details().retry_info().unwrap().retry_delay.unwrap();
        assert!(!wait.is_zero());
        assert!(callers.count([192, 0, 2, 2].into()).is_ok());
    }

    #[test]
    fn whoever_calls_from_everywhere_takes_no_memory() {
        let callers = Callers::new(Clock::start());
        for number in 0..30_000_u32 {
            let _counted = callers.count(std::net::Ipv4Addr::from_bits(0x0a00_0000 + number).into());
            assert!(callers.seen().meters.len() <= MAX_NETWORKS + 1);
        }
    }
}
