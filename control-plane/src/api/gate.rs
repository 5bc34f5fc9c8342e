//! The gate in front of the API: who calls, whether the caller may, and for how long it is worked on.
//!
//! A change is carried through even when its caller goes away or its deadline passes: what is in
//! memory must follow what was written. A read waits for its turn, and ends when its caller
//! disconnects.

mod shared;

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Extensions, HeaderMap, header};
use postrider_domain::token::{Kind, Token};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};
use tracing::{Instrument as _, Span, error, info_span};

use super::access::{Caller, Way, judge, way};
use super::failures::Failures;
use super::status;
use super::under_way::{Counted, MAX_OF_TOKEN, UnderWay, until_answered};
use crate::clock::Clock;
use crate::listen::Peer;
use crate::metrics::Metrics;
use crate::metrics::reads::ReadCounts;
use crate::reads::Reads;
use crate::tokens::{TokenStatus, Tokens};

/// What anybody may ask: whether the server is well, and what it serves.
const OPEN: [&str; 2] = ["grpc.health.", "grpc.reflection."];
/// How long a call is worked on, a stream until it has begun. A client may want less.
const DEADLINE: Duration = Duration::from_secs(30);
/// The call that reads a whole log, and how long it may take.
const LONG: (&str, Duration) = ("postrider.v1.AuditService/VerifyAuditLog", Duration::from_secs(600));

/// Stands in front of the API.
#[derive(Clone)]
pub struct Gate {
    admission: Arc<Admission>,
    /// The changes that calls have begun.
    changes: TaskTracker,
    /// Gives reads their turns.
    reads: Reads,
    /// The calls that are counted; without tokens nobody's are.
    under_way: Option<Arc<UnderWay>>,
}

struct Admission {
    /// Without tokens everybody is let in: for development, on loopback only.
    tokens: Option<Arc<Tokens>>,
    /// Who calls then.
    anonymous: Caller,
    clock: Clock,
    failures: Failures,
}

/// A call that is let in.
struct Admitted {
    caller: Caller,
    way: Way,
    deadline: Duration,
}

impl Gate {
    /// A gate that knows these tokens. `None` lets everybody in.
    #[must_use]
    pub fn new(tokens: Option<Arc<Tokens>>, clock: Clock) -> Self {
        let under_way = tokens.is_some().then(|| UnderWay::new(MAX_OF_TOKEN, Arc::default()));
        let anonymous = Caller { actor: "anonymous".into(), ..Caller::postrider() };
        let failures = Failures::new(clock);
        let admission = Arc::new(Admission { tokens, anonymous, clock, failures });
        let reads = Reads::new(CancellationToken::new(), ReadCounts::default());
        Self { admission, changes: TaskTracker::new(), reads, under_way }
    }

    /// The same gate, at which reads take these turns.
    #[must_use]
    pub fn sharing(self, reads: Reads) -> Self {
        Self { reads, ..self }
    }

    /// The same gate, at which each token may have so many calls under way.
    #[must_use]
    pub fn limited(self, max_token_calls: usize, metrics: Arc<Metrics>) -> Self {
        let under_way = self.under_way.map(|_| UnderWay::new(max_token_calls, metrics));
        Self { under_way, ..self }
    }

    fn count(&self, caller: &Caller) -> Result<Option<Counted>, Status> {
        let Some(under_way) = &self.under_way else { return Ok(None) };
        under_way.begin(caller).map(Some).ok_or_else(|| status::too_many_calls(under_way.max_of_token()))
    }

    /// The same gate, whose changes belong to this tracker: a stop waits for them.
    #[must_use]
    pub fn tracked(self, changes: TaskTracker) -> Self {
        Self { changes, ..self }
    }
}

impl Admission {
    /// Judges a call by its path, such as `/postrider.v1.EventService/Emit`. `None` for what is open to anybody.
    fn admit(
        &self,
        path: &str,
        headers: &HeaderMap,
        extensions: &Extensions,
    ) -> Result<Option<Admitted>, Status> {
        let call = path.strip_prefix('/').unwrap_or(path);
        if OPEN.iter().any(|open| call.starts_with(open)) {
            return Ok(None);
        }
        let address = extensions.get::<Peer>().map(|peer| peer.address.ip());
        let caller = self.identify(headers, address)?;
        let permission = judge(&caller, call)?;
        let longest = if call == LONG.0 { LONG.1 } else { DEADLINE };
        let deadline = wanted_timeout(headers).map_or(longest, |wanted| wanted.min(longest));
        Ok(Some(Admitted { caller, way: way(call, permission), deadline }))
    }

