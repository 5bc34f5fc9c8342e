//! The queue of events is shared: whoever fills it waits, and nobody else does.

use bytes::Bytes;
use postrider_control_plane::emit::{EmitError, Submitted};
use postrider_control_plane::store::Accept;
use postrider_domain::event::{Attributes, Event, content_digest};
use postrider_domain::id::EventKey;
use postrider_domain::time::Timestamp;

use crate::world::World;

const LARGE: usize = 256 * 1024;

pub(crate) fn accept(tenant: &str, bytes: usize) -> Accept {
    let now = Timestamp::from_millis(1_770_028_200_000);
    let key = EventKey::new(now, rand::random());
    let event_type: postrider_domain::event::EventTypeName = "a.b".parse().unwrap();
    let data = Bytes::from(vec![b'1'; bytes]);
    let content = content_digest(&event_type, None, None, &data, &Attributes::default(), None);
    let tenant = tenant.parse().unwrap();
    let event = Event {
        key,
        id: key.into(),
        tenant,
        event_type,
        timestamp: now.into(),
        accepted: now,
        data,
        attributes: Attributes::default(),
        ordering_key: None,
        trace: None,
    };
    Accept {
        event,
        client_chosen: false,
        idempotency: None,
        content,
        subscriptions: Vec::new(),
        max_stored: None,
    }
}

/// Hands in large events until that is refused.
fn flood(world: &World, tenant: &str) -> (Vec<Submitted>, EmitError) {
    let mut submitted = Vec::new();
    loop {
        match world.api.emitter.try_submit(accept(tenant, LARGE)) {
            Ok(one) => submitted.push(one),
            Err(error) => return (submitted, error),
        }
    }
}

#[tokio::test]
async fn whoever_comes_next_waits_for_two_writes_and_not_for_the_flood() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::start(folder.path()).await;
    world.store.hold("accept");
    let (floods, refused) = flood(&world, "flood");
    assert!(matches!(refused, EmitError::ShareUsed), "{refused}");
    let bytes = floods.len() * LARGE;
    assert!((40 << 20..56 << 20).contains(&bytes), "a tenant alone has most of the queue: {bytes}");
    let quiet = world.api.emitter.try_submit(accept("quiet", 100)).unwrap();
    assert!(world.api.emitter.would_take(&"quiet".parse().unwrap(), 100).is_ok());
    assert!(world.api.emitter.would_take(&"flood".parse().unwrap(), LARGE).is_err());
    let waiting = tokio::spawn({
        let emitter = world.api.emitter.clone();
        async move { emitter.submit(accept("flood", LARGE)).await.unwrap().done().await }
    });
    // The group that was being written when it came, and the next one.
    world.store.held.add_permits(2);
    quiet.done().await.unwrap();
    let left = floods.len() - 8;
    assert!(!waiting.is_finished());
    world.store.held.add_permits(left);
    for one in floods {
        one.done().await.unwrap();
    }
    waiting.await.unwrap().unwrap();
    world.end().await;
}

#[tokio::test]
async fn several_floods_share_the_queue_evenly() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::start(folder.path()).await;
    world.store.hold("accept");
    let mut taken = [0_usize; 4];
    let mut submitted = Vec::new();
    // In turns, as they come.
    loop {
        let mut any = false;
        for (number, taken) in taken.iter_mut().enumerate() {
            if let Ok(one) = world.api.emitter.try_submit(accept(&format!("flood-{number}"), LARGE)) {
                submitted.push(one);
                *taken += 1;
                any = true;
            }
        }
        if !any {
            break;
        }
    }
    let (least, most) = (taken.iter().min().unwrap(), taken.iter().max().unwrap());
    assert!(most - least <= 1 && *least >= 40, "{taken:?}");
    assert!(world.api.emitter.try_submit(accept("quiet", LARGE)).is_ok());
    world.store.held.add_permits(1000);
    for one in submitted {
        one.done().await.unwrap();
    }
    world.end().await;
}

#[tokio::test]
async fn nothing_waits_for_a_committer_that_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::start(folder.path()).await;
    world.store.hold("accept");
    let (floods, _) = flood(&world, "flood");
    let emitter = world.api.emitter.clone();
    let waiting: Vec<_> = (0..5)
        .map(|_| {
            let emitter = emitter.clone();
            tokio::spawn(async move { emitter.submit(accept("flood", LARGE)).await.map(drop) })
        })
        .collect();
    tokio::task::yield_now().await;
    world.end().await;
    for one in waiting {
        assert!(matches!(one.await.unwrap(), Err(EmitError::Stopping)));
    }
    for one in floods {
        assert!(matches!(one.done().await, Err(EmitError::Stopping)));
    }
    assert!(matches!(emitter.try_submit(accept("flood", 1)), Err(EmitError::Stopping)));
}
