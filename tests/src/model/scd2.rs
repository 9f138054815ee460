//! History as dbt's snapshots keep it: a version of a row is open until another one closes it.

use duckrun::core::NullKeys;

use super::merge::{check_nulls, key, keys_match, one_per_key};
use super::table::Counts;
use super::{Duplicates, Refusal, Rows, Table, Value};

/// How a change is recognised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changed {
    /// The incoming row's time is later than the open version's.
    UpdatedAt(String),
    /// One of these columns differs, NULL included.
    Columns(Vec<String>),
}

/// A history. The table has the incoming columns and these three: when a version began, when it ended (NULL while it is open),
/// and when its row was updated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scd2 {
    /// The key columns.
    pub keys: Vec<String>,
    /// How a change is recognised.
    pub changed: Changed,
    /// Whether versions end whose key the source no longer has.
    pub close_missing: bool,
    /// The time of the run, in microseconds.
    pub now: i64,
}

const FROM: &str = "dbt_valid_from";
const TO: &str = "dbt_valid_to";
const UPDATED: &str = "dbt_updated_at";

impl Table {
    /// `scd2`: versions of changed rows are closed and new ones opened; versions that are closed never change again.
    ///
    /// # Errors
    /// NULL and duplicate keys; columns that do not fit.
    pub fn scd2(&mut self, scd2: &Scd2, incoming: &Rows) -> Result<Counts, Refusal> {
        let (mut table, incoming) = self.fit(incoming)?;
        let (source_key, target_key) = (incoming.indexes(&scd2.keys)?, table.indexes(&scd2.keys)?);
        check_nulls(&incoming, &source_key, NullKeys::Refuse)?;
        let incoming = one_per_key(&incoming, &source_key, NullKeys::Refuse, &Duplicates::Refuse)?;
        if incoming.rows.is_empty() {
            // A source that failed to deliver does not count as one that lacks every row.
            return self.finish(table, Counts::default(), Vec::new());
        }
        let (from, to, updated) = (table.index(FROM)?, table.index(TO)?, table.index(UPDATED)?);
        let mut counts = Counts::default();
        let mut opened: Vec<&Vec<Value>> = Vec::new();
        let mut known = vec![false; incoming.rows.len()];
        let columns = table.columns.clone();
        let at = |name: &str| columns.iter().position(|c| c.name == name);
        for row in table.rows.iter_mut().filter(|r| r[to].is_null()) {
            let same = |s: &Vec<Value>| keys_match(&key(row, &target_key), &key(s, &source_key), NullKeys::Refuse);
            let Some(found) = incoming.rows.iter().position(same) else {
                if scd2.close_missing {
                    row[to] = Value::Timestamp(scd2.now);
                    counts.updated += 1;
                }
                continue;
            };
            known[found] = true;
            let new = &incoming.rows[found];
            let changed = match &scd2.changed {
                Changed::UpdatedAt(column) => {
                    let time = &new[incoming.index(column)?];
                    !time.is_null() && !row[updated].is_null() && time.order(&row[updated]).is_gt()
                }
                Changed::Columns(columns) => {
                    let mut any = false;
                    for column in columns {
                        let index = at(column).ok_or_else(|| Refusal::UnknownColumn(column.clone()))?;
                        any |= !new[incoming.index(column)?].matches(&row[index]);
                    }
                    any
                }
            };
            if changed {
                row[to] = time(scd2, &incoming, new)?;
                counts.updated += 1;
                opened.push(new);
            }
        }
        opened.extend(incoming.rows.iter().zip(&known).filter(|(_, known)| !**known).map(|(row, _)| row));
        let mut added = Vec::new();
        for row in opened {
            let mut new: Vec<Value> =
                table.columns.iter().map(|c| incoming.index(&c.name).map_or(Value::Null, |i| row[i].clone())).collect();
            new[from] = time(scd2, &incoming, row)?;
            new[updated] = new[from].clone();
            added.push(new);
        }
        counts.inserted = added.len();
        self.finish(table, counts, added)
    }
}

/// When the version of an incoming row begins.
fn time(scd2: &Scd2, incoming: &Rows, row: &[Value]) -> Result<Value, Refusal> {
    match &scd2.changed {
        Changed::UpdatedAt(column) => Ok(row[incoming.index(column)?].clone()),
        Changed::Columns(_) => Ok(Value::Timestamp(scd2.now)),
    }
}
