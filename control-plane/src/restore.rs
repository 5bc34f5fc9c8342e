//! The command line of a restore, which `postrider-control-plane` and `postrider` have alike, and what it prints.

use std::fmt;
use std::path::PathBuf;

use postrider_domain::time::Timestamp;

use crate::store::backup::{RestoreError, Summary, verify};
use crate::store::{Restored, restore};

/// Makes a data directory of a backup.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The file that `postrider backup` wrote
    #[arg(long, value_name = "FILE")]
    pub from: PathBuf,
    /// The data directory to make: the control plane's setting data_dir. It must be empty, or not there
    #[arg(long, env = "POSTRIDER_DATA_DIR", value_name = "DIR", required_unless_present = "verify_only")]
    pub data_dir: Option<PathBuf>,
    /// Only read the file, and say whether it is a whole backup
    #[arg(long)]
    pub verify_only: bool,
}

/// What was done.
#[derive(Clone, Debug)]
pub enum Done {
    /// The file is a whole backup.
    Verified(Summary),
    /// The store is there.
    Restored(Restored, PathBuf),
}

impl Args {
    /// Does it, at this time of day.
    ///
    /// # Errors
    /// [`RestoreError`].
    pub fn carry_out(&self, now: Timestamp) -> Result<Done, RestoreError> {
        match &self.data_dir {
            Some(data_dir) if !self.verify_only => {
                Ok(Done::Restored(restore(&self.from, data_dir, now)?, data_dir.clone()))
            }
            _ => Ok(Done::Verified(verify(&self.from)?)),
        }
    }
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Verified(summary) => {
                writeln!(f, "The backup is whole.")?;
                write!(f, "{summary}")
            }
            Self::Restored(restored, data_dir) => {
                writeln!(f, "Restored into {}, and read again: every row is there.", data_dir.display())?;
                writeln!(f, "{}", restored.summary)?;
                write!(
                    f,
                    "Now there:  {} tenants, {} subscriptions, {} events, {} deliveries, {} audit records (intact); {} rows",
                    restored.tenants,
                    restored.subscriptions,
                    restored.events,
                    restored.deliveries,
                    restored.audit_records,
                    restored.rows
                )
            }
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Begun:      {}, by version {}", self.begun, self.product)?;
        writeln!(f, "Of store:   {}, in epoch {}", self.store, self.epoch)?;
        writeln!(
            f,
            "In it:      {} rows, and {} changes that were made meanwhile; {} bytes",
            self.rows, self.changes, self.bytes
        )?;
        write!(
            f,
            "KEKs:       {}",
            if self.keks.is_empty() { "none".to_owned() } else { self.keks.join(", ") }
        )
    }
}
