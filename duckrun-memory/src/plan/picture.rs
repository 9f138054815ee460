//! A plan for people: one line for the log, and a picture for an operator.

use std::fmt;

use super::MemoryPlan;
use crate::Bytes;

/// The width of the picture's longest bar.
const BAR: u64 = 40;

impl fmt::Display for MemoryPlan {
    /// One line, for the log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "memory plan for {}: limit {} ({}), duckdb {} with {}, writer {} ({}, row groups of {} rows or {}, {})",
            self.job,
            Bytes(self.limit),
            self.bound_by,
            Bytes(self.engine),
            count(self.threads, "thread"),
            Bytes(self.writer),
            count(self.writers, "writer"),
            self.row_group_rows,
            Bytes(self.row_group_bytes),
            count(self.uploads_in_flight, "upload"),
        )?;
        if self.delta_rs > 0 {
            write!(f, ", delta-rs {} (pool {})", Bytes(self.delta_rs), Bytes(self.delta_rs_pool))?;
        }
        write!(f, ", reserve {}, process {}", Bytes(self.reserve), Bytes(self.process))?;
        match self.runs_at_a_time() {
            1 => Ok(()),
            runs => write!(f, ", one of {runs} runs at a time"),
        }
    }
}

impl MemoryPlan {
    /// The shares as bars, several lines, for an operator.
    ///
    /// ```
    /// use duckrun_memory::{plan, EffectiveLimit, Job, MemorySettings};
    /// let limit = EffectiveLimit::explicit(512 << 20, 2);
    /// let plan = plan(&limit, &MemorySettings::default(), Job::Write)?;
    /// println!("{}", plan.picture());
    /// # Ok::<(), duckrun_memory::Error>(())
    /// ```
    pub fn picture(&self) -> String {
        let writer = format!(
            "{}, row groups of {} rows or {}, {} of {} in flight",
            count(self.writers, "writer"),
            self.row_group_rows,
            Bytes(self.row_group_bytes),
            count(self.uploads_in_flight, "upload"),
            Bytes(super::constants::UPLOAD_PART),
        );
        let delta_rs = format!("pool of {}", Bytes(self.delta_rs_pool));
        let others = self.capacity().saturating_sub(self.lease_bytes());
        let rows = [
            ("process", self.process, "counted once".to_owned()),
            ("duckdb", self.engine, format!("memory_limit, {}", count(self.threads, "thread"))),
            ("writer", self.writer, writer),
            ("delta-rs", self.delta_rs, delta_rs),
            ("reserve", self.reserve, "what duckdb takes beyond its limit".to_owned()),
            ("other runs", others, format!("{} runs at a time", self.runs_at_a_time())),
        ];
        let mut text =
            format!("memory plan for {}\n{:>12} {:>10}  {}\n", self.job, "limit", Bytes(self.limit), self.bound_by);
        for (name, bytes, note) in rows.into_iter().filter(|(_, bytes, _)| *bytes >= 1 << 20) {
            let length = u128::from(bytes) * u128::from(BAR) / u128::from(self.limit.max(1));
            let bar = "#".repeat((length as usize).max(1));
            text.push_str(&format!("{name:>12} {:>10}  {bar:<width$} {note}\n", Bytes(bytes), width = BAR as usize));
        }
        text.push_str(&format!("{:>12} {:>10}  below {}\n", "spill", self.spill_cap(), self.spill_place()));
        text
    }

    fn spill_cap(&self) -> String {
        match self.spill.max_bytes {
            Some(bytes) => format!("<= {}", Bytes(bytes)),
            None => "free disk".to_owned(),
        }
    }

    fn spill_place(&self) -> String {
        let place = match &self.spill.dir {
            Some(dir) => dir.display().to_string(),
            None => "the system's temporary directory".to_owned(),
        };
        format!("{place}, leaving {} of the disk free", Bytes(self.spill.disk_reserve))
    }
}

fn count(number: usize, noun: &str) -> String {
    match number {
        1 => format!("1 {noun}"),
        _ => format!("{number} {noun}s"),
    }
}

#[cfg(test)]
mod tests {
    use crate::{EffectiveLimit, Job, MIB, MemorySettings, plan};

    #[test]
    fn the_log_line_is_one_line_and_the_picture_names_every_share() {
        let limit = EffectiveLimit::explicit(1024 * MIB, 2);
        let plan = plan(&limit, &MemorySettings::default(), Job::MergeDeltaRs).unwrap();
        let line = plan.to_string();
        assert!(!line.contains('\n') && line.contains("1 GiB (explicit limit)"), "{line}");
        let picture = plan.picture();
        for name in ["process", "duckdb", "writer", "delta-rs", "reserve", "spill"] {
            assert!(picture.contains(name), "{picture}");
        }
    }
}
