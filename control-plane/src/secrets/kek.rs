//! Key-encryption keys (KEKs): what wraps the data keys, and is not in the store.

mod local;
mod vault;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use postrider_domain::id::DataKeyId;
use postrider_domain::sealed::{DataKey, KekId};

pub use self::local::{generate, read_file};
pub use self::vault::VaultSettings;

/// A key-encryption key, wherever it is kept.
#[async_trait]
pub trait Kek: Send + Sync {
    /// Its name, which is stored beside the data keys that it wraps: of the key, not of the place where it is kept.
    fn id(&self) -> &KekId;
    /// Where it is from, as the settings say it.
    fn source(&self) -> &str;
    /// Wraps a new data key, which names this key as its own.
    async fn wrap(&self, key: &DataKey) -> Result<Vec<u8>, KekError>;
    /// Unwraps a data key that this key has wrapped.
    async fn unwrap(&self, id: DataKeyId, wrapped: &[u8]) -> Result<DataKey, KekError>;
}

/// Why a key-encryption key did not do its work. It never quotes a key or a token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the key-encryption key {source_name}: {problem}")]
pub struct KekError {
    source_name: String,
    problem: String,
}

impl KekError {
    fn new(source: &str, problem: impl fmt::Display) -> Self {
        Self { source_name: source.to_owned(), problem: problem.to_string() }
    }
}

/// The key-encryption keys of the settings: the first is the current one, the others can still open. The default has
/// none, and is what wrong settings come to.
#[derive(Clone, Default)]
pub struct Keks(Vec<Arc<dyn Kek>>);

impl Keks {
    /// Reads the setting `kek`: one or more of `file:PATH`, `env:NAME` and `vault:URL`.
    ///
    /// # Errors
    /// Every problem, as a sentence.
    pub fn read(sources: &[String], vault: &VaultSettings) -> Result<Self, Vec<String>> {
        if sources.is_empty() {
            return Err(vec![
                "kek is not set; secrets in the store are sealed under a key-encryption key that is kept apart from it: make \
                 one with `postrider secrets generate-kek FILE`, and set kek = [\"file:FILE\"]"
                    .to_owned(),
            ]);
        }
        let mut problems = Vec::new();
        let mut keks: Vec<Arc<dyn Kek>> = Vec::new();
        for source in sources {
            match read(source, vault) {
                Ok(kek) if keks.iter().any(|known| known.id() == kek.id()) => {
                    problems
                        .push(format!("kek: {source} is a key that the list names already; leave it out"));
                }
                Ok(kek) => keks.push(kek),
                Err(problem) => problems.push(problem),
            }
        }
        if problems.is_empty() { Ok(Self(keks)) } else { Err(problems) }
    }

    /// The one that wraps new data keys.
    #[must_use]
    pub fn current(&self) -> &dyn Kek {
        &**self.0.first().expect("a list without keys is refused")
    }

    /// The one of this name.
    #[must_use]
    pub fn get(&self, id: &KekId) -> Option<&dyn Kek> {
        self.iter().find(|kek| kek.id() == id)
    }

    /// Whether one of them is in Vault.
    #[must_use]
    pub fn asks_vault(&self) -> bool {
        self.iter().any(|kek| kek.source().starts_with("vault:"))
    }

    /// All of them, the current one first.
    pub fn iter(&self) -> impl Iterator<Item = &dyn Kek> {
        self.0.iter().map(|kek| &**kek)
    }
}

/// Their names and where they are from.
impl fmt::Display for Keks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.iter().map(|kek| format!("{} ({})", kek.id(), kek.source())).collect();
        f.write_str(&names.join(", "))
    }
}

fn read(source: &str, vault: &VaultSettings) -> Result<Arc<dyn Kek>, String> {
    match source.split_once(':') {
        Some(("file", path)) => Ok(Arc::new(local::LocalKek::from_file(source, path)?)),
        Some(("env", name)) => Ok(Arc::new(local::LocalKek::from_env(source, name)?)),
        Some(("vault", url)) => Ok(Arc::new(vault::VaultKek::new(source, url, vault)?)),
        // Not quoted: it may be the key itself.
        _ => Err("kek: each entry must be file:PATH, env:NAME or vault:https://HOST:8200/transit/keys/NAME"
            .to_owned()),
    }
}

#[cfg(test)]
mod tests;
