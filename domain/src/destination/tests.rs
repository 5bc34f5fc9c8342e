use std::num::NonZeroU32;

use proptest::prelude::*;

use super::*;

/// A tenant and the number of its delivery.
type Item = (u32, usize);

fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(1_770_028_200_000) + Duration::from_millis(millis)
}

fn pace(per_second: u32, burst: u32) -> Pace {
    Pace::new(NonZeroU32::new(per_second).unwrap(), NonZeroU32::new(burst).unwrap())
}

fn of(tenant: u32) -> Party {
    Party { tenant, pool: 0 }
}

fn host(name: &str) -> Destination {
    Destination::of(&EndpointUrl::parse(&format!("https://{name}/in")).unwrap())
}

/// Sends until the destination admits no more.
fn send<L: Copy>(destinations: &mut Destinations<L>, host: &Destination, now: Timestamp) -> Vec<L> {
    let mut sent = Vec::new();
    while let Some((_, lane)) = destinations.next(host, now, |_| true) {
        destinations.took(host, now);
        sent.push(lane);
    }
    sent
}

#[test]
fn urls_of_one_host_and_port_are_one_destination() {
    let table = [
        ("https://example.com/a?b=1", "example.com:443"),
        ("https://EXAMPLE.com:443", "example.com:443"),
        ("http://Example.Com/x", "example.com:80"),
        ("http://example.com:443/", "example.com:443"),
        ("https://example.com:8443/", "example.com:8443"),
        ("https://example.com./", "example.com:443"),
        ("http://127.0.0.1:9000/", "127.0.0.1:9000"),
        ("http://[::1]:9000/", "[::1]:9000"),
        ("http://[0:0:0:0:0:0:0:1]:9000/", "[::1]:9000"),
        ("http://[::ffff:127.0.0.1]:9000/", "127.0.0.1:9000"),
        ("http://[::ffff:7f00:1]:9000/", "127.0.0.1:9000"),
    ];
    for (url, destination) in table {
        let parsed = EndpointUrl::parse(url).unwrap_or_else(|refused| panic!("{url}: {refused:?}"));
        assert_eq!(Destination::of(&parsed).as_str(), destination, "{url}");
    }
}

#[test]
fn a_burst_goes_at_once_and_the_rest_at_the_rate() {
    let (mut all, host) = (Destinations::new(pace(10, 3)), host("example.com"));
    for number in 0..3 {
        assert!(all.admits(&host, at(0)), "{number}");
        all.took(&host, at(0));
    }
    assert!(!all.admits(&host, at(99)) && all.admits(&host, at(100)));
    all.wait(&host, of(1), 'a');
    all.wait(&host, of(1), 'b');
    assert_eq!((all.open(at(99)), all.wakes(at(0)), all.waiting()), (vec![], Some(at(100)), 2));
    assert!(send(&mut all, &host, at(99)).is_empty());
    assert_eq!(all.open(at(100)), std::slice::from_ref(&host));
    assert_eq!(send(&mut all, &host, at(100)), ['a']);
    assert_eq!(all.wakes(at(100)), Some(at(200)));
    assert_eq!(send(&mut all, &host, at(200)), ['b']);
    assert_eq!((all.wakes(at(200)), all.waiting()), (None, 0));
}

#[test]
fn one_destination_at_its_limit_holds_up_no_other() {
    let (mut all, one, other) = (Destinations::new(pace(10, 1)), host("one.example"), host("two.example"));
    all.took(&one, at(0));
    all.wait(&one, of(1), 1);
    assert!(!all.admits(&one, at(0)) && all.admits(&other, at(0)));
    assert!(all.admits(&host("one.example:8443"), at(0)));
}

#[test]
fn destinations_are_forgotten_when_idle_and_start_spent_after_a_restart() {
    let mut all = Destinations::<u32>::new(pace(10, 5));
    for number in 0..1_000 {
        all.took(&host(&format!("h{number}.example")), at(0));
    }
    all.wait(&host("h7.example"), of(1), 7);
    all.forget_idle(at(99));
    assert_eq!(all.known(), 1_000);
    all.forget_idle(at(100));
    assert_eq!(all.known(), 1, "the one that a lane waits for");
    let mut restarted = Destinations::<u32>::new(pace(10, 5));
    restarted.spend_bursts(at(0));
    assert!(!restarted.admits(&host("example.com"), at(99)));
    assert!(restarted.admits(&host("example.com"), at(100)));
}

