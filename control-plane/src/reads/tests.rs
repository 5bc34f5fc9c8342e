use std::time::Duration;

use tokio::time::timeout;

use super::*;

fn reads(places: usize) -> Reads {
    Reads::with_places(places, CancellationToken::new(), ReadCounts::default())
}

fn token(name: &str) -> Reader {
    Who { party: Name::Token(name.into()), member: Name::Token(name.into()) }
}

fn of(tenant: &str, token: &str) -> Reader {
    Who { party: Name::Tenant(tenant.parse().unwrap()), member: Name::Token(token.into()) }
}

async fn waits(turn: impl Future<Output = Result<Turn, Busy>>) -> bool {
    timeout(Duration::from_millis(20), turn).await.is_err()
}

#[tokio::test]
async fn turns_are_given_and_end_by_being_dropped() {
    let reads = reads(2);
    let first = reads.turn(&token("a")).await.unwrap();
    assert!(waits(reads.turn(&token("a"))).await, "the last place is for others");
    assert_eq!(reads.load(), (0, 1), "who has given up does not wait any more");
    let second = reads.turn(&token("b")).await.unwrap();
    assert!(waits(reads.turn(&token("c"))).await);
    drop(first);
    let third = reads.turn(&token("c")).await.unwrap();
    drop((second, third));
    assert_eq!(reads.load(), (0, 0));
}

#[tokio::test]
async fn a_caller_beside_a_flood_is_served_at_once_and_the_flood_is_refused_beyond_its_queue() {
    let reads = reads(4);
    let flood: Vec<_> = (0..TOKEN_QUEUE + 3)
        .map(|_| {
            let reads = reads.clone();
            tokio::spawn(async move {
                let _turn = reads.turn(&of("attacker", "t-1")).await.unwrap();
                std::future::pending::<()>().await;
            })
        })
        .collect();
    while reads.load() != (TOKEN_QUEUE, 3) {
        tokio::task::yield_now().await;
    }
    assert_eq!(reads.turn(&of("attacker", "t-1")).await.err(), Some(Busy::Token));
    for _ in 0..100 {
        let served = timeout(Duration::from_secs(5), reads.turn(&of("honest", "t-2"))).await;
        drop(served.expect("at once").unwrap());
    }
    flood.iter().for_each(tokio::task::JoinHandle::abort);
    for flooding in flood {
        assert!(flooding.await.unwrap_err().is_cancelled());
    }
    assert_eq!(reads.load(), (0, 0), "nothing is left of those that are cancelled");
}

#[tokio::test]
async fn answers_that_nobody_takes_hold_up_only_who_does_not_take_them() {
    let reads = reads(4);
    let (mut kept, mut waited) = (Vec::new(), false);
    while !waited {
        match timeout(Duration::from_millis(20), reads.turn(&token("slow"))).await {
            Ok(turn) => kept.push(turn.unwrap().answered(EACH)),
            Err(_) => waited = true,
        }
        assert!(kept.len() * EACH <= BYTES);
    }
    for _ in 0..10 {
        drop(reads.turn(&token("honest")).await.unwrap().answered(EACH));
    }
    kept.clear();
    drop(reads.turn(&token("slow")).await.unwrap());
}

#[tokio::test]
async fn a_stop_ends_the_waiting() {
    let stopping = CancellationToken::new();
    let reads = Reads::with_places(1, stopping.clone(), ReadCounts::default());
    let _turn = reads.turn(&token("a")).await.unwrap();
    let second = token("b");
    let waiting = reads.turn(&second);
    let (refused, ()) = tokio::join!(waiting, async { stopping.cancel() });
    assert_eq!(refused.err(), Some(Busy::Stopping));
    assert_eq!(reads.turn(&token("b")).await.err(), Some(Busy::Stopping));
    assert_eq!(reads.load(), (0, 1));
}
