//! Where the binaries under test are: the release build in the same target folder as the tests.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

/// The command.
pub const CLI: &str = "postrider";
/// The control plane.
pub const CONTROL_PLANE: &str = "postrider-control-plane";
/// The agent.
pub const AGENT: &str = "postrider-agent";

/// What measures.
pub const BENCH: &str = "postrider-bench";

/// The path of a release binary.
///
/// # Errors
/// When it is not built.
pub fn path(name: &str) -> Result<PathBuf> {
    let path = target_folder()?.join("release").join(name);
    ensure!(
        path.is_file(),
        "{} is missing: the end-to-end tests run the release binaries; build them with `cargo build --release \
         --workspace --bins`, as `make test` does",
        path.display()
    );
    Ok(path)
}

/// The root of the repository.
#[must_use]
pub fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The target folder that this test was built in, wherever `CARGO_TARGET_DIR` has put it:
/// `…/target/<profile>/deps/<test>` is in it.
///
/// # Errors
/// When the test's executable cannot be found.
pub fn target_folder() -> Result<PathBuf> {
    let test = std::env::current_exe().context("the test's executable cannot be found")?;
    let target = test.ancestors().nth(3).context("the test does not run from a target folder")?;
    Ok(target.to_owned())
}
