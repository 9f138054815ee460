//! What the matches say about the incoming rows of a whole table: one bit for each incoming row and for each row of the table.
//!
//! Where as many rows come in as there are, grouping all keys to find one that occurs twice, and another join to find the
//! rows that match nothing, take a quarter of what the merge's own join takes. The join has seen all of it: two incoming rows with
//! one key both match the same row of the table, or both match nothing. Bits cost an eighth of a byte a row, and a quarter of that time.

use duckrun_core::{Duplicates, EngineSession, MergePlan, Result};

use super::incoming::{self, Rules, count};
use super::sql::{MATCHED_BITS, MATCHES, SOURCE};

/// The most rows that bits are kept of: 8 MiB for every thread and kind of row.
const MOST_BITS: u64 = 1 << 26;

/// Whether matches can stand for a check of the keys: there is one to be made, and nothing but equal keys decides on a match.
pub(super) fn may_stand_in(merge: &MergePlan) -> bool {
    merge.source
        && !merge.fresh
        && merge.duplicates == Duplicates::Refuse
        && !merge.keys.is_empty()
        && merge.predicates.is_empty()
        && merge.clauses.iter().all(|c| !c.also_insert)
}

/// Whether so many rows can be marked.
pub(super) fn fit(incoming: u64, existing: u64) -> bool {
    incoming <= MOST_BITS && existing <= MOST_BITS
}

/// Marks the incoming rows that match ([`MATCHED_BITS`]), and refuses two with one key. `rows` are the rows of each file.
///
/// # Errors
/// As [`incoming::check`].
pub(super) async fn mark(engine: &dyn EngineSession, rules: &Rules<'_>, rows: &[u64]) -> Result<()> {
    let last = count(engine, &format!("SELECT max(rowid)::BIGINT AS n FROM {SOURCE}")).await?;
    engine
        .execute(&format!("SET VARIABLE {MATCHED_BITS} = (SELECT bitstring_agg(m.s, 0, {last}) FROM {MATCHES} AS m)"))
        .await?;
    let mut before = 0;
    let first: Vec<String> = rows
        .iter()
        .map(|rows| {
            let first = before;
            before += rows;
            first.to_string()
        })
        .collect();
    // What lies beyond the rows that the log counts falls together, and is looked at more closely below.
    let end = before.saturating_sub(1);
    let position = format!("least(([{}]::BIGINT[])[m.f + 1] + m.r, {end})", first.join(", "));
    let twice = format!(
        "SELECT (count(*) - coalesce(bit_count(bitstring_agg({position}, 0, {end})), 0))::BIGINT AS n \
         FROM {MATCHES} AS m WHERE m.s IS NOT NULL"
    );
    match count(engine, &twice).await? {
        0 => {
            incoming::check(engine, rules, &format!("(SELECT * FROM {SOURCE} AS source WHERE {})", unmatched("rowid")))
                .await
        }
        _ => incoming::check(engine, rules, SOURCE).await,
    }
}

/// The condition that an incoming row, named by its `rowid`, matches nothing.
pub(super) fn unmatched(id: &str) -> String {
    format!("coalesce(get_bit(getvariable('{MATCHED_BITS}'), source.{id}::INTEGER), 0) = 0")
}
