//! An agent of the simulated world that lies: it takes jobs and keeps them, reports those of others, reports twice, comes back
//! as somebody else, and names what it was given long ago. What it cannot do is to show a tag that it was not given.

use super::*;

#[derive(Default)]
pub(super) struct Liar {
    holder: Option<HolderId>,
    instance: u32,
    /// What it was ever given.
    given: Vec<JobKey>,
    caught: u32,
}

impl World {
    /// Whether a job arrives at the liar, which keeps it.
    pub(super) fn takes_as_liar(&mut self, holder: HolderId, key: JobKey) -> bool {
        let Some(liar) = self.liar.as_mut().filter(|liar| liar.holder == Some(holder)) else { return false };
        liar.given.push(key);
        true
    }

    /// A link does the same.
    pub(super) fn caught(&mut self, holder: HolderId) {
        let liar = self.liar.as_mut().filter(|liar| liar.holder == Some(holder) || liar.holder.is_none());
        liar.expect("nobody else gives cause for it").caught += 1;
        self.liar_leaves();
    }

    pub(super) fn liar_restarts(&mut self) {
        if let Some(liar) = &mut self.liar {
            liar.holder = None;
        }
    }

    fn liar_leaves(&mut self) {
        let holder = self.liar.as_mut().and_then(|liar| liar.holder.take());
        if let Some(holder) = holder {
            self.to_agent.retain(|(to, _)| *to != holder);
            self.scheduler.disconnected(holder, self.now);
        }
    }

    fn liar_comes(&mut self) {
        let new_process = self.chance(2);
        let mut names: Vec<JobKey> = self.liar.iter().flat_map(|liar| liar.given.clone()).collect();
        names.retain(|_| self.rng.random_ratio(1, 3));
        names.truncate(AGENT_CREDIT);
        let liar = self.liar.as_mut().expect("there is one");
        liar.instance += u32::from(new_process);
        let hello = hello("liar", &liar.instance.to_string(), AGENT_CREDIT, names);
        liar.holder = Some(self.scheduler.connected(hello, self.now));
    }

    fn lie(&mut self) {
        let Some(holder) = self.liar.as_ref().and_then(|liar| liar.holder) else { return self.liar_comes() };
        // Its own are never called delivered here: that it may do, and an event would be lost by it.
        let (own, others): (Vec<_>, Vec<_>) = {
            let given = &self.liar.as_ref().expect("there is one").given;
            self.handed.iter().map(|(_, key)| *key).partition(|key| given.contains(key))
        };
        let pick =
            |keys: &[JobKey], rng: &mut StdRng| keys.get(rng.random_range(0..keys.len().max(1))).copied();
        let (key, status) = match self.rng.random_range(0..6) {
            0 => return self.liar_leaves(),
            1 => (pick(&own, &mut self.rng), 500),
            2 => (pick(&own, &mut self.rng).map(|key| JobKey { attempt: u32::MAX, ..key }), 200),
            3 => (pick(&others, &mut self.rng), 410),
            4 => (pick(&others, &mut self.rng).map(|key| JobKey { attempt: key.attempt + 1, ..key }), 200),
            _ => (pick(&others, &mut self.rng), 200),
        };
        // Of its own jobs, and of those that are on their way to it, it may say what it likes, and an event would be lost.
        let is_own = |key: &JobKey| {
            let given = self.liar.iter().any(|liar| liar.given.contains(key));
            given || self.to_agent.contains(&(holder, *key))
        };
        if let Some(key) = key.filter(|key| status == 500 || !is_own(key)) {
            let report = Report::Made(Box::new(response(status)));
            let sequence = self.rng.random_range(1..9);
            self.scheduler.reported(Reported { holder, sequence }, key, report, 0.5, self.now);
        }
    }

    fn check_places(&self) {
        let occupied = self.scheduler.occupied();
        assert_eq!(occupied.places, occupied.jobs + occupied.writes, "seed {}: {occupied:?}", self.seed);
        let held: usize = self.scheduler.holders.values().map(|holder| holder.jobs.len()).sum();
        assert_eq!(occupied.jobs, held, "seed {}: a job without a holder", self.seed);
    }
}

#[test]
fn a_lying_agent_loses_nothing_of_others_and_is_found_out() {
    let mut caught = 0;
    for seed in 0..60 {
        let mut world = World::new(seed);
        world.liar = Some(Liar::default());
        (0..AGENTS).for_each(|which| world.connect(which));
        for step in 0..3_000 {
            world.step(seed % 2 == 0);
            if step % 7 == 0 {
                world.lie();
                world.carry_out();
            }
            world.check_places();
        }
        world.liar_leaves();
        world.heal();
        world.check();
        world.check_places();
        assert!(world.rows.len() > 200, "seed {seed}: too little was done");
        caught += world.liar.map_or(0, |liar| liar.caught);
    }
    assert!(caught > 60, "it was caught {caught} times");
}
