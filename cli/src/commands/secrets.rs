//! `postrider secrets`: under which keys secrets are sealed at rest.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use postrider_control_plane::secrets::kek;
use postrider_proto::v1::{self, RewrapState};
use zeroize::Zeroizing;

use super::Context;
use crate::failure::{Doing as _, Exit, Failure, Result};
use crate::output::notice;
use crate::view::promised;
use crate::view::secrets::{Rewrap, SecretsStatus};

/// How often a rewrap that is waited for is looked at.
const LOOK: Duration = Duration::from_millis(300);

/// What to do with secrets at rest.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum Command {
    /// Show the key-encryption keys, the data keys, and the progress of a rewrap
    Status,
    /// Re-encrypt all secrets under the current key-encryption key, and wait until it is done
    ///
    /// Deliveries continue during the rewrap. Afterwards the store needs no previous key-encryption key; remove them
    /// from the setting kek.
    Rewrap {
        /// Return once it has started; it continues in the background and after a restart
        #[arg(long)]
        no_wait: bool,
    },
    /// Generate a key-encryption key in a new file that only its owner can read (offline)
    GenerateKek {
        /// File to create; it must not exist
        file: PathBuf,
    },
}

pub(crate) async fn run(context: &Context, command: Command) -> Result<()> {
    match command {
        Command::Status => context.format.one(&SecretsStatus::from(status(context).await?)),
        Command::Rewrap { no_wait } => {
            let begun = context.client.secrets().rewrap_secrets(v1::RewrapSecretsRequest {}).await;
            let begun = promised(begun.doing("rewrap the secrets")?.into_inner().rewrap, "rewrap")?;
            let ended = if no_wait { begun } else { end(context, begun).await? };
            let failed = ended.state() == RewrapState::Failed;
            let problem = ended.problem.clone();
            context.format.one(&Rewrap::from(ended))?;
            if failed { Err(Failure::new(Exit::Refused, problem)) } else { Ok(()) }
        }
        Command::GenerateKek { file } => {
            let text = kek::generate();
            write(&file, &text).doing(format_args!("write {}", file.display()))?;
            let key = kek::read_file(&file).map_err(|problem| Failure::new(Exit::Unexpected, problem))?;
            context.done(format_args!(
                "Created {} in {}. Keep a copy apart from the store's backups: without it the secrets cannot be decrypted.",
                key.kek_id(),
                file.display()
            ))
        }
    }
}

async fn status(context: &Context) -> Result<v1::GetSecretsStatusResponse> {
    let answer = context.client.secrets().get_secrets_status(v1::GetSecretsStatusRequest {}).await;
    Ok(answer.doing("get the status of the secrets")?.into_inner())
}

/// Waits until it has ended.
async fn end(context: &Context, begun: v1::Rewrap) -> Result<v1::Rewrap> {
    let (mut rewrap, mut told) = (begun, String::new());
    while rewrap.state() == RewrapState::Running {
        let now = Rewrap::from(rewrap.clone()).progress();
        let now = if rewrap.problem.is_empty() { now } else { format!("{now}; {}", rewrap.problem) };
        if now != told {
            notice(&now);
            told = now;
        }
        tokio::time::sleep(LOOK).await;
        let looked = status(context)
            .await
            .map_err(|failure| failure.note("the rewrap continues in the background"))?;
        rewrap = promised(looked.rewrap, "rewrap")?;
    }
    Ok(rewrap)
}

/// Writes a new file that only its owner can read, onto the disk.
fn write(path: &Path, text: &Zeroizing<String>) -> std::io::Result<()> {
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    writeln!(file, "{}", text.as_str())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_key_is_taken_and_never_overwrites_another() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kek");
        write(&path, &kek::generate()).unwrap();
        let key = kek::read_file(&path).unwrap();
        assert!(write(&path, &kek::generate()).is_err());
        assert_eq!(kek::read_file(&path).unwrap().kek_id(), key.kek_id());
    }
}
