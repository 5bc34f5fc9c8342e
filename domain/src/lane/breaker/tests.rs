use super::*;
use proptest::prelude::*;

const FAILURE: Verdict = Verdict::Failure { overload: false };

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_millis(1_770_028_200_000) + Duration::from_secs(seconds)
}

/// A breaker with its lane's clock.
#[derive(Clone, Copy, Default)]
struct Lane {
    breaker: Breaker,
    moment: Moment,
}

impl Lane {
    /// One attempt after the other.
    fn hears(&mut self, verdict: Verdict, now: Timestamp) -> Option<State> {
        let begun = self.moment;
        self.hears_of(begun, verdict, now).turned
    }

    /// An attempt that was begun at that moment.
    fn hears_of(&mut self, begun: Moment, verdict: Verdict, now: Timestamp) -> Heard {
        self.moment = self.moment.next();
        self.breaker.heard(verdict, Span { begun, known: self.moment }, now, 0.5)
    }

    fn opened(now: Timestamp) -> Self {
        let mut lane = Self::default();
        (0..FAILURES).for_each(|_| _ = lane.hears(FAILURE, now));
        assert_eq!(lane.breaker.state(), State::Open);
        lane
    }
}

#[test]
fn failures_in_a_row_open_it_and_nothing_else_does() {
    let mut lane = Lane::default();
    for verdict in [Verdict::Well, Verdict::TooMany, Verdict::Nothing] {
        (0..FAILURES - 1).for_each(|_| _ = lane.hears(FAILURE, at(0)));
        assert_eq!(lane.hears(Verdict::Well, at(0)), None);
        (0..50).for_each(|_| _ = lane.hears(verdict, at(0)));
        assert_eq!(lane.breaker.state(), State::Closed);
    }
}

/// `(` begins an attempt, a digit ends the attempt of that number: with a failure, or before `+` with a success. All within
/// one millisecond.
#[test]
fn only_failures_that_begin_after_the_one_before_is_known_are_in_a_row() {
    let table: [(&str, &[bool], u32); 9] = [
        ("((( 0 1 2", &[true, false, false], 1),
        ("(0 (1 (2", &[true, true, true], 3),
        ("((0 (1 2", &[true, false, true], 2),
        ("((0 1+ (2", &[true, true, true], 1),
        ("((( 0+ 1 2", &[true, false, false], 0),
        ("((( 0 1+ 2", &[true, true, false], 0),
        ("(( 0 1 (( 2 3 (( 4 5", &[true, false, true, false, true, false], 3),
        ("(( 0+ (1 2", &[true, false, true], 1),
        ("(((( 0 1 2 3+ (4", &[true, false, false, true, true], 1),
    ];
    for (story, news, count) in table {
        let (mut lane, mut begun, mut heard) = (Lane::default(), Vec::new(), Vec::new());
        let steps: Vec<char> = story.chars().filter(|step| *step != ' ').collect();
        for (place, step) in steps.iter().enumerate() {
            let verdict = if steps.get(place + 1) == Some(&'+') { Verdict::Well } else { FAILURE };
            match step {
                '(' => begun.push(lane.moment),
                '+' => {}
                number => {
                    let number = number.to_digit(10).expect("a digit") as usize;
                    heard.push(lane.hears_of(begun[number], verdict, at(0)).is_news);
                }
            }
        }
        assert_eq!((heard.as_slice(), lane.breaker.count), (news, count), "{story}");
    }
}

#[test]
fn however_many_fail_at_once_it_takes_ten_rounds_and_each_after_the_second_is_half_as_large() {
    let mut lane = Lane::default();
    let mut rounds = Vec::new();
    while lane.breaker.state() == State::Closed {
        let begun = lane.moment;
        rounds.push(lane.breaker.at_once(64));
        (0..lane.breaker.at_once(64)).for_each(|_| _ = lane.hears_of(begun, FAILURE, at(0)));
    }
    assert_eq!(rounds, [64, 64, 32, 16, 8, 4, 2, 1, 1, 1]);
    let mut once = Lane::default();
    (0..64).for_each(|_| _ = once.hears_of(Moment::default(), FAILURE, at(0)));
    assert_eq!(once.breaker.at_once(64), 64, "one cut costs nothing");
    once.hears(FAILURE, at(0));
    once.hears(Verdict::Well, at(0));
    assert_eq!(once.breaker.at_once(64), 64, "after a success all is as before");
    assert_eq!((once.breaker.at_once(1), Breaker::default().at_once(1)), (1, 1));
}

#[test]
fn attempts_of_which_nobody_knows_when_they_began_are_one_failure() {
    let mut lane = Lane::default();
    let news: Vec<bool> = (0..20).map(|_| lane.hears_of(Moment::default(), FAILURE, at(0)).is_news).collect();
    assert_eq!((news[0], news[1..].contains(&true), lane.breaker.count), (true, false, 1));
}

