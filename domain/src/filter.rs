//! A filter: a condition on an event, in the Common Expression Language, that a subscription adds to its patterns.
//!
//! Parsing and evaluation are the `cel` crate's. What is here bounds them: a filter is short, is judged when it is saved
//! (`check`), cannot loop, and what it costs is known before it is evaluated. Filters are never asked one by one whom
//! an event concerns: most are found, or not, by a value that they need ([`anchor`], the buckets of [`crate::pattern::Index`]).

pub mod anchor;
pub(crate) mod bucket;
mod check;
mod compare;
mod constant;
mod facts;
mod json;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use cel::common::ast::SourceInfo;
use cel::parser::Parser;
use cel::{ExecutionError, IdedExpr, ParseErrors};

pub use self::anchor::Anchor;
pub use self::check::Cost;
pub use self::facts::Facts;

/// How many bytes a filter may have.
pub const MAX_FILTER: usize = 2048;
/// How many parts (names, values, operators) a filter may have.
pub const MAX_PARTS: usize = 200;
/// How deep a filter may be nested.
pub const MAX_NESTING: usize = 20;
/// What filters may cost an event, all together, in units of about a nanosecond. What is not evaluated then is delivered.
pub const BUDGET: u64 = 25_000_000;

/// What evaluating costs, whatever is in it.
const BASE_COST: u64 = 300;
/// What a byte costs that is part of a list or map: those are compared value by value.
const VALUES_COST: u64 = 3;
/// What a part costs.
const PART_COST: u64 = 100;

/// A filter that was judged: it names what there is and compares what can be compared.
#[derive(Clone)]
pub struct Filter(Arc<Parsed>);

struct Parsed {
    text: Box<str>,
    expression: IdedExpr,
    anchor: Option<Anchor>,
    cost: check::Cost,
    constant: Option<FilterError>,
}

/// Why a text is not a filter, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem} (line {line}, column {column})")]
pub struct FilterError {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// A sentence for people.
    pub problem: String,
}

/// Why a filter gave no answer for an event. It quotes names that the filter has, never what the event holds.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unanswered(pub String);

impl Filter {
    /// The text as it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0.text
    }

    /// A value without which an event does not pass.
    #[must_use]
    pub fn anchor(&self) -> Option<&Anchor> {
        self.0.anchor.as_ref()
    }

    /// Why a part of it has no value, whatever the event holds: such a filter must not be saved. Filters that were saved
    /// before this was judged remain, without an answer for any event that meets the part.
    #[must_use]
    pub fn constant_problem(&self) -> Option<&FilterError> {
        self.0.constant.as_ref()
    }

    /// What an evaluation costs.
    #[must_use]
    pub fn cost(&self) -> Cost {
        self.0.cost
    }

    /// Whether what is left for the event is enough to evaluate this.
    #[must_use]
    pub fn can_afford(&self, facts: &Facts<'_>) -> bool {
        self.0.cost.of(facts.size()) <= facts.left()
    }

    /// Whether the event passes.
    ///
    /// # Errors
    /// When there is no answer: a field is missing, a value has another type, or the event's budget is used up. Such an
    /// event is delivered, and the error is shown: a problem in a filter must not lose events.
    pub fn passes(&self, facts: &Facts<'_>) -> Result<bool, Unanswered> {
        let cost = self.0.cost.of(facts.size());
        facts.spend(cost)?;
        let context = facts.context()?;
        let unanswered = |error| match &self.0.constant {
            Some(problem) => {
                Unanswered(format!("a part of the filter has no value for any event: {problem}"))
            }
            None => facts.unreadable(explain(&error)),
        };
        let value = cel::Value::resolve(&self.0.expression, context).map_err(unanswered)?;
        match value {
            cel::Value::Bool(passes) => Ok(passes),
            other => Err(Unanswered(format!("the filter gives a {}, not true or false", other.type_of()))),
        }
    }
}

impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        check::shape(text)?;
        let parser = Parser::new().max_recursion_depth(96).error_recovery_limit(4);
        let (expression, places) =
            parser.parse_with_source_info(text).map_err(|errors| syntax(text, &errors))?;
        let cost = check::meaning(&expression).map_err(|problem| placed(&problem, text, &places))?;
        let anchor = anchor::of(&expression);
        let constant = constant::problem(&expression).map(|problem| placed(&problem, text, &places));
        let expression = compare::by_value(expression);
        Ok(Self(Arc::new(Parsed { text: text.into(), expression, anchor, cost, constant })))
    }
}

impl PartialEq for Filter {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn syntax(text: &str, errors: &ParseErrors) -> FilterError {
    let first = errors.errors.iter().min_by_key(|error| error.pos);
    let position = first.map_or((1, 1), |error| error.pos);
    let number = |place: isize| usize::try_from(place).unwrap_or_default().max(1);
    let problem = first.map_or("cannot be read", |error| &error.msg);
    let problem: String = problem.lines().next().unwrap_or_default().chars().take(200).collect();
    let lines = text.lines().count().max(1);
    FilterError { line: number(position.0).min(lines), column: number(position.1), problem }
}

fn placed(problem: &check::Problem, text: &str, places: &SourceInfo) -> FilterError {
    let start = places.offset_for(problem.part).map_or(0, |(start, _)| start as usize);
    at(text.get(..start).unwrap_or_default(), problem.problem.clone())
}

/// A problem behind what is before it.
fn at(before: &str, problem: String) -> FilterError {
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    FilterError { line, column, problem }
}

/// Says what went wrong without what the event holds: it is shown to whoever may see the subscription.
fn explain(error: &ExecutionError) -> Unanswered {
    let problem = match error {
        ExecutionError::NoSuchKey(name) => {
            let name: String = name.chars().take(100).collect();
            format!("the event has no '{name}' there; guard it with has(…) if it may be missing")
        }
        ExecutionError::NoSuchOverload(error) => format!(
            "'{}' cannot be applied to {}",
            error.function().trim_matches(['_', '@']),
            error.argument_types().join(" and ")
        ),
        ExecutionError::ValuesNotComparable(left, right) => {
            format!("a {} cannot be compared with a {}", left.type_of(), right.type_of())
        }
        ExecutionError::UnsupportedBinaryOperator(operator, left, right) => {
            format!("'{operator}' cannot be applied to {} and {}", left.type_of(), right.type_of())
        }
        ExecutionError::UnsupportedIndex(..) | ExecutionError::IndexOutOfBounds(_) => {
            "a list or map has no such index".to_owned()
        }
        ExecutionError::UnsupportedTargetType { target }
        | ExecutionError::NotSupportedAsMethod { target, .. } => {
            format!("a {} cannot be used so", target.type_of())
        }
        ExecutionError::DivisionByZero(_) | ExecutionError::RemainderByZero(_) => {
            "divides by zero".to_owned()
        }
        ExecutionError::Overflow(operator, ..) => format!("'{operator}' overflows"),
        ExecutionError::FunctionError { function, .. } => {
            let function: String = function.chars().take(100).collect();
            format!("{function}() cannot be applied to what the event has there")
        }
        _ => "a value has another type than the filter needs".to_owned(),
    };
    Unanswered(problem)
}

#[cfg(test)]
mod tests;
