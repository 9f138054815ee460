//! Expressions of a plan for DataFusion, without letting DataFusion decide what they mean.
//!
//! The same SQL means different things to the two engines: `7 / 2` is 3.5 to DuckDB and 3 to DataFusion, a cast to an integer
//! rounds in one and cuts in the other, integers that overflow are an error in one and wrap in the other. So every part that does
//! not read the table is computed by DuckDB, as a further column of the incoming rows or as a constant. What is left combines
//! columns of the table with such values; of that only what is known to mean the same is handed on, the rest is refused.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use arrow::datatypes::{DataType, Field, Schema};
use deltalake::datafusion::common::tree_node::{Transformed, TreeNode};
use deltalake::datafusion::common::{Column, DFSchema, DataFusionError, ScalarValue, plan_datafusion_err};
use deltalake::datafusion::execution::SessionState;
use deltalake::datafusion::logical_expr::{BinaryExpr, Expr as Logical, ExprSchemable, Operator, cast, lit};
use duckrun_core::types::sql_type;
use duckrun_core::{Error, Result, RowExpr};
use sqlparser::ast::{
    BinaryOperator, Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, UnaryOperator, Value,
    visit_expressions,
};
use sqlparser::dialect::DuckDbDialect;
use sqlparser::parser::Parser;

/// The qualifiers of an expression's columns.
pub(super) const TARGET: &str = "target";
pub(super) const SOURCE: &str = "source";

/// What DuckDB computes for DataFusion.
#[derive(Debug, Default)]
pub(super) struct Computed {
    /// Columns of the incoming rows that are used as they are.
    pub(super) used: BTreeSet<String>,
    /// Expressions over the incoming rows; the type is open where DuckDB is to decide it.
    pub(super) columns: Vec<(String, Option<DataType>)>,
    /// Expressions without columns.
    pub(super) constants: Vec<(String, Option<DataType>)>,
}

/// The name of a computed column, and of a constant until it is one.
pub(super) fn column_name(n: usize) -> String {
    format!("__duckrun_e{n}")
}

pub(super) fn constant_name(n: usize) -> String {
    format!("__duckrun_k{n}")
}

/// An expression that is ready but for what DuckDB computes.
#[derive(Debug, Clone)]
pub(super) struct Prepared {
    /// SQL that DataFusion parses.
    sql: String,
    /// The text as the plan has it, for messages.
    original: String,
    /// Whether DuckDB has made it the wanted type already.
    exact: bool,
    ty: DataType,
}

impl Computed {
    /// Prepares an expression whose value is to have a type. `source` says whether there is an incoming row.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](duckrun_core::ErrorKind::Unsupported) for what DataFusion would not compute as DuckDB does.
    pub(super) fn prepare(
        &mut self,
        expr: &RowExpr,
        source: bool,
        incoming: &Schema,
        ty: &DataType,
    ) -> Result<Prepared> {
        let mut parsed = parse(&expr.sql)?;
        let ready = |sql: String, exact| Prepared { sql, original: expr.sql.clone(), exact, ty: ty.clone() };
        if let Some(name) = plain_column(&parsed, SOURCE)
            && source
            && incoming.field_with_name(&name).is_ok_and(|f| f.data_type() == ty)
        {
            self.used.insert(name);
            return Ok(ready(parsed.to_string(), true));
        }
        if !reads(&parsed, TARGET) {
            let sql = format!("CAST(({}) AS {})", expr.sql, sql_type(ty)?);
            let name = self.compute(&parsed, sql, source, Some(ty.clone()))?;
            return Ok(ready(name, true));
        }
        self.split(&mut parsed, source)?;
        Ok(ready(parsed.to_string(), false))
    }

    /// Has DuckDB compute a part, and returns the name that stands for it.
    fn compute(&mut self, part: &Expr, sql: String, source: bool, ty: Option<DataType>) -> Result<String> {
        deterministic(part)?;
        if reads(part, SOURCE) && !source {
            return Err(Error::invalid(format!("{part} reads incoming rows where there are none")));
        }
        let name = if source {
            self.columns.push((sql, ty));
            column_name(self.columns.len() - 1)
        } else {
            self.constants.push((sql, ty));
            constant_name(self.constants.len() - 1)
        };
        Ok(format!("{SOURCE}.\"{name}\""))
    }

