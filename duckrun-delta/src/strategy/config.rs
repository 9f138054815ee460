//! Strategies as configuration files write them.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime, Utc};
use duckrun_core::{Error, NullKeys, Result, Strategy, When};
use serde::de::{Error as _, Unexpected};
use serde::{Deserialize, Deserializer, Serialize};

use super::{
    Append, BatchSize, DeleteInsert, FullSync, Insert, InsertOverwrite, Merge, MergeClause, Microbatch, Overwrite,
    ReplaceWhere, SafeAppend, Scd2,
};

/// A strategy with its options, as plain settings with dbt's names (ours are accepted as well).
///
/// Without a name it is `merge` where there is a `unique_key`, else `append`. [`build`](StrategyConfig::build) refuses unknown
/// strategies, missing options and options that the strategy does not have, all in one error.
///
/// ```
/// use duckrun_delta::StrategyConfig;
/// let config = StrategyConfig {
///     unique_key: Some(vec!["id".into()]),
///     exclude_columns: Some(vec!["created".into()]),
///     ..StrategyConfig::default()
/// };
/// assert_eq!(config.build()?.name(), "merge");
/// # Ok::<(), duckrun_core::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StrategyConfig {
    /// The name: `overwrite`, `append`, `safeappend`, `insert`, `merge`, `full_sync`, `delete_insert` (also `delete+insert`),
    /// `replace_where`, `insert_overwrite`, `microbatch`, `scd2` (also `snapshot`).
    #[serde(alias = "incremental_strategy")]
    pub strategy: Option<String>,
    /// The key columns; one name or a list. An empty name or list is none, and a repetition counts once, as in dbt.
    #[serde(deserialize_with = "one_or_many")]
    pub unique_key: Option<Vec<String>>,
    /// `merge`: the columns to update.
    #[serde(alias = "merge_update_columns", deserialize_with = "one_or_many")]
    pub update_columns: Option<Vec<String>>,
    /// `merge`: the columns not to update.
    #[serde(alias = "merge_exclude_columns", deserialize_with = "one_or_many")]
    pub exclude_columns: Option<Vec<String>>,
    /// `merge`: update only where this holds.
    #[serde(alias = "merge_update_condition")]
    pub update_condition: Option<String>,
    /// `merge`, `insert`: insert only where this holds.
    #[serde(alias = "merge_insert_condition")]
    pub insert_condition: Option<String>,
    /// `merge`: expressions for columns of updated rows.
    #[serde(alias = "merge_update_set_expressions")]
    pub update_set: BTreeMap<String, String>,
    /// `merge`, `insert`, `delete_insert`: conditions of the match; one or a list.
    #[serde(alias = "incremental_predicates", deserialize_with = "one_or_many")]
    pub predicates: Option<Vec<String>>,
    /// `merge`: the ordered list of clauses.
    pub clauses: Vec<ClauseConfig>,
    /// `merge`: a column or condition that marks deletions.
    pub delete_when: Option<String>,
    /// `merge`, `insert`, `scd2`: the order whose first row of each key is kept.
    pub dedup_by: Option<String>,
    /// What a NULL in a key means.
    pub null_keys: Option<NullKeys>,
    /// `merge`: whether files without a changed row are left alone.
    pub skip_unchanged: Option<bool>,
    /// `merge`: delete rows of the table whose key does not come in.
    pub delete_missing: Option<bool>,
    /// `merge`, `full_sync`: delete them only where this holds.
    pub delete_missing_where: Option<String>,
    /// `merge`: set columns of rows of the table whose key does not come in.
    pub update_missing: BTreeMap<String, String>,
    /// `merge`: only where this holds.
    pub update_missing_where: Option<String>,
    /// `microbatch`: the column of dates or timestamps.
    pub event_time: Option<String>,
    /// `microbatch`: `hour`, `day`, `month` or `year`.
    pub batch_size: Option<BatchSize>,
    /// `microbatch`: where a new table starts; a date or a time (RFC 3339, UTC without zone).
    #[serde(alias = "event_time_start", deserialize_with = "time")]
    pub begin: Option<DateTime<Utc>>,
    /// `microbatch`: where the windows end.
    #[serde(alias = "event_time_end", deserialize_with = "time")]
    pub end: Option<DateTime<Utc>>,
    /// `microbatch`: batches before the present one that are replaced as well; 1 if not given.
    pub lookback: Option<u32>,
    /// `replace_where`: the predicate.
    pub replace_where: Option<String>,
    /// `scd2`: the column that says when a row was changed.
    pub updated_at: Option<String>,
    /// `scd2`: the columns whose difference is a change.
    pub check_cols: Option<CheckColumns>,
    /// `scd2`: close the versions of keys that no longer come in.
    pub invalidate_hard_deletes: Option<bool>,
    /// `append`: refuse the run if the table has changed since it was read.
    pub fenced: Option<bool>,
    /// `overwrite`: replace whatever is there at the time of the commit.
    pub blind: Option<bool>,
    /// `overwrite`: keep the table's columns and types.
    pub keep_schema: Option<bool>,
}

