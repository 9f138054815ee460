//! `microbatch`: windows of a time column, each replaced in one commit of its own.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Schema, SchemaRef, TimeUnit};
use chrono::{DateTime, Datelike, Days, Months, NaiveDate, NaiveTime, TimeDelta, Timelike, Utc};
use duckrun_core::memory::Job;
use duckrun_core::{
    Bound, Comparison, ConflictPolicy, Error, ReplacePlan, Replaced, Result, RowExpr, Strategy, StrategyRun,
    TableOptions, TableState, WriteAction, WritePlan,
};
use serde::{Deserialize, Serialize};

use super::expr::{source_column, target_column};
use super::fit::find;
use super::{change, changed, check_partitions, contract, fit, replacement, serializable, validate_options};

/// Most windows of one run.
const MAX_WINDOWS: usize = 100_000;

/// The size of a batch, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BatchSize {
    /// An hour.
    Hour,
    /// A day.
    Day,
    /// A month.
    Month,
    /// A year.
    Year,
}

impl BatchSize {
    /// The beginning of the batch that a time lies in.
    fn truncate(self, at: DateTime<Utc>) -> DateTime<Utc> {
        let date = at.date_naive();
        let hour = if self == Self::Hour { at.hour() } else { 0 };
        let date = match self {
            Self::Hour | Self::Day => Some(date),
            Self::Month => date.with_day(1),
            Self::Year => NaiveDate::from_ymd_opt(date.year(), 1, 1),
        };
        let time = NaiveTime::from_hms_opt(hour, 0, 0).unwrap_or_default();
        date.map_or(at, |date| date.and_time(time).and_utc())
    }

    /// The beginning of a batch, so many batches later.
    fn later(self, at: DateTime<Utc>, batches: u32) -> Option<DateTime<Utc>> {
        match self {
            Self::Hour => at.checked_add_signed(TimeDelta::try_hours(batches.into())?),
            Self::Day => at.checked_add_days(Days::new(batches.into())),
            Self::Month => at.checked_add_months(Months::new(batches)),
            Self::Year => at.checked_add_months(Months::new(batches.checked_mul(12)?)),
        }
    }

    /// So many batches earlier.
    fn earlier(self, at: DateTime<Utc>, batches: u32) -> Option<DateTime<Utc>> {
        match self {
            Self::Hour => at.checked_sub_signed(TimeDelta::try_hours(batches.into())?),
            Self::Day => at.checked_sub_days(Days::new(batches.into())),
            Self::Month => at.checked_sub_months(Months::new(batches)),
            Self::Year => at.checked_sub_months(Months::new(batches.checked_mul(12)?)),
        }
    }

    fn label(self, at: DateTime<Utc>) -> String {
        let format = match self {
            Self::Hour => "%Y-%m-%dT%H",
            Self::Day => "%Y-%m-%d",
            Self::Month => "%Y-%m",
            Self::Year => "%Y",
        };
        at.format(format).to_string()
    }
}

/// Replaces windows of a time column, one after another, each in a commit of its own.
///
/// The windows follow dbt: from the batch that now lies in, less the lookback (1 by default), up to that batch; a table that is new
/// or rebuilt starts at [`begin`](Microbatch::begin); with begin and end, the windows between them. The SQL runs once for
/// every window and reads it as `getvariable('batch_start')` and `getvariable('batch_end')` (text, UTC); rows outside the window are
/// left out, and a NULL event time is an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Microbatch {
    event_time: String,
    size: BatchSize,
    begin: Option<DateTime<Utc>>,
    end: Option<DateTime<Utc>>,
    lookback: u32,
}

impl Microbatch {
    /// Batches of a size on a column of dates or timestamps.
    pub fn new(event_time: impl Into<String>, size: BatchSize) -> Self {
        Self { event_time: event_time.into(), size, begin: None, end: None, lookback: 1 }
    }

    /// Where a new table starts; with an end, where the windows start. Taken back to the beginning of its batch.
    #[must_use]
    pub fn begin(mut self, begin: DateTime<Utc>) -> Self {
        self.begin = Some(begin);
        self
    }

