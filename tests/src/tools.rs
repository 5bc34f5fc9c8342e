//! What others have written and the tests run: installed by `make setup`, never skipped when missing.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

use crate::binaries::repository;

/// The Python of the tests' own environment.
///
/// # Errors
/// When it is not installed.
pub fn python() -> Result<PathBuf> {
    installed(repository().join("tests/python/.venv/bin/python"))
}

/// The folder of the tests' Node packages.
///
/// # Errors
/// When they are not installed.
pub fn node_modules() -> Result<PathBuf> {
    let folder = repository().join("tests/node/node_modules");
    installed(folder.join("standardwebhooks/package.json"))?;
    Ok(folder.canonicalize()?)
}

/// `buf`.
///
/// # Errors
/// When it is not installed.
pub fn buf() -> Result<PathBuf> {
    installed(node_modules()?.join(".bin/buf"))
}

/// A command on the search path.
///
/// # Errors
/// When it is not installed.
pub fn on_path(name: &str) -> Result<PathBuf> {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&folders).map(|folder| folder.join(name)).find(|path| path.is_file());
    found.ok_or_else(|| missing(Path::new(name)))
}

fn installed(path: PathBuf) -> Result<PathBuf> {
    ensure!(path.exists(), missing(&path));
    Ok(path)
}

fn missing(path: &Path) -> anyhow::Error {
    anyhow::anyhow!("{} is missing; `make setup` installs it", path.display())
}
