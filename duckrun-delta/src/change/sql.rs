//! The statements of a merge, as text. Pure: from a plan to SQL.
//!
//! Three relations of the session: the incoming rows (`source`, a table; `rowid` tells its rows apart), the table's rows
//! (`target`, a view over the files that were not ruled out, with the position of each row), and the matches (`m`, a table): the
//! position of a row of the table, the incoming row it matches, the clause that applies to it, and those of the new values that
//! need the old ones. Everything else is computed from source and matches alone, so that the table's other columns are not read,
//! but where the matches compare ([`MergeSql::compare`]) and for a change feed.

mod feed;

pub(super) use self::feed::{BEFORE, CHANGE_INSERT, FeedSql, replaced};

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use duckrun_core::types::sql_type;
use duckrun_core::{
    Assignment, Bound, Clause, Comparison, Error, FILE_INDEX, MergePlan, NullKeys, ROW_CHANGE, ROW_NUMBER, Result,
    RowExpr, Then, When, quote_ident,
};

use super::marks::unmatched;
use crate::strategy::source_column;

/// The relations of a merge. Hidden names, so that no user's SQL means them.
pub(crate) const SOURCE: &str = "__duckrun_source";
pub(super) const TARGET: &str = "__duckrun_target";
pub(super) const MATCHES: &str = "__duckrun_matches";
/// Keys of rows that may match.
pub(super) const CANDIDATES: &str = "__duckrun_candidates";
/// New rows that are laid by, for a table with a change feed.
pub(super) const INSERTS: &str = "__duckrun_inserts";
/// The variable with a bit for each incoming row: whether it matches.
pub(super) const MATCHED_BITS: &str = "__duckrun_matched";
/// The number of the clause that applies to a match. A hidden name too: it stands beside the columns of the table.
const CLAUSE: &str = "__duckrun_clause";

/// The SQL of one merge.
#[derive(Debug)]
pub(super) struct MergeSql<'a> {
    plan: &'a MergePlan,
    /// The table's columns after the commit.
    schema: &'a SchemaRef,
    /// The columns that the table has now.
    existing: &'a Schema,
    /// The columns that updates set: partition columns and others.
    set: Vec<SetColumn>,
    /// Whether the matches say which updates change nothing, so that these go no further.
    pub(super) compare: bool,
    /// Whether the incoming rows that match are [marked](super::marks).
    pub(super) marked: bool,
    /// The key column by which the table's rows are filtered before they are joined.
    pub(super) filter: Option<String>,
}

/// A column that some update sets.
#[derive(Debug)]
struct SetColumn {
    name: String,
    data_type: DataType,
    partition: bool,
    /// Whether the new value needs nothing of the old row, so that it is computed when rows are written. Never so where it is
    /// needed twice, for `now()` and `random()` have other values then.
    late: bool,
}

impl<'a> MergeSql<'a> {
    pub(super) fn new(
        plan: &'a MergePlan,
        schema: &'a SchemaRef,
        existing: &'a Schema,
        partition_columns: &'a [String],
        feed: bool,
    ) -> Result<Self> {
        let updates: Vec<&Vec<Assignment>> = plan.clauses.iter().filter_map(|c| assignments(&c.then)).collect();
        let names: BTreeSet<&str> = updates.iter().flat_map(|u| u.iter().map(|a| a.column.as_str())).collect();
        let mut set = Vec::new();
        // In the schema's order.
        for field in schema.fields().iter().filter(|f| names.contains(f.name().as_str())) {
            let late = !feed
                && updates
                    .iter()
                    .all(|u| u.iter().find(|a| a.column == *field.name()).is_some_and(|a| a.value.target.is_empty()));
            set.push(SetColumn {
                name: field.name().clone(),
                data_type: field.data_type().clone(),
                partition: partition_columns.contains(field.name()),
                late,
            });
        }
        if set.len() != names.len() {
            return Err(Error::invalid("an update sets a column that the table lacks"));
        }
        Ok(Self { plan, schema, existing, set, compare: false, marked: false, filter: None })
    }

    /// Whether an update may move a row to another partition.
    pub(super) fn moves(&self) -> bool {
        self.set.iter().any(|s| s.partition)
    }

    fn numbered(&self, when: When) -> Vec<(usize, &'a Clause)> {
        self.plan.clauses.iter().enumerate().filter(|(_, c)| c.when == when).collect()
    }

