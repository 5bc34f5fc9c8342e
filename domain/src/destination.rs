//! How often a destination is called, whoever's subscriptions call it.
//!
//! A destination is the host and the port of an endpoint's URL. Each has one meter for all attempts of all tenants. A lane
//! whose destination is at its limit waits there: tenants take turns, and so do the pools and the lanes of each tenant, one
//! delivery a turn. So each tenant gets an equal share of what the destination may be sent, and what one does not need goes to
//! the others. Nothing fails, and nothing overtakes within a lane.
//!
//! A destination is forgotten when no lane waits for it and its whole burst may be used again.

mod line;

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use self::line::Line;
use crate::egress::{EndpointUrl, Host};
use crate::pace::{Meter, Pace};
use crate::time::Timestamp;

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Destination(Arc<str>);

impl Destination {
    /// Where a URL leads. An IPv4 address that is written as an IPv6 one is the same address.
    #[must_use]
    pub fn of(url: &EndpointUrl) -> Self {
        let port = url.port();
        let text = match url.host() {
            Host::Name(name) => format!("{name}:{port}"),
            Host::Address(address) => match address.to_canonical() {
                IpAddr::V4(address) => format!("{address}:{port}"),
                IpAddr::V6(address) => format!("[{address}]:{port}"),
            },
        };
        Self(text.into())
    }

    /// As text: `host:port`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whose lane waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Party {
    /// The number of its tenant, which shares the destination with others.
    pub tenant: u32,
    /// The number of the pool that delivers for it.
    pub pool: u32,
}

/// Every destination that was called lately, and the lanes that wait for one.
#[derive(Debug)]
pub struct Destinations<L> {
    pace: Pace,
    /// The meter of a destination that is not known.
    unknown: Meter,
    known: HashMap<Destination, Entry<L>>,
    /// Destinations that lanes wait for, by the time from which on one may go.
    opens: BTreeSet<(Timestamp, Destination)>,
    /// Before every destination.
    before_all: Destination,
    waiting: usize,
}

#[derive(Debug)]
struct Entry<L> {
    meter: Meter,
    line: Line<L>,
    /// Its time in [`Destinations::opens`].
    opens: Option<Timestamp>,
}

impl<L: Copy> Destinations<L> {
    /// No destination was called yet.
    #[must_use]
    pub fn new(pace: Pace) -> Self {
        Self {
            pace,
            unknown: Meter::default(),
            known: HashMap::new(),
            opens: BTreeSet::new(),
            before_all: Destination("".into()),
            waiting: 0,
        }
    }

    /// After a restart: takes the burst of every destination as used, because nobody knows what was used before.
    pub fn spend_bursts(&mut self, now: Timestamp) {
        self.unknown = self.pace.spent(elapsed(now));
    }

    /// Whether one more attempt may go to a destination now.
    #[must_use]
    pub fn admits(&self, destination: &Destination, now: Timestamp) -> bool {
        let meter = self.known.get(destination).map_or(self.unknown, |entry| entry.meter);
        self.pace.admits(meter, elapsed(now)).is_ok()
    }

    /// Counts an attempt, which [`Destinations::admits`] has let in.
    pub fn took(&mut self, destination: &Destination, now: Timestamp) {
        let pace = self.pace;
        pace.reserve(&mut self.entry(destination).meter, elapsed(now));
        self.index(destination);
    }

    /// A lane waits for a destination.
    pub fn wait(&mut self, destination: &Destination, party: Party, lane: L) {
        self.entry(destination).line.push(party, lane);
        self.waiting += 1;
        self.index(destination);
    }

    /// The destinations for which lanes wait and to which an attempt may go now.
    #[must_use]
    pub fn open(&self, now: Timestamp) -> Vec<Destination> {
        let open = self.opens.iter().take_while(|(opens, _)| *opens <= now);
        open.map(|(_, destination)| destination.clone()).collect()
    }

    /// When, after now, one more destination is open.
    #[must_use]
    pub fn wakes(&self, now: Timestamp) -> Option<Timestamp> {
        let first = (now + Duration::from_millis(1), self.before_all.clone());
        self.opens.range(first..).next().map(|(opens, _)| *opens)
    }

    /// Takes out the lane whose turn it is, of those parties that can go on, if an attempt may go to the destination now.
    pub fn next(
        &mut self,
        destination: &Destination,
        now: Timestamp,
        can_go_on: impl Fn(Party) -> bool,
    ) -> Option<(Party, L)> {
        if !self.admits(destination, now) {
            return None;
        }
        let taken = self.known.get_mut(destination)?.line.take(can_go_on)?;
        self.waiting -= 1;
        self.index(destination);
        Some(taken)
    }

    /// Takes out the lanes for which `leaves` says so. Lanes of one party stay in their order.
    pub fn extract(&mut self, leaves: impl Fn(Party, L) -> bool) -> Vec<L> {
        let waited: Vec<Destination> =
            self.opens.iter().map(|(_, destination)| destination.clone()).collect();
        let mut left = Vec::new();
        for destination in waited {
            if let Some(entry) = self.known.get_mut(&destination) {
                left.extend(entry.line.extract(&leaves));
            }
            self.index(&destination);
        }
        self.waiting -= left.len();
        left
    }

    /// Takes out the lanes that wait for one destination and for which `leaves` says so.
    pub fn leave(&mut self, destination: &Destination, leaves: impl Fn(L) -> bool) {
        let Some(entry) = self.known.get_mut(destination) else { return };
        self.waiting -= entry.line.extract(&|_, lane| leaves(lane)).len();
        self.index(destination);
    }

    /// Forgets destinations of which nothing must be remembered.
    pub fn forget_idle(&mut self, now: Timestamp) {
        let now = elapsed(now);
        self.known.retain(|_, entry| !entry.line.is_empty() || !entry.meter.is_idle(now));
    }

    /// How many lanes wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// How many destinations are remembered.
    #[must_use]
    pub fn known(&self) -> usize {
        self.known.len()
    }

    fn entry(&mut self, destination: &Destination) -> &mut Entry<L> {
        if !self.known.contains_key(destination) {
            let entry = Entry { meter: self.unknown, line: Line::default(), opens: None };
            self.known.insert(destination.clone(), entry);
        }
        self.known.get_mut(destination).expect("it is there, or was put there")
    }

    /// The destination's meter or its line has changed.
    fn index(&mut self, destination: &Destination) {
        let Some(entry) = self.known.get_mut(destination) else { return };
        let opens = (!entry.line.is_empty()).then(|| first_at(self.pace.opens(entry.meter)));
        if opens == entry.opens {
            return;
        }
        if let Some(former) = std::mem::replace(&mut entry.opens, opens) {
            self.opens.remove(&(former, destination.clone()));
        }
        if let Some(opens) = opens {
            self.opens.insert((opens, destination.clone()));
        }
    }
}

/// A meter's time.
fn elapsed(now: Timestamp) -> Duration {
    now.since(Timestamp::default())
}

/// The first timestamp, which has whole milliseconds, that is not before a meter's time.
fn first_at(time: Duration) -> Timestamp {
    Timestamp::from_millis(i64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests;
