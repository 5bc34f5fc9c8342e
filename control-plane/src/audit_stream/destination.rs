//! Destinations of the audit stream, as the setting names them.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// A receiver of records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Lines of JSON on standard output.
    Stdout,
    /// Lines of JSON at the end of a file.
    File(PathBuf),
    /// Syslog over TCP, to this host and port.
    Tcp(String),
    /// Syslog over UDP, to this host and port.
    Udp(String),
    /// Syslog over a datagram socket of this machine, such as `/dev/log`.
    Unix(PathBuf),
}

const TCP: &str = "syslog+tcp://";
const UDP: &str = "syslog+udp://";
const UNIX: &str = "syslog+unix:";
const FILE: &str = "file:";

impl FromStr for Destination {
    type Err = InvalidDestination;

    fn from_str(text: &str) -> Result<Self, InvalidDestination> {
        let found = match text {
            "stdout" => Some(Self::Stdout),
            _ => None
                .or_else(|| text.strip_prefix(TCP).and_then(host_and_port).map(Self::Tcp))
                .or_else(|| text.strip_prefix(UDP).and_then(host_and_port).map(Self::Udp))
                .or_else(|| text.strip_prefix(UNIX).and_then(absolute).map(Self::Unix))
                .or_else(|| text.strip_prefix(FILE).and_then(absolute).map(Self::File)),
        };
        found.ok_or_else(|| InvalidDestination { text: text.to_owned() })
    }
}

fn host_and_port(text: &str) -> Option<String> {
    let (host, port) = text.rsplit_once(':')?;
    let bare = !host.contains(':') || (host.starts_with('[') && host.ends_with(']'));
    let clean = !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || "/@?#".contains(c));
    let port = port.parse::<u16>().ok().filter(|port| *port > 0);
    (bare && clean && port.is_some()).then(|| text.to_owned())
}

/// A path that does not depend on where the program was started.
fn absolute(text: &str) -> Option<PathBuf> {
    // As a URL it has an empty host.
    let text = text.strip_prefix("//").filter(|rest| rest.starts_with('/')).unwrap_or(text);
    text.starts_with('/').then(|| PathBuf::from(text))
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout => f.write_str("stdout"),
            Self::File(path) => write!(f, "{FILE}{}", path.display()),
            Self::Tcp(address) => write!(f, "{TCP}{address}"),
            Self::Udp(address) => write!(f, "{UDP}{address}"),
            Self::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

/// Text that is no destination.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{text}\" is not a receiver of audit records; write stdout, file:/PATH, syslog+tcp://HOST:PORT, syslog+udp://HOST:PORT or \
     syslog+unix:/dev/log"
)]
pub struct InvalidDestination {
    text: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_read_and_shown_alike() {
        for text in [
            "stdout",
            "file:/var/log/postrider/audit.jsonl",
            "syslog+tcp://logs.example.com:601",
            "syslog+udp://192.0.2.7:514",
            "syslog+tcp://[2001:db8::7]:601",
            "syslog+unix:/dev/log",
        ] {
            assert_eq!(text.parse::<Destination>().unwrap().to_string(), text);
        }
        assert_eq!("file:///a/b".parse(), Ok(Destination::File("/a/b".into())));
    }

    #[test]
    fn what_is_none_is_refused() {
        for text in [
            "",
            "syslog",
            "file:audit.jsonl",
            "syslog+tcp://host",
            "syslog+tcp://host:0",
            "syslog+tcp://:514",
            "syslog+tcp://user@host:514",
            "syslog+tcp://2001:db8::7:514",
            "syslog+tls://host:6514",
            "syslog+unix:log",
            "http://host:80",
        ] {
            let error = text.parse::<Destination>().unwrap_err().to_string();
            assert!(error.contains("write stdout, file:/PATH"), "{error}");
        }
    }
}