    /// The numbers of the clauses that change a row of the table.
    fn changing(&self) -> Vec<usize> {
        let changes = |c: &Clause| matches!(c.then, Then::Update(_) | Then::Delete);
        self.plan.clauses.iter().enumerate().filter(|(_, c)| changes(c)).map(|(i, _)| i).collect()
    }

    fn updating(&self) -> Vec<usize> {
        self.plan.clauses.iter().enumerate().filter(|(_, c)| assignments(&c.then).is_some()).map(|(i, _)| i).collect()
    }

    /// Whether matches must be found at all.
    pub(super) fn needs_matches(&self) -> bool {
        !self.plan.fresh && (!self.changing().is_empty() || self.plan.clauses(When::NotMatched).next().is_some())
    }

    /// Whether a row of the table that matches nothing may change.
    fn by_source(&self) -> bool {
        self.plan.clauses(When::NotMatchedBySource).any(|c| !matches!(c.then, Then::Nothing))
    }

    /// Whether the values of one key column can rule rows of the table out: only matches are wanted, and NULL is none.
    pub(super) fn filterable(&self) -> bool {
        self.plan.source && self.plan.null_keys != NullKeys::Equal && !self.by_source()
    }

    /// Whether the engine can tell an update that changes nothing: nested values it compares in another way than by their
    /// bits. Where nothing is set there is nothing to tell.
    pub(super) fn comparable(&self) -> bool {
        !self.set.is_empty() && self.set.iter().all(|s| !s.data_type.is_nested())
    }

    /// The query whose result are the matches. Columns: f, r, s, c, moved (where rows may move), same (where values are to be
    /// compared: an update that changes nothing), and the early values. `columns` are further columns of which the final value
    /// is wanted (for checks), as `k_<n>`.
    ///
    /// The rows on the right of the join are laid out for look-up, `by_target` says which: the fewer, if the caller knows.
    pub(super) fn matches(&self, checked: &[String], by_target: bool) -> Result<String> {
        let matched = choose(&self.numbered(When::Matched));
        let unmatched = choose(&self.numbered(When::NotMatchedBySource));
        let by_source = self.by_source();
        // Where no row of the table can change it does not matter which ones match, unless they are counted.
        let positions = match self.changes_rows() || self.marked {
            true => [FILE_INDEX, ROW_NUMBER].map(|name| format!("target.{name}")),
            false => ["0::BIGINT", "0::BIGINT"].map(str::to_owned),
        };
        let mut list = vec![
            format!("{} AS f", positions[0]),
            format!("{} AS r", positions[1]),
            if self.plan.source { "source.rowid AS s".to_owned() } else { "NULL::BIGINT AS s".to_owned() },
        ];
        list.push(match (self.plan.source, by_source) {
            (false, _) => format!("({unmatched})::INTEGER AS {CLAUSE}"),
            (true, false) => format!("({matched})::INTEGER AS {CLAUSE}"),
            (true, true) => {
                format!("(CASE WHEN source.rowid IS NOT NULL THEN {matched} ELSE {unmatched} END)::INTEGER AS {CLAUSE}")
            }
        });
        if self.moves() {
            let mut moved = String::from("CASE");
            for (i, assigned) in
                self.plan.clauses.iter().enumerate().filter_map(|(i, c)| Some((i, assignments(&c.then)?)))
            {
                let differs: Vec<String> = self
                    .set
                    .iter()
                    .filter(|s| s.partition)
                    .filter_map(|s| Some((s, assigned.iter().find(|a| a.column == s.name)?)))
                    .map(|(s, a)| {
                        Ok(format!("{} IS DISTINCT FROM {}", cast(&a.value.sql, &s.data_type)?, self.old(&s.name)))
                    })
                    .collect::<Result<_>>()?;
                if !differs.is_empty() {
                    let _ = write!(moved, " WHEN {CLAUSE} = {i} THEN ({})", differs.join(" OR "));
                }
            }
            list.push(format!("{moved} ELSE false END AS moved"));
        }
        if self.compare {
            let mut same = vec![format!("{CLAUSE} IN ({})", list_of(&self.updating()))];
            for column in &self.set {
                let (new, old) = (self.value(column, CLAUSE, true)?, self.old(&column.name));
                same.push(format!("{new} IS NOT DISTINCT FROM {old}"));
                if column.data_type.is_floating() {
                    // 0.0 and -0.0 are equal, but not the same.
                    same.push(format!("signbit({new}) IS NOT DISTINCT FROM signbit({old})"));
                }
            }
            list.push(format!("coalesce({}, false) AS same", same.join(" AND ")));
        }
        for (n, column) in self.set.iter().enumerate().filter(|(_, s)| !s.late) {
            list.push(format!("{} AS v_{n}", self.value(column, CLAUSE, true)?));
        }
        for (n, name) in checked.iter().enumerate() {
            let value = match self.set.iter().find(|s| s.name == *name) {
                Some(column) => self.value(column, CLAUSE, true)?,
                None => self.old(name),
            };
            list.push(format!("{value} AS k_{n}"));
        }
        let mut sql = format!("SELECT {} FROM ", list.join(", "));
        if self.plan.source {
            let target = match &self.filter {
                _ if self.candidates().is_some() => CANDIDATES.to_owned(),
                Some(key) if !by_target => self.filtered(&quote_ident(key)),
                _ => TARGET.to_owned(),
            };
            let (left, right) = (format!("{target} AS target"), format!("{SOURCE} AS source"));
            let _ = match (by_target, by_source) {
                (false, false) => write!(sql, "{left} JOIN {right}"),
                (false, true) => write!(sql, "{left} LEFT JOIN {right}"),
                (true, false) => write!(sql, "{right} JOIN {left}"),
                (true, true) => write!(sql, "{right} RIGHT JOIN {left}"),
            };
            let _ = write!(sql, " ON {}", self.on()?);
            if by_source {
                sql = format!("SELECT * FROM ({sql}) WHERE s IS NOT NULL OR {CLAUSE} IS NOT NULL");
            }
        } else {
            let any: Vec<String> = self
                .plan
                .clauses(When::NotMatchedBySource)
                .map(|c| c.condition.as_ref().map_or_else(|| "true".to_owned(), |e| format!("({})", e.sql)))
                .collect();
            let _ = write!(sql, "{TARGET} AS target WHERE {}", any.join(" OR "));
        }
        Ok(sql)
    }

