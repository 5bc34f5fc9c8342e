//! Who this agent is: gets an identity with a join token, keeps it, and renews it before it ends.
//!
//! The [`CertificateManager`] is asked by [`crate::app`] for an [`Assumed`] identity, runs its renewals beside the streams, and
//! decides what follows when the identity has ended. Streams read from [`Trust`] what to show and whom to trust, and
//! tell [`RefusalCount`] when they are refused. The private key is made here and never leaves the machine.
//!
//! A key is kept in the directory before its certificate is asked for. Whatever gets lost then, the connection, the
//! answer or the process, the same key and the same token are sent again, and the control plane answers as before.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use postrider_domain::id::{AgentId, PoolName};
use postrider_domain::join::Join;
use postrider_telemetry::blocking;
use rustls::{AlertDescription, RootCertStore};
use tokio::sync::watch;
use tokio::time::{sleep, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use self::ask::{Failure, Granted};
use self::directory::{Directory, DirectoryError};
use self::key::Key;
use self::record::{Pending, Purpose, Record};
use self::refusals::RefusalCount;
use crate::backoff::Backoff;
use crate::clock::{Instant, far, now, wall};
use crate::dial::tls::{Authorities, client_config, known};
use crate::dial::{Address, Dialer, Security};

mod ask;
pub mod directory;
mod error;
pub mod key;
pub mod record;
pub mod refusals;
mod timing;

pub use self::error::{Ended, IdentityError};

/// How long streams wait at the start for a renewal that was not ended.
const FINISH_WITHIN: Duration = Duration::from_secs(10);

/// What an agent needs to get an identity, and to keep it.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What to enroll with.
    pub join: Option<Join>,
    /// Where to keep the identity. None: in memory.
    pub state_dir: Option<PathBuf>,
    /// For people.
    pub name: String,
}

/// What a connection needs to know of the identity.
#[derive(Debug, Clone)]
pub struct Trust {
    /// What to show, and whom to trust.
    pub security: Security,
    /// Over how long a time connections that were made with an earlier one are made anew.
    pub spread: Duration,
    /// When the certificate ends by its own words, in seconds since 1970; for people, the agent goes by other clocks.
    pub expires: Option<i64>,
}

/// An identity in use.
#[derive(Debug)]
pub struct Assumed {
    /// Who.
    pub agent_id: AgentId,
    /// In which pool.
    pub pool: PoolName,
    /// Its present certificate, and all that follow.
    pub trust: watch::Receiver<Trust>,
}

/// See the [module](self).
pub struct CertificateManager {
    join: Option<Join>,
    name: String,
    dialer: Arc<Dialer>,
    /// Trusted instead of what the join token and the control plane name.
    authorities: Option<RootCertStore>,
    directory: Option<Arc<Directory>>,
    pending: Option<Pending>,
    current: Option<Current>,
    refusals: Arc<RefusalCount>,
    /// The token did not work in this run of the process.
    token_refused: bool,
    /// Why the agent enrolls again, and how long it waits before.
    again: Option<(Ended, Duration)>,
    enrollments: Backoff,
    renewals: Backoff,
}

/// The identity in use.
struct Current {
    record: Record,
    trust: watch::Sender<Trust>,
    adopted: Instant,
    renew_at: Instant,
    /// When the certificate ends. After a restart nobody can tell but the control plane.
    ends: Option<Instant>,
}

/// What was found at the start.
pub struct Found {
    directory: Option<Arc<Directory>>,
    record: Option<Record>,
    pending: Option<Pending>,
}

impl Found {
    /// Reads the directory of `settings`, if there is one, and keeps other processes out of it.
    ///
    /// # Errors
    ///
    /// [`IdentityError`].
    pub fn read(settings: &Settings) -> Result<Found, IdentityError> {
        let Some(path) = &settings.state_dir else {
            return Ok(Found { directory: None, record: None, pending: None });
        };
        let directory = Arc::new(Directory::open(path)?);
        let (record, mut pending) = (directory.identity()?, directory.pending()?);
        if record.is_none() && settings.join.is_none() {
            return Err(IdentityError::NothingToEnrollWith(path.clone()));
        }
        if let (Some(record), Some(found)) = (&record, &pending)
            && record.key.public()? == found.key.public()?
        {
            // Its certificate came, and the process ended right then.
            directory.forget_pending()?;
            pending = None;
        }
        Ok(Found { directory: Some(directory), record, pending })
    }

    /// Where the control plane was when the agent last heard of it.
    #[must_use]
    pub fn control_plane(&self) -> Option<&Address> {
        self.record.as_ref().map(|record| &record.control_plane)
    }
}

