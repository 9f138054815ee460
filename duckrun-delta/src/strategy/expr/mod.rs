//! Expressions that a user writes, as [`RowExpr`]: parsed, every column found and qualified, nothing else changed.
//!
//! The text itself is what the engine gets: only the tokens that name columns are replaced (and comments dropped), so no printer
//! can change a literal. A text is one expression; subqueries, parameters, wildcards and windows are refused.

mod bounds;
mod resolve;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};

use arrow::datatypes::{Schema, SchemaRef};
use duckrun_core::{Error, Result, RowExpr};
use sqlparser::ast::{Expr, Visit};
use sqlparser::dialect::DuckDbDialect;
use sqlparser::parser::Parser;
use sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer, Whitespace};

use self::resolve::Resolver;

/// Most operators and keywords in one expression; a syntax tree deeper than this could exhaust a thread's stack.
const MAX_OPERATORS: usize = 2_000;

/// Which columns an expression may name, and what an unqualified name means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Conditions of a match: the table's column, else the incoming one.
    Match,
    /// Conditions and values of an update: a name that both sides have must be qualified.
    Change,
    /// Incoming rows only.
    Source,
    /// Rows of the table only.
    Target,
    /// A condition on rows of the table, asked of incoming rows: every name is an incoming column, however qualified.
    Incoming,
    /// A constraint of the table: its columns, written without qualifier.
    Constraint,
}

/// Names for the two sides beside `target`, `source` and dbt's own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Aliases {
    pub(crate) target: Option<String>,
    pub(crate) source: Option<String>,
}

/// The names of the two sides that every expression knows.
const TARGET: [&str; 2] = ["target", "DBT_INTERNAL_DEST"];
const SOURCE: [&str; 2] = ["source", "DBT_INTERNAL_SOURCE"];

impl Aliases {
    /// What makes a name mean two things.
    pub(crate) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let clashes = |alias: &Option<String>, others: [&str; 2]| {
            alias.as_ref().is_some_and(|a| a.is_empty() || others.iter().any(|o| o.eq_ignore_ascii_case(a)))
        };
        let same = match (&self.target, &self.source) {
            (Some(t), Some(s)) => t.eq_ignore_ascii_case(s),
            _ => false,
        };
        if same || clashes(&self.target, SOURCE) || clashes(&self.source, TARGET) {
            problems.push("the aliases of the two sides must be two names, and not those of the other side".to_owned());
        }
        problems
    }
}

/// The columns that expressions are resolved against.
#[derive(Debug, Clone)]
pub(crate) struct Columns {
    pub(crate) target: SchemaRef,
    pub(crate) source: SchemaRef,
    pub(crate) aliases: Aliases,
}

impl Columns {
    pub(crate) fn new(target: SchemaRef, source: SchemaRef) -> Self {
        Self { target, source, aliases: Aliases::default() }
    }

    /// Columns of a table alone.
    pub(crate) fn of_table(target: &SchemaRef) -> Self {
        Self::new(target.clone(), SchemaRef::new(Schema::empty()))
    }

    /// An expression with its columns found. `what` names it in errors.
    pub(crate) fn expr(&self, what: &str, sql: &str, scope: Scope) -> Result<RowExpr> {
        let text = Text::new(what, sql)?;
        let expr = text.parse(|p| p.parse_expr())?;
        let mut resolver = Resolver::new(self, scope);
        let done = expr.visit(&mut resolver);
        let (edits, target, source) = resolver.finish(done).map_err(|e| text.error(&e))?;
        let mut row = RowExpr::new(text.with(&edits)?, target, source);
        if scope != Scope::Constraint {
            row.bounds = bounds::of(&expr, &|name| self.target_of(name, scope), &self.target);
        }
        Ok(row)
    }

    /// The list of an ORDER BY over incoming rows.
    pub(crate) fn order(&self, what: &str, sql: &str) -> Result<String> {
        let text = Text::new(what, sql)?;
        let list = text.parse(|p| p.parse_comma_separated(Parser::parse_order_by_expr))?;
        let mut resolver = Resolver::new(self, Scope::Source);
        let done = list.visit(&mut resolver);
        let (edits, ..) = resolver.finish(done).map_err(|e| text.error(&e))?;
        text.with(&edits)
    }

    /// The table's column that an expression is, if it is nothing but that.
    fn target_of(&self, expr: &Expr, scope: Scope) -> Option<String> {
        let resolver = Resolver::new(self, scope);
        match expr {
            Expr::Identifier(name) => resolver.target_column(std::slice::from_ref(name)),
            Expr::CompoundIdentifier(names) => resolver.target_column(names),
            _ => None,
        }
    }
}

/// What is wrong with an expression before any column is known.
pub(crate) fn problem(what: &str, sql: &str) -> Option<String> {
    let parsed = Text::new(what, sql).and_then(|text| {
        let expr = text.parse(|p| p.parse_expr())?;
        resolve::forbidden(&expr).map_or(Ok(()), |e| Err(text.error(&e)))
    });
    parsed.err().map(|e| e.message().to_owned())
}

