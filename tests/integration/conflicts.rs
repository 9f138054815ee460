//! Every pair of operations on one table, one of which commits while the other is between its read and its commit.
//!
//! The operations are those of `../shared/cases/conflict_matrix.json`, which holds what delta-rs does with them: its newest
//! release has six pairs that end as neither order would. Ours must have none, as the winner and as the loser, against itself
//! and against delta-rs, whatever the moment: the result is that of running after the winner, or a refusal that leaves nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use deltalake::DeltaTable;
use deltalake::datafusion::logical_expr::{col, lit};
use deltalake::datafusion::prelude::SessionContext;
use deltalake::protocol::SaveMode;
use duckrun::{
    Append, CommitOutcome, Delete, DeltaStore, Insert, Location, Merge, MergeClause, Model, Overwrite, ReplaceWhere,
    SafeAppend, Session, TableStore, Update,
};
use duckrun_testkit::generate::arrow;
use duckrun_testkit::model::{self, Column, Compare, Expr, Rows, Table, Type, Value};
use duckrun_testkit::{Interleaved, Moment};

use crate::oracle::{self, delta_rs, files};
use crate::support::Lake;

/// The operations of the matrix, by its names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Op {
    Append,
    /// `append_cas`
    SafeAppend,
    Overwrite,
    /// `ow_pred`
    ReplaceWhere,
    MergeUpdate,
    MergeInsert,
    MergeUpsert,
    Delete,
    Delete5,
    Update,
    Compact,
}

const OPS: [Op; 11] = [
    Op::Append,
    Op::SafeAppend,
    Op::Overwrite,
    Op::ReplaceWhere,
    Op::MergeUpdate,
    Op::MergeInsert,
    Op::MergeUpsert,
    Op::Delete,
    Op::Delete5,
    Op::Update,
    Op::Compact,
];

const MOMENTS: [Moment; 4] = [Moment::Pinned, Moment::Stage, Moment::Rewrite, Moment::Commit];

fn columns() -> Vec<Column> {
    vec![Column::new("id", Type::Long), Column::new("v", Type::Long)]
}

fn rows(pairs: &[(i64, i64)]) -> Rows {
    Rows::new(columns(), pairs.iter().map(|(id, v)| vec![Value::Int(*id), Value::Int(*v)]).collect())
}

fn base() -> Rows {
    rows(&[(1, 0), (2, 0), (3, 0), (4, 0), (5, 0), (6, 0)])
}

impl Op {
    /// The incoming rows; `tag` tells winner and loser apart.
    fn incoming(self, tag: i64) -> Vec<(i64, i64)> {
        match self {
            Self::Append | Self::SafeAppend => vec![(700 + tag, tag)],
            Self::Overwrite | Self::ReplaceWhere => vec![(1, tag)],
            Self::MergeUpdate => vec![(1, tag), (3, tag)],
            Self::MergeInsert => vec![(900, tag)],
            Self::MergeUpsert => vec![(1, tag), (901, tag)],
            Self::Delete | Self::Delete5 | Self::Update | Self::Compact => Vec::new(),
        }
    }

    /// What the model says.
    fn apply(self, table: &mut Table, tag: i64) {
        let id = |n: i64| Expr::Target("id".into()).compare(Compare::Equal, Expr::Literal(Value::Int(n)));
        let incoming = rows(&self.incoming(tag));
        let upsert = model::Merge::upsert(["id"], &columns());
        let done = match self {
            Self::Append | Self::SafeAppend => table.append(&incoming),
            Self::Overwrite => Ok(table.overwrite(&incoming)),
            Self::ReplaceWhere => {
                let low = Expr::Target("id".into()).compare(Compare::LessOrEqual, Expr::Literal(Value::Int(2)));
                table.replace_where(&low, &incoming)
            }
            Self::MergeUpdate => {
                table.merge(&model::Merge { clauses: upsert.clauses[..1].to_vec(), ..upsert }, &incoming)
            }
            Self::MergeInsert => {
                table.merge(&model::Merge { clauses: upsert.clauses[1..].to_vec(), ..upsert }, &incoming)
            }
            Self::MergeUpsert => table.merge(&upsert, &incoming),
            Self::Delete => table.delete(Some(&id(1))),
            Self::Delete5 => table.delete(Some(&id(5))),
            Self::Update => table.update(&[("v".into(), Expr::Literal(Value::Int(tag)))], Some(&id(1))),
            Self::Compact => return,
        };
        done.unwrap();
    }

