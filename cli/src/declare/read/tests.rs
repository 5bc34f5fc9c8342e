use super::*;

const FILE: &str = "\
postrider: 1
tenant:
  id: acme
  display_name: Acme
  quota:
    max_subscriptions: 5
event_types:
  - name: document.completed
    description: Done.
    validation: reject
    schema:
      type: object
      required: [documentId]
subscriptions:
  - name: billing
    url: https://hooks.example.com/in
    event_types: [document.*]
    timeout: 10s
    retry_policy:
      schedule: [5s, 1m]
    headers:
      authorization: '***'
";

fn problems(text: &str) -> Vec<(usize, String)> {
    file(text).unwrap_err().into_iter().map(|problem| (problem.line, problem.problem)).collect()
}

#[test]
fn a_file_says_what_is_wanted_with_defaults_filled_in() {
    let file = file(FILE).unwrap();
    assert_eq!(file.tenant.as_deref(), Some("acme"));
    let (_, settings) = file.settings.unwrap();
    assert_eq!(settings.keys().copied().collect::<Vec<_>>(), ["display_name", "quota"]);
    let types = file.event_types.unwrap();
    assert_eq!(types[0].message.schema, r#"{"required":["documentId"],"type":"object"}"#);
    assert_eq!(types[0].wanted.fields["validation"], "reject");
    let subscriptions = file.subscriptions.unwrap();
    let fields = &subscriptions[0].wanted.fields;
    assert_eq!(subscriptions[0].wanted.key, Key::Name("billing".into()));
    assert_eq!((&fields["timeout"], &fields["connect_timeout"]), (&"10s".into(), &"5s".into()));
    assert_eq!((&fields["pool"], &fields["max_in_flight"]), (&"default".into(), &64.into()));
    assert_eq!(fields["headers"], serde_json::json!(["authorization"]));
    assert!(!fields.contains_key("paused"), "it is not said");
}

#[test]
fn every_problem_is_reported_with_its_line() {
    let text = FILE
        .replace("postrider: 1", "postrider: 2")
        .replace("display_name: Acme", "display: Acme")
        .replace("validation: reject", "validation: maybe")
        .replace("timeout: 10s", "timeout: ten")
        .replace("      schedule: [5s, 1m]", "      schedule: [5s, soon]")
        + "  - url: https://b.example.com/\n    event_types: ['*']\n  - name: billing\n    url: ftp://c\n    event_types: []\n";
    let found = problems(&text);
    let lines: Vec<usize> = found.iter().map(|(line, _)| *line).collect();
    assert_eq!(lines, [1, 4, 10, 18, 20, 23, 25, 26, 27], "{found:#?}");
    for (line, expected) in
        [(4, "has no 'display'"), (20, "soon"), (23, "needs a name"), (25, "already, on line 15")]
    {
        let told = found.iter().find(|(at, _)| *at == line).unwrap();
        assert!(told.1.contains(expected), "{told:?}");
    }
}

#[test]
fn what_is_not_in_the_file_is_not_its_business() {
    let file = file("postrider: 1\nsubscriptions: []\n").unwrap();
    assert!(file.event_types.is_none() && file.settings.is_none());
    assert!(file.subscriptions.is_some_and(|list| list.is_empty()));
}
