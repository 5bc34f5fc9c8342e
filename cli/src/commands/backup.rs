//! `postrider backup` and `postrider restore`: a copy of a running store, and a store of a copy.
//!
//! A backup has its name only when it is complete and was read once more from the disk: until then it is written beside it.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use postrider_control_plane::restore;
use postrider_control_plane::store::backup::{RestoreError, Seal, Summary, verify};
use postrider_proto::v1;
use serde_json::json;

use super::Context;
use crate::clock;
use crate::failure::{Doing as _, Exit, Failure, Result};
use crate::output::{Format, notice, print};

/// Where the copy goes.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// File to create; it must not exist; `-` for stdout
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
}

/// Takes a backup.
pub(crate) async fn run(context: &Context, args: Args) -> Result<()> {
    if args.to.as_os_str() == "-" {
        let mut out = std::io::stdout().lock();
        receive(context, &mut out).await?;
        notice("The backup is whole.");
        return Ok(());
    }
    if args.to.exists() {
        let taken =
            format!("{} exists; a backup never writes over another: choose another name", args.to.display());
        return Err(Failure::new(Exit::Usage, taken));
    }
    let partial = Partial::new(&args.to)?;
    let mut file = BufWriter::with_capacity(256 * 1024, partial.file());
    receive(context, &mut file).await?;
    file.flush().doing(format_args!("write {}", partial.path.display()))?;
    drop(file);
    let summary = partial.keep(&args.to)?;
    match context.format {
        Format::Table => {
            print(&format!("Wrote {}, and read it again: it is whole.\n{summary}\n", args.to.display()))
        }
        Format::Json => context.format.json(&of(&summary)),
    }
}

/// Makes a store of a backup, or looks at one. It needs no control plane.
pub(crate) fn restore(args: &restore::Args, format: Format) -> Result<()> {
    let done = args.carry_out(clock::now()).map_err(refused)?;
    match (&done, format) {
        (_, Format::Table) => print(&format!("{done}\n")),
        (restore::Done::Verified(summary), Format::Json) => format.json(&of(summary)),
        (restore::Done::Restored(restored, _), Format::Json) => {
            let mut view = of(&restored.summary);
            view["restored"] = json!({
                "rows": restored.rows,
                "tenants": restored.tenants,
                "subscriptions": restored.subscriptions,
                "events": restored.events,
                "deliveries": restored.deliveries,
                "audit_records": restored.audit_records,
            });
            format.json(&view)
        }
    }
}

fn of(summary: &Summary) -> serde_json::Value {
    json!({
        "product": summary.product,
        "begin_time": summary.begun.to_string(),
        "store": summary.store,
        "epoch": summary.epoch,
        "rows": summary.rows,
        "changes": summary.changes,
        "bytes": summary.bytes,
        "keks": summary.keks,
    })
}

fn refused(error: RestoreError) -> Failure {
    let exit = match error {
        RestoreError::File { .. } | RestoreError::AuditLog(_) => Exit::BadSignature,
        RestoreError::NotEmpty(_) | RestoreError::Busy(_) => Exit::Usage,
        RestoreError::Io { .. } | RestoreError::Store(_) | RestoreError::Differs(_) => Exit::Unexpected,
    };
    Failure::new(exit, Failure::from(anyhow::Error::from(error)).message())
}

/// Writes all of a backup, as it comes, and sees that it is whole.
async fn receive(context: &Context, to: &mut impl Write) -> Result<()> {
    let mut client = context.client.backups();
    let mut parts = client.backup(v1::BackupRequest {}).await.doing("take a backup")?.into_inner();
    let mut seal = Seal::default();
    while let Some(part) = parts.message().await.doing("take a backup")? {
        seal.push(&part.data);
        to.write_all(&part.data).doing("write the backup")?;
    }
    to.flush().doing("write the backup")?;
    if seal.is_whole() {
        return Ok(());
    }
    Err(Failure::new(Exit::Unavailable, "the backup ended before its end; take another"))
}

/// A file that is not complete yet. Dropped before that, it is removed.
struct Partial {
    path: PathBuf,
    file: File,
    kept: bool,
}

impl Partial {
    fn new(to: &Path) -> Result<Self> {
        let mut name = to.file_name().unwrap_or_default().to_owned();
        name.push(".partial");
        let path = to.with_file_name(name);
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        match made {
            Ok(file) => Ok(Self { path, file, kept: false }),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let left = format!(
                    "{} is there: another backup is being taken to it, or one was cut off",
                    path.display()
                );
                Err(Failure::new(Exit::Usage, left).note("remove it if nobody writes to it"))
            }
            Err(error) => Err(error).doing(format_args!("write {}", path.display())),
        }
    }

    fn file(&self) -> &File {
        &self.file
    }

    /// Sees that it is whole, on the disk, and gives it its name.
    fn keep(mut self, to: &Path) -> Result<Summary> {
        let shown = self.path.display().to_string();
        self.file.sync_all().doing(format_args!("write {shown}"))?;
        let summary = verify(&self.path).map_err(refused)?;
        std::fs::rename(&self.path, to).doing(format_args!("rename {shown}"))?;
        self.kept = true;
        let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.doing(format_args!("write {}", folder.display()))?;
        Ok(summary)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.kept {
            // That it stays is less than why it is incomplete.
            let _left = std::fs::remove_file(&self.path);
        }
    }
}
