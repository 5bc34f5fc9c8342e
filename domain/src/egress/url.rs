//! A subscription's URL, read once and kept in the form that is sent.
//!
//! Parsers disagree about hostile URLs: one stops the host at a backslash, another drops a tab, a third
//! reads `0177.0.0.1` as loopback. So whatever parsers could disagree about is refused on the raw text, the
//! rest is read once, and only the canonical form is stored, judged and sent. This module checks structure
//! alone; whether the scheme, port, name or address may be called is for [`Policy`](super::Policy) to say.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ::url::{ParseError, Position, Url};

use super::name;
use super::refusal::{Code, Refusal};

/// The longest URL, in bytes, as written and in canonical form.
pub const MAX_LEN: usize = 2048;

/// A well-formed `http` or `https` URL in canonical form.
///
/// What holds for every value: the text is printable ASCII without userinfo and fragment, and at most
/// [`MAX_LEN`] bytes; the host is a valid lower-case name without a final dot, or an address in its one
/// spelling; the default port is left out; parsing the text again gives the same value.
///
/// A path or query may hold a receiver's secret, so `Debug` shows the origin only.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointUrl {
    url: Url,
    host: OwnedHost,
}

/// How an endpoint is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// HTTP in the clear.
    Http,
    /// HTTP over TLS.
    Https,
}

/// Where an endpoint is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Host<'a> {
    /// A name to resolve, in lower case and without a final dot. Also the name for SNI and certificates.
    Name(&'a str),
    /// An address to dial as it is.
    Address(IpAddr),
}

/// What [`Host`] lends out. A name is not repeated here, since the URL's text holds it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum OwnedHost {
    Name,
    Address(IpAddr),
}

impl EndpointUrl {
    /// Reads `text` and checks its structure, not whether a policy allows it.
    ///
    /// # Errors
    ///
    /// A [`Refusal`] for a URL that no agent would call under any policy. It never repeats the URL's path
    /// or query, so it may be shown to whoever wrote the URL.
    pub fn parse(text: &str) -> Result<EndpointUrl, Refusal> {
        refuse_ambiguous_bytes(text)?;
        let authority = raw_authority(text)?;
        let written_host = raw_host(authority)?;
        let mut url = Url::parse(text).map_err(unread)?;
        let host = match url.host() {
            Some(::url::Host::Ipv4(ip)) => {
                if written_host != ip.to_string() {
                    return Err(refuse_host(Code::HostNoncanonicalIp, written_host));
                }
                OwnedHost::Address(ip.into())
            }
            Some(::url::Host::Ipv6(ip)) => OwnedHost::Address(ip.into()),
            Some(::url::Host::Domain(parsed)) => {
                let name = checked_name(written_host, parsed)?;
                url.set_host(Some(&name)).map_err(|_| invalid())?;
                OwnedHost::Name
            }
            None => return Err(invalid()),
        };
        // Canonical form percent-encodes, and so may be longer than what was written.
        if url.as_str().len() > MAX_LEN {
            return Err(Refusal::new(Code::UrlTooLong, "the URL"));
        }
        Ok(EndpointUrl { url, host })
    }

    /// The canonical form: exactly what is stored, shown and sent.
    pub fn as_str(&self) -> &str {
        self.url.as_str()
    }

    /// How to speak to the endpoint.
    pub fn scheme(&self) -> Scheme {
        match self.url.scheme() {
            "http" => Scheme::Http,
            _ => Scheme::Https,
        }
    }

    /// The name to resolve or the address to dial.
    pub fn host(&self) -> Host<'_> {
        match self.host {
            OwnedHost::Address(ip) => Host::Address(ip),
            OwnedHost::Name => Host::Name(&self.url[Position::BeforeHost..Position::AfterHost]),
        }
    }

    /// The port to dial: the one written, or the scheme's own.
    pub fn port(&self) -> u16 {
        self.url.port().unwrap_or(match self.scheme() {
            Scheme::Http => 80,
            Scheme::Https => 443,
        })
    }

    /// The value of the `Host` header: the host, IPv6 in brackets, and the port unless it is the default.
    pub fn authority(&self) -> &str {
        &self.url[Position::BeforeHost..Position::AfterPort]
    }

    /// Scheme, host and port: what may be logged.
    pub fn origin(&self) -> &str {
        &self.url[..Position::AfterPort]
    }

    /// The request target: the path, never empty, and the query with its `?` if there is one.
    pub fn path_and_query(&self) -> &str {
        &self.url[Position::BeforePath..Position::AfterQuery]
    }
}

