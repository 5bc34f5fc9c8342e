use proptest::prelude::*;

use super::*;
use crate::event::{Attributes, EventTypeName};
use crate::pattern::{Index, Pattern};
use crate::time::Timestamp;

fn filter(text: &str) -> Filter {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn ask(text: &str, data: &str) -> Result<bool, Unanswered> {
    let event_type: EventTypeName = "order.placed".parse().unwrap();
    let attributes = Attributes::new([("region".to_owned(), "eu".to_owned())]).unwrap();
    let timestamp = Timestamp::parse("2026-02-02T10:30:00Z").unwrap();
    filter(text).passes(&Facts::new(&event_type, timestamp, &attributes, data.as_bytes()))
}

#[test]
fn filters_answer() {
    let data = r#"{"amount": 120, "rate": 1.5, "whole": 5.0, "country": "DE", "tags": ["a", "b"], "vip": true,
                   "customer": {"id": "c-1", "note": null}, "big": 18446744073709551615, "at": "2026-02-02T10:00:00Z"}"#;
    let table = [
        ("event.type == 'order.placed'", true),
        ("event.type.startsWith(\"order.\") && event.data.amount > 100", true),
        ("event.data.amount > 100.5", true),
        ("event.data.amount == 120.0", true),
        ("event.data.whole == 5", true),
        ("event.data.rate < 2", true),
        ("event.data.big > 5", true),
        ("event.data.country == 'FR'", false),
        ("event.data.amount == 'DE'", false),
        ("event.data.country in ['DE', 'AT']", true),
        ("'b' in event.data.tags", true),
        ("event.data.tags[0] == 'a'", true),
        ("event.data.vip", true),
        ("!event.data.vip || event.data.customer.id == 'c-1'", true),
        ("event.data[\"customer\"][\"id\"] == 'c-1'", true),
        ("event.data.customer.note == null", true),
        ("has(event.data.missing) && event.data.missing > 5", false),
        ("has(event.data.customer.id)", true),
        ("event.attributes.region == 'eu'", true),
        ("event.attributes['region'] == 'us'", false),
        ("has(event.attributes.tenant)", false),
        ("'region' in event.attributes", true),
        ("event.timestamp > timestamp('2026-01-01T00:00:00Z')", true),
        ("event.timestamp.getHours() == 10", true),
        ("event.timestamp - timestamp(event.data.at) >= duration('30m')", true),
        ("size(event.data.tags) == 2", true),
        ("event.data.country.size() == 2", true),
        ("string(event.data.amount) == '120'", true),
        ("event.data.amount * 2 + 1 == 241", true),
        ("event.data.amount > 100 ? event.data.country == 'DE' : false", true),
        // An error is no answer, but what the other side says may settle it.
        ("event.data.missing > 5 && false", false),
        ("event.data.missing > 5 || true", true),
    ];
    for (text, expected) in table {
        assert_eq!(ask(text, data), Ok(expected), "{text}");
    }
}

