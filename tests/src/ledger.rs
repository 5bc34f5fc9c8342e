//! What was emitted, and what of it was acknowledged.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// An event that was emitted.
#[derive(Clone, Debug)]
pub struct Emitted {
    /// Its type.
    pub event_type: String,
    /// Its data: JSON text.
    pub data: String,
    /// Whether Postrider has said that it is durable.
    pub acknowledged: bool,
}

/// Every emitted event by its id, which the emitter chooses: so that one whose acknowledgement was lost is known too.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    events: Arc<Mutex<HashMap<String, Emitted>>>,
}

impl Ledger {
    /// Before it is sent.
    pub fn sent(&self, id: &str, event_type: &str, data: &str) {
        let event = Emitted { event_type: event_type.to_owned(), data: data.to_owned(), acknowledged: false };
        self.lock().insert(id.to_owned(), event);
    }

    /// When the answer has come.
    pub fn acknowledged(&self, id: &str) {
        if let Some(event) = self.lock().get_mut(id) {
            event.acknowledged = true;
        }
    }

    /// How many are acknowledged.
    #[must_use]
    pub fn acknowledged_count(&self) -> usize {
        self.lock().values().filter(|event| event.acknowledged).count()
    }

    /// All of them.
    #[must_use]
    pub fn events(&self) -> HashMap<String, Emitted> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Emitted>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
