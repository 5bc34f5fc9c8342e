//! Reads a response within bounds: the status decides, the rest is for people to look at.
//!
//! An endpoint may be hostile or broken: endless, slow or huge. What is kept is bounded in bytes and in time;
//! what is not read closes the connection.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http::header::{
    CONTENT_LENGTH, CONTENT_TYPE, DATE, HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER, SERVER,
};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use postrider_domain::egress::{Code, EndpointUrl, Refusal};
use tokio::time::timeout_at;

use super::Response;
use crate::clock::Instant;

/// Time for reading a body. Its status is known already, so this only delays the report.
const BODY_TIME: Duration = Duration::from_secs(2);
/// No more than this after the attempt's deadline: an attempt ends within a second after it.
const BODY_GRACE: Duration = Duration::from_millis(750);
/// No more of a body is kept, whatever is asked for.
const MAX_KEPT: usize = 64 << 10;
/// A body is read on up to this, so that its connection can be used again.
const MAX_READ: usize = 64 << 10;
/// All kept headers together, names and values.
const MAX_HEADERS_KEPT: usize = 4 << 10;

/// The headers of use to whoever debugs an endpoint, or to the retry schedule.
static KEPT: [HeaderName; KEPT_NAMES.len()] = [
    RETRY_AFTER,
    CONTENT_TYPE,
    CONTENT_LENGTH,
    LOCATION,
    SERVER,
    DATE,
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("cf-ray"),
];
const KEPT_NAMES: [&str; 8] =
    ["retry-after", "content-type", "content-length", "location", "server", "date", "x-request-id", "cf-ray"];

/// Those in which an endpoint hardly repeats what it was sent.
const HARMLESS: [&str; 4] = ["retry-after", "content-type", "content-length", "date"];

/// How much of a response is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    /// The first bytes of the body, and headers.
    Shown {
        /// How many.
        bytes: usize,
    },
    /// Status and harmless headers only: the request had credentials of the agent's owner in it, and many servers
    /// repeat a request's headers in their error pages.
    Hidden,
}

/// When to stop reading a body whose headers arrived `now`.
pub(crate) fn body_deadline(now: Instant, attempt_deadline: Instant) -> Instant {
    (now + BODY_TIME).min(attempt_deadline + BODY_GRACE)
}

/// What is kept of `response`, and whether it was read to its end.
pub(crate) async fn read(response: http::Response<Incoming>, keep: Keep, until: Instant) -> (Response, bool) {
    let (head, mut body) = response.into_parts();
    let mut headers = kept_headers(&head.headers);
    let limit = match keep {
        Keep::Shown { bytes } => bytes.min(MAX_KEPT),
        Keep::Hidden => {
            headers.retain(|(name, _)| HARMLESS.contains(name));
            0
        }
    };
    let mut kept = Kept { bytes: Bytes::new(), more: None, limit };
    let complete = if body.is_end_stream() {
        true
    } else {
        timeout_at(until, drain(&mut body, &mut kept)).await.unwrap_or(false)
    };
    (Response { status: head.status.as_u16(), headers, body: kept.into_bytes() }, complete)
}

/// The refusal to follow the response, if it leads elsewhere. Its path may hold a secret, so it is not said.
pub(crate) fn redirect(status: StatusCode, headers: &HeaderMap) -> Option<Refusal> {
    let location = headers.get(LOCATION).filter(|_| status.is_redirection())?;
    let target = location.to_str().ok().and_then(|location| EndpointUrl::parse(location).ok());
    let subject = match target {
        Some(target) => format!("the redirect to {}", target.origin()),
        None => "the redirect".to_owned(),
    };
    Some(Refusal::new(Code::RedirectNotFollowed, subject))
}

/// How long the server keeps the connection open, if it says so, and a second less: for Node.js that is 5 s, and
/// a request that meets the server's farewell would be an unknown outcome.
pub(crate) fn idle_time(headers: &HeaderMap) -> Duration {
    let said = headers.get("keep-alive").and_then(|value| value.to_str().ok());
    let timeout = said.and_then(|said| said.split(',').find_map(|part| part.trim().strip_prefix("timeout=")));
    match timeout.map(str::parse) {
        None => Duration::MAX,
        Some(Ok(seconds)) => Duration::from_secs(seconds).saturating_sub(Duration::from_secs(1)),
        Some(Err(_)) => Duration::ZERO,
    }
}

/// Reads the body to its end or its bound. A body that breaks off is not the end of it.
async fn drain(body: &mut Incoming, kept: &mut Kept) -> bool {
    let mut read = 0;
    while read < MAX_READ {
        match body.frame().await {
            None => return true,
            Some(Err(_)) => return false,
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    read += data.len();
                    kept.add(data);
                }
            }
        }
        if body.is_end_stream() {
            return true;
        }
    }
    false
}

