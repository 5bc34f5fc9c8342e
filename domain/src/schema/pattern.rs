//! Regular expressions of schemas. A pattern is turned into a small automaton, and each step of it is charged, so that
//! no pattern costs more than what is left to spend, whatever it is and whatever it meets.
//!
//! The automaton is the NFA of `regex-automata`; it is walked here, state set by state set. It has no cache that data
//! could make useless, and its size is known when it is made.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use jsonschema::json::Node as _;
use jsonschema::{Keyword, ValidationError};
use jsonschema_regex::{PatternAnalysis, RepeatedClass, Search};
use regex_automata::nfa::thompson::{Config, NFA, State, WhichCaptures};
use regex_automata::util::primitives::StateID;

use super::view::{Metered, Seen};
use crate::cost::charge;

/// How many bytes a pattern may have.
const MAX_PATTERN: usize = 4096;
/// How many control letters (`\cJ`) it may have: each is translated by reading the pattern once more.
const MAX_CONTROLS: usize = 16;
/// How many bytes its automaton may have.
const MAX_AUTOMATON: usize = 256 * 1024;
/// What a pattern counts for beside its automaton.
const OVERHEAD: usize = 512;
/// What a state costs that is looked at.
const STEP: u64 = 5;
/// What a byte costs that is compared with a literal, or counted.
const BYTE: u64 = 2;
/// What reading a pattern costs for each of its bytes, each time it is read.
const READ_BYTE: u64 = 150;

/// What a class of characters costs that is read, and one that is read without regard to case.
const CLASS: u64 = 20_000;
const FOLDED_CLASS: u64 = 2_000_000;

/// What is said of a pattern that cannot be used.
const ADVICE: &str = "; patterns run in linear time: write one without lookahead, lookbehind, back references and \
                                 [^], with small repetitions";

/// A pattern that can be asked.
#[derive(Debug)]
pub(super) enum Pattern {
    /// `^text`.
    Prefix(String),
    /// `^text$`.
    Exact(String),
    /// `^(a|b)$`.
    OneOf(Vec<String>),
    /// `^\S*$`.
    NoWhitespace,
    /// `^[a-z]{1,64}$`.
    Counted(RepeatedClass),
    /// Any other.
    Automaton(Box<NFA>),
}

impl Pattern {
    /// Reads a pattern of ECMA 262.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        check_shape(text)?;
        match jsonschema_regex::analyze_pattern(text) {
            Some(PatternAnalysis::Prefix(prefix)) => return Ok(Self::Prefix(prefix.into_owned())),
            Some(PatternAnalysis::Exact(exact)) => return Ok(Self::Exact(exact.into_owned())),
            Some(PatternAnalysis::Alternation(texts)) => return Ok(Self::OneOf(texts)),
            Some(PatternAnalysis::NoWhitespace) => return Ok(Self::NoWhitespace),
            None => {}
        }
        let unusable = || {
            format!("is not a JSON Schema: the pattern \"{}\" cannot be used{ADVICE}", super::shortened(text))
        };
        let translated = jsonschema_regex::to_rust_regex(text).map_err(|()| unusable())?;
        let searched = match jsonschema_regex::search_form(text, &translated) {
            Some(Search::RepeatedClass(class)) => return Ok(Self::Counted(class)),
            Some(Search::Collapsed(collapsed)) => collapsed,
            None => translated.into_owned(),
        };
        automaton(&searched).map(|nfa| Self::Automaton(Box::new(nfa))).map_err(|()| unusable())
    }

    /// How many bytes of memory it takes, about.
    pub(super) fn memory(&self) -> usize {
        OVERHEAD
            + match self {
                Self::Prefix(text) | Self::Exact(text) => text.len(),
                Self::OneOf(texts) => texts.iter().map(|text| text.len() + 32).sum(),
                Self::NoWhitespace | Self::Counted(_) => 0,
                Self::Automaton(nfa) => 2 * nfa.memory_usage() + nfa.states().len() * 32,
            }
    }

    /// How many states a byte may cost at most; 0 for those that are not automata.
    pub(super) fn states(&self) -> usize {
        match self {
            Self::Automaton(nfa) => nfa.states().len(),
            _ => 0,
        }
    }

    /// Whether a text has it somewhere. Without a meaning once nothing is left to spend.
    pub(super) fn is_match(&self, text: &str) -> bool {
        let read = || charge(text.len() as u64 * BYTE);
        match self {
            Self::Prefix(prefix) => text.starts_with(prefix.as_str()),
            Self::Exact(exact) => text == exact,
            Self::OneOf(texts) => charge(texts.len() as u64 * BYTE) && texts.iter().any(|one| one == text),
            Self::NoWhitespace => read() && !jsonschema_regex::contains_ecma_whitespace(text),
            Self::Counted(class) => read() && class.is_match(text),
            Self::Automaton(nfa) => SCRATCH.with_borrow_mut(|scratch| scratch.search(nfa, text)),
        }
    }
}

