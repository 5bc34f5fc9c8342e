//! Egress settings: the proxy, credentials by host, and all that can be wrong with them.

use std::fs::Permissions;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;

use tempfile::TempDir;

use super::super::{Args, Config, Problems};
use super::*;

const MINIMAL: &str = "control_plane = 'http://127.0.0.1:7071'\nagent_id = 'agent-1'\n";

fn args(text: &str) -> (Args, tempfile::NamedTempFile) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    (Args { config: Some(file.path().to_owned()), ..Args::default() }, file)
}

fn load(text: &str) -> Result<Egress, Problems> {
    let (args, _file) = args(&format!("{MINIMAL}{text}"));
    Config::load(&args, std::iter::empty()).map(|config| config.egress)
}

fn problems(text: &str) -> String {
    load(text).unwrap_err().to_string()
}

fn secret(folder: &TempDir, name: &str, content: &str) -> String {
    let path = folder.path().join(name);
    std::fs::write(&path, content).unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    path.display().to_string()
}

#[test]
fn a_proxy_has_an_address_credentials_and_exceptions() {
    let folder = tempfile::tempdir().unwrap();
    let file = secret(&folder, "user", "user:pass:word\n");
    let with = |lines: &str| load(&format!("[egress.proxy]\n{lines}")).unwrap().proxy.unwrap();
    let plain = with("url = 'http://proxy.corp:3128'\nno_proxy = ['*.svc', '10.0.0.0/8', 'vault.corp']");
    assert_eq!((plain.to_string().as_str(), plain.no_proxy.len()), ("proxy.corp:3128", 3));
    assert!(!plain.proxy.has_credentials() && !plain.leave_names_to_proxy);
    let from_file = with(&format!("url = 'http://proxy.corp:3128'\ncredentials_file = '{file}'"));
    let from_url =
        with("url = 'http://user:pass:word@proxy.corp:3128'\ndangerously_leave_names_to_proxy = true");
    assert!(from_file.proxy.has_credentials() && from_url.proxy.has_credentials());
    assert!(from_url.leave_names_to_proxy);
    assert!(load("").unwrap().proxy.is_none());
    assert!(load("[egress.proxy]\nurl = 'none'").unwrap().proxy.is_none());
}

#[test]
fn what_is_wrong_with_a_proxy_is_said_without_its_password() {
    let folder = tempfile::tempdir().unwrap();
    let two_lines = secret(&folder, "two", "user:s3cret\nmore");
    let no_user = secret(&folder, "none", ":s3cret");
    let open = secret(&folder, "open", "user:s3cret");
    std::fs::set_permissions(&open, Permissions::from_mode(0o644)).unwrap();
    let url = "url = 'http://proxy.corp:3128'";
    for (lines, expected) in [
        ("no_proxy = ['*.svc']".to_owned(), "need `egress.proxy.url`"),
        ("url = 'http://user:s3cret@proxy.corp/x'".to_owned(), "must be a URL such as http://proxy"),
        (format!("{url}\nno_proxy = ['https://a']"), "neither a host nor a range"),
        (format!("{url}\ncredentials_file = '/nowhere'"), "`egress.proxy.credentials_file` names /nowhere"),
        (format!("{url}\ncredentials_file = '{two_lines}'"), "must have one line in it"),
        (format!("{url}\ncredentials_file = '{no_user}'"), "must have one line in it"),
        (format!("{url}\ncredentials_file = '{open}'"), "mode 0644"),
        (format!("url = 'http://u:s3cret@p:1'\ncredentials_file = '{open}'"), "give one of them"),
        (format!("{url}\nno_proxi = []"), "`egress.proxy.no_proxi` in"),
    ] {
        let told = problems(&format!("[egress.proxy]\n{lines}"));
        assert!(told.contains(expected) && !told.contains("s3cret"), "{expected} is not in {told}");
    }
    assert_eq!(problems("[egress.proxy]\nurl = 'https://x'\nno_proxy = ['a']").lines().count(), 2);
}

