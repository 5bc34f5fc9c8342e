//! The way to the control plane through an HTTP proxy: CONNECT, with a name and a password where it asks for them.
//!
//! The proxy looks up the control plane's name; this machine may not even be able to. What flows through it is the
//! agent's own TLS, so it sees where to, and nothing else. Jobs never take this way; their owner may have given them a
//! proxy of their own, which is asked in the same words.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::uri::Authority;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use zeroize::Zeroizing;

use super::address::Address;
use super::no_proxy::NoProxy;

/// The longest answer to CONNECT. Proxies send a page along with a refusal; of that nothing is needed.
const MAX_ANSWER: usize = 16 << 10;
/// The longest reason of a status line that is repeated in the log.
const MAX_REASON: usize = 80;

/// A proxy.
#[derive(Clone)]
pub struct Proxy {
    address: Address,
    /// The value of `proxy-authorization`.
    authorization: Option<Zeroizing<String>>,
}

/// Which proxy leads to the control plane, if any.
#[derive(Debug, Clone, Default)]
pub struct Route {
    /// The proxy.
    pub proxy: Option<Proxy>,
    /// What is reached without it.
    pub except: NoProxy,
}

/// Why a text is not a proxy. It never repeats the text, which may hold a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProxyUrlError {
    /// It has another form.
    #[error(
        "must be a URL such as http://proxy.example.com:3128 or http://user:password@proxy.example.com:3128"
    )]
    Form,
    /// It is a proxy of another kind.
    #[error("must begin with http://: proxies behind TLS and SOCKS proxies are not supported")]
    Scheme,
}

/// Why there is no way through the proxy.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// It wants to know who asks, or did not like the answer.
    #[error("the proxy {} ({status})", if *.given {
        "does not accept the user and password in `proxy.url` or HTTPS_PROXY: check them"
    } else {
        "asks for a user and a password: give them in `proxy.url`, as in http://user:password@host:port"
    })]
    Credentials {
        /// What it answered.
        status: u16,
        /// Whether it got a name and a password.
        given: bool,
    },
    /// It did not connect.
    #[error("the proxy answered {status} {reason}: does it allow CONNECT to {target}, and can it reach it?")]
    Refused {
        /// Its status.
        status: u16,
        /// What it says.
        reason: String,
        /// What it was asked for.
        target: Address,
    },
    /// It does not speak HTTP.
    #[error("the proxy's answer is not one of an HTTP proxy: check `proxy.url` or HTTPS_PROXY")]
    Answer,
    /// The connection to it broke.
    #[error("the connection to the proxy broke")]
    Broken(#[source] std::io::Error),
}

impl Route {
    /// The proxy on the way to `address`.
    #[must_use]
    pub fn towards(self, address: &Address) -> Option<Proxy> {
        self.proxy.filter(|_| !self.except.covers(address))
    }
}

impl Proxy {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Whether it is asked with a user and a password.
    pub(crate) fn has_credentials(&self) -> bool {
        self.authorization.is_some()
    }

    /// The same, asked with a user and a password, parted by a colon.
    pub(crate) fn with_credentials(self, user_and_password: &[u8]) -> Proxy {
        Proxy { authorization: Some(authorization(user_and_password)), ..self }
    }

    /// Asks it, on a new connection to it, to connect to `target`.
    pub(crate) async fn ask<S>(&self, stream: &mut S, target: &Address) -> Result<(), ProxyError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut request = Zeroizing::new(format!(
            "CONNECT {target} HTTP/1.1\r\nhost: {target}\r\nuser-agent: postrider-agent/{}\r\n",
            env!("CARGO_PKG_VERSION")
        ));
        if let Some(authorization) = &self.authorization {
            request.reserve_exact(authorization.len() + 32);
            request.push_str("proxy-authorization: ");
            request.push_str(authorization);
            request.push_str("\r\n");
        }
        request.push_str("\r\n");
        stream.write_all(request.as_bytes()).await.map_err(ProxyError::Broken)?;
        let answer = read_answer(stream).await?;
        let (status, reason) = status_line(&answer).ok_or(ProxyError::Answer)?;
        match status {
            200..300 => Ok(()),
            // 407 is the right one; tinyproxy answers 401 to a wrong password.
            401 | 407 => Err(ProxyError::Credentials { status, given: self.authorization.is_some() }),
            _ => Err(ProxyError::Refused { status, reason, target: target.clone() }),
        }
    }
}

