//! The settings that say where the control plane is, how to get there, and how this agent is known to it.
//!
//! There are two ways. The agent enrolls with a join token and talks TLS; the control plane chooses its id and its pool.
//! Or, for development, it talks in the clear to a control plane on the same machine, under names of its own choice. A
//! setting of one way beside the other is a problem.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use http::Uri;
use postrider_domain::id::{AgentId, PoolName};
use postrider_domain::join::Join;
use rustls::pki_types::ServerName;

use super::egress::user_and_password;
use super::layers::Layers;
use super::values;
use crate::dial::{Address, Entry, NoProxy, Proxy, Route};
use crate::identity::{self, directory};

/// What makes sense only where the agent enrolls.
const OF_ENROLLED: [&str; 9] = [
    "join",
    "join_file",
    "state_dir",
    "name",
    "proxy.url",
    "proxy.credentials_file",
    "proxy.no_proxy",
    "tls.ca",
    "tls.server_name",
];
/// What makes sense only where it does not.
const OF_PLAINTEXT: [&str; 2] = ["agent_id", "pool"];
const MAKE_ONE: &str = "the join token that `postrider agents join-tokens create` prints";

/// Where the control plane is, and how this agent is known to it.
#[derive(Debug, Clone)]
pub enum ControlPlane {
    /// Anywhere, over TLS, as whom it makes this agent.
    Enrolled(Box<Enrolled>),
    /// On this machine, in the clear, under names that the settings give: for development.
    Plaintext(Plaintext),
}

/// See [`ControlPlane::Enrolled`].
#[derive(Debug, Clone)]
pub struct Enrolled {
    /// Where. None: where it was when the agent enrolled.
    pub address: Option<Address>,
    /// How to get an identity, and where to keep it.
    pub identity: identity::Settings,
    /// How to get there.
    pub route: Route,
    /// PEM file of the authorities to trust instead of those of the join token and the identity.
    pub ca: Option<PathBuf>,
    /// The name in the control plane's certificate. None: the host of the address.
    pub server_name: Option<ServerName<'static>>,
}

/// See [`ControlPlane::Plaintext`].
#[derive(Debug, Clone)]
pub struct Plaintext {
    /// Where.
    pub address: Address,
    /// This agent's name.
    pub agent_id: AgentId,
    /// The pool it belongs to.
    pub pool: PoolName,
}

/// The environment's variables about proxies, which are not this program's alone.
#[derive(Default)]
pub(super) struct ProxyVariables {
    https_proxy: Option<String>,
    no_proxy: Option<String>,
    /// The lower-case ones win, as in other programs.
    lower: (bool, bool),
}

impl ProxyVariables {
    pub(super) fn note(&mut self, name: &str, value: &str) {
        let lower = name.bytes().all(|byte| !byte.is_ascii_uppercase());
        let (place, has_lower) = match name {
            "https_proxy" | "HTTPS_PROXY" => (&mut self.https_proxy, &mut self.lower.0),
            "no_proxy" | "NO_PROXY" => (&mut self.no_proxy, &mut self.lower.1),
            _ => return,
        };
        if !value.is_empty() && (lower || !*has_lower) {
            *place = Some(value.to_owned());
            *has_lower |= lower;
        }
    }
}

impl ControlPlane {
    pub(super) fn from_layers(layers: &mut Layers, proxies: &ProxyVariables) -> Option<ControlPlane> {
        let is_given = layers.is_given("control_plane");
        let url = layers.option("control_plane", values::control_plane);
        match url {
            Some(url) if url.scheme_str() == Some("http") => {
                plaintext(layers, &url).map(ControlPlane::Plaintext)
            }
            url => {
                refuse(layers, &OF_PLAINTEXT, |key| {
                    format!(
                        "`{key}` is for a control plane on this machine, at http://; others choose it when the agent enrolls"
                    )
                });
                let known = is_given || url.is_some();
                enrolled(layers, proxies, url, known)
                    .map(|enrolled| ControlPlane::Enrolled(Box::new(enrolled)))
            }
        }
    }
}

fn plaintext(layers: &mut Layers, url: &Uri) -> Option<Plaintext> {
    refuse(layers, &OF_ENROLLED, |key| {
        format!("`{key}` needs a control plane at https://, and `control_plane` begins with http://")
    });
    let address = Address::of(url);
    if !address.as_ref().is_some_and(is_loopback) {
        // Jobs carry signed requests and bodies, so they travel in the clear only inside one machine.
        layers.problem(format!(
            "`control_plane` is http:// and not a loopback address: give {MAKE_ONE} as `join`, and leave out \
             `control_plane`, `agent_id` and `pool`; or use https://"
        ));
    }
    let agent_id = layers.required("agent_id", values::parsed);
    let pool = layers.or("pool", PoolName::default_pool(), values::parsed);
    Some(Plaintext { address: address?, agent_id: agent_id?, pool })
}

