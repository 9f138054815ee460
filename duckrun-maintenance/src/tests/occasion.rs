//! After which commits a table is looked at: seldom enough to cost small appends nothing, often enough that nothing grows.

use chrono::{DateTime, Utc};
use duckrun_core::maintenance::Glance;
use proptest::prelude::*;

use super::model::Model;
use super::{HOUR, Key, TARGET, noon};
use crate::{DefaultPolicy, Disabled, MaintenancePolicy, PolicySettings};

/// What a run would see that appends one file now.
fn glance(model: &Model, before: DateTime<Utc>) -> Glance {
    let mut glance = Glance::default();
    glance.version = model.head();
    glance.read = Some(model.head() - 1);
    glance.checkpoint = model.checkpoints.last().copied();
    glance.checkpoint_interval = model.interval;
    glance.last_commit = Some(before);
    glance.files_added = 1;
    glance
}

/// Appends of ours every `period`-th commit, others between them that look after nothing; how often ours looked, how many
/// commits the longest log without a checkpoint had, and how many small files there were at the most.
fn history(interval: u64, period: u64, offset: u64, commits: u64) -> (u64, u64, usize) {
    let policy = DefaultPolicy::default();
    let mut model = Model::new(noon());
    model.interval = interval;
    model.files.insert(Key::new(), vec![TARGET]);
    let (mut looks, mut log, mut most) = (0, 0, 0);
    for n in 0..commits {
        let before = model.now;
        model.now += HOUR / 3600;
        model.append(Key::new(), 1_000);
        if n % period == offset && policy.is_occasion(&glance(&model, before), model.now) {
            looks += 1;
            for action in policy.decide(&model.stats(), model.now) {
                model.apply(&action);
            }
        }
        log = log.max(model.head() - model.checkpoints.last().copied().unwrap_or(0));
        most = most.max(model.small());
    }
    (looks, log, most)
}

#[test]
fn a_writer_alone_looks_every_fifth_time_and_is_late_by_ten_commits_at_most() {
    let (looks, log, most) = history(10, 1, 0, 1_000);
    assert!(looks <= 200, "{looks} looks");
    assert!(log <= 10, "{log} commits without a checkpoint");
    assert!(most <= 110, "{most} small files");
    // The protocol's own interval: fewer looks.
    let (looks, log, most) = history(100, 1, 0, 1_000);
    assert!(looks <= 110, "{looks} looks");
    assert!(log <= 100, "{log} commits without a checkpoint");
    assert!(most <= 111, "{most} small files");
}

proptest! {
    /// Whatever regular share of the versions is ours: the log and the small files stay bounded.
    #[test]
    fn a_writer_that_gets_few_versions_has_its_turn(period in 1u64..=10, offset in 0u64..10, own_interval in any::<bool>()) {
        let interval = if own_interval { 10 } else { 100 };
        let (_, log, most) = history(interval, period, offset % period, 2_000);
        prop_assert!(log <= interval + 11 * period, "{log} commits without a checkpoint");
        prop_assert!(most as u64 <= 101 + 11 * period, "{most} small files");
    }

    /// The same for any share that is decided by chance.
    #[test]
    fn a_writer_among_many_has_its_turn(ours in prop::collection::vec(prop::bool::weighted(0.3), 2_000)) {
        let policy = DefaultPolicy::default();
        let mut model = Model::new(noon());
        for ours in ours {
            let before = model.now;
            model.append(Key::new(), 1_000);
            if ours && policy.is_occasion(&glance(&model, before), model.now) {
                for action in policy.decide(&model.stats(), model.now) {
                    model.apply(&action);
                }
            }
            prop_assert!(model.small() <= 200);
        }
    }
}

#[test]
fn what_is_an_occasion_and_what_is_not() {
    let policy = DefaultPolicy::default();
    let mut plain = Glance::default();
    (plain.version, plain.read, plain.checkpoint, plain.checkpoint_interval) = (18, Some(17), Some(10), 10);
    (plain.files_added, plain.last_commit) = (1, Some(noon() - HOUR / 2));
    let is = |change: fn(&mut Glance)| {
        let mut glance = plain.clone();
        change(&mut glance);
        policy.is_occasion(&glance, noon())
    };
    assert!(!is(|_| {}));
    assert!(!is(|g| (g.version, g.read, g.checkpoint) = (0, None, None)), "a table that was just created");
    assert!(is(|g| g.files_added = 8));
    assert!(is(|g| g.files_removed = 8));
    assert!(is(|g| g.checkpoint = Some(8)));
    assert!(is(|g| (g.version, g.checkpoint) = (10, None)));
    assert!(is(|g| g.version = 22));
    assert!(is(|g| g.last_commit = Some(noon() - HOUR)));
    assert!(!is(|g| g.last_commit = Some(noon() + HOUR)), "a clock that is ahead");
    // Nobody has said what the interval is.
    assert!(is(|g| (g.version, g.checkpoint_interval) = (20, 0)));

    let mut off = PolicySettings { checkpoint: false, ..PolicySettings::default() };
    let policy = DefaultPolicy::new(off.clone()).unwrap();
    plain.checkpoint = None;
    assert!(!policy.is_occasion(&plain, noon()), "checkpoints are somebody else's");
    (off.compact, off.vacuum, off.clean_log) = (false, false, false);
    plain.version = 22;
    assert!(policy.is_occasion(&plain, noon()));
    assert!(!DefaultPolicy::new(off).unwrap().is_occasion(&plain, noon()));
    assert!(!Disabled.is_occasion(&plain, noon()));
}
