//! The figures: gathered by name, written as nested JSON, and shown as a table beside what is aimed at.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Context as _;
use serde_json::{Map, Value};

use crate::stats::ratio;

/// What a figure should be.
enum Aim {
    AtLeast(f64),
    AtMost(f64),
}

/// What is aimed at on two cores: the figure, the aim, the unit, and what it is.
const AIMS: [(&str, Aim, &str, &str); 13] = [
    ("one_to_one.deliveries_per_s", Aim::AtLeast(10_000.0), "/s", "deliveries, one subscription"),
    ("fanout10.deliveries_per_s", Aim::AtLeast(25_000.0), "/s", "deliveries, ten subscriptions"),
    ("latency_100.p50_ms", Aim::AtMost(1.0), "ms", "emit to arrival at 100/s, p50"),
    ("latency_100.p99_ms", Aim::AtMost(4.0), "ms", "emit to arrival at 100/s, p99"),
    ("cpu_us_per_delivery", Aim::AtMost(150.0), "µs", "CPU a delivery, control plane and agent"),
    ("hanging.healthy_p99_ratio", Aim::AtMost(1.5), "×", "healthy p99 beside hanging endpoints"),
    ("black_hole.others_p99_ratio", Aim::AtMost(2.0), "×", "a thousand's p99 beside a hanging one"),
    ("replay.other_p99_ratio", Aim::AtMost(1.5), "×", "live p99 beside a replay"),
    ("idle.agent_mib", Aim::AtMost(15.0), "MiB", "agent, idle"),
    ("idle.control_plane_mib", Aim::AtMost(60.0), "MiB", "control plane, idle"),
    ("backlog_1m.control_plane_mib", Aim::AtMost(300.0), "MiB", "control plane, a million waiting"),
    ("backlog_1m.restarted_control_plane_mib", Aim::AtMost(300.0), "MiB", "the same after a restart"),
    ("resume.seconds", Aim::AtMost(5.0), "s", "killed control plane: all resumed"),
];

/// Figures compared with a limit of the machine: the name of the ratio, the figure, the limit.
const RATIOS: [(&str, &str, &str); 3] = [
    ("ratios.one_to_one_to_hyper_posts", "one_to_one.deliveries_per_s", "limits.hyper_posts_per_s"),
    ("ratios.fanout10_to_hyper_posts", "fanout10.deliveries_per_s", "limits.hyper_posts_per_s"),
    ("ratios.accepted_to_fdatasync", "one_to_one.accepted_per_s", "limits.fdatasync_per_s"),
];

/// What is shown of each way to emit.
const COLUMNS: [(&str, &str); 7] = [
    ("deliveries_per_s", "deliveries/s"),
    ("accepted_per_s", "accepted/s"),
    ("p50_ms", "p50 ms"),
    ("p99_ms", "p99 ms"),
    ("accept_p50_ms", "accept p50 ms"),
    ("accept_p99_ms", "accept p99 ms"),
    ("cpu_us_per_delivery", "CPU µs"),
];

/// Figures by name: words joined by dots.
#[derive(Debug, Default)]
pub(crate) struct Report(BTreeMap<String, f64>);

impl Report {
    /// Notes a figure.
    pub(crate) fn set(&mut self, name: impl Into<String>, value: f64) {
        self.0.insert(name.into(), value);
    }

    /// A figure that was noted.
    pub(crate) fn get(&self, name: &str) -> Option<f64> {
        self.0.get(name).copied()
    }

    /// All figures, by name.
    pub(crate) fn figures(&self) -> impl Iterator<Item = (&str, f64)> {
        self.0.iter().map(|(name, value)| (name.as_str(), *value))
    }

    /// Adds the ratios whose parts were measured.
    pub(crate) fn add_ratios(&mut self) {
        for (name, of, to) in RATIOS {
            if let (Some(of), Some(to)) = (self.get(of), self.get(to)) {
                self.set(name, ratio(of, to));
            }
        }
    }

