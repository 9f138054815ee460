//! The merge: match by key and predicates, then of each row the first clause that applies.

use duckrun::core::{NullKeys, When};

use super::expr::Scope;
use super::table::{Condition, Counts};
use super::{Column, Expr, Refusal, Rows, Table, Value};

/// What a clause does.
#[derive(Debug, Clone, PartialEq)]
pub enum Then {
    /// Sets columns of the table's row; the values are computed from the rows as they were.
    Update(Vec<(String, Expr)>),
    /// Deletes the table's row.
    Delete,
    /// Inserts a row; columns that are not named are NULL.
    Insert(Vec<(String, Expr)>),
    /// Leaves the row.
    Nothing,
}

/// One clause.
#[derive(Debug, Clone, PartialEq)]
pub struct Clause {
    /// Which rows it is about.
    pub when: When,
    /// The condition; none holds always, NULL is not true.
    pub condition: Option<Expr>,
    /// What happens.
    pub then: Then,
}

impl Clause {
    /// A clause.
    pub fn new(when: When, condition: Option<Expr>, then: Then) -> Self {
        Self { when, condition, then }
    }
}

/// A column to order by; NULL comes last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// The incoming column.
    pub column: String,
    /// Greatest first.
    pub descending: bool,
}

/// What two incoming rows with one key mean.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Duplicates {
    /// The merge is refused, whether the key is in the table or not.
    #[default]
    Refuse,
    /// The first in this order stays. A test must give an order without ties.
    KeepFirst(Vec<Order>),
}

/// A merge.
#[derive(Debug, Clone, PartialEq)]
pub struct Merge {
    /// The key columns.
    pub keys: Vec<String>,
    /// What a NULL in a key means.
    pub null_keys: NullKeys,
    /// What two incoming rows with one key mean.
    pub duplicates: Duplicates,
    /// What a match must fulfil beside equal keys.
    pub predicates: Vec<Expr>,
    /// The clauses; of each kind the first that holds applies.
    pub clauses: Vec<Clause>,
    /// Whether an update that changes nothing is none.
    pub skip_unchanged: bool,
}

impl Merge {
    /// A merge by keys without clauses.
    pub fn new<S: Into<String>>(keys: impl IntoIterator<Item = S>) -> Self {
        Self {
            keys: keys.into_iter().map(Into::into).collect(),
            null_keys: NullKeys::Refuse,
            duplicates: Duplicates::Refuse,
            predicates: Vec::new(),
            clauses: Vec::new(),
            skip_unchanged: true,
        }
    }

    /// Updates what matches and inserts what is new, in these columns.
    pub fn upsert<S: Into<String>>(keys: impl IntoIterator<Item = S>, columns: &[Column]) -> Self {
        let all = || columns.iter().map(|c| (c.name.clone(), Expr::Source(c.name.clone()))).collect();
        let mut merge = Self::new(keys);
        merge.clauses = vec![
            Clause::new(When::Matched, None, Then::Update(all())),
            Clause::new(When::NotMatched, None, Then::Insert(all())),
        ];
        merge
    }

    fn clause(&self, when: When, scope: Scope<'_>) -> Result<Option<&Then>, Refusal> {
        for clause in self.clauses.iter().filter(|c| c.when == when) {
            if clause.condition.as_ref().is_none_or_true(scope)? {
                return Ok(Some(&clause.then));
            }
        }
        Ok(None)
    }
}

/// Whether two keys match.
pub(super) fn keys_match(a: &[Value], b: &[Value], null_keys: NullKeys) -> bool {
    a.iter().zip(b).all(|(a, b)| match (a.is_null(), b.is_null()) {
        (false, false) => a.matches(b),
        (true, true) => null_keys == NullKeys::Equal,
        _ => false,
    })
}

/// The key of a row.
pub(super) fn key(row: &[Value], indexes: &[usize]) -> Vec<Value> {
    indexes.iter().map(|i| row[*i].clone()).collect()
}

/// Refuses NULL keys where they are to be refused.
pub(super) fn check_nulls(incoming: &Rows, indexes: &[usize], null_keys: NullKeys) -> Result<(), Refusal> {
    let nulls = incoming.rows.iter().filter(|r| indexes.iter().any(|i| r[*i].is_null())).count();
    if null_keys == NullKeys::Refuse && nulls > 0 { Err(Refusal::NullKeys(nulls)) } else { Ok(()) }
}

