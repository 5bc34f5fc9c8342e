//! Whether a unit of cost is about a nanosecond: what filters and schemas are charged, beside the time that they take.
//!
//!     cargo run --release -p postrider-domain --example units

use std::time::{Duration, Instant};

use postrider_domain::cost::Budget;
use postrider_domain::event::{Attributes, EventTypeName};
use postrider_domain::filter::{Facts, Filter};
use postrider_domain::schema::Schema;
use postrider_domain::time::Timestamp;

const ROUNDS: u32 = 20;

#[expect(clippy::disallowed_methods, reason = "a measurement")]
fn now() -> Instant {
    Instant::now()
}

fn show(name: &str, units: u64, took: Duration) {
    let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
    let each = nanoseconds as f64 / units.max(1) as f64;
    println!("{name:<58} {units:>12} units {took:>12.1?}  {each:>8.2} ns a unit");
}

fn filter(name: &str, text: &str, data: &str) {
    let filter: Filter = text.parse().expect("a filter");
    let event_type: EventTypeName = "document.completed".parse().expect("a name");
    let attributes = Attributes::default();
    let (mut units, mut took) = (0, Duration::ZERO);
    for _ in 0..ROUNDS {
        let facts = Facts::new(&event_type, Timestamp::default(), &attributes, data.as_bytes());
        facts.prepare();
        let _first_makes_the_context = filter.passes(&facts);
        let (before, begun) = (facts.used(), now());
        for _ in 0..20 {
            std::hint::black_box(filter.passes(&facts)).ok();
        }
        took += begun.elapsed();
        units += facts.used() - before;
    }
    show(name, units, took);
}

fn reading(name: &str, data: &str) {
    let event_type: EventTypeName = "document.completed".parse().expect("a name");
    let attributes = Attributes::default();
    let (mut units, begun) = (0, now());
    for _ in 0..ROUNDS {
        let facts = Facts::new(&event_type, Timestamp::default(), &attributes, data.as_bytes());
        facts.prepare();
        units += facts.used();
    }
    show(name, units, begun.elapsed());
}

fn schema(name: &str, text: &str, data: &str) {
    let mut budget = Budget::new(u64::MAX - 1, None);
    let begun = now();
    let schema = Schema::compile(text, &mut budget).expect("a schema");
    show(&format!("compile: {name} ({} KiB)", schema.memory() >> 10), budget.used(), begun.elapsed());
    let (before, begun) = (budget.used(), now());
    for _ in 0..ROUNDS {
        std::hint::black_box(schema.problems(data.as_bytes(), &mut budget)).ok();
    }
    show(name, budget.used() - before, begun.elapsed());
}

fn filters() {
    let fields: Vec<String> = (0..60).map(|n| format!("\"a{n}\":{n}")).collect();
    let small = format!("{{{},\"customer\":\"c-77\",\"list\":[1,2,3]}}", fields.join(","));
    let large =
        format!("{{\"customer\":\"c-77\",\"text\":\"{}\",{}}}", "x".repeat(200_000), fields.join(","));
    let many = |term: &str, times: usize| vec![term; times].join(" && ");
    reading("reading 60 fields", &small);
    reading("reading 200 KB of text", &large);
    reading("reading 20000 numbers", &format!("[{}1]", "123456,".repeat(20_000)));
    filter("one comparison", "event.data.a1 == 1", &small);
    filter("30 comparisons of numbers", &many("event.data.a1 != 5.5", 30), &small);
    filter("30 comparisons of texts", &many("event.data.customer != 'x'", 30), &small);
    filter("30 times has()", &many("has(event.data.a1)", 30), &small);
    filter("18 times in", &many("!(event.data.a1 in [5, 6, 7])", 18), &small);
    filter("20 times a timestamp", &many("event.timestamp.getHours() < 25", 20), &small);
    filter("contains in 200 KB", "event.data.text.contains('xy')", &large);
    filter("10 times contains in 200 KB", &many("!event.data.text.contains('xy')", 10), &large);
}

fn schemas() {
    let text = |bytes: usize| format!("\"{}\"", "a".repeat(bytes));
    let many = |rule: &str, times: usize| format!("{{\"allOf\":[{}{{}}]}}", format!("{rule},").repeat(times));
    let order = r#"{"type":"object","required":["id"],"properties":{"id":{"pattern":"^ord_[0-9a-z]{10,30}$"},
        "lines":{"items":{"properties":{"sku":{"type":"string","maxLength":40},"quantity":{"type":"integer"}},
        "additionalProperties":false}}}}"#;
    let line = r#"{"sku":"hat-blue-large","quantity":3}"#;
    let data = format!(r#"{{"id":"ord_01h455vb4pex5vsknk084","lines":[{}]}}"#, vec![line; 50].join(","));
    let numbers: Vec<String> = (0..4000).map(|n| n.to_string()).collect();
    let numbers = format!("[{}]", numbers.join(","));
    let names: Vec<String> = (0..5000).map(|n| format!("\"name{n}\":1")).collect();
    let names = format!("{{{}}}", names.join(","));
    schema("an order with 50 lines", order, &data);
    schema("1200 costly patterns", &many(r#"{"not":{"pattern":"a[^!]{120}aa!x"}}"#, 1200), &text(15_000));
    schema("one costly pattern", r#"{"not":{"pattern":"a[^!]{120}aa!x"}}"#, &text(15_000));
    schema("20 large patterns", &many(r#"{"not":{"pattern":"\\p{L}{6}xy"}}"#, 20), &text(15_000));
    schema(
        "50 different large patterns",
        &{
            let each: Vec<String> =
                (0..25).map(|n| format!(r#"{{"pattern":"\\p{{L}}{{6}}xy{n}"}}"#)).collect();
            format!("{{\"anyOf\":[{},{{}}]}}", each.join(","))
        },
        &text(2),
    );
    schema("unique numbers", r#"{"uniqueItems":true}"#, &numbers);
    schema("an enum of 4000", &format!("{{\"items\":{{\"enum\":{numbers}}}}}"), "[-1,-1,-1,-1,-1]");
    schema("lengths of 200 KB", &many(r#"{"minLength":3}"#, 50), &text(200_000));
    schema("patterns of properties", r#"{"patternProperties":{"^x[a-z]{3,9}":{},"e[0-9]+z":{}}}"#, &names);
    schema("names of properties", r#"{"propertyNames":{"pattern":"e[0-9]+z|^n"}}"#, &names);
    schema("problems", r#"{"items":{"type":"string"}}"#, &numbers);
}

fn main() {
    filters();
    schemas();
}
