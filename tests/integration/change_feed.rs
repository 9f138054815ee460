//! Tables with a change feed (`delta.enableChangeDataFeed`): whatever changes them says in the feed what it did, row by row.
//!
//! The judge is the same everywhere ([`in_the_feed`]): the feed of a commit, applied to the rows before it, gives the rows after
//! it; it has as many rows of each kind as the commit reports; and delta-rs reads the same.

mod kept;
mod strategies;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use deltalake::datafusion::physical_plan::collect;
use deltalake::datafusion::prelude::SessionContext;
use duckrun::arrow::array::RecordBatch;
use duckrun::arrow::util::display::{ArrayFormatter, FormatOptions};
use duckrun::{At, Reader, Report};
use duckrun_testkit::data_files;
use duckrun_testkit::generate::{TableCase, merge_case};
use duckrun_testkit::model::{Column, Type};

use crate::maintained::actions;
use crate::merge_properties::{By, changed, check, merged, other_case};
use crate::oracle::{delta_rs, files, runtime};
use crate::support::Lake;

const FEED: &str = "delta.enableChangeDataFeed";

/// Rows as text; what is NULL cannot be taken for a text.
fn texts(batches: &[RecordBatch], columns: &[String]) -> Vec<String> {
    let options = FormatOptions::new().with_null("\u{0}");
    let mut rows = Vec::new();
    for batch in batches {
        let of = |name: &String| batch.column_by_name(name).unwrap().clone();
        let columns: Vec<_> = columns.iter().map(of).collect();
        let shown: Vec<_> = columns.iter().map(|c| ArrayFormatter::try_new(c.as_ref(), &options).unwrap()).collect();
        rows.extend((0..batch.num_rows()).map(|i| {
            let cells: Vec<String> = shown.iter().map(|f| f.value(i).to_string()).collect();
            cells.join("|")
        }));
    }
    rows.sort();
    rows
}

async fn text_of(reader: Reader, columns: &[String]) -> Vec<String> {
    texts(&reader.collect().await.unwrap(), columns)
}

/// The table's columns at its newest version.
async fn columns(lake: &Lake) -> Vec<String> {
    let snapshot = lake.session.snapshot("a.t", At::Latest).await.unwrap();
    snapshot.schema().fields().iter().map(|f| f.name().clone()).collect()
}

/// The feed of a version, as we read it: the table's columns and what happened.
async fn feed(lake: &Lake, version: u64) -> Vec<String> {
    let changes = lake.session.changes("a.t", version).unwrap().until(version);
    let with_change = [columns(lake).await, vec!["_change_type".to_owned()]].concat();
    text_of(lake.session.sql("select * from s").source("s", changes), &with_change).await
}

/// The same, as delta-rs reads it.
async fn their_feed(folder: &Path, columns: &[String], version: u64) -> Vec<String> {
    let mut table = delta_rs(folder).await;
    table.load().await.unwrap();
    let context = SessionContext::new();
    let feed = table.scan_cdf().with_starting_version(version).with_ending_version(version);
    let plan = feed.build(&context.state(), None).await.unwrap();
    let batches = collect(plan, context.task_ctx()).await.unwrap();
    texts(&batches, &[columns, &["_change_type".to_owned()]].concat())
}

/// Whether delta-rs reads the feed of such a table: it looks for change files under names that are encoded once too often where a
/// partition value needs encoding, and it does not leave out what a deletion vector hides in a file that is removed.
pub(crate) fn readable_by_delta_rs(case: &TableCase) -> bool {
    let odd = |c: &Column| case.partition_by.contains(&c.name) && matches!(c.ty, Type::Text | Type::Timestamp);
    !case.columns.iter().any(odd) && case.deleted.iter().all(Vec::is_empty)
}

/// How many changes of each kind a feed has, by their names.
fn kinds(feed: &[String]) -> BTreeMap<&str, u64> {
    let mut kinds = BTreeMap::new();
    for row in feed {
        *kinds.entry(row.rsplit_once('|').unwrap().1).or_default() += 1;
    }
    kinds
}

