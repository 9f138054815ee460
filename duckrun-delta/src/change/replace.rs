//! Replacements: rows of the table go, all incoming rows come, in one commit.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use duckrun_core::types::LOSS;
use duckrun_core::{
    CommitOutcome, Duplicates, Error, FILE_INDEX, FileSet, NullKeys, Phase, Query, ROW_CHANGE, ROW_NUMBER, Relation,
    RelationName, ReplacePlan, Replaced, Result, RewriteSpec, RowExpr, Snapshot, StagedFile, quote_literal,
};

use super::feed::{self, subset};
use super::incoming::{self, Rules, numbers};
use super::sql::{MATCHES, SOURCE, TARGET, keys_equal, replaced};
use super::{Done, Work, history, ranges};
use crate::executor::discard;
use crate::read::parse_values;
use crate::snapshot::DeltaSnapshot;

impl Work<'_> {
    pub(super) async fn replace(self, replace: &ReplacePlan) -> Result<CommitOutcome> {
        self.phase(Phase::Matching);
        let mut done = Done::default();
        // Every row that goes is counted, so that none is known to be none.
        done.counts.deleted = Some(0);
        if let Err(e) = self.exchange(replace, &mut done).await {
            discard(self.cx, self.store, &done.staged).await;
            return Err(e);
        }
        let operation = history::replace(replace, &self.plan.partition_columns, &done, self.started.elapsed());
        let no_rows = done.counts.inserted == 0;
        self.commit(done, operation, replace.fresh, no_rows).await
    }

    async fn exchange(&self, replace: &ReplacePlan, done: &mut Done) -> Result<()> {
        let old = self.at.as_ref().filter(|_| !replace.fresh);
        let feed = feed::is_on(self.at.as_deref(), &self.plan);
        let mut before = None;
        let laid_by = matches!(replace.rows, Replaced::Keys { .. }) || !self.plan.checks.is_empty();
        let mut query = self.taken(replace);
        if laid_by {
            let (keys, null_keys): (&[String], NullKeys) = match &replace.rows {
                Replaced::Keys { keys, null_keys, .. } => (keys, *null_keys),
                _ => (&[], NullKeys::Distinct),
            };
            let rules = Rules { keys, null_keys, duplicates: &Duplicates::Allow };
            done.counts.source = incoming::stage(self.engine, &query, &replace.incoming, &rules).await?;
            query = Query::new(format!("SELECT * FROM {SOURCE}"));
            self.check_rows(&format!("SELECT * FROM {SOURCE}")).await?;
        }
        if let (Some(at), Replaced::Where(condition)) = (old, &replace.rows) {
            let found = format!("({})", condition.sql);
            let ranges = ranges::of_expressions(self.engine, [condition].into_iter(), &at.schema()).await?;
            before = self.delete(at, ranges, &found, "", feed, done).await?;
        }
        if let (Some(at), Replaced::Keys { keys, null_keys, predicates }) = (old, &replace.rows)
            && done.counts.source > 0
        {
            let mut ranges = incoming::facts(self.engine, &replace.incoming, keys, *null_keys).await?.ranges;
            ranges.extend(ranges::of_expressions(self.engine, predicates.iter(), &at.schema()).await?);
            let all: Vec<String> = predicates.iter().map(|p: &RowExpr| format!("({})", p.sql)).collect();
            let found = if all.is_empty() { "true".to_owned() } else { all.join(" AND ") };
            let join = format!(" SEMI JOIN {SOURCE} AS source ON {}", keys_equal(keys, *null_keys, &replace.incoming)?);
            before = self.delete(at, ranges, &found, &join, feed, done).await?;
        }
        self.phase(Phase::Writing);
        if before.is_some() && !laid_by {
            // The new rows are written twice: to the table and to the feed.
            let rules = Rules { keys: &[], null_keys: NullKeys::Distinct, duplicates: &Duplicates::Allow };
            done.counts.source = incoming::stage(self.engine, &query, &replace.incoming, &rules).await?;
            query = Query::new(format!("SELECT * FROM {SOURCE}"));
        }
        self.stage(&query, done).await?;
        if let (Some(at), Some(before)) = (old, before) {
            self.feed(replaced(&self.plan.schema, &at.schema(), &replace.incoming)?, before, false, done).await?;
        }
        if let (Some(at), Replaced::Partitions) = (old, &replace.rows) {
            self.drop_partitions(at, done).await?;
        }
        Ok(())
    }

    /// The query with the rows that are not taken left out, and an error for a row that must not be there.
    fn taken(&self, replace: &ReplacePlan) -> Query {
        if replace.check.is_none() && replace.keep.is_none() {
            return self.query.clone();
        }
        let keep = replace.keep.as_ref().map_or("true", |e| e.sql.as_str());
        let condition = match &replace.check {
            None => format!("({keep})"),
            Some(check) => {
                let text = format!("{LOSS}an incoming row does not fulfil {}", check.sql);
                format!(
                    "CASE WHEN ({}) THEN ({keep}) ELSE CAST(error({}) AS BOOLEAN) END",
                    check.sql,
                    quote_literal(&text)
                )
            }
        };
        let body = self.query.sql.trim().trim_end_matches(';');
        let mut query = self.query.clone();
        query.sql = format!("SELECT * FROM (\n{body}\n) AS source WHERE {condition}");
        query
    }

    /// Takes out the rows of the table that fulfil a condition. Where a change feed is due, it returns the files that lose rows, and
    /// their positions are laid by.
    async fn delete(
        &self,
        at: &Arc<dyn Snapshot>,
        ranges: Vec<duckrun_core::ColumnRange>,
        condition: &str,
        join: &str,
        feed: bool,
        done: &mut Done,
    ) -> Result<Option<FileSet>> {
        let mut set = at.files_within(&ranges).await?;
        set.positions = true;
        done.reads.ranges = ranges;
        done.reads.files = set.files.iter().map(|f| f.path.clone()).collect();
        if set.files.is_empty() {
            return Ok(None);
        }
        let target = RelationName::bare(TARGET)?;
        self.engine.register(&target, Relation::Files(set.clone())).await?;
        let from = format!("FROM {TARGET} AS target{join} WHERE {condition}");
        let counted = match feed {
            true => {
                let sql = format!("SELECT target.{FILE_INDEX} AS f, target.{ROW_NUMBER} AS r {from}");
                let query = Query::new(sql).with_joins_as_written(true).with_text_as_is(true);
                self.engine.materialize(&RelationName::bare(MATCHES)?, &query).await?;
                format!("SELECT f, count(*)::BIGINT AS n FROM {MATCHES}")
            }
            false => format!("SELECT target.{FILE_INDEX} AS f, count(*)::BIGINT AS n {from}"),
        };
        let found = numbers(self.engine, &format!("{counted} GROUP BY f ORDER BY f"), &["f", "n"]).await?;
        let (files, counts) =
            (found.column(0).as_primitive::<Int64Type>(), found.column(1).as_primitive::<Int64Type>());
        let (mut all, mut some) = (Vec::new(), Vec::new());
        let mut gone = 0;
        for (file, n) in files.values().iter().zip(counts.values()) {
            let file = usize::try_from(*file).unwrap_or(usize::MAX);
            let data = set.files.get(file).ok_or_else(|| Error::internal("a row of a file that was not read"))?;
            all.push(file);
            let deleted = data.deleted.as_ref().map_or(0, |d| d.len() as u64);
            if data.rows.is_some_and(|rows| rows.saturating_sub(deleted) == n.unsigned_abs()) {
                done.removed.push(data.path.clone());
                gone += n.unsigned_abs();
            } else {
                some.push(file);
            }
        }
        if !some.is_empty() {
            let (files, sql) = match feed {
                true => {
                    let some: Vec<String> = some.iter().map(usize::to_string).collect();
                    let rows = format!("f AS {FILE_INDEX}, r AS {ROW_NUMBER}, 2::TINYINT AS {ROW_CHANGE}");
                    let sql = format!("SELECT {rows} FROM {MATCHES} WHERE f IN ({}) ORDER BY 1, 2", some.join(", "));
                    (set.files.clone(), sql)
                }
                false => {
                    // Only these are read again.
                    let part = subset(&set, &some);
                    self.engine.register(&target, Relation::Files(part.clone())).await?;
                    let sql = format!(
                        "SELECT target.{FILE_INDEX} AS {FILE_INDEX}, target.{ROW_NUMBER} AS {ROW_NUMBER}, \
                         2::TINYINT AS {ROW_CHANGE} {from} ORDER BY 1, 2"
                    );
                    (part.files, sql)
                }
            };
            let schema = Arc::new(Schema::new(vec![
                Field::new(FILE_INDEX, DataType::Int64, false),
                Field::new(ROW_NUMBER, DataType::Int64, false),
                Field::new(ROW_CHANGE, DataType::Int8, false),
            ]));
            self.phase(Phase::Writing);
            let mut query = Query::new(sql).with_output(schema).with_joins_as_written(true);
            // As in a merge: the order that the SQL asks for has to survive several threads.
            query.keep_order = true;
            let changes = self.engine.query(&query).await?;
            let spec = RewriteSpec::new(self.spec(), files, false);
            let rewritten = self.store.rewrite(self.cx, at, &spec, changes).await?;
            done.staged.files.extend(rewritten.staged.files);
            done.removed.extend(rewritten.removed);
            gone += rewritten.rows_deleted;
            done.counts.copied += rewritten.rows_copied;
        }
        done.counts.deleted = Some(gone);
        Ok((feed && !some.is_empty()).then(|| subset(&set, &all)))
    }

    /// Removes every file of the partitions that were written.
    async fn drop_partitions(&self, at: &Arc<dyn Snapshot>, done: &mut Done) -> Result<()> {
        let snapshot: &DeltaSnapshot =
            at.as_any().downcast_ref().ok_or_else(|| Error::internal("a snapshot of another store"))?;
        let columns = Columns::of(snapshot)?;
        let written: BTreeSet<Vec<Option<String>>> =
            done.staged.files.iter().map(|f: &StagedFile| columns.key(&f.partition_values)).collect::<Result<_>>()?;
        for file in snapshot.live_files().await? {
            if written.contains(&columns.key(&file.partition_values)?) {
                done.counts.deleted = match (done.counts.deleted, file.live_rows()) {
                    (Some(all), Some(rows)) => Some(all + rows),
                    _ => None,
                };
                done.removed.push(file.path);
            }
        }
        Ok(())
    }
}

