//! Which side and column a name means, in the scope that the expression stands in.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::ControlFlow;

use arrow::datatypes::Schema;
use duckrun_core::quote_ident;
use sqlparser::ast::{
    AccessExpr, Expr, FunctionArg, FunctionArgExpr, FunctionArgOperator, FunctionArguments, Ident, LambdaSyntax,
    ObjectNamePart, OneOrManyWithParens, Query, Value, ValueWithSpan, Visit, Visitor,
};
use sqlparser::tokenizer::Location;

use super::{Columns, SOURCE, Scope, TARGET};

/// A side of the match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Target,
    Source,
}

impl Side {
    fn name(self) -> &'static str {
        match self {
            Self::Target => "target",
            Self::Source => "source",
        }
    }
}

/// A column that a chain of names begins with.
struct Found {
    side: Side,
    column: String,
    /// Whether the first name is a qualifier.
    qualified: bool,
}

/// Replacements by place, and the columns of the table and of the incoming rows that occur.
type Resolved = (HashMap<Location, String>, BTreeSet<String>, BTreeSet<String>);

/// Walks an expression and notes what each name becomes.
pub(super) struct Resolver<'a> {
    columns: &'a Columns,
    scope: Scope,
    edits: HashMap<Location, String>,
    target: BTreeSet<String>,
    source: BTreeSet<String>,
    /// Names that are no columns: fields of structs, and what was replaced already.
    skip: HashSet<Location>,
    /// The parameters of the lambdas around the present place.
    lambdas: Vec<Vec<String>>,
}

impl<'a> Resolver<'a> {
    pub(super) fn new(columns: &'a Columns, scope: Scope) -> Self {
        Self {
            columns,
            scope,
            edits: HashMap::new(),
            target: BTreeSet::new(),
            source: BTreeSet::new(),
            skip: HashSet::new(),
            lambdas: Vec::new(),
        }
    }

    pub(super) fn finish(self, done: ControlFlow<String>) -> Result<Resolved, String> {
        match done {
            ControlFlow::Break(problem) => Err(problem),
            ControlFlow::Continue(()) => Ok((self.edits, self.target, self.source)),
        }
    }

    /// The table's column, where the names are nothing but one.
    pub(super) fn target_column(&self, names: &[Ident]) -> Option<String> {
        let names: Vec<&Ident> = names.iter().collect();
        let found = self.locate(&names).ok()?;
        let whole = names.len() == 1 + usize::from(found.qualified);
        (whole && found.side == Side::Target).then_some(found.column)
    }

