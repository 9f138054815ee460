//! Strategies that take rows out and put all incoming rows in.

use chrono::{DateTime, Datelike, Months, TimeDelta, TimeZone, Utc};
use duckrun::core::NullKeys;

use super::expr::Scope;
use super::merge::{check_nulls, key, keys_match};
use super::table::{Counts, aligned, retain};
use super::{Expr, Refusal, Rows, Table, Value};

/// The length of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// One hour.
    Hour,
    /// One day (UTC).
    Day,
    /// One calendar month.
    Month,
    /// One calendar year.
    Year,
}

impl Unit {
    /// The beginning of the window that holds a time.
    pub fn floor(self, t: DateTime<Utc>) -> DateTime<Utc> {
        let day = t.date_naive().and_time(chrono::NaiveTime::MIN);
        let naive = match self {
            Self::Hour => day + TimeDelta::hours(i64::from(chrono::Timelike::hour(&t))),
            Self::Day => day,
            Self::Month => day - TimeDelta::days(i64::from(t.day0())),
            Self::Year => day - TimeDelta::days(i64::from(t.ordinal0())),
        };
        Utc.from_utc_datetime(&naive)
    }

    /// The beginning of the window `n` later.
    pub fn add(self, t: DateTime<Utc>, n: i32) -> DateTime<Utc> {
        let months = |t: DateTime<Utc>, n: i32| {
            let by = Months::new(n.unsigned_abs());
            if n < 0 { t - by } else { t + by }
        };
        match self {
            Self::Hour => t + TimeDelta::hours(i64::from(n)),
            Self::Day => t + TimeDelta::days(i64::from(n)),
            Self::Month => months(t, n),
            Self::Year => months(t, 12 * n),
        }
    }
}

/// The windows of a microbatch run at a time: from `begin` on a first run, else from `lookback` windows before the present one,
/// up to and with the window that holds `now`.
pub fn windows(
    unit: Unit,
    begin: DateTime<Utc>,
    now: DateTime<Utc>,
    lookback: i32,
    first_run: bool,
) -> Vec<(DateTime<Utc>, DateTime<Utc>)> {
    let begin = unit.floor(begin);
    let mut start = if first_run { begin } else { unit.add(unit.floor(now), -lookback) };
    let mut out = Vec::new();
    while start <= now {
        let end = unit.add(start, 1);
        out.push((start, end));
        start = end;
    }
    out
}

impl Table {
    /// `delete_insert`: the rows go whose key occurs among the incoming rows and that fulfil the predicates; all incoming rows
    /// come. Keys may occur several times.
    ///
    /// # Errors
    /// NULL keys where they are refused; columns that do not fit.
    pub fn delete_insert(
        &mut self,
        keys: &[String],
        null_keys: NullKeys,
        predicates: &[Expr],
        incoming: &Rows,
    ) -> Result<Counts, Refusal> {
        let (mut table, incoming) = self.fit(incoming)?;
        let (source_key, target_key) = (incoming.indexes(keys)?, table.indexes(keys)?);
        check_nulls(&incoming, &source_key, null_keys)?;
        self.replace(&mut table, &incoming, |scope| {
            let row = scope.target_row.unwrap_or_default();
            let occurs =
                incoming.rows.iter().any(|s| keys_match(&key(row, &target_key), &key(s, &source_key), null_keys));
            Ok(occurs && predicates.iter().map(|p| p.holds(scope)).collect::<Result<Vec<_>, _>>()?.iter().all(|h| *h))
        })
    }

    /// `replace_where`: the rows that fulfil the condition go, all incoming rows come and must fulfil it too.
    ///
    /// # Errors
    /// Incoming rows for which the condition is not true; columns that do not fit.
    pub fn replace_where(&mut self, condition: &Expr, incoming: &Rows) -> Result<Counts, Refusal> {
        let (mut table, incoming) = self.fit(incoming)?;
        let full = Rows::new(table.columns.clone(), aligned(&table, &incoming));
        let mut outside = 0;
        for row in &full.rows {
            let scope = Scope { target: &full, target_row: Some(row), source: &full, source_row: None };
            outside += usize::from(!condition.holds(scope)?);
        }
        if outside > 0 {
            return Err(Refusal::OutsideReplaced(outside));
        }
        self.replace(&mut table, &incoming, |scope| condition.holds(scope))
    }

    /// `insert_overwrite`: the partitions that occur among the incoming rows are replaced. NULL is a partition.
    ///
    /// # Errors
    /// Columns that do not fit.
    pub fn insert_overwrite(&mut self, partition_by: &[String], incoming: &Rows) -> Result<Counts, Refusal> {
        self.delete_insert(partition_by, NullKeys::Equal, &[], incoming)
    }

    /// One window of a `microbatch`: the rows whose event time lies in `[start, end)` (microseconds) go, the incoming rows that
    /// lie in it come, the others are dropped.
    ///
    /// # Errors
    /// Incoming rows without event time; columns that do not fit.
    pub fn window(&mut self, event_time: &str, start: i64, end: i64, incoming: &Rows) -> Result<Counts, Refusal> {
        let (mut table, mut incoming) = self.fit(incoming)?;
        let (from, to) = (incoming.index(event_time)?, table.index(event_time)?);
        let inside = |v: &Value| match v {
            Value::Timestamp(t) => (start..end).contains(t),
            Value::Date(d) => (start..end).contains(&(i64::from(*d) * 86_400_000_000)),
            _ => false,
        };
        let nulls = incoming.rows.iter().filter(|r| r[from].is_null()).count();
        if nulls > 0 {
            return Err(Refusal::NullEventTime(nulls));
        }
        incoming.rows.retain(|r| inside(&r[from]));
        self.replace(&mut table, &incoming, |scope| Ok(scope.target_row.is_some_and(|r| inside(&r[to]))))
    }

    fn replace(
        &mut self,
        table: &mut Rows,
        incoming: &Rows,
        goes: impl Fn(Scope<'_>) -> Result<bool, Refusal>,
    ) -> Result<Counts, Refusal> {
        let before = table.rows.len();
        retain(table, |scope| Ok(!goes(scope)?))?;
        let deleted = before - table.rows.len();
        let added = aligned(table, incoming);
        let counts = Counts { inserted: added.len(), deleted, ..Counts::default() };
        self.finish(table.clone(), counts, added)
    }
}
