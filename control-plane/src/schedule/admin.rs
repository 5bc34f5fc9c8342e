//! What people ask of single deliveries, and rows that had to be read first.

use postrider_domain::delivery::{Delivery, State};
use postrider_domain::id::{DeliveryId, PoolName, SubscriptionId};
use postrider_domain::lane::{Place, Rest};
use postrider_domain::outcome::Outcome;
use postrider_domain::time::Timestamp;
use postrider_proto::session::JobKey;

use super::agents::HolderId;
use super::{Effect, Reported, Scheduler};
use crate::store::{DeliveryRow, Settle};

/// Names somebody who waits for an answer.
pub type Ticket = u64;

/// What somebody is told.
pub type Answer = Result<(), Refusal>;

/// Why a delivery is not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is none.
    #[error("there is no such delivery; it may have aged out")]
    NotFound,
    /// An attempt is under way.
    #[error("an attempt is in flight; wait for its outcome")]
    UnderWay,
    /// Its latest outcome is just being written.
    #[error("the latest outcome is just being written; repeat the call")]
    Busy,
    /// Nothing more will be attempted.
    #[error("the delivery has ended")]
    Ended,
    /// Its subscription is gone.
    #[error("the subscription is deleted")]
    SubscriptionDeleted,
    /// Its subscription's pool does not allow its tenant.
    #[error("the subscription's pool does not allow the tenant")]
    PoolNotAllowed,
}

/// Why a row was read.
#[derive(Debug)]
pub enum Why {
    /// An agent says it has a job for it.
    Recognise(HolderId, JobKey),
    /// An agent reports of a job that was not known to be its.
    Report {
        /// Whose outcome.
        reported: Reported,
        /// Of which job.
        key: JobKey,
        /// What happened.
        outcome: Box<Outcome>,
        /// For the jitter.
        random: f64,
    },
    /// Somebody wants another attempt.
    Retry(Ticket),
    /// Somebody wants its end.
    Cancel(Ticket),
}

/// What is true of a delivery only now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Nothing.
    None,
    /// An agent has it.
    Attempting,
    /// Its lane is held.
    Held,
    /// Its pool does not allow its tenant.
    PoolNotAllowed,
    /// No agent takes jobs for it.
    NoAgent,
    /// Its endpoint is left alone.
    Resting(Rest),
    /// An earlier one must end first.
    Behind,
    /// Its destination is at its limit.
    Destination,
}

impl Scheduler {
    /// Somebody wants another attempt, now.
    pub fn retry(&mut self, id: DeliveryId, ticket: Ticket, now: Timestamp) {
        self.decide(id, Why::Retry(ticket), now);
    }

    /// Somebody wants a delivery's end.
    pub fn cancel(&mut self, id: DeliveryId, ticket: Ticket, now: Timestamp) {
        self.decide(id, Why::Cancel(ticket), now);
    }

    /// What is true of a delivery only now.
    #[must_use]
    pub fn condition(&self, id: DeliveryId, now: Timestamp) -> Condition {
        if self.places.holder(id).is_some() {
            return Condition::Attempting;
        }
        match self.lanes.get(&id.subscription) {
            Some(slot) if slot.settings.held || slot.settings.probed_every.is_some() => Condition::Held,
            Some(slot) if slot.barred => Condition::PoolNotAllowed,
            Some(slot) if !self.is_served(&slot.settings) => Condition::NoAgent,
            Some(slot) => match slot.lane.rest(now) {
                Some(rest) => Condition::Resting(rest),
                None if slot.lane.is_behind(id.sequence) => Condition::Behind,
                None if slot.waits_for.is_some() => Condition::Destination,
                None => Condition::None,
            },
            None => Condition::None,
        }
    }

    /// The pool that a subscription's deliveries wait for.
    #[must_use]
    pub fn pool(&self, id: SubscriptionId) -> Option<&PoolName> {
        self.lanes.get(&id).map(|slot| &slot.settings.pool)
    }

    /// The row that [`Effect::Read`] asked for; `Err` when the store could not be read.
    pub fn row(&mut self, id: DeliveryId, why: Why, row: Result<Option<DeliveryRow>, ()>, now: Timestamp) {
        let meanwhile = self.reading.remove(&id).unwrap_or_default();
        match row {
            Ok(row) => self.found(id, why, row, now),
            Err(()) => self.unread(id, why),
        }
        for why in meanwhile {
            self.again(id, why, now);
        }
        self.touch(id.subscription, now);
    }

    /// Reads a delivery's row; until it is here, the lane leaves the delivery alone.
    pub(super) fn read(&mut self, id: DeliveryId, why: Why) {
        if let Some(slot) = self.lanes.get_mut(&id.subscription) {
            slot.lane.reserve(id.sequence);
        }
        self.reading.insert(id, Vec::new());
        self.effects.push(Effect::Read { id, why: Box::new(why) });
    }

    /// Keeps what is asked of a delivery until its row is here, if it is being read; otherwise gives it back.
    pub(super) fn while_reading(&mut self, id: DeliveryId, why: Why) -> Option<Why> {
        match self.reading.get_mut(&id) {
            Some(meanwhile) => {
                meanwhile.push(why);
                None
            }
            None => Some(why),
        }
    }

