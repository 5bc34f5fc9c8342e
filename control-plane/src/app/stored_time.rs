//! The latest time that the store has: it was at least that when the program was left. By it the wall clock is compared
//! after a start.

use postrider_domain::time::Timestamp;
use tracing::warn;

use crate::clock::{CONFIRMED_AFTER, Clock};
use crate::store::{Store, StoreError};
use crate::watch::time_of;

/// Compares the wall clock with the store, and says so if they disagree.
pub(super) async fn compare(store: &dyn Store, clock: Clock) -> Result<(), StoreError> {
    let Some(stored) = latest(store).await? else { return Ok(()) };
    let found = clock.compare(stored);
    if !found.trusted {
        warn!(
            wall = %found.wall,
            stored = %found.stored,
            confirmed_after = ?CONFIRMED_AFTER,
            "the wall clock and the latest time in the store differ by more than an hour: the control plane was stopped \
             for that long, or the clock is wrong; nothing is removed for its age until the clock has run steadily; \
             check the machine's clock"
        );
    }
    Ok(())
}

/// When something was last written, as far as the store says: an outcome, a change, the use of a token, an agent heard of.
/// `None` for a new store.
async fn latest(store: &dyn Store) -> Result<Option<Timestamp>, StoreError> {
    let end = store.audit_span().await?.end;
    let audited = store.audit_records_after(end.sequence.saturating_sub(1), 1).await?;
    let audited = audited.iter().map(|record| record.entry.time);
    let settled = Some(store.last_position().await?).filter(|position| *position > 0).map(time_of);
    let used = store.tokens().await?.into_iter().filter_map(|row| row.last_used);
    let seen = store.agents().await?.into_iter().map(|row| row.last_seen);
    Ok(audited.chain(settled).chain(used).chain(seen).max())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use postrider_domain::audit::Entry;

    use super::*;
    use crate::store::{Options, SledStore};

    const DAY: Duration = Duration::from_secs(86_400);

    /// A store whose latest record is off by so much.
    async fn store(off: i64) -> (SledStore, tempfile::TempDir, Timestamp) {
        let folder = tempfile::tempdir().expect("a folder");
        let options = Options { path: folder.path().join("store"), cache_bytes: 8 << 20 };
        let store = SledStore::open(&options).expect("a store");
        let stored = Timestamp::from_millis(Clock::start().wall().as_millis() + off);
        store.put_audit_entry(Entry::by_postrider("Test", "", stored)).await.expect("it is written");
        (store, folder, stored)
    }

    #[tokio::test]
    async fn after_a_start_with_a_clock_that_is_days_off_nothing_is_removed_and_nothing_revives() {
        let day = i64::try_from(DAY.as_millis()).expect("it is short");
        for (off, trusted) in
            [(-60_000, true), (0, true), (60_000, true), (32 * day, false), (-32 * day, false)]
        {
            let (store, _folder, stored) = store(off).await;
            let clock = Clock::start();
            compare(&store, clock).await.expect("the store can be read");
            assert_eq!((clock.is_trusted(), clock.removal_time().is_some()), (trusted, trusted), "{off}");
            assert!(clock.wall() >= stored, "{off}: what had expired stays so");
            assert!(clock.now() >= stored, "{off}: what waits is due when it was");
        }
    }

    #[tokio::test]
    async fn a_new_store_has_nothing_to_compare_with() {
        let folder = tempfile::tempdir().expect("a folder");
        let options = Options { path: folder.path().join("store"), cache_bytes: 8 << 20 };
        let store = SledStore::open(&options).expect("a store");
        assert_eq!(latest(&store).await.expect("it can be read"), None);
        let clock = Clock::start();
        compare(&store, clock).await.expect("the store can be read");
        assert!(clock.is_trusted());
    }
}
