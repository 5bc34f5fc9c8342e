//! What the embedded store takes on disk, and what removal gives back: rounds of accept, settle and age out.
//!
//! `cargo run --release -p postrider-control-plane --example space -- FOLDER [EVENTS] [ROUNDS] [BYTES OF DATA] [EVENTS A SECOND]`
//! Without a number of events a second they come as fast as they are written.

use std::time::Duration;

use postrider_control_plane::store::{Accept, Options, Retention, Settle, Settlement, SledStore, Store};
use postrider_domain::delivery::{Delivery, State};
use postrider_domain::event::{Attributes, Event, content_digest};
use postrider_domain::id::{DeliveryId, EventKey, SubscriptionId};
use postrider_domain::outcome::{Attempt, Class, Outcome, Response};
use postrider_domain::time::Timestamp;

const GROUP: u64 = 256;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or_else(|| anyhow::anyhow!("name a folder that may be filled"))?.into();
    let events: u64 = args.next().map_or(Ok(200_000), |text| text.parse())?;
    let rounds: u64 = args.next().map_or(Ok(4), |text| text.parse())?;
    let bytes: usize = args.next().map_or(Ok(400), |text| text.parse())?;
    let a_second: Option<u32> = args.next().map(|text| text.parse()).transpose()?;
    let group = (4 * 1024 * 1024 / u64::try_from(bytes)?).clamp(1, GROUP);
    let store = SledStore::open(&Options { path, cache_bytes: 32 * 1024 * 1024 })?;
    println!(
        "{:>5} {:>22} {:>22} {:>22}",
        "round", "MiB after accept", "MiB after settle", "MiB after age out"
    );
    for round in 0..rounds {
        let accepted = round * events..(round + 1) * events;
        for first in accepted.clone().step_by(usize::try_from(group)?) {
            if let Some(a_second) = a_second {
                tokio::time::sleep(Duration::from_secs(group) / a_second).await;
            }
            let events =
                (first..(first + group).min(accepted.end)).map(|number| accept(number, bytes)).collect();
            store.accept(events).await?;
        }
        let after_accept = mib(&store).await?;
        for first in accepted.clone().step_by(usize::try_from(GROUP)?) {
            let deliveries = (first..(first + GROUP).min(accepted.end)).map(settle).collect();
            store.settle(Settlement { deliveries, ..Settlement::default() }).await?;
        }
        let after_settle = mib(&store).await?;
        let all = at(accepted.end);
        let retention =
            Retention { idempotency: all, delivered_data: all, events: all, audit: None, now: all };
        while store.age_out(retention).await? {}
        println!("{round:>5} {after_accept:>22.1} {after_settle:>22.1} {:>22.1}", mib(&store).await?);
    }
    store.close().await?;
    Ok(())
}

async fn mib(store: &SledStore) -> anyhow::Result<f64> {
    let bytes = store.size_on_disk().await?;
    Ok(f64::from(u32::try_from(bytes / 1024)?) / 1024.0)
}

fn at(number: u64) -> Timestamp {
    Timestamp::from_millis(1_770_028_200_000) + Duration::from_millis(number)
}

fn lane() -> SubscriptionId {
    SubscriptionId::new(at(0), 1)
}

/// An event with about so many bytes of data, with one delivery and an idempotency key.
fn accept(number: u64, bytes: usize) -> Accept {
    let pad = "x".repeat(bytes.saturating_sub(60));
    let data: bytes::Bytes = format!(r#"{{"documentId":"doc_{number}","pad":"{pad}"}}"#).into();
    let key = EventKey::new(at(number), u128::from(number));
    let event_type: postrider_domain::event::EventTypeName =
        "document.completed".parse().expect("it is the name of a type");
    let content = content_digest(&event_type, None, None, &data, &Attributes::default(), None);
    let tenant = "acme".parse().expect("it is a tenant's id");
    let event = Event {
        key,
        id: key.into(),
        tenant,
        event_type,
        timestamp: at(number).into(),
        accepted: at(number),
        data,
        attributes: Attributes::default(),
        ordering_key: None,
        trace: None,
    };
    let mut idempotency = [0; 16];
    idempotency[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    Accept {
        event,
        client_chosen: false,
        idempotency: Some(idempotency),
        content,
        subscriptions: vec![lane()],
        max_stored: None,
    }
}

fn settle(number: u64) -> Settle {
    let sequence = number + 1;
    let event = EventKey::new(at(number), u128::from(number));
    let delivery =
        Delivery { state: State::Delivered(at(number)), attempts: 1, ..Delivery::new(sequence, event) };
    let response = Some(Response { status: 204, ..Response::default() });
    let outcome = Outcome { response, ..Outcome::failure(Class::Success, "") };
    let agent = "agent-1".parse().expect("it is an agent's id");
    let attempt = Some(Attempt { number: 1, started: at(number), agent, outcome });
    Settle { id: DeliveryId { subscription: lane(), sequence }, was_due: None, delivery, attempt }
}
