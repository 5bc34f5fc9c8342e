//! Which jobs of a stream were signed with one key alone, until their outcomes come.
//!
//! It is the stream's own: an outcome that comes by another stream, after a reconnection or a restart, says nothing
//! about keys. Nor does that of a job that was signed twice with different keys.

use ahash::HashMap;
use postrider_domain::id::KeyId;
use postrider_domain::time::Timestamp;
use postrider_proto::session::JobKey;

/// Jobs that are sent, and the key that alone has signed each.
#[derive(Default)]
pub(super) struct Signed(HashMap<JobKey, Option<(KeyId, Timestamp)>>);

impl Signed {
    /// A job is sent; `alone` has signed it at `now`, or several keys have.
    pub(super) fn sent(&mut self, job: JobKey, alone: Option<KeyId>, now: Timestamp) {
        let new = alone.map(|key| (key, now));
        let known = self.0.entry(job).or_insert(new);
        // The earlier time is kept: it is the cautious one.
        if known.map(|(key, _)| key) != alone {
            *known = None;
        }
    }

    /// The key that alone has signed a job which is answered now.
    pub(super) fn answered(&mut self, job: JobKey) -> Option<(KeyId, Timestamp)> {
        self.0.remove(&job).flatten()
    }

    /// A job is not waited for any more.
    pub(super) fn forget(&mut self, job: JobKey) {
        self.0.remove(&job);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postrider_domain::id::{DeliveryId, SubscriptionId};

    #[test]
    fn only_a_job_that_one_key_has_signed_names_it_and_once() {
        let now = Timestamp::default();
        let subscription = SubscriptionId::new(now, 1);
        let job = JobKey { delivery: DeliveryId { subscription, sequence: 1 }, attempt: 1, epoch: 1 };
        let [one, other] = [1, 2].map(|number| KeyId::new(now, number));
        let table = [
            (vec![Some(one)], Some(one)),
            (vec![None], None),
            (vec![Some(one), Some(one)], Some(one)),
            (vec![Some(one), Some(other)], None),
            (vec![Some(one), None], None),
            (vec![None, Some(one)], None),
        ];
        for (signers, expected) in table {
            let mut signed = Signed::default();
            signers.into_iter().for_each(|alone| signed.sent(job, alone, now));
            assert_eq!(signed.answered(job).map(|(key, _)| key), expected);
            assert_eq!(signed.answered(job), None);
        }
    }
}