#[test]
fn what_has_no_answer_says_why_and_not_what_the_event_holds() {
    let data = r#"{"amount": "secret-amount", "list": [], "n": 0, "m": {"x": "secret"}}"#;
    let table = [
        ("event.data.missing == 1", "no «missing»"),
        ("event.data.amount > 5", "cannot be"),
        ("event.data.amount", "gives a string"),
        ("event.data.list[3] == 1", "index"),
        ("1 / event.data.n == 1", "divides by zero"),
        ("timestamp(event.data.amount) > event.timestamp", "timestamp()"),
        ("event.data.m > 5", "cannot be"),
        ("int(event.data.amount) > 5", "int()"),
        ("event.data.amount.id == 'x'", ""),
        ("event.data.n + int('9223372036854775807') + 1 > 5", "overflow"),
    ];
    for (text, part) in table {
        let problem = ask(text, data).expect_err(text).0;
        assert!(problem.contains(part), "{text}: {problem}");
        assert!(!problem.contains("secret"), "{text}: {problem}");
    }
    let problem = ask("event.data.x == 1", r#"{"x": 1e999}"#).expect_err("out of range").0;
    assert!(problem.contains("number out of range"), "{problem}");
}

#[test]
fn what_is_refused_says_where_and_what_to_do() {
    let long = format!("event.data.x == '{}'", "x".repeat(MAX_FILTER));
    let many = vec!["event.data.x == 1"; 60].join(" || ");
    let deep = format!("{}true{}", "!(".repeat(30), ")".repeat(30));
    let table = [
        ("", 1, 1, "must hold an expression"),
        (long.as_str(), 1, 1, "limit is 2048"),
        ("event.data.x ==", 1, 16, ""),
        ("event.data.x == 1 &&\n  events.type == 'a'", 2, 3, "«events» is unknown"),
        ("event.typ == 'a'", 1, 6, "event has no «typ»"),
        ("event.type == 5", 1, 12, "compares a text with a number"),
        ("event.type > 5", 1, 12, "compares a text with a number"),
        ("event.type", 1, 6, "must give true or false, not a text"),
        ("event == event", 1, 1, "name one of them"),
        ("'é' == event.typ", 1, 13, "«typ»"),
        ("event.data.tags.exists(t, t == 'a')", 1, 23, "they loop"),
        ("event.data.name.matches('a*')", 1, 24, "matches() is not allowed"),
        ("event.data.a + event.data.b == 'x'", 1, 14, "int(…)"),
        ("foo(event.data.a)", 1, 4, "is not a function here"),
        ("{'a': 1} == event.data.a", 1, 1, "cannot be made"),
        ("event.type.x == 'a'", 1, 11, "a text has no «x»"),
        ("!event.timestamp", 1, 7, "is a timestamp; needed is true or false"),
        (many.as_str(), 1, 1, "more than 400"),
        (deep.as_str(), 1, 1, "deep"),
    ];
    for (text, line, column, part) in table {
        let error = text.parse::<Filter>().expect_err(text);
        assert!(error.problem.contains(part), "{text}: {error}");
        if text.len() < 200 && !text.starts_with("!(") {
            assert_eq!((error.line, error.column), (line, column), "{text}: {error}");
        }
    }
}

const REPEATED: &[&str] = &[
    "(",
    "[",
    "{",
    "!",
    "-",
    "a.",
    "a[",
    "1+",
    "a?",
    "a?b:",
    "a&&",
    "!(",
    "f(",
    "'",
    "\"",
    "\\",
    "`",
    "1 ? ",
    "a.f(",
    "has(",
    "a.all(x,",
    ")",
    "]",
    "//",
    "\n",
    "é",
    "\u{1f600}",
    "@",
    "#",
    "0x",
    "1e",
    "'''",
    "b'",
    "r\"",
    "[[],",
    "{1:",
    "a in ",
    "a<b,",
    "((a),(",
    "-1-",
    "..",
    "a.?b",
    "a{b:",
];

/// Each of these has cost a parser its stack.
#[test]
fn hostile_texts_are_refused_on_a_small_stack() {
    let mut texts: Vec<String> = REPEATED.iter().map(|text| text.repeat(MAX_FILTER / text.len())).collect();
    texts.push(format!("{}1{}", "(".repeat(1000), ")".repeat(1000)));
    texts.push(format!("{}1{}", "[".repeat(1000), "]".repeat(1000)));
    texts.push(format!("event.data{} == 1", ".a".repeat(1000)));
    texts.push(format!("1{} == 1", "+1".repeat(1000)));
    texts.push(format!("true{}", "?true:true".repeat(200)));
    texts.push(format!("true{}", "&&true".repeat(330)));
    for text in texts {
        let shown: String = text.chars().take(30).collect();
        let thread = std::thread::Builder::new().stack_size(1024 * 1024);
        let refused = thread.spawn(move || text.parse::<Filter>().is_err()).expect("a thread").join();
        assert!(refused.expect("no panic"), "{shown}");
    }
}

#[test]
fn what_filters_cost_an_event_is_bounded() {
    let name: EventTypeName = "a.b".parse().unwrap();
    let attributes = Attributes::default();
    let data = format!("{{\"x\":\"{}\"}}", "x".repeat(200_000));
    let facts = Facts::new(&name, Timestamp::default(), &attributes, data.as_bytes());
    let filter = filter("event.data.x.contains('xy')");
    let asked = (0..10_000).take_while(|_| filter.passes(&facts).is_ok()).count();
    assert!((100..130).contains(&asked), "{asked}");
    let unanswered = filter.passes(&facts).expect_err("the budget is used up");
    assert!(unanswered.0.contains("cost too much"), "{unanswered}");
}

fn term() -> impl Strategy<Value = String> {
    let place = prop_oneof![
        Just("event.data.a"),
        Just("event.data['a']"),
        Just("event.data.m.a"),
        Just("event.attributes.a"),
        Just("event.type"),
    ];
    let value = prop_oneof![Just("'x'"), Just("'y'"), Just("'t.x'")];
    prop_oneof![
        (place.clone(), value.clone()).prop_map(|(place, value)| format!("{place} == {value}")),
        (place.clone(), value.clone()).prop_map(|(place, value)| format!("{value} == {place}")),
        (place.clone(), value.clone()).prop_map(|(place, value)| format!("{place} in [{value}, 'z']")),
        (place.clone(), value).prop_map(|(place, value)| format!("{place} != {value}")),
        prop_oneof![
            Just("event.data.a"),
            Just("event.data.m.a"),
            Just("event.attributes.a"),
            Just("event.data.m")
        ]
        .prop_map(|place| format!("has({place})")),
        Just("event.data.n > 1".to_owned()),
        Just("true".to_owned()),
    ]
}

fn joined() -> impl Strategy<Value = String> {
    prop::collection::vec(term(), 1..4).prop_map(|terms| terms.join(" && "))
}

fn expression() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => joined(),
        1 => (joined(), term()).prop_map(|(left, right)| format!("({left}) || {right}")),
        1 => joined().prop_map(|inner| format!("!({inner})")),
    ]
}

