//! Streams the records of the audit log as they are written: to a file, to standard output, or to a syslog receiver.
//!
//! The log itself is the queue: records are read from it in order, after the last one that is known to have arrived. That
//! position is kept in a file of the data directory, so a restart or an outage of the receiver loses nothing; a record may
//! arrive twice, and its number tells. Nothing waits for the stream: changes are made and recorded while it is behind.

mod destination;
mod line;
mod position;
mod sink;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use postrider_domain::audit::{Head, Record};
use postrider_telemetry::blocking;
use tracing::{info, warn};

pub use self::destination::{Destination, InvalidDestination};
use self::sink::Sink;
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::store::{Store, StoreError};

/// The name of the file with the position, in the data directory.
pub const POSITION: &str = "audit-stream";
/// Records that are read and sent at once.
const BATCH: usize = 100;
/// How often it is looked whether there are more.
const EVERY: Duration = Duration::from_secs(1);
/// How long a connection must have lasted after a record was written for the record to count as arrived: a receiver that
/// has died shows by then.
const SETTLED: Duration = Duration::from_secs(1);
/// Pauses after failures: doubled from the first to the last.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(30);

/// Why the stream stands still.
#[derive(Debug, thiserror::Error)]
enum StreamError {
    #[error("the receiver cannot be reached")]
    Open(#[source] std::io::Error),
    #[error("the receiver takes no records")]
    Write(#[source] std::io::Error),
    #[error("the position cannot be kept")]
    Position(#[source] std::io::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// See the [module](self).
pub struct Streamer {
    /// Whose log.
    pub store: Arc<dyn Store>,
    /// Where to.
    pub destination: Destination,
    /// The file with the position.
    pub position: PathBuf,
    /// Where it is shown how far behind the stream is.
    pub metrics: Arc<Metrics>,
    /// For how long records have been on their way.
    pub clock: Clock,
}

impl Streamer {
    /// Runs until it is cancelled.
    pub async fn run(self) {
        let destination = &self.destination;
        info!(%destination, "streaming the audit log");
        let (mut arrived, mut pause) = (None, FIRST_PAUSE);
        loop {
            let before = arrived;
            let Err(error) = self.follow(&mut arrived).await;
            self.metrics.audit_stream_failed();
            self.show(arrived).await;
            pause = if arrived == before { (pause * 2).min(LAST_PAUSE) } else { FIRST_PAUSE };
            warn!(
                %destination,
                sequence = arrived.map(|head: Head| head.sequence),
                retry_in_ms = pause.as_millis(),
                "failed to stream the audit log; retrying, records stay in the log: {:#}",
                anyhow::Error::from(error)
            );
            tokio::time::sleep(pause).await;
        }
    }

    /// Sends what comes until something fails. `arrived` follows.
    async fn follow(&self, arrived: &mut Option<Head>) -> Result<Infallible, StreamError> {
        let mut sent = self.resumed(*arrived).await?;
        *arrived = Some(sent);
        let mut sink = Sink::open(&self.destination).await.map_err(StreamError::Open)?;
        let mut way = Way::default();
        loop {
            let records = self.store.audit_records_after(sent.sequence, BATCH).await?;
            note_gap(sent, &records);
            if let Some(last) = records.last() {
                sink.write(&records).await.map_err(StreamError::Write)?;
                sent = Head { sequence: last.sequence, hash: last.hash };
                way.sent(sent, self.clock.since_start());
            }
            if records.len() < BATCH {
                tokio::time::sleep(EVERY).await;
            }
            sink.check().map_err(StreamError::Write)?;
            if let Some(head) = way.arrived(self.clock.since_start()) {
                self.keep(head).await?;
                *arrived = Some(head);
            }
            self.show(*arrived).await;
        }
    }

    /// After which record to go on: the one that arrived last, if the log still has it.
    async fn resumed(&self, arrived: Option<Head>) -> Result<Head, StreamError> {
        let known = match arrived {
            Some(head) => head,
            None => {
                let path = self.position.clone();
                read_position(path).await.map_err(StreamError::Position)?.unwrap_or_default()
            }
        };
        let span = self.store.audit_span().await?;
        if known.sequence < span.start.sequence {
            return Ok(known);
        }
        let found = if known.sequence == span.start.sequence {
            Some(span.start.hash)
        } else {
            let records = self.store.audit_records_after(known.sequence - 1, 1).await?;
            records.first().map(|record| record.hash)
        };
        if found == Some(known.hash) {
            return Ok(known);
        }
        warn!(
            sequence = known.sequence,
            last = span.end.sequence,
            "the audit log is not the one that was streamed: another store was put in its place, or its end was cut off; all \
             of it is streamed again"
        );
        Ok(Head::default())
    }

    async fn keep(&self, head: Head) -> Result<(), StreamError> {
        let path = self.position.clone();
        let kept = blocking::run(move || position::write(&path, head)).await;
        kept.map_err(std::io::Error::other).and_then(|kept| kept).map_err(StreamError::Position)
    }

    /// Shows how many records have not arrived.
    async fn show(&self, arrived: Option<Head>) {
        let Ok(span) = self.store.audit_span().await else { return };
        let arrived = arrived.unwrap_or_default().sequence.max(span.start.sequence);
        self.metrics.audit_stream_lag(span.end.sequence.saturating_sub(arrived));
    }
}

async fn read_position(path: PathBuf) -> std::io::Result<Option<Head>> {
    blocking::run(move || position::read(&path)).await.map_err(std::io::Error::other)?
}

/// Records that have aged out before they were sent are missed.
fn note_gap(sent: Head, records: &[Record]) {
    let Some(first) = records.first() else { return };
    let missed = first.sequence - sent.sequence - 1;
    if missed > 0 && sent.sequence > 0 {
        warn!(
            missed,
            after = sent.sequence,
            "audit records aged out before they were streamed; set retain_audit longer than the receiver may be away"
        );
    }
}

/// Records that were written to the receiver, and when. It acknowledges nothing.
#[derive(Debug, Default)]
struct Way(VecDeque<(Head, Duration)>);

impl Way {
    /// Up to here it was written now.
    fn sent(&mut self, head: Head, now: Duration) {
        self.0.push_back((head, now));
    }

    /// The last that counts as arrived since it was last asked, if the receiver is still there now.
    fn arrived(&mut self, now: Duration) -> Option<Head> {
        let mut arrived = None;
        while let Some((head, sent)) = self.0.front()
            && *sent + SETTLED <= now
        {
            arrived = Some(*head);
            self.0.pop_front();
        }
        arrived
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_counts_as_arrived_when_its_receiver_has_outlived_it() {
        let head = |sequence| Head { sequence, hash: [0; 32] };
        let mut way = Way::default();
        assert_eq!(way.arrived(SETTLED), None);
        way.sent(head(3), Duration::from_millis(100));
        way.sent(head(5), Duration::from_millis(500));
        way.sent(head(9), Duration::from_millis(1400));
        assert_eq!(way.arrived(Duration::from_millis(1099)), None);
        assert_eq!(way.arrived(Duration::from_millis(1500)), Some(head(5)));
        assert_eq!(way.arrived(Duration::from_millis(1500)), None);
        assert_eq!(way.arrived(Duration::from_secs(9)), Some(head(9)));
    }
}
