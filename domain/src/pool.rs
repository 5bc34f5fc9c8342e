//! Pools of agents: which tenants may use them, what they are told, and when another pool stands in.

mod tenants;

use std::collections::BTreeMap;
use std::time::Duration;

pub use self::tenants::{EVERY_TENANT, MAX_TENANTS, Tenants};
use crate::id::PoolName;
use crate::violation::Violation;

/// How long a pool is without an agent before its fallback takes over, when nobody says otherwise.
pub const DEFAULT_FALLBACK_AFTER: Duration = Duration::from_secs(30);

const MAX_DESCRIPTION: usize = 500;
const FALLBACK_AFTER: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(24 * 3600);

/// What a pool that was created has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// For people.
    pub description: String,
    /// Who delivers when it has no agent.
    pub fallback: Option<PoolName>,
    /// How long it must have had none.
    pub fallback_after: Duration,
    /// The tenants whose subscriptions may use it.
    pub tenants: Tenants,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            description: String::new(),
            fallback: None,
            fallback_after: DEFAULT_FALLBACK_AFTER,
            tenants: Tenants::none(),
        }
    }
}

impl Settings {
    /// The settings of a pool that was never created: nobody may use it, except the pool `default`.
    #[must_use]
    pub fn uncreated(name: &PoolName) -> Self {
        Self { tenants: Tenants::of_uncreated(name), ..Self::default() }
    }

    /// Says every problem in what the pool `name` is to have, among all others with their fallbacks.
    #[must_use]
    pub fn violations(&self, name: &PoolName, fallbacks: &BTreeMap<PoolName, PoolName>) -> Vec<Violation> {
        let mut found = Vec::new();
        if self.description.chars().count() > MAX_DESCRIPTION {
            let problem = format!("must have at most {MAX_DESCRIPTION} characters");
            found.push(Violation::new("description", problem));
        }
        if !FALLBACK_AFTER.contains(&self.fallback_after) {
            found.push(Violation::new("fallback_after", "must be 1 s to 24 h"));
        }
        found.extend(self.tenants.violation());
        let problem = self.fallback.as_ref().and_then(|fallback| circle(name, fallback, fallbacks));
        found.extend(problem.map(|problem| Violation::new("fallback_pool", problem)));
        found
    }
}

/// Why `fallback` cannot stand in for `name`: one step is all there is, so there are no circles.
fn circle(name: &PoolName, fallback: &PoolName, fallbacks: &BTreeMap<PoolName, PoolName>) -> Option<String> {
    if fallback == name {
        return Some("must be another pool; leave it empty for none".to_owned());
    }
    if let Some(next) = fallbacks.get(fallback) {
        return Some(format!(
            "cannot be {fallback}, which itself falls back on {next}: there is one step only"
        ));
    }
    let other = fallbacks.iter().find(|(other, of_other)| *of_other == name && *other != name);
    other.map(|(other, _)| {
        format!("must be empty, since {other} falls back on {name}: there is one step only")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(name: &str) -> PoolName {
        name.parse().unwrap()
    }

    #[test]
    fn a_fallback_is_one_step_and_no_circle() {
        let fallbacks = BTreeMap::from([(pool("a"), pool("b"))]);
        let wanted = |name: &str, fallback: &str| {
            let settings = Settings { fallback: Some(pool(fallback)), ..Settings::default() };
            settings.violations(&pool(name), &fallbacks).pop().map(|violation| violation.to_string())
        };
        assert_eq!(wanted("a", "b"), None, "as it is");
        assert_eq!(wanted("a", "c"), None, "another one");
        assert_eq!(wanted("c", "b"), None, "two may share one");
        for (name, fallback, word) in [
            ("a", "a", "another pool"),
            ("b", "a", "itself falls back on b"),
            ("b", "c", "since a falls back on b"),
            ("c", "a", "itself falls back on b"),
        ] {
            let told = wanted(name, fallback).unwrap();
            assert!(told.starts_with("fallback_pool: ") && told.contains(word), "{name} {fallback}: {told}");
        }
    }

    #[test]
    fn settings_have_bounds() {
        let none = BTreeMap::new();
        let bad = Settings {
            description: "x".repeat(501),
            fallback_after: Duration::from_millis(999),
            ..Settings::default()
        };
        let fields: Vec<_> = bad.violations(&pool("a"), &none).into_iter().map(|v| v.field).collect();
        assert_eq!(fields, ["description", "fallback_after"]);
        assert_eq!(Settings::default().violations(&pool("a"), &none), []);
    }
}