impl CertificateManager {
    /// A manager of the identity that was found.
    ///
    /// # Errors
    ///
    /// [`IdentityError`].
    pub fn new(
        settings: Settings,
        found: Found,
        dialer: Arc<Dialer>,
        authorities: Option<RootCertStore>,
    ) -> Result<CertificateManager, IdentityError> {
        let mut manager = CertificateManager {
            join: settings.join,
            name: settings.name,
            dialer,
            authorities,
            directory: found.directory,
            pending: found.pending,
            current: None,
            refusals: Arc::default(),
            token_refused: false,
            again: None,
            enrollments: Backoff::default(),
            renewals: Backoff::default(),
        };
        if let Some(record) = found.record {
            let path = manager.directory.as_ref().map(|directory| directory.path().to_owned());
            let unusable = |source| IdentityError::Unusable { path: path.unwrap_or_default(), source };
            let security = manager.security(&record).map_err(unusable)?;
            let wait = timing::renewal_after_restart(record.obtained, record.renew_after, wall());
            manager.assume(record, security, now() + wait, None);
        }
        Ok(manager)
    }

    /// Where streams tell that they were refused.
    #[must_use]
    pub fn refusals(&self) -> Arc<RefusalCount> {
        Arc::clone(&self.refusals)
    }

    /// The identity; enrolls if there is none. `None` if `stop` is cancelled before there is one.
    ///
    /// # Errors
    ///
    /// [`IdentityError`].
    pub async fn identity(&mut self, stop: &CancellationToken) -> Result<Option<Assumed>, IdentityError> {
        if self.current.is_none() {
            tokio::select! {
                enrolled = self.enroll() => enrolled?,
                () = stop.cancelled() => return Ok(None),
            }
        } else if self.pending.as_ref().is_some_and(|pending| pending.purpose == Purpose::Renewal) {
            tokio::select! {
                finished = self.finish_renewal() => finished?,
                () = stop.cancelled() => return Ok(None),
            }
        }
        Ok(self.current.as_ref().map(|current| Assumed {
            agent_id: current.record.agent_id.clone(),
            pool: current.record.pool.clone(),
            trust: current.trust.subscribe(),
        }))
    }

    /// Asks again for the certificate of a renewal that the last run of the process has not ended, before any stream is
    /// opened: the control plane may have granted it, and refuses the key before as soon as the new one was used.
    async fn finish_renewal(&mut self) -> Result<(), IdentityError> {
        let Ok(renewed) = timeout(FINISH_WITHIN, self.renew()).await else { return Ok(()) };
        if renewed?.is_some()
            && let Some(current) = &mut self.current
        {
            // Refused: `keep` asks once more and tells why.
            current.renew_at = now();
        }
        Ok(())
    }

    /// Renews the identity whenever it is time, until it has ended.
    ///
    /// # Errors
    ///
    /// [`IdentityError`].
    pub async fn keep(&mut self) -> Result<Ended, IdentityError> {
        let refusals = self.refusals();
        loop {
            let Some(current) = &self.current else { return Ok(Ended::Expired) };
            let ends = current.ends.unwrap_or_else(|| far(now()));
            let ended = tokio::select! {
                () = sleep_until(ends) => Some(Ended::Expired),
                () = sleep_until(current.renew_at) => match timeout_at(ends, self.renew()).await {
                    Ok(renewed) => renewed?,
                    Err(_) => Some(Ended::Expired),
                },
                alert = refusals.next() => self.reconsider(alert).await?,
            };
            if let Some(ended) = ended {
                return Ok(ended);
            }
        }
    }

    /// Makes ready to enroll again after the identity has ended.
    ///
    /// # Errors
    ///
    /// When there is nothing to enroll with.
    pub fn give_up(&mut self, ended: Ended) -> Result<(), IdentityError> {
        if ended == Ended::Replaced {
            return Ok(());
        }
        if self.join.is_none() || self.token_refused {
            return Err(IdentityError::Ended(ended.sentence()));
        }
        tracing::warn!("{}: enrolling again", ended.sentence());
        let lived = self.current.take().map_or(Duration::ZERO, |current| now() - current.adopted);
        self.again = Some((ended, self.enrollments.next(lived, rand::random())));
        self.refusals.settle();
        Ok(())
    }

