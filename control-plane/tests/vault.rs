//! Data keys that Vault wraps: its protocol to the letter, and what is said when it does not answer as it should.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is how a failure is reported")]

#[path = "vault/fake.rs"]
mod fake;

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use postrider_control_plane::secrets::{Keks, Sealer, SecretsError, VaultSettings, data_keys};
use postrider_control_plane::store::{Options, SledStore, Store};
use postrider_domain::sealed::Context;
use postrider_domain::time::Timestamp;

use crate::fake::{FakeVault, Mood, TOKEN};

fn store(folder: &tempfile::TempDir) -> Arc<dyn Store> {
    let options = Options { path: folder.path().to_owned(), cache_bytes: 16 * 1024 * 1024 };
    Arc::new(SledStore::open(&options).unwrap())
}

fn settings(vault: &FakeVault) -> VaultSettings {
    VaultSettings {
        token: Some(TOKEN.to_owned().into()),
        ca_file: vault.ca_file.clone(),
        ..VaultSettings::default()
    }
}

fn keks(vault: &FakeVault, settings: &VaultSettings) -> Keks {
    Keks::read(&[vault.kek("postrider")], settings).unwrap()
}

async fn open(store: &Arc<dyn Store>, keks: &Keks) -> Result<Sealer, SecretsError> {
    data_keys::open(&**store, keks, Timestamp::from_millis(1_770_028_200_000)).await
}

async fn problem(store: &Arc<dyn Store>, keks: &Keks) -> String {
    let problem = open(store, keks).await.err().expect("it does not open").to_string();
    assert!(!problem.contains(TOKEN), "{problem}");
    problem
}

#[tokio::test]
async fn a_data_key_is_wrapped_once_and_unwrapped_at_each_start_over_tls() {
    let (vault, folder) = (FakeVault::start_tls().await, tempfile::tempdir().unwrap());
    let keks = keks(&vault, &settings(&vault));
    let made = store(&folder);
    let sealed = open(&made, &keks).await.unwrap().seal(&Context::DigestKey, b"secret");
    let row = made.data_keys().await.unwrap().remove(0);
    assert_eq!(row.kek.as_str(), "vault:transit/postrider");
    assert!(row.wrapped.starts_with(b"vault:v1:"));
    drop(made);
    let sealer = open(&store(&folder), &keks).await.unwrap();
    assert_eq!(sealer.open(&Context::DigestKey, &sealed).unwrap().as_slice(), b"secret");
    let (encrypt, decrypt) = ("/v1/transit/encrypt/postrider", "/v1/transit/decrypt/postrider");
    assert_eq!(vault.calls(), [encrypt, decrypt, decrypt], "a new one is tried at once");
}

#[tokio::test]
async fn a_token_is_read_from_its_file_at_each_use_and_a_namespace_goes_along() {
    let (vault, folder) = (FakeVault::start().await, tempfile::tempdir().unwrap());
    vault.state.lock().unwrap().namespace = Some("team/a".to_owned());
    let file = vault.file("token");
    let settings = VaultSettings {
        token_file: Some(file.clone()),
        namespace: Some("team/a".to_owned()),
        ..VaultSettings::default()
    };
    let (keks, store) = (keks(&vault, &settings), store(&folder));
    assert_eq!(keks.current().id().as_str(), "vault:team/a/transit/postrider");
    assert!(problem(&store, &keks).await.contains("vault_token_file"));
    std::fs::write(&file, format!("{TOKEN}\n")).unwrap();
    for mode in [0o644, 0o604, 0o660] {
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        let problem = problem(&store, &keks).await;
        assert!(problem.contains("chmod 600"), "{mode:o}: {problem}");
        assert!(!problem.contains(TOKEN), "{problem}");
    }
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&file, "\n").unwrap();
    assert!(problem(&store, &keks).await.contains("token is empty"));
    std::fs::write(&file, format!("{TOKEN}\n")).unwrap();
    open(&store, &keks).await.unwrap();
    vault.state.lock().unwrap().token = "hvs.renewed".to_owned();
    assert!(problem(&store, &keks).await.contains("403"));
    std::fs::write(&file, "hvs.renewed").unwrap();
    open(&store, &keks).await.unwrap();
}

#[tokio::test]
async fn a_wrapped_key_that_was_moved_or_altered_is_refused() {
    let (vault, folder) = (FakeVault::start().await, tempfile::tempdir().unwrap());
    let (keks, store) = (keks(&vault, &settings(&vault)), store(&folder));
    open(&store, &keks).await.unwrap();
    let row = store.data_keys().await.unwrap().remove(0);
    let kek = keks.current();
    assert!(kek.unwrap(row.id, &row.wrapped).await.is_ok());
    let other = postrider_domain::id::DataKeyId::new(Timestamp::default(), 1);
    let error = kek.unwrap(other, &row.wrapped).await.unwrap_err().to_string();
    assert!(error.contains("400") && error.contains("unable to decrypt"), "{error}");
    let mut altered = row.wrapped.clone();
    *altered.last_mut().unwrap() ^= 1;
    assert!(kek.unwrap(row.id, &altered).await.is_err());
    assert!(
        kek.unwrap(row.id, &[0xff, 0xfe]).await.unwrap_err().to_string().contains("was not wrapped by Vault")
    );
}

