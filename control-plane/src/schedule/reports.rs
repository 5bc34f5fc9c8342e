//! What agents report of their jobs, and what follows.

use postrider_domain::delivery::{Consequence, Delivery, State};
use postrider_domain::id::{DeliveryId, SubscriptionId};
use postrider_domain::lane::Place;
use postrider_domain::outcome::{Attempt, Class, Outcome};
use postrider_domain::time::Timestamp;
use postrider_proto::session::{JobKey, Report};

use super::agents::HolderId;
use super::{Effect, Scheduler, Why};
use crate::store::{DeliveryRow, Settle};

/// Names one outcome of one holder, to be acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reported {
    /// Whose.
    pub holder: HolderId,
    /// Its number in the holder's stream of outcomes.
    pub sequence: u64,
}

impl Scheduler {
    /// A holder reports of a job. `random` in 0..1 is for the next attempt's jitter.
    pub fn reported(&mut self, reported: Reported, key: JobKey, report: Report, random: f64, now: Timestamp) {
        let own = self.has(reported.holder, key);
        if !own && !self.still_owes(reported.holder, key) {
            // A stream that has ended reports again on the next one. What the link itself says has no number.
            if self.holders.contains_key(&reported.holder) && reported.sequence != 0 {
                self.effects.push(Effect::ForeignReport { holder: reported.holder, key });
            }
            return;
        }
        if self.is_of_another_life(key) {
            self.effects.push(Effect::Acknowledge(reported));
            return;
        }
        match (own, report) {
            (true, Report::NotStarted) => {
                self.take_from_holder(reported.holder, key.delivery);
                self.give_back(key.delivery, now);
                self.effects.push(Effect::Acknowledge(reported));
            }
            (true, Report::Made(outcome)) => {
                self.conclude(reported.holder, key, &outcome, Some(reported), random, now);
            }
            (false, Report::NotStarted) => self.effects.push(Effect::Acknowledge(reported)),
            (false, Report::Made(outcome)) => self.reported_late(reported, key, *outcome, random, now),
        }
    }

    /// What was reported while the delivery's row was being read. The holder may have the job by now.
    pub(super) fn reported_again(
        &mut self,
        reported: Reported,
        key: JobKey,
        outcome: Outcome,
        random: f64,
        now: Timestamp,
    ) {
        if self.has(reported.holder, key) {
            self.conclude(reported.holder, key, &outcome, Some(reported), random, now);
        } else {
            self.reported_late(reported, key, outcome, random, now);
        }
    }

    /// Whether a holder has a job that is not its to settle: it may report it once.
    fn still_owes(&mut self, holder: HolderId, key: JobKey) -> bool {
        match self.holders.get_mut(&holder) {
            Some(holder) => holder.others.remove(&key),
            None => self.replaced.get_mut(&holder).is_some_and(|replaced| replaced.jobs.remove(&key)),
        }
    }

    /// Records the outcome of a job that its holder had.
    pub(super) fn conclude(
        &mut self,
        holder: HolderId,
        key: JobKey,
        outcome: &Outcome,
        reported: Option<Reported>,
        random: f64,
        now: Timestamp,
    ) {
        let started = self.take_from_holder(holder, key.delivery).unwrap_or(now);
        self.places.unassign(key.delivery);
        let in_flight = self
            .lanes
            .get(&key.delivery.subscription)
            .and_then(|slot| slot.lane.in_flight(key.delivery.sequence));
        match (in_flight.copied(), reported) {
            (Some(delivery), _) => {
                let attempt = self.attempt(holder, key, started, outcome.clone());
                self.follow(key.delivery, delivery, attempt, reported, random, now);
            }
            (None, Some(reported)) => self.effects.push(Effect::Acknowledge(reported)),
            (None, None) => {}
        }
        self.drop_if_done(holder);
    }

    /// An outcome of a job that its holder was given and that is not its to settle: we have restarted, or had given it up.
    ///
    /// If it is of the delivery's next attempt, nobody has repeated it, and it counts. If it is older, only a success
    /// counts: the receiver has the event.
    pub(super) fn reported_late(
        &mut self,
        reported: Reported,
        key: JobKey,
        outcome: Outcome,
        random: f64,
        now: Timestamp,
    ) {
        if self.is_foreign(reported.holder, key) {
            self.effects.push(Effect::Acknowledge(reported));
            return;
        }
        let why = Why::Report { reported, key, outcome: Box::new(outcome.clone()), random };
        let Some(why) = self.while_reading(key.delivery, why) else { return };
        let Some(slot) = self.lanes.get_mut(&key.delivery.subscription) else {
            self.effects.push(Effect::Acknowledge(reported));
            return;
        };
        match slot.lane.claim(key.delivery.sequence) {
            Place::Taken(delivery) => self.judge_late(reported, key, delivery, outcome, random, now),
            Place::InFlight if outcome.class == Class::Success => {
                let delivery = slot.lane.in_flight(key.delivery.sequence).copied();
                self.withdraw(key.delivery);
                if let Some(delivery) = delivery {
                    self.judge_late(reported, key, delivery, outcome, random, now);
                }
            }
            Place::InFlight => self.effects.push(Effect::Acknowledge(reported)),
            // It was reported before; it may be acknowledged when that is stored.
            Place::Settling => self.repeated.entry(key.delivery).or_default().push(reported),
            Place::Elsewhere => self.read(key.delivery, why),
        }
    }