    /// Enrolls, however often it has to ask.
    async fn enroll(&mut self) -> Result<(), IdentityError> {
        let before = self.again.take();
        if let Some((_, wait)) = &before {
            sleep(*wait).await;
        }
        let before = before.map(|(ended, _)| format!("{}, and ", ended.sentence())).unwrap_or_default();
        tracing::info!(control_plane = %self.dialer.address(), name = self.name, "enrolling");
        loop {
            let (why, after) = match self.enroll_once().await? {
                Ok(()) => return Ok(()),
                Err(Failure::Refused(message)) => {
                    return Err(IdentityError::TokenRefused { before, message });
                }
                Err(Failure::BadRequest(message)) => return Err(IdentityError::RequestRefused(message)),
                Err(Failure::Later { why, after }) => (why, after),
            };
            // Beside what the control plane asks for, lest all that it sends away come back at once.
            let wait = after.unwrap_or_default() + self.enrollments.next(Duration::ZERO, rand::random());
            tracing::warn!(retry_in_ms = wait.as_millis(), "enrollment failed; retrying: {why}");
            sleep(wait).await;
        }
    }

    async fn enroll_once(&mut self) -> Result<Result<(), Failure>, IdentityError> {
        let Some(join) = self.join.clone() else {
            return Err(IdentityError::Ended("this agent has no identity".to_owned()));
        };
        let pending = match self.pending_key(Purpose::Enrollment(join.token().id())).await? {
            Ok(pending) => pending,
            Err(failure) => return Ok(Err(failure)),
        };
        let authorities = match &self.authorities {
            Some(authorities) => Authorities::Known(authorities.clone()),
            None => Authorities::Pinned(join.pins().to_vec()),
        };
        let security = match client_config(authorities, None) {
            Ok(config) => Security::Tls(config),
            Err(error) => return Ok(Err(unusable(&error))),
        };
        let asked = now();
        match ask::enroll(&self.dialer, &security, &join, &pending.key, &self.name).await {
            Ok(granted) => {
                self.accept(granted, pending.key, asked, Purpose::Enrollment(join.token().id())).await
            }
            Err(failure) => Ok(Err(failure)),
        }
    }

    /// Renews once. If that fails it is tried again later.
    async fn renew(&mut self) -> Result<Option<Ended>, IdentityError> {
        let Some(current) = &self.current else { return Ok(Some(Ended::Expired)) };
        let security = current.trust.borrow().security.clone();
        let failure = match self.renew_once(&security).await? {
            Ok(()) => return Ok(None),
            Err(failure) => failure,
        };
        let (why, after) = match failure {
            Failure::Refused(message) => return Ok(Some(Ended::Revoked(message))),
            Failure::BadRequest(message) => {
                // Whatever is wrong with this key, the next one may be better.
                self.pending = None;
                (message, None)
            }
            Failure::Later { why, after } => (why, after),
        };
        let wait = after.unwrap_or_default() + self.renewals.next(Duration::ZERO, rand::random());
        tracing::warn!(retry_in_ms = wait.as_millis(), "certificate renewal failed; retrying: {why}");
        if let Some(current) = &mut self.current {
            current.renew_at = now() + wait;
        }
        Ok(None)
    }

    async fn renew_once(&mut self, security: &Security) -> Result<Result<(), Failure>, IdentityError> {
        let pending = match self.pending_key(Purpose::Renewal).await? {
            Ok(pending) => pending,
            Err(failure) => return Ok(Err(failure)),
        };
        let asked = now();
        match ask::renew(&self.dialer, security, &pending.key).await {
            Ok(granted) => self.accept(granted, pending.key, asked, Purpose::Renewal).await,
            Err(failure) => Ok(Err(failure)),
        }
    }

    /// A stream was refused: decides whether the identity has ended, or a join token is worth a try.
    async fn reconsider(&mut self, alert: AlertDescription) -> Result<Option<Ended>, IdentityError> {
        let Some(current) = &self.current else { return Ok(Some(Ended::Expired)) };
        let record = &current.record;
        // The clock alone may be wrong, and so may be the control plane's; not both, and in the same way.
        if alert == AlertDescription::CertificateExpired
            && timing::has_ended(record.obtained, record.valid_for, wall())
        {
            return Ok(Some(Ended::Expired));
        }
        if self.join.is_none() || self.token_refused || !self.refusals.is_ripe() {
            return Ok(None);
        }
        self.refusals.settle();
        tracing::warn!("the control plane keeps refusing this agent's certificate: trying the join token");
        match self.enroll_once().await? {
            Ok(()) => return Ok(Some(Ended::Replaced)),
            Err(Failure::Refused(why) | Failure::BadRequest(why)) => {
                self.token_refused = true;
                tracing::warn!(
                    "the join token was not accepted either ({why}); keeping the current identity"
                );
            }
            Err(Failure::Later { why, .. }) => tracing::warn!("enrollment failed: {why}"),
        }
        Ok(None)
    }

