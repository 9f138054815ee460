//! A writer that is not ours: plain delta-rs, appending.

use std::sync::Arc;
use std::time::Duration;

use deltalake::logstore::{LogStoreRef, StorageConfig, default_logstore};
use deltalake::protocol::SaveMode;
use deltalake::{DeltaTable, DeltaTableBuilder};
use duckrun::arrow::array::{ArrayRef, Date32Array, Int64Array, RecordBatch};
use duckrun::{Error, ErrorKind, Result};
use object_store::prefix::PrefixStore;
use url::Url;

use super::child::Child;
use super::ledger::{End, Entry, Ledger};
use super::operation::{Kind, Mix, Operation};
use super::place::Root;
use super::{Numbers, judge};

pub(super) async fn append(orders: &Child, root: &Root, mut ledger: Ledger) -> Result<()> {
    let plain = root.session().maintenance(false).await?;
    let log = log_store(root)?;
    for _ in 0..orders.operations {
        if orders.stopped() {
            break;
        }
        let mut replay = ledger.replay()?;
        if replay.pending.is_some() {
            replay = judge::settle(&plain, orders.writer, &mut ledger).await?;
        }
        if !replay.violations.is_empty() {
            break;
        }
        let number = replay.last + 1;
        let mut numbers = Numbers::of_part(orders.seed, number as u64);
        let mut operation = Operation::choose(Mix::Only(Kind::Append), number, &[], &mut numbers);
        operation.kind = Kind::Append;
        ledger.write(&Entry::Intent(operation.clone()))?;
        let end = End::of_others(write(&log, orders.writer, &operation).await);
        ledger.write(&Entry::End { number, end, faults: 0 })?;
        tokio::time::sleep(Duration::from_millis(orders.pause)).await;
    }
    Ok(())
}

async fn write(log: &LogStoreRef, writer: i64, operation: &Operation) -> Result<()> {
    let failed = |e| Error::new(ErrorKind::Unavailable, "delta-rs failed").with_source(e);
    let mut table = DeltaTable::new(log.clone());
    table.load().await.map_err(failed)?;
    let column = |value: &dyn Fn(&super::Row) -> i64| -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(operation.rows.iter().map(value)))
    };
    let days = super::operation::day(writer).timestamp() / (24 * 60 * 60);
    let day: ArrayRef = Arc::new(Date32Array::from(vec![days as i32; operation.rows.len()]));
    let batch = RecordBatch::try_from_iter([
        ("writer", column(&|_| writer)),
        ("id", column(&|r| r.id)),
        ("op", column(&|r| r.op)),
        ("val", column(&|r| r.val)),
        ("day", day),
    ])
    .map_err(|e| Error::internal(e.to_string()))?;
    table.write(vec![batch]).with_save_mode(SaveMode::Append).await.map(drop).map_err(failed)
}

/// The log of the table as delta-rs sees it, in whatever store it is.
fn log_store(root: &Root) -> Result<LogStoreRef> {
    if let Some(folder) = root.folder() {
        let url = Url::from_directory_path(folder).map_err(|()| Error::invalid("the folder has no URL"))?;
        let builder = DeltaTableBuilder::from_url(url).and_then(|builder| builder.build_storage());
        return builder.map_err(|e| Error::invalid("delta-rs cannot open the folder").with_source(e));
    }
    let mut url = Url::parse("lake://campaign/").map_err(|e| Error::internal(e.to_string()))?;
    url.set_path(&format!("{}/", root.table()));
    let store = Arc::new(PrefixStore::new(root.store.clone(), root.table()));
    Ok(default_logstore(store, root.store.clone(), &url, &StorageConfig::default()))
}