    /// Replaces the parts that do not read the table; refuses what is left if it is not known to mean the same.
    fn split(&mut self, e: &mut Expr, source: bool) -> Result<()> {
        if !reads(e, TARGET) {
            return match e {
                // Text and NULL mean the same, and take the type of what they are compared with.
                Expr::Value(v) if matches!(v.value, Value::SingleQuotedString(_) | Value::Null) => Ok(()),
                _ if plain_column(e, SOURCE).is_some() && source => {
                    self.used.extend(plain_column(e, SOURCE));
                    Ok(())
                }
                _ => {
                    let name = self.compute(e, e.to_string(), source, None)?;
                    *e = parse(&name)?;
                    Ok(())
                }
            };
        }
        let unsupported = |e: &Expr| {
            Err(Error::unsupported(format!("delta-rs does not compute {e} as DuckDB does, so it is not handed to it")))
        };
        match e {
            Expr::CompoundIdentifier(_) if plain_column(e, TARGET).is_some() => Ok(()),
            Expr::Nested(inner)
            | Expr::IsNull(inner)
            | Expr::IsNotNull(inner)
            | Expr::IsTrue(inner)
            | Expr::IsNotTrue(inner)
            | Expr::IsFalse(inner)
            | Expr::IsNotFalse(inner)
            | Expr::UnaryOp { op: UnaryOperator::Not, expr: inner } => self.split(inner, source),
            Expr::BinaryOp { left, op, right } if known(op) => {
                self.split(left, source)?;
                self.split(right, source)
            }
            Expr::IsDistinctFrom(left, right) | Expr::IsNotDistinctFrom(left, right) => {
                self.split(left, source)?;
                self.split(right, source)
            }
            // Spelled out as comparisons, which are checked one by one.
            Expr::Between { expr, negated, low, high } => {
                let inside = format!("(({expr}) >= ({low}) AND ({expr}) <= ({high}))");
                *e = parse(&if *negated { format!("NOT {inside}") } else { inside })?;
                self.split(e, source)
            }
            Expr::InList { expr, list, negated } if !list.is_empty() => {
                let any: Vec<String> = list.iter().map(|item| format!("({expr}) = ({item})")).collect();
                let any = format!("({})", any.join(" OR "));
                *e = parse(&if *negated { format!("NOT {any}") } else { any })?;
                self.split(e, source)
            }
            Expr::Case { operand: None, conditions, else_result, .. } => {
                for when in conditions {
                    self.split(&mut when.condition, source)?;
                    self.split(&mut when.result, source)?;
                }
                else_result.as_mut().map_or(Ok(()), |e| self.split(e, source))
            }
            Expr::Function(function)
                if ["coalesce", "lower", "upper"].contains(&function.name.to_string().to_lowercase().as_str())
                    && function.over.is_none()
                    && function.filter.is_none() =>
            {
                let FunctionArguments::List(list) = &mut function.args else { return unsupported(e) };
                for arg in &mut list.args {
                    let FunctionArg::Unnamed(FunctionArgExpr::Expr(arg)) = arg else {
                        return Err(Error::unsupported("named arguments are not handed to delta-rs"));
                    };
                    self.split(arg, source)?;
                }
                Ok(())
            }
            _ => unsupported(e),
        }
    }
}

impl Prepared {
    /// Condition or value `a AND b`, `a IS DISTINCT FROM b` and so on are made of finished expressions; this makes one.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](duckrun_core::ErrorKind::Unsupported) with the text, where the types in it are not combined alike
    /// by both engines.
    pub(super) fn finish(&self, state: &SessionState, schema: &DFSchema, constants: &[ScalarValue]) -> Result<Logical> {
        let failed = |e: DataFusionError| {
            Error::unsupported(format!("delta-rs cannot be given the expression {}: {e}", self.original))
        };
        let parsed = state.create_logical_expr(&self.sql, schema).map_err(failed)?;
        let parsed = parsed.transform_up(|e| checked(e, schema)).map_err(failed)?.data;
        let found = parsed.get_type(schema).map_err(failed)?;
        let parsed = parsed.transform_up(|e| Ok(with_constants(e, constants))).map_err(failed)?.data;
        if self.exact || found == self.ty {
            return Ok(parsed);
        }
        if !assignable(&found, &self.ty) {
            return Err(Error::unsupported(format!(
                "delta-rs does not turn {found} into {} as DuckDB does: {}",
                self.ty, self.original
            )));
        }
        Ok(cast(parsed, self.ty.clone()))
    }
}

/// A schema to resolve expressions in: the table's columns, and what is computed of the incoming rows.
pub(super) fn schema_of(target: &Schema, source: &Schema, constants: &[ScalarValue]) -> Result<DFSchema> {
    let mut fields: Vec<Field> = source.fields().iter().map(|f| f.as_ref().clone()).collect();
    fields.extend(constants.iter().enumerate().map(|(n, v)| Field::new(constant_name(n), v.data_type(), true)));
    let build = || {
        let source = DFSchema::try_from_qualified_schema(SOURCE, &Schema::new(fields))?;
        source.join(&DFSchema::try_from_qualified_schema(TARGET, target)?)
    };
    build().map_err(|e: DataFusionError| Error::internal("the columns of a merge").with_source(e))
}

