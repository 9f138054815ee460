//! What a campaign counts. Every part of a campaign (simulation, operations on real tables, kills, chaos, faults) returns one
//! [`Tally`]; they add up, and a campaign without a violation is one in which [`Tally::is_clean`] holds.

use serde::Serialize;

/// Counts of a campaign, or of a part of one.
///
/// `lost`, `phantom`, `torn` and `duplicate` count rows or versions that broke a promise; each of them also has a line in
/// [`violations`](Self::violations), which says what was seen and how to see it again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Tally {
    /// Operations that ran: writes, table changes, maintenance, reads, whatever their outcome.
    pub operations: u64,
    /// Versions that were committed.
    pub commits: u64,
    /// Operations that were refused because another writer was first.
    pub conflicts: u64,
    /// Faults that were injected: failed or lost requests, full disks, broken writes.
    pub faults: u64,
    /// Processes that were killed, or futures that were dropped, in the middle of an operation.
    pub kills: u64,
    /// Acknowledged rows that are missing.
    pub lost: u64,
    /// Rows that nobody acknowledged and whose operation is known not to have been applied.
    pub phantom: u64,
    /// Reads that saw a part of a commit, or a version that changed after it was read.
    pub torn: u64,
    /// Rows of one operation that are there more than once.
    pub duplicate: u64,
    /// Every broken promise, in words, with the seed that shows it again.
    pub violations: Vec<String>,
}

impl Tally {
    /// Nothing was lost, invented, torn or doubled, and no other promise was broken.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.lost == 0 && self.phantom == 0 && self.torn == 0 && self.duplicate == 0 && self.violations.is_empty()
    }

    /// Adds the counts of another part.
    pub fn absorb(&mut self, other: Self) {
        self.operations += other.operations;
        self.commits += other.commits;
        self.conflicts += other.conflicts;
        self.faults += other.faults;
        self.kills += other.kills;
        self.lost += other.lost;
        self.phantom += other.phantom;
        self.torn += other.torn;
        self.duplicate += other.duplicate;
        self.violations.extend(other.violations);
    }
}
