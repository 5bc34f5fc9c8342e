//! Reads at the gate: each waits for its turn, ends with its token, and counts until its caller has
//! taken the answer.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt as _;
use tonic::Status;
use tonic::body::Body;

use super::Answer;
use crate::api::status;
use crate::reads::{self, Reader, Reads};
use crate::tokens::TokenStatus;

/// The bytes that are given to the connection at once: no more than these wait there for a caller
/// that does not read.
const PIECE: usize = 16 * 1024;
/// Answers of at most this size do not count once they are made: a connection holds as much anyway.
const SMALL: usize = 16 * 1024;

/// Waits for a turn, then for the answer.
pub(super) async fn read<E>(
    answer: impl Future<Output = Answer<E>>,
    reads: Reads,
    reader: Reader,
    token_status: Arc<TokenStatus>,
) -> Answer<E> {
    let made = async {
        let turn = match reads.turn(&reader).await {
            Ok(turn) => turn,
            Err(busy) => return Ok(status::busy(busy).into_http()),
        };
        let (head, body) = answer.await?.into_parts();
        let taken = match body.collect().await {
            Ok(collected) => {
                let trailers = collected.trailers().cloned();
                Taken::new(collected.to_bytes(), trailers, |bytes| turn.answered(bytes))
            }
            Err(status) => return Ok(status.into_http()),
        };
        Ok(http::Response::from_parts(head, Body::new(taken)))
    };
    until_ended(made, &token_status).await
}

/// The answer, unless the token ends before. What makes it is dropped then.
pub(super) async fn until_ended<E>(
    answer: impl Future<Output = Answer<E>>,
    token_status: &TokenStatus,
) -> Answer<E> {
    tokio::select! {
        biased;
        () = token_status.ended.cancelled() => Ok(status::token_ended().into_http()),
        answered = answer => answered,
    }
}

/// An answer that is given in pieces, so that it is known when the last one was taken.
struct Taken {
    data: Bytes,
    trailers: Option<HeaderMap>,
    counted: Option<reads::Answer>,
}

impl Taken {
    fn new(data: Bytes, trailers: Option<HeaderMap>, count: impl FnOnce(usize) -> reads::Answer) -> Self {
        let bytes = if data.len() > SMALL { data.len() } else { 0 };
        let counted = Some(count(bytes)).filter(|_| bytes > 0);
        Self { data, trailers, counted }
    }
}

impl HttpBody for Taken {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.data.is_empty() {
            self.counted = None;
            return Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))));
        }
        let piece = self.data.len().min(PIECE);
        Poll::Ready(Some(Ok(Frame::data(self.data.split_to(piece)))))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_empty() && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.data.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use postrider_domain::turns::Who;
    use tokio_util::sync::CancellationToken;
    use tonic::Code;

    use super::*;
    use crate::metrics::reads::ReadCounts;
    use crate::reads::Name;

    fn reader() -> Reader {
        let name = Name::Token("tok_1".into());
        Who { party: name.clone(), member: name }
    }

    fn answer(bytes: usize) -> http::Response<Body> {
        http::Response::new(Body::new(
            http_body_util::Full::new(Bytes::from(vec![7; bytes])).map_err(|never| match never {}),
        ))
    }

    async fn read_once(reads: &Reads, bytes: usize) -> http::Response<Body> {
        let made: Answer<Status> =
            read(std::future::ready(Ok(answer(bytes))), reads.clone(), reader(), Arc::default()).await;
        made.unwrap()
    }

    #[tokio::test]
    async fn an_answer_is_given_in_pieces_and_counts_until_the_last_one_is_taken() {
        let counts = ReadCounts::default();
        let reads = Reads::new(CancellationToken::new(), counts);
        let small = read_once(&reads, SMALL).await;
        assert_eq!(reads.bytes(), 0, "it is small");
        assert_eq!(small.into_body().collect().await.unwrap().to_bytes().len(), SMALL);
        let mut large = read_once(&reads, 100_000).await.into_body();
        let mut found = 0;
        while let Some(frame) = large.frame().await {
            let piece = frame.unwrap().into_data().unwrap();
            assert!(piece.len() <= PIECE && reads.bytes() == 100_000);
            found += piece.len();
        }
        assert_eq!((found, reads.bytes()), (100_000, 0));
        let untaken = read_once(&reads, 100_000).await;
        drop(untaken);
        assert_eq!(reads.bytes(), 0, "its caller has gone");
    }

    #[tokio::test]
    async fn a_read_ends_with_its_token_and_leaves_nothing() {
        let reads = Reads::new(CancellationToken::new(), ReadCounts::default());
        let token_status = Arc::new(TokenStatus::default());
        let never = std::future::pending::<Answer<Status>>();
        let read = read(never, reads.clone(), reader(), token_status.clone());
        let (refused, ()) = tokio::join!(read, async { token_status.ended.cancel() });
        let status = Status::from_header_map(refused.unwrap().headers()).unwrap();
        assert_eq!((status.code(), reads.load()), (Code::Unauthenticated, (0, 0)));
    }
}
