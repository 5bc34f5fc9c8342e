//! What it costs to find whom an event is owed to, among many subscriptions with filters.
//!
//!     cargo run --release -p postrider-domain --example matching

use std::collections::HashMap;
use std::time::{Duration, Instant};

use postrider_domain::event::{Attributes, EventTypeName};
use postrider_domain::filter::{Facts, Filter};
use postrider_domain::pattern::{Index, Pattern};
use postrider_domain::time::Timestamp;

const ROUNDS: u32 = 20;

struct Subscriptions {
    index: Index<usize>,
    filters: HashMap<usize, Filter>,
}

impl Subscriptions {
    fn new(count: usize, filter: impl Fn(usize) -> String) -> Self {
        let patterns: Vec<Pattern> = vec!["document.*".parse().expect("a pattern")];
        let (mut index, mut filters) = (Index::default(), HashMap::new());
        for number in 0..count {
            let filter: Filter = filter(number).parse().expect("a filter");
            index.insert(&patterns, filter.anchor(), number);
            filters.insert(number, filter);
        }
        Self { index, filters }
    }

    /// How many an event meets, how many want it, and how many gave no answer.
    fn ask(&self, data: &str) -> (usize, usize, usize) {
        let event_type: EventTypeName = "document.completed".parse().expect("a name");
        let attributes = Attributes::default();
        let facts = Facts::new(&event_type, Timestamp::default(), &attributes, data.as_bytes());
        let met = self.index.find(&facts);
        let answers: Vec<_> = met.iter().map(|number| self.filters[number].passes(&facts)).collect();
        let wanted = answers.iter().filter(|answer| **answer != Ok(false)).count();
        (met.len(), wanted, answers.iter().filter(|answer| answer.is_err()).count())
    }
}

fn measure(name: &str, count: usize, data: &str, filter: impl Fn(usize) -> String) {
    let begun = now();
    let subscriptions = Subscriptions::new(count, filter);
    let built = begun.elapsed();
    let (met, wanted, unanswered) = subscriptions.ask(data);
    let mut times: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let begun = now();
            std::hint::black_box(subscriptions.ask(data));
            begun.elapsed()
        })
        .collect();
    times.sort_unstable();
    let (median, slowest) = (times[times.len() / 2], times[times.len() - 1]);
    println!(
        "{name:<44} {count:>7} filters, {:>6} bytes: {met:>6} met, {wanted:>6} owed, {unanswered:>6} unanswered; \
         {median:>9.1?} median, {slowest:>9.1?} slowest; built in {built:.1?}",
        data.len()
    );
}

#[expect(clippy::disallowed_methods, reason = "a measurement")]
fn now() -> Instant {
    Instant::now()
}

fn main() {
    let small = r#"{"documentId":"doc_abc123","customer":"c-77","amount":150,"pages":3,"status":"done"}"#;
    let anchored = |number: usize| format!("event.data.customer == 'c-{number}' && event.data.amount > 100");
    measure("one text of its own each", 100, small, anchored);
    measure("one text of its own each", 10_000, small, anchored);
    measure("one text of its own each", 100_000, small, anchored);
    measure("a text at a thousand places", 100_000, small, |number| {
        format!("has(event.data.f{}) && event.data.f{} == 'x{number}'", number % 1000, number % 1000)
    });
    measure("a number, which no index finds", 1_000, small, |number| {
        format!("event.data.amount == {number}")
    });
    measure("a number, which no index finds", 100_000, small, |number| {
        format!("event.data.amount == {number}")
    });
    let long = |filling: &str, bytes: usize| {
        format!("{{\"x\":\"{}\",\"l\":[0]}}", filling.repeat(bytes / filling.len()))
    };
    measure("a search of the whole data", 100_000, &long("ab", 256 * 1024), |_| {
        "event.data.x.contains('aac')".into()
    });
    let needle = "a".repeat(900);
    measure("the worst search", 1_000, &long("a", 256 * 1024), |_| {
        format!("event.data.x.contains('{needle}b')")
    });
    let list = format!("{{\"l\":[{}0]}}", "1,".repeat(128 * 1024));
    measure("a list of the event", 1_000, &list, |_| "7 in event.data.l".into());
    measure("a list compared with itself", 1_000, &list, |_| "event.data.l == event.data.l".into());
    let sums = |_| format!("event.data.n{} > 5", " + 1".repeat(16));
    measure("the longest sum", 10_000, r#"{"n":1}"#, sums);
    measure("parsing the largest data", 1, &list, |_| "event.data.l[0] == 2".into());
}