    fn identify(&self, headers: &HeaderMap, address: Option<IpAddr>) -> Result<Caller, Status> {
        let Some(tokens) = &self.tokens else { return Ok(Caller { address, ..self.anonymous.clone() }) };
        let token = read_token(headers).map_err(|status| self.failures.count(address, status))?;
        let found = tokens.recognise(&token, self.clock.wall());
        let found = found.ok_or_else(|| self.failures.count(address, status::unknown_token()))?;
        Ok(Caller {
            actor: found.actor,
            role: found.row.role,
            scope: found.row.scope.clone(),
            address,
            token_status: found.token_status,
        })
    }
}

fn read_token(headers: &HeaderMap) -> Result<Token, Status> {
    let mut lines = headers.get_all(header::AUTHORIZATION).iter();
    let line = lines.next();
    if lines.next().is_some() {
        return Err(status::several_tokens());
    }
    let text = line.and_then(|value| value.to_str().ok());
    let (scheme, text) = text.and_then(|text| text.split_once(' ')).ok_or_else(status::no_token)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(status::no_token());
    }
    Token::parse(Kind::Api, text.trim()).map_err(|error| status::malformed_token(&error))
}

/// `grpc-timeout`: up to 8 digits and a unit. What is no such thing is left out, as gRPC servers do; so are several.
fn wanted_timeout(headers: &HeaderMap) -> Option<Duration> {
    let mut lines = headers.get_all("grpc-timeout").iter();
    let text = lines.next().filter(|_| lines.next().is_none())?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let count: u64 = Some(digits).filter(|digits| digits.len() <= 8)?.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

impl<S> Layer<S> for Gate {
    type Service = Gated<S>;

    fn layer(&self, inner: S) -> Gated<S> {
        Gated { gate: self.clone(), inner }
    }
}

/// A service behind the gate.
#[derive(Clone)]
pub struct Gated<S> {
    gate: Gate,
    inner: S,
}

type Answer<E> = Result<http::Response<Body>, E>;

impl<S> Service<http::Request<Body>> for Gated<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Answer<S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let admitted =
            self.gate.admission.admit(request.uri().path(), request.headers(), request.extensions());
        match admitted {
            Ok(None) => Box::pin(self.inner.call(request)),
            Ok(Some(Admitted { caller, way, deadline })) => {
                let counted = match self.gate.count(&caller) {
                    Ok(counted) => counted,
                    Err(status) => return Box::pin(std::future::ready(Ok(status.into_http()))),
                };
                let (token_status, reader) = (caller.token_status.clone(), caller.reader());
                request.extensions_mut().insert(caller);
                let span = info_span!("change", call = request.uri().path());
                let (changes, reads) = (self.gate.changes.clone(), self.gate.reads.clone());
                let answer = self.inner.call(request);
                Box::pin(async move {
                    let work = async {
                        match way {
                            Way::Read => shared::read(answer, reads, reader, token_status).await,
                            Way::Waited => shared::until_ended(answer, &token_status).await,
                            Way::Emit => answer.await,
                            Way::Change => change(answer, token_status, (changes, span)).await,
                        }
                    };
                    let answered = tokio::time::timeout(deadline, async { work.await.map(explained) }).await;
                    let answered = answered.unwrap_or_else(|_| Ok(status::too_late(deadline).into_http()))?;
                    Ok(match counted {
                        Some(counted) => until_answered(answered, counted),
                        None => answered,
                    })
                })
            }
            Err(status) => Box::pin(std::future::ready(Ok(status.into_http()))),
        }
    }
}

/// Waits for the answer of a change. It is a task of its own, so that it ends even when nobody
/// waits any more; how many of them one token has under way is bounded.
async fn change<E: Send + 'static>(
    answer: impl Future<Output = Answer<E>> + Send + 'static,
    token_status: Arc<TokenStatus>,
    (changes, span): (TaskTracker, Span),
) -> Answer<E> {
    let permit = token_status.changes.clone().acquire_owned().await;
    let change = async move {
        let answered = answer.await;
        drop(permit);
        answered
    };
    let change = changes.spawn(change.instrument(span));
    change.await.unwrap_or_else(|error| {
        error!(%error, "a call failed with an internal error");
        Ok(status::fault().into_http())
    })
}

