//! HTTP/2 by hand, over TLS: for a client that does what no library does.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::applicant::Credentials;
use crate::wait::PATIENCE;

/// What every client says first.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Kinds of frames. Source: RFC 9113, section 6.
pub mod kind {
    /// A part of a body.
    pub const DATA: u8 = 0;
    /// Begins a call.
    pub const HEADERS: u8 = 1;
    /// Says nothing any more.
    pub const PRIORITY: u8 = 2;
    /// Ends a call.
    pub const RST_STREAM: u8 = 3;
    /// How the other side is to behave.
    pub const SETTINGS: u8 = 4;
    /// Asks whether anybody is there.
    pub const PING: u8 = 6;
    /// Ends a connection.
    pub const GOAWAY: u8 = 7;
    /// Lets the other side send more.
    pub const WINDOW_UPDATE: u8 = 8;
    /// The rest of headers.
    pub const CONTINUATION: u8 = 9;
}

/// The last of a call.
pub const END_STREAM: u8 = 1;
/// The last of the headers.
pub const END_HEADERS: u8 = 4;
/// The answer to settings or a ping.
pub const ACK: u8 = 1;

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// See [`kind`].
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Which call.
    pub stream: u32,
    /// What it holds.
    pub payload: Vec<u8>,
}

/// A frame's bytes.
#[must_use]
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The headers of a gRPC call, and others, none of them compressed.
#[must_use]
pub fn grpc(path: &str, others: &[(&str, &str)]) -> Vec<u8> {
    let usual = [
        (":method", "POST"),
        (":scheme", "https"),
        (":authority", "localhost"),
        (":path", path),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    ];
    usual.iter().chain(others).flat_map(|(name, value)| header(name, value)).collect()
}

/// A gRPC message.
#[must_use]
pub fn message(content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).unwrap_or(u32::MAX);
    [&[0], &length.to_be_bytes()[..], content].concat()
}

/// One header, literal and not to be remembered. Source: RFC 7541, section 6.2.2.
#[must_use]
pub fn header(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| [length(text.len()), text.as_bytes().to_vec()].concat();
    [vec![0], text(name), text(value)].concat()
}

/// An integer with a prefix of seven bits.
fn length(mut length: usize) -> Vec<u8> {
    if length < 127 {
        return vec![u8::try_from(length).unwrap_or(126)];
    }
    length -= 127;
    let mut bytes = vec![127];
    while length >= 128 {
        bytes.push(u8::try_from(length % 128 + 128).unwrap_or(255));
        length /= 128;
    }
    bytes.push(u8::try_from(length).unwrap_or(127));
    bytes
}

/// A port with TLS, as a client reaches it.
#[derive(Clone, Debug)]
pub struct Port {
    /// Where it is.
    pub address: SocketAddr,
    /// The client's TLS; it remembers sessions, so that it would resume them if it could.
    pub tls: Arc<ClientConfig>,
}

impl Port {
    /// For a client that trusts these authorities (PEM), and may have a certificate.
    ///
    /// # Errors
    /// When the PEM texts are no good.
    pub fn new(address: SocketAddr, trust: &str, credentials: Option<&Credentials>) -> Result<Self> {
        Self::with_versions(address, trust, credentials, rustls::DEFAULT_VERSIONS)
    }

    /// As [`Port::new`], for a client that speaks only some versions of TLS.
    ///
    /// # Errors
    /// When the PEM texts are no good.
    pub fn with_versions(
        address: SocketAddr,
        trust: &str,
        credentials: Option<&Credentials>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(trust.as_bytes()) {
            roots.add(certificate?)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)?
            .with_root_certificates(roots);
        let mut tls = match credentials {
            Some(credentials) => {
                let chain: Result<Vec<_>, _> =
                    CertificateDer::pem_slice_iter(credentials.chain.as_bytes()).collect();
                let key = PrivateKeyDer::try_from(credentials.key.serialize_der());
                builder.with_client_auth_cert(chain?, key.map_err(anyhow::Error::msg)?)?
            }
            None => builder.with_no_client_auth(),
        };
        tls.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self { address, tls: Arc::new(tls) })
    }

    /// A connection without TLS.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn plain(&self) -> io::Result<TcpStream> {
        TcpStream::connect(self.address).await
    }

    /// A connection with TLS.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn secured(&self) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
        let connect = TlsConnector::from(self.tls.clone()).connect(name, self.plain().await?);
        timeout(PATIENCE, connect).await?
    }

    /// A connection that has begun to speak HTTP/2, with these settings.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn greeted(&self, settings: &[(u16, u32)]) -> io::Result<Wire> {
        let mut wire = Wire::new(self.secured().await?);
        let settings: Vec<u8> = settings
            .iter()
            .flat_map(|(name, value)| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat())
            .collect();
        wire.send(&[PREFACE, &frame(kind::SETTINGS, 0, 0, &settings)].concat()).await?;
        Ok(wire)
    }
}