    /// The operation as a model of ours.
    fn model(self, session: &Session, tag: i64) -> Model {
        let incoming = self.incoming(tag);
        let model = session.model("a.t").files(files(1000));
        let values: Vec<String> = incoming.iter().map(|(id, v)| format!("({id}::bigint, {v}::bigint)")).collect();
        let with_rows = |m: Model| m.sql(format!("select * from (values {}) t(id, v)", values.join(", ")));
        match self {
            Self::Append => with_rows(model).strategy(Append::default()),
            Self::SafeAppend => with_rows(model).strategy(SafeAppend),
            Self::Overwrite => with_rows(model).strategy(Overwrite::default()),
            Self::ReplaceWhere => with_rows(model).strategy(ReplaceWhere::new("id <= 2")),
            Self::MergeUpdate => with_rows(model).strategy(Merge::on(["id"]).clause(MergeClause::matched_update())),
            Self::MergeInsert => with_rows(model).strategy(Insert::on(["id"])),
            Self::MergeUpsert => with_rows(model).strategy(Merge::on(["id"])),
            Self::Delete => model.strategy(Delete::rows_where("id = 1")),
            Self::Delete5 => model.strategy(Delete::rows_where("id = 5")),
            Self::Update => model.strategy(Update::new([("v", tag.to_string())]).rows_where("id = 1")),
            Self::Compact => panic!("compaction is no model"),
        }
    }

    /// The operation by plain delta-rs, through a handle that may be stale. Its own retries are as they are by default.
    async fn delta_rs(self, table: DeltaTable, tag: i64) -> Result<(), deltalake::DeltaTableError> {
        let batch = || arrow::batch(&rows(&self.incoming(tag))).unwrap();
        let id = |n: i64| col("id").eq(lit(n));
        let source = || SessionContext::new().read_batch(batch()).unwrap();
        let on = || col("target.id").eq(col("source.id"));
        let none = deltalake::kernel::transaction::CommitProperties::default().with_max_retries(0);
        match self {
            Self::Append => table.write(vec![batch()]).with_save_mode(SaveMode::Append).await.map(drop),
            Self::SafeAppend => {
                table.write(vec![batch()]).with_save_mode(SaveMode::Append).with_commit_properties(none).await.map(drop)
            }
            Self::Overwrite => table.write(vec![batch()]).with_save_mode(SaveMode::Overwrite).await.map(drop),
            Self::ReplaceWhere => {
                let low = col("id").lt_eq(lit(2_i64));
                table.write(vec![batch()]).with_save_mode(SaveMode::Overwrite).with_replace_where(low).await.map(drop)
            }
            Self::MergeUpdate | Self::MergeInsert | Self::MergeUpsert => {
                let mut merge = table.merge(source(), on()).with_source_alias("source").with_target_alias("target");
                if self != Self::MergeInsert {
                    merge = merge.when_matched_update(|u| u.update("v", col("source.v")))?;
                }
                if self != Self::MergeUpdate {
                    merge =
                        merge.when_not_matched_insert(|i| i.set("id", col("source.id")).set("v", col("source.v")))?;
                }
                merge.await.map(drop)
            }
            Self::Delete => table.delete().with_predicate(id(1)).await.map(drop),
            Self::Delete5 => table.delete().with_predicate(id(5)).await.map(drop),
            Self::Update => table.update().with_predicate(id(1)).with_update("v", lit(tag)).await.map(drop),
            Self::Compact => table.optimize().await.map(drop),
        }
    }
}

/// Six rows in three files, copied from a table that was written once.
async fn lake() -> Lake {
    static WRITTEN: tokio::sync::OnceCell<Lake> = tokio::sync::OnceCell::const_new();
    let from = WRITTEN.get_or_init(written).await.folder("a.t");
    let lake = Lake::new().await;
    let to = lake.folder("a.t");
    std::fs::create_dir_all(to.join("_delta_log")).unwrap();
    for file in duckrun_testkit::data_files(&from) {
        std::fs::copy(&file, to.join(file.file_name().unwrap())).unwrap();
    }
    for version in duckrun_testkit::log_versions(&from) {
        let name = format!("_delta_log/{version:020}.json");
        std::fs::copy(from.join(&name), to.join(&name)).unwrap();
    }
    lake
}

