//! What is taken from the files, what is refused, and what changes when they do.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;

use postrider_domain::egress::EndpointUrl;
use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;

use super::*;

/// A folder with files of an owner.
struct Files {
    folder: TempDir,
}

impl Files {
    fn new() -> Files {
        Files { folder: tempfile::tempdir().unwrap() }
    }

    fn write(&self, name: &str, content: &str) -> Option<PathBuf> {
        let path = self.folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        Some(path)
    }

    /// A certificate and its key.
    fn certificate(&self, name: &str) -> (Option<PathBuf>, Option<PathBuf>) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.into()]).unwrap().self_signed(&key).unwrap();
        let key = self.write(&format!("{name}.key"), &key.serialize_pem());
        (self.write(&format!("{name}.pem"), &certificate.pem()), key)
    }
}

fn hosts(texts: &[&str]) -> Vec<Destination> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn of(credentials: &Credentials, url: &str) -> Option<Arc<HostCredentials>> {
    credentials.of(EndpointUrl::parse(url).unwrap().host())
}

fn load(settings: Vec<Settings>) -> Credentials {
    Credentials::load(settings, RootCertStore::empty()).unwrap_or_else(|mistake| panic!("{mistake}"))
}

#[test]
fn the_first_entry_that_covers_a_host_counts() {
    let files = Files::new();
    let with_header = |name: &str, hosts: Vec<Destination>| Settings {
        hosts,
        headers_file: files.write(name, &format!("x-from: {name}")),
        ..Settings::default()
    };
    let credentials = load(vec![
        with_header("first", hosts(&["api.corp", "10.1.0.0/16"])),
        with_header("second", hosts(&["*.corp"])),
    ]);
    let from = |url| of(&credentials, url).map(|found| found.headers["x-from"].to_str().unwrap().to_owned());
    for (url, expected) in [
        ("https://API.corp./", Some("first")),
        ("https://a.corp/", Some("second")),
        ("https://10.1.2.3/", Some("first")),
        ("https://[::ffff:10.1.2.3]/", Some("first")),
        ("https://corp/", None),
        ("https://10.2.0.1/", None),
        ("https://api.corp.example.com/", None),
    ] {
        assert_eq!(from(url).as_deref(), expected, "{url}");
    }
    assert!(load(Vec::new()).is_empty());
}

#[test]
fn every_entry_has_an_identity_of_its_own() {
    let files = Files::new();
    let (cert, key) = files.certificate("a");
    let entry = |host: &str| Settings {
        hosts: hosts(&[host]),
        client_cert: cert.clone(),
        client_key: key.clone(),
        ..Settings::default()
    };
    let credentials = load(vec![entry("a.corp"), entry("b.corp")]);
    let [a, b] = ["https://a.corp/", "https://b.corp/"].map(|url| of(&credentials, url).unwrap());
    assert!(a.id != 0 && b.id != 0 && a.id != b.id);
    assert!(a.tls.is_some() && a.headers.is_empty() && !a.hide_responses);
}

#[test]
fn what_changes_on_disk_is_taken_and_what_breaks_is_not() {
    let files = Files::new();
    let (cert, key) = files.certificate("a");
    let headers_file = files.write("headers", "x-token: 1");
    let credentials = load(vec![
        Settings { hosts: hosts(&["a.corp"]), headers_file, ..Settings::default() },
        Settings { hosts: hosts(&["b.corp"]), client_cert: cert, client_key: key, ..Settings::default() },
    ]);
    let now = || ["https://a.corp/", "https://b.corp/"].map(|url| of(&credentials, url).unwrap());
    let [first, mutual] = now();
    credentials.refresh();
    assert_eq!(now().map(|found| found.id), [first.id, mutual.id], "nothing has changed");

    files.write("headers", "x-token: 2");
    credentials.refresh();
    let [second, other] = now();
    assert_eq!(second.headers["x-token"], "2");
    assert!(second.id != first.id && other.id == mutual.id, "only the entry that has changed is another");

    files.write("headers", "no header");
    files.certificate("a");
    credentials.refresh();
    let [kept, renewed] = now();
    assert!(kept.id == second.id && renewed.id != mutual.id);
    let told = || credentials.told.lock().unwrap().len();
    assert_eq!(told(), 1);
    files.write("headers", "x-token: 2");
    credentials.refresh();
    assert_eq!(told(), 0, "what is mended is forgotten, so that it is told again when it breaks again");

    // Half of a change: the certificate of the next key, which is not there yet.
    let next = CertificateParams::new(vec!["a".into()]).unwrap().self_signed(&KeyPair::generate().unwrap());
    files.write("a.pem", &next.unwrap().pem());
    credentials.refresh();
    assert_eq!(now()[1].id, renewed.id);
}

#[test]
fn what_is_wrong_with_a_file_is_said_and_its_content_is_not() {
    let files = Files::new();
    let (cert, key) = files.certificate("a");
    let (other, _) = files.certificate("b");
    let broken = files.write("broken", "-----BEGIN PRIVATE KEY-----\ns3cret\n-----BEGIN");
    let text = files.write("text", "s3cret");
    let open = files.write("open", "authorization: s3cret");
    std::fs::set_permissions(open.as_deref().unwrap(), Permissions::from_mode(0o644)).unwrap();
    let none = Some(files.folder.path().join("none"));
    let told = |settings: Settings| {
        let mistakes = settings.mistakes();
        let told: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
        assert!(!told.concat().contains("s3cret"), "{told:?}");
        told.join("\n")
    };
    let with = |ca: &Option<PathBuf>, client_cert: &Option<PathBuf>, client_key: &Option<PathBuf>| Settings {
        ca: ca.clone(),
        client_cert: client_cert.clone(),
        client_key: client_key.clone(),
        ..Settings::default()
    };
    assert_eq!(told(with(&cert, &cert, &key)), "");
    for (settings, expected) in [
        (with(&text, &None, &None), "`ca` names"),
        (with(&key, &None, &None), "has no certificate in it"),
        (with(&None, &text, &key), "`client_cert` names"),
        (with(&None, &cert, &broken), "has no private key in it"),
        (with(&None, &cert, &text), "`client_key` names"),
        (with(&None, &other, &key), "is not the key of the certificate"),
        (with(&none, &None, &none), "`ca` names"),
        (with(&none, &None, &none), "`client_key` names"),
        (Settings { headers_file: text, ..Settings::default() }, "`headers_file` names"),
        (Settings { headers_file: open, ..Settings::default() }, "mode 0644"),
    ] {
        let told = told(settings);
        assert!(told.contains(expected), "{expected} is not in {told}");
    }
}
