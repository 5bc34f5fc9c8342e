//! What endpoints of another tenant can do to the agent that both tenants use: hang, fail, and answer without end.

use std::time::Duration;

use anyhow::Result;
use postrider_proto::v1::{self, Role};
use postrider_tests::api::{duration, event};
use postrider_tests::receiver::Answer;

use crate::street::{EVIL, Street};

/// Gives the evil tenant so many subscriptions in the pool that both use, whose endpoints answer like this, and events
/// for them.
async fn besiege(street: &Street, subscriptions: usize, answer: &Answer) -> Result<()> {
    let operator = street.attacker(Role::Operator).await?;
    for number in 0..subscriptions {
        let path = format!("/evil/{number}");
        street.world.receiver.script(&path, [answer.clone()]);
        let subscription = v1::Subscription {
            tenant: EVIL.to_owned(),
            url: street.world.receiver.url(&path),
            max_in_flight: 1000,
            timeout: Some(duration(Duration::from_secs(60))),
            ..v1::Subscription::default()
        };
        operator.subscribe(subscription, "").await?;
    }
    for _ in 0..20 {
        let events = vec![event("evil.made", "1"); 25];
        let request = v1::EmitBatchRequest { tenant: EVIL.to_owned(), events };
        drop(operator.events().emit_batch(request).await);
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_that_hang() -> Result<()> {
    let street = Street::start(&[]).await?;
    street.attack("endpoints that hang", besiege(&street, 36, &Answer::Hang)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_that_fail() -> Result<()> {
    let street = Street::start(&[]).await?;
    street.attack("endpoints that fail", besiege(&street, 36, &Answer::Status(500))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_that_answer_without_end() -> Result<()> {
    let street = Street::start(&[]).await?;
    // Few: the endpoints are in the test's own process, and cost more than what they do to others.
    street.attack("endpoints that answer without end", besiege(&street, 8, &Answer::EndlessBody(200))).await
}
