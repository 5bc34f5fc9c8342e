//! The owner's credentials for some hosts: authorities to trust, a client certificate, headers.
//!
//! They are chosen by the host as the URL has it, never by what a name resolves to, and by the port where the owner names
//! one; the first entry that covers both counts. They come from files, which are read again while the agent runs; nothing of their content leaves the
//! agent other than to such a host, and nothing here can be printed.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use http::HeaderMap;
use postrider_domain::egress::{CredentialHost, EndpointUrl, Service};
use postrider_domain::headers::echo::Echo;
use postrider_domain::time::Timestamp;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::tls::Tls;
use super::{files, tls};
use crate::clock;

mod expiry;
mod headers;

use self::expiry::{Expiry, Reminder};

/// What the owner has for some hosts, and where.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// Which hosts, each on one port or on all.
    pub hosts: Vec<Service>,
    /// PEM file of the authorities that these hosts' certificates must be from, instead of the machine's.
    pub ca: Option<PathBuf>,
    /// PEM file of the certificate to show, with its chain.
    pub client_cert: Option<PathBuf>,
    /// PEM file of its private key.
    pub client_key: Option<PathBuf>,
    /// File of header lines to send, which win over the job's own of the same names.
    pub headers_file: Option<PathBuf>,
    /// Whether these hosts may be called over `http` too.
    pub allow_http: bool,
    /// Whether bodies of responses are kept although there are headers, which an endpoint may show in its response.
    pub keep_responses: bool,
}

