//! A layer around everything that is served on a port: it tells a connection which calls are under way on it, whether
//! their client is known, and whether it takes what it is given.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Extensions, Request, Response};
use http_body::Frame;
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use super::connection::Peer;
use super::slots::Holder;
use super::usage::Call;
use crate::api::status;

/// What is handed to the transport at once. The rest of a large message waits here, where it is seen to wait.
const PIECE: usize = 16 * 1024;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct Calls {
    /// Who makes a request, if that is somebody known.
    pub caller: fn(&Extensions) -> Option<Holder>,
}

impl<S> Layer<S> for Calls {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted { calls: *self, inner }
    }
}

/// A service whose calls are counted.
#[derive(Clone, Debug)]
pub struct Counted<S> {
    calls: Calls,
    inner: S,
}

impl<S> Service<Request<Body>> for Counted<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let extensions = request.extensions();
        let Some(peer) = extensions.get::<Peer>() else { return Box::pin(self.inner.call(request)) };
        let Some(call) = peer.begin(|| (self.calls.caller)(extensions)) else {
            return Box::pin(async { Ok(status::too_many_connections().into_http()) });
        };
        let answer = self.inner.call(request.map(|body| call.incoming(body)));
        Box::pin(async move { Ok(answer.await?.map(|body| counted(body, call))) })
    }
}

fn counted(body: Body, call: Call) -> Body {
    if http_body::Body::is_end_stream(&body) {
        return body;
    }
    Body::new(Answer { body, waiting: Bytes::new(), call })
}

/// An answer: the call is under way until it is dropped.
struct Answer {
    body: Body,
    waiting: Bytes,
    call: Call,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.call.taken();
        if self.waiting.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.waiting = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                ended => return Poll::Ready(ended),
            }
        }
        let piece = self.waiting.len().min(PIECE);
        let piece = self.waiting.split_to(piece);
        self.call.given();
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.waiting.is_empty() && self.body.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http_body::Body as _;

    use super::*;
    use crate::listen::slots::{ConnectionSlots, Holder, SlotGrant};
    use crate::listen::usage::{STUCK_LAST, Usage, now};

    struct Whole(Option<Bytes>);

    impl http_body::Body for Whole {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Ready(self.0.take().map(|data| Ok(Frame::data(data))))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_answer_is_handed_over_in_pieces_and_waits_for_its_client() {
        let SlotGrant::Free(slot) = ConnectionSlots::counted(1, None).take() else {
            unreachable!("there is one")
        };
        let usage = Arc::new(Usage::new(slot.handle().clone()));
        assert!(usage.handle().authenticate(&Holder::alone("somebody".into())));
        let data: Bytes = (0..40_000_u32).flat_map(u32::to_le_bytes).collect();
        let mut answer = counted(Body::new(Whole(Some(data.clone()))), usage.begin());
        let mut got = Vec::new();
        let mut context = Context::from_waker(std::task::Waker::noop());
        while let Poll::Ready(Some(frame)) = Pin::new(&mut answer).poll_frame(&mut context) {
            let piece = frame.unwrap().into_data().unwrap();
            assert!(piece.len() <= PIECE);
            got.extend_from_slice(&piece);
            let given = now();
            assert!(usage.judge(given + STUCK_LAST).is_err(), "nobody has asked for the next one");
        }
        assert_eq!(got, data);
        assert!(usage.judge(now() + STUCK_LAST).is_ok());
        drop(answer);
    }
}
