//! A program's metrics: named once, counted without locks, shown as Prometheus' text and as a table for the reference page.
//!
//! What happens often is counted in atomics whose labels were looked up at the start. Labels have few values: those of a
//! fixed list, or at most [`MOST`] of what people name.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use prometheus::core::Collector;
pub use prometheus::{GaugeVec, Histogram, IntCounter, IntGauge, IntGaugeVec};
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry, TextEncoder};

use crate::process::Process;

/// The content type of what [`Catalogue::encode`] gives.
pub const TEXT_FORMAT: &str = prometheus::TEXT_FORMAT;
/// Values that a label may have whose values people choose. What is beyond is [`OTHER`].
pub const MOST: usize = 200;
/// The value of a label for all that have no value of their own.
pub const OTHER: &str = "other";

/// From half a millisecond to a minute, for what is usually a matter of milliseconds.
pub const SECONDS: &[f64] =
    &[0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0];

/// A label of a metric.
#[derive(Clone, Copy, Debug)]
pub struct Label {
    /// Its name.
    pub name: &'static str,
    /// Its values, or, in one phrase in parentheses, what they are.
    pub values: &'static [&'static str],
}

/// What the reference page says of a metric.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Its name.
    pub name: &'static str,
    /// Counter, gauge or histogram.
    pub kind: &'static str,
    /// What it means.
    pub help: &'static str,
    labels: &'static [Label],
}

/// All metrics of a program.
pub struct Catalogue {
    registry: Registry,
    rows: Vec<Row>,
}

