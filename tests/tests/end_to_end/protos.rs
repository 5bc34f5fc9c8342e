//! The .proto files by the rules that others keep.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use postrider_tests::binaries::repository;
use postrider_tests::cli::{Ended, finish};
use postrider_tests::tools;
use tempfile::TempDir;

async fn lint(folder: &Path) -> Result<Ended> {
    let mut command = Command::new(tools::buf()?);
    command.arg("lint").current_dir(folder);
    finish(command, None).await
}

#[tokio::test]
async fn buf_finds_nothing_to_complain_of() -> Result<()> {
    let ended = lint(&repository().join("proto")).await?;
    assert_eq!(ended.code, 0, "{}{}", ended.stdout, ended.stderr);
    Ok(())
}

#[tokio::test]
async fn buf_would_notice_a_missing_comment_and_a_bad_name() -> Result<()> {
    let folder = TempDir::new()?;
    let original = repository().join("proto");
    let mut copy = Command::new("cp");
    copy.arg("-r").arg(original.join("buf.yaml")).arg(original.join("postrider")).arg(folder.path());
    ensure!(finish(copy, None).await?.code == 0, "the files cannot be copied");
    let file = folder.path().join("postrider/v1/tenants.proto");
    let text = std::fs::read_to_string(&file)?;
    let spoiled = text
        .replace("  // A name for people, at most 200 characters. Optional.\n", "")
        .replace("string display_name = 2", "string displayName = 2");
    ensure!(spoiled != text, "nothing to spoil in {}", file.display());
    std::fs::write(&file, spoiled)?;
    let ended = lint(folder.path()).await?;
    let complaints = ended.stdout + &ended.stderr;
    assert_eq!(ended.code, 100, "{complaints}");
    assert!(complaints.contains("lower_snake_case") && complaints.contains("comment"), "{complaints}");
    Ok(())
}