/// The partition columns, for comparing values that different writers have spelled differently.
struct Columns {
    columns: Vec<(String, DataType)>,
}

impl Columns {
    fn of(snapshot: &DeltaSnapshot) -> Result<Self> {
        let (schema, mapped) = (snapshot.schema(), snapshot.metadata().column_mapping());
        let columns = snapshot.partition_columns().iter().map(|name| {
            let at = schema
                .index_of(name)
                .map_err(|_| Error::corrupt(format!("the partition column {name:?} is not in the schema")))?;
            let physical = snapshot.delta_schema().fields[at].physical_name(mapped).to_owned();
            Ok((physical, schema.field(at).data_type().clone()))
        });
        Ok(Self { columns: columns.collect::<Result<_>>()? })
    }

    fn key(&self, values: &std::collections::BTreeMap<String, Option<String>>) -> Result<Vec<Option<String>>> {
        let one = |(name, ty): &(String, DataType)| -> Result<Option<String>> {
            let Some(text) = values.get(name).and_then(|v| v.as_deref()).filter(|t| !t.is_empty()) else {
                return Ok(None);
            };
            let value = parse_values(name, vec![Some(text)], ty)?;
            let shown = |e| Error::internal("a partition value cannot be shown").with_source(e);
            let options = FormatOptions::default();
            let formatter = ArrayFormatter::try_new(value.as_ref(), &options).map_err(shown)?;
            Ok(Some(formatter.value(0).to_string()))
        };
        self.columns.iter().map(one).collect()
    }
}
