//! What a filter may say: the names that there are, types that fit, and nothing that loops.
//!
//! What events hold is known when they come, so `event.data` and all below it has any type; everything else has one.

use std::ops::{AddAssign, SubAssign};

use cel::IdedExpr;
use cel::common::ast::operators as op;
use cel::common::ast::{CallExpr, Expr, LiteralValue, SelectExpr};
use cel::parser::pratt_parser::{Lexer, TokenKind};

use super::{BASE_COST, FilterError, MAX_FILTER, MAX_NESTING, MAX_PARTS, PART_COST, VALUES_COST, at};

/// Words and signs that a text may have, brackets and commas too.
const MAX_TOKENS: usize = 400;

/// A problem, and the part of the expression that it is in.
pub(super) struct Problem {
    pub(super) part: u64,
    pub(super) problem: String,
}

/// What evaluations cost at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    filters: u64,
    parts: u64,
    /// What each byte of the event costs, for the parts that may look at all of them.
    scans: u64,
}

impl Cost {
    /// For an event of so many bytes, in units of about a nanosecond. A byte that is looked at costs about one.
    #[must_use]
    pub fn of(self, size: usize) -> u64 {
        let size = u64::try_from(size).unwrap_or(u64::MAX);
        let fixed = self.filters * BASE_COST + self.parts * PART_COST;
        fixed.saturating_add(self.scans.saturating_mul(size))
    }
}

impl AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.filters += other.filters;
        self.parts += other.parts;
        self.scans += other.scans;
    }
}

impl SubAssign for Cost {
    fn sub_assign(&mut self, other: Self) {
        self.filters -= other.filters;
        self.parts -= other.parts;
        self.scans -= other.scans;
    }
}

/// What a part gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    /// The event itself.
    Event,
    /// Its attributes: texts by name.
    Attributes,
    /// Known when the event comes.
    Any,
    Bool,
    Number,
    Text,
    Timestamp,
    Duration,
    List,
    Null,
}

impl Type {
    fn name(self) -> &'static str {
        match self {
            Self::Event => "the event",
            Self::Attributes => "the attributes",
            Self::Any => "any value",
            Self::Bool => "true or false",
            Self::Number => "a number",
            Self::Text => "a text",
            Self::Timestamp => "a timestamp",
            Self::Duration => "a duration",
            Self::List => "a list",
            Self::Null => "null",
        }
    }

    fn is(self, wanted: &[Type]) -> bool {
        self == Self::Any || wanted.contains(&self)
    }
}

/// What can be said before a text is read: how long it is.
pub(super) fn shape(text: &str) -> Result<(), FilterError> {
    let refuse = |problem: String| Err(FilterError { line: 1, column: 1, problem });
    if text.trim().is_empty() {
        return refuse("must hold an expression, as in event.data.amount > 100".into());
    }
    if text.len() > MAX_FILTER {
        return refuse(format!("has {} bytes, the limit is {MAX_FILTER}", text.len()));
    }
    tokens(text)
}

/// Counts tokens and open brackets: the parser looks ahead with as much stack as there are brackets.
fn tokens(text: &str) -> Result<(), FilterError> {
    let mut lexer = Lexer::new(text);
    let (mut count, mut open) = (0, 0_usize);
    loop {
        let token = lexer.lex();
        let refuse = |problem: String| Err(at(text.get(..token.start).unwrap_or_default(), problem));
        match token.kind {
            TokenKind::TokEnd => return Ok(()),
            TokenKind::TokError => {
                let problem = lexer.get_error().map_or("cannot be read", |error| &error.message);
                return refuse(problem.chars().take(200).collect());
            }
            TokenKind::TokWhitespace | TokenKind::TokComment => continue,
            // What follows ? is nested as what follows a bracket is, but nothing says where it ends.
            TokenKind::TokLeftBracket
            | TokenKind::TokLeftBrace
            | TokenKind::TokLeftParen
            | TokenKind::TokQuestion => open += 1,
            TokenKind::TokRightBracket | TokenKind::TokRightBrace | TokenKind::TokRightParen => {
                open = open.saturating_sub(1);
            }
            _ => {}
        }
        count += 1;
        if open > MAX_NESTING {
            return refuse(format!("is nested deeper than {MAX_NESTING}"));
        }
        if count > MAX_TOKENS {
            return refuse(format!("has more than {MAX_TOKENS} words and signs"));
        }
    }
}

/// Judges an expression, and says what it costs.
pub(super) fn meaning(expression: &IdedExpr) -> Result<Cost, Problem> {
    let mut judge = Judge { cost: Cost { filters: 1, ..Cost::default() }, nesting: 0 };
    let found = judge.part(expression)?;
    if found.is(&[Type::Bool]) {
        Ok(judge.cost)
    } else {
        wrong(expression, format!("must give true or false, not {}", found.name()))
    }
}

fn wrong<T>(part: &IdedExpr, problem: String) -> Result<T, Problem> {
    Err(Problem { part: part.id, problem })
}

struct Judge {
    cost: Cost,
    nesting: usize,
}

