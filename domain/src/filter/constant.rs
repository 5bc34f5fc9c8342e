//! Parts of a filter that do not depend on the event. They are evaluated when the filter is read: one that fails fails
//! for every event, so a filter with it is not saved.

use std::sync::LazyLock;

use cel::common::ast::operators as op;
use cel::common::ast::{CallExpr, Expr, LiteralValue};
use cel::{Context, ExecutionError, IdedExpr, Value};

use super::check::{GETTERS, Problem};
use super::facts::ENVIRONMENT;

/// The first constant part that has no value.
pub(super) fn problem(part: &IdedExpr) -> Option<Problem> {
    let below = match &part.expr {
        Expr::Call(call) => call.target.as_deref().into_iter().chain(&call.args).find_map(problem),
        Expr::Select(select) => problem(&select.operand),
        Expr::List(list) => list.elements.iter().find_map(problem),
        _ => None,
    };
    below.or_else(|| {
        let Expr::Call(call) = &part.expr else { return None };
        let problem = if is_constant(part) { evaluate(part).err() } else { argument(call) };
        problem.map(|problem| Problem { part: part.id, problem })
    })
}

fn is_constant(part: &IdedExpr) -> bool {
    match &part.expr {
        Expr::Literal(_) => true,
        Expr::Call(call) => call.target.as_deref().into_iter().chain(&call.args).all(is_constant),
        Expr::List(list) => list.elements.iter().all(is_constant),
        _ => false,
    }
}

fn evaluate(part: &IdedExpr) -> Result<Value, String> {
    // Context is not `Sync`, and constant calls are few.
    let context = Context::with_env(ENVIRONMENT.clone());
    Value::resolve(part, &context).map_err(|error| reason(&error))
}

/// What is wrong with a constant argument of a call whose other operand is the event's.
fn argument(call: &CallExpr) -> Option<String> {
    let constant = call.args.last().filter(|last| is_constant(last))?;
    match call.func_name.as_str() {
        op::DIVIDE | op::MODULO => match evaluate(constant) {
            Ok(Value::Int(0) | Value::UInt(0)) => Some("divides by zero".into()),
            _ => None,
        },
        op::INDEX => match evaluate(constant) {
            Ok(Value::Int(index)) if index < 0 => {
                Some(format!("has the index {index}; the first item of a list has the index 0"))
            }
            Ok(Value::Float(index)) if index < 0.0 || index.fract() != 0.0 => {
                Some(format!("has the index {index}; an index is a whole number from 0"))
            }
            _ => None,
        },
        getter if GETTERS.contains(&getter) => evaluate(&at_some_time(getter, constant)).err(),
        _ => None,
    }
}

/// The same getter in the same time zone, of a timestamp that is known.
fn at_some_time(getter: &str, zone: &IdedExpr) -> IdedExpr {
    static TIME: LazyLock<IdedExpr> = LazyLock::new(|| {
        let literal = IdedExpr { id: 0, expr: Expr::Literal(LiteralValue::Int(1_770_028_200.into())) };
        call("timestamp", None, literal)
    });
    call(getter, Some(TIME.clone()), zone.clone())
}

fn call(name: &str, target: Option<IdedExpr>, argument: IdedExpr) -> IdedExpr {
    let call = CallExpr { func_name: name.into(), target: target.map(Box::new), args: vec![argument] };
    IdedExpr { id: 0, expr: Expr::Call(call) }
}

fn reason(error: &ExecutionError) -> String {
    let ExecutionError::FunctionError { function, .. } = error else { return super::explain(error).0 };
    match function.as_str() {
        "timestamp" => "is not a time; write an RFC 3339 time such as timestamp(\"2026-02-02T10:30:00Z\")".into(),
        "timezone" => "is not a known time zone; write a name such as Europe/Berlin, or an offset such as +02:00".into(),
        "duration" => {
            "is not a duration; write numbers with the units h, m, s, ms, us and ns, as in duration(\"1h30m\")".into()
        }
        "int" => "is not a whole number of 64 bits".into(),
        "double" => "is not a number".into(),
        function => format!("{function}() has no value for this"),
    }
}