async fn written() -> Lake {
    let lake = Lake::new().await;
    for n in [1, 3, 5] {
        let sql = format!("select * from (values ({n}::bigint, 0::bigint), ({n} + 1, 0)) t(id, v)");
        lake.session.model("a.t").sql(sql).files(files(1000)).run().await.unwrap().committed().map(drop).unwrap();
    }
    lake
}

/// Who the winner is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Ours,
    DeltaRs,
}

/// How a pair ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// As if the loser had run after the winner.
    InOrder,
    /// The loser was refused.
    Refused,
}

const WINNER: i64 = 10;
const LOSER: i64 = 20;

/// Runs one operation of ours while another commits. `None` where the moment never comes.
async fn pair(winner: Op, loser: Op, moment: Moment, who: Who) -> Option<End> {
    let lake = lake().await;
    let folder = lake.folder("a.t");
    let inner: Arc<dyn TableStore> = Arc::new(DeltaStore::new(Location::local(&folder).unwrap()));
    let (session, place) = (lake.other().await, folder.clone());
    let store = Interleaved::new(inner, moment, async move {
        match who {
            Who::Ours if winner != Op::Compact => {
                winner.model(&session, WINNER).run().await.unwrap().committed().map(drop).unwrap();
            }
            _ => winner.delta_rs(delta_rs(&place).await, WINNER).await.unwrap(),
        }
    });
    let what = format!("{loser:?} at {moment:?}, while {winner:?} of {who:?} commits");
    let report = loser.model(&lake.session, LOSER).store(store.clone()).run().await;
    let report = report.unwrap_or_else(|e| panic!("{what}: {e}"));
    if !store.happened() {
        return None;
    }
    let mut expected = Table::new(base());
    winner.apply(&mut expected, WINNER);
    let end = match &report.outcome {
        CommitOutcome::Conflict { read, found, .. } => {
            assert_eq!((*read, *found), (Some(2), 3), "{what}: {report}");
            End::Refused
        }
        CommitOutcome::Committed(commit) => {
            assert_eq!(commit.version, 4, "{what}");
            loser.apply(&mut expected, LOSER);
            End::InOrder
        }
        CommitOutcome::NothingToDo(_) => {
            // Nothing to do is an answer like any other: it must be the one of the order.
            loser.apply(&mut expected, LOSER);
            End::InOrder
        }
        other => panic!("{what}: {other:?}"),
    };
    let got = oracle::read(&lake.session, "a.t", &columns()).await;
    assert!(
        &got == expected.rows(),
        "{what} ended as neither order would: {report}\ngot {got:?}\nexpected {:?}",
        expected.rows()
    );
    if end == End::Refused {
        assert_eq!(unnamed(&folder), Vec::<PathBuf>::new(), "{what}: a refused run left a file");
    }
    Some(end)
}

/// Data files that no commit has ever named.
fn unnamed(folder: &Path) -> Vec<PathBuf> {
    let log: String = duckrun_testkit::log_versions(folder)
        .iter()
        .map(|v| std::fs::read_to_string(folder.join(format!("_delta_log/{v:020}.json"))).unwrap())
        .collect();
    let name = |p: &PathBuf| p.file_name().unwrap().to_string_lossy().into_owned();
    duckrun_testkit::data_files(folder).into_iter().filter(|p| !log.contains(&name(p))).collect()
}

async fn matrix(who: Who, moments: &[Moment]) -> BTreeMap<(Op, Op), End> {
    let mut ends = BTreeMap::new();
    for loser in OPS.into_iter().filter(|op| *op != Op::Compact) {
        for winner in OPS {
            let mut seen = Vec::new();
            for moment in moments {
                seen.extend(pair(winner, loser, *moment, who).await.map(|end| (*moment, end)));
            }
            assert_eq!(seen.first().map(|(m, _)| *m), Some(Moment::Pinned), "{loser:?} after {winner:?}");
            // When the other one commits makes no difference to how it ends.
            let end = seen[0].1;
            assert!(seen.iter().all(|(_, e)| *e == end), "{loser:?} after {winner:?}: {seen:?}");
            ends.insert((winner, loser), end);
        }
    }
    for loser in OPS.into_iter().filter(|op| *op != Op::Compact) {
        let line: String =
            OPS.iter().map(|w| if ends[&(*w, loser)] == End::InOrder { " ok   " } else { " abort" }).collect();
        eprintln!("{:>14}{line}", format!("{loser:?}"));
    }
    ends
}

