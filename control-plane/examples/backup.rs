//! What a backup costs: how long it and a restore take, how long accepts take meanwhile, and memory.
//!
//! `cargo run --release -p postrider-control-plane --example backup -- FOLDER [EVENTS]`

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use postrider_control_plane::clock::Clock;
use postrider_control_plane::store::{Accept, Options, SledStore, Store, restore};
use postrider_domain::event::{Attributes, Event, content_digest};
use postrider_domain::id::{EventKey, SubscriptionId};
use postrider_domain::time::Timestamp;
use tokio::io::AsyncWriteExt as _;

/// Events of one accept while the store is filled, and while it is measured.
const FILL: u64 = 256;
const GROUP: u64 = 16;
/// How long accepts are measured without a backup.
const ALONE: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let folder = std::path::PathBuf::from(args.next().context("name a folder that may be filled")?);
    let events: u64 = args.next().map_or(Ok(200_000), |text| text.parse())?;
    let options = Options { path: folder.join("store"), cache_bytes: 32 * 1024 * 1024 };
    let (store, clock) = (Arc::new(SledStore::open(&options)?), Clock::start());
    for first in (0..events).step_by(usize::try_from(FILL)?) {
        store.accept((first..(first + FILL).min(events)).map(accept).collect()).await?;
    }
    println!(
        "{events} events, {} MiB on disk, {} MiB resident",
        store.size_on_disk().await? >> 20,
        resident()?
    );

    let stop = Arc::new(AtomicBool::new(false));
    let emitting = tokio::spawn(emit(store.clone(), events, stop.clone(), clock));
    tokio::time::sleep(ALONE).await;
    stop.store(true, Ordering::Relaxed);
    let (next, alone) = emitting.await??;
    println!("accepts alone:      {}", shown(alone));

    let stop = Arc::new(AtomicBool::new(false));
    let emitting = tokio::spawn(emit(store.clone(), next, stop.clone(), clock));
    let begun = clock.since_start();
    let (mut parts, mut bytes, mut peak) = (store.backup(clock.wall()).await?, 0, 0);
    let file = folder.join("backup");
    let mut writing = tokio::fs::File::create(&file).await?;
    while let Some(part) = parts.recv().await {
        let part = part?;
        bytes += part.len();
        writing.write_all(&part).await?;
        peak = peak.max(resident()?);
    }
    writing.sync_all().await?;
    println!(
        "backup:             {:?}, {} MiB, {peak} MiB resident at the most",
        clock.since_start() - begun,
        bytes >> 20
    );
    stop.store(true, Ordering::Relaxed);
    println!("accepts meanwhile:  {}", shown(emitting.await??.1));
    store.close().await?;
    drop(store);

    let begun = clock.since_start();
    let restored =
        tokio::task::spawn_blocking(move || restore(&file, &folder.join("new"), clock.wall())).await??;
    println!(
        "restore:            {:?}, {} rows, {} MiB resident",
        clock.since_start() - begun,
        restored.rows,
        resident()?
    );
    Ok(())
}

/// Accepts one group after the other until it is told to stop: the next number, and how long each took.
async fn emit(
    store: Arc<SledStore>,
    first: u64,
    stop: Arc<AtomicBool>,
    clock: Clock,
) -> anyhow::Result<(u64, Vec<Duration>)> {
    let (mut next, mut took) = (first, Vec::new());
    while !stop.load(Ordering::Relaxed) {
        let begun = clock.since_start();
        store.accept((next..next + GROUP).map(accept).collect()).await?;
        took.push(clock.since_start() - begun);
        next += GROUP;
    }
    Ok((next, took))
}

fn shown(mut took: Vec<Duration>) -> String {
    took.sort_unstable();
    let at = |percent: usize| {
        took.get((took.len() * percent / 100).min(took.len() - 1)).copied().unwrap_or_default()
    };
    format!("{} of {GROUP} events, median {:?}, 99th {:?}, longest {:?}", took.len(), at(50), at(99), at(100))
}

/// MiB of this process.
fn resident() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? >> 10)
}

fn accept(number: u64) -> Accept {
    let data = bytes::Bytes::from(format!(r#"{{"number":{number},"text":"{}"}}"#, "x".repeat(370)));
    let now = Timestamp::from_millis(1_770_028_200_000) + Duration::from_millis(number);
    let key = EventKey::new(now, u128::from(number));
    let event_type: postrider_domain::event::EventTypeName = "a.b".parse().expect("it is a name");
    let content = content_digest(&event_type, None, None, &data, &Attributes::default(), None);
    let event = Event {
        key,
        id: key.into(),
        tenant: "acme".parse().expect("it is a name"),
        event_type,
        timestamp: now.into(),
        accepted: now,
        data,
        attributes: Attributes::default(),
        ordering_key: None,
        trace: None,
    };
    let subscriptions = vec![SubscriptionId::new(Timestamp::default(), 1)];
    Accept { event, client_chosen: false, idempotency: None, content, subscriptions, max_stored: None }
}
