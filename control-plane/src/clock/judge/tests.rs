use super::*;
use proptest::prelude::*;

const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
/// When the program was started, by a clock that is right.
const START: i64 = 1_770_028_200_000;

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(START + millis)
}

fn mono(millis: i64) -> Duration {
    Duration::from_millis(millis.unsigned_abs())
}

/// Observes every minute until `to`, with a wall clock that is off by so much; gives the last judgement.
fn run(judge: &mut Judge, from: i64, to: i64, off: i64) -> Judgement {
    let mut last = judge.observe(at(from + off), mono(from));
    for now in (from..=to).step_by(usize::try_from(MINUTE).unwrap()) {
        last = judge.observe(at(now + off), mono(now));
    }
    last
}

/// A jump at one minute, which lasts five: what is believed at its end, as how far the time is off then, and whether things
/// may be removed.
#[test]
fn a_jump_of_more_than_an_hour_is_not_believed_and_the_time_goes_on() {
    let table = [
        (0, 0, true),
        (30 * MINUTE, 30 * MINUTE, true),
        (HOUR, HOUR, true),
        (HOUR + 1, 0, false),
        (2 * HOUR, 0, false),
        (32 * DAY, 0, false),
        (20_000 * DAY, 0, false),
        // Back: the time stands where it was, so that what has expired stays so.
        (-30 * MINUTE, 0, true),
        (-HOUR, 0, true),
        (-HOUR - 1, 0, false),
        (-32 * DAY, 0, false),
        (-20_000 * DAY, 0, false),
    ];
    for (off, believed, trusted) in table {
        let mut judge = Judge::new(at(0), mono(0));
        run(&mut judge, 0, MINUTE, 0);
        let judgement = run(&mut judge, MINUTE, 6 * MINUTE, off);
        assert_eq!(judgement, Judgement { time: at(6 * MINUTE + believed), trusted }, "{off}");
        let healed = run(&mut judge, 6 * MINUTE, 7 * MINUTE, 0);
        assert!(healed.trusted && healed.time >= at(7 * MINUTE), "{off}: {healed:?}");
    }
}

#[test]
fn a_clock_that_stays_where_it_jumped_is_believed_after_an_hour() {
    for off in [32 * DAY, 2 * HOUR, -2 * HOUR, -32 * DAY] {
        let mut judge = Judge::new(at(0), mono(0));
        let before = run(&mut judge, MINUTE, HOUR, off);
        assert_eq!(before, Judgement { time: at(HOUR), trusted: false }, "{off}");
        let after = run(&mut judge, HOUR, HOUR + 2 * MINUTE, off);
        assert_eq!(after, Judgement { time: at(HOUR + 2 * MINUTE + off), trusted: true }, "{off}");
    }
}

#[test]
fn a_small_step_back_is_followed_after_an_hour() {
    let mut judge = Judge::new(at(0), mono(0));
    assert_eq!(run(&mut judge, MINUTE, HOUR, -10 * MINUTE).time, at(HOUR));
    assert_eq!(run(&mut judge, HOUR, HOUR + 2 * MINUTE, -10 * MINUTE).time, at(HOUR - 8 * MINUTE));
}

#[test]
fn a_clock_that_never_runs_steadily_is_never_believed() {
    let mut judge = Judge::new(at(0), mono(0));
    for round in 0..100 {
        let off = if round % 2 == 0 { 5 * DAY } else { -3 * DAY };
        let (from, to) = (round * 30 * MINUTE, (round + 1) * 30 * MINUTE);
        assert_eq!(run(&mut judge, from, to, off), Judgement { time: at(to), trusted: false });
    }
}

/// The wall clock at the start, ahead of the latest time in the store; then what is believed.
#[test]
fn after_a_start_the_later_time_counts_and_nothing_is_removed_until_the_clock_is_confirmed() {
    let table = [
        (0, 0, true),
        (10 * MINUTE, 10 * MINUTE, true),
        (HOUR, HOUR, true),
        // It was away for long, or the clock is ahead: nobody knows.
        (HOUR + 1, HOUR + 1, false),
        (32 * DAY, 32 * DAY, false),
        (-10 * MINUTE, 0, true),
        (-HOUR, 0, true),
        (-HOUR - 1, 0, false),
        (-32 * DAY, 0, false),
    ];
    for (wall, believed, trusted) in table {
        let mut judge = Judge::after(at(0), at(wall), mono(0));
        let judgement = run(&mut judge, 0, 5 * MINUTE, wall);
        assert_eq!(judgement, Judgement { time: at(5 * MINUTE + believed), trusted }, "{wall}");
        // Set right, as if the program had been away for ten minutes.
        let right = run(&mut judge, 5 * MINUTE, 6 * MINUTE, 10 * MINUTE);
        assert!(right.trusted || wall == HOUR, "{wall}: {right:?}");
    }
    for wall in [32 * DAY, -32 * DAY] {
        let mut judge = Judge::after(at(0), at(wall), mono(0));
        assert!(!run(&mut judge, 0, HOUR - MINUTE, wall).trusted, "{wall}");
        let confirmed = run(&mut judge, HOUR - MINUTE, HOUR + MINUTE, wall);
        assert_eq!(confirmed, Judgement { time: at(HOUR + MINUTE + wall), trusted: true }, "{wall}");
    }
}

#[test]
fn a_clock_that_is_set_right_after_a_boot_counts_at_once() {
    // The machine has no clock of its own: it boots in 1970, and the program was away for three days.
    let mut judge = Judge::after(at(0), Timestamp::default(), mono(0));
    assert_eq!(judge.observe(Timestamp::default(), mono(0)).time, at(0));
    let set = run(&mut judge, MINUTE, 2 * MINUTE, 3 * DAY);
    assert_eq!(set, Judgement { time: at(3 * DAY + 2 * MINUTE), trusted: false });
}

proptest! {
    /// Whatever the wall clock does within an hour: nothing is removed by a time that is more than an hour off, and the time
    /// never goes back.
    #[test]
    fn no_jump_moves_the_time_by_more_than_the_tolerance(
        jumps in prop::collection::vec((-40 * DAY..40 * DAY, 0_i64..MINUTE), 1..60),
    ) {
        let (mut judge, mut now, mut before) = (Judge::new(at(0), mono(0)), 0, at(0));
        for (off, passes) in jumps {
            now += passes;
            let far = off.abs() > HOUR;
            let judgement = judge.observe(at(now + off), mono(now));
            let ahead = judgement.time.as_millis() - at(now).as_millis();
            prop_assert!((0..=HOUR).contains(&ahead), "{ahead}");
            prop_assert!(judgement.time >= before);
            prop_assert!(!judgement.trusted || off.abs() <= 2 * HOUR, "{far}");
            before = judgement.time;
        }
    }
}
