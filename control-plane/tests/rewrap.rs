//! Rewraps of a store: everything is moved, changes go on, kills do no harm, and former keys open nothing afterwards.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is how a failure is reported")]

#[path = "rewrap/kill.rs"]
mod kill;

#[path = "rewrap/world.rs"]
mod world;

use std::sync::Arc;

use postrider_control_plane::secrets::rewrap::State;
use postrider_control_plane::secrets::{SecretsError, data_keys, open_subscription, seal_subscription};
use postrider_domain::sealed::{Context, DataKey, KeyBytes};
use postrider_domain::time::Timestamp;

use crate::world::{Files, World, entry, id, subscription};

#[tokio::test]
async fn everything_is_moved_and_the_former_key_opens_nothing() {
    let files = Files::new();
    let world = World::open(&files, &[1]).await;
    world.plant(120).await;
    let before = world.store.data_keys().await.unwrap().remove(0);
    let authority = world.authorities.trusted()[0].pin;
    drop(world);
    let world = World::open(&files, &[2, 1]).await;
    assert_eq!(world.sealer.kek(), before.kek, "a new key alone moves nothing");
    world.rewrap().await;
    let progress = world.rewrapper.progress();
    // Each has a key and headers; every tenth has a retiring key too. And there is the authority.
    assert_eq!((progress.state, progress.values, progress.done), (State::Done, 253, 253));
    for row in world.store.subscriptions(None, 1000).await.unwrap() {
        assert!(row.sealed().all(|sealed| world.sealer.is_current(sealed)));
    }
    let rows = world.store.authorities().await.unwrap();
    assert!(rows.iter().all(|row| world.sealer.is_current(&row.sealed_key)));
    world.check(120).await;
    world.store.close().await.unwrap();
    drop(world);
    assert!(!files.hold(&before.wrapped), "the former data key is still in the store's files");
    let error = World::try_open(&files, &[1]).await.err().unwrap();
    let SecretsError::KekMissing { wanted, given, .. } = &error else { panic!("{error}") };
    assert_eq!(wanted, &files.kek_id(2));
    assert!(given.contains(files.kek_id(1).as_str()), "{error}");
    assert!(error.to_string().contains(files.kek_id(2).as_str()), "{error}");
    let world = World::open(&files, &[2]).await;
    world.check(120).await;
    assert_eq!(world.authorities.trusted()[0].pin, authority, "it is another one");
}

#[tokio::test]
async fn changes_go_on_while_it_runs_and_none_is_lost() {
    let files = Files::new();
    let world = Arc::new(World::open(&files, &[1]).await);
    world.plant(150).await;
    world.rewrapper.begin(entry("RewrapSecrets")).await.unwrap();
    let rewrapping = tokio::spawn({
        let world = world.clone();
        async move { world.rewrapper.run().await }
    });
    // Each is changed once more, last to first, and some are new: the way the API does it.
    for number in (0..180).rev() {
        let _change = world.registry.change().await;
        let mut changed = subscription(number);
        changed.subscription.description = "changed".to_owned();
        let row = seal_subscription(&world.sealer, &changed);
        world.store.put_subscription(&row, None, entry("UpdateSubscription")).await.unwrap();
        world.registry.put(changed);
    }
    while world.rewrapper.progress().state != State::Done {
        tokio::task::yield_now().await;
    }
    rewrapping.abort();
    let rows = world.store.subscriptions(None, 1000).await.unwrap();
    assert_eq!(rows.len(), 180);
    for (number, row) in (0..).zip(rows) {
        assert!(row.sealed().all(|sealed| world.sealer.is_current(sealed)));
        let opened = open_subscription(&world.sealer, row).unwrap();
        assert_eq!(opened.subscription.description, "changed");
        assert_eq!(opened.keys, subscription(number).keys);
    }
}

#[tokio::test]
async fn a_second_call_joins_the_first_and_a_later_one_begins_anew() {
    let files = Files::new();
    let world = World::open(&files, &[1]).await;
    world.plant(3).await;
    for _ in 0..3 {
        world.rewrapper.begin(entry("RewrapSecrets")).await.unwrap();
        assert_eq!(world.store.data_keys().await.unwrap().len(), 2);
    }
    world.rewrap().await;
    let first = world.sealer.current();
    world.rewrapper.begin(entry("RewrapSecrets")).await.unwrap();
    world.rewrap().await;
    assert_ne!(world.sealer.current(), first);
    let actions: Vec<(String, String)> = world.audit().await;
    let expected = [
        ("CreateDataKey", "postrider"),
        ("CreateAuthority", "postrider"),
        ("RewrapSecrets", "tok_1"),
        ("RemoveDataKeys", "postrider"),
        ("RewrapSecrets", "tok_1"),
        ("RemoveDataKeys", "postrider"),
    ];
    assert_eq!(actions, expected.map(|(action, actor)| (action.to_owned(), actor.to_owned())));
}

#[tokio::test]
async fn a_key_that_cannot_be_asked_leaves_everything_as_it_was() {
    let files = Files::new();
    World::open(&files, &[1]).await.plant(2).await;
    // Nobody listens there.
    let world =
        World::open_with(&files, &["vault:http://127.0.0.1:9/transit/keys/a".to_owned(), files.kek(1)]).await;
    let error = world.unwrap().rewrapper.begin(entry("RewrapSecrets")).await.unwrap_err();
    assert!(error.to_string().contains("cannot be reached"), "{error}");
    let world = World::open(&files, &[1]).await;
    assert_eq!(world.store.data_keys().await.unwrap().len(), 1);
    world.check(2).await;
}

#[tokio::test]
async fn a_value_that_does_not_open_ends_it_and_nothing_is_removed() {
    let files = Files::new();
    let world = World::open(&files, &[1]).await;
    world.plant(60).await;
    // As if somebody had moved one subscription's headers to another.
    let mut rows = world.store.subscriptions(None, 1000).await.unwrap();
    rows[55].headers = rows[54].headers.clone();
    world.store.reseal_subscriptions(rows).await.unwrap();
    world.rewrapper.begin(entry("RewrapSecrets")).await.unwrap();
    let run = world.rewrapper.run();
    let failed = async {
        while world.rewrapper.progress().state != State::Failed {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! { () = run => {}, () = failed => {} }
    let problem = world.rewrapper.progress().problem;
    assert!(problem.contains(&format!("subscription-headers of {}", id(55))), "{problem}");
    assert_eq!(world.store.data_keys().await.unwrap().len(), 2);
    drop(world);
    let error = World::try_open(&files, &[1]).await.err().unwrap().to_string();
    assert!(error.contains(&id(55).to_string()) && error.contains("backup"), "{error}");
}

#[tokio::test]
async fn a_store_that_another_key_was_planted_in_is_found_out() {
    let files = Files::new();
    let world = World::open(&files, &[1]).await;
    // A second data key, under the right key-encryption key, of somebody who did not have the first one.
    let kek = world.keks.current();
    let planted = DataKey::new(
        postrider_domain::id::DataKeyId::new(Timestamp::MAX, 1),
        kek.id().clone(),
        KeyBytes::new([1; 32]),
    );
    let mut row = world.store.data_keys().await.unwrap().remove(0);
    row.id = planted.id();
    row.wrapped = kek.wrap(&planted).await.unwrap();
    row.canary = planted.seal(&Context::DigestKey, [2; 24], &[3; 32]);
    world.store.put_data_key(&row, entry("CreateDataKey")).await.unwrap();
    let error = data_keys::open(&*world.store, &world.keks, Timestamp::default()).await.err().unwrap();
    assert!(matches!(error, SecretsError::Canary { .. }), "{error}");
}
