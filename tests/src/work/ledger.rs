//! The ledger of a writer: what it was about to do and what it was told, synced to disk line by line.
//!
//! Invariant: an operation begins only once its intent is on disk, so every row that can be in the table has a line here. A line
//! that a crash cut off stands for an intent that never began, or for an answer that nobody got.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use duckrun::Result;
use serde::{Deserialize, Serialize};

use super::machine;
use super::operation::{Operation, Rows};

/// How an operation ended, as its writer was told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// It is in the table.
    Committed,
    /// There was nothing to do.
    Nothing,
    /// Another writer was first.
    Conflict,
    /// Nobody can tell.
    Unknown,
    /// It failed, and is certain not to be in the table.
    Refused {
        /// The kind of the error.
        kind: String,
        /// Its text.
        message: String,
    },
}

/// A line of a ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entry {
    /// An operation is about to begin.
    Intent(Operation),
    /// It has ended; so many faults were injected meanwhile.
    End {
        /// The operation's number.
        number: i64,
        /// How.
        end: End,
        /// Injected faults.
        faults: u64,
    },
    /// What became of an operation whose end nobody was told, found out by reading the table.
    Settled {
        /// The operation's number.
        number: i64,
        /// Whether it is in the table.
        applied: bool,
    },
    /// A promise was seen broken.
    Violation(super::Broken),
    /// A reader read so many versions.
    Read {
        /// How many.
        versions: u64,
    },
}

/// An operation whose end is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// The operation.
    pub operation: Operation,
    /// The writer's rows if it was applied.
    pub after: Rows,
}

/// What a ledger says in the end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Replay {
    /// The writer's rows, before the pending operation.
    pub rows: Rows,
    /// The operation whose end is not known; at most the last one.
    pub pending: Option<Pending>,
    /// The rows after each operation that was applied, the empty beginning first.
    pub states: Vec<Rows>,
    /// The number of the last operation.
    pub last: i64,
    /// Operations that began.
    pub operations: u64,
    /// Operations that are in the table.
    pub commits: u64,
    /// Operations that another writer kept from happening.
    pub conflicts: u64,
    /// Operations that failed, with kind and text.
    pub refused: Vec<(Operation, String, String)>,
    /// Injected faults.
    pub faults: u64,
    /// Versions that a reader read.
    pub reads: u64,
    /// Promises that were seen broken.
    pub violations: Vec<super::Broken>,
}

impl Replay {
    /// Follows the lines of a ledger.
    #[must_use]
    pub fn of(entries: &[Entry]) -> Self {
        let mut replay = Self { states: vec![Rows::new()], ..Self::default() };
        for entry in entries {
            replay.follow(entry);
        }
        replay
    }

    fn follow(&mut self, entry: &Entry) {
        match entry {
            Entry::Intent(operation) => {
                self.operations += 1;
                self.last = operation.number;
                self.pending = Some(Pending { after: operation.apply(&self.rows), operation: operation.clone() });
            }
            Entry::End { number, end, faults } => {
                self.faults += faults;
                let Some(pending) = self.pending.take_if(|p| p.operation.number == *number) else { return };
                match end {
                    End::Committed => self.applied(pending),
                    End::Nothing if pending.after == self.rows => {}
                    End::Nothing => self.violations.push(super::Broken::other(format!(
                        "{:?} was answered with \"nothing to do\", but there was",
                        pending.operation
                    ))),
                    End::Conflict => self.conflicts += 1,
                    End::Unknown => self.pending = Some(pending),
                    End::Refused { kind, message } => {
                        self.refused.push((pending.operation, kind.clone(), message.clone()));
                    }
                }
            }
            Entry::Settled { number, applied } => {
                if let Some(pending) = self.pending.take_if(|p| p.operation.number == *number)
                    && *applied
                {
                    self.applied(pending);
                }
            }
            Entry::Violation(broken) => self.violations.push(broken.clone()),
            Entry::Read { versions } => self.reads += versions,
        }
    }

    fn applied(&mut self, pending: Pending) {
        self.commits += 1;
        self.rows = pending.after;
        self.states.push(self.rows.clone());
    }
}

/// A file of [`Entry`]s, one a line.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    file: File,
}

impl Ledger {
    /// Opens a ledger to append to it; it is created where it is missing.
    ///
    /// # Errors
    /// The file system's.
    pub fn open(path: &Path) -> Result<Self> {
        let failed = machine("open the ledger");
        let mut file = OpenOptions::new().create(true).append(true).read(true).open(path).map_err(&failed)?;
        // A line that a crash cut off must not swallow the next one.
        let length = file.metadata().map_err(&failed)?.len();
        if length > 0 {
            let mut last = [0];
            file.seek(SeekFrom::Start(length - 1)).map_err(&failed)?;
            file.read_exact(&mut last).map_err(&failed)?;
            if last != *b"\n" {
                file.write_all(b"\n").map_err(&failed)?;
            }
        }
        Ok(Self { path: path.to_owned(), file })
    }

    /// Appends a line and waits until it is on disk.
    ///
    /// # Errors
    /// The file system's.
    pub fn write(&mut self, entry: &Entry) -> Result<()> {
        let mut line = serde_json::to_vec(entry).map_err(|e| duckrun::Error::internal(e.to_string()))?;
        line.push(b'\n');
        // One write, so that readers never see half a line of a writer that lives.
        self.file.write_all(&line).and_then(|()| self.file.sync_data()).map_err(machine("write the ledger"))
    }

    /// What the ledger says now.
    ///
    /// # Errors
    /// The file system's.
    pub fn replay(&self) -> Result<Replay> {
        Self::read(&self.path)
    }

    /// What a ledger says; nothing where it does not exist.
    ///
    /// # Errors
    /// The file system's.
    pub fn read(path: &Path) -> Result<Replay> {
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(machine("read the ledger")(e)),
        };
        let entries: Vec<Entry> =
            text.split(|b| *b == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
        Ok(Replay::of(&entries))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Mix, Numbers};
    use super::*;

    #[test]
    fn a_line_that_was_cut_off_counts_as_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let mut numbers = Numbers::new(1);
        let append = |number, numbers: &mut Numbers| {
            Operation::choose(Mix::Only(super::super::Kind::Append), number, &[], numbers)
        };
        let mut ledger = Ledger::open(&path).unwrap();
        ledger.write(&Entry::Intent(append(1, &mut numbers))).unwrap();
        ledger.write(&Entry::End { number: 1, end: End::Committed, faults: 0 }).unwrap();
        let whole = ledger.replay().unwrap();
        assert_eq!((whole.commits, whole.pending.as_ref()), (1, None));
        ledger.file.write_all(b"{\"intent\":{\"ki").unwrap();
        let mut ledger = Ledger::open(&path).unwrap();
        assert_eq!(ledger.replay().unwrap(), whole);
        ledger.write(&Entry::Intent(append(2, &mut numbers))).unwrap();
        ledger.write(&Entry::End { number: 2, end: End::Unknown, faults: 3 }).unwrap();
        let replay = ledger.replay().unwrap();
        assert!(replay.pending.is_some() && replay.faults == 3 && replay.rows == whole.rows);
        ledger.write(&Entry::Settled { number: 2, applied: true }).unwrap();
        assert_eq!(ledger.replay().unwrap().states.len(), 3);
    }
}
