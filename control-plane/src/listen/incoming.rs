//! What is received of messages that are not whole yet: bounded for a port, in fair shares of its connections.
//!
//! A message is worked on when it is whole; until then its client alone decides how long it takes. Streams and sizes bound
//! what one connection may have begun, but that, times the connections that there may be, is more than a machine has.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::Frame;
use tonic::Status;
use tonic::body::Body;

use super::usage::Usage;
use crate::api::status;

/// The flag and the length in front of each message. Source: the gRPC protocol over HTTP/2, 'Length-Prefixed-Message'.
const HEAD: usize = 5;

/// The body of a request, whose bytes count for its connection while they are part of a message that is not whole.
pub(super) struct Incoming {
    body: Body,
    usage: Arc<Usage>,
    message: Begun,
    counted: usize,
}

impl Incoming {
    pub(super) fn new(body: Body, usage: Arc<Usage>) -> Self {
        Self { body, usage, message: Begun::default(), counted: 0 }
    }

    fn count(&mut self, data: &[u8]) -> Result<(), Status> {
        let begun = self.message.read(data);
        if begun > self.counted {
            if !self.usage.receive(begun - self.counted) {
                return Err(status::too_much_at_once());
            }
        } else {
            self.usage.received(self.counted - begun);
        }
        self.counted = begun;
        Ok(())
    }
}

impl http_body::Body for Incoming {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(data) = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref())
            && let Err(status) = self.count(data)
        {
            return Poll::Ready(Some(Err(status)));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.usage.received(self.counted);
    }
}

/// How much of a message is there.
#[derive(Debug, Default)]
struct Begun {
    head: [u8; HEAD],
    /// Bytes that are there, the head among them.
    there: usize,
}

impl Begun {
    /// Reads on; how many bytes are there then of a message that is not whole.
    fn read(&mut self, mut data: &[u8]) -> usize {
        while !data.is_empty() {
            let wanted = self.wanted();
            let taken = data.len().min(wanted - self.there);
            if self.there < HEAD {
                self.head[self.there..self.there + taken].copy_from_slice(&data[..taken]);
            }
            self.there += taken;
            data = &data[taken..];
            if self.there >= HEAD && self.there == self.wanted() {
                self.there = 0;
            }
        }
        self.there
    }

    /// Up to where it is known what comes.
    fn wanted(&self) -> usize {
        if self.there < HEAD {
            return HEAD;
        }
        let [_, length @ ..] = self.head;
        HEAD.saturating_add(usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listen::slots::{ConnectionSlots, SlotGrant};
    use http_body::Body as _;
    use proptest::prelude::*;

    fn message(length: usize) -> Vec<u8> {
        let head = u32::try_from(length).unwrap().to_be_bytes();
        [&[0], &head[..], &vec![7; length]].concat()
    }

    proptest! {
        #[test]
        fn what_is_there_of_a_message_is_known_however_it_comes(
            lengths in prop::collection::vec(0_usize..300, 1..8),
            sizes in prop::collection::vec(1_usize..64, 1..100),
        ) {
            let bytes: Vec<u8> = lengths.iter().flat_map(|length| message(*length)).collect();
            let ends: Vec<usize> = lengths.iter().scan(0, |end, length| { *end += HEAD + length; Some(*end) }).collect();
            let (mut begun, mut at) = (Begun::default(), 0);
            for size in sizes.iter().cycle() {
                let next = (at + size).min(bytes.len());
                let there = begun.read(&bytes[at..next]);
                at = next;
                let last = ends.iter().copied().filter(|end| *end <= at).max().unwrap_or(0);
                prop_assert_eq!(there, at - last);
                if at == bytes.len() {
                    break;
                }
            }
        }
    }

    #[tokio::test]
    async fn what_was_received_is_given_back_when_the_message_is_whole_or_dropped() {
        let SlotGrant::Free(slot) = ConnectionSlots::counted(1, None).take() else {
            unreachable!("there is one")
        };
        let usage = Arc::new(Usage::new(slot.handle().clone()));
        let whole = message(1000);
        for cut in [10, 1005] {
            let data = Bytes::copy_from_slice(&whole[..cut]);
            let body = Body::new(http_body_util::Full::new(data));
            let mut incoming = Incoming::new(body, usage.clone());
            let mut context = Context::from_waker(std::task::Waker::noop());
            assert!(Pin::new(&mut incoming).poll_frame(&mut context).is_ready());
            assert_eq!(usage.receiving(), if cut == 10 { 10 } else { 0 });
            drop(incoming);
            assert_eq!(usage.receiving(), 0);
        }
    }
}
