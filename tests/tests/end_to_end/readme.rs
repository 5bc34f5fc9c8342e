//! The README's commands of `postrider`, against a real control plane. Those for a newcomer, which build, are run by
//! `tests/readme.sh`, after these tests: it replaces the programs that these run.

use std::process::Command;

use anyhow::{Context as _, Result};
use postrider_tests::binaries::{self, repository};
use postrider_tests::cli::finish;
use postrider_tests::process::without_settings;
use postrider_tests::world::World;

/// The lines of the README's code blocks that call `postrider`.
fn commands() -> Result<Vec<String>> {
    let readme = std::fs::read_to_string(repository().join("README.md")).context("README.md")?;
    let blocks = readme.split("```").skip(1).step_by(2);
    let lines = blocks.flat_map(str::lines).map(str::trim).filter(|line| line.starts_with("postrider "));
    Ok(lines.map(str::to_owned).collect())
}

#[tokio::test]
async fn the_readmes_other_commands_work_as_they_stand() -> Result<()> {
    let world = World::start().await?;
    // The README makes the tenant itself.
    world.api.delete_tenant(false).await?;
    let commands = commands()?;
    assert!(commands.len() >= 4, "{commands:?}");
    let binary = binaries::path(binaries::CLI)?;
    let folder = binary.parent().context("a binary is in a folder")?;
    let search = std::env::join_paths(
        std::iter::once(folder.to_owned())
            .chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())),
    )?;
    let mut subscription = String::new();
    for line in commands {
        // Nobody but this test listens, and ids are made at random.
        let line = line
            .replace("https://hooks.example.com/in", &world.receiver.url("/in"))
            .replace("<subscription>", &subscription);
        let mut shell = Command::new("bash");
        without_settings(&mut shell);
        shell.args(["-c", &line]).env("PATH", &search).env("POSTRIDER_SERVER", world.control_plane.api_url());
        shell.envs(world.control_plane.ca().map(|ca| ("POSTRIDER_CA", ca)));
        shell.env("POSTRIDER_TOKEN_FILE", world.control_plane.token_file());
        let ended = finish(shell, None).await?;
        assert_eq!(ended.code, 0, "{line}\n{}{}", ended.stdout, ended.stderr);
        let made = ended.stdout.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        subscription =
            made.into_iter().find(|word| word.starts_with("sub_")).unwrap_or(&subscription).to_owned();
    }
    assert_eq!(world.receiver.count(), 1);
    Ok(())
}
