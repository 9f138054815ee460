//! The options of a merge as a caller gives them, and the clauses that they stand for.

use duckrun::core::{NullKeys, When};

use super::{Clause, Column, Duplicates, Expr, Merge, Order, Then};

/// What becomes of rows that the source no longer has.
#[derive(Debug, Clone, PartialEq)]
pub enum BySource {
    /// They go, where the condition holds.
    Delete(Option<Expr>),
    /// Columns of them are set, where the condition holds.
    Update(Vec<(String, Expr)>, Option<Expr>),
}

/// The options of a merge.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MergeOptions {
    /// The key columns.
    pub keys: Vec<String>,
    /// The only columns that an update sets.
    pub update_columns: Option<Vec<String>>,
    /// Columns that an update does not set.
    pub exclude_columns: Vec<String>,
    /// When a match is updated.
    pub update_condition: Option<Expr>,
    /// When a new row is inserted.
    pub insert_condition: Option<Expr>,
    /// Columns that an update sets to something else than the incoming value.
    pub set: Vec<(String, Expr)>,
    /// What a match must fulfil beside equal keys.
    pub predicates: Vec<Expr>,
    /// Which incoming rows mark deletions: a match goes, and a new row is not inserted.
    pub delete_when: Option<Expr>,
    /// The order that keeps one incoming row for every key.
    pub dedup_by: Option<Vec<Order>>,
    /// What a NULL key means.
    pub null_keys: NullKeys,
    /// Whether an update that changes nothing is none.
    pub skip_unchanged: bool,
    /// What becomes of rows that the source no longer has.
    pub by_source: Option<BySource>,
    /// Clauses of the caller's own, instead of those that the options stand for.
    pub clauses: Vec<Clause>,
}

impl MergeOptions {
    /// An upsert by keys.
    pub fn on<S: Into<String>>(keys: impl IntoIterator<Item = S>) -> Self {
        Self { keys: keys.into_iter().map(Into::into).collect(), skip_unchanged: true, ..Self::default() }
    }

    /// The merge that the options stand for, with these incoming columns.
    pub fn merge(&self, incoming: &[Column]) -> Merge {
        let named = |c: &Column| (c.name.clone(), Expr::Source(c.name.clone()));
        let mut clauses = Vec::new();
        if self.clauses.is_empty() {
            let mut set: Vec<(String, Expr)> = incoming
                .iter()
                .filter(|c| !self.keys.contains(&c.name) && !self.exclude_columns.contains(&c.name))
                .filter(|c| self.update_columns.as_ref().is_none_or(|only| only.contains(&c.name)))
                .map(named)
                .collect();
            set.retain(|(c, _)| !self.set.iter().any(|(other, _)| other == c));
            set.extend(self.set.clone());
            if let Some(marked) = &self.delete_when {
                clauses.push(Clause::new(When::Matched, Some(marked.clone()), Then::Delete));
                clauses.push(Clause::new(When::NotMatched, Some(marked.clone()), Then::Nothing));
            }
            if !set.is_empty() {
                clauses.push(Clause::new(When::Matched, self.update_condition.clone(), Then::Update(set)));
            }
            let all = incoming.iter().map(named).collect();
            clauses.push(Clause::new(When::NotMatched, self.insert_condition.clone(), Then::Insert(all)));
        } else {
            clauses.extend(self.clauses.clone());
        }
        match self.by_source.clone() {
            Some(BySource::Delete(c)) => clauses.push(Clause::new(When::NotMatchedBySource, c, Then::Delete)),
            Some(BySource::Update(set, c)) => {
                clauses.push(Clause::new(When::NotMatchedBySource, c, Then::Update(set)));
            }
            None => {}
        }
        Merge {
            keys: self.keys.clone(),
            null_keys: self.null_keys,
            duplicates: self.dedup_by.clone().map_or(Duplicates::Refuse, Duplicates::KeepFirst),
            predicates: self.predicates.clone(),
            clauses,
            skip_unchanged: self.skip_unchanged,
        }
    }
}
