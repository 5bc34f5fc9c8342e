use proptest::prelude::*;

use super::*;

const LIMITS: Limits =
    Limits { places: 4, bytes: 64, each: 1, queue: 100, party_queue: 60, member_queue: 40 };

fn who(party: u32, member: u32) -> Who<u32> {
    Who { party, member }
}

/// Queues as many calls as it may.
fn flood(turns: &mut Turns<u32>, caller: &Who<u32>) -> (usize, Refused) {
    let mut count = 0;
    loop {
        match turns.ask(caller) {
            Ok(_) => count += 1,
            Err(refused) => return (count, refused),
        }
    }
}

#[test]
fn queues_are_bounded_for_a_member_and_a_party() {
    let mut turns = Turns::new(LIMITS);
    assert_eq!(flood(&mut turns, &who(1, 1)), (40, Refused::Member));
    assert_eq!(flood(&mut turns, &who(1, 2)), (20, Refused::Party));
    assert_eq!(flood(&mut turns, &who(2, 1)), (40, Refused::Member));
    assert_eq!(turns.waiting(), 100);
}

#[test]
fn a_full_queue_takes_from_the_longest_for_whoever_has_less() {
    let mut turns = Turns::new(LIMITS);
    flood(&mut turns, &who(1, 1));
    flood(&mut turns, &who(1, 2));
    flood(&mut turns, &who(2, 1));
    let newest = turns.ask(&who(3, 1)).unwrap();
    assert!(newest.displaced.is_some());
    assert_eq!(turns.waiting(), 100);
    // Everybody who has less than the longest gets in, until all have the same.
    let (more, refused) = flood(&mut turns, &who(3, 1));
    assert_eq!(refused, Refused::All);
    assert!((30..=33).contains(&(more + 1)), "{more}");
    assert_eq!(turns.ask(&who(1, 2)), Err(Refused::All));
}

#[test]
fn one_party_never_takes_the_last_place() {
    let mut turns = Turns::new(LIMITS);
    flood(&mut turns, &who(1, 1));
    let mut started = 0;
    while turns.start().is_some() {
        started += 1;
    }
    assert_eq!(started, 3);
    turns.ask(&who(2, 1)).unwrap();
    assert_eq!(turns.start().unwrap().0, who(2, 1));
    let mut one = Turns::new(Limits { places: 1, ..LIMITS });
    one.ask(&who(1, 1)).unwrap();
    assert!(one.start().is_some(), "a single place is everybody's");
}

#[test]
fn a_light_caller_is_served_before_the_backlog_of_a_heavy_one() {
    let mut turns = Turns::new(LIMITS);
    flood(&mut turns, &who(1, 1));
    while turns.start().is_some() {}
    for _ in 0..20 {
        turns.ask(&who(2, 1)).unwrap();
        assert_eq!(turns.start().unwrap().0, who(2, 1), "the last place is free for it");
        turns.end(&who(1, 1), 0);
        turns.end(&who(2, 1), 0);
        while turns.start().is_some() {}
    }
}

#[test]
fn many_members_of_a_party_are_served_no_better_than_one_party() {
    let mut turns = Turns::new(LIMITS);
    for member in 0..10 {
        (0..5).for_each(|_| assert!(turns.ask(&who(1, member)).is_ok()));
    }
    (0..40).for_each(|_| assert!(turns.ask(&who(2, 1)).is_ok()));
    let (mut served, mut under_way) = ([0, 0], VecDeque::new());
    while served[0] < 20 {
        while let Some((caller, _)) = turns.start() {
            under_way.push_back(caller);
        }
        let ended = under_way.pop_front().unwrap();
        served[usize::try_from(ended.party - 1).unwrap()] += 1;
        turns.end(&ended, 0);
    }
    assert!((19..=21).contains(&served[1]), "{served:?}");
}

#[test]
fn who_does_not_take_answers_gets_no_more_turns_and_others_do() {
    let mut turns = Turns::new(LIMITS);
    let mut kept = 0;
    flood(&mut turns, &who(1, 1));
    loop {
        while let Some((caller, _)) = turns.start() {
            turns.end(&caller, 1);
            kept += 1;
        }
        if turns.ask(&who(1, 1)).is_err() {
            break;
        }
    }
    assert!((40..=48).contains(&kept), "{kept} of 64 bytes");
    for newcomer in 2..6 {
        turns.ask(&who(newcomer, 1)).unwrap();
        assert_eq!(turns.start().unwrap().0, who(newcomer, 1));
        turns.end(&who(newcomer, 1), 0);
    }
    (0..kept).for_each(|_| turns.taken(&who(1, 1), 1));
    assert_eq!(turns.start().unwrap().0, who(1, 1), "once they are taken, it goes on");
}

