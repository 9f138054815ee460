//! A broken promise, counted by its kind.

use std::collections::BTreeMap;

use crate::Tally;
use crate::model::Rows;

/// What was seen and what should have been.
#[derive(Debug, Clone, Default)]
pub(super) struct Violation {
    text: String,
    lost: u64,
    phantom: u64,
    torn: u64,
    duplicate: u64,
}

/// Boxed, because it is rare.
pub(super) type Failure = Box<Violation>;

impl Violation {
    /// Anything that is not about rows.
    pub(super) fn other(what: impl std::fmt::Display) -> Self {
        Self { text: what.to_string(), ..Self::default() }
    }

    /// The difference between two sets of rows, if there is one.
    pub(super) fn between(what: &str, got: &Rows, wanted: &Rows) -> Result<(), Failure> {
        if got == wanted {
            return Ok(());
        }
        let mut counts: BTreeMap<String, (i64, i64)> = BTreeMap::new();
        got.sorted().into_iter().for_each(|row| counts.entry(row).or_default().0 += 1);
        wanted.sorted().into_iter().for_each(|row| counts.entry(row).or_default().1 += 1);
        let mut found = Self { text: format!("{what} is not as the model says"), ..Self::default() };
        for (row, (got, wanted)) in counts {
            let (kind, n) = match (got, wanted) {
                _ if got == wanted => continue,
                _ if got < wanted => {
                    found.lost += (wanted - got) as u64;
                    ("lost", wanted - got)
                }
                (_, 0) => {
                    found.phantom += got as u64;
                    ("phantom", got)
                }
                _ => {
                    found.duplicate += (got - wanted) as u64;
                    ("duplicate", got - wanted)
                }
            };
            found.text.push_str(&format!("\n  {kind} {n}: {}", cut(&row, 400)));
        }
        Err(Box::new(found))
    }

    /// The same, of a version that had been right before.
    pub(super) fn torn(mut self: Box<Self>) -> Box<Self> {
        self.torn += 1;
        self
    }

    /// Counts it, with the words that say how to see it again.
    pub(super) fn count(&self, tally: &mut Tally, again: &str) {
        tally.lost += self.lost;
        tally.phantom += self.phantom;
        tally.torn += self.torn;
        tally.duplicate += self.duplicate;
        tally.violations.push(format!("{}\n{again}", cut(&self.text, 6_000)));
    }
}

/// The beginning of a text.
pub(super) fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}
