//! A server that speaks the part of Vault's transit protocol that is used, and takes nothing else.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

pub(crate) const TOKEN: &str = "hvs.planted-vault-token";

/// How the server behaves.
#[derive(Clone)]
pub(crate) enum Mood {
    /// As Vault does.
    Well,
    /// It answers everything with this.
    Answers(u16, String),
    /// It says these bytes and hangs up.
    Says(&'static [u8]),
    /// It takes the connection and is silent.
    Silent,
}

/// What the server knows.
pub(crate) struct State {
    pub(crate) mood: Mood,
    /// The token that it takes.
    pub(crate) token: String,
    /// The namespace that it wants.
    pub(crate) namespace: Option<String>,
    /// What it has encrypted: plaintext and associated data by ciphertext.
    encrypted: HashMap<String, (String, String)>,
    /// Paths of the calls that were as they should be.
    pub(crate) calls: Vec<String>,
}

/// The server.
pub(crate) struct FakeVault {
    pub(crate) address: SocketAddr,
    pub(crate) state: Arc<Mutex<State>>,
    /// Its certificate, when it speaks TLS.
    pub(crate) ca_file: Option<PathBuf>,
    folder: tempfile::TempDir,
}

impl FakeVault {
    pub(crate) async fn start() -> Self {
        Self::listen(false).await
    }

    pub(crate) async fn start_tls() -> Self {
        Self::listen(true).await
    }

    async fn listen(secured: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = State {
            mood: Mood::Well,
            token: TOKEN.to_owned(),
            namespace: None,
            encrypted: HashMap::new(),
            calls: Vec::new(),
        };
        let (state, folder) = (Arc::new(Mutex::new(state)), tempfile::tempdir().unwrap());
        let ca_file = secured.then(|| folder.path().join("vault.pem"));
        let acceptor = ca_file.as_ref().map(acceptor);
        let shared = state.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (state, acceptor) = (shared.clone(), acceptor.clone());
                tokio::spawn(async move {
                    match acceptor {
                        None => serve(stream, state).await,
                        Some(acceptor) => {
                            if let Ok(stream) = acceptor.accept(stream).await {
                                serve(stream, state).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, state, ca_file, folder }
    }

    /// The setting for a key of it.
    pub(crate) fn kek(&self, key: &str) -> String {
        let scheme = if self.ca_file.is_some() { "https" } else { "http" };
        format!("vault:{scheme}://{}/transit/keys/{key}", self.address)
    }

    pub(crate) fn set_mood(&self, mood: Mood) {
        self.state.lock().unwrap().mood = mood;
    }

    pub(crate) fn calls(&self) -> Vec<String> {
        self.state.lock().unwrap().calls.clone()
    }

    /// A file of the test's.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

fn acceptor(ca_file: &PathBuf) -> TlsAcceptor {
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().self_signed(&key).unwrap();
    std::fs::write(ca_file, certificate.pem()).unwrap();
    let private_key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], private_key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(mut stream: S, state: Arc<Mutex<State>>) {
    let mood = state.lock().unwrap().mood.clone();
    match mood {
        Mood::Silent => std::future::pending().await,
        Mood::Says(bytes) => {
            let _gone = stream.write_all(bytes).await;
            let _gone = stream.shutdown().await;
        }
        Mood::Well | Mood::Answers(..) => {
            let service = service_fn(|request| answer(request, state.clone()));
            let _ended = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        }
    }
}

async fn answer(
    request: Request<Incoming>,
    state: Arc<Mutex<State>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let mut state = state.lock().unwrap();
    let (status, answer) = match &state.mood {
        Mood::Answers(status, answer) => (*status, answer.clone()),
        _ => match state.judge(&head, &body) {
            Ok(data) => (200, json!({"request_id": "1", "lease_duration": 0, "data": data}).to_string()),
            Err((status, problem)) => (status, json!({"errors": [problem]}).to_string()),
        },
    };
    let mut response = Response::new(Full::from(answer));
    *response.status_mut() = status.try_into().unwrap();
    Ok(response)
}

type Refusal = (u16, &'static str);

impl State {
    /// Takes what Vault's documentation says, to the letter.
    fn judge(&mut self, head: &http::request::Parts, body: &[u8]) -> Result<Value, Refusal> {
        let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
        if head.method != Method::POST {
            return Err((405, "unsupported operation"));
        }
        let length = body.len().to_string();
        let as_documented = header("content-type") == Some("application/json")
            && header("content-length") == Some(length.as_str())
            && header("x-vault-request") == Some("true")
            && header("host").is_some()
            && head.uri.query().is_none();
        if !as_documented {
            return Err((400, "the request is not as documented"));
        }
        if header("x-vault-token") != Some(&self.token) {
            return Err((403, "permission denied"));
        }
        if header("x-vault-namespace") != self.namespace.as_deref() {
            return Err((404, "no handler for route"));
        }
        let path = head.uri.path();
        let rest = path.strip_prefix("/v1/transit/").ok_or((404, "no handler for route"))?;
        let (method, key) = rest.split_once('/').ok_or((404, "no handler for route"))?;
        if key != "postrider" {
            return Err((400, "encryption key not found"));
        }
        let fields: HashMap<String, String> =
            serde_json::from_slice(body).map_err(|_| (400, "failed to parse JSON input"))?;
        let data = match method {
            "encrypt" => self.encrypt(&fields)?,
            "decrypt" => self.decrypt(&fields)?,
            _ => return Err((404, "no handler for route")),
        };
        self.calls.push(path.to_owned());
        Ok(data)
    }

    fn encrypt(&mut self, fields: &HashMap<String, String>) -> Result<Value, Refusal> {
        let [plaintext, bound] = exactly(fields, ["plaintext", "associated_data"])?;
        let [decoded, _] = [&plaintext, &bound].map(|text| BASE64.decode(text).unwrap_or_default());
        if decoded.len() != 32 || bound.is_empty() {
            return Err((400, "failed to base64-decode plaintext"));
        }
        let ciphertext = format!("vault:v1:{}", BASE64.encode(rand::random::<[u8; 60]>()));
        self.encrypted.insert(ciphertext.clone(), (plaintext, bound));
        Ok(json!({"ciphertext": ciphertext, "key_version": 1}))
    }

    fn decrypt(&self, fields: &HashMap<String, String>) -> Result<Value, Refusal> {
        let [ciphertext, bound] = exactly(fields, ["ciphertext", "associated_data"])?;
        match self.encrypted.get(&ciphertext) {
            Some((plaintext, expected)) if *expected == bound => Ok(json!({"plaintext": plaintext})),
            _ => Err((400, "invalid ciphertext: unable to decrypt")),
        }
    }
}

/// These fields, and no others.
fn exactly(fields: &HashMap<String, String>, names: [&str; 2]) -> Result<[String; 2], Refusal> {
    let unknown = fields.keys().any(|field| !names.contains(&field.as_str()));
    let found = names.map(|name| fields.get(name).cloned());
    match found {
        [Some(first), Some(second)] if !unknown => Ok([first, second]),
        _ => Err((400, "the fields are not as documented")),
    }
}
