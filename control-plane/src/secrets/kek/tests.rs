//! Which settings are taken.

use super::*;

fn problems(sources: &[&str], vault: &VaultSettings) -> String {
    let sources: Vec<String> = sources.iter().map(ToString::to_string).collect();
    Keks::read(&sources, vault).err().unwrap().join("\n")
}

fn with_token() -> VaultSettings {
    VaultSettings { token: Some("hvs.secret".to_owned().into()), ..VaultSettings::default() }
}

/// A file with a new key, as a setting.
fn file(folder: &tempfile::TempDir, name: &str) -> String {
    use std::os::unix::fs::PermissionsExt as _;
    let path = folder.path().join(name);
    std::fs::write(&path, generate().as_bytes()).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    format!("file:{}", path.display())
}

#[test]
fn the_first_is_current_and_all_are_found_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let vault = "vault:http://127.0.0.1:8200/a/transit/keys/postrider".to_owned();
    let sources = [file(&folder, "2"), file(&folder, "1"), vault];
    let keks = Keks::read(&sources, &with_token()).unwrap();
    assert_eq!(keks.current().source(), sources[0]);
    let ids: Vec<KekId> = keks.iter().map(|kek| kek.id().clone()).collect();
    assert_eq!(ids[2].as_str(), "vault:a/transit/postrider");
    for (id, source) in ids.iter().zip(&sources) {
        assert_eq!(keks.get(id).unwrap().source(), source);
        assert!(keks.to_string().contains(&format!("{id} ({source})")));
    }
    assert!(keks.get(&"kek_0".parse().unwrap()).is_none());
    // A key has its name from what it is, wherever it lies.
    std::fs::copy(folder.path().join("1"), folder.path().join("moved")).unwrap();
    let moved = format!("file:{}", folder.path().join("moved").display());
    let moved_again = Keks::read(std::slice::from_ref(&moved), &with_token()).unwrap();
    assert_eq!(moved_again.current().id(), &ids[1]);
    let twice = problems(&[&sources[1], &moved], &with_token());
    assert!(twice.contains("names already"), "{twice}");
}

#[test]
fn all_problems_are_reported_at_once_and_none_quotes_a_key() {
    let key = generate();
    let vault = with_token();
    let sources =
        ["file:/nowhere", "env:POSTRIDER_NO_SUCH_KEY", key.as_str(), "vault:ftp://h:1/transit/keys/a"];
    let told = problems(&sources, &vault);
    for words in ["/nowhere", "POSTRIDER_NO_SUCH_KEY", "must be file:PATH", "neither https nor http"] {
        assert!(told.contains(words), "{words}: {told}");
    }
    assert!(!told.contains(key.as_str()));
    assert!(problems(&[], &vault).contains("postrider secrets generate-kek"));
}

#[test]
fn a_transit_key_is_an_https_url_unless_it_is_on_loopback() {
    let refused = [
        ("http://vault.example.com:8200/transit/keys/a", "without TLS"),
        ("http://10.0.0.1:8200/transit/keys/a", "without TLS"),
        ("https://user:pass@h/transit/keys/a", "user name"),
        ("https://h/transit/a", "names no key"),
        ("https://h/keys/a", "no"),
        ("https://h/transit/keys/", "path"),
        ("https://h/transit/keys/a%2fb", "path"),
        ("https://h/transit/keys/a?x=1", "path"),
        ("not a url", "no URL"),
    ];
    for (url, words) in refused {
        let told = problems(&[&format!("vault:{url}")], &with_token());
        assert!(told.contains(words), "{url}: {told}");
    }
    for url in ["http://localhost:8200/transit/keys/a", "http://[::1]:8200/transit/keys/a"] {
        assert!(Keks::read(&[format!("vault:{url}")], &with_token()).is_ok(), "{url}");
    }
    let without = problems(&["vault:http://[::1]:8200/transit/keys/a"], &VaultSettings::default());
    assert!(without.contains("vault_token_file") && without.contains("VAULT_TOKEN"), "{without}");
}
