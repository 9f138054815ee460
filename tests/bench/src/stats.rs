//! Medians, and how they are shown: a table for people, JSON lines for programs.

use serde::Serialize;

use crate::child::{Codec, Figures};
use crate::suites::Case;
use crate::written::Written;

/// One subject of one case: medians over its runs.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Summary {
    pub(crate) suite: &'static str,
    pub(crate) case: &'static str,
    pub(crate) subject: &'static str,
    pub(crate) codec: Codec,
    pub(crate) cpu_s: f64,
    pub(crate) wall_s: f64,
    pub(crate) peak_mb: f64,
    pub(crate) rows: u64,
    pub(crate) files_written: u64,
    pub(crate) bytes_written: u64,
    /// Commits (or their like) in one run; the figures above are for all of them together.
    pub(crate) operations: u64,
    pub(crate) runs: usize,
    pub(crate) cpu_min_s: f64,
    pub(crate) cpu_max_s: f64,
    /// The control, measured before the case: 2.0 is two whole processors.
    pub(crate) two_thread_speedup: f64,
}

impl Summary {
    /// Medians of a subject's runs; `None` without a run.
    pub(crate) fn new(
        suite: &'static str,
        case: &Case,
        subject: &'static str,
        runs: &[(Figures, Written)],
        two_thread_speedup: f64,
    ) -> Option<Self> {
        let of = |f: fn(&(Figures, Written)) -> f64| median(runs.iter().map(f));
        let cpu = || runs.iter().map(|(figures, _)| figures.cpu_s);
        Some(Self {
            suite,
            case: case.name,
            subject,
            codec: case.codec,
            cpu_s: of(|r| r.0.cpu_s)?,
            wall_s: of(|r| r.0.wall_s)?,
            peak_mb: of(|r| r.0.peak_mb)?,
            rows: of(|r| r.1.rows as f64)? as u64,
            files_written: of(|r| r.1.files as f64)? as u64,
            bytes_written: of(|r| r.1.bytes as f64)? as u64,
            operations: case.operations,
            runs: runs.len(),
            cpu_min_s: cpu().fold(f64::INFINITY, f64::min),
            cpu_max_s: cpu().fold(0.0, f64::max),
            two_thread_speedup,
        })
    }
}

/// The middle value, or the mean of the two middle ones; `None` of nothing.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        n if n % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

/// A table of a case's subjects, each set against the subject named `limit`.
pub(crate) fn table(subjects: &[Summary]) -> String {
    let limit = subjects.iter().find(|s| s.subject == "limit");
    let per_operation = subjects.iter().any(|s| s.operations > 1);
    let mut out = format!(
        "  {:<14} {:>7} {:>15} {:>8} {:>8} {:>12} {:>6} {:>9} {:>10} {:>10}",
        "subject", "CPU s", "min to max", "wall s", "peak MB", "rows", "files", "MB", "CPU/limit", "peak-limit"
    );
    if per_operation {
        out.push_str(&format!(" {:>8} {:>8}", "ms each", "CPU ms"));
    }
    for s in subjects {
        let ratio = limit.map_or("-".to_owned(), |l| format!("{:.2}", s.cpu_s / l.cpu_s));
        let above = limit.map_or("-".to_owned(), |l| format!("{:+.0} MB", s.peak_mb - l.peak_mb));
        out.push_str(&format!(
            "\n  {:<14} {:>7.2} {:>15} {:>8.2} {:>8.0} {:>12} {:>6} {:>9.1} {:>10} {:>10}",
            s.subject,
            s.cpu_s,
            format!("{:.2} to {:.2}", s.cpu_min_s, s.cpu_max_s),
            s.wall_s,
            s.peak_mb,
            s.rows,
            s.files_written,
            s.bytes_written as f64 / 1e6,
            ratio,
            above,
        ));
        if per_operation {
            let each = 1_000.0 / s.operations as f64;
            out.push_str(&format!(" {:>8.2} {:>8.2}", s.wall_s * each, s.cpu_s * each));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median([]), None);
        assert_eq!(median([3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }
}
