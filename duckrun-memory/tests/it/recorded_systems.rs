//! Detection on systems as they are found: what bounds the memory there, and which file says so.
//!
//! Each case names the system; the numbers are chosen so that only the right reading gives the right answer.

use std::path::Path;

use duckrun_memory::{Bound, CgroupVersion, EffectiveLimit, GIB, Job, MIB, MemorySettings, plan};

use crate::trees::{Tree, UNLIMITED_V1, left_in, limit_of};

const V2_ROOT: &str =
    "30 23 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

/// What a machine without any limit of a group allows: what is available, and what the process holds.
const FREE: u64 = 12 * GIB + 100 * MIB;

#[test]
fn docker_v2_shows_the_container_as_the_namespace_root() {
    let mount = "581 580 0:26 / /sys/fs/cgroup ro,nosuid,nodev,noexec,relatime - cgroup2 cgroup rw\n";
    let tree = Tree::new("0::/\n", mount).v2("/sys/fs/cgroup", "536870912", 120 * MIB, 20 * MIB);
    tree.assert_limit(512 * MIB, &limit_of("/sys/fs/cgroup"));
}

#[test]
fn docker_v1_names_a_path_that_only_the_host_has() {
    let group = "/docker/3f1c";
    let mount = format!("681 671 0:32 {group} /sys/fs/cgroup/memory ro,relatime master:13 - cgroup memory rw,memory\n");
    let tree = Tree::new(&format!("12:pids:{group}\n8:memory:{group}\n0::/system.slice/containerd.service\n"), &mount)
        .v1("/sys/fs/cgroup/memory", GIB, GIB, 100 * MIB, 0);
    tree.assert_limit(GIB, &limit_of("/sys/fs/cgroup/memory"));
}

/// The mount says `/` although the group is elsewhere on the host (older runtimes, bind mounts): the mount's own root is
/// the container's group.
#[test]
fn a_group_that_is_not_below_the_mount_falls_back_to_its_root() {
    let mount = "681 671 0:32 / /sys/fs/cgroup/memory ro - cgroup memory rw,memory\n";
    let tree = Tree::new("8:memory:/docker/3f1c\n", mount).v1("/sys/fs/cgroup/memory", GIB, GIB, 100 * MIB, 0);
    tree.assert_limit(GIB, &limit_of("/sys/fs/cgroup/memory"));

    let mount = "681 671 0:26 /kubepods/pod7 /sys/fs/cgroup ro - cgroup2 cgroup rw\n";
    let tree = Tree::new("0::/kubepods/pod8/c\n", mount).v2("/sys/fs/cgroup", "1073741824", 100 * MIB, 0);
    tree.assert_limit(GIB, &limit_of("/sys/fs/cgroup"));
}

/// A process that entered the container from outside its namespace (`nsenter`, `kubectl exec` on some runtimes). Joined
/// naively the path leads out of the mount, here to a group of another limit.
#[test]
fn a_group_above_the_namespace_never_leads_out_of_the_mount() {
    let tree = Tree::new("0::/../../other\n", V2_ROOT)
        .v2("/sys/fs/cgroup", "1073741824", 100 * MIB, 0)
        .file("/sys/other/memory.max", "4096\n")
        .file("/other/memory.max", "4096\n");
    tree.assert_limit(GIB, &limit_of("/sys/fs/cgroup"));
}

/// The mount was made in the host's namespace, the process sees the namespace's root.
#[test]
fn a_mount_whose_root_is_above_the_namespace() {
    let mount = "581 580 0:26 /../.. /sys/fs/cgroup ro - cgroup2 cgroup rw\n";
    let tree = Tree::new("0::/\n", mount).v2("/sys/fs/cgroup", "1073741824", 100 * MIB, 0);
    tree.assert_limit(GIB, &limit_of("/sys/fs/cgroup"));
}

/// The container has 2 GiB, its pod 1 GiB, and the node's slice for pods 14 GiB: the pod binds.
#[test]
fn kubernetes_v2_the_smallest_of_nested_limits() {
    let slice = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod42.slice";
    let group = format!("{slice}/cri-containerd-9a.scope");
    let dir = |path: &str| format!("/sys/fs/cgroup{path}");
    let tree = Tree::new(&format!("0::{group}\n"), V2_ROOT)
        .v2(&dir(&group), "2147483648", 100 * MIB, 0)
        .v2(&dir(slice), "1073741824", 100 * MIB, 0)
        .v2(&dir("/kubepods.slice/kubepods-burstable.slice"), "max", 3 * GIB, 0)
        .v2(&dir("/kubepods.slice"), "15032385536", 3 * GIB, 0);
    tree.assert_limit(GIB, &limit_of(&dir(slice)));
    assert_eq!(tree.read().unwrap().levels.len(), 5);
}

/// The pod's limit is above what can be read; the kernel's own minimum over all ancestors tells.
#[test]
fn kubernetes_v1_the_hierarchical_limit_covers_what_cannot_be_seen() {
    let group = "/kubepods/burstable/pod42/9a";
    let mount = format!("900 890 0:32 {group} /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n");
    let tree = Tree::new(&format!("5:memory:{group}\n"), &mount).v1(
        "/sys/fs/cgroup/memory",
        UNLIMITED_V1,
        3 * GIB,
        100 * MIB,
        0,
    );
    tree.assert_limit(3 * GIB, &limit_of("/sys/fs/cgroup/memory"));
}

