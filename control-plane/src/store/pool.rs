//! Pools, as stores keep them.

use postrider_domain::id::PoolName;
use postrider_domain::pool;
use postrider_domain::time::Timestamp;

/// A pool that was created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolRow {
    /// Its name.
    pub name: PoolName,
    /// What it has.
    pub settings: pool::Settings,
    /// When it was created.
    pub created: Timestamp,
    /// When it was last changed.
    pub updated: Timestamp,
}
