//! A reader beside writers: whatever version it reads must be a state that the ledgers know, no older than what was acknowledged
//! before it began, and the same when it is read again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use duckrun::{At, ErrorKind, Result};

use super::child::Child;
use super::judge::Broken;
use super::ledger::{Entry, Ledger};
use super::operation::Rows;
use super::place::{Place, Root};
use super::{Numbers, run};

pub(super) async fn read(orders: &Child, of: &[(i64, PathBuf)], root: &Root, mut ledger: Ledger) -> Result<()> {
    let session = root.session().maintenance(false).await?;
    let mut numbers = Numbers::new(orders.seed);
    let mut seen: BTreeMap<u64, BTreeMap<i64, Rows>> = BTreeMap::new();
    let mut newest = 0;
    while !orders.stopped() {
        let acknowledged: Vec<usize> =
            of.iter().map(|(_, path)| Ledger::read(path).map(|r| r.states.len() - 1)).collect::<Result<_>>()?;
        match run::read(&session, At::Latest).await {
            Ok((version, rows)) => {
                if version < newest {
                    let text = format!("version {version} is the newest, but {newest} was");
                    ledger.write(&Entry::Violation(Broken { torn: 1, text, ..Broken::default() }))?;
                }
                newest = newest.max(version);
                for ((writer, path), least) in of.iter().zip(acknowledged) {
                    let found = rows.get(writer).cloned().unwrap_or_default();
                    if let Some(broken) = judge(*writer, path, least, &found, version)? {
                        ledger.write(&Entry::Violation(broken))?;
                    }
                }
                seen.insert(version, rows);
                ledger.write(&Entry::Read { versions: 1 })?;
            }
            Err(e) if passes(orders, &e) => {}
            Err(e) => ledger.write(&Entry::Violation(Broken::other(format!("a reader failed: {e}"))))?,
        }
        // A version that was read before reads the same, whatever was compacted or appended meanwhile.
        let versions: Vec<u64> = seen.keys().copied().collect();
        if let Some(version) = (!versions.is_empty()).then(|| numbers.one_of(&versions)) {
            match run::read(&session, At::Version(version)).await {
                Ok((_, rows)) if rows == seen[&version] => ledger.write(&Entry::Read { versions: 1 })?,
                Ok((_, rows)) => {
                    let text = format!("version {version} was {:?} and is {rows:?}", seen[&version]);
                    ledger.write(&Entry::Violation(Broken { torn: 1, text, ..Broken::default() }))?;
                }
                Err(e) if passes(orders, &e) => {}
                Err(e) => {
                    ledger.write(&Entry::Violation(Broken::other(format!("version {version} cannot be read: {e}"))))?;
                }
            }
        }
        if seen.len() > 200 {
            seen.pop_first();
        }
        tokio::time::sleep(Duration::from_millis(orders.pause)).await;
    }
    Ok(())
}

/// A network may fail a reader.
fn passes(orders: &Child, e: &duckrun::Error) -> bool {
    e.kind() == ErrorKind::Unavailable && matches!(orders.place, Place::Url { .. })
}

/// The ledger is read after the table, so that it knows every operation that could be seen.
fn judge(writer: i64, path: &Path, least: usize, found: &Rows, version: u64) -> Result<Option<Broken>> {
    let replay = Ledger::read(path)?;
    let pending = replay.pending.as_ref().is_some_and(|p| p.after == *found);
    if pending || replay.states.iter().skip(least).any(|state| state == found) {
        return Ok(None);
    }
    let stale = replay.states.iter().rposition(|state| state == found);
    let what = match stale {
        Some(state) => format!("state {state}, although state {least} had been acknowledged"),
        None => format!("a state that never was: {found:?}"),
    };
    let text = format!("a reader of version {version} saw of writer {writer} {what}");
    Ok(Some(match stale {
        Some(_) => Broken { lost: 1, text, ..Broken::default() },
        None => Broken { torn: 1, text, ..Broken::default() },
    }))
}