/// The columns that `scd2` compares.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum CheckColumns {
    /// Every column (`all`).
    All(String),
    /// These.
    These(Vec<String>),
}

impl<'de> Deserialize<'de> for CheckColumns {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        Ok(match OneOrMany::deserialize(input)? {
            OneOrMany::One(word) if word.eq_ignore_ascii_case("all") => Self::All("all".to_owned()),
            OneOrMany::One(column) => Self::These(vec![column]),
            OneOrMany::Many(columns) => Self::These(columns),
        })
    }
}

/// One clause of a merge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClauseConfig {
    /// Which rows.
    pub when: When,
    /// What happens to them.
    pub then: ClauseAction,
    /// The condition.
    #[serde(default)]
    pub condition: Option<String>,
    /// The columns and expressions of an update or insert, in order; none means every column that comes in.
    #[serde(default)]
    pub set: Vec<(String, String)>,
}

/// What a clause does.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClauseAction {
    /// Updates the table's row.
    Update,
    /// Deletes it.
    Delete,
    /// Leaves it.
    DoNothing,
    /// Inserts the incoming row.
    Insert,
}

impl ClauseConfig {
    fn clause(&self) -> Result<MergeClause, String> {
        let set = self.set.clone();
        let clause = match (self.when, self.then) {
            (When::Matched, ClauseAction::Update) if set.is_empty() => MergeClause::matched_update(),
            (When::Matched, ClauseAction::Update) => MergeClause::matched_update_set(set),
            (When::Matched, ClauseAction::Delete) => MergeClause::matched_delete(),
            (When::Matched, ClauseAction::DoNothing) => MergeClause::matched_do_nothing(),
            (When::NotMatched, ClauseAction::Insert) if set.is_empty() => MergeClause::not_matched_insert(),
            (When::NotMatched, ClauseAction::Insert) => MergeClause::not_matched_insert_values(set),
            (When::NotMatchedBySource, ClauseAction::Update) => MergeClause::not_matched_by_source_update(set),
            (When::NotMatchedBySource, ClauseAction::Delete) => MergeClause::not_matched_by_source_delete(),
            (when, then) => return Err(format!("a clause cannot be {when:?} and {then:?}")),
        };
        if !self.set.is_empty() && matches!(self.then, ClauseAction::Delete | ClauseAction::DoNothing) {
            return Err(format!("a clause that is {:?} sets no columns", self.then));
        }
        Ok(match &self.condition {
            Some(sql) => clause.when(sql),
            None => clause,
        })
    }
}

/// The strategies and the options that they have; the first name is the strategy's own.
const STRATEGIES: &[(&[&str], &[&str])] = &[
    (&["overwrite"], &["blind", "keep_schema"]),
    (&["append"], &["fenced"]),
    (&["safeappend", "safe_append"], &[]),
    (&["insert"], &["unique_key", "insert_condition", "predicates", "dedup_by", "null_keys"]),
    (
        &["merge"],
        &[
            "unique_key",
            "update_columns",
            "exclude_columns",
            "update_condition",
            "insert_condition",
            "update_set",
            "predicates",
            "clauses",
            "delete_when",
            "dedup_by",
            "null_keys",
            "skip_unchanged",
            "delete_missing",
            "delete_missing_where",
            "update_missing",
            "update_missing_where",
        ],
    ),
    (
        &["full_sync"],
        &[
            "unique_key",
            "update_columns",
            "exclude_columns",
            "update_condition",
            "insert_condition",
            "update_set",
            "predicates",
            "delete_when",
            "dedup_by",
            "null_keys",
            "skip_unchanged",
            "delete_missing_where",
        ],
    ),
    (&["delete_insert", "delete+insert"], &["unique_key", "predicates", "null_keys"]),
    (&["replace_where"], &["replace_where"]),
    (&["insert_overwrite"], &[]),
    (&["microbatch"], &["event_time", "batch_size", "begin", "end", "lookback"]),
    (
        &["scd2", "snapshot"],
        &["unique_key", "updated_at", "check_cols", "invalidate_hard_deletes", "dedup_by", "null_keys"],
    ),
];

impl StrategyConfig {
    /// The name of the strategy: the one given, else what the key decides.
    fn name(&self) -> &str {
        match self.strategy.as_deref() {
            Some(name) => name,
            None if self.keys().is_empty() => "append",
            None => "merge",
        }
    }

