//! The judge: what the table holds of a writer, against what its ledger says.

use std::collections::BTreeMap;

use duckrun::{At, Result, Session};
use serde::{Deserialize, Serialize};

use super::ledger::{Entry, Ledger, Replay};
use super::operation::Row;
use crate::Tally;

/// A broken promise: how many rows (or versions), and in words.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Broken {
    /// Acknowledged rows that are missing.
    pub lost: u64,
    /// Rows that nobody acknowledged.
    pub phantom: u64,
    /// States that are neither before nor after an operation.
    pub torn: u64,
    /// Rows that are there more than once.
    pub duplicate: u64,
    /// In words.
    pub text: String,
}

impl Broken {
    /// Another promise, in words.
    pub fn other(text: impl Into<String>) -> Self {
        Self { text: text.into(), ..Self::default() }
    }

    /// Adds it to a tally, with the seed that shows it again.
    pub fn count(&self, seed: u64, tally: &mut Tally) {
        tally.lost += self.lost;
        tally.phantom += self.phantom;
        tally.torn += self.torn;
        tally.duplicate += self.duplicate;
        tally.violations.push(format!("seed {seed}: {}", self.text));
    }
}

/// Compares the rows of a writer with what must be there.
///
/// # Errors
/// The difference, counted.
pub fn compare(expected: &[Row], found: &[Row]) -> Result<(), Broken> {
    if expected == found {
        return Ok(());
    }
    let mut balance: BTreeMap<Row, i64> = BTreeMap::new();
    for row in expected {
        *balance.entry(*row).or_default() -= 1;
    }
    for row in found {
        *balance.entry(*row).or_default() += 1;
    }
    let mut broken = Broken::default();
    for (row, more) in &balance {
        match more {
            ..0 => broken.lost += more.unsigned_abs(),
            0 => {}
            _ if expected.contains(row) => broken.duplicate += more.unsigned_abs(),
            _ => broken.phantom += more.unsigned_abs(),
        }
    }
    broken.text = format!("expected {expected:?}, found {found:?}");
    Err(broken)
}

/// Compares with what a ledger allows. `Some` says whether the pending operation was applied, where there is one.
///
/// # Errors
/// The difference, counted.
pub(super) fn allowed(replay: &Replay, found: &[Row]) -> Result<Option<bool>, Broken> {
    let Some(pending) = &replay.pending else { return compare(&replay.rows, found).map(|()| None) };
    if found == pending.after {
        return Ok(Some(true));
    }
    if found == replay.rows {
        return Ok(Some(false));
    }
    Err(Broken {
        torn: 1,
        text: format!(
            "neither before nor after {:?}: {found:?} is neither {:?} nor {:?}",
            pending.operation, replay.rows, pending.after
        ),
        ..Broken::default()
    })
}

/// Reads the table and finds out what became of a writer's pending operation, which is written to its ledger. Whatever contradicts the
/// ledger is a broken promise, and is written there too. The writer must not be running.
///
/// # Errors
/// The table's or the file system's. That the table cannot be read is for the caller to judge.
pub async fn settle(session: &Session, writer: i64, ledger: &mut Ledger) -> Result<Replay> {
    let replay = ledger.replay()?;
    let (version, mut found) = super::read(session, At::Latest).await?;
    let found = found.remove(&writer).unwrap_or_default();
    match allowed(&replay, &found) {
        Ok(None) => return Ok(replay),
        Ok(Some(applied)) => ledger.write(&Entry::Settled { number: replay.last, applied })?,
        Err(broken) => {
            let text =
                format!("writer {writer} at version {version}, after operation {}: {}", replay.last, broken.text);
            ledger.write(&Entry::Violation(Broken { text, ..broken }))?;
        }
    }
    ledger.replay()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_counted_by_their_nature() {
        let row = |id| Row { id, op: 1, val: 0 };
        let expected = [row(1), row(2)];
        assert_eq!(compare(&expected, &expected), Ok(()));
        let count =
            |found: &[Row]| compare(&expected, found).map_err(|b| (b.lost, b.phantom, b.duplicate)).unwrap_err();
        assert_eq!(count(&[row(1)]), (1, 0, 0));
        assert_eq!(count(&[row(1), row(2), row(2)]), (0, 0, 1));
        assert_eq!(count(&[row(1), row(3)]), (1, 1, 0));
    }
}
