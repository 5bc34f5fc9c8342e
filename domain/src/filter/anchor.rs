//! A value that an event must have at one place to pass a filter: `event.data.country == "DE"` alone, or joined to others
//! by `&&`. It finds the filters that an event can pass without asking those that it cannot.

use std::sync::Arc;

use cel::IdedExpr;
use cel::common::ast::operators as op;
use cel::common::ast::{Expr, LiteralValue};

/// Where a value is: the names from `event` down.
pub type Path = Arc<[Box<str>]>;

/// At `path` there must be one of `values`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// Where.
    pub path: Path,
    /// Which, once each.
    pub values: Vec<Arc<str>>,
    /// Whether the filter says `has(…)` of the path: without the value it gives `false` then, and no error.
    pub guarded: bool,
}

/// What an event has at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found<'f> {
    /// A text.
    Text(&'f str),
    /// Something else.
    Other,
    /// Nothing, in a map that could have it.
    Missing,
    /// The map that could have it is not there either, or is no map.
    NoPlace,
}

/// The first anchor of an expression; one in the data or the attributes before one of the type, which patterns judge
/// already.
pub(super) fn of(expression: &IdedExpr) -> Option<Anchor> {
    let mut terms = Vec::new();
    conjuncts(expression, &mut terms);
    let mut anchors: Vec<Anchor> = terms.iter().filter_map(|term| anchor(term)).collect();
    for anchor in &mut anchors {
        anchor.guarded = terms.iter().any(|term| presence(term).is_some_and(|path| path == anchor.path));
    }
    anchors.sort_by_key(|anchor| anchor.path.len() == 1);
    anchors.into_iter().next()
}

fn conjuncts<'e>(expression: &'e IdedExpr, terms: &mut Vec<&'e IdedExpr>) {
    match &expression.expr {
        Expr::Call(call) if call.func_name == op::LOGICAL_AND && call.target.is_none() => {
            call.args.iter().for_each(|term| conjuncts(term, terms));
        }
        _ => terms.push(expression),
    }
}

fn anchor(term: &IdedExpr) -> Option<Anchor> {
    let Expr::Call(call) = &term.expr else { return None };
    let [left, right] = call.args.as_slice() else { return None };
    let (path, mut values) = match call.func_name.as_str() {
        op::EQUALS => match (text(left), text(right)) {
            (None, Some(value)) => (path(left)?, vec![value]),
            (Some(value), None) => (path(right)?, vec![value]),
            _ => return None,
        },
        op::IN => {
            let Expr::List(list) = &right.expr else { return None };
            (path(left)?, list.elements.iter().map(text).collect::<Option<Vec<_>>>()?)
        }
        _ => return None,
    };
    values.sort_unstable();
    values.dedup();
    Some(Anchor { path, values, guarded: false })
}

/// The path of `has(path)`.
fn presence(term: &IdedExpr) -> Option<Path> {
    let Expr::Select(select) = &term.expr else { return None };
    let mut names = names(&select.operand)?;
    names.push(select.field.as_str().into());
    select.test.then(|| names.into())
}

fn path(part: &IdedExpr) -> Option<Path> {
    let names = names(part)?;
    let whole = match names.first().map(AsRef::as_ref) {
        Some("data" | "attributes") => names.len() > 1,
        Some("type") => names.len() == 1,
        _ => false,
    };
    whole.then(|| names.into())
}

/// The names of `event.a.b` or `event.a["b"]`.
fn names(part: &IdedExpr) -> Option<Vec<Box<str>>> {
    match &part.expr {
        Expr::Ident(name) if name == "event" => Some(Vec::new()),
        Expr::Select(select) if !select.test => {
            let mut names = names(&select.operand)?;
            names.push(select.field.as_str().into());
            Some(names)
        }
        Expr::Call(call) if call.func_name == op::INDEX => {
            let [of, index] = call.args.as_slice() else { return None };
            let mut names = names(of)?;
            names.push((*text(index)?).into());
            Some(names)
        }
        _ => None,
    }
}

fn text(part: &IdedExpr) -> Option<Arc<str>> {
    match &part.expr {
        Expr::Literal(LiteralValue::String(text)) => Some(text.inner().into()),
        _ => None,
    }
}