fn data() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        Just(""),
        Just(r#""a": "x""#),
        Just(r#""a": "y""#),
        Just(r#""a": 5"#),
        Just(r#""a": null"#),
        Just(r#""a": ["x"]"#),
    ];
    let below = prop_oneof![
        Just(r#""n": 1"#),
        Just(r#""n": 2, "m": {}"#),
        Just(r#""n": 2, "m": {"a": "x"}"#),
        Just(r#""n": 2, "m": "x""#),
        Just(r#""n": "z", "m": {"a": 7}"#),
    ];
    prop_oneof![
        8 => (value, below).prop_map(|(value, below)| {
            if value.is_empty() { format!("{{{below}}}") } else { format!("{{{value}, {below}}}") }
        }),
        1 => Just("null".to_owned()),
        1 => Just("[1]".to_owned()),
        1 => Just("{\"a\": 1e999}".to_owned()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_index_never_changes_the_answer(
        filters in prop::collection::vec(prop::option::of(expression()), 1..12),
        removed in prop::collection::vec(any::<bool>(), 12),
        data in data(),
        region in prop::option::of(prop_oneof![Just("x"), Just("q")]),
        name in prop_oneof![Just("t.x"), Just("t.y")],
    ) {
        let filters: Vec<Option<Filter>> = filters.iter().map(|text| text.as_deref().map(filter)).collect();
        let patterns: [Pattern; 2] = ["*".parse().unwrap(), "t.*".parse().unwrap()];
        let anchor = |number: usize| filters[number].as_ref().and_then(Filter::anchor);
        let mut index = Index::default();
        for number in 0..filters.len() {
            index.insert(&patterns, anchor(number), number);
        }
        for number in (0..filters.len()).filter(|number| removed[*number]) {
            index.remove(&patterns, anchor(number), number);
        }
        let name: EventTypeName = name.parse().unwrap();
        let attributes = Attributes::new(region.map(|value| ("a".to_owned(), value.to_owned()))).unwrap();
        let facts = Facts::new(&name, Timestamp::default(), &attributes, data.as_bytes());
        // What has no answer is delivered.
        let owed = |number: &usize| filters[*number].as_ref().is_none_or(|filter| filter.passes(&facts) != Ok(false));
        let by_index: Vec<usize> = index.find(&facts).into_iter().filter(owed).collect();
        let by_scan: Vec<usize> = (0..filters.len()).filter(|number| !removed[*number]).filter(owed).collect();
        prop_assert_eq!(by_index, by_scan);
    }

    #[test]
    fn no_text_is_too_much(text in "[a-z.()\\[\\]'\" 0-9&|!=<>+?:,{}-]{0,80}", data in data()) {
        if let Ok(filter) = text.parse::<Filter>() {
            let name: EventTypeName = "a.b".parse().unwrap();
            let attributes = Attributes::default();
            let facts = Facts::new(&name, Timestamp::default(), &attributes, data.as_bytes());
            let _any_answer = filter.passes(&facts);
        }
    }
}