    fn found(&mut self, id: DeliveryId, why: Why, row: Option<DeliveryRow>, now: Timestamp) {
        match why {
            Why::Recognise(holder, key) => self.recognised(holder, key, row.as_ref(), now),
            Why::Report { reported, key, outcome, random } => {
                self.reported_row(row, reported, key, *outcome, random, now);
            }
            Why::Retry(_) | Why::Cancel(_) => self.decide_row(id, &why, row, now),
        }
        if let Some(slot) = self.lanes.get_mut(&id.subscription) {
            slot.lane.release(id.sequence);
        }
    }

    fn again(&mut self, id: DeliveryId, why: Why, now: Timestamp) {
        match why {
            Why::Recognise(holder, key) => {
                if !self.recognise(holder, key, now) {
                    self.effects.push(Effect::Forget { holder, keys: vec![key] });
                }
            }
            Why::Report { reported, key, outcome, random } => {
                self.reported_again(reported, key, *outcome, random, now);
            }
            Why::Retry(_) | Why::Cancel(_) => self.decide(id, why, now),
        }
    }

    /// People are told; what agents say is not forgotten because the store was away: the row is read again.
    fn unread(&mut self, id: DeliveryId, why: Why) {
        if let Some(slot) = self.lanes.get_mut(&id.subscription) {
            slot.lane.unread(id.sequence);
        }
        match why {
            Why::Retry(ticket) | Why::Cancel(ticket) => {
                self.effects.push(Effect::Answer(ticket, Err(Refusal::Busy)));
            }
            Why::Report { .. } | Why::Recognise(..) => self.read(id, why),
        }
    }

    fn recognised(&mut self, holder: HolderId, key: JobKey, row: Option<&DeliveryRow>, now: Timestamp) {
        let open = row.map(|row| row.delivery).filter(|delivery| !delivery.state.has_ended());
        let (Some(delivery), Some(slot)) = (open, self.lanes.get_mut(&key.delivery.subscription)) else {
            self.effects.push(Effect::Forget { holder, keys: vec![key] });
            return;
        };
        slot.lane.adopt(delivery);
        if delivery.next_attempt() == key.attempt {
            self.assign(holder, key, now);
        } else {
            self.give_back(key.delivery, now);
            self.effects.push(Effect::Forget { holder, keys: vec![key] });
        }
    }

    fn decide(&mut self, id: DeliveryId, why: Why, now: Timestamp) {
        let ticket = match why {
            Why::Retry(ticket) | Why::Cancel(ticket) => ticket,
            Why::Recognise(..) | Why::Report { .. } => return,
        };
        let Some(why) = self.while_reading(id, why) else { return };
        let refused = match self.lanes.get_mut(&id.subscription).filter(|slot| !slot.deleted) {
            None => Refusal::SubscriptionDeleted,
            Some(slot) if slot.barred && matches!(why, Why::Retry(_)) => Refusal::PoolNotAllowed,
            Some(slot) => match slot.lane.claim(id.sequence) {
                Place::InFlight => Refusal::UnderWay,
                Place::Settling => Refusal::Busy,
                Place::Taken(delivery) => {
                    self.apply(id, &why, delivery, None, now);
                    return;
                }
                Place::Elsewhere => {
                    self.read(id, why);
                    return;
                }
            },
        };
        self.effects.push(Effect::Answer(ticket, Err(refused)));
    }

    fn decide_row(&mut self, id: DeliveryId, why: &Why, row: Option<DeliveryRow>, now: Timestamp) {
        let (Why::Retry(ticket) | Why::Cancel(ticket)) = *why else { return };
        let refusal = match &row {
            None => Some(Refusal::NotFound),
            Some(row) if matches!(why, Why::Cancel(_)) && row.delivery.state.has_ended() => {
                Some(Refusal::Ended)
            }
            Some(_) => None,
        };
        if let Some(refusal) = refusal {
            self.effects.push(Effect::Answer(ticket, Err(refusal)));
        } else if let (Some(row), Some(slot)) = (row, self.lanes.get_mut(&id.subscription)) {
            slot.lane.adopt(row.delivery);
            // The attempt that delivered is kept in the delivery's row, which is about to be rewritten.
            let kept = row.last.filter(|_| matches!(row.delivery.state, State::Delivered(_)));
            self.apply(id, why, row.delivery, kept, now);
        }
    }

    fn apply(
        &mut self,
        id: DeliveryId,
        why: &Why,
        delivery: Delivery,
        attempt: Option<postrider_domain::outcome::Attempt>,
        now: Timestamp,
    ) {
        let (settled, ticket) = match why {
            Why::Retry(ticket) => (delivery.retried(now), *ticket),
            Why::Cancel(ticket) => (delivery.cancelled(now), *ticket),
            Why::Recognise(..) | Why::Report { .. } => return,
        };
        let settle = Settle { id, was_due: delivery.state.due(), delivery: settled, attempt };
        self.settle(settle, None, Some(ticket), now);
    }
}