    /// The keys of the table's rows that a filter by several key columns lets through, for a merge that needs nothing else of them:
    /// next to none, if most rows that come in are new. Laid by as [`CANDIDATES`] they are counted, and the matches are looked for
    /// among them.
    pub(super) fn candidates(&self) -> Option<String> {
        let key = self.filter.as_ref().filter(|_| self.plan.keys.len() > 1)?;
        let keys_do =
            self.plan.predicates.is_empty() && self.plan.clauses(When::Matched).all(|c| c.condition.is_none());
        if self.changes_rows() || self.marked || !keys_do {
            return None;
        }
        let keys: Vec<String> = self.plan.keys.iter().map(|k| format!("target.{}", quote_ident(k))).collect();
        Some(format!("SELECT {} FROM {} AS target", keys.join(", "), self.filtered(&quote_ident(key))))
    }

    /// The table's rows, of which a join with the incoming rows need not look up those with another value in the key column `key`
    /// (quoted). That column alone decides it where the key has no other; else it is a join of its own.
    ///
    /// DuckDB has such a filter only if it takes the rows on the left for more than those on the right, and of a list of files with
    /// a schema of its own it knows no number (`TableFunctionMultiFileWrapper::GetCardinality`, DuckDB 2.0.0; `explicit_cardinality`
    /// has no effect then). So they get company that it can count: incoming rows, none of which is there.
    fn filtered(&self, key: &str) -> String {
        let counted = format!("(SELECT * FROM {TARGET} UNION ALL BY NAME SELECT {key} FROM {SOURCE} WHERE rowid < 0)");
        match self.plan.keys.len() {
            1 => counted,
            _ => format!(
                "(SELECT target.* FROM {counted} AS target SEMI JOIN {SOURCE} AS source ON target.{key} = source.{key})"
            ),
        }
    }

    /// Equal keys, and the predicates.
    fn on(&self) -> Result<String> {
        let mut all = vec![keys_equal(&self.plan.keys, self.plan.null_keys, &self.plan.incoming)?];
        all.extend(self.plan.predicates.iter().map(|p| format!("({})", p.sql)));
        all.retain(|c| !c.is_empty());
        Ok(if all.is_empty() { "false".to_owned() } else { all.join(" AND ") })
    }

    /// What a column of the table holds now; NULL for one that is added by this commit.
    fn old(&self, name: &str) -> String {
        match self.existing.field_with_name(name) {
            Ok(_) => format!("target.{}", quote_ident(name)),
            Err(_) => "NULL".to_owned(),
        }
    }

