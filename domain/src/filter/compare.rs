//! Comparisons by value. The `cel` crate compares integers with doubles as doubles, which is wrong beyond 2^53, and
//! has no answer where CEL says `false` for NaN. Here its comparisons are replaced, wherever a number may take part.

use std::cmp::Ordering;

use cel::common::ast::operators as op;
use cel::common::ast::{Expr, LiteralValue};
use cel::common::types::{CelBool, CelDouble, CelInt, CelList, CelMap, CelUInt, DYN_TYPE};
use cel::common::value::{CowVal, Val};
use cel::{Env, ExecutionError, IdedExpr};

type Arguments<'b, 'v> = Vec<CowVal<'b, 'v>>;
type Answer<'b, 'v> = Result<CowVal<'b, 'v>, ExecutionError>;
type Function = for<'b, 'v> fn(Arguments<'b, 'v>) -> Answer<'b, 'v>;

/// Each operator with the name of its replacement, which no filter can write, and the replacement.
const REPLACED: [(&str, &str, Function); 7] = [
    (op::EQUALS, "@equal", |values| answer(&values, equal)),
    (op::NOT_EQUALS, "@different", |values| answer(&values, |left, right| !equal(left, right))),
    (op::LESS, "@less", |values| order(op::LESS, &values, Ordering::is_lt)),
    (op::LESS_EQUALS, "@less_or_equal", |values| order(op::LESS_EQUALS, &values, Ordering::is_le)),
    (op::GREATER, "@greater", |values| order(op::GREATER, &values, Ordering::is_gt)),
    (op::GREATER_EQUALS, "@greater_or_equal", |values| order(op::GREATER_EQUALS, &values, Ordering::is_ge)),
    (op::IN, "@among", |values| among(&values)),
];

/// Adds the replacements to the functions of an environment.
pub(super) fn declare(env: &mut Env) {
    for (_, name, function) in REPLACED {
        env.add_overload(name, name, vec![DYN_TYPE, DYN_TYPE], function).expect("each name is declared once");
    }
}

/// The expression with each comparison replaced that may compare numbers.
pub(super) fn by_value(mut part: IdedExpr) -> IdedExpr {
    replace(&mut part);
    part
}

fn replace(part: &mut IdedExpr) {
    match &mut part.expr {
        Expr::Call(call) => {
            call.target.iter_mut().for_each(|target| replace(target));
            call.args.iter_mut().for_each(replace);
            let replacement = REPLACED.iter().find(|(operator, ..)| *operator == call.func_name);
            if let Some((_, name, _)) = replacement.filter(|_| !call.args.iter().any(has_no_number)) {
                call.func_name = (*name).to_owned();
            }
        }
        Expr::Select(select) => replace(&mut select.operand),
        Expr::List(list) => list.elements.iter_mut().for_each(replace),
        _ => {}
    }
}

/// Whether a side has no number in it, so that the comparison of the `cel` crate is right, and faster.
fn has_no_number(part: &IdedExpr) -> bool {
    match &part.expr {
        Expr::Literal(literal) => {
            !matches!(literal, LiteralValue::Double(_) | LiteralValue::Int(_) | LiteralValue::UInt(_))
        }
        Expr::List(list) => list.elements.iter().all(has_no_number),
        _ => false,
    }
}

fn answer<'b, 'v>(values: &[CowVal<'b, 'v>], holds: impl Fn(&dyn Val, &dyn Val) -> bool) -> Answer<'b, 'v> {
    let (left, right) = sides(values)?;
    Ok(CowVal::owned(CelBool::from(holds(left, right))))
}

fn order<'b, 'v>(operator: &str, values: &[CowVal<'b, 'v>], holds: fn(Ordering) -> bool) -> Answer<'b, 'v> {
    let (left, right) = sides(values)?;
    let ordering = match (Number::of(left), Number::of(right)) {
        (Some(left), Some(right)) => left.compare(right),
        _ => {
            let ordering = left.as_comparer().and_then(|left| left.compare(right).ok());
            Some(ordering.ok_or_else(|| no_overload(operator, left, right))?)
        }
    };
    Ok(CowVal::owned(CelBool::from(ordering.is_some_and(holds))))
}

fn among<'b, 'v>(values: &[CowVal<'b, 'v>]) -> Answer<'b, 'v> {
    let (one, among) = sides(values)?;
    let found = match among.downcast_ref::<CelList<'_>>() {
        Some(list) => list.inner().iter().any(|item| equal(one, item.as_ref())),
        None => {
            let contains = among.as_container().and_then(|container| container.contains(one).ok());
            contains.ok_or_else(|| no_overload(op::IN, one, among))?
        }
    };
    Ok(CowVal::owned(CelBool::from(found)))
}

