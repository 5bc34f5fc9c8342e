//! What `dev` prints.

use std::fmt::Write as _;
use std::time::Duration;

use super::catalogue::{EXAMPLE_TYPE, TENANT};
use super::home::Home;
use super::ports::Ports;
use super::receiver::Post;
use super::seed::{Emitted, Seed};
use crate::json::{minify, pretty};
use crate::output::visible;
use crate::time::duration_for_people;

/// How much of a further body is shown.
const SHORT_BODY: usize = 240;

/// What is about to start.
pub(crate) fn opening(home: &Home, ports: &Ports) -> String {
    let kept = if home.is_temporary() { "removed at the end" } else { "kept" };
    format!(
        "Postrider for development\n\
         \n  \
           API        {server}  (gRPC over TLS, with reflection and health)\n  \
           agents     {agents}  (TLS both ways: the agent enrolls)\n  \
           receiver   {receiver}  (verifies with the crate standardwebhooks)\n  \
           data       {home}  ({kept})\n\
         \n\
         Only here: the agent's egress policy allows 127.0.0.0/8, port {port} and http, so that it can reach the\n\
         receiver. An agent's default is public addresses over https.\n",
        server = ports.server(),
        agents = ports.agents(),
        receiver = ports.receiver_url(),
        home = home.path().display(),
        port = ports.receiver,
    )
}

/// That the example was accepted.
pub(crate) fn emitted(seed: &Seed, emitted: &Emitted) -> String {
    format!("\nEmitted {EXAMPLE_TYPE} as {}, for {}. Received:\n", emitted.event, seed.subscription)
}

/// Everything about a POST.
pub(crate) fn in_full(post: &Post) -> String {
    let mut text = format!("\n  {}\n", post.request_line);
    for (name, value) in &post.headers {
        writeln!(text, "  {name}: {}", String::from_utf8_lossy(value.as_bytes()))
            .expect("writes to a string");
    }
    text.push('\n');
    for line in pretty(&visible(&post.body, '\n')).lines() {
        writeln!(text, "  {line}").expect("writes to a string");
    }
    let verdict = match &post.verdict {
        Ok(()) => "✓ signature verified by standardwebhooks, answered 204".to_owned(),
        Err(reason) => format!("✗ signature refused by standardwebhooks ({reason}), answered 401"),
    };
    format!("{text}\n{verdict}\n")
}

/// A POST in two lines.
pub(crate) fn in_short(post: &Post) -> String {
    let verdict = match &post.verdict {
        Ok(()) => "✓ verified".to_owned(),
        Err(reason) => format!("✗ refused with 401 ({reason})"),
    };
    let body = minify(&visible(&post.body, ' '));
    let mut shown: String = body.chars().take(SHORT_BODY).collect();
    if shown.len() < body.len() {
        shown.push('…');
    }
    format!("{verdict}  {}  webhook-id: {}\n    {shown}\n", post.request_line, post.webhook_id())
}

/// That everything is as documented.
pub(crate) fn proven(took: Duration) -> String {
    format!(
        "✓ the body equals the documented example exactly\n\nFrom the first process to here: {}\n",
        duration_for_people(took)
    )
}

/// Commands to copy.
pub(crate) fn next_steps(home: &Home, ports: &Ports, seed: &Seed, emitted: &Emitted) -> String {
    let binary =
        std::env::current_exe().map_or_else(|_| "postrider".into(), |path| quoted(&path.to_string_lossy()));
    let subscription = &seed.subscription;
    let data = r#"'{"documentId":"doc_2","status":"completed"}'"#;
    let steps = [
        (
            "emit another one and wait until it is delivered",
            format!("emit {EXAMPLE_TYPE} --data {data} --follow"),
        ),
        ("watch deliveries live", "tail".into()),
        ("what became of the first one", format!("deliveries list --event {}", emitted.event)),
        ("every attempt of a delivery, with timings", format!("deliveries show {}", emitted.delivery)),
        (
            "a new key; the old one goes on signing for an hour",
            format!("keys rotate {subscription} --overlap 1h"),
        ),
        ("hold deliveries, then send what was held", format!("subscriptions pause {subscription}")),
        ("", format!("subscriptions resume {subscription}")),
        ("what the tenant can be told about", "event-types list".into()),
        ("everything else", "--help".into()),
    ];
    let mut text = String::from("\nTry next, in another terminal:\n\n");
    let file = |name: &str| quoted(&home.path().join(name).to_string_lossy());
    let exports = format!(
        "  export POSTRIDER_SERVER={} POSTRIDER_TENANT={TENANT}\n  export POSTRIDER_CA={} POSTRIDER_TOKEN_FILE={}\n",
        ports.server(),
        file("ca.crt"),
        file("admin-token"),
    );
    text.push_str(&exports);
    for (why, command) in steps {
        if !why.is_empty() {
            write!(text, "\n  # {why}\n").expect("writes to a string");
        }
        writeln!(text, "  {binary} {command}").expect("writes to a string");
    }
    text.push_str("\nRunning. POSTs appear below; Ctrl-C ends everything.\n\n");
    text
}

/// The path for a shell.
fn quoted(path: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+".contains(c);
    if path.chars().all(plain) { path.to_owned() } else { format!("'{}'", path.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_post_is_shown_whole_and_short() {
        let mut headers = http::HeaderMap::new();
        headers.insert("webhook-id", "evt_1".parse().unwrap());
        let body = r#"{"event": "a.b"}"#.to_owned();
        let mut post =
            Post { request_line: "POST /webhooks HTTP/1.1".into(), headers, body, verdict: Ok(()) };
        assert_eq!(
            in_full(&post),
            "\n  POST /webhooks HTTP/1.1\n  webhook-id: evt_1\n\n  {\n    \"event\": \"a.b\"\n  }\n\n\
             ✓ signature verified by standardwebhooks, answered 204\n"
        );
        post.verdict = Err("signature invalid".into());
        assert_eq!(
            in_short(&post),
            "✗ refused with 401 (signature invalid)  POST /webhooks HTTP/1.1  webhook-id: evt_1\n    \
             {\"event\":\"a.b\"}\n"
        );
    }

    #[test]
    fn a_path_is_quoted_only_when_it_must_be() {
        assert_eq!(quoted("/a/b-c.d"), "/a/b-c.d");
        assert_eq!(quoted("/a b/it's"), r"'/a b/it'\''s'");
    }
}