    /// Decides about a late outcome of a delivery that is in flight in its lane, but with no holder.
    pub(super) fn judge_late(
        &mut self,
        reported: Reported,
        key: JobKey,
        delivery: Delivery,
        outcome: Outcome,
        random: f64,
        now: Timestamp,
    ) {
        let success = outcome.class == Class::Success;
        if delivery.next_attempt() == key.attempt {
            let attempt = self.attempt(reported.holder, key, now, outcome);
            self.follow(key.delivery, delivery, attempt, Some(reported), random, now);
        } else if success {
            let attempt = self.attempt(reported.holder, key, now, outcome);
            let settled = delivery.delivered_late(key.attempt, now);
            let settle = Settle {
                id: key.delivery,
                was_due: delivery.state.due(),
                delivery: settled,
                attempt: Some(attempt),
            };
            self.settle(settle, Some(reported), None, now);
        } else {
            self.give_back(key.delivery, now);
            self.effects.push(Effect::Acknowledge(reported));
        }
    }

    /// The row that a late outcome was waiting for.
    pub(super) fn reported_row(
        &mut self,
        row: Option<DeliveryRow>,
        reported: Reported,
        key: JobKey,
        outcome: Outcome,
        random: f64,
        now: Timestamp,
    ) {
        // What has ended stays as it is, whatever an agent says: delivered, exhausted, and above all cancelled.
        let open = row.filter(|row| !row.delivery.state.has_ended());
        match (open, self.lanes.get_mut(&key.delivery.subscription)) {
            (Some(row), Some(slot)) => {
                slot.lane.adopt(row.delivery);
                self.judge_late(reported, key, row.delivery, outcome, random, now);
            }
            _ => self.effects.push(Effect::Acknowledge(reported)),
        }
    }

    fn follow(
        &mut self,
        id: DeliveryId,
        delivery: Delivery,
        attempt: Attempt,
        reported: Option<Reported>,
        random: f64,
        now: Timestamp,
    ) {
        let Some(slot) = self.lanes.get_mut(&id.subscription) else { return };
        let (mut settled, consequence) =
            delivery.settle(&attempt.outcome, &slot.settings.retry, attempt.started, now, random);
        let heard = slot.lane.heard(id.sequence, &attempt.outcome, now, random);
        if let Some(turned) = heard.turned {
            self.effects.push(Effect::Breaker(id.subscription, turned));
        }
        let dozes = self.weigh(id.subscription, &attempt.outcome, heard.is_news, random, now);
        if dozes && !matches!(settled.state, State::Delivered(_)) {
            settled = settled.kept(now);
        }
        if consequence == Consequence::Disable {
            self.disable_gone(id.subscription);
        }
        let settle = Settle { id, was_due: delivery.state.due(), delivery: settled, attempt: Some(attempt) };
        self.settle(settle, reported, None, now);
    }

    fn disable_gone(&mut self, id: SubscriptionId) {
        let Some(slot) = self.lanes.get_mut(&id).filter(|slot| !slot.settings.held) else { return };
        slot.settings.held = true;
        slot.settings.probed_every = None;
        slot.lane.hold(true);
        self.effects.push(Effect::Disable(id));
    }

    fn attempt(&self, holder: HolderId, key: JobKey, started: Timestamp, outcome: Outcome) -> Attempt {
        let station = self.holders.get(&holder).map(|holder| &holder.station);
        let station = station.or_else(|| self.replaced.get(&holder).map(|replaced| &replaced.station));
        let agent = station.map_or_else(
            || "unknown".parse().expect("it is a valid agent id"),
            |station| station.agent.clone(),
        );
        Attempt { number: key.attempt, started, agent, outcome }
    }

    fn take_from_holder(&mut self, holder: HolderId, delivery: DeliveryId) -> Option<Timestamp> {
        self.holders.get_mut(&holder)?.jobs.remove(&delivery).map(|held| held.started)
    }

    /// The job that somebody else has for this delivery is not needed any more.
    fn withdraw(&mut self, delivery: DeliveryId) {
        let Some(holder) = self.places.unassign(delivery) else { return };
        let held = self.holders.get_mut(&holder).and_then(|holder| holder.jobs.remove(&delivery));
        if let Some(held) = held {
            if let Some(holder) = self.holders.get_mut(&holder) {
                holder.others.insert(held.key);
            }
            self.effects.push(Effect::Withdraw { holder, key: held.key });
        }
        self.drop_if_done(holder);
    }
}