/// Reads up to the end of the header, and not further: what follows a 2xx is the control plane's.
async fn read_answer<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Vec<u8>, ProxyError> {
    let mut answer = Vec::with_capacity(512);
    while !answer.ends_with(b"\r\n\r\n") && !answer.ends_with(b"\n\n") {
        // The control plane says nothing before TLS's first message, so a byte at a time is a few hundred reads.
        let byte = stream.read_u8().await.map_err(ProxyError::Broken)?;
        answer.push(byte);
        if answer.len() >= MAX_ANSWER {
            return Err(ProxyError::Answer);
        }
    }
    Ok(answer)
}

fn status_line(answer: &[u8]) -> Option<(u16, String)> {
    let line = answer.split(|byte| *byte == b'\n').next()?;
    let line = std::str::from_utf8(line).ok()?.trim_end();
    let rest = line.strip_prefix("HTTP/1.")?.get(1..)?.strip_prefix(' ')?;
    let (status, reason) = rest.split_once(' ').unwrap_or((rest, ""));
    let is_status = status.len() == 3 && status.bytes().all(|digit| digit.is_ascii_digit());
    let reason = reason.chars().filter(|c| !c.is_control()).take(MAX_REASON).collect();
    is_status.then(|| status.parse().ok()).flatten().map(|status| (status, reason))
}

/// Without the password.
impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy").field("address", &self.address).finish_non_exhaustive()
    }
}

/// `http://user:password@host:port`, of which only the host must be there.
impl FromStr for Proxy {
    type Err = ProxyUrlError;

    fn from_str(text: &str) -> Result<Proxy, ProxyUrlError> {
        let rest = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            Some(_) => return Err(ProxyUrlError::Scheme),
            None => text,
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (credentials, host) = match rest.rsplit_once('@') {
            Some((credentials, host)) => (Some(credentials), host),
            None => (None, rest),
        };
        let authority: Authority = host.parse().map_err(|_| ProxyUrlError::Form)?;
        let address = Address::of_authority(&authority, Some(80)).ok_or(ProxyUrlError::Form)?;
        let authorization = credentials.map(basic).transpose()?;
        Ok(Proxy { address, authorization })
    }
}

fn basic(credentials: &str) -> Result<Zeroizing<String>, ProxyUrlError> {
    let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
    let (user, password) = (decode(user)?, decode(password)?);
    if user.contains(&b':') {
        return Err(ProxyUrlError::Form);
    }
    let plain = Zeroizing::new([user.as_slice(), b":", password.as_slice()].concat());
    Ok(authorization(&plain))
}

fn authorization(user_and_password: &[u8]) -> Zeroizing<String> {
    let encoded = Zeroizing::new(STANDARD.encode(user_and_password));
    Zeroizing::new(["Basic ", encoded.as_str()].concat())
}