/// Whether it is short enough to be read at all.
pub(super) fn check_shape(text: &str) -> Result<(), String> {
    if text.len() > MAX_PATTERN {
        return Err(format!("has a pattern of {} bytes, the limit is {MAX_PATTERN}", text.len()));
    }
    if text.matches(r"\c").count() > MAX_CONTROLS {
        return Err(format!(
            r"has a pattern with more than {MAX_CONTROLS} control letters such as \cJ; write \n, \t or \x0a"
        ));
    }
    Ok(())
}

/// Whether a text of an event is a regular expression, for `"format": "regex"`.
pub(super) fn is_regex(text: &str) -> bool {
    let readings = 1 + text.matches(r"\c").count() as u64;
    charge(text.len() as u64 * readings * READ_BYTE) && check_shape(text).is_ok() && {
        jsonschema_regex::is_valid_ecma_regex(text)
    }
}

/// What it costs to read a pattern: above all its classes, and those without regard to case a hundred times as much.
fn reading(text: &str) -> u64 {
    let classes = text.bytes().filter(|byte| b"[.\\".contains(byte)).count() as u64;
    let folds = text.match_indices("(?").any(|(at, _)| {
        let flags = text[at + 2..].bytes().take_while(|byte| byte.is_ascii_alphabetic() || *byte == b'-');
        flags.into_iter().any(|flag| flag == b'i')
    });
    let class = if folds { FOLDED_CLASS } else { CLASS };
    10_000 + text.len() as u64 * READ_BYTE + classes * class
}

