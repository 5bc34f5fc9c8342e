//! A connection that speaks HTTP/2, and who is at its other end.

use std::future::Future as _;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use postrider_domain::identity::AgentIdentity;
use postrider_domain::identity::keys::ShownKey;
use postrider_domain::join::Pin as KeyPin;
use postrider_domain::time::Timestamp;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep_until};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::transport::server::Connected;
use tracing::debug;
use x509_parser::prelude::{ASN1Time, FromDer as _, GeneralName, X509Certificate};

use super::frames::{Floods, Frames};
use super::slots::{ConnectionSlot, Holder};
use super::socket::Socket;
use super::usage::{Call, End, STUCK_LAST, Usage, now};
use crate::authority::generation_of;

/// What every HTTP/2 client says first. Source: RFC 9113, section 3.4.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Who holds the slot of a connection without TLS, on which nobody has said who it is.
const ANYBODY: &str = "anybody";

/// Who is at the other end; handlers find it among a request's extensions.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// Which agent it is, if it has shown an agent's certificate.
    pub agent: Option<Arc<AgentCertificate>>,
    /// Whether the connection is in TLS.
    pub secured: bool,
    usage: Arc<Usage>,
}

impl Peer {
    /// Where it calls from, as what is counted.
    #[must_use]
    pub fn network(&self) -> IpAddr {
        network_of(self.address.ip())
    }

    /// A call begins on the connection; `None` when there is no slot for one more connection of the caller's. Without
    /// TLS, whoever calls is believed.
    pub(super) fn begin(&self, caller: impl FnOnce() -> Option<Holder>) -> Option<Call> {
        let handle = self.usage.handle();
        if handle.is_authenticated() {
            return Some(self.usage.begin());
        }
        if let Some(caller) = caller() {
            return handle.authenticate(&caller).then(|| self.usage.begin());
        }
        if !self.secured {
            // Where there is no room, it stays unauthenticated.
            let _fits = handle.authenticate(&Holder::alone(ANYBODY.into()));
        }
        Some(self.usage.begin())
    }
}

/// What one party has at the least: an address of version 4, or 64 bits of one of version 6.
pub(crate) fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

/// What an agent's certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentCertificate {
    /// Who.
    pub identity: AgentIdentity,
    /// Its public key.
    pub key: ShownKey,
    /// When the certificate begins.
    pub begins: Timestamp,
    /// When the certificate ends.
    pub expires: Timestamp,
}

impl AgentCertificate {
    /// Reads a certificate; `None` when it is not an agent's. Whether it is to be trusted is judged elsewhere.
    #[must_use]
    pub fn read(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (rest, certificate) = X509Certificate::from_der(certificate).ok()?;
        if !rest.is_empty() {
            return None;
        }
        let time = |time: ASN1Time| Timestamp::from_millis(time.timestamp().saturating_mul(1000));
        let names = certificate.subject_alternative_name().ok()??;
        let [GeneralName::URI(uri)] = names.value.general_names.as_slice() else { return None };
        Some(Self {
            identity: uri.parse().ok()?,
            key: ShownKey {
                key: KeyPin::of(certificate.public_key().raw),
                generation: generation_of(certificate.raw_serial()),
            },
            begins: time(certificate.validity().not_before),
            expires: time(certificate.validity().not_after),
        })
    }
}

enum Io {
    Plain(Socket),
    Secured(Box<TlsStream<Socket>>),
}

