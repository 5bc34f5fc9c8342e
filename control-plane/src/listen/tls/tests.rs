//! What is taken over when the API's files change, and what is not.

use std::os::unix::fs::PermissionsExt as _;

use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;

use super::*;

/// A folder with the files of the API.
struct Files {
    folder: TempDir,
    api: ApiFiles,
}

impl Files {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let api = ApiFiles { cert: path("crt"), key: path("key"), client_ca: Some(path("ca")) };
        Self { folder, api }
    }

    fn write(&self, names: &[&str], from: i32, until: i32) {
        let (cert, key) = made(names, from, until);
        std::fs::write(&self.api.cert, cert).unwrap();
        std::fs::write(&self.api.key, key).unwrap();
        self.set_mode(0o600);
    }

    /// Who may read the key.
    fn set_mode(&self, mode: u32) {
        std::fs::set_permissions(&self.api.key, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    fn write_ca(&self, from: i32, until: i32) {
        std::fs::write(self.folder.path().join("ca"), made(&["ca"], from, until).0).unwrap();
    }

    /// What is in use, as after a start.
    fn start(&self) -> (Contents, ApiCertificate) {
        let (contents, certificate) = (self.api.read().unwrap(), ApiCertificate::default());
        certificate.serve(self.api.facts(&contents).unwrap());
        (contents, certificate)
    }
}

fn made(names: &[&str], from: i32, until: i32) -> (String, String) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let (mut params, key) = (CertificateParams::new(names).unwrap(), KeyPair::generate().unwrap());
    (params.not_before, params.not_after) =
        (rcgen::date_time_ymd(from, 1, 1), rcgen::date_time_ymd(until, 1, 1));
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

fn in_june(year: i32) -> Timestamp {
    Timestamp::parse(&format!("{year}-06-01T00:00:00Z")).unwrap()
}

const NAMES: &[&str] = &["api.example.com", "10.0.0.1"];

#[test]
fn a_certificate_that_works_stays_until_one_comes_that_works() {
    let files = Files::new();
    files.write(NAMES, 2020, 2040);
    files.write_ca(2020, 2040);
    let (known, certificate) = files.start();
    let judge = |now| match files.api.changed(&known, &certificate, now) {
        Ok(None) => "same".to_owned(),
        Ok(Some(_)) => "taken".to_owned(),
        Err(error) => error.to_string(),
    };
    assert_eq!(judge(in_june(2030)), "same");
    let table: [(&[&str], i32, i32, &str); 5] = [
        (NAMES, 2025, 2045, "taken"),
        (NAMES, 2020, 2030, "expired on 2030-01-01"),
        (NAMES, 2031, 2045, "is not valid before 2031-01-01"),
        (&["other.example.com"], 2025, 2045, "is not for api.example.com, 10.0.0.1"),
        (&["*.example.com", "10.0.0.1"], 2025, 2045, "taken"),
    ];
    for (names, from, until, expected) in table {
        files.write(names, from, until);
        let judged = judge(in_june(2030));
        assert!(judged.contains(expected), "{names:?} {from} to {until}: {judged}");
        let mends = "replace it, or restart the control plane to use it all the same";
        assert!(expected == "taken" || judged.contains(mends), "{judged}");
    }
    files.write(NAMES, 2031, 2045);
    assert_eq!(judge(in_june(2031)), "taken", "its time has come");
    files.write(&["other.example.com"], 2040, 2050);
    assert_eq!(judge(in_june(2041)), "taken", "the former one does not work either");

    std::fs::write(&files.api.key, made(NAMES, 2020, 2040).1).unwrap();
    assert!(judge(in_june(2030)).contains("tls_cert with tls_key cannot be used"));
}

#[test]
fn clients_authorities_that_have_expired_are_not_taken_over() {
    let files = Files::new();
    files.write(NAMES, 2020, 2040);
    files.write_ca(2020, 2040);
    let (known, certificate) = files.start();
    files.write_ca(2020, 2025);
    let refused = files.api.changed(&known, &certificate, in_june(2030)).err().unwrap().to_string();
    assert!(
        refused.contains("tls_client_ca cannot be used: no authority") && refused.contains("expired on 2025"),
        "{refused}"
    );
    files.write_ca(2021, 2041);
    assert!(files.api.changed(&known, &certificate, in_june(2030)).unwrap().is_some());
    // A renewed certificate is taken although the authorities, which are the same, have expired.
    let (known, certificate) = files.start();
    files.write(NAMES, 2040, 2050);
    assert!(files.api.changed(&known, &certificate, in_june(2045)).unwrap().is_some());
}

#[test]
fn a_check_tells_what_has_expired_and_what_will() {
    let files = Files::new();
    files.write(NAMES, 2020, 2040);
    files.write_ca(2020, 2040);
    let check = |now: &str| files.api.check(Timestamp::parse(now).unwrap()).unwrap();
    assert_eq!(check("2030-01-01T00:00:00Z"), (Vec::new(), None));
    let (faults, soon) = check("2039-12-25T00:00:00Z");
    assert!(faults.is_empty() && soon.unwrap().contains("expires on 2040-01-01"));
    let (faults, soon) = check("2040-06-01T00:00:00Z");
    assert!(faults.len() == 2 && soon.is_none(), "{faults:?}");
    assert!(faults[0].contains("tls_cert: ") && faults[0].contains("expired on 2040-01-01"), "{faults:?}");
    assert!(faults[1].contains("tls_client_ca: "), "{faults:?}");
}

#[test]
fn a_private_key_that_others_can_read_is_refused() {
    let files = Files::new();
    files.write(NAMES, 2020, 2040);
    files.write_ca(2020, 2040);
    for (mode, good) in [(0o600, true), (0o400, true), (0o644, false), (0o604, false), (0o660, false)] {
        files.set_mode(mode);
        let read = files.api.load().map(drop).map_err(|error| error.to_string());
        assert_eq!(read.is_ok(), good, "{mode:o}: {read:?}");
        assert!(read.err().is_none_or(|why| why.starts_with("tls_key: ") && why.contains("chmod 600")));
    }
}
