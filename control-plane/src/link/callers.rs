//! How often somebody asks for an identity, by where it asks from: in bounded memory, whoever asks.

use std::net::IpAddr;
use std::num::NonZeroU32;

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use tonic::Status;

use crate::api::status;

/// Calls of one network in a second, and in a burst: a large deployment behind one address enrols at once.
const PER_SECOND: NonZeroU32 = NonZeroU32::new(10).expect("it is not zero");
const BURST: NonZeroU32 = NonZeroU32::new(200).expect("it is not zero");
/// Networks that are remembered. Beyond it, those that are new share one allowance.
const MAX_NETWORKS: usize = 10_000;

/// See the [module](self).
pub(super) struct Callers(DefaultKeyedRateLimiter<IpAddr>);

impl Default for Callers {
    fn default() -> Self {
        Self(RateLimiter::keyed(Quota::per_second(PER_SECOND).allow_burst(BURST)))
    }
}

impl Callers {
    /// Counts a call from a network.
    pub(super) fn count(&self, network: IpAddr) -> Result<(), Status> {
        if self.0.len() >= MAX_NETWORKS {
            self.0.retain_recent();
        }
        let counted = if self.0.len() >= MAX_NETWORKS { IpAddr::from([0; 4]) } else { network };
        self.0.check_key(&counted).map_err(|_| status::too_many_enrolments())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;
    use tonic_types::StatusExt as _;

    #[test]
    fn one_network_is_told_to_come_back_later_and_others_are_not() {
        let callers = Callers::default();
        let refused = (0..=2 * BURST.get()).find_map(|_| callers.count([192, 0, 2, 1].into()).err()).unwrap();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        let wait = refused.get_error_details().retry_info().unwrap().retry_delay.unwrap();
        assert!(!wait.is_zero());
        assert!(callers.count([192, 0, 2, 2].into()).is_ok());
    }

    #[test]
    fn whoever_calls_from_everywhere_takes_no_memory() {
        let callers = Callers::default();
        for number in 0..30_000_u32 {
            let _counted = callers.count(std::net::Ipv4Addr::from_bits(0x0a00_0000 + number).into());
            assert!(callers.0.len() <= MAX_NETWORKS + 1);
        }
    }
}