fn enrolled(
    layers: &mut Layers,
    proxies: &ProxyVariables,
    url: Option<Uri>,
    known: bool,
) -> Option<Enrolled> {
    let state_dir = layers.option("state_dir", values::path);
    let join = join(layers, state_dir.as_ref());
    let identity = identity::Settings {
        state_dir,
        name: layers.option("name", values::name).unwrap_or_else(machine_name),
        join: join.as_ref().ok().cloned().flatten(),
    };
    let route = route(layers, proxies);
    let ca = layers.option("tls.ca", values::file);
    let server_name = layers.option("tls.server_name", values::server_name);
    if matches!(join, Ok(None)) && identity.state_dir.is_none() {
        let address = if known { "" } else { ", which also says where the control plane is" };
        layers.problem(format!("`join` is missing: give {MAKE_ONE}{address}"));
    }
    let own = url.as_ref().and_then(Address::of);
    let address = own.or_else(|| identity.join.as_ref().map(Address::in_join));
    Some(Enrolled { address, identity, route, ca, server_name })
}

/// The join token, wherever it is. `Err` when it is nowhere for a problem that has been told.
fn join(layers: &mut Layers, state_dir: Option<&PathBuf>) -> Result<Option<Join>, ()> {
    // An empty one is what a template without a value leaves behind.
    layers.drop_empty("join");
    if layers.is_given("join") && layers.is_given("join_file") {
        layers.problem("`join` and `join_file` say the same: give one of them");
    }
    let file_is_given = layers.is_given("join_file");
    let file = layers.option("join_file", values::path);
    if layers.is_given("join") {
        return layers.option("join", values::join).map(Some).ok_or(());
    }
    let Some(path) = file else { return if file_is_given { Err(()) } else { Ok(None) } };
    // Its owner may remove it once it has served.
    if !path.exists() && state_dir.is_some_and(|state_dir| directory::has_identity(state_dir)) {
        return Ok(None);
    }
    values::join_in(&path).map(Some).map_err(|why| {
        layers.problem(format!("`join_file` is {}, which {why}", path.display()));
    })
}

fn route(layers: &mut Layers, proxies: &ProxyVariables) -> Route {
    let is_given = layers.is_given("proxy.url");
    let excepts = layers.is_given("proxy.no_proxy");
    let set = layers.option("proxy.url", values::proxy).flatten();
    let credentials = layers.option("proxy.credentials_file", values::path);
    let set = match (set, credentials) {
        (Some(proxy), Some(path)) => Some(with_credentials(layers, proxy, &path)),
        (None, Some(_)) if layers.is_faultless("proxy.url") => {
            layers.problem("`proxy.credentials_file` needs `proxy.url`");
            None
        }
        (set, _) => set,
    };
    let except = NoProxy::new(layers.list("proxy.no_proxy", Vec::<Entry>::new(), values::parsed));
    if is_given {
        return Route { proxy: set, except };
    }
    let proxy: Option<Proxy> = proxies.https_proxy.as_deref().and_then(|url| {
        let read = values::proxy(url);
        read.map_err(|why| {
            layers.problem(format!(
                "the environment's HTTPS_PROXY {why}; `proxy.url` wins over it, also as \"none\""
            ));
        })
        .ok()
        .flatten()
    });
    let of_variable = || NoProxy::of_variable(proxies.no_proxy.as_deref().unwrap_or_default()).and_loopback();
    Route { proxy, except: if excepts { except } else { of_variable() } }
}

fn with_credentials(layers: &mut Layers, proxy: Proxy, path: &Path) -> Proxy {
    if proxy.has_credentials() {
        layers
            .problem("`proxy.url` has a user in it and there is `proxy.credentials_file`: give one of them");
        return proxy;
    }
    match user_and_password(path) {
        Ok(credentials) => proxy.with_credentials(credentials.trim_ascii()),
        Err(why) => {
            layers.problem(format!("`proxy.credentials_file` {why}"));
            proxy
        }
    }
}

/// Tells a problem for each of these settings that is given, and takes it out.
fn refuse(layers: &mut Layers, keys: &[&str], problem: impl Fn(&str) -> String) {
    for key in keys {
        if layers.take(key) {
            layers.problem(problem(key));
        }
    }
}

fn is_loopback(address: &Address) -> bool {
    address.host() == "localhost" || address.ip().is_some_and(|ip: IpAddr| ip.is_loopback())
}

fn machine_name() -> String {
    let machine = rustix::system::uname();
    let name = machine.nodename().to_string_lossy();
    name.chars().filter(|c| !c.is_control()).take(values::MAX_NAME).collect()
}
