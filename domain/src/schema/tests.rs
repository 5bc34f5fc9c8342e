use super::*;

/// More than anything here costs.
fn plenty() -> Budget {
    Budget::new(u64::MAX - 1, None)
}

impl Schema {
    fn parse(text: &str) -> Result<Self, String> {
        Self::compile(text, &mut plenty()).map_err(|error| error.to_string())
    }

    fn told(&self, data: &[u8]) -> Vec<String> {
        self.problems(data, &mut plenty()).unwrap_or_else(|stopped| vec![stopped.to_string()])
    }
}

#[test]
fn schemas_are_read_or_refused_with_a_reason() {
    let doubling: Vec<String> = (0..40)
        .map(|n| {
            format!(
                r##""a{n}":{{"allOf":[{{"$ref":"#/$defs/a{m}"}},{{"$ref":"#/$defs/a{m}"}}]}}"##,
                m = n + 1
            )
        })
        .collect();
    let doubling = format!(r##"{{"$ref":"#/$defs/a0","$defs":{{{},"a40":{{}}}}}}"##, doubling.join(","));
    let table = [
        (r#"{"type": "object", "required": ["id"]}"#, ""),
        (r##"{"properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"type": "string"}}}"##, ""),
        (r#"{"$schema": "http://json-schema.org/draft-07/schema#", "items": [{"type": "string"}]}"#, ""),
        ("{", "is not JSON"),
        ("5", "must be a JSON object"),
        (r#"{"type": "objekt"}"#, "is not a JSON Schema (at /type)"),
        (r#"{"$ref": "https://example.com/schema.json"}"#, "only lead into the same schema"),
        (r#"{"$ref": "file:///etc/passwd"}"#, "only lead into the same schema"),
        (r##"{"$ref": "#/$defs/none"}"##, "leads to nothing in this schema"),
        (r##"{"$ref": "#none"}"##, "leads to nothing in this schema"),
        (r##"{"$ref": "#/$defs/%ff"}"##, "leads to nothing in this schema"),
        (r##"{"$ref": "#/title", "title": "a"}"##, "no schema"),
        (r##"{"$ref": "#"}"##, "in a circle"),
        (r##"{"properties": {"a": {"$ref": "#"}}}"##, ""),
        (r##"{"properties": {"definitions": {"allOf": [{"$ref": "#"}, {"$ref": "#"}]}}}"##, "in a circle"),
        (&doubling, "more than 5000 rules"),
        (r##"{"$dynamicRef": "#a"}"##, "not allowed"),
        (r#"{"properties": {"a": {"$id": "https://example.com/"}}}"#, "below its root"),
        (r#"{"$schema": "https://example.com/mine"}"#, "is not a JSON Schema"),
        (r#"{"pattern": "("}"#, "is not a JSON Schema"),
        (r#"{"pattern": "((a{1,100}){1,100}){1,100}b"}"#, "is not a JSON Schema"),
    ];
    for (text, part) in table {
        match (Schema::parse(text), part) {
            (Ok(_), "") => {}
            (Err(problem), part) if !part.is_empty() && problem.contains(part) => {}
            (found, _) => panic!("{text}: {found:?}"),
        }
    }
}

#[test]
fn any_accepted_json_is_validated() {
    let object = r#"{"type": "object"}"#;
    let text = r#"{"properties": {"a": {"type": "string", "maxLength": 2}}}"#;
    let number = r#"{"properties": {"a": {"type": "number", "maximum": 100}}}"#;
    let large = format!("{{\"a\": {}}}", "9".repeat(200_000));
    let table = [
        (object, r#"{"note": "cut \ud83d"}"#, ""),
        (object, r#"{"\ude00\ud83d": 1e400}"#, ""),
        (object, &large, ""),
        (text, r#"{"a": "x\ud83d", "b": 1e400}"#, ""),
        (text, r#"{"a": "xy\ud83d"}"#, "/a: value is longer than 2"),
        (text, r#"{"a": -1e400}"#, "/a: value is not of type"),
        (number, r#"{"a": -1e400, "b": "\ud83d"}"#, ""),
        (number, r#"{"a": 1e400}"#, "/a: value is greater than the maximum of 100"),
        (number, &large, "/a: value is greater than the maximum of 100"),
        (r#"{"const": {"a": 1e400, "b": "\ud83d"}}"#, r#"{"b": "\ud83d", "a": 1e400}"#, ""),
    ];
    for (schema, data, part) in table {
        let shown: String = data.chars().take(60).collect();
        let problems = Schema::parse(schema).unwrap().told(data.as_bytes()).join("; ");
        assert_eq!(problems.is_empty(), part.is_empty(), "{schema} {shown}: {problems}");
        assert!(problems.contains(part), "{schema} {shown}: {problems}");
    }
}

#[test]
fn problems_say_where_and_quote_no_value() {
    let schema = Schema::parse(
        r#"{"type": "object", "required": ["id"], "properties": {"amount": {"type": "number"}, "code": {"pattern": "^[a-z]+$"}}}"#,
    )
    .unwrap();
    assert_eq!(schema.told(br#"{"id": 1, "amount": 2.5, "code": "abc"}"#), Vec::<String>::new());
    let problems = schema.told(br#"{"amount": "secret", "code": "SECRET"}"#).join("; ");
    assert!(problems.contains("/amount") && problems.contains("id"), "{problems}");
    assert!(!problems.to_lowercase().contains("secret"), "{problems}");
    let many = format!("{{\"allOf\": [{}{{}}]}}", "{\"type\": \"object\"},".repeat(1000));
    let large = format!("{{\"x\": \"{}\"}}", "x".repeat(200_000));
    assert_eq!(Schema::parse(&many).unwrap().told(large.as_bytes()), Vec::<String>::new());
}

#[test]
fn only_schemas_are_walked() {
    let taken = [
        r#"{"type":"object","properties":{"id":{"type":"string"}},"examples":[{"id":"ord_1042","$id":"x"}]}"#,
        r#"{"properties":{"ref":{"const":{"id":"a","$id":"https://example.com/"}}}}"#,
        r##"{"const":{"$ref":"#/x"}}"##,
        r#"{"enum":[{"$ref":"https://example.com/x"}]}"#,
        r#"{"default":{"$dynamicRef":"x","$ref":"https://example.com/x"}}"#,
        r#"{"examples":[{"$ref":"https://example.com/x"}]}"#,
        r#"{"properties":{"$dynamicRef":{"type":"string"},"$ref":{"type":"string"},"$id":true,"$recursiveRef":{}}}"#,
        r#"{"patternProperties":{"$ref":{}},"dependentRequired":{"$ref":["$id"]},"dependentSchemas":{"$id":{}}}"#,
        r#"{"$defs":{"$ref":{"type":"string"},"$dynamicRef":true}}"#,
        r#"{"discriminator":{"propertyName":"t","mapping":{"id":"x","$ref":"https://example.com/x"}}}"#,
        r#"{"x-meta":{"id":"foo","$id":"bar","$dynamicRef":"baz"},"properties":{"a":{"x-b":[{"$ref":"https://e.com"}]}}}"#,
        r#"{"properties":{"a":{"id":"a"}}}"#,
        r#"{"$schema":"http://json-schema.org/draft-07/schema#","dependencies":{"$ref":["a"],"b":{"type":"object"}}}"#,
    ];
    for text in taken {
        let schema = Schema::parse(text).unwrap_or_else(|problem| panic!("{text}: {problem}"));
        assert!(schema.0.size.rules < 30, "{text}: {schema:?}");
    }
    let refused = [
        (r#"{"not":{"$ref":"https://example.com/x"}}"#, "same schema"),
        (r#"{"dependentSchemas":{"const":{"$ref":"https://example.com/x"}}}"#, "same schema"),
        (r#"{"properties":{"enum":{"$ref":"https://example.com/x"}}}"#, "same schema"),
        (r#"{"items":{"$dynamicRef":"x"}}"#, "not allowed"),
        (r#"{"$defs":{"a":{"$id":"https://example.com/a"}}}"#, "below its root"),
        (
            r#"{"$schema":"http://json-schema.org/draft-04/schema#","not":{"id":"https://example.com/a"}}"#,
            "below its root",
        ),
    ];
    for (text, part) in refused {
        let problem = Schema::parse(text).expect_err(text);
        assert!(problem.contains(part), "{text}: {problem}");
    }
}

/// A schema whose property `x` refers to `$defs/<name>`, which is a text.
fn referring(name: &str, reference: &str, more: &str) -> String {
    let name = serde_json::Value::from(name);
    format!(
        r#"{{{more}"$defs":{{{name}:{{"type":"string"}}}},"properties":{{"x":{{"$ref":"{reference}"}}}}}}"#
    )
}

#[test]
fn references_within_the_schema_are_followed() {
    let id = r#""$id":"https://example.com/order.json","#;
    let seven = r#""$schema":"http://json-schema.org/draft-07/schema#","#;
    let inside = [
        referring("a b", "#/$defs/a%20b", ""),
        referring("percent%field", "#/$defs/percent%25field", ""),
        referring("foo\"bar", "#/$defs/foo%22bar", ""),
        referring("a/b~c", "#/$defs/a~1b~0c", ""),
        referring("é", "#/%24defs/%C3%A9", ""),
        referring("a", "https://example.com/order.json#/$defs/a", id),
        referring("a", "order.json#/$defs/a", id),
        referring("a", "#/$defs/a", id),
        referring("a", "order.json#/$defs/a", r#""$id":"order.json","#),
        referring("a", "urn:example:order#/$defs/a", r#""$id":"urn:example:order","#),
        r##"{"$defs":{"a":{"$anchor":"text","type":"string"}},"properties":{"x":{"$ref":"#text"}}}"##
            .to_owned(),
        format!(
            r##"{{{seven}"definitions":{{"a":{{"$id":"#text","type":"string"}}}},"properties":{{"x":{{"$ref":"#text"}}}}}}"##
        ),
    ];
    for text in inside {
        let schema = Schema::parse(&text).unwrap_or_else(|problem| panic!("{text}: {problem}"));
        assert_eq!(schema.told(br#"{"x":"y"}"#), Vec::<String>::new(), "{text}");
        assert_eq!(schema.told(br#"{"x":5}"#).len(), 1, "{text}");
    }
    let outside =
        [referring("a", "other.json#/$defs/a", id), referring("a", "https://example.com/#/$defs/a", id)];
    for text in outside {
        let problem = Schema::parse(&text).expect_err(&text);
        assert!(problem.contains("same schema"), "{text}: {problem}");
    }
    let problem = Schema::parse(&referring("a b", "#/$defs/a b", "")).unwrap_err();
    assert!(problem.contains("Invalid URI reference '#/$defs/a b'"), "{problem}");
}

const TREE: &str = r##"{"type":"object","required":["v"],"properties":{"left":{"$ref":"#"},"right":{"$ref":"#"},
    "next":{"items":{"$ref":"#"}}}}"##;
const JSON: &str = r##"{"$ref":"#/$defs/v","$defs":{"v":{"anyOf":[{"type":["string","number"]},
    {"type":"array","items":{"$ref":"#/$defs/v"}},{"type":"object","additionalProperties":{"$ref":"#/$defs/v"}}]}}}"##;
const MUTUAL: &str = r##"{"$ref":"#/$defs/a","$defs":{"a":{"type":"object","properties":{"b":{"$ref":"#/$defs/b"}}},
    "b":{"type":"array","items":{"$ref":"#/$defs/a"}}}}"##;

fn deep(open: &str, close: &str, inner: &str) -> String {
    format!("{}{inner}{}", open.repeat(99), close.repeat(99))
}

#[test]
fn a_schema_may_refer_to_itself_where_the_cost_is_bounded() {
    let table = [
        (TREE, r#"{"v":1,"left":{"v":1,"next":[{"v":1}]},"right":{"v":1}}"#.to_owned(), true),
        (TREE, r#"{"v":1,"left":{"v":1,"next":[{"v":1},{}]}}"#.to_owned(), false),
        (TREE, deep(r#"{"v":1,"left":"#, "}", r#"{"v":1}"#), true),
        (TREE, deep(r#"{"v":1,"left":"#, "}", "{}"), false),
        (JSON, r#"{"a":["b",{"c":1.5}]}"#.to_owned(), true),
        (JSON, r#"{"a":["b",{"c":null}]}"#.to_owned(), false),
        (JSON, deep("[", "]", "1"), true),
        (MUTUAL, r#"{"b":[{"b":[{}]}]}"#.to_owned(), true),
        (MUTUAL, r#"{"b":[{"b":[[]]}]}"#.to_owned(), false),
    ];
    for (schema, data, valid) in table {
        crate::event::check_data(data.as_bytes(), 1 << 18).expect("data");
        let schema = Schema::parse(schema).unwrap_or_else(|problem| panic!("{schema}: {problem}"));
        let problems = schema.told(data.as_bytes());
        assert_eq!(problems.is_empty(), valid, "{data}: {problems:?}");
    }
}

#[test]
fn a_schema_may_not_refer_to_itself_without_end_or_twice() {
    let refused = [
        r##"{"allOf":[{"$ref":"#"}]}"##,
        r##"{"not":{"$ref":"#"}}"##,
        r##"{"$ref":"#/$defs/a","$defs":{"a":{"$ref":"#/$defs/b"},"b":{"anyOf":[{"$ref":"#/$defs/a"}]}}}"##,
        r##"{"properties":{"a":{"allOf":[{"$ref":"#"},{"$ref":"#"}]}}}"##,
        r##"{"properties":{"a":{"$ref":"#"}},"patternProperties":{"^a":{"$ref":"#"}}}"##,
        r##"{"properties":{"x":{"$ref":"#","properties":{"x":{"$ref":"#"}}}}}"##,
        r##"{"items":{"$ref":"#"},"contains":{"$ref":"#"}}"##,
        r##"{"anyOf":[{"properties":{"a":{"$ref":"#"}}}],"unevaluatedProperties":false}"##,
        r##"{"anyOf":[{"properties":{"a":{"$ref":"#"}}},{"properties":{"a":{"$ref":"#"}}}]}"##,
    ];
    for text in refused {
        let problem = Schema::parse(text).expect_err(text);
        assert!(problem.contains("refers to itself in a circle"), "{text}: {problem}");
    }
}

#[test]
fn unevaluated_keywords_count_what_they_look_at_again() {
    let nested = |levels: usize| {
        let open = r#"{"unevaluatedProperties":false,"anyOf":[{"properties":{"a":"#;
        format!("{}{{}}{}", open.repeat(levels), "}}]}".repeat(levels))
    };
    assert!(Schema::parse(&nested(5)).is_ok());
    let problem = Schema::parse(&nested(20)).unwrap_err();
    assert!(problem.contains("more than 5000 rules"), "{problem}");
}

#[test]
fn a_pattern_that_cannot_be_used_says_what_patterns_may_have() {
    for pattern in ["(?=a)b", "(?<!a)b", r"(a)\\1", "[^]", "((a{1,100}){1,100}){1,100}"] {
        for text in [
            format!(r#"{{"properties":{{"a":{{"pattern":"{pattern}"}}}}}}"#),
            format!(r#"{{"patternProperties":{{"{pattern}":{{}}}}}}"#),
            format!(r#"{{"$schema":"http://json-schema.org/draft-07/schema#","pattern":"{pattern}"}}"#),
        ] {
            let problem = Schema::parse(&text).expect_err(&text);
            assert!(problem.contains("linear time: write one without lookahead"), "{text}: {problem}");
        }
    }
}

/// What a validation uses, and what came of it.
fn cost(schema: &str, data: &str) -> (u64, Result<Vec<String>, Stopped>) {
    let schema = Schema::parse(schema).unwrap_or_else(|problem| panic!("{schema:.80}: {problem}"));
    let mut budget = plenty();
    let problems = schema.problems(data.as_bytes(), &mut budget);
    (budget.used(), problems)
}

/// Each takes seconds to hours when nobody counts.
#[test]
fn no_schema_costs_more_than_the_limit_for_an_event() {
    let many = |rule: &str, times: usize| format!("{{\"allOf\":[{}{{}}]}}", format!("{rule},").repeat(times));
    let text = |bytes: usize| format!("\"{}\"", "a".repeat(bytes));
    let list = |item: &str, times: usize| format!("[{}{item}]", format!("{item},").repeat(times));
    let seven = r#"{"$schema":"http://json-schema.org/draft-07/schema#","#;
    let numbers: Vec<String> = (0..4000).map(|n| n.to_string()).collect();
    let lists: Vec<String> = (0..2000).map(|n| format!("[{n}]")).collect();
    let names: Vec<String> = (0..20_000).map(|n| format!("\"n{n}\":1")).collect();
    let names = format!("{{{}}}", names.join(","));
    let table = [
        (many(r#"{"not":{"pattern":"a[^!]{120}aa!x"}}"#, 1200), text(15_000)),
        (many(r#"{"not":{"pattern":"(a|aa)*b[^x]{50}"}}"#, 100), text(200_000)),
        (many(r#"{"minLength":300000}"#, 1000), text(200_000)),
        (format!("{seven}{}", &many(r#"{"not":{"format":"email"}}"#, 1000)[1..]), text(200_000)),
        (format!("{seven}{}", &many(r#"{"not":{"format":"regex"}}"#, 10)[1..]), text(200_000)),
        (format!(r#"{{"items":{{"enum":[{}]}}}}"#, numbers.join(",")), list("-1", 60_000)),
        (format!(r#"{{"contains":{{"enum":[{}]}}}}"#, lists.join(",")), list("[-1]", 40_000)),
        (many(r#"{"items":{"type":"null"}}"#, 1000), list("1", 60_000)),
        (many(r#"{"uniqueItems":true}"#, 1000), format!("[{}]", numbers.join(","))),
        (many(r#"{"propertyNames":{"not":{"pattern":"x[^y]{30}z"}}}"#, 300), names.clone()),
        (
            r#"{"patternProperties":{"n[^y]{5}z":true,"n[^y]{6}z":true},"unevaluatedProperties":{"pattern":"x"}}"#.into(),
            format!("{{\"{}\":1}}", "n".repeat(200_000)),
        ),
        (many(r#"{"dependentRequired":{"n1":["n2","n3","x"]},"unevaluatedProperties":{"type":"null"}}"#, 150), names),
    ];
    for (schema, data) in table {
        let (used, problems) = cost(&schema, &data);
        assert_eq!(problems, Err(Stopped::TooCostly), "{schema:.120}: {used}");
        assert!(used <= EVENT_COST + data.len() as u64 * READ_BYTE, "{schema:.120}: {used}");
    }
}

/// Lists of different values that a hash without their shape, or with numbers as doubles, takes for the same.
#[test]
fn values_that_were_made_to_collide_are_found_unique_in_linear_time() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let shapes: Vec<String> = (1..40)
        .flat_map(|left| (1..40).map(move |right| (left, right)))
        .map(|(left, right)| format!("[{},{}]", nested(left), nested(right)))
        .collect();
    let close: Vec<String> = (0..10_000).map(|n| (18_446_744_073_709_500_000_u64 + n).to_string()).collect();
    for items in [shapes, close] {
        let data = format!("[{}]", items.join(","));
        let (used, problems) = cost(r#"{"uniqueItems":true}"#, &data);
        assert_eq!(problems, Ok(Vec::new()));
        assert!(used < 80 * data.len() as u64, "{used} for {} bytes", data.len());
        let again = format!("[{},{}]", items.join(","), items[7]);
        assert_eq!(cost(r#"{"uniqueItems":true}"#, &again).1.map(|problems| problems.len()), Ok(1));
    }
}

#[test]
fn ordinary_schemas_and_data_cost_little() {
    let schema = r#"{"type":"object","required":["id","amount","lines"],"properties":{
        "id":{"type":"string","pattern":"^ord_[0-9a-z]{10,30}$"},"amount":{"type":"number","minimum":0},
        "email":{"type":"string","pattern":"^[^@\\s]+@[^@\\s]+\\.[a-z]{2,}$"},
        "lines":{"type":"array","items":{"type":"object","properties":{"sku":{"type":"string","maxLength":40},
        "quantity":{"type":"integer","minimum":1}},"additionalProperties":false}}}}"#;
    let line = r#"{"sku":"hat-blue-large","quantity":3}"#;
    let data = format!(
        r#"{{"id":"ord_01h455vb4pex5vsknk084","amount":12.5,"email":"somebody@mail.example.com","lines":[{}]}}"#,
        vec![line; 50].join(",")
    );
    let (used, problems) = cost(schema, &data);
    assert_eq!(problems, Ok(Vec::new()));
    assert!(used < 100_000, "{used}");
}

#[test]
fn the_memory_of_a_compiled_schema_is_bounded_before_it_is_compiled() {
    let patterns: Vec<String> = (0..2400).map(|n| format!(r#"{{"pattern":"\\p{{L}}{{6}}xy{n}"}}"#)).collect();
    let names: Vec<String> = (0..2000).map(|n| format!(r#""[a-f]x*y{n}":{{}}"#)).collect();
    for text in [
        format!(r#"{{"anyOf":[{}]}}"#, patterns[..1600].join(",")),
        format!(r#"{{"$defs":{{"a":{{"anyOf":[{}]}}}}}}"#, patterns[..1600].join(",")),
        format!(r#"{{"patternProperties":{{{}}}}}"#, names.join(",")),
    ] {
        assert!(text.len() <= MAX_SCHEMA, "{}", text.len());
        let mut budget = plenty();
        let problem = Schema::compile(&text, &mut budget).expect_err("it is too large").to_string();
        assert!(
            problem.contains("MiB of memory") && problem.contains("fewer or smaller patterns"),
            "{problem}"
        );
        assert!(budget.used() < COMPILE_COST, "{}", budget.used());
    }
    let small = Schema::parse(r#"{"type":"object","properties":{"a":{"pattern":"^[a-z]+$"}}}"#).unwrap();
    assert!((4096..32_768).contains(&small.memory()), "{small:?}");
}
