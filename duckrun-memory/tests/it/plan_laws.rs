//! The laws of a plan, for arbitrary limits, settings and jobs. A failing case is printed with its seed and kept by proptest.

use duckrun_memory::{
    EffectiveLimit, Error, Floors, GIB, Job, MIB, MemoryPlan, MemorySettings, Workload, constants, plan,
};
use proptest::prelude::*;

const JOBS: [Job; 4] = [Job::Write, Job::MergeDuckDb, Job::MergeDeltaRs, Job::Compact];

fn workloads() -> impl Strategy<Value = Workload> {
    (prop::sample::select(&JOBS[..]), prop::option::of(0..300_usize), prop::option::of(0..GIB)).prop_map(
        |(job, threads, width)| {
            let workload = Workload::new(job);
            let workload = threads.map_or(workload, |threads| workload.with_threads(threads));
            width.map_or(workload, |width| workload.with_row_width(width))
        },
    )
}

fn settings() -> impl Strategy<Value = MemorySettings> {
    let some = || prop::option::of(1..300_usize);
    let floors = (0..GIB, 1..GIB, 0..GIB, 16 * MIB..GIB, 0..GIB, 0..GIB).prop_map(
        |(process, engine, reserve, writer, delta_rs, delta_rs_merge)| Floors {
            process,
            engine,
            reserve,
            writer,
            delta_rs,
            delta_rs_merge,
        },
    );
    let floors = prop_oneof![3 => Just(Floors::default()), 1 => floors];
    (some(), some(), 1..20_usize, floors).prop_map(|(threads, writers, concurrent_runs, floors)| MemorySettings {
        threads,
        writers,
        concurrent_runs,
        floors,
        ..MemorySettings::default()
    })
}

/// Limits from nothing to beyond any machine, dense where the floors are.
fn limits() -> impl Strategy<Value = u64> {
    prop_oneof![0..2 * GIB, 0..64 * GIB, 0..1_u64 << 50]
}

fn floors_of(plan: &MemoryPlan, floors: &Floors) -> [(u64, u64); 5] {
    let delta_rs = match plan.job {
        Job::MergeDeltaRs => floors.delta_rs_merge,
        Job::Compact => floors.delta_rs,
        _ => 0,
    };
    [
        (plan.process, floors.process),
        (plan.engine, floors.engine),
        (plan.writer, floors.writer),
        (plan.delta_rs, delta_rs),
        (plan.reserve, floors.reserve),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn shares_fit_and_are_at_least_their_floors(
        bytes in limits(), cpus in 1..200_usize, settings in settings(), workload in workloads()
    ) {
        let limit = EffectiveLimit::explicit(bytes, cpus);
        match plan(&limit, &settings, workload) {
            Ok(plan) => {
                prop_assert!(plan.process + plan.lease_bytes() <= bytes);
                for (share, floor) in floors_of(&plan, &settings.floors) {
                    prop_assert!(share >= floor, "{plan:?}");
                }
                prop_assert!(plan.delta_rs_pool <= plan.delta_rs);
                let most = [settings.threads, workload.threads].into_iter().flatten().min().unwrap_or(cpus);
                prop_assert!(plan.threads >= 1 && plan.threads <= most);
                prop_assert!(plan.writers >= 1 && plan.writers <= settings.writers.unwrap_or(most));
                prop_assert!(plan.runs_at_a_time() as u64 * plan.lease_bytes() <= plan.capacity());
                let each = plan.writers as u64 * plan.row_group_bytes;
                prop_assert!(each + plan.uploads_in_flight as u64 * constants::UPLOAD_PART <= plan.writer, "{plan:?}");
                prop_assert!(plan.row_group_rows > 0 && plan.row_group_rows % constants::VECTOR_ROWS == 0);
            }
            Err(Error::LimitTooSmall { needed, limit, .. }) => {
                prop_assert!(limit == bytes && needed > bytes);
            }
            Err(other) => prop_assert!(false, "{other}"),
        }
    }

    #[test]
    fn no_share_shrinks_when_the_limit_grows(
        bytes in limits(), more in prop_oneof![Just(1), 0..GIB, 0..1_u64 << 45],
        cpus in 1..200_usize, settings in settings(), workload in workloads()
    ) {
        let at = |bytes| plan(&EffectiveLimit::explicit(bytes, cpus), &settings, workload);
        if let Ok(small) = at(bytes) {
            let large = at(bytes + more).unwrap();
            let pairs = [
                (small.engine, large.engine),
                (small.writer, large.writer),
                (small.delta_rs, large.delta_rs),
                (small.delta_rs_pool, large.delta_rs_pool),
                (small.reserve, large.reserve),
                (small.threads as u64, large.threads as u64),
                (small.writers as u64, large.writers as u64),
            ];
            prop_assert!(pairs.iter().all(|(small, large)| small <= large), "{small:?}\n{large:?}");
        }
    }

    #[test]
    fn the_number_needed_is_enough_and_one_byte_less_is_not(
        settings in settings(), workload in workloads(), cpus in 1..200_usize
    ) {
        let at = |bytes| plan(&EffectiveLimit::explicit(bytes, cpus), &settings, workload);
        let needed = at(0).unwrap_err().needed().unwrap();
        prop_assert!(at(needed).is_ok());
        prop_assert_eq!(at(needed - 1).unwrap_err().needed(), Some(needed));
    }

    #[test]
    fn plans_are_values(bytes in 2 * GIB..1_u64 << 45, workload in workloads()) {
        let settings = MemorySettings { concurrent_runs: 3, ..MemorySettings::default() };
        let limit = EffectiveLimit::explicit(bytes, 8);
        let plan = || duckrun_memory::plan(&limit, &settings, workload).unwrap();
        prop_assert_eq!(plan(), plan());
        let text = serde_json::to_string(&plan()).unwrap();
        prop_assert_eq!(serde_json::from_str::<MemoryPlan>(&text).unwrap(), plan());
    }
}

/// The promise of the README: a container of 512 MiB runs everything that is bounded in memory, with two threads.
#[test]
fn a_container_of_512_mib_is_enough_except_for_the_merge_of_delta_rs() {
    let at = |job, mib| plan(&EffectiveLimit::explicit(mib * MIB, 2), &MemorySettings::default(), job);
    for job in [Job::Write, Job::MergeDuckDb] {
        let plan = at(job, 512).unwrap();
        assert_eq!((plan.threads, plan.writers), (2, 2), "{plan}");
        assert!(plan.row_group_rows >= 122_880, "{plan}");
    }
    assert!(at(Job::Compact, 512).is_ok());
    let refused = at(Job::MergeDeltaRs, 512).unwrap_err();
    assert!(at(Job::MergeDeltaRs, refused.needed().unwrap().div_ceil(MIB)).is_ok());
    let refused = at(Job::Write, 256).unwrap_err().to_string();
    assert!(refused.contains("write needs 318 MiB of memory, but the limit is 256 MiB"), "{refused}");
}

#[test]
fn a_large_machine_gives_what_the_writers_cannot_use_to_duckdb() {
    let limit = EffectiveLimit::explicit(64 * GIB, 4);
    let plan = plan(&limit, &MemorySettings::default(), Job::Write).unwrap();
    assert!(plan.engine > 60 * GIB, "{plan}");
    assert_eq!((plan.writers, plan.threads), (4, 4));
    assert_eq!(plan.row_group_bytes, constants::ROW_GROUP_CEILING);
}
