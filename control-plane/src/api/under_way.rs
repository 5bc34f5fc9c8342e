//! The calls that are under way: how many there may be of one token, and whose they may be when they are many.
//!
//! A call counts until its answer is handed over, a stream until it ends. One token has a limit of its own; beyond that all
//! share what the server takes on ([`postrider_domain::shares`]): tenants equally, and a token that is confined to none as a
//! tenant. Some room is always left for those with few calls.

use std::hash::Hash;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use ahash::HashMap;
use bytes::Bytes;
use http_body::Frame;
use postrider_domain::access::Scope;
use postrider_domain::shares::Shares;
use tonic::Status;
use tonic::body::Body;

use super::access::Caller;
use crate::metrics::Metrics;

/// Calls of one token unless settings say otherwise.
pub const MAX_OF_TOKEN: usize = 256;
/// Calls in all. A tenant that has fewer than a few always finds room.
const SHARES: Shares = Shares { capacity: 8192, reserve: 1024, few: 16 };

/// See the [module](self).
pub(super) struct UnderWay {
    max_of_token: usize,
    taken: Mutex<Taken>,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Taken {
    all: usize,
    tokens: HashMap<Arc<str>, usize>,
    tenants: HashMap<Arc<str>, usize>,
}

/// A call that is counted, until it is dropped.
pub(super) struct Counted {
    under_way: Arc<UnderWay>,
    token: Arc<str>,
    tenant: Arc<str>,
}

impl UnderWay {
    pub(super) fn new(max_of_token: usize, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self { max_of_token, taken: Mutex::default(), metrics })
    }

    /// So many one token may have.
    pub(super) fn max_of_token(&self) -> usize {
        self.max_of_token
    }

    /// Counts a call, if the caller may make one more.
    pub(super) fn begin(self: &Arc<Self>, caller: &Caller) -> Option<Counted> {
        let token = caller.actor.clone();
        let tenant = match &caller.scope {
            Scope::Tenant(tenant) => tenant.as_str().into(),
            Scope::Everything | Scope::Nothing => token.clone(),
        };
        let mut taken = self.taken();
        let of = |uses: &HashMap<Arc<str>, usize>, name: &Arc<str>| uses.get(name).copied().unwrap_or(0);
        let (of_token, of_tenant) = (of(&taken.tokens, &token), of(&taken.tenants, &tenant));
        if of_token >= self.max_of_token || !SHARES.admits(taken.all, of_tenant, &[of_tenant]) {
            drop(taken);
            self.metrics.limits.refused("calls");
            return None;
        }
        taken.all += 1;
        *taken.tokens.entry(token.clone()).or_default() += 1;
        *taken.tenants.entry(tenant.clone()).or_default() += 1;
        self.metrics.limits.calls.inc();
        Some(Counted { under_way: self.clone(), token, tenant })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.under_way.metrics.limits.calls.dec();
        let mut taken = self.under_way.taken();
        taken.all -= 1;
        one_less(&mut taken.tokens, &self.token);
        one_less(&mut taken.tenants, &self.tenant);
    }
}

fn one_less<K: Eq + Hash>(uses: &mut HashMap<K, usize>, name: &K) {
    let Some(count) = uses.get_mut(name) else { return };
    *count -= 1;
    if *count == 0 {
        uses.remove(name);
    }
}

/// An answer whose call counts until all of it is handed over.
pub(super) fn until_answered(answer: http::Response<Body>, counted: Counted) -> http::Response<Body> {
    if http_body::Body::is_end_stream(answer.body()) {
        return answer;
    }
    answer.map(|body| Body::new(Answer { body, _counted: counted }))
}

struct Answer {
    body: Body,
    _counted: Counted,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(token: &str, tenant: Option<&str>) -> Caller {
        let scope = tenant.map_or(Scope::Everything, |tenant| Scope::Tenant(tenant.parse().expect("an id")));
        Caller { actor: token.into(), scope, ..Caller::postrider() }
    }

    fn fill(under_way: &Arc<UnderWay>, caller: &Caller) -> Vec<Counted> {
        std::iter::from_fn(|| under_way.begin(caller)).take(2 * SHARES.capacity).collect()
    }

    #[test]
    fn a_token_has_so_many_and_gets_them_again() {
        let under_way = UnderWay::new(256, Arc::default());
        let (one, other) = (caller("tok_1", Some("acme")), caller("tok_2", Some("acme")));
        let mut calls = fill(&under_way, &one);
        assert_eq!(calls.len(), 256);
        assert!(under_way.begin(&other).is_some());
        calls.pop();
        calls.push(under_way.begin(&one).expect("one has ended"));
        assert!(under_way.begin(&one).is_none());
        drop(calls);
        let taken = under_way.taken();
        assert!(taken.all == 0 && taken.tokens.is_empty() && taken.tenants.is_empty());
    }

    #[test]
    fn a_call_counts_until_its_answer_is_handed_over() {
        let under_way = UnderWay::new(1, Arc::default());
        let one = caller("tok_1", None);
        let counted = under_way.begin(&one).expect("the first");
        let body = Body::new(http_body_util::Full::new(Bytes::from_static(b"x")));
        let answer = until_answered(http::Response::new(body), counted);
        assert!(under_way.begin(&one).is_none());
        drop(answer);
        let counted = under_way.begin(&one).expect("the first has ended");
        let _nothing_to_hand_over = until_answered(http::Response::new(Body::empty()), counted);
        assert!(under_way.begin(&one).is_some());
    }

    #[test]
    fn a_tenant_with_many_tokens_leaves_room_for_others() {
        let under_way = UnderWay::new(256, Arc::default());
        let flood = |tenant: &'static str| -> usize {
            let tokens = (0..100).map(|number| caller(&format!("tok_{tenant}{number}"), Some(tenant)));
            let calls: Vec<Counted> = tokens.flat_map(|token| fill(&under_way, &token)).collect();
            let count = calls.len();
            std::mem::forget(calls);
            count
        };
        let alone = flood("evil");
        assert!((SHARES.capacity / 2..SHARES.capacity).contains(&alone), "{alone}");
        let second = flood("worse");
        assert!(second >= 256 && alone + second <= SHARES.capacity, "{second}");
        let honest = caller("tok_acme", Some("acme"));
        let calls: Vec<Counted> = (0..SHARES.few).filter_map(|_| under_way.begin(&honest)).collect();
        assert_eq!(calls.len(), SHARES.few);
        assert!(under_way.begin(&caller("tok_platform", None)).is_some());
    }
}
