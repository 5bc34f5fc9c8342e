//! Who vouches for agents: authorities that issue their certificates, and the certificate of the port they connect to.
//!
//! The newest authority issues. Former ones stay trusted for an overlap in which agents renew, and it is the oldest one
//! whose certificate the port shows: agents that have not renewed yet know no other. Authorities are made here and kept
//! in the store, their keys sealed; or they are the operator's, in files, and nothing of them is stored.

mod certificates;
mod files;
pub mod verifier;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use postrider_domain::audit;
use postrider_domain::identity::{AgentIdentity, TrustDomain};
use postrider_domain::join::{MAX_PINS, Pin};
use postrider_domain::sealed::{Context, OpenError};
use postrider_domain::time::Timestamp;
use postrider_proto::agent::Identity;
use rcgen::{Issuer, KeyPair, PublicKeyData as _};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::sync::Mutex;
use zeroize::Zeroizing;

pub use self::certificates::RequestedKey;
use self::certificates::Signer;
pub(crate) use self::certificates::generation_of;
pub use self::files::{AuthorityFiles, FilesError};
use self::verifier::AgentVerifier;
use crate::clock::Clock;
use crate::identities::Identities;
use crate::listen::SharedTls;
use crate::listen::tls::{for_agents, roots};
use crate::secrets::{Sealer, SecretsError, reseal};
use crate::store::{AuthorityRow, IdentityRow, Store, StoreError};

/// The longest overlap.
pub const MAX_OVERLAP: Duration = Duration::from_secs(90 * 86_400);
/// What the default overlap is longer than an agent's certificate.
const MARGIN: Duration = Duration::from_secs(3600);

/// Why an authority cannot be had or changed.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A key cannot be opened.
    #[error("the key of the authority {pin} cannot be opened: {source}")]
    Sealed {
        /// Which.
        pin: Pin,
        /// Why.
        source: OpenError,
    },
    /// The operator's files.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// A certificate cannot be made.
    #[error("a certificate cannot be made: {0}")]
    Certificate(#[from] rcgen::Error),
    /// TLS cannot be set up with it.
    #[error("the agents' port cannot use its certificate: {0}")]
    Tls(#[from] rustls::Error),
    /// There is none that issues.
    #[error("there is no authority that issues")]
    None,
    /// It is the operator's.
    #[error("the authority is an external one: put the new one before the others in agent_ca instead")]
    External,
    /// Too many are trusted already.
    #[error("{MAX_PINS} authorities are trusted already; wait until a former one has retired")]
    TooMany,
}

/// What certificates are made with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Part of every agent's identity.
    pub trust_domain: TrustDomain,
    /// Names and addresses by which agents reach their port.
    pub names: Vec<String>,
    /// How long an agent's certificate lasts.
    pub lifetime: Duration,
    /// The operator's authorities. Empty: they are made here.
    pub files: Vec<AuthorityFiles>,
}

/// One authority.
pub struct Authority {
    /// The fingerprint of its key.
    pub pin: Pin,
    /// Its certificate.
    pub certificate: CertificateDer<'static>,
    /// Since when it is known here.
    pub created: Timestamp,
    /// When its certificate ends.
    pub expires: Timestamp,
    /// Until when it is trusted; `None` while it issues, and for the operator's.
    pub retire: Option<Timestamp>,
    /// Whether it is the operator's.
    pub external: bool,
    signer: Signer,
}

/// See the [module](self).
pub struct Authorities {
    store: Arc<dyn Store>,
    sealer: Sealer,
    settings: Settings,
    identities: Arc<Identities>,
    /// Newest first; never empty.
    trusted: ArcSwap<Vec<Arc<Authority>>>,
    tls: SharedTls,
    verifier: Arc<AgentVerifier>,
    /// When the port's certificate was made.
    served_since: ArcSwap<Timestamp>,
    changes: Mutex<()>,
    /// Why the operator's files are not in force.
    refused: ArcSwapOption<String>,
}