fn automaton(pattern: &str) -> Result<NFA, ()> {
    let config =
        Config::new().nfa_size_limit(Some(MAX_AUTOMATON)).which_captures(WhichCaptures::None).shrink(false);
    NFA::compiler().configure(config).build(pattern).map_err(|_| ())
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Sets of states, kept for the next search.
#[derive(Default)]
struct Scratch {
    now: States,
    next: States,
    stack: Vec<StateID>,
}

/// A set of states, in the order in which they were put in.
#[derive(Default)]
struct States {
    members: Vec<StateID>,
    /// By state: when it was put in last.
    since: Vec<u64>,
    /// The number of the present set.
    round: u64,
}

impl States {
    fn fit(&mut self, states: usize) {
        self.members.clear();
        self.round += 1;
        if self.since.len() < states {
            self.since.resize(states, 0);
        }
    }

    fn clear(&mut self) {
        self.members.clear();
        self.round += 1;
    }

    fn insert(&mut self, state: StateID) -> bool {
        let since = &mut self.since[state.as_usize()];
        let is_new = *since != self.round;
        *since = self.round;
        is_new
    }
}

impl Scratch {
    fn search(&mut self, nfa: &NFA, text: &str) -> bool {
        let haystack = text.as_bytes();
        self.now.fit(nfa.states().len());
        self.next.fit(nfa.states().len());
        let anchored = nfa.is_always_start_anchored();
        for at in 0..=haystack.len() {
            if (at == 0 || !anchored)
                && follow(nfa, nfa.start_anchored(), haystack, at, &mut self.now, &mut self.stack)
            {
                return true;
            }
            if self.now.members.is_empty() && anchored {
                return false;
            }
            self.next.clear();
            for state in &self.now.members {
                let target = step(nfa.state(*state), haystack, at);
                if let Some(target) = target
                    && follow(nfa, target, haystack, at + 1, &mut self.next, &mut self.stack)
                {
                    return true;
                }
            }
            if !charge(STEP * (1 + self.now.members.len() as u64)) {
                return false;
            }
            std::mem::swap(&mut self.now, &mut self.next);
        }
        false
    }
}

/// Where a state leads with the byte at this place.
fn step(state: &State, haystack: &[u8], at: usize) -> Option<StateID> {
    match state {
        State::ByteRange { trans } => trans.matches(haystack, at).then_some(trans.next),
        State::Sparse(transitions) => transitions.matches(haystack, at),
        State::Dense(transitions) => transitions.matches(haystack, at),
        _ => None,
    }
}

/// Puts in what can be reached without a byte; whether that is the end.
fn follow(
    nfa: &NFA,
    from: StateID,
    haystack: &[u8],
    at: usize,
    states: &mut States,
    stack: &mut Vec<StateID>,
) -> bool {
    stack.clear();
    stack.push(from);
    let mut looked_at = 0;
    while let Some(id) = stack.pop() {
        if !states.insert(id) {
            continue;
        }
        looked_at += 1;
        match nfa.state(id) {
            State::ByteRange { .. } | State::Sparse(_) | State::Dense(_) => states.members.push(id),
            State::Look { look, next } => {
                if nfa.look_matcher().matches(*look, haystack, at) {
                    stack.push(*next);
                }
            }
            State::Union { alternates } => stack.extend(alternates.iter().rev()),
            State::BinaryUnion { alt1, alt2 } => stack.extend([*alt2, *alt1]),
            State::Capture { next, .. } => stack.push(*next),
            State::Fail => {}
            State::Match { .. } => return true,
        }
        if looked_at % 256 == 0 && !charge(0) {
            return false;
        }
    }
    charge(STEP * looked_at);
    false
}

/// The patterns of a schema while it is compiled: each is made once, and all together take only so much memory.
#[derive(Clone)]
pub(super) struct Patterns(Arc<Mutex<Made>>);

struct Made {
    patterns: HashMap<String, Arc<Pattern>>,
    memory: usize,
    most: usize,
}

impl Patterns {
    /// None yet, and how many bytes they may take.
    pub(super) fn new(most: usize) -> Self {
        Self(Arc::new(Mutex::new(Made { patterns: HashMap::new(), memory: 0, most })))
    }

    /// How many bytes they take.
    pub(super) fn memory(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).memory
    }

    /// The pattern of this text.
    pub(super) fn get(&self, text: &str) -> Result<Arc<Pattern>, String> {
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pattern) = made.patterns.get(text) {
            return Ok(pattern.clone());
        }
        let costly = || "costs too much to compile; write fewer or smaller patterns".to_owned();
        if !charge(reading(text)) {
            return Err(costly());
        }
        let pattern = Arc::new(Pattern::parse(text)?);
        made.memory += pattern.memory() + text.len();
        if made.memory > made.most {
            return Err(super::too_large(made.most));
        }
        // What making it costs grows with what it is.
        if !charge(4 * pattern.memory() as u64) {
            return Err(costly());
        }
        made.patterns.insert(text.to_owned(), pattern.clone());
        Ok(pattern)
    }
}

/// The keyword `pattern`.
pub(super) struct Asked {
    pub(super) pattern: Arc<Pattern>,
    pub(super) text: Box<str>,
}