/// One row for every key, or the refusal.
pub(super) fn one_per_key(
    incoming: &Rows,
    indexes: &[usize],
    null_keys: NullKeys,
    duplicates: &Duplicates,
) -> Result<Rows, Refusal> {
    let mut groups: Vec<(Vec<Value>, Vec<Vec<Value>>)> = Vec::new();
    for row in &incoming.rows {
        let key = key(row, indexes);
        match groups.iter_mut().find(|(k, _)| keys_match(k, &key, null_keys)) {
            Some((_, rows)) => rows.push(row.clone()),
            None => groups.push((key, vec![row.clone()])),
        }
    }
    match duplicates {
        Duplicates::Refuse => {
            let twice: Vec<_> =
                groups.iter().filter(|(_, rows)| rows.len() > 1).map(|(k, rows)| (k.clone(), rows.len())).collect();
            if !twice.is_empty() {
                return Err(Refusal::DuplicateKeys(twice));
            }
        }
        Duplicates::KeepFirst(order) => {
            let by: Vec<(usize, bool)> =
                order.iter().map(|o| Ok((incoming.index(&o.column)?, o.descending))).collect::<Result<_, Refusal>>()?;
            for (_, rows) in &mut groups {
                rows.sort_by(|a, b| {
                    let compare = |(i, descending): &(usize, bool)| {
                        let order = a[*i].order(&b[*i]);
                        if *descending && !a[*i].is_null() && !b[*i].is_null() { order.reverse() } else { order }
                    };
                    by.iter().map(compare).find(|o| o.is_ne()).unwrap_or(std::cmp::Ordering::Equal)
                });
                rows.truncate(1);
            }
        }
    }
    Ok(Rows::new(incoming.columns.clone(), groups.into_iter().flat_map(|(_, rows)| rows).collect()))
}

impl Table {
    /// `merge`, and `insert` and `full_sync`, which are merges with other clauses.
    ///
    /// # Errors
    /// NULL keys and duplicate keys by the merge's own rules; columns that do not fit.
    pub fn merge(&mut self, merge: &Merge, incoming: &Rows) -> Result<Counts, Refusal> {
        let (table, incoming) = self.fit(incoming)?;
        let source_key = incoming.indexes(&merge.keys)?;
        let target_key = table.indexes(&merge.keys)?;
        check_nulls(&incoming, &source_key, merge.null_keys)?;
        let source = one_per_key(&incoming, &source_key, merge.null_keys, &merge.duplicates)?;
        let mut counts = Counts::default();
        if source.rows.is_empty() {
            // No incoming rows, no commit: clauses for rows that the source lacks do not empty the table.
            return self.finish(table, counts, Vec::new());
        }
        let mut matched = vec![false; source.rows.len()];
        let mut kept = Vec::new();
        for row in &table.rows {
            let mut scope = Scope { target: &table, target_row: Some(row), source: &source, source_row: None };
            let mut when = When::NotMatchedBySource;
            for (source_row, matched) in source.rows.iter().zip(&mut matched) {
                let candidate = Scope { source_row: Some(source_row), ..scope };
                let same = keys_match(&key(row, &target_key), &key(source_row, &source_key), merge.null_keys);
                if same
                    && merge
                        .predicates
                        .iter()
                        .map(|p| p.holds(candidate))
                        .collect::<Result<Vec<_>, _>>()?
                        .iter()
                        .all(|h| *h)
                {
                    *matched = true;
                    when = When::Matched;
                    scope = candidate;
                }
            }
            match merge.clause(when, scope)? {
                Some(Then::Delete) => counts.deleted += 1,
                Some(Then::Update(set)) => {
                    let mut new = row.clone();
                    for (column, value) in set {
                        new[table.index(column)?] = value.value(scope)?;
                    }
                    // A value is the same to the bit, so that -0.0 becomes 0.0 where an update says so.
                    counts.updated += usize::from(!(merge.skip_unchanged && new == *row));
                    kept.push(new);
                }
                _ => kept.push(row.clone()),
            }
        }
        let mut added = Vec::new();
        for (row, _) in source.rows.iter().zip(&matched).filter(|(_, matched)| !**matched) {
            let scope = Scope { target: &table, target_row: None, source: &source, source_row: Some(row) };
            if let Some(Then::Insert(set)) = merge.clause(When::NotMatched, scope)? {
                let mut new = vec![Value::Null; table.columns.len()];
                for (column, value) in set {
                    new[table.index(column)?] = value.value(scope)?;
                }
                added.push(new);
            }
        }
        counts.inserted = added.len();
        self.finish(Rows::new(table.columns.clone(), kept), counts, added)
    }
}
