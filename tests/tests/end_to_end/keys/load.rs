//! Rotation and immediate revocation under load, retries included.

use std::time::Duration;

use anyhow::{Result, ensure};
use postrider_domain::signing::Secret;
use postrider_proto::v1::{self, DeliveryState};
use postrider_tests::api::retries;
use postrider_tests::emitter::{Emitter, Load};
use postrider_tests::receiver::{Answer, Post};
use postrider_tests::world::World;

use super::{HOUR, Keys, header, signed_with};

/// Events that are acknowledged between two changes of the keys.
const BETWEEN: usize = 600;
const LOAD: Load = Load { events: 4 * BETWEEN, per_second: 200 };

/// Whether each key has signed a POST, and the second in which it was signed.
struct Seen {
    second: i64,
    keys: Vec<bool>,
}

fn see(post: &Post, secrets: &[Secret]) -> Result<Seen> {
    let verifies =
        |secret: &Secret| signed_with(post, |list, id, time| secret.verifies(list, id, time, &post.body));
    let keys = secrets.iter().map(verifies).collect::<Result<_>>()?;
    Ok(Seen { second: header(post, "webhook-timestamp")?.parse()?, keys })
}

/// The seconds in which a change began and was acknowledged. What was signed in them may be either.
struct Change {
    began: i64,
    done: i64,
}

async fn change<T>(what: impl Future<Output = Result<T>>) -> Result<(T, Change)> {
    let began = seconds();
    let made = what.await?;
    Ok((made, Change { began, done: seconds() }))
}

#[expect(clippy::disallowed_methods, reason = "it is compared with the wall clock's time in signatures")]
fn seconds() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[tokio::test]
async fn receivers_with_only_the_old_or_only_the_new_key_fail_nothing_and_revocation_is_immediate()
-> Result<()> {
    let world = World::start().await?;
    // A third of the POSTs are to be repeated: what waits in the queue is signed anew. Not every third, which a queue in
    // which two kinds take turns could meet with the same deliveries again and again.
    let is_repeated = |number: usize| (number.wrapping_mul(2_654_435_761) >> 9).is_multiple_of(3);
    let second = Duration::from_secs(1);
    let wanted = v1::Subscription { retry_policy: retries([second; 20]), ..v1::Subscription::default() };
    let route = world.subscribe_with("/in", wanted).await?;
    let answers =
        (0..LOAD.events * 2).map(|number| Answer::Status(if is_repeated(number) { 503 } else { 204 }));
    world.receiver.script("/in", answers.chain([Answer::Status(204)]));
    let keys = Keys { api: &world.api, subscription: route.subscription.clone() };
    let first = keys.list().await?[0].id.clone();

    let mut emitter = Emitter::start(world.api.clone(), LOAD);
    emitter.acknowledged(BETWEEN).await?;
    let ((_, middle), rotated) = change(keys.rotate("", HOUR)).await?;
    emitter.acknowledged(2 * BETWEEN).await?;
    let ((), revoked) = change(async { Ok(keys.revoke(&first).await?) }).await?;
    emitter.acknowledged(3 * BETWEEN).await?;
    let ((_, last), replaced) = change(keys.rotate("", Duration::ZERO)).await?;
    let ledger = emitter.done().await?;
    world.api.all_ended(Duration::from_secs(60)).await?;

    let secrets = [&route.secret, &middle, &last].map(|secret| Secret::parse(secret));
    let secrets: Vec<Secret> = secrets.into_iter().collect::<Result<_, _>>()?;
    let posts = world.receiver.posts();
    let seen: Vec<Seen> = posts.iter().map(|post| see(post, &secrets)).collect::<Result<_>>()?;
    let expected = [
        (i64::MIN, rotated.began, [true, false, false]),
        (rotated.done, revoked.began, [true, true, false]),
        (revoked.done, replaced.began, [false, true, false]),
        (replaced.done, i64::MAX, [false, false, true]),
    ];
    for (after, before, expected) in expected {
        let phase: Vec<_> = seen.iter().filter(|seen| after < seen.second && seen.second < before).collect();
        ensure!(phase.len() > 100, "only {} POSTs between {after} and {before}", phase.len());
        let wrong = phase.iter().filter(|seen| seen.keys != expected).count();
        ensure!(wrong == 0, "{wrong} of {} POSTs are not signed as {expected:?}", phase.len());
    }
    ensure!(seen.iter().all(|seen| seen.keys.iter().any(|signed| *signed)), "a POST that no key has signed");
    ensure!(posts.iter().any(|post| post.answered == 503), "nothing was repeated");
    let exhausted = world.api.deliveries_in(&[DeliveryState::Exhausted]).await?;
    ensure!(exhausted.is_empty(), "{} deliveries are exhausted", exhausted.len());
    ensure!(ledger.events().len() == LOAD.events, "{} events were taken", ledger.events().len());
    Ok(())
}