/// The first bytes of a body. Most bodies come in one piece, which is kept as it is.
struct Kept {
    bytes: Bytes,
    more: Option<BytesMut>,
    limit: usize,
}

impl Kept {
    fn add(&mut self, mut data: Bytes) {
        let so_far = self.more.as_ref().map_or(self.bytes.len(), BytesMut::len);
        data.truncate(self.limit - so_far);
        if data.is_empty() {
            return;
        }
        if so_far == 0 {
            self.bytes = data;
            return;
        }
        let first = &self.bytes;
        self.more.get_or_insert_with(|| BytesMut::from(&first[..])).extend_from_slice(&data);
    }

    /// Copied, since a piece shares its memory with the connection's whole read buffer, and an outcome may
    /// have to be kept for long.
    fn into_bytes(self) -> Bytes {
        match self.more {
            Some(more) => more.freeze(),
            None => Bytes::copy_from_slice(&self.bytes),
        }
    }
}

fn kept_headers(headers: &HeaderMap) -> Vec<(&'static str, String)> {
    // A walk over the few that came is cheaper than eight look-ups. Only the first of each counts.
    let mut found = [None; KEPT_NAMES.len()];
    for (name, value) in headers {
        if let Some(at) = KEPT.iter().position(|kept| kept == name) {
            found[at].get_or_insert(value);
        }
    }
    let mut kept = Vec::with_capacity(found.iter().flatten().count());
    let mut left = MAX_HEADERS_KEPT;
    for (value, name) in found.into_iter().zip(KEPT_NAMES) {
        // Only what is text.
        let Some(value) = value.and_then(|value: &HeaderValue| value.to_str().ok()) else { continue };
        let Some(rest) = left.checked_sub(name.len() + value.len()) else { continue };
        left = rest;
        kept.push((name, value.to_owned()));
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_headers_are_listed_and_bounded() {
        for (name, text) in KEPT.iter().zip(KEPT_NAMES) {
            assert_eq!(name.as_str(), text);
        }
        let mut headers = HeaderMap::new();
        headers.insert("set-cookie", HeaderValue::from_static("secret"));
        headers.insert("server", HeaderValue::from_static("nginx"));
        headers.insert("location", HeaderValue::from_str(&"x".repeat(5000)).unwrap());
        headers.append("retry-after", HeaderValue::from_static("7"));
        headers.append("retry-after", HeaderValue::from_static("8"));
        headers.insert("cf-ray", HeaderValue::from_bytes(b"\xff").unwrap());
        assert_eq!(kept_headers(&headers), [("retry-after", "7".to_owned()), ("server", "nginx".to_owned())]);
    }

    #[test]
    fn a_redirect_names_its_target_without_its_path() {
        let refusal = |status: u16, location: &'static str| {
            let headers = HeaderMap::from_iter([(LOCATION, HeaderValue::from_static(location))]);
            redirect(StatusCode::from_u16(status).unwrap(), &headers).map(|refusal| refusal.to_string())
        };
        let told = refusal(302, "https://hooks.example.com/s3cret").unwrap();
        assert!(told.starts_with("the redirect to https://hooks.example.com was not followed"), "{told}");
        for location in ["/s3cret", "https://u:s3cret@a.example/", "ftp://a"] {
            assert!(
                refusal(308, location).unwrap().starts_with("the redirect was not followed"),
                "{location}"
            );
        }
        assert_eq!(refusal(200, "https://hooks.example.com/"), None);
        assert_eq!(redirect(StatusCode::NOT_MODIFIED, &HeaderMap::new()), None);
    }

    #[test]
    fn a_server_says_how_long_it_waits() {
        let with = |value: &'static str| {
            idle_time(&HeaderMap::from_iter([(
                "keep-alive".parse().unwrap(),
                HeaderValue::from_static(value),
            )]))
        };
        assert_eq!(idle_time(&HeaderMap::new()), Duration::MAX);
        assert_eq!(with("timeout=5"), Duration::from_secs(4));
        assert_eq!(with("max=3, timeout=20"), Duration::from_secs(19));
        assert_eq!(with("max=3"), Duration::MAX);
        assert_eq!(with("timeout=0"), Duration::ZERO);
        assert_eq!(with("timeout=soon"), Duration::ZERO);
    }

    #[test]
    fn kept_bytes_stop_at_the_limit() {
        let mut kept = Kept { bytes: Bytes::new(), more: None, limit: 5 };
        for piece in ["ab", "", "cd", "ef", "gh"] {
            kept.add(Bytes::from(piece));
        }
        assert_eq!(kept.into_bytes(), "abcde");
        let mut nothing = Kept { bytes: Bytes::new(), more: None, limit: 0 };
        nothing.add(Bytes::from("ab"));
        assert!(nothing.into_bytes().is_empty());
    }
}