    fn schema(&self, side: Side) -> &'a Schema {
        match side {
            Side::Target => &self.columns.target,
            Side::Source => &self.columns.source,
        }
    }

    /// The side that a qualifier names.
    fn side(&self, qualifier: &str) -> Option<Side> {
        let is = |names: [&str; 2], alias: &Option<String>| {
            names.iter().copied().chain(alias.as_deref()).any(|n| n.eq_ignore_ascii_case(qualifier))
        };
        let side = if is(TARGET, &self.columns.aliases.target) {
            Side::Target
        } else if is(SOURCE, &self.columns.aliases.source) {
            Side::Source
        } else {
            return None;
        };
        Some(if self.scope == Scope::Incoming { Side::Source } else { side })
    }

    fn column(&self, side: Side, name: &str) -> Result<Option<String>, String> {
        let fields = self.schema(side).fields();
        if fields.iter().any(|f| f.name() == name) {
            return Ok(Some(name.to_owned()));
        }
        let lower = name.to_lowercase();
        let mut like = fields.iter().filter(|f| f.name().to_lowercase() == lower);
        match (like.next(), like.next()) {
            (Some(one), None) => Ok(Some(one.name().clone())),
            (Some(a), Some(b)) => Err(format!("{name:?} could be {:?} or {:?}; quote it", a.name(), b.name())),
            _ => Ok(None),
        }
    }

    /// The column that a chain of names begins with.
    fn locate(&self, names: &[&Ident]) -> Result<Found, String> {
        let first = names[0].value.as_str();
        let qualifier = if names.len() > 1 { self.side(first) } else { None };
        if let (Some(side), false) = (qualifier, self.scope == Scope::Constraint) {
            match (self.scope, side) {
                (Scope::Source, Side::Target) => {
                    return Err(format!("{first}.{} is not known here: only incoming rows are", names[1].value));
                }
                (Scope::Target, Side::Source) => {
                    return Err(format!("{first}.{} is not known here: only rows of the table are", names[1].value));
                }
                _ => {}
            }
            if let Some(column) = self.column(side, &names[1].value)? {
                return Ok(Found { side, column, qualified: true });
            }
            if self.unqualified(first)?.is_none() {
                return Err(self.unknown(&names[1].value, &[side]));
            }
        }
        match self.unqualified(first)? {
            Some((side, column)) => Ok(Found { side, column, qualified: false }),
            None => Err(self.unknown(first, self.sides())),
        }
    }

    fn sides(&self) -> &'static [Side] {
        match self.scope {
            Scope::Match | Scope::Change => &[Side::Target, Side::Source],
            Scope::Source | Scope::Incoming => &[Side::Source],
            Scope::Target | Scope::Constraint => &[Side::Target],
        }
    }

    fn unqualified(&self, name: &str) -> Result<Option<(Side, String)>, String> {
        let mut found = Vec::new();
        for side in self.sides() {
            found.extend(self.column(*side, name)?.map(|column| (*side, column)));
        }
        if found.len() > 1 && self.scope == Scope::Change {
            return Err(format!("{name:?} is a column of both sides: write target.{name} or source.{name}"));
        }
        Ok(found.into_iter().next())
    }

    fn unknown(&self, name: &str, sides: &[Side]) -> String {
        let list = |side: &Side| {
            let names: Vec<_> = self.schema(*side).fields().iter().map(|f| f.name().as_str()).collect();
            format!("{} has {}", side.name(), if names.is_empty() { "no columns".to_owned() } else { names.join(", ") })
        };
        format!("there is no column {name:?}; {}", sides.iter().map(list).collect::<Vec<_>>().join("; "))
    }

    /// Notes what the first names of a chain become; the rest are fields of a struct.
    fn chain(&mut self, names: &[&Ident]) -> ControlFlow<String> {
        let first = &names[0].value;
        if self.lambdas.iter().flatten().any(|p| p.eq_ignore_ascii_case(first)) {
            return ControlFlow::Continue(());
        }
        let found = match self.locate(names) {
            Ok(found) => found,
            Err(problem) => return ControlFlow::Break(problem),
        };
        let quoted = quote_ident(&found.column);
        if self.scope == Scope::Constraint {
            self.edits.insert(names[0].span.start, quoted);
        } else if found.qualified {
            self.edits.insert(names[0].span.start, found.side.name().to_owned());
            self.edits.insert(names[1].span.start, quoted);
        } else {
            self.edits.insert(names[0].span.start, format!("{}.{quoted}", found.side.name()));
        }
        match found.side {
            Side::Target => self.target.insert(found.column),
            Side::Source => self.source.insert(found.column),
        };
        ControlFlow::Continue(())
    }

    fn function(&mut self, function: &sqlparser::ast::Function) -> ControlFlow<String> {
        // DuckDB chains functions with dots: `name.upper()` is a column and a function.
        let parts: Vec<&Ident> = function
            .name
            .0
            .iter()
            .filter_map(|part| match part {
                ObjectNamePart::Identifier(ident) => Some(ident),
                ObjectNamePart::Function(_) => None,
            })
            .collect();
        if let Some((_, qualifier @ [_, ..])) = parts.split_last() {
            self.chain(qualifier)?;
        }
        if let FunctionArguments::List(list) = &function.args {
            for arg in &list.args {
                // The parser takes `f(a = 1)` for a named argument; to DuckDB it is a comparison.
                if let FunctionArg::Named { name, operator: FunctionArgOperator::Equals, .. } = arg {
                    self.chain(&[name])?;
                }
            }
        }
        ControlFlow::Continue(())
    }
}