impl Io {
    fn socket(&self) -> &Socket {
        match self {
            Self::Plain(socket) => socket,
            Self::Secured(stream) => stream.get_ref().0,
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

/// See the module. It holds its slot among the port's connections until it is dropped.
pub struct Connection {
    io: Io,
    peer: Peer,
    /// What was read of the preface and is not handed on yet.
    unread: &'static [u8],
    /// When it is looked at whether it must end.
    look: Pin<Box<Sleep>>,
    /// Done when it must make room.
    lost: Pin<Box<WaitForCancellationFutureOwned>>,
    /// It has ended, whatever else is said on it.
    ended: Option<End>,
    /// Counted from the preface on.
    frames: Option<Frames>,
    /// Where it is reported when they are too many.
    floods: Option<Arc<Floods>>,
    _slot: ConnectionSlot,
}

impl Connection {
    pub(super) fn plain(socket: Socket, address: SocketAddr, slot: ConnectionSlot) -> Self {
        let usage = Arc::new(Usage::new(slot.handle().clone()));
        let peer = Peer { address, agent: None, secured: false, usage };
        Self::new(Io::Plain(socket), peer, slot)
    }

    /// # Errors
    /// When its agent has too many connections.
    pub(super) fn secured(
        stream: TlsStream<Socket>,
        address: SocketAddr,
        mut slot: ConnectionSlot,
    ) -> io::Result<Self> {
        let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let agent = certificates.first().and_then(AgentCertificate::read).map(Arc::new);
        if let Some(agent) = agent.as_deref()
            && !slot.belongs_to(&agent.identity.agent)
        {
            return Err(io::Error::other(format!("{} has too many connections", agent.identity.agent)));
        }
        let usage = Arc::new(Usage::new(slot.handle().clone()));
        let peer = Peer { address, agent, secured: true, usage };
        Ok(Self::new(Io::Secured(Box::new(stream)), peer, slot))
    }

    fn new(io: Io, peer: Peer, slot: ConnectionSlot) -> Self {
        let lost = slot.handle().lost().cancelled_owned();
        Self {
            io,
            peer,
            unread: &[],
            look: Box::pin(sleep_until(now())),
            lost: Box::pin(lost),
            ended: None,
            frames: None,
            floods: None,
            _slot: slot,
        }
    }

    /// The connection, with where it is reported when its client floods it.
    pub(super) fn reporting(self, floods: Arc<Floods>) -> Self {
        Self { floods: Some(floods), ..self }
    }

    /// Waits for the first words of HTTP/2.
    pub(super) async fn greet(mut self) -> io::Result<Self> {
        let mut preface = [0; PREFACE.len()];
        self.read_exact(&mut preface).await?;
        if preface != *PREFACE {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the client does not speak HTTP/2"));
        }
        self.unread = PREFACE;
        self.frames = Some(Frames::default());
        Ok(self)
    }

    /// Whether it must end. If not, the task is woken when it is time to ask again.
    fn poll_end(&mut self, context: &mut Context<'_>) -> Result<(), End> {
        if let Some(end) = self.ended {
            return Err(end);
        }
        self.find_end(context).inspect_err(|end| {
            debug!(address = %self.peer.address, "connection closed: {end}");
            self.ended = Some(*end);
        })
    }

    fn find_end(&mut self, context: &mut Context<'_>) -> Result<(), End> {
        if self.lost.as_mut().poll(context).is_ready() {
            return Err(if self.peer.usage.handle().is_authenticated() {
                End::MadeRoom
            } else {
                End::Evicted
            });
        }
        while self.look.as_mut().poll(context).is_ready() {
            let now = now();
            let again = self.peer.usage.judge(now)?;
            let stuck_at = self.io.socket().full_since().map(|since| since + STUCK_LAST);
            if stuck_at.is_some_and(|at| at <= now) {
                return Err(End::Stuck);
            }
            self.look.as_mut().reset(stuck_at.map_or(again, |at| at.min(again)));
        }
        Ok(())
    }

    /// What was read after the preface. It may be too much.
    fn count_read(&mut self, read: &[u8]) -> io::Result<()> {
        let Some(frames) = &mut self.frames else { return Ok(()) };
        let Err(end) = frames.read(read, &self.peer.usage) else { return Ok(()) };
        if self.ended.replace(end).is_none()
            && let Some(floods) = &self.floods
        {
            let agent =
                self.peer.agent.as_deref().map(|agent| &agent.identity.agent as &dyn std::fmt::Display);
            floods.note(self.peer.address, agent);
        }
        Err(io::Error::other(end))
    }

    /// What came of writing so many bytes.
    fn wrote(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if let (Poll::Ready(Ok(bytes)), Some(frames)) = (&written, &mut self.frames) {
            frames.wrote(*bytes);
        }
        self.written(context, written)
    }

    /// What came of writing. While nothing does, the connection may have to end.
    fn written<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_pending() {
            self.poll_end(context).map_err(io::Error::other)?;
        }
        written
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
        match self.poll_end(context) {
            Ok(()) => {
                let before = buffer.filled().len();
                ready!(both!(self, stream => Pin::new(stream).poll_read(context, buffer)))?;
                Poll::Ready(self.count_read(&buffer.filled()[before..]))
            }
            // As if the client had said goodbye, so that it is answered in kind.
            Err(End::Idle | End::MadeRoom) => Poll::Ready(Ok(())),
            Err(end) => Poll::Ready(Err(io::Error::other(end))),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = both!(self, stream => Pin::new(stream).poll_write(context, bytes));
        self.wrote(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = both!(self, stream => Pin::new(stream).poll_write_vectored(context, bytes));
        self.wrote(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Io::Plain(stream) => stream.is_write_vectored(),
            Io::Secured(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = both!(self, stream => Pin::new(stream).poll_flush(context));
        self.written(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = both!(self, stream => Pin::new(stream).poll_shutdown(context));
        self.written(context, done)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::AsyncWriteExt as _;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::listen::slots::{ConnectionSlots, SlotGrant};
    use crate::listen::usage::{IDLE_LAST, UNAUTHENTICATED_LIFETIME};
    use rcgen::{CertificateParams, KeyPair, SanType};

    #[test]
    fn one_party_has_one_network() {
        let of = |text: &str| network_of(text.parse().unwrap()).to_string();
        assert_eq!(of("192.0.2.1"), "192.0.2.1");
        assert_eq!(of("::ffff:192.0.2.1"), "192.0.2.1");
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(of("2001:db8:1:2::9"), of("2001:db8:1:2:ffff::"));
        assert_ne!(of("2001:db8:1:2::9"), of("2001:db8:1:3::9"));
    }

    /// A connection whose client has spoken its first words, and the client.
    async fn connection() -> (Connection, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        client.write_all(PREFACE).await.unwrap();
        let (stream, address) = listener.accept().await.unwrap();
        let SlotGrant::Free(slot) = ConnectionSlots::counted(1, None).take() else {
            unreachable!("there is one")
        };
        let socket = Socket::new(stream).unwrap();
        let mut connection = Connection::plain(socket, address, slot).greet().await.unwrap();
        connection.read_exact(&mut [0; PREFACE.len()]).await.unwrap();
        (connection, client)
    }

    fn somebody() -> Option<Holder> {
        Some(Holder::alone("somebody".into()))
    }

    async fn ends(connection: &mut Connection) -> (Option<End>, Duration) {
        let begun = now();
        let read = connection.read(&mut [0; 8]).await;
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
        (connection.ended, now() - begun)
    }

    #[tokio::test(start_paused = true)]
    async fn an_unauthenticated_connection_ends_in_a_minute() {
        let (mut connection, _client) = connection().await;
        assert_eq!(ends(&mut connection).await, (Some(End::Unauthenticated), UNAUTHENTICATED_LIFETIME));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_a_call_ends_as_if_its_client_had_gone() {
        let (mut connection, _client) = connection().await;
        drop(connection.peer.begin(somebody));
        assert_eq!(ends(&mut connection).await, (Some(End::Idle), IDLE_LAST));
    }

    #[tokio::test(start_paused = true)]
    async fn an_unauthenticated_client_makes_room_at_once() {
        let (mut connection, _client) = connection().await;
        connection.peer.usage.handle().lose();
        assert_eq!(ends(&mut connection).await, (Some(End::Evicted), Duration::ZERO));
    }

    #[tokio::test]
    async fn a_client_that_sends_frames_without_end_loses_its_connection() {
        let ping = [&[0, 0, 8, 6, 0, 0, 0, 0, 0][..], &[0; 8]].concat();
        for known in [false, true] {
            let (mut connection, mut client) = connection().await;
            let _call = known.then(|| connection.peer.begin(somebody));
            let (portion, length) = (ping.repeat(1000), ping.len());
            let flood = tokio::spawn(async move { while client.write_all(&portion).await.is_ok() {} });
            let mut read = 0;
            let error = loop {
                match connection.read(&mut [0; 4096]).await {
                    Ok(bytes) => read += bytes,
                    Err(error) => break error,
                }
            };
            assert!(error.to_string().contains("too many HTTP/2 frames"), "{error}");
            assert_eq!(connection.ended, Some(End::Flooding));
            let pings = read / length;
            assert!(
                if known { (9_000..12_000).contains(&pings) } else { (1_000..=2_000).contains(&pings) },
                "{pings}"
            );
            assert!(connection.read(&mut [0; 8]).await.is_err(), "it stays ended");
            drop(connection);
            flood.await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_who_holds_more_than_others_makes_room_as_if_it_had_gone() {
        let (mut connection, _client) = connection().await;
        drop(connection.peer.begin(somebody));
        connection.peer.usage.handle().lose();
        assert_eq!(ends(&mut connection).await, (Some(End::MadeRoom), Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_no_bytes_loses_its_connection() {
        let (mut connection, client) = connection().await;
        let _call = connection.peer.begin(somebody);
        let begun = now();
        let mut written = 0_usize;
        let error = loop {
            match connection.write(&[0; 65_536]).await {
                Ok(more) => written += more,
                Err(error) => break error,
            }
            assert!(written < 1 << 30, "somebody takes it");
        };
        assert!(error.to_string().contains("taken nothing"), "{error}");
        let after = now() - begun;
        assert!((STUCK_LAST..2 * STUCK_LAST).contains(&after), "{after:?}");
        drop(client);
    }

    fn certificate(names: &[&str]) -> Vec<u8> {
        let mut params = CertificateParams::default();
        let uri = |name: &&str| SanType::URI((*name).try_into().unwrap());
        params.subject_alt_names = names.iter().map(uri).collect();
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn an_agents_certificate_has_its_identity_as_its_only_name_and_nothing_after_it() {
        let identity = "spiffe://postrider/pool/eu/agent/agt-1";
        let read = |bytes: Vec<u8>| AgentCertificate::read(&bytes.into());
        let one = certificate(&[identity]);
        assert_eq!(read(one.clone()).unwrap().identity.to_string(), identity);
        assert_eq!(read([one, b"\n".to_vec()].concat()), None);
        assert_eq!(read(certificate(&[identity, "spiffe://postrider/pool/us/agent/agt-2"])), None);
        assert_eq!(read(certificate(&[])), None);
        assert_eq!(read(certificate(&["https://example.com/"])), None);
    }
}
