//! What is taken, what is refused, and what the example says.

use std::num::{NonZeroU32, NonZeroU64};

use postrider_domain::quota::Rate;

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
    assert_eq!(shown.watchers, default.watchers);
    assert_eq!(shown.cache_bytes, default.cache_bytes);
    assert_eq!(shown.max_event_bytes, default.max_event_bytes);
    assert_eq!(shown.retain_events, default.retain_events);
    assert_eq!(shown.retain_delivered_data, default.retain_delivered_data);
    assert_eq!((shown.retain_audit, default.retain_audit), (None, None));
    assert_eq!(shown.resume_window, default.resume_window);
    assert_eq!(shown.shutdown_grace, default.shutdown_grace);
    assert_eq!(shown.log_format, default.log_format);
    assert_eq!(shown.log, default.log);
    assert_eq!((shown.tenant_quota, default.tenant_quota), (Quota::STANDARD, Quota::STANDARD));
    assert_eq!(shown.max_token_calls, default.max_token_calls);
    assert_eq!(shown.max_api_connection_age, default.max_api_connection_age);
    assert_eq!(default.max_api_connection_age, Some(Duration::from_secs(300)));
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
        "disk_reserve_mib",
        "tenant_emit_rate",
        "tenant_emit_burst",
    ] {
        assert!(EXAMPLE.contains(&format!("{line} = ")), "{line}");
    }
}

#[test]
fn all_problems_are_reported_at_once() {
    let wrong = "api_listen = '0.0.0.0:1'\nagent_listen = 'x'\nadmin_listen = ':7072'\ncache_mib = 1\nmax_event_kib = 4096\n\
        disk_reserve_mib = 9000000\n\
        retain_events = '1h'\nresume_window = 'soon'\nlog_format = 'xml'\ntls_client_ca = '/nowhere'\nlog = 'a=b=c'\n\
        agent_address = 'x'\nagent_names = ['a b']\ntrust_domain = 'A'\nagent_certificate_lifetime = '1s'\n\
        max_api_connections = 0\nmax_token_watchers = 0\nmax_tenant_watchers = 200000\nwebhook_origin = 'https://x'\n\
        retain_audit = '1day'\naudit_stream = 'syslog'\ntenant_emit_rate = 0\ntenant_emit_burst = 2000000";
    let ConfigError(problems) = check(settings(wrong)).err().unwrap();
    let words = [
        "data_dir",
        "kek is not set",
        "tls_cert and tls_key are not both set",
        "agent_listen",
        "admin_listen is ':7072'",
        "agent_address",
        "agent_names",
        "trust_domain",
        "agent_certificate_lifetime",
        "webhook_origin",
        "max_api_connections",
        "max_token_watchers",
        "max_tenant_watchers is 200000",
        "retain_events",
        "cache_mib",
        "disk_reserve_mib",
        "max_event_kib",
        "resume_window",
        "log_format",
        "log: ",
        "retain_audit is 1day",
        "audit_stream: \"syslog\" is not a receiver",
        "tenant_emit_rate is 0",
        "tenant_emit_burst is 2000000",
    ];
    assert_eq!(problems.len(), words.len(), "{problems:#?}");
    for word in words {
        assert!(problems.iter().any(|problem| problem.contains(word)), "{word}");
    }
    let open = "data_dir = 'x'\napi_listen = '0.0.0.0:1'\ninsecure_loopback = true\ntls_cert = 'c'";
    let folder = tempfile::tempdir().unwrap();
    let ConfigError(problems) = check(with_kek(&folder, open)).err().unwrap();
    assert!(problems.len() == 2 && problems[0].contains("exclude each other"), "{problems:?}");
    assert!(problems[1].contains("which others can reach"), "{problems:?}");
    let files = "data_dir = 'x'\ntls_cert = '/nowhere'\ntls_key = '/nowhere'";
    let ConfigError(problems) = check(with_kek(&folder, files)).err().unwrap();
    assert!(problems.len() == 1 && problems[0].contains("/nowhere cannot be read"), "{problems:?}");
}

#[test]
fn a_tenants_burst_is_what_its_rate_allows_in_a_second_unless_it_is_set() {
    let folder = tempfile::tempdir().unwrap();
    let rate =
        |lines: &str| check(with_kek(&folder, &format!("data_dir = 'x'\ninsecure_loopback = true\n{lines}")));
    assert_eq!(rate("").unwrap().tenant_quota.emit, None);
    assert_eq!(rate("tenant_emit_rate = 50").unwrap().tenant_quota.emit, Rate::new(50, 50));
    let both = rate("tenant_emit_rate = 50\ntenant_emit_burst = 5").unwrap();
    assert_eq!(both.tenant_quota.emit, Rate::new(50, 5));
    assert!(rate("tenant_emit_burst = 5").err().unwrap().to_string().contains("needs tenant_emit_rate"));
}

