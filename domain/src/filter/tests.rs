use proptest::prelude::*;

use super::*;
use crate::event::{Attributes, EventTypeName};
use crate::pattern::{Index, Pattern};
use crate::time::{EventTime, Timestamp};

fn filter(text: &str) -> Filter {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn ask(text: &str, data: &str) -> Result<bool, Unanswered> {
    let event_type: EventTypeName = "order.placed".parse().unwrap();
    let attributes = Attributes::new([("region".to_owned(), "eu".to_owned())]).unwrap();
    let timestamp = EventTime::parse("2026-02-02T10:30:00.000100200Z").unwrap();
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
        ("event.timestamp == timestamp('2026-02-02T10:30:00.000100200Z')", true),
        ("event.timestamp > timestamp('2026-02-02T10:30:00.0001Z')", true),
        ("event.timestamp == timestamp('2026-02-02T10:30:00Z')", false),
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
        ("event.data.missing == 1", "no 'missing'"),
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
}

#[test]
fn any_accepted_json_is_read() {
    let long = format!(r#"{{"country":"FR","n":{}}}"#, "9".repeat(200_000));
    let odd = [
        r#"{"country":"FR","note":"cut \ud83d"}"#,
        r#"{"country":"FR","note":"\ude00\ud83d"}"#,
        r#"{"country":"FR","\ud83d":1}"#,
        r#"{"country":"FR","n":1e400}"#,
        r#"{"country":"FR","n":[{"m":-1E+400}]}"#,
        long.as_str(),
    ];
    for data in odd {
        let shown: String = data.chars().take(60).collect();
        crate::event::check_data(data.as_bytes(), 1 << 20).expect(&shown);
        assert_eq!(ask("event.data.country == 'DE'", data), Ok(false), "{shown}");
        assert_eq!(ask("event.data.country == 'FR'", data), Ok(true), "{shown}");
        assert_eq!(ask("size(event.data) == 2", data), Ok(true), "{shown}");
    }
    let table = [
        ("event.data.a == 'x\u{fffd}'", r#"{"a":"x\ud83d"}"#, true),
        ("event.data.a.startsWith('x') && event.data.a.size() == 2", r#"{"a":"x\ud83d"}"#, true),
        ("event.data.a == '\u{1f600}'", r#"{"a":"\ud83d\ude00"}"#, true),
        ("'\u{fffd}' in event.data", r#"{"\udfff":1}"#, true),
        ("event.data.a > 1e308", r#"{"a":1e400}"#, true),
        ("event.data.a < -1e308", r#"{"a":-1e400}"#, true),
        ("event.data.a > 100", &long.replace("\"n\"", "\"a\""), true),
    ];
    for (text, data, expected) in table {
        assert_eq!(ask(text, data), Ok(expected), "{text}");
    }
}

#[test]
fn numbers_compare_by_value() {
    let data = r#"{"n": 9007199254740993, "d": 9007199254740992.0, "big": 18446744073709551615, "huge": 18446744073709551616,
                   "min": -9223372036854775808, "five": 5, "half": 5.5, "list": [1, 9007199254740993], "doubles": [1.0, 9007199254740992.0],
                   "m": {"a": [1, {"b": 2}]}, "same": {"a": [1.0, {"b": 2.0}]}, "other": {"a": [1.0, {"b": 2.5}]}}"#;
    let table = [
        ("event.data.n == 9007199254740992.0", false),
        ("9007199254740992.0 == event.data.n", false),
        ("event.data.n != 9007199254740992.0", true),
        ("event.data.n > 9007199254740992.0", true),
        ("9007199254740992.0 < event.data.n", true),
        ("event.data.n <= 9007199254740992.0", false),
        ("9007199254740992.0 >= event.data.n", false),
        ("event.data.n == event.data.d", false),
        ("event.data.d < event.data.n", true),
        ("event.data.d == 9007199254740992", true),
        ("event.data.d == 9007199254740993", false),
        ("event.data.big == 18446744073709551615u", true),
        ("event.data.big < event.data.huge", true),
        ("event.data.big == event.data.huge", false),
        ("event.data.big == 18446744073709551616.0", false),
        ("event.data.big > event.data.min", true),
        ("event.data.min == -9223372036854775808.0", true),
        (
            "event.data.five == 5.0 && event.data.five == 5u && event.data.half > 5 && 6u > event.data.half",
            true,
        ),
        ("event.data.n in [9007199254740992.0]", false),
        ("event.data.d in [9007199254740992]", true),
        ("9007199254740992.0 in event.data.list", false),
        ("9007199254740992 in event.data.doubles", true),
        ("event.data.d in event.data.list", false),
        ("event.data.list == event.data.doubles", false),
        ("event.data.list == [1.0, 9007199254740993]", true),
        ("event.data.list == [1.0, 9007199254740992.0]", false),
        ("event.data.m == event.data.same", true),
        ("event.data.m != event.data.same", false),
        ("event.data.m == event.data.other", false),
        ("event.data.m in [event.data.other, event.data.same]", true),
        ("'a' in event.data.m && !('b' in event.data.m) && !(1 in event.data.m)", true),
        ("double('NaN') > 1.0", false),
        ("double('NaN') <= event.data.five", false),
        ("event.data.five >= double('NaN')", false),
        ("double('NaN') == double('NaN')", false),
        ("double('NaN') != event.data.five", true),
        ("double('NaN') in [1.0, 2]", false),
        ("event.data.big < double('inf') && event.data.min > double('-inf')", true),
        ("event.data.five == '5'", false),
        ("event.data.m == 1", false),
    ];
    for (text, expected) in table {
        assert_eq!(ask(text, data), Ok(expected), "{text}");
    }
    for text in ["event.data.m > 1", "event.data.five < 'a'", "event.data.five in event.data.half"] {
        let problem = ask(text, data).expect_err(text).0;
        assert!(problem.contains("cannot be applied to") && !problem.contains('@'), "{text}: {problem}");
    }
}

#[test]
fn constant_parts_are_judged_before_an_event_comes() {
    let table = [
        ("event.timestamp > timestamp('2026-13-01T00:00:00Z')", "RFC 3339"),
        ("event.timestamp > timestamp('yesterday')", "RFC 3339"),
        ("event.timestamp.getHours('Europe/Berlln') > 5", "time zone"),
        ("event.timestamp.getFullYear('+25:00') > 5", "time zone"),
        ("timestamp(event.data.at).getMinutes('Mars') > 5", "time zone"),
        ("event.timestamp - timestamp(event.data.at) > duration('7d')", "duration"),
        ("event.data.n > int('x')", "whole number"),
        ("event.data.n > int('9223372036854775808')", "whole number"),
        ("event.data.n > int(1e300)", ""),
        ("event.data.n > double('x')", "not a number"),
        ("event.data.n == 1 / 0", "divides by zero"),
        ("event.data.n % 0 == 1", "divides by zero"),
        ("event.data.n / 0 == 1", "divides by zero"),
        ("event.data.n > 9223372036854775807 + 1", "overflows"),
        ("event.data.n > 1 + 0.5", "cannot be applied to"),
        ("event.data.list[-1] == 1", "first item"),
        ("event.data.list[0.5] == 1", "whole number"),
        ("has(event.data.x) && (event.data.x == 1 || event.data.n in [1, int('x')])", "whole number"),
    ];
    for (text, part) in table {
        let filter = filter(text);
        let problem = filter.constant_problem().unwrap_or_else(|| panic!("{text} has no problem"));
        assert!(problem.problem.contains(part), "{text}: {problem}");
        assert!(problem.column > 1, "{text}: {problem}");
    }
    let right = [
        "event.timestamp > timestamp('2026-12-01T00:00:00.123456789+02:00')",
        "event.timestamp.getHours('Europe/Berlin') > 5 || event.timestamp.getHours('+02:00') > 5",
        "event.timestamp.getHours(event.data.zone) > 5",
        "event.timestamp - timestamp(event.data.at) > duration('168h') - duration('1.5h')",
        "event.data.n > int('7') || event.data.n > double('NaN') || event.data.n > 1.0 / 0.0",
        "event.data.n % 2 == 1 && event.data.n / event.data.m == 1",
        "event.data.list[0] == 1 && event.data['x'] == string(5)",
        "int(event.data.n) > 5 && duration(event.data.d) > duration('0s')",
    ];
    for text in right {
        assert_eq!(filter(text).constant_problem(), None, "{text}");
    }
    let problem = ask("event.timestamp > timestamp('2026-13-01T00:00:00Z')", "{}").expect_err("no answer").0;
    assert!(problem.contains("RFC 3339") && !problem.contains("the event has there"), "{problem}");
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
        ("event.data.x == 1 &&\n  events.type == 'a'", 2, 3, "'events' is unknown"),
        ("event.typ == 'a'", 1, 6, "event has no 'typ'"),
        ("event.type == 5", 1, 12, "compares a text with a number"),
        ("event.type > 5", 1, 12, "compares a text with a number"),
        ("event.type", 1, 6, "must give true or false, not a text"),
        ("event == event", 1, 1, "name one of them"),
        ("'é' == event.typ", 1, 13, "'typ'"),
        ("event.data.tags.exists(t, t == 'a')", 1, 23, "they loop"),
        ("event.data.name.matches('a*')", 1, 24, "matches() is not allowed"),
        ("event.data.a + event.data.b == 'x'", 1, 14, "int(…)"),
        ("foo(event.data.a)", 1, 4, "is not a function here"),
        ("{'a': 1} == event.data.a", 1, 1, "cannot be made"),
        ("event.type.x == 'a'", 1, 11, "a text has no 'x'"),
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
