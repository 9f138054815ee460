//! Where our group's directory is: `/proc/self/cgroup` names the group, `/proc/self/mountinfo` says where groups are
//! mounted, and in containers the two often do not line up.
//!
//! The directory that is found always exists and never lies above the mount, and each directory between the two is an
//! ancestor of our group or as near to one as can be seen.

use std::fs;
use std::path::{Component, Path, PathBuf};

use super::CgroupVersion;

/// Our group in the file system.
pub(super) struct Place {
    pub(super) version: CgroupVersion,
    /// As `/proc/self/cgroup` names it.
    pub(super) group: String,
    /// The directory of our group, or of its nearest ancestor that can be seen.
    pub(super) dir: PathBuf,
    /// The mount point, at which walking up ends.
    pub(super) top: PathBuf,
}

/// A mounted hierarchy that may account for memory.
struct Mount {
    version: CgroupVersion,
    /// The group that is visible at the mount point.
    root: PathBuf,
    point: PathBuf,
}

/// Finds our group below the file system `root`. Version 1 wins where it has the memory controller: a controller belongs to
/// one hierarchy at a time, so on a hybrid system the unified one has no memory files.
pub(super) fn locate(root: &Path) -> Option<Place> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let mounts = mounts(root);
    [CgroupVersion::V1, CgroupVersion::V2].into_iter().find_map(|version| {
        let group = group(&groups, version)?;
        let (dir, top) = mounts
            .iter()
            .filter(|mount| mount.version == version)
            .map(|mount| (directory(root, mount, group), below(root, &mount.point)))
            // Several mounts of one hierarchy: the one that shows most of the way to our group.
            .max_by_key(|(dir, top)| dir.strip_prefix(top).map_or(0, |p| p.components().count()))?;
        dir.is_dir().then(|| Place { version, group: group.to_owned(), dir, top })
    })
}

/// Our group in the hierarchy that `version` accounts memory in: the line `0::/path`, or the line whose controllers
/// include `memory`. A path may contain colons.
fn group(text: &str, version: CgroupVersion) -> Option<&str> {
    text.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (id, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let ours = match version {
            CgroupVersion::V1 => controllers.split(',').any(|name| name == "memory"),
            CgroupVersion::V2 => id == "0" && controllers.is_empty(),
        };
        ours.then_some(path)
    })
}

/// The mounts of control groups, from `mountinfo`, or the conventional places where it cannot be read.
fn mounts(root: &Path) -> Vec<Mount> {
    match fs::read_to_string(root.join("proc/self/mountinfo")) {
        Ok(text) => text.lines().filter_map(mount).collect(),
        Err(_) => [(CgroupVersion::V1, "/sys/fs/cgroup/memory"), (CgroupVersion::V2, "/sys/fs/cgroup")]
            .map(|(version, point)| Mount { version, root: "/".into(), point: point.into() })
            .into(),
    }
}

/// One line: `id parent major:minor ROOT POINT options [optional fields] - TYPE source SUPER-OPTIONS`.
fn mount(line: &str) -> Option<Mount> {
    let (before, after) = line.split_once(" - ")?;
    let mut before = before.split(' ').skip(3);
    let (root, point) = (unescape(before.next()?), unescape(before.next()?));
    let mut after = after.split(' ');
    let (kind, options) = (after.next()?, after.nth(1).unwrap_or_default());
    let version = match kind {
        "cgroup" if options.split(',').any(|option| option == "memory") => CgroupVersion::V1,
        "cgroup2" => CgroupVersion::V2,
        _ => return None,
    };
    Some(Mount { version, root: root.into(), point: point.into() })
}

/// The directory of `group` in `mount`, or of its nearest ancestor that exists there.
///
/// The group may lie outside the mount's root (`/docker/1234` with a mount that shows `/`, whose 1234 is hidden; a mount of
/// `/kubepods/pod7/1234` while a namespace shows `/`) or above it (`/../..`, for a process that joined from outside
/// the namespace). The mount's own root is the best that can be seen then, and in a container it is the container's group.
fn directory(root: &Path, mount: &Mount, group: &str) -> PathBuf {
    let group = Path::new(group);
    let top = below(root, &mount.point);
    let relative = group.strip_prefix(&mount.root).or_else(|_| group.strip_prefix("/"));
    let inside = |path: &&Path| path.components().all(|part| matches!(part, Component::Normal(_)));
    let Some(relative) = relative.ok().filter(inside) else { return top };
    let found = relative.ancestors().map(|path| top.join(path)).find(|dir| dir.is_dir());
    found.unwrap_or(top)
}

/// An absolute path of the system, below the folder that stands for its root.
fn below(root: &Path, path: &Path) -> PathBuf {
    match path.strip_prefix("/") {
        Ok(relative) if relative.as_os_str().is_empty() => root.to_owned(),
        Ok(relative) => root.join(relative),
        Err(_) => root.join(path),
    }
}

/// `mountinfo` writes blanks, tabs, newlines and backslashes as three octal digits.
fn unescape(text: &str) -> String {
    text.replace(r"\040", " ").replace(r"\011", "\t").replace(r"\012", "\n").replace(r"\134", r"\")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_mountinfo() {
        let v1 = "35 31 0:32 /a\\040b /sys/fs/cgroup/memory rw shared:9 master:3 - cgroup cgroup rw,memory";
        let mount = mount(v1).unwrap();
        assert_eq!(mount.version, CgroupVersion::V1);
        assert_eq!(mount.root, Path::new("/a b"));
        assert_eq!(mount.point, Path::new("/sys/fs/cgroup/memory"));
        let ignored = [
            "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu",
            "27 1 254:0 / / rw - ext4 /dev/vda rw,memory",
            "nonsense",
            "",
        ];
        assert!(ignored.into_iter().all(|line| super::mount(line).is_none()));
    }

    #[test]
    fn lines_of_proc_self_cgroup() {
        let text = "9:name=systemd:/\n4:cpu,memory:/a:b/c\n0::/user.slice\n";
        assert_eq!(group(text, CgroupVersion::V1), Some("/a:b/c"));
        assert_eq!(group(text, CgroupVersion::V2), Some("/user.slice"));
        assert_eq!(group("1:memory_pressure:/x\n", CgroupVersion::V1), None);
    }
}