#[test]
fn kubernetes_v1_on_the_node_walks_up() {
    let mount = "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
    let top = "/sys/fs/cgroup/memory";
    let tree = Tree::new("5:memory:/kubepods/pod42/9a\n", mount)
        .v1(&format!("{top}/kubepods/pod42/9a"), 4 * GIB, 2 * GIB, 100 * MIB, 0)
        .v1(&format!("{top}/kubepods/pod42"), 2 * GIB, 2 * GIB, 1900 * MIB, 200 * MIB)
        .v1(&format!("{top}/kubepods"), UNLIMITED_V1, UNLIMITED_V1, 9 * GIB, 0)
        .v1(top, UNLIMITED_V1, UNLIMITED_V1, 10 * GIB, 0);
    // The pod's other containers hold 1900 - 200 (droppable) - 100 (ours) MiB.
    tree.assert_limit(448 * MIB, &left_in(&format!("{top}/kubepods/pod42")));
}

#[test]
fn a_v1_parent_without_hierarchy_does_not_bind() {
    let mount = "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
    let top = "/sys/fs/cgroup/memory";
    let tree = Tree::new("5:memory:/a/b\n", mount)
        .v1(&format!("{top}/a/b"), UNLIMITED_V1, UNLIMITED_V1, 100 * MIB, 0)
        .v1(&format!("{top}/a"), GIB, GIB, 100 * MIB, 0)
        .file(&format!("{top}/a/memory.use_hierarchy"), "0\n");
    tree.assert_limit(FREE, &Bound::Available);
}

/// A systemd service with `MemoryMax=` on its slice and `MemoryHigh=` on itself.
#[test]
fn systemd_slices() {
    let group = "/system.slice/etl.slice/duckrun.service";
    let dir = format!("/sys/fs/cgroup{group}");
    let slice = "/sys/fs/cgroup/system.slice/etl.slice";
    let tree = Tree::new(&format!("0::{group}\n"), V2_ROOT)
        .v2(&dir, "max", 100 * MIB, 0)
        .file(&format!("{dir}/memory.high"), "1073741824\n")
        .v2(slice, "3221225472", 100 * MIB, 0)
        .v2("/sys/fs/cgroup/system.slice", "max", 2 * GIB, 0);
    tree.assert_limit(3 * GIB, &limit_of(slice));
    let limit = tree.limit();
    assert_eq!(limit.throttled_above, Some(GIB));
    assert!(limit.picture().contains("slowed down"), "{}", limit.picture());
}

/// The root group has no memory files at all.
#[test]
fn a_bare_host_in_the_root_group() {
    let tree = Tree::new("0::/\n", V2_ROOT).file("/sys/fs/cgroup/cgroup.controllers", "cpu io memory\n");
    tree.assert_limit(FREE, &Bound::Available);
}

#[test]
fn a_v1_root_group_has_only_sentinels() {
    let mount = "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
    for sentinel in [UNLIMITED_V1, i64::MAX as u64, u64::MAX] {
        let tree = Tree::new("4:memory:/\n", mount).v1("/sys/fs/cgroup/memory", sentinel, sentinel, 10 * GIB, 0);
        tree.assert_limit(FREE, &Bound::Available);
        assert_eq!(tree.read().unwrap().version, CgroupVersion::V1);
    }
}

/// WSL 2 mounts version 1 and an empty unified hierarchy, all without limits.
#[test]
fn wsl() {
    let mounts = "82 61 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n\
                  88 61 0:33 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
    let tree = Tree::new("14:misc:/\n6:memory:/\n0::/\n", mounts)
        .file("/sys/fs/cgroup/unified/cgroup.procs", "1\n")
        .v1("/sys/fs/cgroup/memory", UNLIMITED_V1, UNLIMITED_V1, GIB, 0);
    tree.assert_limit(FREE, &Bound::Available);
}

/// Hybrid: the unified hierarchy is mounted, but version 1 has the memory controller. A reader that takes the first it finds
/// sees no limit.
#[test]
fn hybrid_the_hierarchy_with_the_controller_counts() {
    let mounts = "40 31 0:37 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                  34 31 0:31 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                  35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
    let dir = "/sys/fs/cgroup/memory/process_api/a7";
    let tree = Tree::new("4:memory:/process_api/a7\n1:cpu:/\n0::/init.scope\n", mounts)
        .file("/sys/fs/cgroup/unified/init.scope/cgroup.procs", "1\n")
        .v1(dir, 2 * GIB, 2 * GIB, 100 * MIB, 0)
        .v1("/sys/fs/cgroup/memory/process_api", UNLIMITED_V1, UNLIMITED_V1, GIB, 0);
    tree.assert_limit(2 * GIB, &limit_of(dir));
}

