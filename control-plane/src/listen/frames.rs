//! Bounds the frames of a connection that carry no body, and reports the clients that send too many.
//!
//! Calls bound themselves: their streams, headers and messages have limits. Between them a client could send pings,
//! settings, priorities or unknown frames for ever, also before it has shown who it is. The rules are
//! [`postrider_domain::frames::calls`].

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use postrider_domain::frames::calls::{Calls, Client};
use postrider_domain::frames::{Reader, TooMany};
use postrider_telemetry::metrics::Counters;
use tokio::time::Instant;
use tracing::warn;

use super::TELL_EVERY;
use super::usage::{End, Usage, now};

/// What was read from and written to one connection since the client's preface.
#[derive(Debug)]
pub(super) struct Frames {
    reader: Reader,
    calls: Calls,
    sent: u64,
}

impl Default for Frames {
    fn default() -> Self {
        Self { reader: Reader::of_grpc_client(), calls: Calls::default(), sent: 0 }
    }
}

impl Frames {
    /// This was read.
    pub(super) fn read(&mut self, bytes: &[u8], usage: &Usage) -> Result<(), End> {
        let received = self.reader.read(bytes);
        let client = Client {
            known: usage.handle().is_authenticated(),
            calls: usage.made(),
            sent: self.sent,
            age: usage.age(now()),
        };
        self.calls.charge(&client, received).map_err(|TooMany| End::Flooding)
    }

    /// So many bytes were written.
    pub(super) fn wrote(&mut self, bytes: usize) {
        self.sent = self.sent.saturating_add(bytes as u64);
    }
}

/// The connections of one port that ended for their frames: counted, and logged at most once a minute.
pub(super) struct Floods {
    port: &'static str,
    counters: Counters,
    untold: Mutex<Untold>,
}

#[derive(Default)]
struct Untold {
    connections: u64,
    told: Option<Instant>,
}

impl Floods {
    pub(super) fn new(port: &'static str, counters: Counters) -> Self {
        Self { port, counters, untold: Mutex::default() }
    }

    /// A connection ended so.
    pub(super) fn note(&self, address: SocketAddr, agent: Option<&dyn fmt::Display>) {
        self.counters.inc(self.port);
        let Some(connections) = self.to_tell(now()) else { return };
        let agent = agent.map(tracing::field::display);
        warn!(
            port = self.port,
            connections,
            last_address = %address,
            last_agent = agent,
            "connections closed: their clients sent too many HTTP/2 frames that carry no body"
        );
    }

    /// One more; how many there were since it was told, if it is to be told now.
    fn to_tell(&self, now: Instant) -> Option<u64> {
        let mut untold = self.untold.lock().unwrap_or_else(PoisonError::into_inner);
        untold.connections += 1;
        if untold.told.is_some_and(|told| now < told + TELL_EVERY) {
            return None;
        }
        untold.told = Some(now);
        Some(std::mem::take(&mut untold.connections))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    #[tokio::test(start_paused = true)]
    async fn floods_are_told_once_a_minute_with_their_number() {
        let floods = Floods::new("api", Metrics::new().floods());
        assert_eq!(floods.to_tell(now()), Some(1));
        for _ in 0..100 {
            assert_eq!(floods.to_tell(now()), None);
        }
        tokio::time::advance(TELL_EVERY).await;
        assert_eq!(floods.to_tell(now()), Some(101));
    }
}
