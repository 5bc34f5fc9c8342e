//! What the client of one connection does with it, and when that is reason enough to end it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http_body::Body as _;
use tokio::time::Instant;
use tonic::body::Body;

use super::incoming::Incoming;
use super::slots::SlotHandle;

/// What a connection may last whose client does not show who it is: to enroll, or to ask how the server is, takes one call.
pub(super) const UNAUTHENTICATED_LIFETIME: Duration = Duration::from_secs(60);
/// Calls that such a client may make, in all and at once.
pub(super) const UNAUTHENTICATED_CALLS: u64 = 64;
pub(super) const UNAUTHENTICATED_CALLS_AT_ONCE: usize = 8;
/// How long a connection may be without a call.
pub(super) const IDLE_LAST: Duration = Duration::from_secs(300);
/// How long a client may take nothing of what it has asked for.
pub(super) const STUCK_LAST: Duration = Duration::from_secs(30);
/// How often that is looked at, at the least.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Bytes that a port may have received of messages that are not whole.
pub(super) const RECEIVING: usize = 256 * 1024 * 1024;
/// How often what is left free of them one connection may have: alone three quarters, and the next one finds some left.
const SHARE_FACTOR: usize = 3;

/// Why a connection is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum End {
    /// An unauthenticated one's, to make room, or for too many calls.
    #[error("evicted an unauthenticated connection to free a slot")]
    Evicted,
    /// That of one who is known, to make room for one who holds fewer.
    #[error("others, who hold fewer connections, need its slot")]
    MadeRoom,
    /// An unauthenticated one's, after [`UNAUTHENTICATED_LIFETIME`].
    #[error("its client has not shown in time who it is")]
    Unauthenticated,
    /// After [`IDLE_LAST`].
    #[error("nothing was called on it for 5 minutes")]
    Idle,
    /// After [`STUCK_LAST`].
    #[error("its client has taken nothing of what it asked for in 30 seconds")]
    Stuck,
    /// For too many frames that carry no body.
    #[error("its client has sent too many HTTP/2 frames that carry no body")]
    Flooding,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Usage {
    handle: Arc<SlotHandle>,
    came: Instant,
    calls: Mutex<Calls>,
}

#[derive(Debug)]
struct Calls {
    /// How many there have been.
    made: u64,
    open: usize,
    /// Since when none is open, or when the last one was opened.
    free_since: Instant,
    /// Calls whose client was given something and has not taken it yet, and since when.
    untaken: BTreeMap<u64, Instant>,
    /// Bytes received of messages that are not whole.
    receiving: usize,
}

impl Usage {
    /// Of a connection that has come now.
    pub(super) fn new(handle: Arc<SlotHandle>) -> Self {
        let came = now();
        let calls = Calls { made: 0, open: 0, free_since: came, untaken: BTreeMap::new(), receiving: 0 };
        Self { handle, came, calls: Mutex::new(calls) }
    }

    pub(super) fn handle(&self) -> &SlotHandle {
        &self.handle
    }

    /// How many calls there have been.
    pub(super) fn made(&self) -> u64 {
        self.calls().made
    }

    /// How long the connection has lasted.
    pub(super) fn age(&self, now: Instant) -> Duration {
        now.duration_since(self.came)
    }

    /// A call begins.
    pub(super) fn begin(self: &Arc<Self>) -> Call {
        let mut calls = self.calls();
        calls.made += 1;
        calls.open += 1;
        self.handle.begin();
        let many = calls.made > UNAUTHENTICATED_CALLS || calls.open > UNAUTHENTICATED_CALLS_AT_ONCE;
        if many && !self.handle.is_authenticated() {
            self.handle.lose();
        }
        Call { usage: self.clone(), number: calls.made, untaken: false }
    }

    /// So many bytes more are received of a message that is not whole; `false` when there is no room for them.
    pub(super) fn receive(&self, bytes: usize) -> bool {
        let mut calls = self.calls();
        let own = calls.receiving + bytes;
        let enough = self.handle.receive(bytes, |left| calls.receiving == 0 || own <= SHARE_FACTOR * left);
        if enough {
            calls.receiving = own;
        }
        enough
    }

    /// So many bytes are of a whole message now, or given up.
    pub(super) fn received(&self, bytes: usize) {
        if bytes > 0 {
            self.calls().receiving -= bytes;
            self.handle.received(bytes);
        }
    }

    #[cfg(test)]
    pub(super) fn receiving(&self) -> usize {
        self.calls().receiving
    }

    /// Whether the connection must end, or when to ask again.
    pub(super) fn judge(&self, now: Instant) -> Result<Instant, End> {
        let calls = self.calls();
        let newcomer = (!self.handle.is_authenticated())
            .then_some((self.came + UNAUTHENTICATED_LIFETIME, End::Unauthenticated));
        let idle = (calls.open == 0).then_some((calls.free_since + IDLE_LAST, End::Idle));
        let stuck = calls.untaken.values().min().map(|since| (*since + STUCK_LAST, End::Stuck));
        let mut again = now + LOOK_EVERY;
        for (at, end) in [newcomer, idle, stuck].into_iter().flatten() {
            if at <= now {
                return Err(end);
            }
            again = again.min(at);
        }
        Ok(again)
    }

    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call that is under way, until it is dropped.
#[derive(Debug)]
pub(super) struct Call {
    usage: Arc<Usage>,
    number: u64,
    untaken: bool,
}

impl Call {
    /// The request's body.
    pub(super) fn incoming(&self, body: Body) -> Body {
        if body.is_end_stream() { body } else { Body::new(Incoming::new(body, self.usage.clone())) }
    }