#[test]
fn a_call_that_is_given_up_is_not_served() {
    let mut turns = Turns::new(LIMITS);
    let [first, second] = [(); 2].map(|()| turns.ask(&who(1, 1)).unwrap().ticket);
    assert!(turns.give_up(&who(1, 1), first));
    assert!(!turns.give_up(&who(1, 1), first));
    assert_eq!(turns.start(), Some((who(1, 1), second)));
    assert!(!turns.give_up(&who(1, 1), second), "its turn has begun");
    turns.end(&who(1, 1), 0);
    assert!(turns.parties.is_empty() && turns.all.is_nothing());
}

#[derive(Clone, Debug)]
enum Deed {
    Ask(u32, u32),
    Start,
    End(usize, usize),
    Take(usize),
    GiveUp(usize),
}

fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    let deed = prop_oneof![
        4 => (0_u32..4, 0_u32..3).prop_map(|(party, member)| Deed::Ask(party, member)),
        3 => Just(Deed::Start),
        2 => (any::<usize>(), 0_usize..2).prop_map(|(at, answer)| Deed::End(at, answer)),
        1 => any::<usize>().prop_map(Deed::Take),
        1 => any::<usize>().prop_map(Deed::GiveUp),
    ];
    prop::collection::vec(deed, 1..400)
}

fn pick<T>(from: &mut Vec<T>, at: usize) -> Option<T> {
    (!from.is_empty()).then(|| from.swap_remove(at % from.len()))
}

proptest! {
    /// Whatever happens, nothing is lost, served twice or kept for ever, and no limit is passed.
    #[test]
    fn every_call_is_served_once_and_the_limits_hold(deeds in deeds()) {
        let mut turns = Turns::new(LIMITS);
        let (mut waiting, mut under_way, mut kept) = (Vec::new(), Vec::new(), Vec::new());
        for deed in deeds {
            match deed {
                Deed::Ask(party, member) => {
                    if let Ok(queued) = turns.ask(&who(party, member)) {
                        waiting.push((who(party, member), queued.ticket));
                        waiting.retain(|(_, ticket)| Some(*ticket) != queued.displaced);
                    }
                }
                Deed::Start => {
                    if let Some((caller, ticket)) = turns.start() {
                        let at = waiting.iter().position(|call| *call == (caller.clone(), ticket));
                        waiting.remove(at.expect("it waited"));
                        under_way.push(caller);
                    }
                }
                Deed::End(at, answer) => {
                    if let Some(caller) = pick(&mut under_way, at) {
                        turns.end(&caller, answer);
                        kept.extend((answer > 0).then_some((caller, answer)));
                    }
                }
                Deed::Take(at) => {
                    if let Some((caller, answer)) = pick(&mut kept, at) {
                        turns.taken(&caller, answer);
                    }
                }
                Deed::GiveUp(at) => {
                    if let Some((caller, ticket)) = pick(&mut waiting, at) {
                        prop_assert!(turns.give_up(&caller, ticket));
                    }
                }
            }
            let bytes = under_way.len() + kept.iter().map(|(_, answer)| answer).sum::<usize>();
            prop_assert_eq!((turns.waiting(), turns.under_way(), turns.bytes()),
                (waiting.len(), under_way.len(), bytes));
            prop_assert!(turns.under_way() <= LIMITS.places && turns.waiting() <= LIMITS.queue);
        }
        under_way.iter().for_each(|caller| turns.end(caller, 0));
        kept.iter().for_each(|(caller, answer)| turns.taken(caller, *answer));
        while let Some((caller, ticket)) = turns.start() {
            prop_assert!(waiting.contains(&(caller.clone(), ticket)));
            waiting.retain(|(_, waits)| *waits != ticket);
            turns.end(&caller, 0);
        }
        prop_assert!(waiting.is_empty() && turns.parties.is_empty(), "{waiting:?}");
    }

    /// With everybody backlogged, turns are shared equally among parties, whatever their number of
    /// members.
    #[test]
    fn backlogged_parties_get_equal_turns(members in prop::collection::vec(1_u32..4, 2..4), rounds in 1_usize..60) {
        let mut turns = Turns::new(LIMITS);
        let mut served = vec![0_usize; members.len()];
        let mut under_way = VecDeque::new();
        for _ in 0..rounds {
            for (party, members) in (0_u32..).zip(&members) {
                for member in 0..*members {
                    let _refused_when_full = turns.ask(&who(party, member));
                }
            }
            while let Some((caller, _)) = turns.start() {
                under_way.push_back(caller);
            }
            if let Some(ended) = under_way.pop_front() {
                served[usize::try_from(ended.party).unwrap()] += 1;
                turns.end(&ended, 0);
            }
        }
        let (least, most) = (served.iter().min().unwrap(), served.iter().max().unwrap());
        prop_assert!(most - least <= 2, "{served:?}");
    }
}