#[test]
fn a_party_that_cannot_go_on_keeps_its_turn_and_holds_up_nobody() {
    let (mut all, host) = (Destinations::new(pace(1_000, 100)), host("example.com"));
    all.wait(&host, Party { tenant: 1, pool: 1 }, 'a');
    all.wait(&host, Party { tenant: 1, pool: 2 }, 'b');
    all.wait(&host, Party { tenant: 2, pool: 1 }, 'c');
    let next = |all: &mut Destinations<char>, pool| {
        all.next(&host, at(0), |party| pool == party.pool).map(|(_, lane)| lane)
    };
    assert_eq!(next(&mut all, 3), None);
    assert_eq!(next(&mut all, 2), Some('b'), "its other pool can");
    assert_eq!((next(&mut all, 1), next(&mut all, 1)), (Some('c'), Some('a')));
    assert_eq!((all.waiting(), all.open(at(0))), (0, vec![]));
}

#[test]
fn lanes_leave_out_of_turn() {
    let (mut all, one, other) = (Destinations::new(pace(1, 1)), host("one.example"), host("two.example"));
    for (host, tenant, lane) in [(&one, 1, 'a'), (&one, 1, 'b'), (&one, 2, 'c'), (&other, 2, 'd')] {
        all.wait(host, of(tenant), lane);
    }
    all.leave(&one, |lane| lane == 'a');
    let mut left = all.extract(|party, _| party.tenant == 2);
    left.sort_unstable();
    assert_eq!((left, all.waiting()), (vec!['c', 'd'], 1));
    assert_eq!(all.open(at(0)), std::slice::from_ref(&one), "nobody waits for the other one any more");
    assert_eq!(send(&mut all, &one, at(0)), ['b']);
}

proptest! {
    /// Who wants less than an equal share gets all of it, and the others get the same, however many lanes each has.
    #[test]
    fn tenants_share_a_destination_max_min_fairly(
        demands in prop::collection::vec(0_usize..60, 2..12), sends in 1_u32..200,
    ) {
        let (mut all, host) = (Destinations::<Item>::new(pace(1, sends)), host("example.com"));
        for (tenant, demand) in (0_u32..).zip(&demands) {
            (0..*demand).for_each(|number| all.wait(&host, of(tenant), (tenant, number)));
        }
        let mut got = vec![0; demands.len()];
        let sent = send(&mut all, &host, at(0));
        sent.iter().for_each(|(tenant, _)| got[*tenant as usize] += 1);
        let most = got.iter().max().copied().unwrap_or(0);
        for (got, demand) in got.iter().zip(&demands) {
            prop_assert!(got == demand || got + 1 >= most, "{sent:?} of {demands:?}");
        }
        prop_assert_eq!(sent.len(), demands.iter().sum::<usize>().min(sends as usize));
    }

    /// No span of time has more than its burst and its share; what waits is woken in time and all of it goes.
    #[test]
    fn the_rate_is_kept_and_everybody_gets_there(
        per_second in 1_u32..2_000, burst in 1_u32..50,
        steps in prop::collection::vec((0_u64..40, 0_u32..4, any::<bool>()), 1..200),
    ) {
        let (mut all, host, pace) =
            (Destinations::<usize>::new(pace(per_second, burst)), host("example.com"), pace(per_second, burst));
        let (mut now, mut sent, mut meter) = (at(0), Vec::new(), Meter::default());
        for (number, (millis, tenant, forgets)) in steps.iter().enumerate() {
            now = now + Duration::from_millis(*millis);
            if *forgets {
                all.forget_idle(now);
            }
            all.wait(&host, of(*tenant), number);
            for lane in send(&mut all, &host, now) {
                prop_assert!(pace.take(&mut meter, elapsed(now)).is_ok(), "faster than its rate");
                sent.push(lane);
            }
        }
        while let Some(wakes) = all.wakes(now) {
            prop_assert_eq!(all.open(now), vec![]);
            now = wakes;
            let more = send(&mut all, &host, now);
            prop_assert!(!more.is_empty(), "woken too early");
            for lane in more {
                prop_assert!(pace.take(&mut meter, elapsed(now)).is_ok(), "faster than its rate");
                sent.push(lane);
            }
        }
        sent.sort_unstable();
        prop_assert!(sent.into_iter().eq(0..steps.len()));
        prop_assert_eq!(all.waiting(), 0);
    }
}
