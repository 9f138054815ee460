//! The clauses of a merge, as a caller writes them.

use duckrun_core::When;

use crate::strategy::expr;

/// One clause of a merge: which rows, under which condition, and what happens to them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MergeClause {
    pub(super) when: When,
    pub(super) condition: Option<String>,
    pub(super) then: Action,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// Every column that both sides have, but the keys.
    UpdateAll,
    Update(Vec<(String, String)>),
    Delete,
    /// Every column that both sides have.
    InsertAll,
    Insert(Vec<(String, String)>),
    Nothing,
}

fn pairs<C: Into<String>, E: Into<String>>(list: impl IntoIterator<Item = (C, E)>) -> Vec<(String, String)> {
    list.into_iter().map(|(c, e)| (c.into(), e.into())).collect()
}

impl MergeClause {
    fn new(when: When, then: Action) -> Self {
        Self { when, condition: None, then }
    }

    /// A matched row gets every incoming column that the table has, but the keys.
    pub fn matched_update() -> Self {
        Self::new(When::Matched, Action::UpdateAll)
    }

    /// A matched row gets these values; its other columns stay.
    pub fn matched_update_set<C: Into<String>, E: Into<String>>(set: impl IntoIterator<Item = (C, E)>) -> Self {
        Self::new(When::Matched, Action::Update(pairs(set)))
    }

    /// A matched row goes.
    pub fn matched_delete() -> Self {
        Self::new(When::Matched, Action::Delete)
    }

    /// A matched row stays as it is, and later clauses do not apply to it.
    pub fn matched_do_nothing() -> Self {
        Self::new(When::Matched, Action::Nothing)
    }

    /// An incoming row without match is inserted, with every column that the table has.
    pub fn not_matched_insert() -> Self {
        Self::new(When::NotMatched, Action::InsertAll)
    }

    /// An incoming row without match is inserted as these values; other columns are NULL.
    pub fn not_matched_insert_values<C: Into<String>, E: Into<String>>(
        values: impl IntoIterator<Item = (C, E)>,
    ) -> Self {
        Self::new(When::NotMatched, Action::Insert(pairs(values)))
    }

    /// A row of the table that no incoming row matches gets these values.
    pub fn not_matched_by_source_update<C: Into<String>, E: Into<String>>(
        set: impl IntoIterator<Item = (C, E)>,
    ) -> Self {
        Self::new(When::NotMatchedBySource, Action::Update(pairs(set)))
    }

    /// A row of the table that no incoming row matches goes.
    pub fn not_matched_by_source_delete() -> Self {
        Self::new(When::NotMatchedBySource, Action::Delete)
    }

    /// The clause applies only where this holds.
    #[must_use]
    pub fn when(mut self, sql: impl Into<String>) -> Self {
        self.condition = Some(sql.into());
        self
    }

    pub(super) fn what(&self) -> &'static str {
        match self.when {
            When::Matched => "the condition of a matched clause",
            When::NotMatched => "the condition of an insert clause",
            When::NotMatchedBySource => "the condition of a by-source clause",
        }
    }
}

/// The problems of a list of columns and expressions.
pub(in crate::strategy) fn set_problems(what: &str, set: &[(String, String)]) -> Vec<String> {
    let mut problems = Vec::new();
    for (i, (column, sql)) in set.iter().enumerate() {
        if column.is_empty() {
            problems.push(format!("{what} has a column without a name"));
        } else if set[..i].iter().any(|(c, _)| c.to_lowercase() == column.to_lowercase()) {
            problems.push(format!("{what} names {column:?} twice"));
        }
        problems.extend(expr::problem(&format!("the value of {column:?}"), sql));
    }
    problems
}

/// The problems of a list of clauses.
pub(super) fn list_problems(clauses: &[MergeClause]) -> Vec<String> {
    let mut problems = Vec::new();
    for (i, clause) in clauses.iter().enumerate() {
        if let Some(sql) = &clause.condition {
            problems.extend(expr::problem(clause.what(), sql));
        }
        match &clause.then {
            Action::Update(set) | Action::Insert(set) => {
                if set.is_empty() {
                    problems.push(format!("clause {} sets no column", i + 1));
                }
                problems.extend(set_problems(&format!("clause {}", i + 1), set));
            }
            _ => {}
        }
        if clauses[..i].iter().any(|c| c.when == clause.when && c.condition.is_none()) {
            problems.push(format!("clause {} can never apply: one of its kind before it has no condition", i + 1));
        }
    }
    problems
}
