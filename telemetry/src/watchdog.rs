//! Ends a process whose stop takes too long, whatever its other threads do.
//!
//! A stop waits for nothing without a limit. But a limit is kept by the runtime, and a thread that hangs in the system
//! may hold that up, or an end that waits for the thread. The watchdog is a thread of its own from the start on, so it
//! needs nothing of all that.

use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

/// Ends the process some time after it was armed. Clones are the same watchdog.
#[derive(Clone, Default)]
pub struct Watchdog(Option<Sender<Order>>);

struct Order {
    within: Duration,
    code: u8,
}

impl Watchdog {
    /// Starts its thread. The default one, without a thread, never ends the process.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start() -> std::io::Result<Self> {
        let (orders, received) = channel::<Order>();
        let wait = move || {
            if let Ok(Order { within, code }) = received.recv() {
                std::thread::sleep(within);
                eprintln!("the stop did not end within {} s; the process ends as it is", within.as_secs());
                std::process::exit(code.into());
            }
        };
        std::thread::Builder::new().name("watchdog".to_owned()).spawn(wait)?;
        Ok(Self(Some(orders)))
    }

    /// The process ends with this code after that time, if it has not ended before. The first order counts.
    pub fn arm(&self, within: Duration, code: u8) {
        if let Some(orders) = &self.0 {
            let _armed_before = orders.send(Order { within, code });
        }
    }
}