/// What is wrong with the files of an entry, as the end of a sentence that begins with the name of its setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// `ca`, `client_cert`, `client_key` or `headers_file`.
    pub setting: &'static str,
    /// What is wrong.
    pub why: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` {}", self.setting, self.why)
    }
}

/// Credentials for a host, ready for use. No `Debug`.
pub(crate) struct HostCredentials {
    /// Differs from that of all others, so that a connection is only used with those it was opened with.
    pub(crate) id: u64,
    /// For TLS with this host. `None`: as with every other.
    pub(crate) tls: Option<Tls>,
    /// To be sent, in place of the job's of the same names.
    pub(crate) headers: HeaderMap,
    /// Whether nothing of a response may be kept that could show `headers`.
    pub(crate) hide_responses: bool,
    /// What of `headers` is taken out of a response that is kept all the same.
    pub(crate) echo: Arc<Echo>,
    /// Of the files' content.
    fingerprint: [u8; 32],
    /// When the certificates among them are valid.
    expiry: Expiry,
}

/// See the [module](self).
pub(crate) struct Credentials {
    settings: Vec<Settings>,
    /// The machine's authorities, for entries without any of their own.
    roots: RootCertStore,
    /// In the order of `settings`.
    current: ArcSwap<Vec<Arc<HostCredentials>>>,
    /// Of the next that are read.
    next_id: AtomicU64,
    /// What is wrong with the entries' files now, so that each is told once.
    told: Mutex<HashMap<usize, Problem>>,
    /// What the log was told of certificates that expire, in the order of `settings`.
    reminders: Mutex<Vec<Reminder>>,
}

/// The content of an entry's files.
#[derive(Default)]
struct Contents {
    ca: Option<Zeroizing<Vec<u8>>>,
    client_cert: Option<Zeroizing<Vec<u8>>>,
    client_key: Option<Zeroizing<Vec<u8>>>,
    headers: Option<Zeroizing<Vec<u8>>>,
}

impl Settings {
    /// Reads the files, and says what is wrong with them.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        match Contents::read(self) {
            Ok(contents) => contents.ready(self, &RootCertStore::empty(), 0).err().into_iter().collect(),
            Err(problems) => problems,
        }
    }

    /// What expires: a certificate that cannot be used now is a problem, one that expires soon is a
    /// warning.
    ///
    /// # Errors
    ///
    /// The [`Problem`].
    pub fn expiry(&self, now: Timestamp) -> Result<Option<Problem>, Problem> {
        // `problems` reports files that cannot be read.
        let Ok(contents) = Contents::read(self) else { return Ok(None) };
        let expiry = Expiry::of(&contents);
        expiry.fault(self, now).map_or_else(|| Ok(expiry.complaint(self, now)), Err)
    }

    /// How a policy lists these hosts.
    pub fn policy_entries(&self) -> impl Iterator<Item = CredentialHost> {
        self.hosts.iter().map(|host| CredentialHost { host: host.clone(), allow_http: self.allow_http })
    }

    fn covers(&self, url: &EndpointUrl) -> bool {
        self.hosts.iter().any(|listed| listed.covers(url))
    }
}

impl Credentials {
    /// Reads all files. Entries without authorities of their own trust `roots`.
    pub(crate) fn load(settings: Vec<Settings>, roots: RootCertStore) -> Result<Credentials, Problem> {
        let credentials = Credentials {
            settings,
            roots,
            current: ArcSwap::default(),
            next_id: AtomicU64::new(1),
            told: Mutex::default(),
            reminders: Mutex::default(),
        };
        let now = clock::timestamp();
        let read = credentials.settings.iter().map(|entry| credentials.read(entry, None, now));
        credentials.current.store(Arc::new(read.collect::<Result<_, _>>()?));
        credentials.remind(now);
        Ok(credentials)
    }

    /// What there is for the host of `url`, on its port.
    pub(crate) fn of(&self, url: &EndpointUrl) -> Option<Arc<HostCredentials>> {
        let at = self.settings.iter().position(|entry| entry.covers(url))?;
        Some(Arc::clone(&self.current.load()[at]))
    }

    /// Reads all files again. An entry whose files cannot be used stays as it was; one whose files have not changed
    /// keeps its connections.
    pub(crate) fn refresh(&self) {
        self.refresh_at(clock::timestamp());
    }

    fn refresh_at(&self, now: Timestamp) {
        let known = self.current.load();
        let mut next = Vec::with_capacity(known.len());
        for (at, (entry, known)) in self.settings.iter().zip(known.iter()).enumerate() {
            let read = self.read(entry, Some(known), now);
            self.tell(at, read.as_ref().err());
            next.push(read.unwrap_or_else(|_| Arc::clone(known)));
        }
        if next.iter().zip(known.iter()).any(|(next, known)| next.id != known.id) {
            tracing::info!("reloaded credentials that changed on disk");
            self.current.store(Arc::new(next));
        }
        self.remind(now);
    }

    /// Tells the log of certificates that expire or have expired. They are not taken out of use:
    /// whether an endpoint accepts them is the endpoint's to decide.
    fn remind(&self, now: Timestamp) {
        let mut reminders = self.reminders.lock().expect("nothing panics while it holds this lock");
        reminders.resize_with(self.settings.len(), Reminder::default);
        for (at, (complaint, reminder)) in self.complaints(now).iter().zip(reminders.iter_mut()).enumerate() {
            if reminder.is_due(complaint.as_ref(), now)
                && let Some(complaint) = complaint
            {
                let number = at + 1;
                tracing::warn!(
                    "`egress.credentials[{number}]`: {complaint}; renew the file, it is read again without a restart"
                );
            }
        }
    }

    /// What expires or has expired of each entry, in the order of `settings`.
    fn complaints(&self, now: Timestamp) -> Vec<Option<Problem>> {
        let known = self.current.load();
        self.settings
            .iter()
            .zip(known.iter())
            .map(|(entry, known)| known.expiry.complaint(entry, now))
            .collect()
    }

    /// What the agent's owner must know of the files: certificates that expire or have expired, and
    /// what was not taken over.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let complaints = self.complaints(clock::timestamp());
        let complaints =
            complaints.into_iter().enumerate().filter_map(|(at, complaint)| Some((at, complaint?)));
        let told = self.told.lock().expect("nothing panics while it holds this lock");
        let told = told.iter().map(|(at, problem)| {
            format!("`egress.credentials[{}]`: keeping the previous credentials: {problem}", at + 1)
        });
        complaints
            .map(|(at, complaint)| format!("`egress.credentials[{}]`: {complaint}", at + 1))
            .chain(told)
            .collect()
    }

    /// Says once what is wrong with an entry's files, and says so when that is over.
    fn tell(&self, at: usize, problem: Option<&Problem>) {
        let mut told = self.told.lock().expect("nothing panics while it holds this lock");
        let number = at + 1;
        match problem {
            Some(problem) if told.get(&at) != Some(problem) => {
                tracing::warn!(
                    "failed to reload `egress.credentials[{number}]`; keeping the previous credentials: {problem}"
                );
                told.insert(at, problem.clone());
            }
            Some(_) => {}
            None if told.remove(&at).is_some() => {
                tracing::info!("reloaded `egress.credentials[{number}]` after a failure");
            }
            None => {}
        }
    }

    /// Whether there is any.
    pub(crate) fn is_empty(&self) -> bool {
        self.settings.is_empty()
    }

    fn read(
        &self,
        entry: &Settings,
        known: Option<&Arc<HostCredentials>>,
        now: Timestamp,
    ) -> Result<Arc<HostCredentials>, Problem> {
        let contents = Contents::read(entry)
            .map_err(|problems| problems.into_iter().next().expect("an error has a problem in it"))?;
        match known {
            Some(known) if known.fingerprint == contents.fingerprint() => Ok(Arc::clone(known)),
            _ => {
                let id = self.next_id.fetch_add(1, Ordering::Relaxed);
                let ready = contents.ready(entry, &self.roots, id)?;
                let refusal = known.and_then(|known| ready.expiry.refusal(&known.expiry, entry, now));
                refusal.map_or_else(|| Ok(Arc::new(ready)), Err)
            }
        }
    }
}

impl Contents {
    fn read(entry: &Settings) -> Result<Contents, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut content = |setting, path: &Option<PathBuf>, read: Reader| {
            let read = path.as_deref().map(read)?;
            read.map_err(|error| problems.push(Problem { setting, why: error.to_string() })).ok()
        };
        let contents = Contents {
            ca: content("ca", &entry.ca, files::read),
            client_cert: content("client_cert", &entry.client_cert, files::read),
            client_key: content("client_key", &entry.client_key, files::read_secret),
            headers: content("headers_file", &entry.headers_file, files::read_secret),
        };
        if problems.is_empty() { Ok(contents) } else { Err(problems) }
    }

    /// With the lengths, so that no byte can move from one file to the next unseen.
    fn fingerprint(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        for content in [&self.ca, &self.client_cert, &self.client_key, &self.headers].into_iter().flatten() {
            digest.update(content.len().to_be_bytes());
            digest.update(content);
        }
        digest.finalize().into()
    }

    fn ready(&self, entry: &Settings, roots: &RootCertStore, id: u64) -> Result<HostCredentials, Problem> {
        let headers = match &self.headers {
            Some(lines) => {
                headers::read(lines).map_err(|why| in_file("headers_file", &entry.headers_file, &why))?
            }
            None => HeaderMap::new(),
        };
        let tls = if self.ca.is_some() || self.client_cert.is_some() {
            let roots = match &self.ca {
                Some(pem) => authorities(pem).map_err(|why| in_file("ca", &entry.ca, why))?,
                None => roots.clone(),
            };
            Some(self.client_config(entry, roots)?)
        } else {
            None
        };
        let hide_responses = !headers.is_empty() && !entry.keep_responses;
        let echo = Arc::new(Echo::of(headers.values().filter_map(|value| value.to_str().ok())));
        let (fingerprint, expiry) = (self.fingerprint(), Expiry::of(self));
        Ok(HostCredentials { id, tls, headers, hide_responses, echo, fingerprint, expiry })
    }

    fn client_config(&self, entry: &Settings, roots: RootCertStore) -> Result<Tls, Problem> {
        let identity = match (&self.client_cert, &self.client_key) {
            (Some(cert), Some(key)) => Some((
                certificates(cert).map_err(|why| in_file("client_cert", &entry.client_cert, why))?,
                private_key(key).map_err(|why| in_file("client_key", &entry.client_key, why))?,
            )),
            _ => None,
        };
        // What rustls says may quote what it was given.
        tls::client_config(roots, identity).map_err(|_| {
            in_file(
                "client_key",
                &entry.client_key,
                "is not the key of the certificate, or of a kind that is not known",
            )
        })
    }
}

type Reader = fn(&Path) -> Result<Zeroizing<Vec<u8>>, files::FileError>;

fn in_file(setting: &'static str, path: &Option<PathBuf>, why: &str) -> Problem {
    let path = path.as_deref().unwrap_or(Path::new(""));
    Problem { setting, why: format!("names {}, which {why}", path.display()) }
}

fn authorities(pem: &[u8]) -> Result<RootCertStore, &'static str> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem)? {
        roots.add(certificate).map_err(|_| "has a certificate in it that is not valid")?;
    }
    Ok(roots)
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, &'static str> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match read {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err("has no certificate in it; it must be PEM, with -----BEGIN CERTIFICATE-----"),
        Err(_) => Err("is not valid PEM"),
    }
}

fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, &'static str> {
    PrivateKeyDer::from_pem_slice(pem)
        .map_err(|_| "has no private key in it; it must be PEM, with -----BEGIN PRIVATE KEY----- or the like")
}

#[cfg(test)]
mod tests;
