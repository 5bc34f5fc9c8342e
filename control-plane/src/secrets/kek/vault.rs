//! A key-encryption key that stays in HashiCorp Vault or OpenBao: the transit engine wraps and unwraps.
//!
//! `POST /v1/<mount>/encrypt/<key>` and `…/decrypt/<key>`, with the token in `X-Vault-Token`. What a data key is bound to
//! goes along as associated data; the canary beside each data key holds where a server is too old for that.

mod http;

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use postrider_domain::id::DataKeyId;
use postrider_domain::sealed::{DataKey, KekId, KeyBytes, wrap_bound};
use serde::{Deserialize, Serialize};
use url::Url;
use zeroize::{Zeroize as _, Zeroizing};

use self::http::{Answer, Client};
use super::{Kek, KekError};
use crate::secret_file;

const EXAMPLE: &str = "vault:https://HOST:8200/transit/keys/NAME";
/// As much of what Vault says of a refusal as is shown.
const MAX_REASON: usize = 300;

/// What all of Vault's keys share.
#[derive(Clone)]
pub struct VaultSettings {
    /// File with the token; read at each use, because tokens are renewed.
    pub token_file: Option<PathBuf>,
    /// The token itself, when there is no file.
    pub token: Option<Zeroizing<String>>,
    /// The namespace.
    pub namespace: Option<String>,
    /// File with the authorities that may vouch for Vault, PEM; without it the machine's.
    pub ca_file: Option<PathBuf>,
    /// How long a question may take, all of it.
    pub deadline: Duration,
}

impl Default for VaultSettings {
    fn default() -> Self {
        let deadline = Duration::from_secs(10);
        Self { token_file: None, token: None, namespace: None, ca_file: None, deadline }
    }
}

/// See the [module](self).
pub(super) struct VaultKek {
    id: KekId,
    source: String,
    /// Of the transit engine: `/v1/transit`.
    mount: String,
    key: String,
    settings: VaultSettings,
    client: Client,
}

/// What is sent.
#[derive(Serialize)]
#[serde(untagged)]
enum Request<'a> {
    Encrypt { plaintext: &'a str, associated_data: &'a str },
    Decrypt { ciphertext: &'a str, associated_data: &'a str },
}

/// What comes back.
#[derive(Deserialize)]
struct Reply<T> {
    data: T,
}

#[derive(Deserialize)]
struct Encrypted {
    ciphertext: String,
}

#[derive(Deserialize)]
struct Decrypted {
    plaintext: String,
}

#[derive(Default, Deserialize)]
struct Refused {
    #[serde(default)]
    errors: Vec<String>,
}

impl VaultKek {
    pub(super) fn new(source: &str, url: &str, settings: &VaultSettings) -> Result<Self, String> {
        let problem = |problem: &str| format!("kek: {source} {problem}; it must be like {EXAMPLE}");
        let url: Url = url.parse().map_err(|error| problem(&format!("is no URL: {error}")))?;
        let (mount, key) = url.path().rsplit_once("/keys/").ok_or_else(|| problem("names no key"))?;
        let good = |name: &str| {
            !name.is_empty()
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        };
        let mount = mount.trim_start_matches('/');
        if !good(key) || !mount.split('/').all(good) || url.query().is_some() || url.fragment().is_some() {
            return Err(problem("has a path that is none of a transit key"));
        }
        if settings.token_file.is_none() && settings.token.is_none() {
            return Err(format!(
                "kek: {source} needs a token: set vault_token_file, or VAULT_TOKEN in the environment"
            ));
        }
        let client = Client::new(&url, settings.ca_file.as_deref());
        let client = client.map_err(|error| problem(&error))?;
        let namespace = settings.namespace.as_deref().map(|name| format!("{}/", name.trim_matches('/')));
        let id = format!("vault:{}{mount}/{key}", namespace.unwrap_or_default());
        Ok(Self {
            id: id.parse().map_err(|error| problem(&format!("is too long: {error}")))?,
            source: source.to_owned(),
            mount: format!("/v1/{mount}"),
            key: key.to_owned(),
            settings: settings.clone(),
            client,
        })
    }

