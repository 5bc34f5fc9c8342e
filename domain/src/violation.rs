//! What is wrong with a field that a user sent: every rule in this crate that refuses input says it so.

use std::fmt;

/// One problem in one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The field's path, as in `retry_policy.factor`.
    pub field: String,
    /// What is wrong and what would be right: a sentence without the field's name.
    pub problem: String,
}

impl Violation {
    /// A problem in `field`.
    pub fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }

    /// The same problem, seen from a message that holds this one as `parent`.
    #[must_use]
    pub fn within(self, parent: &str) -> Self {
        Self { field: format!("{parent}.{}", self.field), problem: self.problem }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.problem)
    }
}

impl std::error::Error for Violation {}