/// Operators that may be handed on, once their operands were looked at.
fn known(op: &BinaryOperator) -> bool {
    matches!(
        op,
        BinaryOperator::And
            | BinaryOperator::Or
            | BinaryOperator::Eq
            | BinaryOperator::NotEq
            | BinaryOperator::Lt
            | BinaryOperator::LtEq
            | BinaryOperator::Gt
            | BinaryOperator::GtEq
            | BinaryOperator::Plus
            | BinaryOperator::Minus
            | BinaryOperator::Multiply
            | BinaryOperator::StringConcat
    )
}

/// A column by its exact name.
pub(super) fn column(qualifier: &str, name: &str) -> Logical {
    Logical::Column(Column::new(Some(qualifier), name))
}

/// `0.0` for -0.0, which equals it in DuckDB and not in Arrow's kernels. NaN equals NaN in both.
pub(super) fn comparable(e: Logical, ty: &DataType) -> Logical {
    match ty {
        DataType::Float64 => e + lit(0.0_f64),
        DataType::Float32 => e + lit(0.0_f32),
        _ => e,
    }
}

fn parse(sql: &str) -> Result<Expr> {
    Parser::new(&DuckDbDialect {})
        .try_with_sql(sql)
        .and_then(|mut parser| parser.parse_expr())
        .map_err(|e| Error::unsupported(format!("an expression for delta-rs cannot be parsed: {sql}")).with_source(e))
}

/// The column, where an expression is nothing else.
fn plain_column(e: &Expr, qualifier: &str) -> Option<String> {
    match e {
        Expr::CompoundIdentifier(parts) => match parts.as_slice() {
            [table, column] if is(table, qualifier) => Some(column.value.clone()),
            _ => None,
        },
        Expr::Nested(inner) => plain_column(inner, qualifier),
        _ => None,
    }
}

fn is(ident: &Ident, name: &str) -> bool {
    ident.value.eq_ignore_ascii_case(name)
}

/// Whether a column of the relation occurs.
fn reads(e: &Expr, qualifier: &str) -> bool {
    let found = visit_expressions(e, |e| {
        let first = match e {
            Expr::CompoundIdentifier(parts) => parts.first(),
            Expr::Identifier(ident) => Some(ident),
            _ => None,
        };
        match first {
            Some(ident) if is(ident, qualifier) => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    });
    found.is_break()
}

/// A value that differs from row to row cannot be computed beforehand.
fn deterministic(e: &Expr) -> Result<()> {
    let found = visit_expressions(e, |e| match e {
        Expr::Function(f) => {
            let name = f.name.to_string().to_lowercase();
            match ["random", "uuid", "gen_random_uuid", "uuidv4", "uuidv7", "nextval"].contains(&name.as_str()) {
                true => ControlFlow::Break(name),
                false => ControlFlow::Continue(()),
            }
        }
        _ => ControlFlow::Continue(()),
    });
    match found {
        ControlFlow::Break(name) => Err(Error::unsupported(format!("{name}() is not handed to delta-rs"))),
        ControlFlow::Continue(()) => Ok(()),
    }
}

/// What values of a type can be compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Null,
    Boolean,
    Integer,
    Decimal,
    Float,
    Text,
    Date,
    Timestamp,
    TimestampNtz,
    Other,
}

fn class(ty: &DataType) -> Class {
    match ty {
        DataType::Null => Class::Null,
        DataType::Boolean => Class::Boolean,
        ty if ty.is_integer() => Class::Integer,
        DataType::Decimal128(..) => Class::Decimal,
        ty if ty.is_floating() => Class::Float,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Class::Text,
        DataType::Date32 => Class::Date,
        DataType::Timestamp(_, Some(_)) => Class::Timestamp,
        DataType::Timestamp(_, None) => Class::TimestampNtz,
        _ => Class::Other,
    }
}