    /// The new value of a column, by the clause's number. Where `target` can be read, a clause that does not set it keeps it.
    fn value(&self, column: &SetColumn, clause: &str, target: bool) -> Result<String> {
        let mut by_value: Vec<(String, Vec<usize>)> = Vec::new();
        for (i, c) in self.plan.clauses.iter().enumerate() {
            let Some(assigned) = assignments(&c.then) else { continue };
            let Some(a) = assigned.iter().find(|a| a.column == column.name) else { continue };
            let value = cast(&a.value.sql, &column.data_type)?;
            match by_value.iter_mut().find(|(v, _)| *v == value) {
                Some((_, clauses)) => clauses.push(i),
                None => by_value.push((value, vec![i])),
            }
        }
        if let ([(value, clauses)], true) = (by_value.as_slice(), !target)
            && clauses.len() == self.updating().len()
        {
            return Ok(value.clone());
        }
        let mut sql = String::from("CASE");
        for (value, clauses) in &by_value {
            let list: Vec<String> = clauses.iter().map(usize::to_string).collect();
            let _ = write!(sql, " WHEN {clause} IN ({}) THEN {value}", list.join(", "));
        }
        let otherwise = if target { self.old(&column.name) } else { "NULL".to_owned() };
        let _ = write!(sql, " ELSE {otherwise} END");
        // All branches have the column's type, but for a NULL alone.
        cast(&sql, &column.data_type)
    }

    /// Rows that go or change, in the order of their positions, with the values that updates set (but no partition columns).
    /// Files in `without` are left out.
    pub(super) fn changes(&self, without: &[i64]) -> Result<String> {
        let updates = list_of(&self.updating());
        let moved = if self.moves() { " AND NOT m.moved" } else { "" };
        let change = match self.updating().is_empty() {
            true => "2".to_owned(),
            false => format!("CASE WHEN m.{CLAUSE} IN ({updates}){moved} THEN 1 ELSE 2 END"),
        };
        let mut list = vec![
            format!("m.f AS {FILE_INDEX}"),
            format!("m.r AS {ROW_NUMBER}"),
            format!("({change})::TINYINT AS {ROW_CHANGE}"),
        ];
        let mut join = false;
        for (n, column) in self.set.iter().enumerate().filter(|(_, s)| !s.partition) {
            join |= column.late;
            let value =
                if column.late { self.value(column, &format!("m.{CLAUSE}"), false)? } else { format!("m.v_{n}") };
            list.push(format!("{value} AS {}", quote_ident(&column.name)));
        }
        let mut sql = format!("SELECT {} FROM {MATCHES} AS m", list.join(", "));
        if join && self.plan.source {
            let _ = write!(sql, " LEFT JOIN {SOURCE} AS source ON source.rowid = m.s");
        }
        let _ = write!(sql, " WHERE {}", self.changed());
        if !without.is_empty() {
            let files: Vec<String> = without.iter().map(i64::to_string).collect();
            let _ = write!(sql, " AND m.f NOT IN ({})", files.join(", "));
        }
        sql.push_str(" ORDER BY m.f, m.r");
        Ok(sql)
    }

    /// The matches that change a row.
    fn changed(&self) -> String {
        let but = if self.compare { " AND NOT m.same" } else { "" };
        format!("m.{CLAUSE} IN ({}){but}", list_of(&self.changing()))
    }

    /// The columns of [`changes`](Self::changes).
    pub(super) fn changes_schema(&self) -> SchemaRef {
        let mut fields = vec![
            Field::new(FILE_INDEX, DataType::Int64, false),
            Field::new(ROW_NUMBER, DataType::Int64, false),
            Field::new(ROW_CHANGE, DataType::Int8, false),
        ];
        let set = self.set.iter().filter(|s| !s.partition);
        fields.extend(set.map(|s| Field::new(&s.name, s.data_type.clone(), true)));
        Arc::new(Schema::new(fields))
    }

    /// Rows to insert, as whole rows of the table: incoming ones that match nothing (or what was laid by of them), and those that
    /// move to another partition.
    pub(super) fn inserts(&self, with_matches: bool, laid_by: bool) -> Result<Option<String>> {
        let mut parts = Vec::new();
        match laid_by {
            true => parts.push(format!("SELECT * FROM {INSERTS}")),
            false => parts.extend(self.new_rows(with_matches)?),
        }
        if with_matches && self.moves() {
            parts.push(self.moved_rows()?);
        }
        Ok((!parts.is_empty()).then(|| parts.join("\nUNION ALL\n")))
    }

