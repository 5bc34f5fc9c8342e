//! How a setting's text is read. Each error ends the sentence that begins with the setting's name.

use std::fmt::Display;
use std::io::Read as _;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use http::Uri;
use ipnet::IpNet;
use postrider_domain::join::Join;
use postrider_telemetry::log;
use rustls::pki_types::ServerName;
use zeroize::Zeroizing;

use crate::dial::Proxy;

/// The longest name that people see, in characters.
pub(super) const MAX_NAME: usize = 200;
/// What a file with a join token may hold.
const MAX_JOIN_FILE: u64 = 16 << 10;

/// A size: `65536`, `64KiB`, `64MiB`, `1GiB`.
pub(super) struct Bytes(pub(super) u64);

/// A duration: `500ms`, `70s`, `2m`, `1h`.
pub(super) struct Seconds(pub(super) Duration);

/// Whatever reads itself.
pub(super) fn parsed<T>(text: &str) -> Result<T, String>
where
    T: FromStr<Err: Display>,
{
    text.parse().map_err(|error| format!("is {text:?}: {error}"))
}

/// A number within bounds.
pub(super) fn between<T>(low: T, high: T) -> impl Fn(&str) -> Result<T, String>
where
    T: FromStr + PartialOrd + Display + Copy,
{
    move |text| match text.parse() {
        Ok(number) if (low..=high).contains(&number) => Ok(number),
        _ => Err(format!("is {text:?}, but must be a number from {low} to {high}")),
    }
}

pub(super) fn boolean(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| format!("is {text:?}, but must be true or false"))
}

/// A file that can be read now: better to know before the first connection.
pub(super) fn file(text: &str) -> Result<PathBuf, String> {
    match std::fs::File::open(text) {
        Ok(_) => Ok(text.into()),
        Err(error) => Err(format!("is {text:?}, which cannot be read: {error}")),
    }
}

/// A join token, which is never repeated.
pub(super) fn join(text: &str) -> Result<Join, String> {
    text.parse().map_err(|error: postrider_domain::join::JoinError| error.to_string())
}

/// The join token in a file, or what is wrong with the file.
pub(super) fn join_in(path: &Path) -> Result<Join, String> {
    let read = || {
        let mut text = Zeroizing::new(String::with_capacity(MAX_JOIN_FILE as usize));
        std::fs::File::open(path)?.take(MAX_JOIN_FILE).read_to_string(&mut text).map(|_| text)
    };
    let text = read().map_err(|error| format!("cannot be read: {error}"))?;
    join(&text).map_err(|why| format!("does not hold a join token: it {why}"))
}

/// The name of a file or directory, whether or not there is one.
pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() { Err("is empty, but must name a file".to_owned()) } else { Ok(text.into()) }
}

pub(super) fn name(text: &str) -> Result<String, String> {
    if (1..=MAX_NAME).contains(&text.chars().count()) && !text.chars().any(char::is_control) {
        Ok(text.to_owned())
    } else {
        Err(format!("must have 1 to {MAX_NAME} characters, and none that controls a terminal"))
    }
}

pub(super) fn server_name(text: &str) -> Result<ServerName<'static>, String> {
    ServerName::try_from(text.to_owned())
        .map_err(|_| format!("is {text:?}, but must be a DNS name or an IP address"))
}

/// A proxy, or that there is none. It is never repeated.
pub(super) fn proxy(text: &str) -> Result<Option<Proxy>, String> {
    match text {
        "" | "none" => Ok(None),
        url => url.parse().map(Some).map_err(|error: crate::dial::ProxyUrlError| error.to_string()),
    }
}

pub(super) fn cidr(text: &str) -> Result<IpNet, String> {
    let net = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    net.map_err(|_| format!("has {text:?}, but must list ranges such as 10.20.0.0/16 or addresses"))
}

pub(super) fn port(text: &str) -> Result<u16, String> {
    between(1, u16::MAX)(text)
}

pub(super) fn name_server(text: &str) -> Result<SocketAddr, String> {
    let address = text.parse().or_else(|_| text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53)));
    address.map_err(|_| format!("has {text:?}, but must list addresses such as 10.0.0.2 or 10.0.0.2:53"))
}

pub(super) fn listen(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| format!("is {text:?}, but must be an IP address and a port, such as 127.0.0.1:7073"))
}

pub(super) fn log_format(text: &str) -> Result<log::Format, String> {
    match text {
        "human" => Ok(log::Format::Human),
        "json" => Ok(log::Format::Json),
        _ => Err(format!("is {text:?}, but must be human or json")),
    }
}

pub(super) fn log_filter(text: &str) -> Result<String, String> {
    log::check(text).map_err(|error| format!("is wrong: {error}"))?;
    Ok(text.to_owned())
}

pub(super) fn control_plane(text: &str) -> Result<Uri, String> {
    let wrong = || format!("is {text:?}, but must be a URL such as https://postrider.example.com:7071");
    let uri: Uri = text.parse().map_err(|_| wrong())?;
    let scheme = uri.scheme_str().is_some_and(|scheme| matches!(scheme, "http" | "https"));
    let plain = matches!(uri.path(), "" | "/") && uri.query().is_none();
    let userinfo = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
    if scheme && plain && !userinfo && uri.host().is_some_and(|host| !host.is_empty()) {
        Ok(uri)
    } else {
        Err(wrong())
    }
}

impl FromStr for Bytes {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Bytes, Self::Err> {
        const WRONG: &str = "a size is a number of bytes, or one with KiB, MiB or GiB after it";
        let (number, unit) = number_and_unit(text);
        let factor = match unit {
            "" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            _ => return Err(WRONG),
        };
        number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor)).map(Bytes).ok_or(WRONG)
    }
}

impl FromStr for Seconds {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Seconds, Self::Err> {
        const WRONG: &str = "a duration is a number with ms, s, m or h after it, and at most 24h";
        const LONGEST: Duration = Duration::from_secs(24 * 3600);
        let (number, unit) = number_and_unit(text);
        let number: u64 = number.parse().map_err(|_| WRONG)?;
        let duration = match unit {
            "ms" => Some(Duration::from_millis(number)),
            "s" => Some(Duration::from_secs(number)),
            "m" => number.checked_mul(60).map(Duration::from_secs),
            "h" => number.checked_mul(3600).map(Duration::from_secs),
            _ => None,
        };
        duration.filter(|duration| *duration <= LONGEST).map(Seconds).ok_or(WRONG)
    }
}

fn number_and_unit(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (number, unit.trim_start())
}