impl<'i> Keyword<'i, Metered> for Asked {
    fn validate(&self, instance: Seen<'i>) -> Result<(), ValidationError<'i>> {
        if self.is_valid(instance) {
            return Ok(());
        }
        Err(ValidationError::custom(format!("value does not match \"{}\"", self.text)))
    }

    fn is_valid(&self, instance: Seen<'i>) -> bool {
        instance.as_string().is_none_or(|text| self.pattern.is_match(&text))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use regex_automata::nfa::thompson::pikevm::PikeVM;

    use super::*;

    #[test]
    fn patterns_match_as_they_say() {
        let table = [
            ("^ord_", "ord_1", true),
            ("^ord_", "xord_1", false),
            ("^a$", "a", true),
            ("^(a|b)$", "b", true),
            ("^(a|b)$", "ab", false),
            (r"^\S*$", "a b", false),
            ("^[a-z]{1,64}$", "abc", true),
            ("^.{1,5000}$", &"é".repeat(5000), true),
            ("^.{1,5000}$", &"é".repeat(5001), false),
            ("b+c", "abbbcd", true),
            ("b+c", "abbbd", false),
            ("", "", true),
            ("^$", "", true),
            ("^$", "a", false),
            (r"\bfoo\b", "a foo b", true),
            (r"\bfoo\b", "afoob", false),
            (r"^\d{4}-\d{2}$", "2026-02", true),
            (r"^\d{4}-\d{2}$", "2026-2", false),
            (r"^\p{Lu}.*[^x]$", "Éa", true),
            ("a$|^b", "ba", true),
            ("(^a|c)$", "bc", true),
        ];
        for (pattern, text, expected) in table {
            assert_eq!(Pattern::parse(pattern).unwrap().is_match(text), expected, "{pattern} {text:.20}");
        }
    }

    #[test]
    fn what_is_costly_to_read_is_not_read() {
        for pattern in ["a".repeat(MAX_PATTERN + 1), r"\cA".repeat(MAX_CONTROLS + 1)] {
            assert!(Pattern::parse(&pattern).is_err());
            assert!(!is_regex(&pattern));
        }
        let problem = Pattern::parse(r"(\p{L}{50}){50}").unwrap_err();
        assert!(problem.contains("small repetitions"), "{problem}");
    }

    #[test]
    fn patterns_without_regard_to_case_cost_what_they_take() {
        assert!(reading(r"(?i:\p{L})") > 2_000_000 && reading(r"(?s-i:\p{L})") > 2_000_000);
        assert!(reading(r"^(?:\d+)-(?<i>[a-z]+)$") < 200_000);
    }

    #[test]
    fn memory_is_counted_once_a_pattern_and_bounded() {
        let patterns = Patterns::new(4 << 20);
        patterns.get(r"\p{L}{6}xy").unwrap();
        let one = patterns.memory();
        assert!(one > 100_000, "{one}");
        patterns.get(r"\p{L}{6}xy").unwrap();
        assert_eq!(patterns.memory(), one);
        let made = (0..2400).take_while(|n| patterns.get(&format!(r"\p{{L}}{{6}}xy{n}")).is_ok()).count();
        assert!(made < 40, "{made}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2048))]

        #[test]
        fn the_walk_finds_what_the_library_finds(
            pattern in r"(\^)?([ab.é]|\[\^a\]|\(a\|b\)|\\b|a\*|b\+|a\?|\.\*|b\{2,3\}){0,6}(\$)?",
            text in "[abcé\n]{0,12}",
        ) {
            if let Ok(nfa) = automaton(&pattern) {
                let walked = SCRATCH.with_borrow_mut(|scratch| scratch.search(&nfa, &text));
                let library = PikeVM::new(&pattern).expect("it was made before");
                let found = library.is_match(&mut library.create_cache(), text.as_str());
                prop_assert_eq!(walked, found, "{} {:?}", pattern, text);
            }
        }
    }
}
