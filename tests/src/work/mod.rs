//! The work that campaigns let writers do, and how its results are judged.
//!
//! A writer owns the rows of one table that carry its number. Each of its [`Operation`]s is a pure function from its rows to its
//! rows, written to a [`Ledger`] before it begins, so whoever replays the ledger knows to the row what the table must hold:
//! the rows before the last operation or the rows after it, and nothing in between.

mod child;
mod foreign;
mod judge;
mod ledger;
mod operation;
mod place;
mod reader;
mod run;
mod stand;

pub use child::{Child, Faults, Role, child};
pub use judge::{Broken, compare, settle};
pub use ledger::{End, Entry, Ledger, Pending, Replay};
pub use operation::{Kind, Mix, Operation, Row, Rows};
pub use place::{Place, Root, TABLE};
pub use run::{Features, create, read, run, vacuumed};
pub use stand::{Ended, Playground, Program, Stand};

/// Numbers that follow from a seed (SplitMix64), so that one seed is one campaign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numbers(u64);

impl Numbers {
    /// The numbers of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The numbers of a seed for one of its parts.
    #[must_use]
    pub fn of_part(seed: u64, part: u64) -> Self {
        let mut whole = Self(seed);
        Self(whole.next() ^ part.wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    /// The next number.
    #[expect(clippy::should_implement_trait, reason = "there is always a next one")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// The next number below a bound; 0 where the bound is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// One of several.
    ///
    /// # Panics
    /// Where there is none.
    pub fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }
}

/// A failure of the machine that a campaign runs on, not of what it tests.
pub(crate) fn machine(doing: &str) -> impl Fn(std::io::Error) -> duckrun::Error {
    let doing = doing.to_owned();
    move |e| duckrun::Error::new(duckrun::ErrorKind::Unavailable, format!("cannot {doing}: {e}")).with_source(e)
}
