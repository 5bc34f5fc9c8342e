//! Whether a job may still start, decided once.
//!
//! A job's attempt passes its gate right before the first byte of the request is handed to a connection.
//! The session shuts the gate when the job is not wanted any more. Whoever comes first wins, so a job is
//! either under way or dropped, and both sides agree which.

use std::sync::atomic::{AtomicU8, Ordering};

const OPEN: u8 = 0;
const PASSED: u8 = 1;
const SHUT: u8 = 2;

/// One job's gate.
#[derive(Debug, Default)]
pub struct Gate(AtomicU8);

impl Gate {
    /// Starts the job, unless the gate was shut before. Passing twice is passing.
    #[must_use]
    pub fn pass(&self) -> bool {
        match self.0.compare_exchange(OPEN, PASSED, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => true,
            Err(state) => state == PASSED,
        }
    }

    /// Keeps the job from starting, unless it has started.
    pub fn shut(&self) {
        // Losing the race is an answer too: the job is under way and goes on.
        let _lost = self.0.compare_exchange(OPEN, SHUT, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Whether the gate was shut in time.
    #[must_use]
    pub fn is_shut(&self) -> bool {
        self.0.load(Ordering::Acquire) == SHUT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_decides() {
        let gate = Gate::default();
        assert!(gate.pass() && gate.pass());
        gate.shut();
        assert!(!gate.is_shut() && gate.pass());

        let gate = Gate::default();
        gate.shut();
        assert!(gate.is_shut() && !gate.pass());
    }
}