#[test]
fn quotas_are_on_unless_a_setting_says_0() {
    let folder = tempfile::tempdir().unwrap();
    let quota = |lines: &str| {
        let lines = format!("data_dir = 'x'\ninsecure_loopback = true\n{lines}");
        check(with_kek(&folder, &lines)).map(|config| config.tenant_quota)
    };
    let off = [
        "tenant_max_subscriptions",
        "tenant_delivery_rate",
        "tenant_max_stored_mib",
        "tenant_max_event_types",
    ];
    let off = off.map(|setting| format!("{setting} = 0\n")).concat();
    assert_eq!(quota(&off).unwrap(), Quota::default());
    assert_eq!(quota("tenant_delivery_rate = 7").unwrap().deliveries, Rate::new(7, 14));
    assert_eq!(quota("tenant_delivery_burst = 5").unwrap().deliveries, Rate::new(1000, 5));
    let set = "tenant_max_subscriptions = 3\ntenant_max_stored_mib = 1\ntenant_max_event_types = 4";
    let set = quota(set).unwrap();
    assert_eq!(set.max_subscriptions.map(NonZeroU32::get), Some(3));
    assert_eq!(set.max_stored.map(NonZeroU64::get), Some(1024 * 1024));
    assert_eq!(set.max_event_types.map(NonZeroU32::get), Some(4));
    for (wrong, told) in [
        ("tenant_delivery_rate = 0\ntenant_delivery_burst = 5", "which is no limit"),
        ("tenant_delivery_rate = 1000001", "tenant_delivery_rate is 1000001"),
        ("tenant_delivery_burst = 0", "tenant_delivery_burst is 0"),
        ("tenant_max_subscriptions = 1000001", "tenant_max_subscriptions is 1000001"),
        ("tenant_max_event_types = 100001", "tenant_max_event_types is 100001"),
        ("tenant_max_stored_mib = 2000000000", "tenant_max_stored_mib is 2000000000"),
    ] {
        let ConfigError(problems) = quota(wrong).err().unwrap();
        assert!(problems.len() == 1 && problems[0].contains(told), "{problems:?}");
    }
}

#[test]
fn a_destination_has_a_limit_unless_a_setting_says_0() {
    let folder = tempfile::tempdir().unwrap();
    let limit = |lines: &str| {
        let lines = format!("data_dir = 'x'\ninsecure_loopback = true\n{lines}");
        check(with_kek(&folder, &lines)).map(|config| config.destination_limit)
    };
    let pace = |rate, burst| Some(Pace::new(NonZeroU32::new(rate).unwrap(), NonZeroU32::new(burst).unwrap()));
    for (lines, expected) in [
        ("", pace(1000, 200)),
        ("destination_rate = 0", None),
        ("destination_rate = 20", pace(20, 4)),
        ("destination_rate = 1", pace(1, 1)),
        ("destination_burst = 7", pace(1000, 7)),
        ("destination_rate = 20\ndestination_burst = 20", pace(20, 20)),
        ("destination_rate = 1000000", pace(1_000_000, 200_000)),
    ] {
        assert_eq!(limit(lines).unwrap(), expected, "{lines}");
    }
    for (wrong, told) in [
        ("destination_rate = 0\ndestination_burst = 5", "which is no limit"),
        ("destination_rate = 1000001", "destination_rate is 1000001"),
        ("destination_burst = 0", "destination_burst is 0"),
    ] {
        let ConfigError(problems) = limit(wrong).err().unwrap();
        assert!(problems.len() == 1 && problems[0].contains(told), "{problems:?}");
    }
}

#[test]
fn connections_become_old_unless_a_setting_says_never() {
    let folder = tempfile::tempdir().unwrap();
    let age = |line: &str| {
        let lines = format!("data_dir = 'x'\ninsecure_loopback = true\n{line}");
        check(with_kek(&folder, &lines)).map(|config| config.max_api_connection_age)
    };
    assert_eq!(age("max_api_connection_age = 'never'").unwrap(), None);
    assert_eq!(age("max_api_connection_age = '1h'").unwrap(), Some(Duration::from_secs(3600)));
    assert!(age("max_api_connection_age = '1s'").is_err() && age("max_api_connection_age = 'old'").is_err());
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