    /// Asks Vault, and reads its answer.
    async fn ask<T: for<'de> Deserialize<'de>>(
        &self,
        verb: &str,
        request: &Request<'_>,
    ) -> Result<T, KekError> {
        let failure = |problem: String| KekError::new(&self.source, problem);
        let body = Zeroizing::new(serde_json::to_vec(request).map_err(|error| failure(error.to_string()))?);
        let token = self.token().map_err(failure)?;
        let path = format!("{}/{verb}/{}", self.mount, self.key);
        let deadline = self.settings.deadline;
        let asking = self.client.post(&path, &token, self.settings.namespace.as_deref(), body);
        let answer = tokio::time::timeout(deadline, asking).await;
        let answer = answer.map_err(|_| failure(format!("Vault did not answer within {deadline:?}")))?;
        let answer = answer.map_err(failure)?;
        if answer.status != 200 {
            return Err(failure(self.refusal(verb, &answer, request)));
        }
        let reply: Result<Reply<T>, _> = serde_json::from_slice(&answer.body);
        // The error is not shown: it may quote what was read.
        reply
            .map(|reply| reply.data)
            .map_err(|_| failure("what answered is not Vault's transit engine".to_owned()))
    }

    fn token(&self) -> Result<Zeroizing<String>, String> {
        let token = match (&self.settings.token_file, &self.settings.token) {
            (Some(file), _) => {
                let text = secret_file::read(file);
                let text =
                    text.map_err(|error| format!("vault_token_file: {:#}", anyhow::Error::from(error)))?;
                Zeroizing::new(text.trim().to_owned())
            }
            (None, token) => token.clone().unwrap_or_default(),
        };
        let good = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
        if good {
            Ok(token)
        } else {
            Err("Vault's token is empty, or not one line of visible ASCII".to_owned())
        }
    }

    /// What went wrong, and what to do.
    fn refusal(&self, verb: &str, answer: &Answer, request: &Request<'_>) -> String {
        let path = format!("{}/{verb}/{}", self.mount.trim_start_matches("/v1/"), self.key);
        let reason = reason(answer, request);
        match answer.status {
            403 => format!(
                "Vault does not permit it (403){reason}; renew the token, or give its policy the capability update on {path}"
            ),
            404 => format!("Vault has no transit engine there (404){reason}; check the path: {path}"),
            503 => format!("Vault is sealed or not available (503){reason}; unseal it and start again"),
            status @ (429 | 472 | 473 | 500..) => {
                format!("Vault is not available now ({status}){reason}; start again when it is")
            }
            status => format!("Vault refuses the request ({status}){reason}"),
        }
    }
}

/// Vault's own words, unless they repeat what they must not.
fn reason(answer: &Answer, request: &Request<'_>) -> String {
    let refused: Refused = serde_json::from_slice(&answer.body).unwrap_or_default();
    let words: String =
        refused.errors.join("; ").chars().filter(|c| !c.is_control()).take(MAX_REASON).collect();
    let secret = match request {
        Request::Encrypt { plaintext, .. } => plaintext,
        Request::Decrypt { ciphertext, .. } => ciphertext,
    };
    if words.is_empty() || words.contains(&secret[..secret.len().min(16)]) {
        return String::new();
    }
    format!(": {words}")
}

#[async_trait]
impl Kek for VaultKek {
    fn id(&self) -> &KekId {
        &self.id
    }

    fn source(&self) -> &str {
        &self.source
    }

    async fn wrap(&self, key: &DataKey) -> Result<Vec<u8>, KekError> {
        let plaintext = Zeroizing::new(BASE64.encode(key.key().expose()));
        let associated_data = &BASE64.encode(key.bound());
        let request = Request::Encrypt { plaintext: &plaintext, associated_data };
        let Encrypted { ciphertext } = self.ask("encrypt", &request).await?;
        // What is stored must be Vault's: another answer, such as the key itself, is not kept.
        let good = ciphertext.starts_with("vault:v") && !ciphertext.contains(plaintext.as_str());
        let failure = || KekError::new(&self.source, "what answered is not Vault's transit engine");
        if good { Ok(ciphertext.into_bytes()) } else { Err(failure()) }
    }

    async fn unwrap(&self, id: DataKeyId, wrapped: &[u8]) -> Result<DataKey, KekError> {
        let failure = |problem: &str| KekError::new(&self.source, problem);
        let ciphertext = std::str::from_utf8(wrapped);
        let ciphertext = ciphertext.map_err(|_| failure("the stored data key was not wrapped by Vault"))?;
        let associated_data = &BASE64.encode(wrap_bound(id, &self.id));
        let request = Request::Decrypt { ciphertext, associated_data };
        let Decrypted { plaintext } = self.ask("decrypt", &request).await?;
        let plaintext = Zeroizing::new(plaintext);
        let mut bytes = BASE64.decode(plaintext.as_bytes()).unwrap_or_default();
        let key = KeyBytes::from_slice(&bytes);
        bytes.zeroize();
        let key = key.ok_or_else(|| failure("what Vault decrypted is no data key"))?;
        Ok(DataKey::new(id, self.id.clone(), key))
    }
}
