//! The README's commands, in a fresh clone.

use std::process::Command;

use anyhow::Result;
use postrider_tests::binaries::{repository, target_folder};
use postrider_tests::cli::finish;

#[tokio::test]
async fn the_readmes_commands_work_in_a_fresh_clone() -> Result<()> {
    let mut command = Command::new(repository().join("tests/readme.sh"));
    // What is built already need not be built again.
    command.env("CARGO_TARGET_DIR", target_folder()?);
    let ended = finish(command, None).await?;
    assert_eq!(ended.code, 0, "{}\n{}", ended.stdout, ended.stderr);
    Ok(())
}