impl Authorities {
    /// The authorities of the store or of the operator's files; a first one is made. While the clock is not believed, one
    /// whose overlap seems to be over is trusted still.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub async fn load(
        store: Arc<dyn Store>,
        sealer: Sealer,
        settings: Settings,
        identities: Arc<Identities>,
        clock: Clock,
    ) -> Result<Self, AuthorityError> {
        let now = clock.wall();
        let trusted = if settings.files.is_empty() {
            stored(&store, &sealer, now, clock.removal_time()).await?
        } else {
            files::read_all(&settings.files, now)?
        };
        let verifier = Arc::new(AgentVerifier::new(
            anchors(&trusted),
            identities.clone(),
            settings.trust_domain.clone(),
            clock,
        )?);
        let tls = served(&trusted, &settings.names, &verifier, now)?;
        Ok(Self {
            store,
            sealer,
            settings,
            identities,
            trusted: ArcSwap::from_pointee(trusted),
            tls: Arc::new(ArcSwap::from_pointee(tls)),
            verifier,
            served_since: ArcSwap::from_pointee(now),
            changes: Mutex::new(()),
            refused: ArcSwapOption::empty(),
        })
    }

    /// The TLS settings of the agents' port.
    #[must_use]
    pub fn tls(&self) -> SharedTls {
        self.tls.clone()
    }

    /// What judges agents' certificates.
    #[must_use]
    pub fn verifier(&self) -> Arc<AgentVerifier> {
        self.verifier.clone()
    }

    /// Every authority that is trusted, newest first.
    #[must_use]
    pub fn trusted(&self) -> Arc<Vec<Arc<Authority>>> {
        self.trusted.load_full()
    }

    /// Why the operator's files are not in force, as they are now.
    #[must_use]
    pub fn refused(&self) -> Option<String> {
        self.refused.load().as_deref().cloned()
    }

    /// What every agent of this control plane has in its identity.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.settings.trust_domain
    }

    /// How long the former authorities stay trusted when nobody says otherwise.
    #[must_use]
    pub fn default_overlap(&self) -> Duration {
        self.settings.lifetime + MARGIN
    }

    /// Issues a certificate for the newest key of `row`: the agent's response, the authority, and when the certificate ends.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn issue(
        &self,
        row: &IdentityRow,
        key: &RequestedKey,
        now: Timestamp,
    ) -> Result<(Identity, Pin, Timestamp), AuthorityError> {
        let (agent, pool) = (&row.agent, &row.pool);
        let trusted = self.trusted();
        let authority = trusted.first().ok_or(AuthorityError::None)?;
        let until = (now + self.settings.lifetime).min(authority.expires);
        let trust_domain = self.settings.trust_domain.clone();
        let identity = AgentIdentity { trust_domain, pool: pool.clone(), agent: agent.clone() };
        let certificate =
            certificates::agent(&authority.signer, &identity, (key, row.generation), now, until)?;
        let seconds = |duration: Duration| u32::try_from(duration.as_secs()).unwrap_or(u32::MAX);
        let life = until.since(now);
        let told = Identity {
            agent_id: agent.to_string(),
            pool: pool.to_string(),
            certificate_chain: vec![certificate.to_vec().into()],
            trust_bundle: trusted.iter().map(|authority| authority.certificate.to_vec().into()).collect(),
            renew_after_seconds: seconds(certificates::renew_after(life, rand::random())),
            valid_for_seconds: seconds(life),
        };
        Ok((told, authority.pin, until))
    }

    /// Makes a new authority that issues from now on; the former ones retire after `overlap`, at once when it is zero.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub async fn rotate(
        &self,
        overlap: Duration,
        audit: audit::Entry,
        now: Timestamp,
    ) -> Result<Arc<Authority>, AuthorityError> {
        let _change = self.changes.lock().await;
        if !self.settings.files.is_empty() {
            return Err(AuthorityError::External);
        }
        let mut trusted = self.trusted().to_vec();
        if !overlap.is_zero() && trusted.len() >= MAX_PINS {
            return Err(AuthorityError::TooMany);
        }
        for former in &mut trusted {
            let retire = former.retire.unwrap_or(now + overlap).min(now + overlap);
            *former = Arc::new(former.retiring(retire)?);
        }
        let new = Arc::new(create(now)?);
        trusted.insert(0, new.clone());
        let rows: Vec<AuthorityRow> = trusted.iter().map(|authority| authority.row(&self.sealer)).collect();
        self.store.put_authorities(&rows, audit::Entry { target: new.pin.to_string(), ..audit }).await?;
        self.apply(trusted, now)?;
        self.retire(now).await?;
        Ok(new)
    }

    /// What time brings: former authorities retire, the operator's files change, the port's certificate grows old. Without
    /// a `removal` time none retires: the clock is not believed.
    ///
    /// # Errors
    /// [`AuthorityError`]; what was in force stays.
    pub async fn tend(&self, now: Timestamp, removal: Option<Timestamp>) -> Result<(), AuthorityError> {
        let _change = self.changes.lock().await;
        match removal {
            _ if !self.settings.files.is_empty() => {
                let followed = self.follow_files(now);
                self.refused.store(followed.as_ref().err().map(|error| Arc::new(error.to_string())));
                followed?;
            }
            Some(removal) => self.retire(removal).await?,
            None => {}
        }
        if certificates::is_to_be_replaced(**self.served_since.load(), now) {
            self.apply(self.trusted().to_vec(), now)?;
        }
        Ok(())
    }

    /// How many keys the store has of these authorities.
    #[must_use]
    pub fn kept(&self) -> u64 {
        let kept = self.trusted().iter().filter(|authority| !authority.external).count();
        u64::try_from(kept).unwrap_or(u64::MAX)
    }

    /// Seals the keys in the store anew with the current data key, those included that the operator's files stand in for;
    /// how many there are, and how many of them were sealed with a former one.
    ///
    /// # Errors
    /// When one does not open, or the store fails.
    pub async fn reseal(&self) -> Result<(u64, u64), SecretsError> {
        let _change = self.changes.lock().await;
        let (mut values, mut moved) = (0, Vec::new());
        for mut row in self.store.authorities().await? {
            values += 1;
            if !self.sealer.is_current(&row.sealed_key) {
                row.sealed_key = reseal(&self.sealer, context(row.pin), &row.sealed_key)?;
                moved.push(row);
            }
        }
        let count = u64::try_from(moved.len()).unwrap_or(u64::MAX);
        if !moved.is_empty() {
            self.store.reseal_authorities(moved).await?;
        }
        Ok((values, count))
    }

    fn follow_files(&self, now: Timestamp) -> Result<(), AuthorityError> {
        let before = self.trusted();
        let found = files::read_all(&self.settings.files, now)?;
        if files::same(&before, &found) {
            return Ok(());
        }
        tracing::info!(issuing = %found.first().ok_or(AuthorityError::None)?.pin, "reloaded the agents' authorities");
        self.apply(found, now)
    }

    async fn retire(&self, now: Timestamp) -> Result<(), AuthorityError> {
        let retired = |authority: &Arc<Authority>| authority.retire.is_some_and(|retire| retire <= now);
        let (gone, stay): (Vec<_>, Vec<_>) = self.trusted().iter().cloned().partition(retired);
        if gone.is_empty() {
            return Ok(());
        }
        // Trusted no more before it is forgotten: a crash in between repeats this.
        self.apply(stay, now)?;
        for authority in gone {
            tracing::info!(authority = %authority.pin, "an agents' authority retired");
            let entry = crate::identities::own_entry("RetireAuthority", authority.pin, now);
            self.store.delete_authority(authority.pin, entry).await?;
        }
        Ok(())
    }

    /// Trusts these from now on. Streams of agents whose certificate is from none of them end.
    fn apply(&self, trusted: Vec<Arc<Authority>>, now: Timestamp) -> Result<(), AuthorityError> {
        let tls = served(&trusted, &self.settings.names, &self.verifier, now)?;
        self.verifier.trust(anchors(&trusted))?;
        self.tls.store(Arc::new(tls));
        self.identities.keep_streams_of(&trusted.iter().map(|authority| authority.pin).collect::<Vec<_>>());
        self.trusted.store(Arc::new(trusted));
        self.served_since.store(Arc::new(now));
        Ok(())
    }
}