/// Judges the feed of a commit, and returns it.
pub(crate) async fn in_the_feed(lake: &Lake, report: &Report, by_delta_rs: bool) -> Result<Vec<String>, String> {
    let version = report.version().ok_or_else(|| format!("no commit: {report}"))?;
    let columns = columns(lake).await;
    let feed = feed(lake, version).await;
    if by_delta_rs {
        let theirs = their_feed(&lake.folder("a.t"), &columns, version).await;
        if theirs != feed {
            return Err(format!("delta-rs reads another feed of {version}: {theirs:#?}\nours: {feed:#?}"));
        }
    }
    let at = |version| lake.session.sql("select * from a.t").at("a.t", At::Version(version));
    // Columns that the commit has added are NULL before it.
    let before = at(version - 1).collect().await.unwrap();
    let schema = lake.session.snapshot("a.t", At::Version(version)).await.unwrap().schema();
    let before: Vec<RecordBatch> = before.iter().map(|batch| widened(batch, &schema)).collect();
    let mut rows: BTreeMap<String, i64> = BTreeMap::new();
    for row in texts(&before, &columns) {
        *rows.entry(row).or_default() += 1;
    }
    for change in &feed {
        let (row, kind) = change.rsplit_once('|').unwrap();
        let count = rows.entry(row.to_owned()).or_default();
        match kind {
            "insert" | "update_postimage" => *count += 1,
            "delete" | "update_preimage" => *count -= 1,
            other => return Err(format!("a change of the kind {other}")),
        }
    }
    let after = text_of(at(version), &columns).await;
    for row in &after {
        *rows.entry(row.clone()).or_default() -= 1;
    }
    rows.retain(|_, n| *n != 0);
    if !rows.is_empty() {
        return Err(format!("the rows of {version} and what the feed makes of {}: {rows:?}\n{feed:#?}", version - 1));
    }
    let metrics = report.metrics().ok_or("no figures")?;
    let kinds = kinds(&feed);
    let got = |kind: &str| kinds.get(kind).copied().unwrap_or_default();
    let counts = (got("insert"), got("update_preimage"), got("update_postimage"), Some(got("delete")));
    let written = (metrics.rows_inserted, metrics.rows_updated, metrics.rows_updated, metrics.rows_deleted);
    if counts != written {
        return Err(format!("the feed has {counts:?}, the commit reports {written:?}: {feed:#?}"));
    }
    Ok(feed)
}

fn widened(batch: &RecordBatch, schema: &duckrun::arrow::datatypes::SchemaRef) -> RecordBatch {
    let columns = schema.fields().iter().map(|f| match batch.column_by_name(f.name()) {
        Some(column) => column.clone(),
        None => duckrun::arrow::array::new_null_array(f.data_type(), batch.num_rows()),
    });
    RecordBatch::try_from_iter_with_nullable(schema.fields().iter().zip(columns).map(|(f, c)| (f.name(), c, true)))
        .unwrap()
}

/// The change files that are there.
fn change_files(folder: &Path) -> Vec<PathBuf> {
    data_files(folder).into_iter().filter(|p| p.strip_prefix(folder).unwrap().starts_with("_change_data")).collect()
}

fn cdc(lake: &Lake, version: u64) -> usize {
    actions(&lake.folder("a.t"), version).get("cdc").map_or(0, Vec::len)
}

/// Two files (or four, by partition): the ids 0 to 5, 6 to 11; `v` is the id, `p` its parity.
async fn table(partitioned: bool) -> Lake {
    let lake = Lake::new().await;
    for from in [0, 6] {
        let sql = "i::bigint as id, i::bigint as v, (i % 2)::integer as p";
        let model = lake.session.model("a.t").sql(format!("select {sql} from range({from}, {}) r(i)", from + 6));
        let model = model.files(files(1000)).property(FEED, "true");
        let model = if partitioned { model.partition_by(["p"]) } else { model };
        model.run().await.unwrap().committed().map(drop).unwrap();
    }
    lake
}

fn values(rows: &str) -> String {
    format!("select id::bigint as id, v::bigint as v, p::integer as p from (values {rows}) t(id, v, p)")
}

#[test]
fn merges_are_in_the_feed() {
    let runtime = runtime();
    check(48, &merge_case(), |case| runtime.block_on(merged(case, By::OursWithFeed)).map(drop));
}

#[test]
fn the_other_strategies_are_in_the_feed() {
    let runtime = runtime();
    check(64, &other_case(), |(case, other)| runtime.block_on(changed(case, other, true)));
}