/// Says what to do next about a message that was too large to be read: the transport's own words do not.
fn explained(answer: http::Response<Body>) -> http::Response<Body> {
    let Some(refused) = Status::from_header_map(answer.headers()) else { return answer };
    if refused.code() == Code::OutOfRange { status::too_large(refused.message()).into_http() } else { answer }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(gate: &Gate, path: &str, headers: &HeaderMap) -> Result<Option<Admitted>, Status> {
        gate.admission.admit(path, headers, &Extensions::new())
    }

    #[test]
    fn without_tokens_at_the_gate_nobody_is_turned_away() {
        let open = Gate::new(None, Clock::start());
        let none = HeaderMap::new();
        let admitted = |path| admitted(&open, path, &none);
        assert!(admitted("/postrider.v1.EventService/Emit").unwrap().is_some());
        assert!(admitted("/grpc.health.v1.Health/Check").unwrap().is_none());
        for strange in ["/postrider.v1.EventService/Emot", "//postrider.v1.EventService/Emit", "", "/"] {
            assert_eq!(admitted(strange).err().unwrap().code(), Code::Unimplemented, "{strange}");
        }
    }

    #[test]
    fn a_token_comes_as_a_bearer() {
        let read = |text: &str| {
            let headers = HeaderMap::from_iter([(header::AUTHORIZATION, text.parse().unwrap())]);
            read_token(&headers).map(|token| token.id())
        };
        let id = "tok_01kgevqh2m00000000000000000".get(..30).unwrap().parse().unwrap();
        let token = Token::new(Kind::Api, id, [7; 32]).expose_text();
        for scheme in ["Bearer", "bearer", "BEARER"] {
            assert_eq!(read(&format!("{scheme} {}", token.as_str())).unwrap(), id);
        }
        for wrong in [token.as_str(), "Bearer", &format!("Basic {}", token.as_str()), "Bearer prt_x"] {
            let refused = read(wrong).unwrap_err();
            assert_eq!(refused.code(), Code::Unauthenticated);
            assert!(!refused.message().contains("prt_x") && !refused.message().contains("0707"));
        }
        assert!(read_token(&HeaderMap::new()).is_err());
        let line = || (header::AUTHORIZATION, format!("Bearer {}", token.as_str()).parse().unwrap());
        let mut headers = HeaderMap::from_iter([line()]);
        assert!(read_token(&headers).is_ok());
        headers.append(header::AUTHORIZATION, line().1);
        let refused = read_token(&headers).unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
        assert!(refused.message().contains("more than once"), "{}", refused.message());
    }

    #[test]
    fn a_client_may_shorten_its_deadline_and_not_lengthen_it() {
        let open = Gate::new(None, Clock::start());
        let deadline = |call: &str, wanted: &str| {
            let headers = HeaderMap::from_iter([("grpc-timeout".parse().unwrap(), wanted.parse().unwrap())]);
            let path = format!("/postrider.v1.{call}");
            admitted(&open, &path, &headers).unwrap().unwrap().deadline
        };
        let emit = "EventService/Emit";
        for (wanted, expected) in [
            ("250m", Duration::from_millis(250)),
            ("2S", Duration::from_secs(2)),
            ("100u", Duration::from_micros(100)),
            ("5n", Duration::from_nanos(5)),
            ("1M", DEADLINE),
            ("99999999H", DEADLINE),
            ("123456789S", DEADLINE),
            ("S", DEADLINE),
            ("-1S", DEADLINE),
            ("1X", DEADLINE),
            ("", DEADLINE),
        ] {
            assert_eq!(deadline(emit, wanted), expected, "{wanted}");
        }
        assert_eq!(deadline("AuditService/VerifyAuditLog", "1H"), LONG.1);
        let mut headers = HeaderMap::new();
        headers.append("grpc-timeout", "2S".parse().unwrap());
        assert_eq!(wanted_timeout(&headers), Some(Duration::from_secs(2)));
        headers.append("grpc-timeout", "1S".parse().unwrap());
        assert_eq!(wanted_timeout(&headers), None);
    }
}