/// Undoes `%40` and its like.
fn decode(text: &str) -> Result<Zeroizing<Vec<u8>>, ProxyUrlError> {
    let mut decoded = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || (bytes.next()? as char).to_digit(16);
        let (Some(high), Some(low)) = (digit(), digit()) else { return Err(ProxyUrlError::Form) };
        decoded.push(u8::try_from(high * 16 + low).map_err(|_| ProxyUrlError::Form)?);
    }
    Ok(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn authorization(text: &str) -> Option<String> {
        let proxy: Proxy = text.parse().unwrap();
        proxy.authorization.map(|text| {
            let plain = STANDARD.decode(text.strip_prefix("Basic ").unwrap()).unwrap();
            String::from_utf8(plain).unwrap()
        })
    }

    #[test]
    fn a_proxy_is_read_from_its_url() {
        let table = [
            ("http://proxy:3128", "proxy:3128", None),
            ("HTTP://proxy:3128/", "proxy:3128", None),
            ("proxy.example.com:3128", "proxy.example.com:3128", None),
            ("http://proxy", "proxy:80", None),
            ("http://[::1]:3128", "[::1]:3128", None),
            ("http://user:pass@proxy:3128", "proxy:3128", Some("user:pass")),
            ("http://user@proxy:3128", "proxy:3128", Some("user:")),
            ("http://u:p%40%3a%2F@proxy:1", "proxy:1", Some("u:p@:/")),
            ("http://u:p@ss:word@proxy:1", "proxy:1", Some("u:p@ss:word")),
        ];
        for (text, address, expected) in table {
            assert_eq!(text.parse::<Proxy>().unwrap().address.to_string(), address);
            assert_eq!(authorization(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_proxy_is_not_repeated() {
        let table = [
            ("https://u:secret@proxy:3128", ProxyUrlError::Scheme),
            ("socks5://proxy:1080", ProxyUrlError::Scheme),
            ("http://u:secret@", ProxyUrlError::Form),
            ("http://u:secret@proxy:0", ProxyUrlError::Form),
            ("http://u:secret%4@proxy:1", ProxyUrlError::Form),
            ("http://u%3asecret@proxy:1", ProxyUrlError::Form),
            ("http://proxy:3128/path", ProxyUrlError::Form),
            ("http://pro xy", ProxyUrlError::Form),
            ("", ProxyUrlError::Form),
        ];
        for (text, expected) in table {
            let found = text.parse::<Proxy>().unwrap_err();
            assert_eq!(found, expected, "{text}");
            assert!(!found.to_string().contains("secret"));
        }
        let proxy: Proxy = "http://user:secret@proxy:1".parse().unwrap();
        let shown = format!("{proxy:?}");
        assert!(shown.contains("proxy") && !shown.contains("secret") && !shown.contains("Basic"), "{shown}");
    }

    async fn asked(url: &str, answer: &'static [u8]) -> (String, Result<(), ProxyError>) {
        let (mut near, mut far) = tokio::io::duplex(64 << 10);
        let proxy: Proxy = url.parse().unwrap();
        let target = "cp.example.com:7071".parse().unwrap();
        let asking = tokio::spawn(async move { (proxy.ask(&mut near, &target).await, near) });
        let mut request = vec![0; 1024];
        let length = far.read(&mut request).await.unwrap();
        far.write_all(answer).await.unwrap();
        drop(far);
        let (result, _near) = asking.await.unwrap();
        (String::from_utf8(request[..length].to_vec()).unwrap(), result)
    }

    #[tokio::test]
    async fn it_is_asked_by_name_and_with_credentials() {
        let (request, result) = asked("http://u:p@proxy:1", b"HTTP/1.1 200 OK\r\nvia: x\r\n\r\n").await;
        result.unwrap();
        assert!(request.starts_with("CONNECT cp.example.com:7071 HTTP/1.1\r\nhost: cp.example.com:7071\r\n"));
        assert!(request.contains("\r\nproxy-authorization: Basic dTpw\r\n"), "{request}");
        assert!(request.ends_with("\r\n\r\n"));
        let (request, result) = asked("http://proxy:1", b"HTTP/1.0 200 Connection established\r\n\r\n").await;
        result.unwrap();
        assert!(!request.contains("authorization"));
    }

    #[tokio::test]
    async fn its_refusals_say_what_to_do() {
        let answer = b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n";
        let sentence = |result: Result<(), ProxyError>| result.unwrap_err().to_string();
        assert!(sentence(asked("http://proxy:1", answer).await.1).contains("give them in `proxy.url`"));
        assert!(sentence(asked("http://u:p@proxy:1", answer).await.1).contains("does not accept"));
        let unauthorized = b"HTTP/1.0 401 Unauthorized\r\n\r\n";
        assert!(sentence(asked("http://u:p@proxy:1", unauthorized).await.1).contains("(401)"));
        let refused = sentence(asked("http://proxy:1", b"HTTP/1.1 403 Fil\x07tered\r\n\r\n").await.1);
        assert!(refused.contains("403 Filtered") && refused.contains("cp.example.com:7071"), "{refused}");
        for answer in [&b"SSH-2.0-x\r\n\r\n"[..], b"HTTP/1.1 2000 OK\r\n\r\n", b"HTTP/2 200\r\n\r\n"] {
            assert!(matches!(asked("http://proxy:1", answer).await.1, Err(ProxyError::Answer)));
        }
        assert!(matches!(asked("http://proxy:1", b"HTTP/1.1 200").await.1, Err(ProxyError::Broken(_))));
        static ENDLESS: [u8; MAX_ANSWER + 1] = [b'x'; MAX_ANSWER + 1];
        assert!(matches!(asked("http://proxy:1", &ENDLESS).await.1, Err(ProxyError::Answer)));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,80}", answer in prop::collection::vec(any::<u8>(), 0..80)) {
            drop(text.parse::<Proxy>());
            drop(status_line(&answer));
        }
    }
}
