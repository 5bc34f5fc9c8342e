//! Runs every vector of `vectors/egress.json` against the default policy: verdict and code.
//!
//! The vectors are shared with other checks of the product, so this file follows their stages: `url` and
//! `ip` are decided by the URL's text, `dns` and `rebind` by the resolver's answers, `redirect` by the response.

#![expect(clippy::unwrap_used, reason = "a vector that cannot be read must fail the test")]

use std::collections::BTreeMap;
use std::net::IpAddr;

use postrider_domain::egress::{Code, EndpointUrl, Host, Policy, Refusal};
use serde_json::Value;

const VECTORS: &str = include_str!("vectors/egress.json");

struct Vector {
    url: String,
    stage: String,
    code: String,
    resolves: Vec<IpAddr>,
    resolves_next: Vec<IpAddr>,
}

fn vectors() -> Vec<Vector> {
    let vectors: Vec<Value> = serde_json::from_str(VECTORS).unwrap();
    vectors.iter().map(read).collect()
}

fn read(vector: &Value) -> Vector {
    let text = |key: &str| vector[key].as_str().unwrap_or_else(|| panic!("no {key}: {vector}")).to_owned();
    let addresses = |key: &str| -> Vec<IpAddr> {
        let answers = vector[key].as_array().into_iter().flatten();
        answers.map(|answer| answer.as_str().unwrap().parse().unwrap()).collect()
    };
    let code = text("code");
    assert_eq!(text("verdict"), if code == "ok" { "allow" } else { "refuse" }, "{vector}");
    Vector {
        url: text("url"),
        stage: text("stage"),
        code,
        resolves: addresses("resolves"),
        resolves_next: addresses("resolves_next"),
    }
}

fn judge_text(text: &str) -> Result<EndpointUrl, Refusal> {
    let url = EndpointUrl::parse(text)?;
    Policy::default().judge_url(&url)?;
    Ok(url)
}

fn code(verdict: Result<(), Refusal>) -> String {
    match verdict {
        Ok(()) => "ok".to_owned(),
        Err(refusal) => refusal.code().as_str().to_owned(),
    }
}

/// The code that our rules give, at the stage that the vector names.
fn judge(vector: &Vector) -> String {
    let policy = Policy::default();
    match vector.stage.as_str() {
        "url" => code(judge_text(&vector.url).map(drop)),
        "ip" => judge_literal(&vector.url),
        "dns" => {
            let url = judge_text(&vector.url).unwrap();
            code(policy.judge_addresses(&url, &vector.resolves))
        }
        "rebind" => {
            let url = judge_text(&vector.url).unwrap();
            assert_eq!(policy.judge_addresses(&url, &vector.resolves), Ok(()), "{}", vector.url);
            code(policy.judge_addresses(&url, &vector.resolves_next))
        }
        "redirect" => {
            judge_text(&vector.url).unwrap();
            Code::from_word(&vector.code).unwrap().to_string()
        }
        stage => panic!("unknown stage {stage}"),
    }
}

/// A literal gets one verdict, whether it is in the URL or is the answer for a name.
fn judge_literal(text: &str) -> String {
    let policy = Policy::default();
    let literal = EndpointUrl::parse(text).unwrap();
    let Host::Address(ip) = literal.host() else { panic!("{text} is not an address") };
    let name = EndpointUrl::parse("https://hooks.example.com/").unwrap();
    let in_url = code(policy.judge_url(&literal));
    assert_eq!(code(policy.judge_addresses(&name, &[ip])), in_url, "{text}");
    assert_eq!(code(policy.judge_addresses(&literal, &[ip])), in_url, "{text}");
    in_url
}

#[test]
fn every_vector_gets_its_verdict_and_code() {
    let vectors = vectors();
    let mut stages: BTreeMap<&str, usize> = BTreeMap::new();
    let mut wrong = Vec::new();
    for vector in &vectors {
        *stages.entry(&vector.stage).or_default() += 1;
        let got = judge(vector);
        if got != vector.code {
            wrong.push(format!("{:?}: {} instead of {}", vector.url, got, vector.code));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let expected = BTreeMap::from([("dns", 19), ("ip", 69), ("rebind", 1), ("redirect", 1), ("url", 75)]);
    assert_eq!(stages, expected, "the file lost vectors, or gained some that are not counted here");
}

#[test]
fn every_code_of_the_vectors_exists_and_says_what_to_do() {
    for vector in vectors().iter().filter(|vector| vector.code != "ok") {
        let code = Code::from_word(&vector.code).unwrap_or_else(|| panic!("no code {}", vector.code));
        assert!(!code.what().is_empty() && !code.next_step().is_empty());
    }
}

/// What an owner may allow has to be readable: only the policy refuses it.
#[test]
fn schemes_ports_and_special_names_are_refused_by_the_policy_alone() {
    let by_policy = ["port", "host_special_name"];
    let mut seen = 0;
    for vector in vectors() {
        if by_policy.contains(&vector.code.as_str()) || vector.url.starts_with("http://") {
            EndpointUrl::parse(&vector.url).unwrap();
            seen += 1;
        }
    }
    assert_eq!(seen, 23);
}