/// What must pass, beyond being right: a refusal of everything would be right too.
fn check(ends: &BTreeMap<(Op, Op), End>) {
    for winner in OPS.into_iter().filter(|op| *op != Op::Overwrite) {
        assert_eq!(ends[&(winner, Op::Append)], End::InOrder, "an append after {winner:?}");
    }
    for (winner, loser) in [
        (Op::Delete, Op::Delete5),
        (Op::Delete5, Op::Delete),
        (Op::Update, Op::Delete5),
        (Op::Append, Op::Delete),
        (Op::Append, Op::Update),
        (Op::Append, Op::MergeUpdate),
        (Op::Append, Op::MergeInsert),
        (Op::MergeUpdate, Op::Delete5),
        (Op::MergeInsert, Op::MergeUpdate),
        (Op::Compact, Op::SafeAppend),
        (Op::Compact, Op::Overwrite),
    ] {
        assert_eq!(ends[&(winner, loser)], End::InOrder, "{loser:?} after {winner:?}");
    }
    for winner in OPS.into_iter().filter(|op| *op != Op::Compact) {
        for loser in [Op::SafeAppend, Op::Overwrite] {
            assert_eq!(ends[&(winner, loser)], End::Refused, "{loser:?} after {winner:?}");
        }
    }
    for (winner, loser) in [
        (Op::MergeInsert, Op::MergeInsert),
        (Op::MergeUpsert, Op::MergeUpsert),
        (Op::Update, Op::MergeUpsert),
        (Op::Delete, Op::Update),
        (Op::Compact, Op::MergeUpsert),
    ] {
        assert_eq!(ends[&(winner, loser)], End::Refused, "{loser:?} after {winner:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ours_against_ours() {
    check(&matrix(Who::Ours, &MOMENTS).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn ours_as_the_later_writer_against_delta_rs() {
    check(&matrix(Who::DeltaRs, &[Moment::Pinned, Moment::Commit]).await);
}

/// Plain delta-rs as the stale later writer: what it does is not in our hands. It is asserted here, so that a release that
/// changes it is noticed; which pairs are wrong is upstream's published defect (delta-rs 1.1.3 of the Rust crates, see
/// conflict_matrix.json for 1.6.6 of the Python package): its check ignores removes with `dataChange=false`.
#[tokio::test(flavor = "multi_thread")]
async fn delta_rs_as_the_stale_later_writer_of_a_table_of_ours() {
    let mut wrong = Vec::new();
    let mut refused = 0;
    for loser in OPS {
        for winner in OPS {
            let lake = lake().await;
            let folder = lake.folder("a.t");
            let stale = delta_rs(&folder).await;
            match winner {
                Op::Compact => winner.delta_rs(delta_rs(&folder).await, WINNER).await.unwrap(),
                _ => winner.model(&lake.session, WINNER).run().await.unwrap().committed().map(drop).unwrap(),
            }
            let done = loser.delta_rs(stale, LOSER).await;
            let got = oracle::read(&lake.session, "a.t", &columns()).await;
            let mut expected = Table::new(base());
            winner.apply(&mut expected, WINNER);
            if done.is_err() {
                refused += 1;
                assert!(&got == expected.rows(), "{loser:?} after {winner:?} was refused and left {got:?}");
                continue;
            }
            loser.apply(&mut expected, LOSER);
            let mut reverse = Table::new(base());
            loser.apply(&mut reverse, LOSER);
            winner.apply(&mut reverse, WINNER);
            if &got != expected.rows() && &got != reverse.rows() {
                wrong.push((winner, loser));
            }
        }
    }
    eprintln!("delta-rs as the stale later writer: {refused} refused, wrong: {wrong:?}");
    assert_eq!(wrong, [(Op::Compact, Op::Overwrite), (Op::Compact, Op::Compact)]);
}
