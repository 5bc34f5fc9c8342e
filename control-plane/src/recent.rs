//! Recently accepted events, kept in memory until they are likely to be sent, so that a delivery that follows at
//! once need not be read back from the store. A bounded cache: what it has forgotten is read.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use ahash::HashMap;
use postrider_domain::event::Event;
use postrider_domain::id::EventKey;

/// What an event costs beside its data and its attributes, with its names and its places in the cache: about.
const OVERHEAD: usize = 768;

/// A bounded cache of events, oldest out first.
pub struct RecentEvents {
    max_bytes: usize,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    events: HashMap<EventKey, Arc<Event>>,
    order: VecDeque<EventKey>,
    bytes: usize,
}

impl RecentEvents {
    /// A cache of this many bytes, about.
    #[must_use]
    pub fn new(max_bytes: usize) -> Self {
        Self { max_bytes, kept: Mutex::default() }
    }

    /// Keeps an event, and forgets the oldest ones when there are too many.
    pub fn insert(&self, event: Arc<Event>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.bytes += size(&event);
        kept.order.push_back(event.key);
        kept.events.insert(event.key, event);
        while kept.bytes > self.max_bytes {
            let Some(oldest) = kept.order.pop_front() else { return };
            if let Some(event) = kept.events.remove(&oldest) {
                kept.bytes -= size(&event);
            }
        }
    }

    /// An event, if it is still kept.
    #[must_use]
    pub fn get(&self, key: EventKey) -> Option<Arc<Event>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).events.get(&key).cloned()
    }
}

fn size(event: &Event) -> usize {
    let attributes: usize = event.attributes.iter().map(|(name, value)| name.len() + value.len()).sum();
    event.data.len() + attributes + OVERHEAD
}
