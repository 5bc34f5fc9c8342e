//! What is written of lanes beside their deliveries, now and then: a crash loses a second of it, and nothing that matters.

use super::{Effect, Scheduler};

impl Scheduler {
    /// How far lanes are settled, and their endpoints' troubles, where that has changed.
    pub(super) fn write_low_waters(&mut self) {
        for id in std::mem::take(&mut self.settled) {
            let Some(slot) = self.lanes.get_mut(&id) else { continue };
            let low_water = slot.lane.low_water();
            if low_water != slot.low_water {
                slot.low_water = low_water;
                self.effects.push(Effect::LowWater(id, low_water));
            }
            if let Some(trouble) = slot.health.unwritten(slot.trouble) {
                slot.trouble = trouble;
                self.effects.push(Effect::Trouble(id, trouble));
            }
        }
    }
}