    /// Where the windows end, exclusive; the last one may be shorter than a batch.
    #[must_use]
    pub fn end(mut self, end: DateTime<Utc>) -> Self {
        self.end = Some(end);
        self
    }

    /// How many batches before the present one are replaced as well.
    #[must_use]
    pub fn lookback(mut self, batches: u32) -> Self {
        self.lookback = batches;
        self
    }

    fn windows(&self, now: DateTime<Utc>, fresh: bool) -> Result<Vec<(DateTime<Utc>, DateTime<Utc>)>> {
        let range = || Error::invalid("the windows lie outside the calendar");
        let current = self.size.truncate(now);
        let (start, end) = match (self.begin, self.end) {
            (Some(begin), Some(end)) => (self.size.truncate(begin), end),
            (None, Some(_)) => return Err(Error::invalid("a microbatch with an end needs a begin")),
            (Some(begin), None) if fresh => (self.size.truncate(begin), self.size.later(current, 1).ok_or_else(range)?),
            (None, None) if fresh => {
                return Err(Error::invalid("the table is new or rebuilt: say where its windows begin (begin)"));
            }
            _ => (
                self.size.earlier(current, self.lookback).ok_or_else(range)?,
                self.size.later(current, 1).ok_or_else(range)?,
            ),
        };
        let mut windows = Vec::new();
        let mut from = start;
        while from < end {
            if windows.len() == MAX_WINDOWS {
                return Err(Error::invalid(format!("there are more than {MAX_WINDOWS} windows: take larger batches")));
            }
            let to = self.size.later(from, 1).ok_or_else(range)?;
            windows.push((from, to.min(end)));
            from = to;
        }
        match windows.is_empty() {
            true => Err(Error::invalid(format!("there is no window between {start} and {end}"))),
            false => Ok(windows),
        }
    }
}

impl Strategy for Microbatch {
    fn name(&self) -> &str {
        "microbatch"
    }

    fn job(&self) -> Job {
        Job::MergeDuckDb
    }

    fn runs(&self, now: DateTime<Utc>, fresh: bool) -> Result<Option<Vec<StrategyRun>>> {
        let windows = self.windows(now, fresh)?;
        let run = |(start, end): (DateTime<Utc>, DateTime<Utc>)| {
            let window = MicrobatchWindow::new(&self.event_time, start, end);
            let mut run = StrategyRun::new(self.size.label(start), Arc::new(window));
            let variable = |at: DateTime<Utc>| at.format("%Y-%m-%d %H:%M:%S%.f").to_string().into();
            run.variables.insert("batch_start".to_owned(), variable(start));
            run.variables.insert("batch_end".to_owned(), variable(end));
            run
        };
        Ok(Some(windows.into_iter().map(run).collect()))
    }

    fn validate(&self, options: &TableOptions) -> Vec<String> {
        let mut problems = validate_options(options);
        if self.event_time.is_empty() {
            problems.push("a microbatch needs the name of its event_time column".to_owned());
        }
        match (self.begin, self.end) {
            (None, Some(_)) => problems.push("a microbatch with an end needs a begin".to_owned()),
            (Some(begin), Some(end)) if begin >= end => {
                problems.push(format!("the begin {begin} is not before the end {end}"));
            }
            _ => {}
        }
        problems
    }

    fn plan(&self, _target: &TableState, _incoming: &SchemaRef) -> Result<WritePlan> {
        Err(Error::invalid("a microbatch is several runs, and each has a plan of its own (see Strategy::runs)"))
    }
}

/// Replaces the rows of one window `[start, end)` of a time column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MicrobatchWindow {
    event_time: String,
    start: DateTime<Utc>,
    end: DateTime<Utc>,
}

/// How a column of times is compared with a window.
struct Axis {
    column: String,
    start: String,
    end: String,
}

impl MicrobatchWindow {
    /// A window on a column of dates or timestamps; timestamps without zone are taken as UTC.
    pub fn new(event_time: impl Into<String>, start: DateTime<Utc>, end: DateTime<Utc>) -> Self {
        Self { event_time: event_time.into(), start, end }
    }

