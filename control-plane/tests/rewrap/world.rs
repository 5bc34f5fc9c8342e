//! A store with secrets in it, and what seals them.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use postrider_control_plane::authority::{self, Authorities};
use postrider_control_plane::clock::Clock;
use postrider_control_plane::identities::Identities;
use postrider_control_plane::registry::Registry;
use postrider_control_plane::secrets::rewrap::{Holders, Rewrapper, State};
use postrider_control_plane::secrets::{
    Keks, KeyedSubscription, Sealer, SecretsError, VaultSettings, data_keys, seal_subscription,
};
use postrider_control_plane::store::{Options, SledStore, Store};
use postrider_domain::audit::Entry;
use postrider_domain::id::{KeyId, SubscriptionId};
use postrider_domain::identity::TrustDomain;
use postrider_domain::sealed::{KekId, KeyBytes};
use postrider_domain::signing::{DEFAULT_OVERLAP, KeyRing, Scheme, Secret, SigningKey};
use postrider_domain::time::Timestamp;
use postrider_proto::v1;

const NOW: i64 = 1_770_028_200_000;

/// Where the store and the key-encryption keys are.
pub(crate) struct Files {
    folder: PathBuf,
    _removed: Option<tempfile::TempDir>,
}

impl Files {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { folder: folder.path().to_owned(), _removed: Some(folder) }
    }

    /// Those that somebody else made.
    pub(crate) fn at(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), _removed: None }
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The key-encryption key of this number, as a setting.
    pub(crate) fn kek(&self, number: u8) -> String {
        let path = self.folder.join(format!("kek-{number}"));
        std::fs::write(&path, format!("{number:02x}").repeat(32)).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        format!("file:{}", path.display())
    }

    pub(crate) fn kek_id(&self, number: u8) -> KekId {
        KeyBytes::new([number; 32]).kek_id()
    }

    fn store(&self) -> PathBuf {
        self.folder.join("store")
    }

    /// Whether these bytes are anywhere in the closed store.
    pub(crate) fn hold(&self, bytes: &[u8]) -> bool {
        let files = std::fs::read_dir(self.store()).unwrap().map(|entry| entry.unwrap().path());
        let contents = files.filter(|path| path.is_file()).map(|path| std::fs::read(path).unwrap());
        contents.into_iter().any(|content| content.windows(bytes.len()).any(|window| window == bytes))
    }
}

/// What the control plane has of it.
pub(crate) struct World {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) authorities: Arc<Authorities>,
    pub(crate) sealer: Sealer,
    pub(crate) keks: Keks,
    pub(crate) rewrapper: Rewrapper,
}

impl World {
    pub(crate) async fn open(files: &Files, keks: &[u8]) -> Self {
        Self::try_open(files, keks).await.unwrap()
    }

    /// With the key-encryption keys of these numbers, the first current.
    pub(crate) async fn try_open(files: &Files, keks: &[u8]) -> Result<Self, SecretsError> {
        let sources: Vec<String> = keks.iter().map(|number| files.kek(*number)).collect();
        Self::open_with(files, &sources).await
    }

    pub(crate) async fn open_with(files: &Files, sources: &[String]) -> Result<Self, SecretsError> {
        let settings = VaultSettings { token: Some("t".to_owned().into()), ..VaultSettings::default() };
        let keks = Keks::read(sources, &settings).unwrap();
        let store = SledStore::open(&Options { path: files.store(), cache_bytes: 16 * 1024 * 1024 })?;
        let store: Arc<dyn Store> = Arc::new(store);
        let sealer = data_keys::open(&*store, &keks, Clock::start().wall()).await?;
        let registry = Arc::new(Registry::load(&*store, &sealer).await?);
        let identities = Arc::new(Identities::load(store.clone()).await?);
        let settings = authority::Settings {
            trust_domain: TrustDomain::default(),
            names: vec!["localhost".to_owned()],
            lifetime: Duration::from_secs(86_400),
            files: Vec::new(),
        };
        let authorities =
            Authorities::load(store.clone(), sealer.clone(), settings, identities, Clock::start());
        let authorities = Arc::new(authorities.await.unwrap());
        let holders =
            Holders { store: store.clone(), registry: registry.clone(), authorities: authorities.clone() };
        let rewrapper = Rewrapper::new(holders, sealer.clone(), keks.clone(), Clock::start());
        Ok(Self { store, registry, authorities, sealer, keks, rewrapper })
    }

    /// Writes so many subscriptions with secrets.
    pub(crate) async fn plant(&self, count: u8) {
        for number in 0..count {
            let open = subscription(number);
            let row = seal_subscription(&self.sealer, &open);
            self.store
                .put_subscription(&row, None, Entry { actor: String::new(), ..entry("") })
                .await
                .unwrap();
            self.registry.put(open);
        }
    }

    /// Whether they are all there, as they were.
    pub(crate) async fn check(&self, count: u8) {
        let registry = Registry::load(&*self.store, &self.sealer).await.unwrap();
        assert_eq!(registry.all().len(), usize::from(count));
        for number in 0..count {
            assert_eq!(*registry.get(id(number)).unwrap(), subscription(number));
        }
    }

    /// Lets a rewrap come to its end, beginning one if none is under way.
    pub(crate) async fn rewrap(&self) {
        self.rewrapper.begin(entry("RewrapSecrets")).await.unwrap();
        let done = async {
            while self.rewrapper.progress().state != State::Done {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! { () = self.rewrapper.run() => {}, () = done => {} }
    }

    /// What the audit log has of keys: action and actor.
    pub(crate) async fn audit(&self) -> Vec<(String, String)> {
        let records = self.store.audit_records_after(0, 1000).await.unwrap();
        let entries = records.into_iter().map(|record| (record.entry.action, record.entry.actor));
        entries.filter(|(_, actor)| !actor.is_empty()).collect()
    }
}

/// What the audit log is told.
pub(crate) fn entry(action: &str) -> Entry {
    Entry {
        time: Clock::start().wall(),
        actor: "tok_1".into(),
        address: String::new(),
        action: action.into(),
        target: String::new(),
        tenant: None,
        request_id: String::new(),
        detail: String::new(),
    }
}

pub(crate) fn id(number: u8) -> SubscriptionId {
    SubscriptionId::new(Timestamp::from_millis(NOW), u128::from(number))
}

/// The subscription of this number, with secrets that no other has.
pub(crate) fn subscription(number: u8) -> KeyedSubscription {
    let now = Timestamp::from_millis(NOW);
    let wire = v1::Subscription {
        id: id(number).to_string(),
        tenant: "acme".into(),
        url: "https://hooks.example.com/".into(),
        event_types: vec!["*".into()],
        headers: [("authorization".to_owned(), format!("Bearer planted-{number:04}"))].into(),
        create_time: Some(postrider_proto::time::write(now)),
        update_time: Some(postrider_proto::time::write(now)),
        ..v1::Subscription::default()
    };
    let key = |version: u8| SigningKey {
        scheme: Scheme::V1,
        pending: false,
        id: KeyId::new(now, u128::from(number) * 100 + u128::from(version)),
        secret: Some(Secret::from_bytes([[number; 16], [version; 16]].concat()).unwrap()),
        created: now,
        retire: None,
    };
    let mut keys = KeyRing::new(key(0));
    if number.is_multiple_of(10) {
        keys.rotate(key(1), DEFAULT_OVERLAP, now).unwrap();
    }
    KeyedSubscription { subscription: postrider_proto::subscription::read(&wire).unwrap(), keys }
}
