//! What the writer tells a backup: every batch that it writes, in order. It never waits for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;

use super::writer::Write;
use crate::store::backup::BackupError;

/// Bytes of changes that may wait for a backup. Beyond it the backup ends: the store goes on.
const MAX_WAITING: usize = 64 * 1024 * 1024;
/// What a row costs beside its key and its value.
const ROW: usize = 64;

/// The writer's end.
pub(super) struct Tap {
    batches: mpsc::UnboundedSender<Result<Vec<Write>, BackupError>>,
    waiting: Arc<AtomicUsize>,
}

/// The backup's end.
pub(super) struct Tapped {
    batches: mpsc::UnboundedReceiver<Result<Vec<Write>, BackupError>>,
    waiting: Arc<AtomicUsize>,
}

pub(super) fn tap() -> (Tap, Tapped) {
    let (sender, batches) = mpsc::unbounded_channel();
    let waiting = Arc::new(AtomicUsize::new(0));
    (Tap { batches: sender, waiting: waiting.clone() }, Tapped { batches, waiting })
}

impl Tap {
    /// Hands a batch on, written or not; whether anybody wants the next one.
    pub(super) fn hand(&self, batch: Vec<Write>, written: bool) -> bool {
        if !written {
            let _nobody_cares = self.batches.send(Err(BackupError::WriteFailed));
            return false;
        }
        let size = size(&batch);
        let waiting = self.waiting.fetch_add(size, Ordering::Relaxed);
        // One batch alone always passes, however large it is.
        if waiting > 0 && waiting + size > MAX_WAITING {
            let waiting = waiting / (1024 * 1024);
            let _nobody_cares = self.batches.send(Err(BackupError::TooSlow { waiting }));
            return false;
        }
        self.batches.send(Ok(batch)).is_ok()
    }
}

impl Tapped {
    /// What waits now.
    pub(super) fn waiting(&mut self) -> Option<Result<Vec<Write>, BackupError>> {
        let batch = self.batches.try_recv().ok()?;
        Some(self.taken(batch))
    }

    /// The next batch; `None` when the tap is closed.
    pub(super) async fn next(&mut self) -> Option<Result<Vec<Write>, BackupError>> {
        let batch = self.batches.recv().await?;
        Some(self.taken(batch))
    }

    fn taken(&self, batch: Result<Vec<Write>, BackupError>) -> Result<Vec<Write>, BackupError> {
        batch.inspect(|batch| {
            self.waiting.fetch_sub(size(batch), Ordering::Relaxed);
        })
    }
}

fn size(batch: &[Write]) -> usize {
    batch.iter().map(|(key, value)| ROW + key.len() + value.as_ref().map_or(0, Vec::len)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(bytes: usize) -> Vec<Write> {
        vec![(b"k".to_vec(), Some(vec![0; bytes]))]
    }

    #[test]
    fn what_waits_is_bounded_and_room_is_made_by_taking() {
        let (tap, mut tapped) = tap();
        let third = MAX_WAITING / 3 - 2 * ROW;
        for _ in 0..3 {
            assert!(tap.hand(batch(third), true));
        }
        assert!(tapped.waiting().is_some_and(|taken| taken.is_ok()));
        assert!(tap.hand(batch(third), true));
        assert!(!tap.hand(batch(third), true));
        let taken: Vec<_> = std::iter::from_fn(|| tapped.waiting()).collect();
        assert_eq!(taken.len(), 4);
        assert!(matches!(taken.last(), Some(Err(BackupError::TooSlow { waiting: 63 | 64 }))));
    }

    #[test]
    fn a_batch_larger_than_the_bound_passes_alone() {
        let (tap, mut tapped) = tap();
        assert!(tap.hand(batch(MAX_WAITING * 2), true));
        assert!(tapped.waiting().is_some_and(|taken| taken.is_ok()));
        assert!(!tap.hand(Vec::new(), false));
        assert!(matches!(tapped.waiting(), Some(Err(BackupError::WriteFailed))));
        drop(tapped);
        assert!(!tap.hand(batch(1), true));
    }
}
