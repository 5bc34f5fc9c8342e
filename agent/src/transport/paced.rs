//! What an endpoint sends, taken in portions.
//!
//! A connection's task goes on as long as there is something to read, so an endpoint that floods it with small frames
//! or interim responses would keep all other tasks of the thread from their turns, and deadlines from being noticed.
//! And neither HTTP/1.1 nor HTTP/2 sets a limit to interim responses before the one that counts, nor HTTP/2 to frames that
//! belong to no response, so both are counted here as they are read.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use postrider_domain::frames::Reader;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frames::Frames;

/// How much is read before others have their turn.
const PORTION: usize = 64 << 10;
/// How much may come before a response's headers have been read: these, what is read ahead of its body, and a reasonable
/// number of interim responses.
const MOST_BEFORE_HEAD: usize = 128 << 10;

/// A connection that reads in portions.
pub(crate) struct Paced<T> {
    io: T,
    in_a_row: usize,
    limit: Limit,
}

/// What bounds what is read.
enum Limit {
    Head(Arc<HeadLimit>),
    Frames(Reader, Arc<Frames>),
}

impl Limit {
    fn take(&mut self, read: &[u8]) -> io::Result<()> {
        match self {
            Limit::Head(head) => head.take(read.len()),
            Limit::Frames(reader, frames) => frames.charge(reader.read(read)),
        }
    }
}

/// Limits what is read before a response's headers. One for each connection, and set anew for each request.
#[derive(Debug)]
pub(crate) struct HeadLimit(AtomicUsize);

/// More than [`MOST_BEFORE_HEAD`] came.
#[derive(Debug, thiserror::Error)]
#[error("too much came before the response's headers")]
pub(crate) struct TooMuchBeforeHead;

impl HeadLimit {
    /// A request is about to be sent.
    pub(crate) fn set(&self) {
        self.0.store(MOST_BEFORE_HEAD, Ordering::Relaxed);
    }

    /// The response's headers have come.
    pub(crate) fn lift(&self) {
        self.0.store(usize::MAX, Ordering::Relaxed);
    }

    /// Two threads may race here when the limit is lifted, at the price of a few bytes.
    fn take(&self, bytes: usize) -> io::Result<()> {
        let left = self.0.load(Ordering::Relaxed);
        if left == usize::MAX {
            return Ok(());
        }
        let left = left.checked_sub(bytes).ok_or_else(|| io::Error::other(TooMuchBeforeHead))?;
        self.0.store(left, Ordering::Relaxed);
        Ok(())
    }
}

impl<T> Paced<T> {
    /// For HTTP/1.1, where one response follows the other, with what limits the headers of each.
    pub(crate) fn with_head_limit(io: T) -> (Paced<T>, Arc<HeadLimit>) {
        let limit = Arc::new(HeadLimit(AtomicUsize::new(MOST_BEFORE_HEAD)));
        (Paced { io, in_a_row: 0, limit: Limit::Head(Arc::clone(&limit)) }, limit)
    }

    /// For HTTP/2, which limits headers itself, with what limits all else that carries no body.
    pub(crate) fn with_frames(io: T) -> (Paced<T>, Arc<Frames>) {
        let frames = Arc::<Frames>::default();
        (Paced { io, in_a_row: 0, limit: Limit::Frames(Reader::default(), Arc::clone(&frames)) }, frames)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Paced<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.in_a_row >= PORTION {
            self.in_a_row = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let Poll::Ready(read) = Pin::new(&mut self.io).poll_read(context, buffer) else {
            self.in_a_row = 0;
            return Poll::Pending;
        };
        read?;
        let read = &buffer.filled()[before..];
        self.in_a_row += read.len();
        Poll::Ready(self.limit.take(read))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Paced<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::{Waker, ready};

    /// Reads `bytes` at once; says whether anything came.
    fn read<T: AsyncRead + Unpin>(io: &mut Paced<T>, bytes: usize) -> Poll<io::Result<usize>> {
        let mut memory = vec![0; bytes];
        let mut buffer = ReadBuf::new(&mut memory);
        ready!(Pin::new(io).poll_read(&mut Context::from_waker(Waker::noop()), &mut buffer))?;
        Poll::Ready(Ok(buffer.filled().len()))
    }

    #[test]
    fn others_have_their_turn_after_a_portion() {
        let (mut io, limit) = Paced::with_head_limit(tokio::io::repeat(b'x'));
        limit.lift();
        for _ in 0..3 {
            for _ in 0..4 {
                assert!(matches!(read(&mut io, PORTION / 4), Poll::Ready(Ok(n)) if n == PORTION / 4));
            }
            assert!(read(&mut io, 1).is_pending());
        }
    }

    #[test]
    fn frames_without_a_body_are_limited_by_the_requests_under_way() {
        let ping = [&[0, 0, 8, 6, 0, 0, 0, 0, 0][..], &[0; 8]].concat();
        let portion = ping.repeat(PORTION / ping.len());
        let portions = |requests: usize| {
            let (mut io, frames) = Paced::with_frames(std::io::Cursor::new(portion.repeat(100)));
            let turns: Vec<_> = (0..requests).map(|_| frames.begin()).collect();
            let mut whole = 0;
            loop {
                match read(&mut io, portion.len()) {
                    Poll::Ready(Ok(bytes)) => whole += bytes,
                    Poll::Ready(Err(error)) => {
                        assert!(error.get_ref().unwrap().is::<postrider_domain::frames::TooMany>());
                        assert!(turns.iter().all(super::super::frames::Turn::is_flooded));
                        return whole / portion.len();
                    }
                    Poll::Pending => {}
                }
            }
        };
        assert_eq!([portions(0), portions(1), portions(10)], [0, 2, 26]);
    }

    #[test]
    fn what_comes_before_a_head_is_limited_anew_for_each_request() {
        let (mut io, limit) = Paced::with_head_limit(tokio::io::repeat(b'x'));
        let mut read = |bytes| loop {
            if let Poll::Ready(read) = read(&mut io, bytes) {
                return read;
            }
        };
        for _ in 0..2 {
            limit.set();
            assert_eq!(read(MOST_BEFORE_HEAD).unwrap(), MOST_BEFORE_HEAD);
            let error = read(1).unwrap_err();
            assert!(error.get_ref().unwrap().is::<TooMuchBeforeHead>());
            limit.lift();
            assert_eq!(read(2 * MOST_BEFORE_HEAD).unwrap(), 2 * MOST_BEFORE_HEAD);
        }
    }
}
