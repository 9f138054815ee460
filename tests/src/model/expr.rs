//! Conditions and values over a row of the table and an incoming row, with SQL's three truth values.

use std::fmt;

use super::{Refusal, Rows, Value};

/// A comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compare {
    /// `=`
    Equal,
    /// `<>`
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
}

/// An expression.
#[derive(Clone, PartialEq)]
pub enum Expr {
    /// A column of the table's row.
    Target(String),
    /// A column of the incoming row.
    Source(String),
    /// A constant.
    Literal(Value),
    /// A comparison; NULL where a side is NULL.
    Compare(Box<Expr>, Compare, Box<Expr>),
    /// Whether a value is NULL.
    IsNull(Box<Expr>),
    /// Both.
    And(Box<Expr>, Box<Expr>),
    /// At least one.
    Or(Box<Expr>, Box<Expr>),
    /// Not.
    Not(Box<Expr>),
    /// The first that is not NULL.
    Coalesce(Box<Expr>, Box<Expr>),
}

impl fmt::Debug for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Target(name) => write!(f, "target.{name}"),
            Self::Source(name) => write!(f, "source.{name}"),
            Self::Literal(value) => write!(f, "{value:?}"),
            Self::Compare(a, how, b) => write!(f, "({a:?} {how:?} {b:?})"),
            Self::IsNull(a) => write!(f, "({a:?} is null)"),
            Self::And(a, b) => write!(f, "({a:?} and {b:?})"),
            Self::Or(a, b) => write!(f, "({a:?} or {b:?})"),
            Self::Not(a) => write!(f, "(not {a:?})"),
            Self::Coalesce(a, b) => write!(f, "coalesce({a:?}, {b:?})"),
        }
    }
}

/// The rows that an expression sees. A side that is missing reads as NULL.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scope<'a> {
    pub(super) target: &'a Rows,
    pub(super) target_row: Option<&'a [Value]>,
    pub(super) source: &'a Rows,
    pub(super) source_row: Option<&'a [Value]>,
}

impl Expr {
    /// A comparison of two expressions.
    #[must_use]
    pub fn compare(self, how: Compare, other: Self) -> Self {
        Self::Compare(Box::new(self), how, Box::new(other))
    }

    pub(super) fn value(&self, scope: Scope<'_>) -> Result<Value, Refusal> {
        let column = |rows: &Rows, row: Option<&[Value]>, name: &str| {
            let index = rows.index(name)?;
            Ok(row.map_or(Value::Null, |r| r[index].clone()))
        };
        let truth = |t: Option<bool>| Ok(t.map_or(Value::Null, Value::Bool));
        match self {
            Self::Target(name) => column(scope.target, scope.target_row, name),
            Self::Source(name) => column(scope.source, scope.source_row, name),
            Self::Literal(value) => Ok(value.clone()),
            Self::Compare(a, how, b) => {
                let (a, b) = (a.value(scope)?, b.value(scope)?);
                if a.is_null() || b.is_null() {
                    return Ok(Value::Null);
                }
                let order = a.order(&b);
                Ok(Value::Bool(match how {
                    Compare::Equal => order.is_eq(),
                    Compare::NotEqual => order.is_ne(),
                    Compare::Less => order.is_lt(),
                    Compare::LessOrEqual => order.is_le(),
                    Compare::Greater => order.is_gt(),
                    Compare::GreaterOrEqual => order.is_ge(),
                }))
            }
            Self::IsNull(a) => Ok(Value::Bool(a.value(scope)?.is_null())),
            Self::And(a, b) => truth(match (a.truth(scope)?, b.truth(scope)?) {
                (Some(false), _) | (_, Some(false)) => Some(false),
                (Some(true), Some(true)) => Some(true),
                _ => None,
            }),
            Self::Or(a, b) => truth(match (a.truth(scope)?, b.truth(scope)?) {
                (Some(true), _) | (_, Some(true)) => Some(true),
                (Some(false), Some(false)) => Some(false),
                _ => None,
            }),
            Self::Not(a) => truth(a.truth(scope)?.map(|t| !t)),
            Self::Coalesce(a, b) => {
                let a = a.value(scope)?;
                if a.is_null() { b.value(scope) } else { Ok(a) }
            }
        }
    }

    fn truth(&self, scope: Scope<'_>) -> Result<Option<bool>, Refusal> {
        match self.value(scope)? {
            Value::Bool(b) => Ok(Some(b)),
            _ => Ok(None),
        }
    }

    /// Whether a condition is true, which NULL is not.
    pub(super) fn holds(&self, scope: Scope<'_>) -> Result<bool, Refusal> {
        Ok(self.truth(scope)? == Some(true))
    }
}
