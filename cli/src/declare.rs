//! A tenant as a file: its settings, its catalogue, and its subscriptions.
//!
//! `export` writes what there is, `apply` makes what there is as the file says. The file is read in two steps: [`yaml`] makes a
//! tree that knows its lines, [`read`] makes of it what is wanted, and tells every problem at once. [`plan`] compares
//! what is wanted with what there is; it is pure, and knows things as fields with values, nothing of their meaning.

pub(crate) mod fields;
pub(crate) mod plan;
pub(crate) mod read;
pub(crate) mod write;
pub(crate) mod yaml;

/// A problem in a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Problem {
    /// From 1; 0: of no line.
    pub(crate) line: usize,
    /// What is wrong, and what would be right.
    pub(crate) problem: String,
}

impl Problem {
    /// A problem on a line.
    pub(crate) fn new(line: usize, problem: impl Into<String>) -> Self {
        Self { line, problem: problem.into() }
    }
}