impl Judge {
    fn part(&mut self, part: &IdedExpr) -> Result<Type, Problem> {
        self.cost.parts += 1;
        if self.cost.parts > MAX_PARTS as u64 {
            return wrong(part, format!("has more than {MAX_PARTS} names, values and operators"));
        }
        if self.nesting >= MAX_NESTING {
            return wrong(part, format!("is nested deeper than {MAX_NESTING}"));
        }
        self.nesting += 1;
        let found = self.expression(part);
        self.nesting -= 1;
        found
    }

    fn expression(&mut self, part: &IdedExpr) -> Result<Type, Problem> {
        match &part.expr {
            Expr::Literal(literal) => literal_type(part, literal),
            Expr::Ident(name) if name == "event" => Ok(Type::Event),
            Expr::Ident(name) => {
                wrong(part, format!("'{}' is unknown; an expression is about event", short(name)))
            }
            Expr::Select(select) => self.select(part, select),
            Expr::List(list) => {
                for element in &list.elements {
                    self.value(element)?;
                }
                Ok(Type::List)
            }
            Expr::Call(call) => self.call(part, call),
            Expr::Comprehension(_) => wrong(
                part,
                "all, exists, exists_one, map and filter are not allowed: they loop over what events hold; for lists there is in".into(),
            ),
            Expr::Map(_) | Expr::Struct(_) => wrong(part, "maps and messages cannot be made here".into()),
            Expr::Unspecified => wrong(part, "is incomplete".into()),
        }
    }

    /// A part that is not the event itself.
    fn value(&mut self, part: &IdedExpr) -> Result<Type, Problem> {
        match self.part(part)? {
            Type::Event => {
                wrong(part, "event has type, data, timestamp and attributes; name one of them".into())
            }
            found => Ok(found),
        }
    }

    fn wanted(&mut self, part: &IdedExpr, wanted: &[Type]) -> Result<Type, Problem> {
        let found = self.value(part)?;
        if found.is(wanted) {
            return Ok(found);
        }
        let wanted: Vec<&str> = wanted.iter().map(|wanted| wanted.name()).collect();
        wrong(part, format!("is {}; needed is {}", found.name(), wanted.join(" or ")))
    }

    fn select(&mut self, part: &IdedExpr, select: &SelectExpr) -> Result<Type, Problem> {
        let found = match (self.part(&select.operand)?, select.field.as_str()) {
            (Type::Event, "type") => Type::Text,
            (Type::Event, "timestamp") => Type::Timestamp,
            (Type::Event, "data") | (Type::Any, _) => Type::Any,
            (Type::Event, "attributes") => Type::Attributes,
            (Type::Attributes, _) => Type::Text,
            (Type::Event, field) => {
                let problem =
                    format!("event has no '{}'; it has type, data, timestamp and attributes", short(field));
                return wrong(part, problem);
            }
            (found, field) => return wrong(part, format!("{} has no '{}'", found.name(), short(field))),
        };
        Ok(if select.test { Type::Bool } else { found })
    }

    fn call(&mut self, part: &IdedExpr, call: &CallExpr) -> Result<Type, Problem> {
        match (&call.target, call.func_name.as_str(), call.args.as_slice()) {
            (None, op::LOGICAL_AND | op::LOGICAL_OR, [left, right]) => {
                self.wanted(left, &[Type::Bool])?;
                self.wanted(right, &[Type::Bool]).map(|_| Type::Bool)
            }
            (None, op::LOGICAL_NOT, [one]) => self.wanted(one, &[Type::Bool]).map(|_| Type::Bool),
            (None, op::CONDITIONAL, [condition, yes, no]) => {
                self.wanted(condition, &[Type::Bool])?;
                let (yes, no) = (self.value(yes)?, self.value(no)?);
                Ok(if yes == no { yes } else { Type::Any })
            }
            (None, op::EQUALS | op::NOT_EQUALS, [left, right]) => self.equality(part, left, right),
            (None, op::LESS | op::LESS_EQUALS | op::GREATER | op::GREATER_EQUALS, [left, right]) => {
                self.order(part, left, right)
            }
            (None, op::IN, [one, among]) => {
                self.value(one)?;
                if !matches!(among.expr, Expr::List(_)) {
                    self.cost.scans += VALUES_COST;
                }
                self.wanted(among, &[Type::List, Type::Attributes]).map(|_| Type::Bool)
            }
            (None, op::INDEX, [of, index]) => match self.value(of)? {
                Type::Attributes => self.wanted(index, &[Type::Text]),
                _ => {
                    self.wanted(of, &[Type::List])?;
                    self.wanted(index, &[Type::Text, Type::Number]).map(|_| Type::Any)
                }
            },
            (None, op::NEGATE, [one]) => self.wanted(one, &[Type::Number, Type::Duration]),
            (None, op::ADD | op::SUBSTRACT, [left, right]) => self.sum(part, left, right),
            (None, op::MULTIPLY | op::DIVIDE | op::MODULO, [left, right]) => {
                self.wanted(left, &[Type::Number])?;
                self.wanted(right, &[Type::Number]).map(|_| Type::Number)
            }
            (target, name, args) => self.function(part, target.as_deref(), name, args),
        }
    }

