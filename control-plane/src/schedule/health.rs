//! How endpoints do, and what follows when one fails continuously: its lane dozes until it answers again.

use std::collections::BTreeMap;
use std::time::Duration;

use postrider_domain::id::{PoolName, SubscriptionId};
use postrider_domain::lane::health::{Turn, View};
use postrider_domain::lane::{Backlog, Breaker};
use postrider_domain::outcome::Outcome;
use postrider_domain::time::Timestamp;

use super::{Effect, LaneSettings, Scheduler, Slot};

/// What waits, all over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// What waits in each lane that is not held, where something does.
    pub lanes: Vec<(SubscriptionId, Backlog)>,
    /// Pools without a connected agent, and how many deliveries wait for one.
    pub stranded: BTreeMap<PoolName, u64>,
}

impl Scheduler {
    /// How a subscription's endpoint does.
    #[must_use]
    pub fn health(&self, id: SubscriptionId, now: Timestamp) -> Option<View> {
        self.lanes.get(&id).map(|slot| slot.view(now))
    }

    /// What waits.
    #[must_use]
    pub fn survey(&self) -> Survey {
        let mut survey = Survey::default();
        for (id, slot) in self.lanes.iter().filter(|(_, slot)| !slot.is_out_of_use()) {
            let backlog = slot.lane.backlog();
            if backlog.count == 0 {
                continue;
            }
            survey.lanes.push((*id, backlog));
            if !self.is_served(&slot.settings) {
                *survey.stranded.entry(slot.settings.pool.clone()).or_default() += backlog.count;
            }
        }
        survey
    }

    /// What an attempt's outcome says of the endpoint over days, after the lane has heard it. Says whether the lane dozes:
    /// what fails then has spent nothing.
    pub(super) fn weigh(
        &mut self,
        id: SubscriptionId,
        outcome: &Outcome,
        is_news: bool,
        random: f64,
        now: Timestamp,
    ) -> bool {
        let Some(slot) = self.lanes.get_mut(&id) else { return false };
        let turn = slot.health.heard(outcome, is_news, slot.lane.breaker(), &slot.settings.failure, now);
        if turn == Some(Turn::GivenUp) && !slot.settings.held {
            let every = slot.settings.failure.probe_every();
            slot.settings.probed_every = Some(every);
            slot.lane.doze(every, now, random);
        }
        let answers = slot.settings.probed_every.is_some() && slot.lane.breaker() != Breaker::Open;
        if answers {
            slot.settings.probed_every = None;
            self.effects.push(Effect::Enable(id));
        }
        let dozes = slot.settings.probed_every.is_some();
        if let Some(turn) = turn.filter(|_| !slot.settings.held) {
            let view = Box::new(slot.view(now));
            self.effects.push(Effect::Turned { id, turn, view, was_disabled: answers });
        }
        dozes
    }
}

impl Slot {
    /// Whether the lane hands nothing out, whatever its endpoint does: it is held, barred or deleted.
    pub(super) fn is_out_of_use(&self) -> bool {
        self.settings.held || self.barred || self.deleted
    }

    /// The pool allows the tenant from now on, or does not any more. As after a pause, the endpoint's past is forgiven, unless
    /// the subscription is disabled for it.
    pub(super) fn bar(&mut self, barred: bool, now: Timestamp) {
        let freed = self.barred && !barred && !self.settings.held;
        if freed && self.settings.probed_every.is_none() {
            self.health.forgive();
        }
        self.barred = barred;
        self.lane.hold(self.is_out_of_use());
        self.doze(self.settings.probed_every, now);
    }

    /// Takes over new settings, as far as they say whether and how the endpoint is tried.
    pub(super) fn follow_state(&mut self, settings: &LaneSettings, barred: bool, now: Timestamp) {
        let stays = |settings: &LaneSettings| settings.held || settings.probed_every.is_some();
        let (dozed, free) = (stays(&self.settings) && !self.settings.held, !stays(settings));
        if free && stays(&self.settings) {
            self.health.forgive();
        }
        if free && dozed {
            self.lane.release_endpoint();
        }
        (self.settings.held, self.settings.probed_every) = (settings.held, settings.probed_every);
        self.bar(barred, now);
    }

    /// A disabled subscription's endpoint is probed every so often; each at its own time, also after a restart.
    pub(super) fn doze(&mut self, every: Option<Duration>, now: Timestamp) {
        if let Some(every) = every {
            self.lane.doze(every, now, spread(self.settings.id));
        }
    }

    fn view(&self, now: Timestamp) -> View {
        self.health.view(&self.lane, &self.settings.failure, now)
    }
}

/// A number in 0..1 that is a subscription's own: its id is random.
fn spread(id: SubscriptionId) -> f64 {
    let [.., one, other] = id.to_bytes();
    f64::from(u16::from_be_bytes([one, other])) / f64::from(u16::MAX)
}
