//! The policy trait and the policies that ship. A policy is a pure function: no clock, no store, no state that changes.

use std::fmt::Debug;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use duckrun_core::Result;
use duckrun_core::maintenance::{Action, Glance, TableStats};

use crate::{PolicySettings, cadence, compact, occasion};

/// Decides what a table needs.
///
/// # Contract
/// Implemented by this crate and by embedders. After a data commit [`after_commit`](crate::after_commit) asks
/// [`is_occasion`](Self::is_occasion), and only where that says so are the statistics read and [`decide`](Self::decide) asked;
/// [`run`](crate::run) asks `decide` at once.
///
/// - Pure: the same statistics and time give the same actions, in the order in which they should be carried out.
/// - Cheap: called after every write, also of tables with 100,000 files; it does not block.
/// - At rest: after its actions were carried out it should ask for nothing, or every write pays for them again.
/// - What it asks for is a wish: the executor re-reads the table, skips what no longer applies, and never changes data.
///
/// A policy that panics does not fail the run; the fault is in the report.
///
/// ```
/// use chrono::{DateTime, Utc};
/// use duckrun_core::maintenance::{Action, Glance, TableStats};
/// use duckrun_maintenance::MaintenancePolicy;
///
/// #[derive(Debug)]
/// struct CheckpointEveryCommit;
///
/// impl MaintenancePolicy for CheckpointEveryCommit {
///     fn decide(&self, stats: &TableStats, _now: DateTime<Utc>) -> Vec<Action> {
///         if stats.commits_since_checkpoint > 0 { vec![Action::Checkpoint] } else { vec![] }
///     }
/// }
/// ```
pub trait MaintenancePolicy: Send + Sync + Debug {
    /// Whether something can be due after this commit, so that the statistics are worth reading, which takes a few requests of
    /// the store and a replay of the log. By default always.
    ///
    /// A pure function as well, so that processes that live for one run maintain a table as one that lives for many.
    fn is_occasion(&self, glance: &Glance, now: DateTime<Utc>) -> bool {
        let _ = (glance, now);
        true
    }

    /// The actions that the table needs now, in order.
    fn decide(&self, stats: &TableStats, now: DateTime<Utc>) -> Vec<Action>;
}

impl<P: MaintenancePolicy + ?Sized> MaintenancePolicy for Arc<P> {
    fn is_occasion(&self, glance: &Glance, now: DateTime<Utc>) -> bool {
        (**self).is_occasion(glance, now)
    }

    fn decide(&self, stats: &TableStats, now: DateTime<Utc>) -> Vec<Action> {
        (**self).decide(stats, now)
    }
}

/// The policy that ships: follows [`PolicySettings`], as the crate's documentation describes.
///
/// The order is compaction, z-order, vacuum, checkpoint, log clean-up: what commits comes before the checkpoint, so that the
/// checkpoint covers it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DefaultPolicy(PolicySettings);

impl DefaultPolicy {
    /// A policy with settings.
    ///
    /// # Errors
    /// Those of [`PolicySettings::validate`].
    pub fn new(settings: PolicySettings) -> Result<Self> {
        settings.validate()?;
        Ok(Self(settings))
    }

    /// The settings.
    pub fn settings(&self) -> &PolicySettings {
        &self.0
    }
}

impl MaintenancePolicy for DefaultPolicy {
    fn is_occasion(&self, glance: &Glance, now: DateTime<Utc>) -> bool {
        occasion::is_occasion(&self.0, glance, now)
    }

    fn decide(&self, stats: &TableStats, now: DateTime<Utc>) -> Vec<Action> {
        let mut actions = compact::actions(&self.0, stats);
        actions.extend(cadence::vacuum(&self.0, stats, now, &actions));
        let checkpoint = cadence::checkpoint(&self.0, stats, &actions);
        let clean_log = cadence::clean_log(&self.0, stats, now, checkpoint.is_some());
        actions.extend(checkpoint);
        actions.extend(clean_log);
        actions
    }
}

/// Never asks for anything: maintenance is switched off, or done by somebody else.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Disabled;

impl MaintenancePolicy for Disabled {
    fn is_occasion(&self, _glance: &Glance, _now: DateTime<Utc>) -> bool {
        false
    }

    fn decide(&self, _stats: &TableStats, _now: DateTime<Utc>) -> Vec<Action> {
        Vec::new()
    }
}

/// Asks for the actions that a caller named, whatever the statistics: `optimize`, `z-order`, `vacuum` as commands, with the same
/// runner and report as the automatic ones.
///
/// For one [`run`](crate::run); left in place as a table's policy it would ask every time. Retentions of vacuums are lifted to
/// the table's and [`SAFE_RETENTION`](crate::SAFE_RETENTION), unless [`allow_unsafe_retention`](Self::allow_unsafe_retention).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OnRequest {
    actions: Vec<Action>,
    unsafe_retention: bool,
}

impl OnRequest {
    /// Exactly these actions, in this order.
    pub fn new(actions: impl IntoIterator<Item = Action>) -> Self {
        Self { actions: actions.into_iter().collect(), unsafe_retention: false }
    }

    /// Takes the retention of a vacuum as it is. What that risks: [`PolicySettings::unsafe_retention`].
    #[must_use]
    pub fn allow_unsafe_retention(mut self) -> Self {
        self.unsafe_retention = true;
        self
    }
}

impl MaintenancePolicy for OnRequest {
    fn decide(&self, stats: &TableStats, _now: DateTime<Utc>) -> Vec<Action> {
        let safe = |action: &Action| match action {
            Action::Vacuum { retention, full } if !self.unsafe_retention => {
                Action::Vacuum { retention: cadence::safe_retention(*retention, stats), full: *full }
            }
            other => other.clone(),
        };
        self.actions.iter().map(safe).collect()
    }
}
