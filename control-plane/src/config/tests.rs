//! What is taken, what is refused, and what the example says.

use super::*;

const EXAMPLE: &str = include_str!("../../control-plane.example.toml");

fn settings(toml: &str) -> Settings {
    toml::from_str(toml).unwrap()
}

/// A setting of one key-encryption key.
fn kek(folder: &tempfile::TempDir) -> String {
    let path = folder.path().join("kek");
    std::fs::write(&path, crate::secrets::kek::generate().as_bytes()).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&path, mode).unwrap();
    format!("file:{}", path.display())
}

fn with_kek(folder: &tempfile::TempDir, toml: &str) -> Settings {
    Settings { kek: Some(vec![kek(folder)]), ..settings(toml) }
}

#[test]
fn the_example_shows_the_defaults() {
    // Every setting stands in the example, commented out with its default unless it is required.
    let folder = tempfile::tempdir().unwrap();
    let active = EXAMPLE.replace("\n#= ", "\n");
    let without_files = Settings {
        kek: Some(vec![kek(&folder)]),
        tls_cert: None,
        tls_key: None,
        tls_client_ca: None,
        agent_ca: None,
        agent_address: None,
        agent_names: None,
        insecure_loopback: Some(true),
        ..settings(&active)
    };
    let shown = check(without_files).unwrap();
    let default = check(with_kek(&folder, "data_dir = 'x'\ninsecure_loopback = true")).unwrap();
    assert_eq!(shown.api_listen, default.api_listen);
    assert_eq!(shown.agent_listen, default.agent_listen);
    assert_eq!(shown.authority.lifetime, default.authority.lifetime);
    assert_eq!(shown.authority.trust_domain, default.authority.trust_domain);
    assert_eq!(shown.max_api_connections, default.max_api_connections);
    assert_eq!(shown.max_agent_connections, default.max_agent_connections);
    assert_eq!(shown.cache_bytes, default.cache_bytes);
    assert_eq!(shown.max_event_bytes, default.max_event_bytes);
    assert_eq!(shown.retain_events, default.retain_events);
    assert_eq!(shown.retain_delivered_data, default.retain_delivered_data);
    assert_eq!((shown.retain_audit, default.retain_audit), (None, None));
    assert_eq!(shown.resume_window, default.resume_window);
    assert_eq!(shown.shutdown_grace, default.shutdown_grace);
    assert_eq!(shown.log_format, default.log_format);
    assert_eq!(shown.log, default.log);
    assert_eq!(default.tenant_emit_rate, None);
    for line in [
        "data_dir",
        "kek",
        "vault_token_file",
        "vault_namespace",
        "vault_ca",
        "tls_cert",
        "tls_key",
        "tls_client_ca",
        "admin_listen",
        "agent_address",
        "agent_names",
        "agent_ca",
        "webhook_origin",
        "insecure_loopback",
        "tenant_emit_rate",
        "tenant_emit_burst",
    ] {
        assert!(EXAMPLE.contains(&format!("{line} = ")), "{line}");
    }
}

#[test]
fn all_mistakes_are_told_at_once() {
    let wrong = "api_listen = '0.0.0.0:1'\nagent_listen = 'x'\nadmin_listen = ':7072'\ncache_mib = 1\nmax_event_kib = 4096\n\
        retain_events = '1h'\nresume_window = 'soon'\nlog_format = 'xml'\ntls_client_ca = '/nowhere'\nlog = 'a=b=c'\n\
        agent_address = 'x'\nagent_names = ['a b']\ntrust_domain = 'A'\nagent_certificate_lifetime = '1s'\n\
        max_api_connections = 0\nwebhook_origin = 'https://x'\n\
        retain_audit = '1day'\ntenant_emit_rate = 0\ntenant_emit_burst = 2000000";
    let ConfigError(mistakes) = check(settings(wrong)).err().unwrap();
    let words = [
        "data_dir",
        "kek is not set",
        "tls_cert and tls_key are not both set",
        "agent_listen",
        "admin_listen is «:7072»",
        "agent_address",
        "agent_names",
        "trust_domain",
        "agent_certificate_lifetime",
        "webhook_origin",
        "max_api_connections",
        "retain_events",
        "cache_mib",
        "max_event_kib",
        "resume_window",
        "log_format",
        "log: ",
        "retain_audit is 1day",
        "tenant_emit_rate is 0",
        "tenant_emit_burst is 2000000",
    ];
    assert_eq!(mistakes.len(), words.len(), "{mistakes:#?}");
    for word in words {
        assert!(mistakes.iter().any(|mistake| mistake.contains(word)), "{word}");
    }
    let open = "data_dir = 'x'\napi_listen = '0.0.0.0:1'\ninsecure_loopback = true\ntls_cert = 'c'";
    let folder = tempfile::tempdir().unwrap();
    let ConfigError(mistakes) = check(with_kek(&folder, open)).err().unwrap();
    assert!(mistakes.len() == 2 && mistakes[0].contains("exclude each other"), "{mistakes:?}");
    assert!(mistakes[1].contains("which others can reach"), "{mistakes:?}");
    let files = "data_dir = 'x'\ntls_cert = '/nowhere'\ntls_key = '/nowhere'";
    let ConfigError(mistakes) = check(with_kek(&folder, files)).err().unwrap();
    assert!(mistakes.len() == 1 && mistakes[0].contains("/nowhere cannot be read"), "{mistakes:?}");
}

#[test]
fn a_tenants_burst_is_what_its_rate_allows_in_a_second_unless_it_is_set() {
    let folder = tempfile::tempdir().unwrap();
    let rate =
        |lines: &str| check(with_kek(&folder, &format!("data_dir = 'x'\ninsecure_loopback = true\n{lines}")));
    let set = |per_second: u32, burst: u32| {
        Some(EmitRate { per_second: per_second.try_into().unwrap(), burst: burst.try_into().unwrap() })
    };
    assert_eq!(rate("").unwrap().tenant_emit_rate, None);
    assert_eq!(rate("tenant_emit_rate = 50").unwrap().tenant_emit_rate, set(50, 50));
    let both = rate("tenant_emit_rate = 50\ntenant_emit_burst = 5").unwrap();
    assert_eq!(both.tenant_emit_rate, set(50, 5));
    assert!(rate("tenant_emit_burst = 5").err().unwrap().to_string().contains("needs tenant_emit_rate"));
}

#[test]
fn flags_are_stronger_than_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    std::fs::write(&file, "data_dir = 'from-file'\ncache_mib = 16\ninsecure_loopback = true").unwrap();
    let flags = Settings { cache_mib: Some(24), kek: Some(vec![kek(&folder)]), ..Settings::default() };
    let config = load(Some(&file), flags, std::iter::empty()).unwrap();
    assert_eq!(config.cache_bytes, 24 * 1024 * 1024);
    assert_eq!(config.data_dir, Path::new("from-file"));
    assert!(config.keks.current().source().ends_with("/kek"));
    std::fs::write(&file, "data_dri = 'x'").unwrap();
    assert!(
        load(Some(&file), Settings::default(), std::iter::empty())
            .err()
            .unwrap()
            .to_string()
            .contains("data_dri")
    );
    assert!(load(Some(Path::new("/nowhere")), Settings::default(), std::iter::empty()).is_err());
}