fn sides<'a>(values: &'a [CowVal<'_, '_>]) -> Result<(&'a dyn Val, &'a dyn Val), ExecutionError> {
    match values {
        [left, right] => Ok((left.as_ref(), right.as_ref())),
        _ => Err(ExecutionError::invalid_argument_count(2, values.len())),
    }
}

fn no_overload(operator: &str, left: &dyn Val, right: &dyn Val) -> ExecutionError {
    let types = [left, right].map(|value| value.get_type().name().to_owned());
    ExecutionError::no_such_overload(operator, types.into())
}

fn equal(left: &dyn Val, right: &dyn Val) -> bool {
    if let (Some(left), Some(right)) = (Number::of(left), Number::of(right)) {
        return left.compare(right) == Some(Ordering::Equal);
    }
    if let (Some(left), Some(right)) =
        (left.downcast_ref::<CelList<'_>>(), right.downcast_ref::<CelList<'_>>())
    {
        let mut pairs = left.inner().iter().zip(right.inner());
        return left.inner().len() == right.inner().len()
            && pairs.all(|(left, right)| equal(left.as_ref(), right.as_ref()));
    }
    if let (Some(left), Some(right)) = (left.downcast_ref::<CelMap<'_>>(), right.downcast_ref::<CelMap<'_>>())
    {
        let (left, right) = (left.inner(), right.inner());
        let mut pairs = left.iter().map(|(name, left)| (left, right.get(name)));
        return left.len() == right.len()
            && pairs.all(|(left, right)| right.is_some_and(|right| equal(left.as_ref(), right.as_ref())));
    }
    left.equals(right)
}

#[derive(Clone, Copy, Debug)]
enum Number {
    /// An `int` or a `uint`.
    Whole(i128),
    Double(f64),
}

impl Number {
    fn of(value: &dyn Val) -> Option<Self> {
        let int = value.downcast_ref::<CelInt>().map(|int| Self::Whole((*int.inner()).into()));
        let uint = || value.downcast_ref::<CelUInt>().map(|uint| Self::Whole((*uint.inner()).into()));
        let double = || value.downcast_ref::<CelDouble>().map(|double| Self::Double(*double.inner()));
        int.or_else(uint).or_else(double)
    }

    /// `None` when one of them is NaN.
    fn compare(self, other: Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Whole(left), Self::Whole(right)) => Some(left.cmp(&right)),
            (Self::Double(left), Self::Double(right)) => left.partial_cmp(&right),
            (Self::Whole(left), Self::Double(right)) => compare(left, right),
            (Self::Double(left), Self::Whole(right)) => compare(right, left).map(Ordering::reverse),
        }
    }
}

/// Exact: whole numbers have at most 64 bits, and the part of a double before the point is cut to 128.
fn compare(whole: i128, double: f64) -> Option<Ordering> {
    if double.is_nan() {
        return None;
    }
    match whole.cmp(&(double as i128)) {
        Ordering::Equal => 0.0.partial_cmp(&double.fract()),
        different => Some(different),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_and_doubles_compare_exactly() {
        use Ordering::{Equal, Greater, Less};
        let table = [
            (5, 5.0, Some(Equal)),
            (5, 5.5, Some(Less)),
            (-5, -5.5, Some(Greater)),
            (-6, -5.5, Some(Less)),
            (0, -0.0, Some(Equal)),
            (9_007_199_254_740_993, 9_007_199_254_740_992.0, Some(Greater)),
            (-9_007_199_254_740_993, -9_007_199_254_740_992.0, Some(Less)),
            (i64::MAX.into(), 9_223_372_036_854_775_808.0, Some(Less)),
            (i64::MIN.into(), -9_223_372_036_854_775_808.0, Some(Equal)),
            (u64::MAX.into(), 18_446_744_073_709_551_616.0, Some(Less)),
            (u64::MAX.into(), f64::INFINITY, Some(Less)),
            (i64::MIN.into(), f64::NEG_INFINITY, Some(Greater)),
            (1, f64::MAX, Some(Less)),
            (0, 5e-324, Some(Less)),
            (0, f64::NAN, None),
        ];
        for (whole, double, expected) in table {
            assert_eq!(compare(whole, double), expected, "{whole} {double}");
        }
    }
}