impl Visitor for Resolver<'_> {
    type Break = String;

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<String> {
        refuse(expr)?;
        match expr {
            Expr::Identifier(name) if !self.skip.contains(&name.span.start) => self.chain(&[name])?,
            Expr::CompoundIdentifier(names) if names.first().is_some_and(|n| !self.skip.contains(&n.span.start)) => {
                self.chain(&names.iter().collect::<Vec<_>>())?;
            }
            Expr::CompoundFieldAccess { root, access_chain } => {
                let fields = || {
                    access_chain.iter().map(|access| match access {
                        AccessExpr::Dot(Expr::Identifier(field)) => Some(field),
                        _ => None,
                    })
                };
                self.skip.extend(fields().flatten().map(|f| f.span.start));
                if let Expr::Identifier(name) = root.as_ref() {
                    let mut names = vec![name];
                    names.extend(fields().map_while(|f| f));
                    self.chain(&names)?;
                    self.skip.insert(name.span.start);
                }
            }
            Expr::Function(function) => self.function(function)?,
            Expr::Lambda(lambda) => {
                let params: Vec<&Ident> = match &lambda.params {
                    OneOrManyWithParens::One(p) => vec![&p.name],
                    OneOrManyWithParens::Many(list) => list.iter().map(|p| &p.name).collect(),
                };
                // The parser takes `payload -> '$.x'` for a lambda; where `payload` is a column it is DuckDB's JSON access.
                let one = matches!(lambda.params, OneOrManyWithParens::One(_));
                if one && lambda.syntax == LambdaSyntax::Arrow && self.locate(&params).is_ok() {
                    self.chain(&params)?;
                    self.lambdas.push(Vec::new());
                } else {
                    self.lambdas.push(params.iter().map(|p| p.value.clone()).collect());
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &Expr) -> ControlFlow<String> {
        if matches!(expr, Expr::Lambda(_)) {
            self.lambdas.pop();
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_query(&mut self, _query: &Query) -> ControlFlow<String> {
        no_query()
    }

    fn pre_visit_value(&mut self, value: &ValueWithSpan) -> ControlFlow<String> {
        no_parameter(value)
    }
}

/// What no expression may contain, whatever the columns are.
pub(super) fn forbidden(tree: &impl Visit) -> Option<String> {
    struct Refuse;
    impl Visitor for Refuse {
        type Break = String;

        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<String> {
            refuse(expr)
        }

        fn pre_visit_query(&mut self, _query: &Query) -> ControlFlow<String> {
            no_query()
        }

        fn pre_visit_value(&mut self, value: &ValueWithSpan) -> ControlFlow<String> {
            no_parameter(value)
        }
    }
    match tree.visit(&mut Refuse) {
        ControlFlow::Break(problem) => Some(problem),
        ControlFlow::Continue(()) => None,
    }
}

fn no_query() -> ControlFlow<String> {
    ControlFlow::Break("a subquery is not allowed here; compute it in the model's SQL".to_owned())
}

fn no_parameter(value: &ValueWithSpan) -> ControlFlow<String> {
    match &value.value {
        Value::Placeholder(name) => {
            ControlFlow::Break(format!("the parameter {name} is not allowed here; use getvariable('name')"))
        }
        _ => ControlFlow::Continue(()),
    }
}

fn refuse(expr: &Expr) -> ControlFlow<String> {
    let problem = match expr {
        Expr::Subquery(_) | Expr::Exists { .. } | Expr::InSubquery { .. } => return no_query(),
        Expr::Wildcard(_) | Expr::QualifiedWildcard(..) => "a wildcard is not allowed here",
        Expr::MatchAgainst { .. } | Expr::OuterJoin(_) | Expr::Prior(_) => "it is not DuckDB's SQL",
        Expr::Function(f) if f.over.is_some() => "a window function is not allowed here",
        Expr::Function(f) => {
            let wild = |arg: &FunctionArg| {
                let (FunctionArg::Named { arg, .. } | FunctionArg::ExprNamed { arg, .. } | FunctionArg::Unnamed(arg)) =
                    arg;
                !matches!(arg, FunctionArgExpr::Expr(_))
            };
            match &f.args {
                FunctionArguments::List(list) if list.args.iter().any(wild) => "a wildcard is not allowed here",
                _ => return ControlFlow::Continue(()),
            }
        }
        _ => return ControlFlow::Continue(()),
    };
    ControlFlow::Break(problem.to_owned())
}
