//! The command line of a check of a store, which `postrider-control-plane` and `postrider` have alike, and what it prints.

use std::fmt;
use std::path::PathBuf;

use crate::store::{Checked, StoreError, check};

/// Verify the embedded store of a control plane that is stopped: every commit, every row, the audit log's chain
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The data directory: the control plane's setting data_dir
    #[arg(long, env = "POSTRIDER_DATA_DIR", value_name = "DIR")]
    pub data_dir: PathBuf,
}

/// What is done with a store while no control plane uses it.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Command {
    /// Verify that everything which was acknowledged is there: every commit, every row, the audit log's chain. Like a start,
    /// it completes what a crash left incomplete
    Check(Args),
}

impl Args {
    /// Does it.
    ///
    /// # Errors
    /// As those of [`check`].
    pub fn carry_out(&self) -> Result<Checked, StoreError> {
        check(&self.data_dir)
    }
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "The store is whole: everything that was committed is there.")?;
        writeln!(f, "Commits:  {}", self.commits)?;
        write!(
            f,
            "In it:    {} tenants, {} subscriptions, {} events, {} deliveries, {} audit records (intact); {} rows",
            self.tenants, self.subscriptions, self.events, self.deliveries, self.audit_records, self.rows
        )
    }
}