    /// The transport has got something for the client.
    pub(super) fn given(&mut self) {
        self.untaken = true;
        self.usage.calls().untaken.insert(self.number, now());
    }

    /// The transport wants more: the client has taken what there was.
    pub(super) fn taken(&mut self) {
        if std::mem::take(&mut self.untaken) {
            self.usage.calls().untaken.remove(&self.number);
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let mut calls = self.usage.calls();
        calls.untaken.remove(&self.number);
        calls.open -= 1;
        self.usage.handle.end();
        if calls.open == 0 {
            calls.free_since = now();
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "for tokio's own timer, which tests can stop")]
pub(super) fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listen::slots::{ConnectionSlot, ConnectionSlots, Holder, SlotGrant};
    use tokio::time::advance;

    const SECOND: Duration = Duration::from_secs(1);

    fn usage() -> (ConnectionSlot, Arc<Usage>) {
        let SlotGrant::Free(slot) = ConnectionSlots::counted(9, None).take() else {
            unreachable!("there are nine")
        };
        let usage = Arc::new(Usage::new(slot.handle().clone()));
        (slot, usage)
    }

    fn known() -> (ConnectionSlot, Arc<Usage>) {
        let (slot, usage) = usage();
        assert!(usage.handle().authenticate(&Holder::alone("somebody".into())));
        (slot, usage)
    }

    #[tokio::test(start_paused = true)]
    async fn an_unauthenticated_client_has_a_minute_whatever_it_does() {
        let (_slot, usage) = usage();
        let _call = usage.begin();
        assert_eq!(usage.judge(now()), Ok(now() + LOOK_EVERY));
        advance(UNAUTHENTICATED_LIFETIME - SECOND).await;
        assert_eq!(usage.judge(now()), Ok(now() + SECOND));
        advance(SECOND).await;
        assert_eq!(usage.judge(now()), Err(End::Unauthenticated));
    }

    #[tokio::test(start_paused = true)]
    async fn an_unauthenticated_client_has_few_calls_and_others_have_many() {
        let (_slot, newcomer) = usage();
        for _ in 0..UNAUTHENTICATED_CALLS {
            drop(newcomer.begin());
        }
        assert!(!newcomer.handle().lost().is_cancelled());
        drop(newcomer.begin());
        assert!(newcomer.handle().lost().is_cancelled());
        let (_slot, newcomer) = usage();
        let mut open: Vec<_> = (0..UNAUTHENTICATED_CALLS_AT_ONCE).map(|_| newcomer.begin()).collect();
        assert!(!newcomer.handle().lost().is_cancelled());
        open.push(newcomer.begin());
        assert!(newcomer.handle().lost().is_cancelled());
        let (_slot, known) = known();
        for _ in 0..10 * UNAUTHENTICATED_CALLS {
            drop(known.begin());
        }
        assert!(!known.handle().lost().is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_call_a_connection_ends_and_with_one_it_lasts() {
        let (_slot, usage) = known();
        advance(IDLE_LAST - SECOND).await;
        let call = usage.begin();
        advance(10 * IDLE_LAST).await;
        assert_eq!(usage.judge(now()), Ok(now() + LOOK_EVERY));
        drop(call);
        advance(IDLE_LAST - SECOND).await;
        assert_eq!(usage.judge(now()), Ok(now() + SECOND));
        advance(SECOND).await;
        assert_eq!(usage.judge(now()), Err(End::Idle));
    }

    #[tokio::test]
    async fn one_connection_has_a_share_of_what_may_be_received_and_leaves_some_to_the_next() {
        const STEP: usize = 64 * 1024;
        let slots = ConnectionSlots::counted(9, None);
        let of = || {
            let (SlotGrant::Free(slot) | SlotGrant::Evicted(slot)) = slots.take() else {
                unreachable!("there are nine")
            };
            let usage = Usage::new(slot.handle().clone());
            (slot, usage)
        };
        let fill = |usage: &Usage| (0..).take_while(|_| usage.receive(STEP)).count() * STEP;
        let [(_a, first), (_b, second), (_c, third)] = [(); 3].map(|()| of());
        assert_eq!(fill(&first), RECEIVING / 4 * 3);
        let left = RECEIVING / 4;
        let second_has = fill(&second);
        assert!((left / 2..=left / 4 * 3 + STEP).contains(&second_has), "{second_has}");
        assert!(fill(&third) > 0);
        first.received(first.receiving());
        assert!(fill(&third) > RECEIVING / 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_takes_what_it_asked_for_or_goes() {
        let (_slot, usage) = known();
        let (mut one, mut other) = (usage.begin(), usage.begin());
        one.given();
        advance(STUCK_LAST - SECOND).await;
        other.given();
        assert_eq!(usage.judge(now()), Ok(now() + SECOND));
        one.taken();
        advance(SECOND).await;
        assert_eq!(usage.judge(now()), Ok(now() + LOOK_EVERY));
        advance(STUCK_LAST - SECOND).await;
        assert_eq!(usage.judge(now()), Err(End::Stuck));
        drop(other);
        assert!(usage.judge(now()).is_ok());
    }
}