    /// Incoming rows that match nothing, as whole rows of the table.
    pub(super) fn new_rows(&self, with_matches: bool) -> Result<Option<String>> {
        let clauses = self.numbered(When::NotMatched);
        let inserting: Vec<(usize, &Vec<Assignment>)> = clauses
            .iter()
            .filter_map(|(i, c)| match &c.then {
                Then::Insert(assigned) => Some((*i, assigned)),
                _ => None,
            })
            .collect();
        if inserting.is_empty() {
            return Ok(None);
        }
        let mut list = Vec::new();
        for field in self.schema.fields() {
            let mut values: Vec<(usize, String)> = Vec::new();
            for (i, assigned) in &inserting {
                let value = match assigned.iter().find(|a| a.column == *field.name()) {
                    Some(a) if self.comes_as(a, field.data_type()) => a.value.sql.clone(),
                    Some(a) => cast(&a.value.sql, field.data_type())?,
                    None => cast("NULL", field.data_type())?,
                };
                values.push((*i, value));
            }
            let same = values.windows(2).all(|w| w[0].1 == w[1].1);
            let value = match values.first() {
                Some((_, value)) if same => value.clone(),
                _ => {
                    let mut sql = String::from("CASE");
                    for (i, value) in &values {
                        let _ = write!(sql, " WHEN source.__duckrun_clause = {i} THEN {value}");
                    }
                    sql.push_str(" END");
                    sql
                }
            };
            list.push(format!("{value} AS {}", quote_ident(field.name())));
        }
        let choice = choose(&clauses);
        let numbers: Vec<usize> = inserting.iter().map(|(i, _)| *i).collect();
        // `rowid` is a pseudo column: a subquery has to name it to hand it on.
        let from = format!("(SELECT *, rowid AS __duckrun_id FROM {SOURCE})");
        let chosen = format!("(SELECT *, ({choice})::INTEGER AS __duckrun_clause FROM {from} AS source)");
        let mut sql = format!(
            "SELECT {} FROM {chosen} AS source WHERE source.__duckrun_clause IN ({})",
            list.join(", "),
            list_of(&numbers)
        );
        if with_matches && self.marked {
            let _ = write!(sql, " AND {}", unmatched("__duckrun_id"));
        } else if with_matches {
            let again: Vec<usize> =
                self.plan.clauses.iter().enumerate().filter(|(_, c)| c.also_insert).map(|(i, _)| i).collect();
            let but = match again.is_empty() {
                true => String::new(),
                false => format!(" AND (m.{CLAUSE} IS NULL OR m.{CLAUSE} NOT IN ({}))", list_of(&again)),
            };
            let _ = write!(sql, " AND NOT EXISTS (SELECT 1 FROM {MATCHES} AS m WHERE m.s = source.__duckrun_id{but})");
        }
        Ok(Some(sql))
    }

    /// Whether a value is an incoming column that has the type already.
    fn comes_as(&self, assignment: &Assignment, ty: &DataType) -> bool {
        let column = &assignment.column;
        assignment.value == source_column(column)
            && self.plan.incoming.field_with_name(column).is_ok_and(|f| f.data_type() == ty)
    }

    fn moved_rows(&self) -> Result<String> {
        let mut list = Vec::new();
        for field in self.schema.fields() {
            let value = match self.set.iter().enumerate().find(|(_, s)| s.name == *field.name()) {
                Some((_, column)) if column.late => self.value(column, &format!("m.{CLAUSE}"), false)?,
                Some((n, _)) => format!("m.v_{n}"),
                None => cast(&self.old(field.name()), field.data_type())?,
            };
            list.push(format!("{value} AS {}", quote_ident(field.name())));
        }
        let mut sql = format!(
            "SELECT {} FROM {TARGET} AS target JOIN {MATCHES} AS m ON target.{FILE_INDEX} = m.f AND target.{ROW_NUMBER} = m.r",
            list.join(", ")
        );
        if self.plan.source {
            let _ = write!(sql, " LEFT JOIN {SOURCE} AS source ON source.rowid = m.s");
        }
        sql.push_str(" WHERE m.moved");
        Ok(sql)
    }