#[test]
fn credentials_are_tables_and_become_part_of_the_policy() {
    let folder = tempfile::tempdir().unwrap();
    let headers = secret(&folder, "headers", "authorization: Bearer s3cret");
    let egress = load(&format!(
        "[[egress.credentials]]\nhosts = ['api.internal.example:443', '*.svc']\nheaders_file = '{headers}'\n\
         [[egress.credentials]]\nhosts = '10.1.0.0/16,vault.corp'\nheaders_file = '{headers}'\nallow_http = true\n\
         keep_responses = true\n"
    ))
    .unwrap();
    let [first, second] = &egress.credentials[..] else { panic!("{:?}", egress.credentials) };
    assert_eq!((first.hosts.len(), first.allow_http, first.keep_responses), (2, false, false));
    assert_eq!((second.hosts.len(), second.allow_http, second.keep_responses), (2, true, true));
    assert_eq!(egress.policy.credential_hosts.len(), 4);
    assert!(!format!("{egress:?}").contains("s3cret"));
    let without = load("[egress]\ncredentials = []").unwrap();
    assert_eq!(format!("{without:?}"), format!("{:?}", Egress::default()));
}

#[test]
fn prefixes_of_nat64_become_part_of_the_policy() {
    let egress = load("[egress]\nnat64_prefixes = ['2001:db8:64::/96', '2001:db8:65::/48']").unwrap();
    let prefixes: Vec<_> = egress.policy.nat64_prefixes.iter().map(ToString::to_string).collect();
    assert_eq!(prefixes, ["2001:db8:64::/96", "2001:db8:65::/48"]);
    for wrong in ["2001:db8::/33", "2001:db8::1/96", "10.0.0.0/8"] {
        let told = problems(&format!("[egress]\nnat64_prefixes = ['{wrong}']"));
        assert!(told.contains("`egress.nat64_prefixes` in") && told.contains("is no NAT64 prefix"), "{told}");
    }
}

#[test]
fn all_that_is_wrong_with_credentials_comes_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let headers = secret(&folder, "headers", "authorization: Bearer s3cret");
    let told = problems(&format!(
        "[[egress.credentials]]\nheaders_file = '{headers}'\n\
         [[egress.credentials]]\nhosts = ['a.corp', 'b.corp:443x']\nclient_cert = '/nowhere'\nca = '/nowhere'\n\
         [[egress.credentials]]\nhosts = ['A.corp.']\n\
         [[egress.credentials]]\nhosts = ['c.corp']\nheaders_file = '/'\nheader = 'x'\n\
         [[egres]]\na = 1\n"
    ));
    for expected in [
        "`egress.credentials[1]` needs `hosts`",
        "`egress.credentials[2].hosts` in",
        "for a single port, write it after a colon",
        "`egress.credentials[2]` needs both `client_cert` and `client_key`",
        "`egress.credentials[2].client_cert` names /nowhere",
        "`egress.credentials[2].ca` names /nowhere",
        "`egress.credentials[3].hosts` lists a.corp, as `egress.credentials[2]` does already",
        "`egress.credentials[3]` needs `ca`",
        "`egress.credentials[4].headers_file` names /, which is not a file",
        "`egress.credentials[4].header` in",
        "`egres[1].a` in",
    ] {
        assert!(told.contains(expected), "{expected} is not in:\n{told}");
    }
    for (text, expected) in [
        ("[egress]\ncredentials = ['a']", "must be given as [[egress.credentials]] tables"),
        ("[egress.credentials]\nhosts = ['a']", "`egress.credentials.hosts` in"),
        ("[[egress]]\nallow_http = true", "`egress[1].allow_http` in"),
        ("[[egress.allow_cidrs]]\na = 1", "is a table, but must be a list"),
        ("[[egress.allow_http]]\na = 1", "is a table, but has one value only"),
        ("[egress]\ncredentials = [{hosts = ['a']}, 1]", "has a array in it"),
    ] {
        let told = problems(text);
        assert!(told.contains(expected), "{expected} is not in:\n{told}");
    }
}

#[test]
fn the_egress_settings_can_be_read_alone_where_no_file_is() {
    let text = "agent_id = 'NOT VALID'\nwhatever = 1\n[tls]\nca = '/nowhere'\n[egress]\nallow_http = true\n\
                [egress.proxy]\nurl = 'http://p:1'\ncredentials_file = '/nowhere'\n\
                [[egress.credentials]]\nhosts = ['a.corp']\nca = '/nowhere'\n";
    let (file, _keep) = args(text);
    let egress = Config::load_egress(&file, std::iter::empty()).unwrap();
    assert!(egress.policy.allow_http && egress.proxy.is_some());
    assert_eq!(egress.policy.credential_hosts.len(), 1);
    let (file, _keep) = args("[egress]\nallow_htp = true\nallow_ports = ['x']");
    let told = Config::load_egress(&file, std::iter::empty()).unwrap_err().to_string();
    assert!(told.contains("`egress.allow_htp` in") && told.contains("`egress.allow_ports` in"), "{told}");
}