impl Authority {
    /// From a certificate and its key.
    fn new(
        certificate: CertificateDer<'static>,
        key: KeyPair,
        created: Timestamp,
    ) -> Result<Self, AuthorityError> {
        Ok(Self {
            pin: Pin::of(&key.subject_public_key_info()),
            expires: files::end_of(&certificate)?,
            signer: Issuer::from_ca_cert_der(&certificate, key)?,
            certificate,
            created,
            retire: None,
            external: false,
        })
    }

    /// Its certificate, for people and other programs.
    #[must_use]
    pub fn pem(&self) -> String {
        let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
        pem::encode_config(&pem::Pem::new("CERTIFICATE", self.certificate.to_vec()), config)
    }

    /// The key is sealed anew each time: with the data key that is current by then.
    fn row(&self, sealer: &Sealer) -> AuthorityRow {
        let key = Zeroizing::new(self.signer.key().serialize_der());
        AuthorityRow {
            pin: self.pin,
            certificate: self.certificate.to_vec(),
            sealed_key: sealer.seal(&context(self.pin), &key),
            created: self.created,
            retire: self.retire,
        }
    }

    /// The same, until then.
    fn retiring(&self, retire: Timestamp) -> Result<Self, AuthorityError> {
        let key = Zeroizing::new(self.signer.key().serialize_der());
        let key = KeyPair::try_from(key.as_slice())?;
        let same = Self::new(self.certificate.clone(), key, self.created)?;
        Ok(Self { retire: Some(retire), ..same })
    }
}

