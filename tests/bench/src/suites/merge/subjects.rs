//! The subjects `ours` and `limit`; see the suite for what each stands for. All of this runs in child processes.

use duckdb::Connection;
use duckrun::{FullSync, Insert, Merge, MicrobatchWindow, ReplaceWhere, Report};

use super::cases::{Case, Change, KEYS, MONTH, ONE_IN_A_HUNDRED, TWO_COLUMNS};
use crate::Result;
use crate::child::{Changes, Done, Job};
use crate::suites::lineitem::{TABLE, list};
use crate::suites::shared::{copy, files, quoted, runtime, session_builder};

pub(super) fn ours(job: &Job, case: &Case) -> Result<Done> {
    runtime(job)?.block_on(async {
        // Maintenance is no part of the change: ten files that are due for compaction would be compacted in the same run.
        let session = session_builder(job).maintenance(false).await?;
        let model = session.model(TABLE).files(files(job));
        let model = match case.source {
            Some(_) => model.sql(format!("select * from read_parquet({})", quoted(&job.input)?)),
            None => model,
        };
        let report = match case.change {
            Change::Upsert => model.strategy(Merge::on(KEYS)).run().await?,
            Change::UpdateColumns => model.strategy(Merge::on(KEYS).update_columns(TWO_COLUMNS)).run().await?,
            Change::Insert => model.strategy(Insert::on(KEYS)).run().await?,
            Change::Sync => model.strategy(FullSync::on(KEYS)).run().await?,
            Change::ReplaceWhere => model.strategy(ReplaceWhere::new(MONTH)).run().await?,
            Change::Microbatch => {
                model
                    .strategy(MicrobatchWindow::new(
                        "l_shipdate",
                        "1995-03-01T00:00:00Z".parse()?,
                        "1995-04-01T00:00:00Z".parse()?,
                    ))
                    .run()
                    .await?
            }
            Change::Delete => session.table(TABLE)?.delete(ONE_IN_A_HUNDRED).files(files(job)).run().await?,
            Change::Update => {
                let set = [("l_returnflag", "'X'"), ("l_linestatus", "'Y'")];
                session.table(TABLE)?.update(set, Some(ONE_IN_A_HUNDRED)).files(files(job)).run().await?
            }
        };
        done(report)
    })
}

fn done(report: Report) -> Result<Done> {
    let report = report.committed()?;
    let changes = report.metrics().map(Changes::from).unwrap_or_default();
    Ok(Done { changes: Some(changes), ..Done::default() })
}

/// Reads what decides (key columns, or the columns of the condition), and writes as many rows as a rewrite of the touched
/// files has to. It does not join and does not know which rows change.
pub(super) fn limit(job: &Job, case: &Case) -> Result<Done> {
    let db = Connection::open_in_memory()?;
    db.execute_batch(&format!("set threads = {}; set preserve_insertion_order = false", job.threads))?;
    let columns = match case.change {
        Change::Delete | Change::Update => "sum(l_partkey)",
        Change::Microbatch | Change::ReplaceWhere => "max(l_shipdate)",
        _ => "sum(l_orderkey), sum(l_linenumber)",
    };
    db.execute_batch(&format!("select {columns} from read_parquet({})", list(&job.files.scanned)?))?;
    let touched = || Ok::<_, crate::Error>(format!("read_parquet({})", list(&job.files.touched)?));
    let source = format!("read_parquet({})", quoted(&job.input)?);
    let inserted = job.files.inserted;
    let rows = match case.change {
        Change::Upsert | Change::UpdateColumns if job.files.touched.is_empty() => None,
        Change::Upsert | Change::UpdateColumns => {
            Some(format!("select * from {} union all (select * from {source} limit {inserted})", touched()?))
        }
        Change::Insert | Change::Sync => Some(format!("select * from {source}")),
        Change::Delete => Some(format!("select * from {} where not ({ONE_IN_A_HUNDRED})", touched()?)),
        Change::Update => Some(format!("select * from {}", touched()?)),
        Change::Microbatch | Change::ReplaceWhere => {
            Some(format!("select * from {} where not ({MONTH}) union all select * from {source}", touched()?))
        }
    };
    if let Some(rows) = rows {
        db.execute_batch(&copy(job, &rows, &job.output.join("limit.parquet"), "")?)?;
    }
    Ok(Done::default())
}