/// One connection.
#[derive(Debug)]
pub struct Wire {
    /// What is heard on it.
    pub ear: Ear,
    /// What is said on it.
    pub mouth: Mouth,
}

/// The half that hears.
#[derive(Debug)]
pub struct Ear(ReadHalf<TlsStream<TcpStream>>);

/// The half that speaks.
#[derive(Debug)]
pub struct Mouth(WriteHalf<TlsStream<TcpStream>>);

impl Mouth {
    /// Sends bytes as they are.
    ///
    /// # Errors
    /// When the other side has closed.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes).await?;
        self.0.flush().await
    }
}

impl Wire {
    /// On a connection with TLS.
    #[must_use]
    pub fn new(stream: TlsStream<TcpStream>) -> Self {
        let (ear, mouth) = tokio::io::split(stream);
        Self { ear: Ear(ear), mouth: Mouth(mouth) }
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// When the other side has closed.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.mouth.send(bytes).await
    }

    /// Sends all of this while it listens, and then asks whether anybody is there.
    ///
    /// # Errors
    /// When neither an answer nor an end comes.
    pub async fn flood(mut self, frames: impl Iterator<Item = Vec<u8>>) -> Result<Flooded> {
        let mut mouth = self.mouth.0;
        let speak = async {
            let mut batch = Vec::new();
            for frame in frames {
                batch.extend(frame);
                if batch.len() > 1 << 16 {
                    mouth.write_all(&std::mem::take(&mut batch)).await?;
                }
            }
            batch.extend(frame(kind::PING, 0, 0, LAST));
            mouth.write_all(&batch).await?;
            mouth.flush().await
        };
        let both = async {
            let hear = self.ear.hear_out();
            tokio::pin!(hear);
            tokio::select! {
                // The other side may close before it has heard everything.
                _spoken = speak => hear.await,
                heard = &mut hear => heard,
            }
        };
        timeout(PATIENCE, both).await.context("the flood neither ends nor is answered")
    }
}

/// What a flood asks in the end.
const LAST: &[u8; 8] = b"the last";

/// What came of a flood.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flooded {
    /// The other side has answered after all of it.
    pub absorbed: bool,
    /// The code with which it said goodbye. Source: RFC 9113, section 7.
    pub goodbye: Option<u32>,
    /// Calls that it answered.
    pub answered: usize,
    /// Calls that it refused without an answer.
    pub reset: usize,
}

impl Ear {
    /// The next frame, or nothing when the other side has closed.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn next(&mut self) -> io::Result<Option<Frame>> {
        let mut head = [0; 9];
        match self.0.read_exact(&mut head).await {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
        let [a, b, c, kind, flags, stream @ ..] = head;
        let length = usize::try_from(u32::from_be_bytes([0, a, b, c])).map_err(io::Error::other)?;
        let mut payload = vec![0; length];
        self.0.read_exact(&mut payload).await?;
        Ok(Some(Frame { kind, flags, stream: u32::from_be_bytes(stream), payload }))
    }

    /// Waits until the other side has closed.
    ///
    /// # Errors
    /// When it does not in time.
    pub async fn closed(&mut self, within: Duration) -> Result<()> {
        let closed = async { while let Ok(Some(_)) = self.next().await {} };
        timeout(within, closed).await.with_context(|| format!("the connection goes on after {within:?}"))
    }

    /// Listens until the last question is answered, or to the end.
    async fn hear_out(&mut self) -> Flooded {
        let mut heard = Flooded::default();
        while let Ok(Some(frame)) = self.next().await {
            match frame.kind {
                kind::PING if frame.payload == LAST => heard.absorbed = true,
                kind::GOAWAY => {
                    let code = frame.payload.get(4..8).and_then(|code| code.try_into().ok());
                    heard.goodbye = heard.goodbye.or(code.map(u32::from_be_bytes));
                }
                kind::HEADERS if frame.flags & END_STREAM != 0 => heard.answered += 1,
                kind::RST_STREAM => heard.reset += 1,
                _ => {}
            }
            if heard.absorbed {
                break;
            }
        }
        heard
    }
}