/// Lets an operator pass whose operands both engines combine in the same way, and makes it so where that can be done.
fn checked(e: Logical, schema: &DFSchema) -> Result<Transformed<Logical>, DataFusionError> {
    let Logical::BinaryExpr(BinaryExpr { left, op, right }) = &e else { return Ok(Transformed::no(e)) };
    let (lt, rt) = (left.get_type(schema)?, right.get_type(schema)?);
    let (l, r) = (class(&lt), class(&rt));
    let refused = || Err(plan_datafusion_err!("{op} of {lt} and {rt} does not mean the same in both engines"));
    match op {
        Operator::And | Operator::Or => Ok(Transformed::no(e)),
        Operator::Eq
        | Operator::NotEq
        | Operator::Lt
        | Operator::LtEq
        | Operator::Gt
        | Operator::GtEq
        | Operator::IsDistinctFrom
        | Operator::IsNotDistinctFrom => {
            let literal = |e: &Logical| matches!(e, Logical::Literal(..));
            let text_literal = (l == Class::Text && literal(left)) || (r == Class::Text && literal(right));
            let temporal = |c| matches!(c, Class::Date | Class::Timestamp | Class::TimestampNtz);
            match (l, r) {
                (Class::Other, _) | (_, Class::Other) => refused(),
                (a, b) if a == b && a != Class::Float => Ok(Transformed::no(e)),
                (Class::Null, _)
                | (_, Class::Null)
                | (Class::Integer, Class::Decimal)
                | (Class::Decimal, Class::Integer)
                | (Class::Date, Class::TimestampNtz)
                | (Class::TimestampNtz, Class::Date) => Ok(Transformed::no(e)),
                (Class::Float, Class::Float | Class::Integer) | (Class::Integer, Class::Float) => {
                    let sides = (comparable(*left.clone(), &lt), comparable(*right.clone(), &rt));
                    Ok(Transformed::yes(operation(sides.0, *op, sides.1)))
                }
                (a, b) if text_literal && (temporal(a) || temporal(b)) => Ok(Transformed::no(e)),
                _ => refused(),
            }
        }
        Operator::Plus | Operator::Minus | Operator::Multiply => match (l, r) {
            // A decimal of up to 15 digits is the same double in both engines.
            _ if short_decimal(&rt) && lt == DataType::Float64 => {
                Ok(Transformed::yes(operation(*left.clone(), *op, cast(*right.clone(), DataType::Float64))))
            }
            _ if short_decimal(&lt) && rt == DataType::Float64 => {
                Ok(Transformed::yes(operation(cast(*left.clone(), DataType::Float64), *op, *right.clone())))
            }
            (Class::Float, Class::Float | Class::Integer)
            | (Class::Integer, Class::Float)
            | (Class::Decimal, Class::Decimal | Class::Integer)
            | (Class::Integer, Class::Decimal) => Ok(Transformed::no(e)),
            // Integers wrap in DataFusion. As decimals they cannot overflow, and the cast back fails where they did.
            (Class::Integer, Class::Integer) => {
                let wide = |e: &Logical| cast(e.clone(), DataType::Decimal128(19, 0));
                Ok(Transformed::yes(cast(operation(wide(left), *op, wide(right)), DataType::Int64)))
            }
            _ => refused(),
        },
        Operator::StringConcat if l == Class::Text && r == Class::Text => Ok(Transformed::no(e)),
        _ => refused(),
    }
}

/// An operation on two expressions.
pub(super) fn operation(left: Logical, op: Operator, right: Logical) -> Logical {
    Logical::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right)))
}

fn short_decimal(ty: &DataType) -> bool {
    matches!(ty, DataType::Decimal128(..=15, _))
}

fn with_constants(e: Logical, constants: &[ScalarValue]) -> Transformed<Logical> {
    if let Logical::Column(column) = &e
        && let Some(n) = column.name.strip_prefix("__duckrun_k").and_then(|n| n.parse::<usize>().ok())
        && let Some(value) = constants.get(n)
    {
        return Transformed::yes(Logical::Literal(value.clone(), None));
    }
    Transformed::no(e)
}

/// Whether a cast between the types gives the same value in both engines, or fails in both.
fn assignable(from: &DataType, to: &DataType) -> bool {
    let narrower = |a: i8, b: i8| a <= b;
    match (class(from), class(to)) {
        (Class::Null, _)
        | (Class::Integer, Class::Integer | Class::Decimal)
        | (Class::Text, Class::Text)
        | (Class::Date, Class::TimestampNtz) => true,
        (Class::Integer, Class::Float) => matches!(to, DataType::Float64),
        (Class::Float, Class::Float) => matches!(to, DataType::Float64),
        (Class::Decimal, Class::Decimal) => match (from, to) {
            (DataType::Decimal128(_, a), DataType::Decimal128(_, b)) => narrower(*a, *b),
            _ => false,
        },
        (Class::Decimal, Class::Integer) => matches!(from, DataType::Decimal128(_, 0)),
        (a, b) => a == b && from == to,
    }
}