    /// The key columns without empty names and exact repetitions.
    fn keys(&self) -> Vec<String> {
        let mut keys: Vec<String> = Vec::new();
        for key in self.unique_key.iter().flatten().filter(|k| !k.is_empty()) {
            if !keys.contains(key) {
                keys.push(key.clone());
            }
        }
        keys
    }

    /// The options that are given.
    fn given(&self) -> Vec<&'static str> {
        let all = [
            ("unique_key", !self.keys().is_empty()),
            ("update_columns", self.update_columns.is_some()),
            ("exclude_columns", self.exclude_columns.is_some()),
            ("update_condition", self.update_condition.is_some()),
            ("insert_condition", self.insert_condition.is_some()),
            ("update_set", !self.update_set.is_empty()),
            ("predicates", self.predicates.is_some()),
            ("clauses", !self.clauses.is_empty()),
            ("delete_when", self.delete_when.is_some()),
            ("dedup_by", self.dedup_by.is_some()),
            ("null_keys", self.null_keys.is_some()),
            ("skip_unchanged", self.skip_unchanged.is_some()),
            ("delete_missing", self.delete_missing.is_some()),
            ("delete_missing_where", self.delete_missing_where.is_some()),
            ("update_missing", !self.update_missing.is_empty()),
            ("update_missing_where", self.update_missing_where.is_some()),
            ("event_time", self.event_time.is_some()),
            ("batch_size", self.batch_size.is_some()),
            ("begin", self.begin.is_some()),
            ("end", self.end.is_some()),
            ("lookback", self.lookback.is_some()),
            ("replace_where", self.replace_where.is_some()),
            ("updated_at", self.updated_at.is_some()),
            ("check_cols", self.check_cols.is_some()),
            ("invalidate_hard_deletes", self.invalidate_hard_deletes.is_some()),
            ("fenced", self.fenced.is_some()),
            ("blind", self.blind.is_some()),
            ("keep_schema", self.keep_schema.is_some()),
        ];
        all.into_iter().filter(|(_, given)| *given).map(|(name, _)| name).collect()
    }

    /// Makes the strategy.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`](duckrun_core::ErrorKind::InvalidInput) with everything that is wrong. What the strategy itself
    /// finds wrong with its options ([`Strategy::validate`]) is reported when a model runs.
    pub fn build(&self) -> Result<Arc<dyn Strategy>> {
        let name = self.name();
        let known = STRATEGIES.iter().find(|(names, _)| names.iter().any(|n| n.eq_ignore_ascii_case(name)));
        let Some((names, options)) = known else {
            let all: Vec<_> = STRATEGIES.iter().map(|(names, _)| names[0]).collect();
            return Err(Error::invalid(format!("there is no strategy {name:?}; there are {}", all.join(", "))));
        };
        let name = names[0];
        let mut problems: Vec<String> = self
            .given()
            .into_iter()
            .filter(|given| !options.contains(given))
            .map(|given| format!("the strategy {name} does not take {given}"))
            .collect();
        let mut need = |option: &str, given: bool| {
            if !given {
                problems.push(format!("the strategy {name} needs {option}"));
            }
        };
        if options.contains(&"unique_key") {
            need("unique_key", !self.keys().is_empty());
        }
        match name {
            "replace_where" => need("replace_where", self.replace_where.is_some()),
            "microbatch" => {
                need("event_time", self.event_time.is_some());
                need("batch_size", self.batch_size.is_some());
            }
            "scd2" => need("updated_at or check_cols", self.updated_at.is_some() || self.check_cols.is_some()),
            _ => {}
        }
        if self.update_missing_where.is_some() && self.update_missing.is_empty() {
            problems.push("update_missing_where needs update_missing".to_owned());
        }
        let mut clauses = Vec::new();
        for clause in &self.clauses {
            match clause.clause() {
                Ok(clause) => clauses.push(clause),
                Err(problem) => problems.push(problem),
            }
        }
        match Error::problems(problems) {
            Some(e) => Err(e),
            None => Ok(self.made(name, clauses)),
        }
    }

    /// The strategy of a name that was checked.
    fn made(&self, name: &str, clauses: Vec<MergeClause>) -> Arc<dyn Strategy> {
        let text = |option: &Option<String>| option.clone().unwrap_or_default();
        match name {
            "overwrite" => {
                let plain = Overwrite::default();
                let kept = if self.keep_schema == Some(true) { plain.keep_schema() } else { plain };
                Arc::new(if self.blind == Some(true) { kept.blind() } else { kept })
            }
            "safeappend" => Arc::new(SafeAppend),
            "insert" => {
                let mut insert = Insert::on(self.keys()).null_keys(self.null_keys.unwrap_or_default());
                insert = self.predicates.iter().flatten().fold(insert, Insert::predicate);
                insert = self.insert_condition.iter().fold(insert, Insert::insert_condition);
                Arc::new(self.dedup_by.iter().fold(insert, Insert::dedup_by))
            }
            "merge" => Arc::new(self.merge(Merge::on(self.keys()), clauses)),
            "full_sync" => {
                let sync = FullSync::on(self.keys()).merge(|m| self.options(m));
                Arc::new(self.delete_missing_where.iter().fold(sync, FullSync::delete_where))
            }
            "delete_insert" => {
                let plain = DeleteInsert::on(self.keys()).null_keys(self.null_keys.unwrap_or_default());
                Arc::new(self.predicates.iter().flatten().fold(plain, DeleteInsert::predicate))
            }
            "replace_where" => Arc::new(ReplaceWhere::new(text(&self.replace_where))),
            "insert_overwrite" => Arc::new(InsertOverwrite),
            "microbatch" => {
                let size = self.batch_size.unwrap_or(BatchSize::Day);
                let mut batches = Microbatch::new(text(&self.event_time), size);
                batches = self.begin.into_iter().fold(batches, Microbatch::begin);
                batches = self.end.into_iter().fold(batches, Microbatch::end);
                Arc::new(self.lookback.into_iter().fold(batches, Microbatch::lookback))
            }
            "scd2" => {
                let mut history = Scd2::on(self.keys()).null_keys(self.null_keys.unwrap_or_default());
                history = self.updated_at.iter().fold(history, Scd2::updated_at);
                history = self.dedup_by.iter().fold(history, Scd2::dedup_by);
                history = match &self.check_cols {
                    Some(CheckColumns::All(_)) => history.check_all(),
                    Some(CheckColumns::These(columns)) => history.check(columns),
                    None => history,
                };
                Arc::new(match self.invalidate_hard_deletes {
                    Some(true) => history.invalidate_hard_deletes(),
                    _ => history,
                })
            }
            _ if self.fenced == Some(true) => Arc::new(Append::default().fenced()),
            _ => Arc::new(Append::default()),
        }
    }

    /// The options that a merge and a synchronisation share.
    fn options(&self, merge: Merge) -> Merge {
        let mut merge = merge.null_keys(self.null_keys.unwrap_or_default());
        merge = merge.skip_unchanged(self.skip_unchanged.unwrap_or(true));
        merge = self.update_columns.iter().fold(merge, Merge::update_columns);
        merge = self.exclude_columns.iter().fold(merge, Merge::exclude_columns);
        merge = self.update_condition.iter().fold(merge, Merge::update_condition);
        merge = self.insert_condition.iter().fold(merge, Merge::insert_condition);
        merge = self.update_set.iter().fold(merge, |m, (column, sql)| m.set(column, sql));
        merge = self.predicates.iter().flatten().fold(merge, Merge::predicate);
        merge = self.delete_when.iter().fold(merge, Merge::delete_when);
        self.dedup_by.iter().fold(merge, Merge::dedup_by)
    }

    fn merge(&self, merge: Merge, clauses: Vec<MergeClause>) -> Merge {
        let mut merge = clauses.into_iter().fold(self.options(merge), Merge::clause);
        if !self.update_missing.is_empty() {
            merge = merge.update_missing(&self.update_missing, self.update_missing_where.as_deref());
        }
        match (&self.delete_missing_where, self.delete_missing) {
            (Some(sql), _) => merge.delete_missing_where(sql),
            (None, Some(true)) => merge.delete_missing(),
            (None, _) => merge,
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

fn one_or_many<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Vec<String>>, D::Error> {
    Ok(Option::<OneOrMany>::deserialize(input)?.map(|value| match value {
        OneOrMany::One(one) => vec![one],
        OneOrMany::Many(many) => many,
    }))
}

/// `2024-01-31`, `2024-01-31 12:00:00`, or RFC 3339; UTC where no zone is given.
fn time<'de, D: Deserializer<'de>>(input: D) -> Result<Option<DateTime<Utc>>, D::Error> {
    let Some(text) = Option::<String>::deserialize(input)? else { return Ok(None) };
    let naive = |format| NaiveDateTime::parse_from_str(&text, format).ok().map(|t| t.and_utc());
    DateTime::parse_from_rfc3339(&text)
        .map(|t| t.with_timezone(&Utc))
        .ok()
        .or_else(|| naive("%Y-%m-%d %H:%M:%S%.f"))
        .or_else(|| naive("%Y-%m-%dT%H:%M:%S%.f"))
        .or_else(|| {
            let date = NaiveDate::parse_from_str(&text, "%Y-%m-%d").ok()?;
            Some(date.and_time(NaiveTime::MIN).and_utc())
        })
        .map(Some)
        .ok_or_else(|| D::Error::invalid_value(Unexpected::Str(&text), &"a date or a time in RFC 3339"))
}
