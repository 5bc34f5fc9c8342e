//! What is taken from the files, what is refused, and what changes when they do.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;

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

fn hosts(texts: &[&str]) -> Vec<Service> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn of(credentials: &Credentials, url: &str) -> Option<Arc<HostCredentials>> {
    credentials.of(&EndpointUrl::parse(url).unwrap())
}

fn load(settings: Vec<Settings>) -> Credentials {
    Credentials::load(settings, RootCertStore::empty()).unwrap_or_else(|problem| panic!("{problem}"))
}

#[test]
fn the_first_entry_that_covers_a_host_counts() {
    let files = Files::new();
    let with_header = |name: &str, hosts: Vec<Service>| Settings {
        hosts,
        headers_file: files.write(name, &format!("x-from: {name}")),
        ..Settings::default()
    };
    let credentials = load(vec![
        with_header("first", hosts(&["api.corp", "10.1.0.0/16"])),
        with_header("second", hosts(&["*.corp"])),
        with_header("third", hosts(&["vault.example.com:8200", "[fd00::/8]:8443"])),
    ]);
    let from = |url| of(&credentials, url).map(|found| found.headers["x-from"].to_str().unwrap().to_owned());
    for (url, expected) in [
        ("https://API.corp./", Some("first")),
        ("https://a.corp/", Some("second")),
        ("https://10.1.2.3/", Some("first")),
        ("https://[::ffff:10.1.2.3]/", Some("first")),
        ("https://corp/", None),
        ("https://api.corp:8443/", Some("first")),
        ("https://vault.example.com:8200/", Some("third")),
        ("https://vault.example.com/", None),
        ("https://vault.example.com:8443/", None),
        ("https://[fd12::1]:8443/", Some("third")),
        ("https://[fd12::1]/", None),
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

fn from_until(from: i32, until: i32) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["a".into()]).unwrap();
    (params.not_before, params.not_after) =
        (rcgen::date_time_ymd(from, 1, 1), rcgen::date_time_ymd(until, 1, 1));
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

#[test]
fn certificates_that_cannot_be_used_do_not_take_the_place_of_those_that_can() {
    let files = Files::new();
    let write = |from, until| {
        let (cert, key) = from_until(from, until);
        (files.write("client.pem", &cert), files.write("client.key", &key))
    };
    let bundle = |spans: &[(i32, i32)]| {
        let pems: String = spans.iter().map(|(from, until)| from_until(*from, *until).0).collect();
        files.write("ca.pem", &pems)
    };
    let (client_cert, client_key) = write(2020, 2040);
    let ca = bundle(&[(2020, 2040)]);
    let headers_file = files.write("headers", "x-token: 1");
    let entry = Settings {
        hosts: hosts(&["a.corp"]),
        ca,
        client_cert,
        client_key,
        headers_file,
        ..Settings::default()
    };
    let credentials = load(vec![entry.clone()]);
    let now = Timestamp::parse("2030-06-01T00:00:00Z").unwrap();
    let id = || of(&credentials, "https://a.corp/").unwrap().id;
    let after = |now| {
        let before = id();
        credentials.refresh_at(now);
        (id() != before, credentials.warnings().concat())
    };
    assert_eq!(after(now), (false, String::new()));
    for ((from, until), expected) in
        [((2020, 2030), "expired on 2030-01-01"), ((2031, 2040), "is not valid before 2031")]
    {
        write(from, until);
        let (taken, told) = after(now);
        assert!(!taken && told.contains("client_cert") && told.contains(expected), "{told}");
        assert!(entry.expiry(now).unwrap_err().why.contains(expected));
    }
    // Its time comes.
    assert!(after(Timestamp::parse("2031-06-01T00:00:00Z").unwrap()).0);
    write(2020, 2040);
    assert!(after(now).0);
    bundle(&[(2020, 2030), (2031, 2040)]);
    let (taken, told) = after(now);
    assert!(!taken && told.contains("`ca`"), "{told}");
    bundle(&[(2020, 2030), (2020, 2035), (2031, 2040)]);
    assert_eq!(after(now), (true, String::new()), "one of the bundle is good");
    // Other files of an entry change although its certificate has expired meanwhile.
    let late = Timestamp::parse("2041-01-01T00:00:00Z").unwrap();
    files.write("headers", "x-token: 2");
    assert!(after(late).0);
    assert!(entry.expiry(late).is_err() && entry.expiry(now).is_ok());
    bundle(&[(2020, 2040)]);
    let soon = Timestamp::parse("2039-12-25T00:00:00Z").unwrap();
    assert!(entry.expiry(soon).unwrap().unwrap().why.contains("expires on 2040-01-01"));
}

#[test]
fn the_log_is_told_of_what_expires_once_a_day() {
    let problem = |why: &str| Problem { setting: "ca", why: why.to_owned() };
    let (soon, over) = (problem("expires"), problem("expired"));
    let hour = |hours: i64| Timestamp::from_millis(hours * 3_600_000);
    let mut reminder = Reminder::default();
    for (complaint, at, expected) in [
        (None, 0, false),
        (Some(&soon), 1, true),
        (Some(&soon), 24, false),
        (Some(&soon), 25, true),
        (Some(&over), 26, true),
        (None, 27, false),
        (Some(&over), 28, true),
    ] {
        assert_eq!(reminder.is_due(complaint, hour(at)), expected, "{at}");
    }
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
        let problems = settings.problems();
        let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
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