/// The store's authorities that are still trusted; a first one is made when none issues.
async fn stored(
    store: &Arc<dyn Store>,
    sealer: &Sealer,
    now: Timestamp,
    removal: Option<Timestamp>,
) -> Result<Vec<Arc<Authority>>, AuthorityError> {
    let mut trusted = Vec::new();
    for row in store.authorities().await? {
        if row.retire.zip(removal).is_none_or(|(retire, removal)| retire > removal) {
            trusted.push(Arc::new(open(sealer, row)?));
        }
    }
    trusted.sort_by_key(|authority| (authority.retire.is_some(), std::cmp::Reverse(authority.created)));
    if trusted.first().is_none_or(|first| first.retire.is_some()) {
        let first = create(now)?;
        let entry = crate::identities::own_entry("CreateAuthority", first.pin, now);
        store.put_authorities(&[first.row(sealer)], entry).await?;
        trusted.insert(0, Arc::new(first));
    }
    Ok(trusted)
}

fn create(now: Timestamp) -> Result<Authority, AuthorityError> {
    let (certificate, key) = certificates::authority(now)?;
    Authority::new(certificate, key, now)
}

fn open(sealer: &Sealer, row: AuthorityRow) -> Result<Authority, AuthorityError> {
    let pin = row.pin;
    let key = sealer.open(&context(pin), &row.sealed_key);
    let key = KeyPair::try_from(key.map_err(|source| AuthorityError::Sealed { pin, source })?.as_slice())?;
    let opened = Authority::new(CertificateDer::from(row.certificate), key, row.created)?;
    Ok(Authority { retire: row.retire, ..opened })
}

/// What an authority's key is sealed as.
#[must_use]
pub fn context(authority: Pin) -> Context {
    Context::AuthorityKey { authority: authority.to_string() }
}

fn anchors(trusted: &[Arc<Authority>]) -> rustls::RootCertStore {
    roots(trusted.iter().map(|authority| authority.certificate.clone()).collect())
}

/// The port's TLS settings, with a new certificate from the oldest authority. That one's own certificate goes along, so
/// that whoever knows only its fingerprint can check.
fn served(
    trusted: &[Arc<Authority>],
    names: &[String],
    verifier: &Arc<AgentVerifier>,
    now: Timestamp,
) -> Result<ServerConfig, AuthorityError> {
    let authority = trusted.last().ok_or(AuthorityError::None)?;
    let (certificate, key) =
        certificates::server(&authority.signer, names, files::start_of(&authority.certificate)?, now)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    Ok(for_agents(vec![certificate, authority.certificate.clone()], key, verifier.clone())?)
}
