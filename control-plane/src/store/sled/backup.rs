//! Takes a backup: a scan of all rows, and meanwhile what the writer hands over.
//!
//! sled has no snapshots. What makes one is that all writes come from one thread ([`super::writer`]): it tells of every batch from
//! before the scan begins until a moment after the scan has ended, between two batches. The data keys' file is read in that
//! moment, while it cannot change, so it has the keys of all that is sealed in the rows.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use postrider_domain::time::Timestamp;
use postrider_proto::store as records;
use postrider_telemetry::blocking;
use sled::{IVec, Tree};
use tokio::sync::{Mutex, mpsc};

use super::data_keys::DataKeys;
use super::engine::{Engine, guarded};
use super::opening::SCHEMA;
use super::tap::{Tapped, tap};
use super::writer::{Write, WriterHandle};
use super::{failure, key};
use crate::store::StoreError;
use crate::store::backup::file::{Encoder, FRAME};
use crate::store::backup::{BackupError, BackupParts};

/// Rows that are read at once.
const CHUNK: usize = 1024;
/// Frames that wait for the taker.
const AHEAD: usize = 2;
/// The largest part that is handed out.
const MAX_PART: usize = 1024 * 1024;

/// What a backup is taken of.
pub(super) struct Source {
    pub(super) engine: Engine,
    pub(super) writer: WriterHandle,
    pub(super) data_keys: Arc<Mutex<DataKeys>>,
    pub(super) store: Bytes,
    pub(super) epoch: u64,
}

/// Nobody takes it any more, or it has failed.
enum End {
    Left,
    Failed(BackupError),
}

impl From<BackupError> for End {
    fn from(error: BackupError) -> Self {
        Self::Failed(error)
    }
}

impl From<StoreError> for End {
    fn from(error: StoreError) -> Self {
        Self::Failed(error.into())
    }
}

/// Begins a backup.
pub(super) async fn begin(source: Source, now: Timestamp) -> Result<BackupParts, StoreError> {
    let (tap, tapped) = tap();
    source.writer.tap(Some(tap)).await?;
    let (parts, answer) = mpsc::channel(AHEAD);
    let (encoder, header) = Encoder::begin(&records::BackupHeader {
        schema: SCHEMA,
        product: env!("CARGO_PKG_VERSION").to_owned(),
        begin_time_ms: now.as_millis(),
        store: source.store.clone(),
        epoch: source.epoch,
    });
    tokio::spawn(async move {
        let taking = Taking { source, tapped, encoder, parts: parts.clone() };
        let taken = match taking.send(header).await {
            Ok(()) => taking.run().await,
            Err(end) => Err(end),
        };
        if let Err(End::Failed(error)) = taken {
            let _nobody_waits = parts.send(Err(error)).await;
        }
    });
    Ok(answer)
}

struct Taking {
    source: Source,
    tapped: Tapped,
    encoder: Encoder,
    parts: mpsc::Sender<Result<Bytes, BackupError>>,
}

impl Taking {
    async fn run(mut self) -> Result<(), End> {
        let mut last = None;
        loop {
            // First, so that little waits.
            while let Some(batch) = self.tapped.waiting() {
                self.changes(batch?).await?;
            }
            let (tree, after) = (self.source.engine.tree().map_err(|_| BackupError::Closed)?, last);
            let read = blocking::run(move || guarded(move || read(&tree, after))).await;
            let (rows, end) = read.map_err(|_| BackupError::Closed)??;
            last = end;
            if !rows.is_empty() {
                let frame = self.encoder.rows(rows);
                self.send(frame).await?;
            }
            if last.is_none() {
                break;
            }
        }
        let data_keys = self.close().await?;
        while let Some(batch) = self.tapped.next().await {
            self.changes(batch?).await?;
        }
        let data_keys = self.encoder.data_keys(&data_keys);
        self.send(data_keys).await?;
        let Self { encoder, parts, .. } = self;
        parts.send(Ok(encoder.finish())).await.map_err(|_| End::Left)
    }

    /// Ends what the writer tells, and reads the data keys of that moment.
    async fn close(&self) -> Result<records::DataKeysRecord, End> {
        let keys = self.source.data_keys.lock().await;
        self.source.writer.tap(None).await.map_err(|_| BackupError::Closed)?;
        let read = keys.clone();
        let read = blocking::run(move || read.export()).await;
        drop(keys);
        Ok(read.map_err(|_| BackupError::Closed)??)
    }

    async fn changes(&mut self, batch: Vec<Write>) -> Result<(), End> {
        let (mut frame, mut size) = (Vec::new(), 0);
        for change in batch {
            size += change.0.len() + change.1.as_ref().map_or(0, Vec::len);
            frame.push(change);
            if size >= FRAME {
                let full = self.encoder.changes(std::mem::take(&mut frame));
                self.send(full).await?;
                size = 0;
            }
        }
        if frame.is_empty() {
            return Ok(());
        }
        let rest = self.encoder.changes(frame);
        self.send(rest).await
    }

    async fn send(&self, mut frame: Bytes) -> Result<(), End> {
        while !frame.is_empty() {
            let part = frame.split_to(frame.len().min(MAX_PART));
            self.parts.send(Ok(part)).await.map_err(|_| End::Left)?;
        }
        Ok(())
    }
}

/// The rows after a key, and the last one's key unless they are all.
fn read(tree: &Tree, after: Option<IVec>) -> Result<(Vec<Write>, Option<IVec>), StoreError> {
    let start = after.map_or(Bound::Unbounded, Bound::Excluded);
    let (mut rows, mut size) = (Vec::new(), 0);
    let note = key::commit();
    for row in tree.range::<IVec, _>((start, Bound::Unbounded)) {
        let (key, value) = row.map_err(failure)?;
        if key == note {
            continue;
        }
        size += key.len() + value.len();
        rows.push((key.to_vec(), Some(value.to_vec())));
        if size >= FRAME || rows.len() == CHUNK {
            return Ok((rows, Some(key)));
        }
    }
    Ok((rows, None))
}

#[cfg(test)]
mod tests;