    /// The key to ask a certificate for: the one that was asked for before, or a new one, kept before it is used. A key
    /// that cannot be kept is not used: after a restart the agent would show a key that the control plane has replaced.
    async fn pending_key(&mut self, purpose: Purpose) -> Result<Result<Pending, Failure>, IdentityError> {
        if let Some(pending) = self.pending.as_ref().filter(|pending| pending.purpose == purpose) {
            return Ok(Ok(pending.clone()));
        }
        let pending = Pending { purpose, key: Key::generate()? };
        let kept = pending.clone();
        if self.store(purpose, move |directory| directory.keep_pending(&kept)).await? {
            return Ok(Ok(self.pending.insert(pending).clone()));
        }
        let why =
            "the new key cannot be written to state_dir; free space there, or make it writable".to_owned();
        Ok(Err(Failure::Later { why, after: None }))
    }

    /// Makes what was granted the identity, on disk first.
    async fn accept(
        &mut self,
        granted: Granted,
        key: Key,
        asked: Instant,
        purpose: Purpose,
    ) -> Result<Result<(), Failure>, IdentityError> {
        let record = Record {
            agent_id: granted.agent_id,
            pool: granted.pool,
            control_plane: self.dialer.address().clone(),
            key,
            chain: granted.chain,
            bundle: granted.bundle,
            obtained: wall(),
            renew_after: granted.renew_after,
            valid_for: granted.valid_for,
        };
        let same = |current: &Current| current.record.agent_id == record.agent_id;
        if purpose == Purpose::Renewal && !self.current.as_ref().is_some_and(same) {
            return Ok(Err(Failure::Later {
                why: "the answer is for another agent".to_owned(),
                after: None,
            }));
        }
        let security = match self.security(&record) {
            Ok(security) => security,
            Err(error) => return Ok(Err(unusable(&error))),
        };
        let kept = record.clone();
        self.store(purpose, move |directory| directory.keep_identity(&kept)).await?;
        self.pending = None;
        self.renewals.reset();
        tracing::info!(
            agent = %record.agent_id,
            pool = %record.pool,
            valid_for_s = record.valid_for.as_secs(),
            renew_after_s = record.renew_after.as_secs(),
            kept = self.directory.is_some(),
            "{}",
            if purpose == Purpose::Renewal { "certificate renewed" } else { "enrolled" }
        );
        let (renew_at, ends) = (asked + record.renew_after, asked + record.valid_for);
        match (&mut self.current, purpose) {
            (Some(current), Purpose::Renewal) => {
                let trust =
                    Trust { security, spread: timing::spread(record.renew_after), expires: record.expires() };
                (current.record, current.renew_at, current.ends) = (record, renew_at, Some(ends));
                current.trust.send_replace(trust);
            }
            _ => self.assume(record, security, renew_at, Some(ends)),
        }
        Ok(Ok(()))
    }

    fn assume(&mut self, record: Record, security: Security, renew_at: Instant, ends: Option<Instant>) {
        let trust = Trust { security, spread: timing::spread(record.renew_after), expires: record.expires() };
        let (trust, _) = watch::channel(trust);
        self.current = Some(Current { record, trust, adopted: now(), renew_at, ends });
    }

    /// What a connection needs that is made with this identity.
    fn security(&self, record: &Record) -> Result<Security, rustls::Error> {
        let authorities = match &self.authorities {
            Some(authorities) => authorities.clone(),
            None => known(&record.bundle)?,
        };
        let identity = (record.chain.clone(), record.key.for_tls());
        client_config(Authorities::Known(authorities), Some(identity)).map(Security::Tls)
    }

    /// Writes to the directory, if there is one, away from the thread that serves the streams; whether what was to be
    /// kept is kept. An enrollment that cannot be kept ends the agent, for its token would be gone. With a renewal the
    /// agent goes on.
    async fn store(
        &self,
        purpose: Purpose,
        write: impl FnOnce(&Directory) -> Result<(), DirectoryError> + Send + 'static,
    ) -> Result<bool, IdentityError> {
        let Some(directory) = self.directory.clone() else { return Ok(true) };
        let path = directory.path().to_owned();
        let written = blocking::run(move || write(&directory)).await;
        let lost = |lost| DirectoryError::Io { path, what: "written", source: std::io::Error::other(lost) };
        match written.unwrap_or_else(|error| Err(lost(error))) {
            Err(error) if purpose == Purpose::Renewal => {
                tracing::error!("{}", crate::with_causes(&error));
                Ok(false)
            }
            written => Ok(written.map(|()| true)?),
        }
    }
}

fn unusable(error: &rustls::Error) -> Failure {
    Failure::Later { why: format!("the control plane's answer cannot be used: {error}"), after: None }
}