#[tokio::test]
async fn a_vault_that_unwraps_to_another_key_is_found_out() {
    let (vault, folder) = (FakeVault::start().await, tempfile::tempdir().unwrap());
    let (keks, store) = (keks(&vault, &settings(&vault)), store(&folder));
    open(&store, &keks).await.unwrap();
    // 32 bytes, and not those that were wrapped.
    let other = r#"{"data": {"plaintext": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}}"#;
    vault.set_mood(Mood::Answers(200, other.to_owned()));
    let problem = problem(&store, &keks).await;
    assert!(problem.contains("does not open what it has sealed") && problem.contains("kek"), "{problem}");
}

#[tokio::test]
async fn every_failure_says_what_to_do() {
    let (vault, folder) = (FakeVault::start().await, tempfile::tempdir().unwrap());
    let (keks, store) = (keks(&vault, &settings(&vault)), store(&folder));
    open(&store, &keks).await.unwrap();
    let errors = |text: &str| format!(r#"{{"errors": ["{text}"]}}"#);
    let table = [
        (403, errors("permission denied"), "the capability update on transit/decrypt/postrider"),
        (404, errors("no handler for route"), "check the path: transit/decrypt/postrider"),
        (503, errors("Vault is sealed"), "unseal it"),
        (503, String::new(), "unseal it"),
        (429, errors("standby"), "start again when it is"),
        (500, "<html>oops</html>".to_owned(), "start again when it is"),
        (400, errors("encryption key not found"), "encryption key not found"),
        (301, String::new(), "(301)"),
        (200, "<html>a login page</html>".to_owned(), "is not Vault's transit engine"),
        (200, r#"{"data": {"plaintext": "c2hvcnQ="}}"#.to_owned(), "is no data key"),
        (200, r#"{"data": {"plaintext": "%%%"}}"#.to_owned(), "is no data key"),
        (200, r#"{"data": {}}"#.to_owned(), "is not Vault's transit engine"),
        (200, "x".repeat(100_000), "does not answer as Vault does"),
    ];
    for (status, answer, words) in table {
        vault.set_mood(Mood::Answers(status, answer));
        let problem = problem(&store, &keks).await;
        assert!(problem.contains(words), "{status}: {problem}");
        assert!(problem.len() < 1000 && problem.contains(&vault.kek("postrider")), "{problem}");
    }
    for garbage in
        [&b"SSH-2.0-OpenSSH\r\n"[..], b"HTTP/1.1 200 OK\r\ncontent-length: 90\r\n\r\n{\"data\"", b""]
    {
        vault.set_mood(Mood::Says(garbage));
        let problem = problem(&store, &keks).await;
        assert!(problem.contains("does not answer as Vault does"), "{problem}");
    }
}

#[tokio::test]
async fn a_silent_vault_is_not_waited_for() {
    let (vault, folder) = (FakeVault::start().await, tempfile::tempdir().unwrap());
    let settings = VaultSettings { deadline: Duration::from_millis(200), ..settings(&vault) };
    let keks = keks(&vault, &settings);
    vault.set_mood(Mood::Silent);
    assert!(problem(&store(&folder), &keks).await.contains("did not answer within 200ms"));
}

#[tokio::test]
async fn what_is_not_a_ciphertext_is_not_stored_and_a_secret_that_is_sent_back_is_not_shown() {
    let (vault, folder) = (FakeVault::start().await, tempfile::tempdir().unwrap());
    let (keks, store) = (keks(&vault, &settings(&vault)), store(&folder));
    for answer in [r#"{"data": {"ciphertext": "plain"}}"#, r#"{"data": {"ciphertext": ""}}"#] {
        vault.set_mood(Mood::Answers(200, answer.to_owned()));
        assert!(problem(&store, &keks).await.contains("not Vault's transit engine"));
    }
    assert_eq!(store.data_keys().await.unwrap(), []);
}

#[tokio::test]
async fn a_vault_that_nobody_vouches_for_is_not_asked() {
    let (vault, other) = (FakeVault::start_tls().await, FakeVault::start_tls().await);
    let folder = tempfile::tempdir().unwrap();
    let strange = VaultSettings { ca_file: other.ca_file.clone(), ..settings(&vault) };
    let problem = problem(&store(&folder), &keks(&vault, &strange)).await;
    assert!(problem.contains("cannot be reached") && problem.contains("certificate"), "{problem}");
    assert_eq!(vault.calls(), Vec::<String>::new());
    let nothing = VaultSettings { ca_file: Some(vault.file("none")), ..settings(&vault) };
    let problems = Keks::read(&[vault.kek("postrider")], &nothing).err().unwrap();
    assert!(problems[0].contains("vault_ca"), "{problems:?}");
}