    /// The column and the window in its type.
    fn axis(&self, schema: &Schema) -> Result<Axis> {
        let Some(field) = find(schema, &self.event_time) else {
            return Err(Error::invalid(format!("the event_time column {:?} does not exist", self.event_time)));
        };
        let literal = |at: DateTime<Utc>| match field.data_type() {
            // A day is at or after a time exactly if it is at or after the first midnight from there.
            DataType::Date32 => {
                let date = at.date_naive();
                let midnight = date.and_time(NaiveTime::MIN).and_utc() == at;
                let day = if midnight { Some(date) } else { date.checked_add_days(Days::new(1)) };
                day.map(|day| format!("DATE '{}'", day.format("%Y-%m-%d")))
            }
            DataType::Timestamp(TimeUnit::Microsecond, None) => {
                Some(format!("TIMESTAMP '{}'", at.format("%Y-%m-%d %H:%M:%S%.6f")))
            }
            DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => {
                Some(format!("TIMESTAMPTZ '{}+00'", at.format("%Y-%m-%d %H:%M:%S%.6f")))
            }
            _ => None,
        };
        match (literal(self.start), literal(self.end)) {
            (Some(start), Some(end)) => Ok(Axis { column: field.name().clone(), start, end }),
            _ => Err(Error::invalid(format!(
                "the event_time column {:?} is {}: it must be a date or a timestamp",
                self.event_time,
                field.data_type()
            ))),
        }
    }
}

impl Axis {
    fn inside(&self, column: &RowExpr) -> RowExpr {
        let sql = format!("{0} >= {1} AND {0} < {2}", column.sql, self.start, self.end);
        RowExpr::new(sql, column.target.clone(), column.source.clone())
    }

    /// The rows of the table in the window.
    fn rows(&self) -> RowExpr {
        let mut rows = self.inside(&target_column(&self.column));
        rows.bounds = vec![
            Bound::new(&self.column, Comparison::GreaterOrEqual, &self.start),
            Bound::new(&self.column, Comparison::Less, &self.end),
        ];
        rows
    }

    /// What is asked of the incoming rows.
    fn incoming(&self, replace: &mut ReplacePlan) {
        let column = source_column(&self.column);
        replace.keep = Some(self.inside(&column));
        let present = format!("{} IS NOT NULL", column.sql);
        replace.check = Some(RowExpr::new(present, BTreeSet::new(), column.source));
    }
}

impl Strategy for MicrobatchWindow {
    fn name(&self) -> &str {
        "microbatch"
    }

    fn job(&self) -> Job {
        Job::MergeDuckDb
    }

    fn validate(&self, options: &TableOptions) -> Vec<String> {
        let mut problems = validate_options(options);
        if self.start >= self.end {
            problems.push(format!("the window's start {} is not before its end {}", self.start, self.end));
        }
        problems
    }

    fn plan(&self, target: &TableState, incoming: &SchemaRef) -> Result<WritePlan> {
        let Some(table) = changed(target) else {
            let mut plan = replacement(self.name(), target, incoming, ConflictPolicy::CompareAndSwap)?;
            let axis = self.axis(incoming)?;
            let mut replace = ReplacePlan::new(Replaced::Where(axis.rows()), incoming.clone());
            replace.fresh = true;
            axis.incoming(&mut replace);
            plan.action = WriteAction::Replace(Box::new(replace));
            return Ok(plan);
        };
        check_partitions(table, &target.options)?;
        let mut fit = fit(&table.schema, incoming, target.options.on_schema_change)?;
        fit.check_required()?;
        fit.warn_dropped(|_| false);
        let axis = self.axis(&table.schema)?;
        if find(&fit.incoming, &axis.column).is_none() {
            return Err(Error::invalid(format!("the SQL's result lacks the event_time column {:?}", axis.column)));
        }
        let mut replace = ReplacePlan::new(Replaced::Where(axis.rows()), fit.incoming.clone());
        axis.incoming(&mut replace);
        let action = WriteAction::Replace(Box::new(replace));
        let plan = change(self.name(), action, table, target, fit, serializable(target));
        contract::complete(plan, target, incoming)
    }
}