#[test]
fn probes_come_ever_more_rarely_up_to_a_bound() {
    let mut lane = Lane::opened(at(0));
    let (mut now, mut delays) = (at(0), Vec::new());
    for _ in 0..9 {
        assert_eq!(lane.breaker.opens(1), None, "one at a time");
        let probe = lane.breaker.opens(0).unwrap();
        delays.push(probe.since(now).as_secs());
        now = probe;
        lane.hears(FAILURE, now);
    }
    assert_eq!(delays, [5, 10, 20, 40, 80, 160, 300, 300, 300]);
    lane.breaker.hurry(lane.moment);
    assert!(lane.breaker.opens(0).unwrap() <= now);
}

#[test]
fn what_was_under_way_when_it_opened_delays_no_probe_and_may_half_open_it() {
    let mut lane = Lane::opened(at(10));
    let probe = lane.breaker.opens(0);
    lane.hears_of(Moment::default(), FAILURE, at(14));
    assert_eq!(lane.breaker.opens(0), probe);
    assert_eq!(lane.hears_of(Moment::default(), Verdict::Well, at(14)).turned, Some(State::HalfOpen));
    assert_eq!(
        lane.hears_of(Moment::default(), FAILURE, at(14)).turned,
        None,
        "it began before that success"
    );
}

#[test]
fn what_was_under_way_when_somebody_called_it_repaired_delays_no_probe() {
    let mut lane = Lane::opened(at(0));
    let probe = lane.moment;
    lane.breaker.hurry(lane.moment.next());
    lane.hears_of(probe, FAILURE, at(6));
    assert!(lane.breaker.opens(0).unwrap() <= at(6));
}

#[test]
fn half_open_it_opens_with_the_next_failure_and_closes_after_five_successes() {
    let mut lane = Lane::opened(at(0));
    assert_eq!(lane.hears(Verdict::Well, at(5)), Some(State::HalfOpen));
    assert_eq!(lane.hears(FAILURE, at(6)), Some(State::Open));
    assert_eq!(lane.breaker.opens(0), Some(at(16)), "the delay goes on where it was");
    lane.hears(Verdict::Well, at(16));
    let states: Vec<_> = (0..4).map(|_| lane.hears(Verdict::Well, at(17))).collect();
    assert_eq!(states, [None, None, None, Some(State::Closed)]);
    (0..FAILURES - 1).for_each(|_| _ = lane.hears(FAILURE, at(18)));
    assert_eq!(lane.breaker.state(), State::Closed, "it counts anew");
}

#[test]
fn dozing_it_probes_every_so_often_until_a_success_or_until_it_is_woken() {
    const HOUR: Duration = Duration::from_secs(3_600);
    let mut lane = Lane::default();
    lane.breaker.doze(HOUR, lane.moment, at(0), 0.5);
    lane.breaker.doze(HOUR, lane.moment, at(9), 0.5);
    for hour in 1..9 {
        assert_eq!(lane.breaker.opens(0), Some(at(0) + hour * HOUR));
        assert_eq!(lane.breaker.opens(1), None, "one at a time");
        lane.hears(if hour == 4 { Verdict::Nothing } else { FAILURE }, at(0) + hour * HOUR);
    }
    let mut woken = lane;
    woken.breaker.hurry(woken.moment);
    assert!(woken.breaker.opens(0).unwrap() < at(0));
    woken.hears(FAILURE, at(40_000));
    assert_eq!(woken.breaker.opens(0), Some(at(40_010)), "it is an open breaker like any other");
    assert_eq!(lane.hears(Verdict::Well, at(40_000)), Some(State::HalfOpen));
    lane.hears(FAILURE, at(40_001));
    assert_eq!(lane.breaker.opens(0), Some(at(40_301)), "no longer every hour");
}

proptest! {
    #[test]
    fn the_next_probe_is_never_further_than_its_bound(
        steps in prop::collection::vec((0_u8..5, 0.0_f64..1.0, 0_u64..400), 1..200),
    ) {
        let (mut breaker, mut moment, mut now) = (Breaker::default(), Moment::default(), at(0));
        for (step, random, passes) in steps {
            now = now + Duration::from_secs(passes);
            let verdict = match step {
                0 => Verdict::Well,
                1 => Verdict::TooMany,
                2 => Verdict::Nothing,
                _ => FAILURE,
            };
            let span = Span { begun: moment, known: moment.next() };
            moment = moment.next();
            breaker.heard(verdict, span, now, random);
            let wait = breaker.opens(0).expect("nothing is under way").since(now);
            prop_assert!(wait <= MAX_DELAY.mul_f64(1.0 + JITTER));
        }
    }

    /// Ten failures that did not begin one after the other's outcome was known never open it.
    #[test]
    fn it_opens_only_after_ten_failures_each_begun_when_the_one_before_was_known(
        steps in prop::collection::vec((0_u8..3, 0_usize..8), 1..300),
    ) {
        let (mut lane, mut under_way, mut row) = (Lane::default(), Vec::new(), Vec::<Moment>::new());
        for (step, which) in steps {
            if step == 0 || under_way.is_empty() {
                under_way.push(lane.moment);
                continue;
            }
            let begun = under_way.swap_remove(which % under_way.len());
            lane.hears_of(begun, FAILURE, at(0));
            // `row` has when each failure of the row became known.
            if row.last().is_none_or(|last| begun >= *last) {
                row.push(lane.moment);
            }
            prop_assert_eq!(lane.breaker.state() == State::Open, row.len() >= 10);
        }
    }
}