/// Hybrid the other way: version 1 is mounted for other controllers, the unified hierarchy has memory.
#[test]
fn hybrid_with_memory_in_the_unified_hierarchy() {
    let mounts = "40 31 0:37 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                  34 31 0:31 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n";
    let dir = "/sys/fs/cgroup/unified/job";
    let tree = Tree::new("1:cpu:/job\n0::/job\n", mounts).v2(dir, "2147483648", 100 * MIB, 0);
    tree.assert_limit(2 * GIB, &limit_of(dir));
}

/// File pages that the kernel would drop, and what this process holds itself, are not taken by others.
#[test]
fn what_the_group_has_left() {
    let tree = Tree::new("0::/job\n", V2_ROOT).v2("/sys/fs/cgroup/job", "1073741824", 900 * MIB, 500 * MIB);
    tree.assert_limit(724 * MIB, &left_in("/sys/fs/cgroup/job"));
}

/// A parent of ample limit whose other children have used it up leaves less than our own small group.
#[test]
fn a_full_parent_leaves_less_than_our_own_limit() {
    let tree = Tree::new("0::/team/job\n", V2_ROOT).v2("/sys/fs/cgroup/team/job", "1073741824", 100 * MIB, 0).v2(
        "/sys/fs/cgroup/team",
        "8589934592",
        8 * GIB - 200 * MIB,
        0,
    );
    tree.assert_limit(300 * MIB, &left_in("/sys/fs/cgroup/team"));
}

/// A limit above the machine's memory is none.
#[test]
fn a_limit_beyond_the_machine_does_not_bind() {
    let tree = Tree::new("0::/\n", V2_ROOT).v2("/sys/fs/cgroup", "1099511627776", 100 * MIB, 0);
    tree.assert_limit(FREE, &Bound::Available);
}

#[test]
fn nothing_readable_is_no_sample_and_no_crash() {
    assert_eq!(Tree::empty().read(), None);
    assert_eq!(Tree::new("", "").read(), None);
    assert_eq!(Tree::new("0::/\n", "").read(), None);
    assert_eq!(Tree::new("garbage\n::\n0:\n", "- - -\n\u{0}\n").read(), None);
    Tree::empty().assert_limit(FREE, &Bound::Available);
}

/// `/proc` without mountinfo (some sandboxes): the conventional places.
#[test]
fn without_mountinfo_the_conventional_places_are_tried() {
    let tree = Tree::empty().file("/proc/self/cgroup", "0::/a\n").v2("/sys/fs/cgroup/a", "1073741824", 100 * MIB, 0);
    tree.assert_limit(GIB, &limit_of("/sys/fs/cgroup/a"));
}

#[test]
fn files_of_nonsense_are_no_limits() {
    let tree = Tree::new("0::/a\n", V2_ROOT)
        .v2("/sys/fs/cgroup/a", "a lot", 0, 0)
        .file("/sys/fs/cgroup/a/memory.current", "-1\n")
        .file("/sys/fs/cgroup/a/memory.stat", "inactive_file\n\n");
    tree.assert_limit(FREE, &Bound::Available);
    let sample = tree.read().unwrap();
    assert_eq!((sample.levels[0].limit, sample.levels[0].usage), (None, None));
}

/// A recorded sample can be stored and replayed.
#[test]
fn samples_serialise() {
    let tree = Tree::new("0::/a\n", V2_ROOT).v2("/sys/fs/cgroup/a", "1073741824", GIB, 0);
    let sample = tree.read().unwrap();
    let text = serde_json::to_string(&sample).unwrap();
    assert_eq!(serde_json::from_str::<duckrun_memory::CgroupSample>(&text).unwrap(), sample);
    assert_eq!(sample.levels[0].path, Path::new("/sys/fs/cgroup/a"));
}

/// A container whose earlier runs had read their inputs refused every further run, although the kernel would have dropped
/// those pages: 160 of 512 MiB were pages of files that had been used twice.
#[test]
fn pages_of_files_in_use_make_no_plan_larger_and_refuse_none() {
    let stat = format!("anon 0\nactive_file {}\ninactive_file {}\n", 220 * MIB, 10 * MIB);
    let tree = Tree::new("0::/\n", V2_ROOT)
        .v2("/sys/fs/cgroup", &(512 * MIB).to_string(), 330 * MIB, 0)
        .file("/sys/fs/cgroup/memory.stat", &stat);
    let limit = tree.limit();
    // 512 - (330 - 10 inactive - 100 our own): active pages are not counted as free.
    assert_eq!((limit.bytes, limit.reclaimable), (292 * MIB, 220 * MIB), "{}", limit.picture());
    let settings = MemorySettings { threads: Some(1), ..MemorySettings::default() };
    let least = plan(&EffectiveLimit::explicit(GIB, 1), &settings, Job::Write).unwrap();
    let floors = plan(&limit, &settings, Job::Write).unwrap();
    assert!(floors.limit > limit.bytes && floors.limit <= 512 * MIB, "{floors}");
    assert!(floors.engine < least.engine && floors.limit == floors.process + floors.lease_bytes(), "{floors}");
    // With too little even so, the refusal names what there is in all.
    let mut none = limit;
    none.reclaimable = 0;
    assert!(plan(&none, &settings, Job::Write).is_err());
}
