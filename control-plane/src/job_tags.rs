//! Tags of jobs: they show to whom an attempt was assigned, also after a restart, without a write.
//!
//! A tag authenticates (delivery, attempt, epoch, agent) under a key of the control plane. It goes out
//! with the job, and an agent gives it back with what it claims in `Hello`. Assignments are not written
//! to the store, so a control plane that has restarted knows them by their tags alone. An agent without
//! the right tag was not given the attempt.

use bytes::Bytes;
use hmac::{Hmac, Mac as _};
use postrider_domain::id::AgentId;
use postrider_proto::agent;
use postrider_proto::session::JobKey;
use sha2::Sha256;

/// Bytes of a tag.
const TAG_BYTES: usize = 16;

/// Makes and judges tags.
#[derive(Clone)]
pub struct JobTags {
    /// Keyed, and at the beginning of a message.
    mac: Hmac<Sha256>,
    /// Jobs of epochs up to this one are of another life of the store.
    fence: u64,
}

impl JobTags {
    /// Tags under this key. Jobs of epochs up to `fence` were assigned before the store was restored.
    #[must_use]
    pub fn new(key: &[u8], fence: u64) -> Self {
        let mac = Hmac::new_from_slice(key).expect("HMAC takes keys of any length");
        Self { mac, fence }
    }

    /// The key as an agent gets it: with the tag that names the agent.
    #[must_use]
    pub fn write(&self, key: JobKey, agent: &AgentId) -> agent::JobKey {
        let tag = self.mac(key, agent).finalize().into_bytes();
        key.write(Bytes::copy_from_slice(&tag[..TAG_BYTES]))
    }

    /// Whether this agent was given this job. One from before a restore counts for nothing anyway.
    #[must_use]
    pub fn was_given(&self, key: JobKey, agent: &AgentId, tag: &[u8]) -> bool {
        let is_fenced = key.epoch <= self.fence;
        let is_whole = tag.len() == TAG_BYTES;
        is_fenced || is_whole && self.mac(key, agent).verify_truncated_left(tag).is_ok()
    }

    fn mac(&self, key: JobKey, agent: &AgentId) -> Hmac<Sha256> {
        // All but the last part have a fixed length, so no two sequences of parts read the same.
        let mut mac = self.mac.clone();
        mac.update(&key.delivery.subscription.to_bytes());
        mac.update(&key.delivery.sequence.to_be_bytes());
        mac.update(&key.attempt.to_be_bytes());
        mac.update(&key.epoch.to_be_bytes());
        mac.update(agent.as_str().as_bytes());
        mac
    }
}

impl std::fmt::Debug for JobTags {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JobTags")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postrider_domain::id::{DeliveryId, SubscriptionId};
    use postrider_domain::time::Timestamp;

    fn key() -> JobKey {
        let subscription = SubscriptionId::new(Timestamp::default(), 7);
        JobKey { delivery: DeliveryId { subscription, sequence: 3 }, attempt: 2, epoch: 5 }
    }

    fn agent(name: &str) -> AgentId {
        name.parse().unwrap()
    }

    #[test]
    fn a_tag_is_good_for_one_attempt_of_one_agent() {
        let tags = JobTags::new(&[1; 32], 0);
        let tag = tags.write(key(), &agent("a")).tag;
        assert!(tags.was_given(key(), &agent("a"), &tag), "also after a restart: nothing is remembered");
        let delivery = DeliveryId { sequence: 4, ..key().delivery };
        let other = SubscriptionId::new(Timestamp::default(), 8);
        let others = [
            (JobKey { attempt: 3, ..key() }, "a"),
            (JobKey { attempt: u32::MAX, ..key() }, "a"),
            (JobKey { epoch: 6, ..key() }, "a"),
            (JobKey { delivery, ..key() }, "a"),
            (JobKey { delivery: DeliveryId { subscription: other, ..key().delivery }, ..key() }, "a"),
            (key(), "b"),
        ];
        for (key, name) in others {
            assert!(!tags.was_given(key, &agent(name), &tag), "{key:?} {name}");
        }
        assert!(!JobTags::new(&[2; 32], 0).was_given(key(), &agent("a"), &tag), "another control plane's");
        for broken in [&[][..], &tag[..15], &[&tag[..], &[0]].concat(), &[0; 16]] {
            assert!(!tags.was_given(key(), &agent("a"), broken), "{broken:?}");
        }
    }

    #[test]
    fn what_was_assigned_before_a_restore_needs_no_tag() {
        let tags = JobTags::new(&[1; 32], 5);
        assert!(tags.was_given(key(), &agent("a"), &[]));
        assert!(!tags.was_given(JobKey { epoch: 6, ..key() }, &agent("a"), &[]));
    }
}