    /// How many rows of each file change: file, updates (moved rows among them), deletes, moved rows.
    pub(super) fn touched(&self) -> String {
        let updates = list_of(&self.updating());
        let updated =
            if self.updating().is_empty() { "false".to_owned() } else { format!("m.{CLAUSE} IN ({updates})") };
        let moved = if self.moves() { "m.moved" } else { "false" };
        format!(
            "SELECT m.f AS f, (count(*) FILTER (WHERE {updated}))::BIGINT AS updated, \
             (count(*) FILTER (WHERE NOT ({updated})))::BIGINT AS deleted, \
             (count(*) FILTER (WHERE {moved}))::BIGINT AS moved \
             FROM {MATCHES} AS m WHERE {} GROUP BY m.f ORDER BY m.f",
            self.changed()
        )
    }

    /// Whether anything in the table can change.
    pub(super) fn changes_rows(&self) -> bool {
        !self.plan.fresh && !self.changing().is_empty()
    }

    /// Rows that updates leave in place and that violate a condition over the columns `checked`, counted.
    pub(super) fn violations(&self, checked: &[String], condition: &str) -> String {
        let columns: Vec<String> =
            checked.iter().enumerate().map(|(n, name)| format!("m.k_{n} AS {}", quote_ident(name))).collect();
        format!(
            "SELECT count(*)::BIGINT AS n FROM (SELECT {} FROM {MATCHES} AS m WHERE m.{CLAUSE} IN ({})) AS target \
             WHERE ({condition}) IS NOT TRUE",
            columns.join(", "),
            list_of(&self.updating())
        )
    }
}

fn assignments(then: &Then) -> Option<&Vec<Assignment>> {
    match then {
        Then::Update(assigned) => Some(assigned),
        _ => None,
    }
}

fn list_of(numbers: &[usize]) -> String {
    match numbers.is_empty() {
        true => "-1".to_owned(),
        false => numbers.iter().map(usize::to_string).collect::<Vec<_>>().join(", "),
    }
}

/// The number of the first clause whose condition holds, or NULL.
fn choose(clauses: &[(usize, &Clause)]) -> String {
    match clauses {
        [] => "NULL".to_owned(),
        [(i, Clause { condition: None, .. }), ..] => i.to_string(),
        _ => {
            let mut sql = String::from("CASE");
            for (i, clause) in clauses {
                let condition = clause.condition.as_ref().map_or("true", |e| e.sql.as_str());
                let _ = write!(sql, " WHEN ({condition}) THEN {i}");
            }
            sql.push_str(" END");
            sql
        }
    }
}

/// `target` and `source` have the same key. `types` has the keys' types.
pub(super) fn keys_equal(keys: &[String], nulls: NullKeys, types: &Schema) -> Result<String> {
    let equal = if nulls == NullKeys::Equal { "IS NOT DISTINCT FROM" } else { "=" };
    let one = |k: &String| -> Result<String> {
        let (name, mut target) = (quote_ident(k), format!("target.{}", quote_ident(k)));
        if let Ok(ty @ (DataType::Float32 | DataType::Float64)) = types.field_with_name(k).map(|f| f.data_type()) {
            // NaN is in no statistics of parquet files, and the engine rules row groups out by the range of the keys that it
            // looks for: only where the file's column itself is compared.
            target = format!("CASE WHEN isnan({target}) THEN CAST('nan' AS {}) ELSE {target} END", sql_type(ty)?);
        }
        Ok(format!("{target} {equal} source.{name}"))
    };
    Ok(keys.iter().map(one).collect::<Result<Vec<_>>>()?.join(" AND "))
}

/// A cast to a type of the table. DuckDB fails on overflow; digits beyond a decimal's scale are rounded, as in an SQL assignment.
fn cast(sql: &str, ty: &DataType) -> Result<String> {
    Ok(format!("CAST({sql} AS {})", sql_type(ty)?))
}

/// The tightest constants of the bounds, by column: lower and upper.
pub(super) fn constants<'a>(
    expressions: impl Iterator<Item = &'a RowExpr>,
) -> BTreeMap<String, (Vec<&'a Bound>, Vec<&'a Bound>)> {
    let mut all: BTreeMap<String, (Vec<&Bound>, Vec<&Bound>)> = BTreeMap::new();
    for bound in expressions.flat_map(|e| &e.bounds) {
        let (low, high) = all.entry(bound.column.clone()).or_default();
        match bound.comparison {
            Comparison::Equal => {
                low.push(bound);
                high.push(bound);
            }
            Comparison::Greater | Comparison::GreaterOrEqual => low.push(bound),
            Comparison::Less | Comparison::LessOrEqual => high.push(bound),
        }
    }
    all
}