impl FromStr for EndpointUrl {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<EndpointUrl, Refusal> {
        EndpointUrl::parse(text)
    }
}

impl fmt::Display for EndpointUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for EndpointUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EndpointUrl({}/…)", self.origin())
    }
}

impl Scheme {
    /// The scheme as it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Refuses what parsers silently strip, rewrite or read differently from one another.
fn refuse_ambiguous_bytes(text: &str) -> Result<(), Refusal> {
    let code = if text.len() > MAX_LEN {
        Code::UrlTooLong
    } else if text.bytes().any(|b| b <= b' ' || b == 0x7f) {
        Code::UrlControlChar
    } else if !text.is_ascii() {
        Code::UrlNonAscii
    } else if text.contains('\\') {
        Code::UrlBackslash
    } else if has_encoded_control(text) {
        Code::UrlEncodedControl
    } else if text.contains('#') {
        Code::UrlFragment
    } else {
        return Ok(());
    };
    Err(Refusal::new(code, "the URL"))
}

/// Finds `%00` to `%1F` and `%7F`: inert on the wire, but not in a receiver's log or a naive decoder.
fn has_encoded_control(text: &str) -> bool {
    text.as_bytes().windows(3).any(|window| match window {
        [b'%', b'0' | b'1', low] => low.is_ascii_hexdigit(),
        [b'%', b'7', low] => matches!(low, b'f' | b'F'),
        _ => false,
    })
}

/// The text between `scheme://` and the path, as written.
fn raw_authority(text: &str) -> Result<&str, Refusal> {
    let (scheme, rest) = text.split_once(':').ok_or_else(invalid)?;
    if !is_scheme(scheme) {
        return Err(invalid());
    }
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return Err(Refusal::new(Code::Scheme, format!("{scheme:?}")));
    }
    let rest = rest.strip_prefix("//").ok_or_else(invalid)?;
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    match &rest[..end] {
        "" => Err(invalid()),
        authority => Ok(authority),
    }
}

/// The host as written, without its port. Only ever compared with what the parser made of it.
fn raw_host(authority: &str) -> Result<&str, Refusal> {
    if authority.contains('@') {
        return Err(Refusal::new(Code::UrlUserinfo, "the URL"));
    }
    if authority.contains('%') {
        return Err(Refusal::new(Code::HostPercent, "the URL"));
    }
    if authority.starts_with('[') {
        return Ok(authority);
    }
    Ok(authority.split_once(':').map_or(authority, |(host, _)| host))
}

/// The name without its final dot, if it is valid and the parser changed nothing but its case.
fn checked_name(written: &str, parsed: &str) -> Result<String, Refusal> {
    let name = written.to_ascii_lowercase();
    let bare = name.strip_suffix('.').unwrap_or(&name);
    if name != parsed || !name::is_valid(bare) {
        return Err(refuse_host(Code::HostInvalidName, written));
    }
    Ok(bare.to_owned())
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
}

fn refuse_host(code: Code, host: &str) -> Refusal {
    Refusal::new(code, format!("the host {host:?}"))
}

fn invalid() -> Refusal {
    Refusal::new(Code::UrlInvalid, "the URL")
}

/// Names the part that the parser does not take.
fn unread(error: ParseError) -> Refusal {
    let next_step = match error {
        ParseError::InvalidPort => "its port must be a number from 1 to 65535",
        ParseError::InvalidIpv4Address => {
            "its host ends in a number and is no IPv4 address; write four numbers from 0 to 255, or a name"
        }
        ParseError::InvalidIpv6Address => {
            "write an IPv6 address in brackets, as in https://[2001:db8::1]/path"
        }
        ParseError::IdnaError => {
            "its host has a label that begins with xn-- and is not valid Punycode of a name"
        }
        ParseError::InvalidDomainCharacter => "its host has a character that no name may have",
        _ => return invalid(),
    };
    invalid().with_next_step(next_step)
}

#[cfg(test)]
mod tests;
