//! Counts how often the control plane has refused this agent's certificate in a handshake.
//!
//! One refusal means little: while authorities change, or clocks jump, it goes away. When it does not, and
//! there is no stream left to harm, a join token may be worth a try. The streams tell; the certificate manager asks.

use std::sync::{Arc, Mutex, MutexGuard};

use rustls::AlertDescription;
use tokio::sync::Notify;

/// Refusals in a row before a join token is tried.
const ENOUGH: u32 = 4;

/// See the [module](self).
#[derive(Debug, Default)]
pub struct RefusalCount {
    state: Mutex<State>,
    refused: Notify,
}

#[derive(Debug, Default)]
struct State {
    refusals: u32,
    last: Option<AlertDescription>,
    /// Streams that were accepted and have not ended.
    open: u32,
}

/// A stream that was accepted. It is open as long as this value lives.
#[derive(Debug)]
pub struct Open(Arc<RefusalCount>);

impl RefusalCount {
    /// A stream was refused.
    pub fn refused(&self, alert: AlertDescription) {
        let mut state = self.lock();
        state.refusals = state.refusals.saturating_add(1);
        state.last = Some(alert);
        drop(state);
        self.refused.notify_one();
    }

    /// A stream was accepted.
    #[must_use]
    pub fn accepted(self: &Arc<RefusalCount>) -> Open {
        let mut state = self.lock();
        state.refusals = 0;
        state.open += 1;
        Open(Arc::clone(self))
    }

    /// Waits for a refusal that it has not told before.
    pub(super) async fn next(&self) -> AlertDescription {
        loop {
            self.refused.notified().await;
            if let Some(alert) = self.lock().last.take() {
                return alert;
            }
        }
    }

    /// Whether there were enough in a row, and no stream is open.
    pub(super) fn is_ripe(&self) -> bool {
        let state = self.lock();
        state.refusals >= ENOUGH && state.open == 0
    }

    /// Counts from zero again.
    pub(super) fn settle(&self) {
        self.lock().refusals = 0;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds this lock")
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.lock().open -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_takes_several_in_a_row_and_no_open_stream() {
        let refusals = Arc::<RefusalCount>::default();
        let refuse = |times| (0..times).for_each(|_| refusals.refused(AlertDescription::CertificateRevoked));
        refuse(ENOUGH - 1);
        assert!(!refusals.is_ripe());
        assert_eq!(refusals.next().await, AlertDescription::CertificateRevoked);
        refuse(1);
        assert!(refusals.is_ripe());
        let open = refusals.accepted();
        assert!(!refusals.is_ripe());
        refuse(ENOUGH);
        assert!(!refusals.is_ripe(), "a stream is open");
        drop(open);
        assert!(refusals.is_ripe());
        refusals.settle();
        assert!(!refusals.is_ripe());
    }
}