/// The same for the list of an ORDER BY.
pub(crate) fn order_problem(what: &str, sql: &str) -> Option<String> {
    let parsed = Text::new(what, sql).and_then(|text| {
        let list = text.parse(|p| p.parse_comma_separated(Parser::parse_order_by_expr))?;
        resolve::forbidden(&list).map_or(Ok(()), |e| Err(text.error(&e)))
    });
    parsed.err().map(|e| e.message().to_owned())
}

/// Both must hold; `None` holds always.
pub(crate) fn and(a: Option<RowExpr>, b: Option<RowExpr>) -> Option<RowExpr> {
    match (a, b) {
        (Some(a), Some(b)) => {
            let mut both = RowExpr::new(format!("({}) AND ({})", a.sql, b.sql), a.target, a.source);
            both.target.extend(b.target);
            both.source.extend(b.source);
            both.bounds = a.bounds;
            both.bounds.extend(b.bounds);
            Some(both)
        }
        (a, b) => a.or(b),
    }
}

/// Holds where the expression is false or NULL.
pub(crate) fn not_true(e: RowExpr) -> RowExpr {
    RowExpr::new(format!("({}) IS NOT TRUE", e.sql), e.target, e.source)
}

/// A column of the incoming rows.
pub(crate) fn source_column(name: &str) -> RowExpr {
    let sql = format!("source.{}", duckrun_core::quote_ident(name));
    RowExpr::new(sql, BTreeSet::new(), BTreeSet::from([name.to_owned()]))
}

/// A column of the table.
pub(crate) fn target_column(name: &str) -> RowExpr {
    let sql = format!("target.{}", duckrun_core::quote_ident(name));
    RowExpr::new(sql, BTreeSet::from([name.to_owned()]), BTreeSet::new())
}

/// A text with its tokens.
struct Text<'a> {
    what: &'a str,
    sql: &'a str,
    tokens: Vec<TokenWithSpan>,
}

impl<'a> Text<'a> {
    fn new(what: &'a str, sql: &'a str) -> Result<Self> {
        let mut text = Self { what, sql, tokens: Vec::new() };
        if sql.contains('\0') {
            return Err(text.error("it holds a NUL character"));
        }
        text.tokens = Tokenizer::new(&DuckDbDialect, sql)
            .tokenize_with_location()
            .map_err(|e| text.error(&format!("it is no SQL: {}", e.message)))?;
        let operators = text.tokens.iter().filter(|t| match &t.token {
            Token::Word(word) => word.keyword != sqlparser::keywords::Keyword::NoKeyword,
            Token::Comma | Token::Whitespace(_) | Token::Number(..) | Token::SingleQuotedString(_) => false,
            _ => true,
        });
        match operators.count() {
            n if n > MAX_OPERATORS => Err(text.error(&format!("it has {n} operators; at most {MAX_OPERATORS}"))),
            _ => Ok(text),
        }
    }

    fn error(&self, problem: &str) -> Error {
        let short: String = self.sql.chars().take(200).collect();
        Error::invalid(format!("{} {short:?}: {problem}", self.what))
    }

    /// Parses the whole text.
    fn parse<T>(&self, parse: impl FnOnce(&mut Parser<'_>) -> Result<T, sqlparser::parser::ParserError>) -> Result<T> {
        let mut parser = Parser::new(&DuckDbDialect).with_tokens_with_locations(self.tokens.clone());
        let parsed = parse(&mut parser).map_err(|e| {
            let message = e.to_string();
            self.error(message.strip_prefix("sql parser error: ").unwrap_or(&message))
        })?;
        match parser.next_token().token {
            Token::EOF => Ok(parsed),
            other => Err(self.error(&format!("it must be one expression, but {other} follows"))),
        }
    }

    /// The text with the tokens at some places replaced and comments dropped.
    fn with(&self, edits: &HashMap<Location, String>) -> Result<String> {
        let mut out = String::with_capacity(self.sql.len() + 16 * edits.len());
        let mut used = 0;
        let starts = self.starts();
        for (i, token) in self.tokens.iter().enumerate() {
            let end = starts.get(i + 1).copied().unwrap_or(self.sql.len());
            match (edits.get(&token.span.start), &token.token) {
                (Some(edit), Token::Word(_)) => {
                    used += 1;
                    out.push_str(edit);
                }
                (_, Token::Whitespace(Whitespace::SingleLineComment { .. } | Whitespace::MultiLineComment(_))) => {
                    out.push(' ')
                }
                _ => out.push_str(&self.sql[starts[i]..end]),
            }
        }
        if used != edits.len() {
            return Err(self.error("a name in it cannot be told from its surroundings; quote it"));
        }
        Ok(out.trim().to_owned())
    }

    /// Where each token begins, in bytes. The tokenizer counts lines and characters; tokens follow each other without gaps.
    fn starts(&self) -> Vec<usize> {
        let mut at = Location { line: 1, column: 1 };
        let mut places = HashMap::new();
        for (byte, c) in self.sql.char_indices() {
            places.insert(at, byte);
            at = match c {
                '\n' => Location { line: at.line + 1, column: 1 },
                _ => Location { line: at.line, column: at.column + 1 },
            };
        }
        self.tokens.iter().map(|t| places.get(&t.span.start).copied().unwrap_or(self.sql.len())).collect()
    }
}
