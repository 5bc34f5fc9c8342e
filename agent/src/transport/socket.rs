//! A TCP connection to an endpoint, that knows what was sent and goes on reading after a write has failed.
//!
//! An endpoint may answer, or say goodbye, before it has read all that it was sent, and close. Then a write fails while
//! what it said is already here, and it counts: a 410, a `Retry-After`, a GOAWAY must not be lost to the write error. So a
//! failed write is not reported: it and all that follow are dropped, and what ends the exchange is what is read, be it the
//! end of the connection or an error. A connection on which a write has failed is not used again.

use std::io;
use std::os::fd::AsFd as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use rustix::net::{RecvFlags, recv};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Socket {
    tcp: TcpStream,
    wire: Arc<Wire>,
}

/// What happened on a connection, for its users.
#[derive(Debug, Default)]
pub(crate) struct Wire {
    sent: AtomicU64,
    broken: AtomicBool,
    check: AtomicBool,
}

impl Socket {
    pub(crate) fn new(tcp: TcpStream) -> Socket {
        Socket { tcp, wire: Arc::default() }
    }

    pub(crate) fn wire(&self) -> &Arc<Wire> {
        &self.wire
    }

    /// What a write of so many bytes is for its user.
    fn write(
        mut self: Pin<&mut Self>,
        bytes: usize,
        write: impl FnOnce(Pin<&mut TcpStream>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if self.wire.check.swap(false, Ordering::Relaxed) && !is_quiet(&self.tcp) {
            self.wire.broken.store(true, Ordering::Relaxed);
        }
        if self.wire.is_broken() {
            return Poll::Ready(Ok(bytes));
        }
        let wrote = ready!(write(Pin::new(&mut self.tcp)));
        match wrote {
            Ok(wrote) => {
                self.wire.sent.fetch_add(wrote as u64, Ordering::Relaxed);
                Poll::Ready(Ok(wrote))
            }
            Err(_read_will_tell) => {
                self.wire.broken.store(true, Ordering::Relaxed);
                Poll::Ready(Ok(bytes))
            }
        }
    }
}

/// Whether there is nothing to be read, not even the end. The runtime may not have heard of it yet.
fn is_quiet(tcp: &TcpStream) -> bool {
    let peeked = recv(tcp.as_fd(), &mut [0_u8; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT);
    matches!(peeked, Err(rustix::io::Errno::WOULDBLOCK))
}

impl Wire {
    /// How many bytes the system has taken, those of TLS included.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Whether a write has failed.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// The next write is the first of a request over a connection of HTTP/1.1 that was idle. If the endpoint has closed
    /// it, or said something unasked, nothing is sent any more.
    pub(crate) fn check_before_write(&self) {
        self.check.store(true, Ordering::Relaxed);
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(context, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.write(bytes.len(), |tcp| tcp.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let bytes = slices.iter().map(|slice| slice.len()).sum();
        self.write(bytes, |tcp| tcp.poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    async fn pair() -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (far, _) = listener.accept().await.unwrap();
        (Socket::new(near), far)
    }

    #[tokio::test]
    async fn what_was_said_before_a_write_failed_is_read() {
        let (mut near, mut far) = pair().await;
        near.write_all(b"abc").await.unwrap();
        assert_eq!((near.wire().sent(), near.wire().is_broken()), (3, false));
        far.write_all(b"bye").await.unwrap();
        // Unread bytes: a reset.
        drop(far);
        while !near.wire().is_broken() {
            near.write_all(b"d").await.unwrap();
            tokio::task::yield_now().await;
        }
        let sent = near.wire().sent();
        near.write_all(&[0; 100_000]).await.unwrap();
        assert_eq!(near.wire().sent(), sent, "it is dropped");
        let mut read = [0; 3];
        near.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"bye");
    }

    #[tokio::test]
    async fn nothing_is_sent_to_an_endpoint_that_has_closed_or_speaks_unasked() {
        for word in [&b""[..], b"HTTP/1.1 408 Request Timeout\r\n\r\n"] {
            let (mut near, mut far) = pair().await;
            near.wire().check_before_write();
            near.write_all(b"abc").await.unwrap();
            assert_eq!((near.wire().sent(), near.wire().is_broken()), (3, false));
            far.read_exact(&mut [0; 3]).await.unwrap();
            far.write_all(word).await.unwrap();
            drop(far);
            near.wire().check_before_write();
            near.write_all(b"abc").await.unwrap();
            assert_eq!((near.wire().sent(), near.wire().is_broken()), (3, true));
        }
    }
}