    fn equality(&mut self, part: &IdedExpr, left: &IdedExpr, right: &IdedExpr) -> Result<Type, Problem> {
        let (a, b) = (self.value(left)?, self.value(right)?);
        // What is compared with a literal is looked at only as far as that goes.
        let literal = |part: &IdedExpr| matches!(part.expr, Expr::Literal(_));
        if !literal(left) && !literal(right) {
            self.cost.scans += VALUES_COST;
        }
        if a == b || [a, b].contains(&Type::Any) {
            Ok(Type::Bool)
        } else {
            wrong(part, format!("compares {} with {}", a.name(), b.name()))
        }
    }

    fn order(&mut self, part: &IdedExpr, left: &IdedExpr, right: &IdedExpr) -> Result<Type, Problem> {
        const ORDERED: [Type; 5] = [Type::Number, Type::Text, Type::Timestamp, Type::Duration, Type::Bool];
        let (a, b) = (self.wanted(left, &ORDERED)?, self.wanted(right, &ORDERED)?);
        self.cost.scans += 1;
        if a == b || [a, b].contains(&Type::Any) {
            Ok(Type::Bool)
        } else {
            wrong(part, format!("compares {} with {}", a.name(), b.name()))
        }
    }

    /// One side must be known not to be a text or a list: those could be joined to ever longer ones.
    fn sum(&mut self, part: &IdedExpr, left: &IdedExpr, right: &IdedExpr) -> Result<Type, Problem> {
        const SUMMED: [Type; 3] = [Type::Number, Type::Timestamp, Type::Duration];
        match (self.wanted(left, &SUMMED)?, self.wanted(right, &SUMMED)?) {
            (Type::Any, Type::Any) => {
                wrong(part, "must know what it adds: write int(…) or double(…) around one side".into())
            }
            (Type::Number, Type::Number | Type::Any) | (Type::Any, Type::Number) => Ok(Type::Number),
            _ => Ok(Type::Any),
        }
    }

    fn function(
        &mut self,
        part: &IdedExpr,
        target: Option<&IdedExpr>,
        name: &str,
        args: &[IdedExpr],
    ) -> Result<Type, Problem> {
        const SIZED: [Type; 3] = [Type::Text, Type::List, Type::Attributes];
        const TIMES: [Type; 2] = [Type::Timestamp, Type::Duration];
        self.cost.scans += 1;
        match (target, name, args) {
            (Some(text), "startsWith" | "endsWith" | "contains", [other]) => {
                self.wanted(text, &[Type::Text])?;
                self.wanted(other, &[Type::Text]).map(|_| Type::Bool)
            }
            (Some(of), "size", []) | (None, "size", [of]) => self.wanted(of, &SIZED).map(|_| Type::Number),
            (None, "int" | "double", [one]) => {
                self.wanted(one, &[Type::Number, Type::Text, Type::Timestamp]).map(|_| Type::Number)
            }
            (None, "string", [one]) => {
                self.wanted(one, &[Type::Number, Type::Text, Type::Bool, Type::Timestamp]).map(|_| Type::Text)
            }
            (None, "timestamp", [one]) => {
                self.wanted(one, &[Type::Text, Type::Timestamp]).map(|_| Type::Timestamp)
            }
            (None, "duration", [one]) => self.wanted(one, &[Type::Text]).map(|_| Type::Duration),
            (Some(time), getter, zone) if GETTERS.contains(&getter) && zone.len() <= 1 => {
                for zone in zone {
                    self.wanted(zone, &[Type::Text])?;
                }
                self.wanted(time, &TIMES).map(|_| Type::Number)
            }
            _ => wrong(part, unknown(name, args.len())),
        }
    }
}

pub(super) const GETTERS: [&str; 10] = [
    "getFullYear",
    "getMonth",
    "getDate",
    "getDayOfMonth",
    "getDayOfWeek",
    "getDayOfYear",
    "getHours",
    "getMinutes",
    "getSeconds",
    "getMilliseconds",
];

fn unknown(name: &str, arguments: usize) -> String {
    match name {
        "matches" => "matches() is not allowed: use startsWith, endsWith or contains".into(),
        "has" => "has() needs a field, as in has(event.data.amount)".into(),
        _ => format!(
            "{}() with {arguments} arguments is not a function here; there are has, size, startsWith, endsWith, \
             contains, int, double, string, timestamp, duration and the parts of a timestamp such as getHours",
            short(name)
        ),
    }
}

fn literal_type(part: &IdedExpr, literal: &LiteralValue) -> Result<Type, Problem> {
    match literal {
        LiteralValue::Boolean(_) => Ok(Type::Bool),
        LiteralValue::Double(_) | LiteralValue::Int(_) | LiteralValue::UInt(_) => Ok(Type::Number),
        LiteralValue::String(_) => Ok(Type::Text),
        LiteralValue::Null => Ok(Type::Null),
        LiteralValue::Bytes(_) => wrong(part, "events hold texts, not bytes; leave the b away".into()),
    }
}

fn short(name: &str) -> String {
    name.chars().take(100).collect()
}
