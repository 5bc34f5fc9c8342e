//! A key-encryption key whose bytes this program has: from a file, or from the environment.

use std::path::Path;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use postrider_domain::id::DataKeyId;
use postrider_domain::sealed::{DataKey, KEY_BYTES, KekId, KeyBytes, Sealed};
use zeroize::Zeroizing;

use super::{Kek, KekError};
use crate::secret_file::{self, SecretFileError};

const FORM: &str = "it must hold 32 bytes, as 64 hexadecimal digits or as base64, and nothing else; make one with `postrider \
                    secrets generate-kek FILE`";

/// See the [module](self).
pub(super) struct LocalKek {
    id: KekId,
    source: String,
    key: KeyBytes,
}

impl LocalKek {
    pub(super) fn from_file(source: &str, path: &str) -> Result<Self, String> {
        let key = read_file(Path::new(path)).map_err(|problem| format!("kek: {problem}"))?;
        Ok(Self::new(source, key))
    }

    pub(super) fn from_env(source: &str, name: &str) -> Result<Self, String> {
        let text = std::env::var(name).map(Zeroizing::new);
        let text = text.map_err(|_| format!("kek: the environment variable {name} is not set"))?;
        let key = parse(&text).ok_or_else(|| format!("kek: the environment variable {name}: {FORM}"))?;
        Ok(Self::new(source, key))
    }

    fn new(source: &str, key: KeyBytes) -> Self {
        Self { id: key.kek_id(), source: source.to_owned(), key }
    }
}

#[async_trait]
impl Kek for LocalKek {
    fn id(&self) -> &KekId {
        &self.id
    }

    fn source(&self) -> &str {
        &self.source
    }

    async fn wrap(&self, key: &DataKey) -> Result<Vec<u8>, KekError> {
        Ok(self.key.wrap(key, rand::random()).as_bytes().to_vec())
    }

    async fn unwrap(&self, id: DataKeyId, wrapped: &[u8]) -> Result<DataKey, KekError> {
        let sealed = Sealed::from_bytes(wrapped.to_vec());
        let opened = sealed.and_then(|sealed| self.key.unwrap(id, &self.id, &sealed));
        opened
            .map_err(|error| KekError::new(&self.source, format!("the data key {id} does not open: {error}")))
    }
}

/// The text of a new key.
#[must_use]
pub fn generate() -> Zeroizing<String> {
    let key = KeyBytes::new(rand::random());
    Zeroizing::new(hex::encode(key.expose()))
}

/// Reads a key from a file that only its owner may read.
///
/// # Errors
/// A sentence that names the file, and what to do.
pub fn read_file(path: &Path) -> Result<KeyBytes, String> {
    let shown = path.display();
    let text = secret_file::read(path).map_err(|error| match &error {
        SecretFileError::Unreadable { cause, .. } => {
            format!("{error}: {cause}; make a key with `postrider secrets generate-kek {shown}`")
        }
        SecretFileError::Loose { .. } | SecretFileError::Strange { .. } => error.to_string(),
    })?;
    parse(&text).ok_or_else(|| format!("the file {shown}: {FORM}"))
}

fn parse(text: &str) -> Option<KeyBytes> {
    let text = text.trim();
    let bytes = if text.len() == 2 * KEY_BYTES { hex::decode(text).ok() } else { BASE64.decode(text).ok() };
    KeyBytes::from_slice(&Zeroizing::new(bytes?))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_is_hexadecimal_or_base64_of_32_bytes() {
        let hex = generate();
        let key = parse(&hex).unwrap();
        let base64 = BASE64.encode(key.expose());
        for text in [base64.as_str(), &format!(" {}\n", *hex), &hex.to_uppercase()] {
            assert_eq!(parse(text).unwrap().expose(), key.expose());
        }
        for text in
            ["", "x", &hex[1..], &hex[2..], &format!("{}00", *hex), &base64[..40], "g".repeat(64).as_str()]
        {
            assert!(parse(text).is_none(), "{text}");
        }
        assert_ne!(*generate(), *hex);
    }

    fn write(path: &Path, content: &str) {
        std::fs::write(path, content).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    #[test]
    fn a_file_that_others_can_read_is_refused_with_the_command_that_helps() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kek");
        std::fs::write(&path, generate().as_bytes()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let problem = read_file(&path).unwrap_err();
        assert!(problem.contains(&format!("chmod 600 {}", path.display())), "{problem}");
        write(&path, &generate());
        assert!(read_file(&path).is_ok());
    }

    #[test]
    fn a_problem_never_quotes_what_the_file_holds() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kek");
        for content in ["almost-a-key".to_owned(), format!("{}ff", *generate()), "k".repeat(5000)] {
            write(&path, &content);
            let problem = read_file(&path).unwrap_err();
            assert!(!problem.contains(&content) && problem.contains("generate-kek"), "{problem}");
        }
        assert!(read_file(folder.path()).unwrap_err().contains("is not a file"));
        assert!(read_file(&folder.path().join("none")).unwrap_err().contains("generate-kek"));
    }
}
