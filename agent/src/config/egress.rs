//! What the agent may call, through what, and with whose credentials.
//!
//! Reading it opens no file: `postrider egress check` reads these settings where the files are not. What is in the
//! files is looked at by [`check_files`] and [`proxy`].

use std::path::Path;

use postrider_domain::egress::{Destination, Policy, Service};
use zeroize::Zeroizing;

use super::layers::Layers;
use super::values;
use crate::transport::files;
use crate::transport::{credentials, proxy};

/// The way to endpoints.
#[derive(Debug, Clone, Default)]
pub struct Egress {
    /// What may be called.
    pub policy: Policy,
    /// Through what.
    pub proxy: Option<proxy::Settings>,
    /// With whose credentials.
    pub credentials: Vec<credentials::Settings>,
}

/// Whether files that settings name are read, or not even there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Files {
    Read,
    Ignored,
}

/// Takes all egress settings out of `layers`.
pub(super) fn read(layers: &mut Layers, files: Files) -> Egress {
    let default = Policy::default();
    let mut policy = Policy {
        allow_cidrs: layers.list("egress.allow_cidrs", default.allow_cidrs, values::cidr),
        allow_hosts: layers.list("egress.allow_hosts", default.allow_hosts, values::parsed),
        allow_ports: layers.list("egress.allow_ports", default.allow_ports, values::port),
        allow_http: layers.or("egress.allow_http", default.allow_http, values::boolean),
        deny_cidrs: layers.list("egress.deny_cidrs", default.deny_cidrs, values::cidr),
        nat64_prefixes: layers.list("egress.nat64_prefixes", default.nat64_prefixes, values::parsed),
        dangerously_allow_link_local_and_metadata: layers.or(
            "egress.dangerously_allow_link_local_and_metadata",
            default.dangerously_allow_link_local_and_metadata,
            values::boolean,
        ),
        credential_hosts: Vec::new(),
        own_addresses: Vec::new(),
    };
    let proxy = proxy(layers, files);
    let credentials: Vec<_> =
        layers.tables("egress.credentials").iter().map(|table| entry(layers, table)).collect();
    check_hosts(layers, &credentials);
    if files == Files::Read {
        check_files(layers, &credentials);
    }
    policy.credential_hosts = credentials.iter().flat_map(credentials::Settings::policy_entries).collect();
    Egress { policy, proxy, credentials }
}

fn proxy(layers: &mut Layers, files: Files) -> Option<proxy::Settings> {
    let url = layers.option("egress.proxy.url", values::proxy).flatten();
    let credentials_file = layers.option("egress.proxy.credentials_file", values::path);
    let no_proxy = layers.list("egress.proxy.no_proxy", Vec::new(), values::parsed::<Destination>);
    let leave_names_to_proxy =
        layers.or("egress.proxy.dangerously_leave_names_to_proxy", false, values::boolean);
    let Some(mut proxy) = url else {
        let given = credentials_file.is_some() || !no_proxy.is_empty() || leave_names_to_proxy;
        if given && layers.is_faultless("egress.proxy.url") {
            layers.problem("the `egress.proxy` settings need `egress.proxy.url`");
        }
        return None;
    };
    if let Some(path) = credentials_file {
        if proxy.has_credentials() {
            layers.problem(
                "`egress.proxy.url` has a user in it and there is `egress.proxy.credentials_file`: give one of them",
            );
        }
        if files == Files::Read {
            match user_and_password(&path) {
                Ok(credentials) => proxy = proxy.with_credentials(credentials.trim_ascii()),
                Err(why) => layers.problem(format!("`egress.proxy.credentials_file` {why}")),
            }
        }
    }
    Some(proxy::Settings { proxy, no_proxy, leave_names_to_proxy })
}

/// The content of a file with one line, `user:password`.
pub(super) fn user_and_password(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let content = files::read_secret(path).map_err(|error| error.to_string())?;
    let line = content.trim_ascii();
    let lines = line.split(|&byte| byte == b'\n').count();
    if lines != 1 || !line.contains(&b':') || line.starts_with(b":") {
        return Err(format!("names {}, which must have one line in it, user:password", path.display()));
    }
    Ok(content)
}

fn entry(layers: &mut Layers, table: &str) -> credentials::Settings {
    let key = |name: &str| format!("{table}{name}");
    let entry = credentials::Settings {
        hosts: layers.list(&key("hosts"), Vec::new(), values::parsed),
        ca: layers.option(&key("ca"), values::path),
        client_cert: layers.option(&key("client_cert"), values::path),
        client_key: layers.option(&key("client_key"), values::path),
        headers_file: layers.option(&key("headers_file"), values::path),
        allow_http: layers.or(&key("allow_http"), false, values::boolean),
        keep_responses: layers.or(&key("keep_responses"), false, values::boolean),
    };
    let name = table.trim_end_matches('.');
    if entry.hosts.is_empty() && layers.is_faultless(&key("hosts")) {
        layers.problem(format!("`{name}` needs `hosts`, such as [\"api.internal.example\", \"*.svc\"]"));
    }
    if entry.client_cert.is_some() != entry.client_key.is_some() {
        layers.problem(format!("`{name}` needs both `client_cert` and `client_key`, or neither"));
    }
    if entry.ca.is_none() && entry.client_cert.is_none() && entry.headers_file.is_none() {
        layers.problem(format!("`{name}` needs `ca`, `client_cert` with `client_key`, or `headers_file`"));
    }
    entry
}

/// The first entry that covers a host counts, so the same host in a second one is a problem.
fn check_hosts(layers: &mut Layers, credentials: &[credentials::Settings]) {
    let mut seen: Vec<(&Service, usize)> = Vec::new();
    for (number, entry) in (1..).zip(credentials) {
        for host in &entry.hosts {
            if let Some((_, first)) = seen.iter().find(|(known, _)| *known == host) {
                layers.problem(format!(
                    "`egress.credentials[{number}].hosts` lists {host}, as `egress.credentials[{first}]` does already"
                ));
            }
            seen.push((host, number));
        }
    }
}

fn check_files(layers: &mut Layers, credentials: &[credentials::Settings]) {
    for (number, entry) in (1..).zip(credentials) {
        for problem in entry.problems() {
            let (setting, why) = (problem.setting, problem.why);
            layers.problem(format!("`egress.credentials[{number}].{setting}` {why}"));
        }
    }
}

#[cfg(test)]
mod tests;
