//! Sends a request over a connection, and tells what came of it.

use std::error::Error as _;

use http::header::HOST;
use http::{Response, Version};
use hyper::body::Incoming;

use super::repeats::NotProcessed;
use super::{Post, Target, Trace};
use crate::clock::now;
use crate::transport::Phase;
use crate::transport::connector::MAX_HEADERS;
use crate::transport::failure::Failure;
use crate::transport::pool::{Lease, Sender};

const HTTP1: &str = "HTTP/1.1";

/// Why there is no response.
pub(super) enum Unanswered {
    /// The request may have been processed, or the response is of no use.
    Failed(Failure),
    /// The request was not processed: it may be sent again.
    NotProcessed(NotProcessed),
}

/// Sends `post` once.
pub(super) async fn send(
    lease: &mut Lease,
    post: Post,
    target: &Target,
    trace: &mut Trace,
) -> Result<Response<Incoming>, Unanswered> {
    let began = now();
    let post = addressed(post, target, &lease.sender);
    trace.sending(lease);
    if lease.reused && matches!(lease.sender, Sender::Http1(..)) {
        lease.wire.check_before_write();
    }
    let sent_before = lease.wire.sent();
    let sent = match &mut lease.sender {
        Sender::Http1(connection) => {
            connection.head_limit.set();
            let sent = connection.sender.try_send_request(post).await;
            connection.head_limit.lift();
            sent
        }
        Sender::Http2(sender, ..) => sender.try_send_request(post).await,
    };
    match sent {
        Ok(response) if response.headers().len() > MAX_HEADERS => {
            Err(Unanswered::Failed(Failure::protocol("the response's headers are too large")))
        }
        Ok(response) => {
            trace.first_byte = Some(now() - began);
            Ok(response)
        }
        Err(mut error) => {
            let never_sent = error.take_message().is_some()
                // The system took nothing since, of this request or another.
                || (trace.http_version == HTTP1 && lease.wire.sent() == sent_before);
            let failed = error.into_error();
            let why = not_processed(&failed, never_sent, lease.reused);
            trace.request_sent = why.is_none();
            Err(match why {
                Some(why) => Unanswered::NotProcessed(why),
                None if is_flooded(&lease.sender) => Unanswered::Failed(Failure::flooded()),
                None => Unanswered::Failed(Failure::http(&failed)),
            })
        }
    }
}

/// Whether the connection was closed for all that the endpoint sent beside responses.
fn is_flooded(sender: &Sender) -> bool {
    matches!(sender, Sender::Http2(_, _, turn) if turn.is_flooded())
}

/// Whether an error says that the request was not processed.
fn not_processed(error: &hyper::Error, never_sent: bool, reused: bool) -> Option<NotProcessed> {
    let h2 = error.source().and_then(|source| source.downcast_ref::<h2::Error>());
    if let Some(h2) = h2.filter(|h2| h2.is_remote()) {
        match h2.reason() {
            Some(h2::Reason::HTTP_1_1_REQUIRED) => return Some(NotProcessed::Http1Required),
            Some(h2::Reason::REFUSED_STREAM) if h2.is_reset() => return Some(NotProcessed::Refused),
            // h2 gives this error to the streams above the last one of the GOAWAY, and to those that were never opened.
            // Those below end with the connection, by another error.
            _ if h2.is_go_away() => return Some(NotProcessed::GoingAway),
            _ => {}
        }
    }
    never_sent.then_some(NotProcessed::Closed { new: !reused })
}

impl Trace {
    /// Notes that a request is on its way over `lease`.
    fn sending(&mut self, lease: &Lease) {
        self.phase = Phase::Response;
        self.request_sent = true;
        self.peer = Some(lease.facts.peer);
        self.tls_version = lease.facts.tls_version;
        self.http_version = match lease.sender {
            Sender::Http1(..) => HTTP1,
            Sender::Http2(..) => "HTTP/2",
        };
    }
}

/// Gives the request the form that the connection's protocol wants.
fn addressed(mut post: Post, target: &Target, sender: &Sender) -> Post {
    match sender {
        Sender::Http1(..) => {
            *post.uri_mut() = target.origin_form.clone();
            post.headers_mut().insert(HOST, target.host.clone());
        }
        Sender::Http2(..) => {
            *post.uri_mut() = target.absolute_form.clone();
            *post.version_mut() = Version::HTTP_2;
            post.headers_mut().remove(HOST);
        }
    }
    post
}
