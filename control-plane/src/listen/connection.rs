//! A connection that speaks HTTP/2, and who is at its other end.

use std::future::Future as _;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use postrider_domain::identity::AgentIdentity;
use postrider_domain::join::Pin as KeyPin;
use postrider_domain::time::Timestamp;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Sleep, sleep};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// What every HTTP/2 client says first. Source: RFC 9113, section 3.4.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Who is at the other end; handlers find it among a request's extensions.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// Which agent it is, if it has shown an agent's certificate.
    pub agent: Option<Arc<AgentCertificate>>,
    /// Whether the connection is in TLS.
    pub secured: bool,
}

/// What an agent's certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentCertificate {
    /// Who.
    pub identity: AgentIdentity,
    /// The fingerprint of its public key.
    pub key: KeyPin,
    /// When the certificate ends.
    pub expires: Timestamp,
}

impl AgentCertificate {
    /// Reads a certificate; `None` when it is not an agent's. Whether it is to be trusted is judged elsewhere.
    #[must_use]
    pub fn read(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        let names = certificate.subject_alternative_name().ok()??;
        let [GeneralName::URI(uri)] = names.value.general_names.as_slice() else { return None };
        Some(Self {
            identity: uri.parse().ok()?,
            key: KeyPin::of(certificate.public_key().raw),
            expires: Timestamp::from_millis(
                certificate.validity().not_after.timestamp().saturating_mul(1000),
            ),
        })
    }
}

enum Io {
    Plain(TcpStream),
    Secured(Box<TlsStream<TcpStream>>),
}

/// See the [module](self). It holds its place among the port's connections until it is dropped.
pub struct Connection {
    io: Io,
    peer: Peer,
    /// What was read of the preface and is not handed on yet.
    unread: &'static [u8],
    /// When it ends, whatever is said on it.
    end: Option<Pin<Box<Sleep>>>,
    _slot: OwnedSemaphorePermit,
}

impl Connection {
    pub(super) fn plain(stream: TcpStream, address: SocketAddr, slot: OwnedSemaphorePermit) -> Self {
        let peer = Peer { address, agent: None, secured: false };
        Self { io: Io::Plain(stream), peer, unread: &[], end: None, _slot: slot }
    }

    pub(super) fn secured(
        stream: TlsStream<TcpStream>,
        address: SocketAddr,
        slot: OwnedSemaphorePermit,
    ) -> Self {
        let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let agent = certificates.first().and_then(AgentCertificate::read).map(Arc::new);
        let peer = Peer { address, agent, secured: true };
        Self { io: Io::Secured(Box::new(stream)), peer, unread: &[], end: None, _slot: slot }
    }

    /// Waits for the first words of HTTP/2. One without an agent's certificate lasts for `strangers_last` from now.
    pub(super) async fn greet(mut self, strangers_last: Option<Duration>) -> io::Result<Self> {
        let mut preface = [0; PREFACE.len()];
        self.read_exact(&mut preface).await?;
        if preface != *PREFACE {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the client does not speak HTTP/2"));
        }
        self.unread = PREFACE;
        self.end = strangers_last.filter(|_| self.peer.agent.is_none()).map(|last| Box::pin(sleep(last)));
        Ok(self)
    }

    fn poll_end(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.end.as_mut().map(|end| end.as_mut().poll(context)) {
            Some(Poll::Ready(())) => Err(io::Error::new(io::ErrorKind::TimedOut, "its time is over")),
            Some(Poll::Pending) | None => Ok(()),
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.unread.is_empty() {
            let (now, later) = self.unread.split_at(self.unread.len().min(buffer.remaining()));
            buffer.put_slice(now);
            self.unread = later;
            return Poll::Ready(Ok(()));
        }
        self.poll_end(context)?;
        match &mut self.io {
            Io::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Io::Secured(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

macro_rules! both {
    ($self:ident, $stream:ident => $call:expr) => {
        match &mut $self.io {
            Io::Plain($stream) => $call,
            Io::Secured($stream) => $call,
        }
    };
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        both!(self, stream => Pin::new(stream).poll_write(context, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        both!(self, stream => Pin::new(stream).poll_write_vectored(context, bytes))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Io::Plain(stream) => stream.is_write_vectored(),
            Io::Secured(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        both!(self, stream => Pin::new(stream).poll_flush(context))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = both!(self, stream => ready!(Pin::new(stream).poll_shutdown(context)));
        Poll::Ready(done)
    }
}
