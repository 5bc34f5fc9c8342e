//! The result of a trial: one row of the table.

use std::process::ExitStatus;
use std::time::Duration;

use postrider_tests::checker::Verdict;

/// Where exit codes are documented.
const MANUAL: &str = include_str!("../../../docs/operating.md");

/// What a trial has seen so far. It is kept when the trial fails.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    /// Repetitions of the fault that were carried out.
    pub(crate) rounds: usize,
    /// Acknowledged events.
    pub(crate) events: usize,
    /// POSTs that the receiver logged.
    pub(crate) posts: usize,
    /// Acknowledged deliveries without a 2xx, the first ones by name.
    pub(crate) lost: usize,
    /// POSTs that should not have been.
    pub(crate) unexpected: usize,
    /// POSTs beyond the first of a delivery.
    pub(crate) dup: usize,
    /// How many of those are allowed; nothing when they are not judged.
    pub(crate) dup_limit: Option<usize>,
    /// The longest time from the end of the fault until events were accepted again.
    pub(crate) recovery: Option<Duration>,
    /// Facts for the reader.
    pub(crate) notes: Vec<String>,
    /// Why the trial fails.
    pub(crate) problems: Vec<String>,
    /// Exit codes of programs that ended by themselves.
    pub(crate) exits: Vec<String>,
}

impl Report {
    /// Takes over a comparison, and adds it to earlier ones.
    pub(crate) fn add(&mut self, verdict: &Verdict) {
        self.events += verdict.acknowledged;
        self.posts += verdict.posts;
        self.dup += verdict.repeated.len();
        for (kind, count, list) in [
            ("lost", &mut self.lost, &verdict.lost),
            ("unexpected", &mut self.unexpected, &verdict.unexpected),
        ] {
            *count += list.len();
            if let Some(first) = list.first() {
                self.problems.push(format!("{kind} {}, such as {first}", list.len()));
            }
        }
        if let Some(limit) = self.dup_limit.filter(|limit| self.dup > *limit) {
            self.problems.push(format!("{} POSTs were repeated, at most {limit} may be", self.dup));
        }
    }

    /// Takes over the time of a recovery.
    pub(crate) fn recovered(&mut self, after: Duration) {
        self.recovery = self.recovery.max(Some(after));
    }

    /// Records that a program ended by itself.
    pub(crate) fn exit(&mut self, status: ExitStatus) {
        self.exit_code(&status.code().map_or_else(|| status.to_string(), |code| code.to_string()));
    }

    /// Records an exit code. The manual must say what it means.
    fn exit_code(&mut self, code: &str) {
        self.exits.push(code.to_owned());
        let told = [format!("exit code {code}"), format!("| {code} |"), format!("| `{code}` |")];
        if !told.iter().any(|text| MANUAL.contains(text.as_str())) {
            self.problems.push(format!("the exit code {code} is not in docs/operating.md"));
        }
    }

    /// Records the exit status in the text of a failed start, such as `(exit status: 1)`.
    pub(crate) fn note_code(&mut self, log: &str) {
        let code = log.split_once("(exit status: ").and_then(|(_, rest)| rest.split_once(')'));
        self.exit_code(code.map_or("none: a signal", |(code, _)| code));
    }

    /// Adds a fact for the reader.
    pub(crate) fn note(&mut self, note: impl Into<String>) {
        self.notes.extend(Some(note.into()).filter(|note| !note.is_empty()));
    }

    /// Whether the trial passes.
    pub(crate) fn passes(&self) -> bool {
        self.problems.is_empty()
    }

    /// The row of the table.
    pub(crate) fn row(&self, fault: &str, trial: &str) -> String {
        let limit = self.dup_limit.map_or_else(|| "–".to_owned(), |limit| limit.to_string());
        let mut recovery: Vec<String> =
            self.recovery.iter().map(|after| format!("{:.1} s", after.as_secs_f64())).collect();
        if !self.exits.is_empty() {
            recovery.push(format!("exit codes: {}", counted(&self.exits)));
        }
        recovery.extend(self.notes.iter().cloned());
        let verdict = if self.passes() { "PASS" } else { "FAIL" };
        let Self { rounds, events, posts, lost, unexpected, dup, .. } = self;
        format!(
            "| {fault} | {trial} | {rounds} | {events} | {posts} | {lost} | {unexpected} | {dup} ({limit}) | {} | {verdict} |",
            recovery.join("; ")
        )
    }
}

/// Each different text with the number of times that it occurs.
pub(crate) fn counted(texts: &[String]) -> String {
    let mut counts = std::collections::BTreeMap::new();
    for text in texts {
        *counts.entry(text).or_insert(0) += 1;
    }
    let parts: Vec<String> = counts.iter().map(|(text, count)| format!("{text} × {count}")).collect();
    parts.join(", ")
}

/// The head of the table.
pub(crate) const HEAD: &str = "\
| fault | trial | rounds | events | POSTs | lost | unexpected | dup (limit) | recovery and remarks | verdict |
|---|---|---|---|---|---|---|---|---|---|";