    /// Writes the figures.
    pub(crate) fn write(&self, path: &Path) -> anyhow::Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        let text = serde_json::to_string_pretty(&self.json())?;
        std::fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
    }

    fn json(&self) -> Value {
        let mut root = Map::new();
        for (name, value) in &self.0 {
            insert(&mut root, name, (value * 1000.0).round() / 1000.0);
        }
        Value::Object(root)
    }

    /// The tables for people: aims, the ways of one scenario beside each other, and what is left.
    pub(crate) fn table(&self) -> String {
        let mut lines = self.aims();
        lines.push(String::new());
        lines.extend(self.ways());
        lines.push(String::new());
        lines.extend(self.rest());
        lines.iter().map(|line| format!("{}\n", line.trim_end())).collect()
    }

    fn aims(&self) -> Vec<String> {
        let mut lines = vec![format!("{:<42} {:>12} {:>14}", "", "aim", "measured")];
        for (name, aim, unit, what) in &AIMS {
            let Some(value) = self.get(name) else { continue };
            let (limit, met) = match aim {
                Aim::AtLeast(limit) => (format!("≥ {}", number(*limit)), value >= *limit),
                Aim::AtMost(limit) => (format!("≤ {}", number(*limit)), value <= *limit),
            };
            let verdict = if met { "" } else { "  missed" };
            lines.push(format!("{what:<42} {limit:>12} {:>10} {unit:<3}{verdict}", number(value)));
        }
        lines
    }

    /// A line a way to emit, for each scenario that has several.
    fn ways(&self) -> Vec<String> {
        let ways = self.0.keys().filter_map(|name| way(name)).collect::<BTreeSet<_>>();
        let mut lines = Vec::new();
        let mut last = "";
        for (scenario, way) in ways {
            if scenario != last {
                let columns = COLUMNS.map(|(_, title)| format!("{title:>14}")).concat();
                lines.push(format!("{scenario:<24}{columns}"));
                last = scenario;
            }
            let value = |figure: &str| self.get(&format!("{scenario}.{way}.{figure}"));
            let columns =
                COLUMNS.map(|(figure, _)| format!("{:>14}", value(figure).map_or(String::new(), number)));
            lines.push(format!("  {way:<22}{}", columns.concat()));
        }
        lines
    }

    fn rest(&self) -> Vec<String> {
        let rest = self.0.iter().filter(|(name, _)| way(name).is_none());
        rest.map(|(name, value)| format!("{name:<52} {:>14}", number(*value))).collect()
    }
}

/// The scenario and the way to emit that a figure belongs to.
fn way(name: &str) -> Option<(&str, &str)> {
    let (scenario, rest) = name.split_once('.')?;
    let (way, _) = rest.split_once('.')?;
    let is_way = way.starts_with("unary") || way.starts_with("stream");
    (is_way && ["one_to_one", "fanout10"].contains(&scenario)).then_some((scenario, way))
}

/// Puts a figure where its name says.
fn insert(object: &mut Map<String, Value>, name: &str, value: f64) {
    let Some((first, rest)) = name.split_once('.') else {
        object.insert(name.to_owned(), Value::from(value));
        return;
    };
    let inner = object.entry(first).or_insert_with(|| Value::Object(Map::new()));
    if let Value::Object(inner) = inner {
        insert(inner, rest, value);
    }
}

/// As many digits as tell something.
fn number(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 100.0 || (size - size.round()).abs() < 1e-9 => 0,
        size if size >= 10.0 => 1,
        _ => 2,
    };
    let plain = format!("{value:.digits$}");
    let (whole, rest) = plain.split_at(plain.find('.').unwrap_or(plain.len()));
    let mut grouped = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) && digit.is_ascii_digit() && !grouped.ends_with('-')
        {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_nested_objects() {
        let mut report = Report::default();
        report.set("a.b.c", 1.23456);
        report.set("a.d", 2.0);
        report.set("e", 3.0);
        let expected = serde_json::json!({"a": {"b": {"c": 1.235}, "d": 2.0}, "e": 3.0});
        assert_eq!(report.json(), expected);
    }

    #[test]
    fn the_table_has_the_aims_that_were_measured() {
        let mut report = Report::default();
        report.set("one_to_one.deliveries_per_s", 9_999.4);
        report.set("limits.hyper_posts_per_s", 100_000.0);
        report.set("one_to_one.unary_64.p50_ms", 12.34);
        report.add_ratios();
        let table = report.table();
        assert!(table.contains("≥ 10,000") && table.contains("9,999") && table.contains("missed"), "{table}");
        assert!(table.contains("ratios.one_to_one_to_hyper_posts"), "{table}");
        assert!(table.contains("unary_64  ") && !table.contains("one_to_one.unary_64"), "{table}");
        assert!(!table.contains("MiB"), "{table}");
    }

    #[test]
    fn numbers_are_short() {
        for (value, text) in [
            (0.123, "0.12"),
            (12.34, "12.3"),
            (1234.5, "1,234"),
            (1e6, "1,000,000"),
            (-123_456.0, "-123,456"),
        ] {
            assert_eq!(number(value), text);
        }
    }
}
