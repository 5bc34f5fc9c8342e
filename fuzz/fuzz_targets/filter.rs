//! A subscription's filter: short work to read and to evaluate, whatever it says, and the same answer by the index as by
//! asking.
//!
//! The input is an event's data, a zero byte, and the filter.

#![no_main]

use libfuzzer_sys::fuzz_target;
use postrider_domain::event::{Attributes, EventTypeName, check_data};
use postrider_domain::filter::{Facts, Filter, MAX_FILTER};
use postrider_domain::pattern::{Index, Pattern};
use postrider_domain::time::Timestamp;

fuzz_target!(|input: &[u8]| {
    let mut parts = input.splitn(2, |byte| *byte == 0);
    let (Some(data), Some(text)) = (parts.next(), parts.next()) else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let filter = match text.parse::<Filter>() {
        Ok(filter) => filter,
        Err(error) => {
            let lines = text.matches('\n').count() + 1;
            assert!(!error.problem.is_empty(), "refused without a reason: {text}");
            assert!((1..=lines).contains(&error.line) && error.column >= 1, "no such place: {error}");
            return;
        }
    };
    assert!(text.len() <= MAX_FILTER && filter.as_str() == text);
    if check_data(data, 64 * 1024).is_err() {
        return;
    }
    let event_type: EventTypeName = "order.placed".parse().expect("a name");
    let attributes = Attributes::new([("region".to_owned(), "eu".to_owned())]).expect("attributes");
    let facts = Facts::new(&event_type, Timestamp::default(), &attributes, data);
    let answer = filter.passes(&facts);
    assert_eq!(answer, filter.passes(&facts), "two answers to one question");
    let mut index = Index::default();
    let patterns = [Pattern::All];
    index.insert(&patterns, filter.anchor(), 1);
    assert!(
        answer == Ok(false) || index.find(&facts) == [1],
        "the index loses who is owed the event: {text}"
    );
    index.remove(&patterns, filter.anchor(), 1);
    assert!(index.find(&facts).is_empty());
});