/// A counter for each value of a label.
#[derive(Clone)]
pub struct Counters(Vec<(&'static str, IntCounter)>);

/// A histogram for each value of a label.
#[derive(Clone)]
pub struct Histograms(Vec<(&'static str, Histogram)>);

/// A whole number that is not there while nobody knows it: a 0 would be taken for an answer.
#[derive(Clone)]
pub struct Known(IntGaugeVec);

impl Default for Catalogue {
    fn default() -> Self {
        Self::new()
    }
}

impl Catalogue {
    /// With what is known of every process.
    #[must_use]
    pub fn new() -> Self {
        let catalogue = Self { registry: Registry::new(), rows: Process::rows().to_vec() };
        catalogue.register(Process::new());
        catalogue
    }

    /// Counts what happens.
    pub fn counter(&mut self, name: &'static str, help: &'static str) -> IntCounter {
        let counter = IntCounter::new(name, help).expect(NAMED_WELL);
        self.row(Row { name, kind: "counter", help, labels: &[] });
        self.register(counter.clone());
        counter
    }

    /// Counts what happens, by what it is.
    pub fn counters(
        &mut self,
        name: &'static str,
        help: &'static str,
        label: &'static [Label; 1],
    ) -> Counters {
        let counters = IntCounterVec::new(Opts::new(name, help), &[label[0].name]).expect(NAMED_WELL);
        self.row(Row { name, kind: "counter", help, labels: label });
        self.register(counters.clone());
        Counters(label[0].values.iter().map(|value| (*value, counters.with_label_values(&[value]))).collect())
    }

    /// A whole number that goes up and down.
    pub fn gauge(&mut self, name: &'static str, help: &'static str) -> IntGauge {
        let gauge = IntGauge::new(name, help).expect(NAMED_WELL);
        self.row(Row { name, kind: "gauge", help, labels: &[] });
        self.register(gauge.clone());
        gauge
    }

    /// A whole number that is not always known.
    pub fn known(&mut self, name: &'static str, help: &'static str) -> Known {
        Known(self.gauges(name, help, &[]))
    }

    /// Whole numbers that go up and down.
    pub fn gauges(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: &'static [Label],
    ) -> IntGaugeVec {
        let names: Vec<_> = labels.iter().map(|label| label.name).collect();
        let gauges = IntGaugeVec::new(Opts::new(name, help), &names).expect(NAMED_WELL);
        self.row(Row { name, kind: "gauge", help, labels });
        self.register(gauges.clone());
        gauges
    }

    /// Numbers that go up and down.
    pub fn float_gauges(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: &'static [Label],
    ) -> GaugeVec {
        let names: Vec<_> = labels.iter().map(|label| label.name).collect();
        let gauges = GaugeVec::new(Opts::new(name, help), &names).expect(NAMED_WELL);
        self.row(Row { name, kind: "gauge", help, labels });
        self.register(gauges.clone());
        gauges
    }

    /// How long something takes.
    pub fn histogram(&mut self, name: &'static str, help: &'static str) -> Histogram {
        let options = HistogramOpts::new(name, help).buckets(SECONDS.to_vec());
        let histogram = Histogram::with_opts(options).expect(NAMED_WELL);
        self.row(Row { name, kind: "histogram", help, labels: &[] });
        self.register(histogram.clone());
        histogram
    }

    /// How long something takes, by what it is.
    pub fn histograms(
        &mut self,
        name: &'static str,
        help: &'static str,
        label: &'static [Label; 1],
    ) -> Histograms {
        let options = HistogramOpts::new(name, help).buckets(SECONDS.to_vec());
        let histograms = HistogramVec::new(options, &[label[0].name]).expect(NAMED_WELL);
        self.row(Row { name, kind: "histogram", help, labels: label });
        self.register(histograms.clone());
        let each = label[0].values.iter().map(|value| (*value, histograms.with_label_values(&[value])));
        Histograms(each.collect())
    }

    /// What this program is.
    pub fn build(&mut self, name: &'static str, version: &'static str) {
        let help = "Always 1; the label says which version runs.";
        self.gauges(name, help, &[VERSION]).with_label_values(&[version]).set(1);
    }

    /// All of them as they are now, in Prometheus' text format.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::new();
        if let Err(error) = TextEncoder::new().encode_utf8(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "failed to write the metrics");
        }
        text
    }

    /// A table of them, in Markdown.
    #[must_use]
    pub fn table(&self) -> String {
        let mut rows = self.rows.clone();
        rows.sort_by_key(|row| row.name);
        let mut table = "| name | type | labels | unit | meaning |\n|---|---|---|---|---|\n".to_owned();
        for row in &rows {
            let Row { name, kind, help, .. } = row;
            let (labels, unit) = (row.labels(), row.unit());
            let _infallible = writeln!(table, "| `{name}` | {kind} | {labels} | {unit} | {help} |");
        }
        table
    }

    fn row(&mut self, row: Row) {
        self.rows.push(row);
    }

    fn register(&self, collector: impl Collector + 'static) {
        self.registry.register(Box::new(collector)).expect("each name is given once");
    }
}

const NAMED_WELL: &str = "the names and buckets are constants, and tests register all of them";
const VERSION: Label = Label { name: "version", values: &["(the version)"] };

impl Row {
    /// A metric without labels.
    pub(crate) const fn plain(name: &'static str, kind: &'static str, help: &'static str) -> Self {
        Self { name, kind, help, labels: &[] }
    }

    /// What a value is in, as its name says.
    fn unit(&self) -> &'static str {
        let name = self.name.trim_end_matches("_total");
        match name.rsplit('_').next() {
            _ if name.ends_with("_timestamp_seconds") || name.ends_with("_time_seconds") => {
                "seconds since 1970"
            }
            Some("seconds") => "seconds",
            Some("bytes") => "bytes",
            _ => "",
        }
    }

    fn labels(&self) -> String {
        let label = |label: &Label| {
            let values = label.values.iter().map(|value| match value.strip_prefix('(') {
                Some(phrase) => phrase.trim_end_matches(')').to_owned(),
                None => format!("`{value}`"),
            });
            format!("`{}`: {}", label.name, values.collect::<Vec<_>>().join(", "))
        };
        self.labels.iter().map(label).collect::<Vec<_>>().join("; ")
    }
}

impl Counters {
    /// One more of these. A value that is not in the label's list is not counted.
    pub fn inc(&self, value: &str) {
        if let Some((_, counter)) = self.0.iter().find(|(known, _)| *known == value) {
            counter.inc();
        }
    }
}

impl Histograms {
    /// One of these took so long. A value that is not in the label's list is not counted.
    pub fn observe(&self, value: &str, took: Duration) {
        if let Some((_, histogram)) = self.0.iter().find(|(known, _)| *known == value) {
            histogram.observe(took.as_secs_f64());
        }
    }
}

impl Known {
    /// It is this, or unknown.
    pub fn set(&self, value: impl Into<Option<i64>>) {
        const NO_LABELS: [&str; 0] = [];
        match value.into() {
            Some(value) => self.0.with_label_values(&NO_LABELS).set(value),
            None => self.0.reset(),
        }
    }
}

/// Keeps the values of a label few: those that come first have one of their own as long as they are known.
#[derive(Debug)]
pub struct Bounded {
    most: usize,
    kept: BTreeSet<String>,
}

impl Default for Bounded {
    fn default() -> Self {
        Self::new(MOST)
    }
}

impl Bounded {
    /// At most so many, beside [`OTHER`].
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { most, kept: BTreeSet::new() }
    }

    /// These are all that there are now. Those that are not any more make room.
    pub fn know(&mut self, all: &BTreeSet<&str>) {
        self.kept.retain(|kept| all.contains(kept.as_str()));
        for value in all {
            if self.kept.len() >= self.most {
                return;
            }
            if !self.kept.contains(*value) {
                self.kept.insert((*value).to_owned());
            }
        }
    }

    /// What stands for a value.
    #[must_use]
    pub fn label<'a>(&self, value: &'a str) -> &'a str {
        if self.kept.contains(value) { value } else { OTHER }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESULT: [Label; 1] = [Label { name: "result", values: &["good", "bad"] }];

    #[test]
    fn what_was_counted_is_shown_and_what_is_not_in_the_list_is_not() {
        let mut catalogue = Catalogue::new();
        let results = catalogue.counters("things_total", "Things.", &RESULT);
        let took = catalogue.histogram("thing_duration_seconds", "How long a thing takes.");
        results.inc("good");
        results.inc("good");
        results.inc("ugly");
        took.observe(0.004);
        let text = catalogue.encode();
        for line in [
            "# TYPE things_total counter",
            "things_total{result=\"good\"} 2",
            "things_total{result=\"bad\"} 0",
            "thing_duration_seconds_bucket{le=\"0.002\"} 0",
            "thing_duration_seconds_bucket{le=\"0.005\"} 1",
            "thing_duration_seconds_bucket{le=\"+Inf\"} 1",
            "thing_duration_seconds_sum 0.004",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("ugly"), "{text}");
    }

    #[test]
    fn what_is_not_known_is_not_shown() {
        let mut catalogue = Catalogue::new();
        let end = catalogue.known("end_timestamp_seconds", "When it ends.");
        assert!(!catalogue.encode().contains("end_timestamp_seconds"));
        end.set(7);
        assert!(catalogue.encode().contains("\nend_timestamp_seconds 7\n"), "{}", catalogue.encode());
        end.set(None);
        assert!(!catalogue.encode().contains("end_timestamp_seconds"));
    }

    #[test]
    fn the_table_says_name_kind_labels_and_unit() {
        let mut catalogue = Catalogue::new();
        catalogue.counters("things_total", "Things.", &RESULT);
        catalogue.gauge("end_timestamp_seconds", "When it ends.");
        let table = catalogue.table();
        assert!(
            table.contains("| `things_total` | counter | `result`: `good`, `bad` |  | Things. |"),
            "{table}"
        );
        assert!(
            table.contains("| `end_timestamp_seconds` | gauge |  | seconds since 1970 | When it ends. |"),
            "{table}"
        );
        assert!(table.contains("| `process_cpu_seconds_total` | counter |  | seconds |"), "{table}");
    }

    #[test]
    fn a_label_has_at_most_so_many_values_and_those_that_are_gone_make_room() {
        let mut names = Bounded::new(2);
        names.know(&BTreeSet::from(["b", "c"]));
        names.know(&BTreeSet::from(["a", "b", "c"]));
        assert_eq!(["a", "b", "c"].map(|name| names.label(name)), [OTHER, "b", "c"]);
        names.know(&BTreeSet::from(["a", "c"]));
        assert_eq!(["a", "b", "c"].map(|name| names.label(name)), ["a", OTHER, "c"]);
    }
}
