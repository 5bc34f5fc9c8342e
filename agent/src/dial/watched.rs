//! A stream that tells how its first read ended.
//!
//! In TLS 1.3 the client is done before the server has looked at its certificate, so a refusal comes with the first
//! read, in the midst of HTTP/2, which would only say that the connection is gone. The first byte read means that the
//! server has accepted us.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

/// See the [module](self).
pub(super) struct Watched<S> {
    stream: S,
    first: Option<oneshot::Sender<io::Result<()>>>,
    /// A write failed before anything was read.
    broken: Option<io::Error>,
}

impl<S> Watched<S> {
    /// `stream`, and how its first read will have ended.
    pub(super) fn new(stream: S) -> (Watched<S>, oneshot::Receiver<io::Result<()>>) {
        let (first, ended) = oneshot::channel();
        (Watched { stream, first: Some(first), broken: None }, ended)
    }

    /// Tells it, and gives back an error for who uses the stream.
    fn tell(&mut self, result: io::Result<()>) -> io::Error {
        let shown = match &result {
            Ok(()) => io::Error::other("nothing went wrong"),
            Err(error) => io::Error::new(error.kind(), error.to_string()),
        };
        if let Some(first) = self.first.take() {
            // Whoever dialled may have given up.
            let _nobody_waits = first.send(result);
        }
        shown
    }
}

impl<S: AsyncRead + Unpin> Watched<S> {
    /// Passes on how a write went. If it failed before anything was read, the other side has hung up, and what it said
    /// before is the better reason: that is waited for, and it cannot take long.
    fn explain<T>(&mut self, context: &mut Context<'_>, wrote: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match wrote {
            Poll::Ready(Err(error)) if self.first.is_some() => {
                let error = self.broken.take().unwrap_or(error);
                let mut byte = [0];
                match Pin::new(&mut self.stream).poll_read(context, &mut ReadBuf::new(&mut byte)) {
                    Poll::Ready(Err(reason)) => Poll::Ready(Err(self.tell(Err(reason)))),
                    Poll::Ready(Ok(())) => Poll::Ready(Err(self.tell(Err(error)))),
                    Poll::Pending => {
                        self.broken = Some(error);
                        Poll::Pending
                    }
                }
            }
            wrote => wrote,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if self.first.is_none() {
            return read;
        }
        match read {
            Poll::Ready(Ok(())) if buffer.filled().len() > before => {
                drop(self.tell(Ok(())));
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Ok(())) => {
                drop(self.tell(Err(io::ErrorKind::UnexpectedEof.into())));
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(self.tell(Err(error)))),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.explain(context, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.explain(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.explain(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    /// Reads end, at the second try, with what it says or just so; writes always fail.
    struct Broken(Option<&'static str>, bool);

    impl AsyncRead for Broken {
        fn poll_read(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            _: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            if !std::mem::replace(&mut self.1, true) {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            Poll::Ready(self.0.map_or(Ok(()), |reason| Err(io::Error::other(reason))))
        }
    }

    impl AsyncWrite for Broken {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn the_first_read_is_told_once() {
        let (near, mut far) = tokio::io::duplex(16);
        let (mut stream, first) = Watched::new(near);
        far.write_all(b"ab").await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'a');
        first.await.unwrap().unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'b');

        let (near, far) = tokio::io::duplex(16);
        let (mut stream, first) = Watched::new(near);
        drop(far);
        assert_eq!(stream.read(&mut [0; 4]).await.unwrap(), 0);
        assert_eq!(first.await.unwrap().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn what_was_said_before_the_end_explains_a_failed_write() {
        for (said, expected) in [(Some("because"), "because"), (None, "broken pipe")] {
            let (mut stream, first) = Watched::new(Broken(said, false));
            let seen = stream.write_all(b"x").await.unwrap_err().to_string();
            assert_eq!(
                (seen.as_str(), first.await.unwrap().unwrap_err().to_string().as_str()),
                (expected, expected)
            );
        }
    }
}
