//! What the system's files say about memory that is left.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Budget, Limit};

/// Version 1 writes "no limit" as the largest multiple of a page in 63 bits.
const NO_LIMIT: u64 = 1 << 62;

/// Every bound on this process's memory, on a system whose files lie under `root`.
pub(super) fn limits(root: &Path) -> Vec<Budget> {
    let mut limits = Vec::new();
    limits.extend(machine(&root.join("proc/meminfo")).map(|bytes| Budget {
        bytes,
        limit: Limit::Machine,
    }));
    limits.extend(address_space(&root.join("proc/self")).map(|bytes| Budget {
        bytes,
        limit: Limit::AddressSpace,
    }));
    limits.extend(groups(root));
    limits
}

/// Memory that the machine can give without swapping something else out, and its free swap space.
fn machine(meminfo: &Path) -> Option<u64> {
    let text = fs::read_to_string(meminfo).ok()?;
    let free = kib_field(&text, "MemAvailable:")?;
    Some(free.saturating_add(kib_field(&text, "SwapFree:").unwrap_or(0)))
}

/// What `ulimit -v` leaves.
fn address_space(process: &Path) -> Option<u64> {
    let limits = fs::read_to_string(process.join("limits")).ok()?;
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max address space"))?;
    // "unlimited" is no number.
    let limit: u64 = line.split_whitespace().next()?.parse().ok()?;
    let status = fs::read_to_string(process.join("status")).ok()?;
    Some(limit.saturating_sub(kib_field(&status, "VmSize:")?))
}

/// `NAME:   123 kB` in bytes.
fn kib_field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// The files of one version of control groups.
struct Version {
    mount: &'static str,
    limit: &'static str,
    used: &'static str,
    /// The line of `memory.stat` that counts cached file pages which go first when memory is short; the group's usage
    /// includes them.
    cache: &'static str,
}

const UNIFIED: [Version; 2] = [version_2("sys/fs/cgroup"), version_2("sys/fs/cgroup/unified")];
const SPLIT: Version = Version {
    mount: "sys/fs/cgroup/memory",
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    cache: "total_inactive_file",
};

const fn version_2(mount: &'static str) -> Version {
    Version {
        mount,
        limit: "memory.max",
        used: "memory.current",
        cache: "inactive_file",
    }
}

/// What the process's control groups leave, with every group above them.
fn groups(root: &Path) -> Vec<Budget> {
    let Ok(text) = fs::read_to_string(root.join("proc/self/cgroup")) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    // HIERARCHY:CONTROLLERS:PATH, where version 2 is hierarchy 0 without controllers.
    for line in text.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        if controllers.is_empty() {
            found.extend(UNIFIED.iter().flat_map(|version| chain(root, version, path)));
        } else if controllers.split(',').any(|controller| controller == "memory") {
            found.extend(chain(root, &SPLIT, path));
        }
    }
    found
}

/// What a group and each one above it leave. In a container the path may be one that only the host knows: what the container
/// sees of it is then the mount itself.
fn chain(root: &Path, version: &Version, path: &str) -> Vec<Budget> {
    let mount = root.join(version.mount);
    let inner: PathBuf = path.trim_start_matches('/').into();
    inner
        .ancestors()
        .filter_map(|group| {
            let folder = mount.join(group);
            let bytes = left(&folder, version)?;
            Some(Budget {
                bytes,
                limit: Limit::Cgroup(folder),
            })
        })
        .collect()
}

/// What one group leaves, `None` where it sets no limit.
fn left(folder: &Path, version: &Version) -> Option<u64> {
    let number = |name: &str| -> Option<u64> {
        // "max" is no number.
        fs::read_to_string(folder.join(name)).ok()?.trim().parse().ok()
    };
    let limit = number(version.limit).filter(|limit| *limit < NO_LIMIT)?;
    let used = number(version.used)?;
    let stat = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
    let cache = stat.lines().find_map(|line| {
        let (name, bytes) = line.split_once(' ')?;
        (name == version.cache).then(|| bytes.trim().parse::<u64>().ok())?
    });
    Some(limit.saturating_sub(used.saturating_sub(cache.unwrap_or(0))))
}

#[cfg(test)]
mod tests {
    use super::super::{Limit, available, available_under};
    use std::fs;
    use std::path::Path;

    fn write(root: &Path, files: &[(&str, &str)]) {
        for (name, text) in files {
            let path = root.join(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, text).expect("written");
        }
    }

    const MACHINE: (&str, &str) = (
        "proc/meminfo",
        "MemTotal:  9000 kB\nMemAvailable:    4000 kB\nSwapFree:  96 kB\n",
    );

    #[test]
    fn the_least_of_machine_group_and_address_space_is_available() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path();
        assert_eq!(available_under(root).limit, Limit::Unknown);
        write(root, &[MACHINE]);
        assert_eq!(
            (available_under(root).bytes, available_under(root).limit),
            (4096 << 10, Limit::Machine)
        );
        write(
            root,
            &[
                (
                    "proc/self/limits",
                    "Limit  Soft  Hard  Units\nMax address space    3145728    unlimited    bytes\n",
                ),
                ("proc/self/status", "Name: x\nVmSize:\t    1024 kB\n"),
            ],
        );
        assert_eq!(
            (available_under(root).bytes, available_under(root).limit),
            (2 << 20, Limit::AddressSpace)
        );
    }

    #[test]
    fn a_group_above_the_processes_own_counts_and_its_cache_is_given_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path();
        write(
            root,
            &[
                MACHINE,
                ("proc/self/cgroup", "0::/a/b\n"),
                ("sys/fs/cgroup/a/b/memory.max", "max\n"),
                ("sys/fs/cgroup/a/b/memory.current", "500000\n"),
                ("sys/fs/cgroup/a/memory.max", "1000000\n"),
                ("sys/fs/cgroup/a/memory.current", "700000\n"),
                ("sys/fs/cgroup/a/memory.stat", "anon 1\ninactive_file 200000\n"),
            ],
        );
        let budget = available_under(root);
        assert_eq!(budget.bytes, 500_000);
        assert_eq!(budget.limit, Limit::Cgroup(root.join("sys/fs/cgroup/a")));
    }

    #[test]
    fn version_1_is_read_also_where_the_path_is_the_hosts() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path();
        write(
            root,
            &[
                MACHINE,
                (
                    "proc/self/cgroup",
                    "9:name=systemd:/\n4:cpu,memory:/docker/f616\n0::/\n",
                ),
                ("sys/fs/cgroup/memory/memory.limit_in_bytes", "2000000\n"),
                ("sys/fs/cgroup/memory/memory.usage_in_bytes", "1500000\n"),
                (
                    "sys/fs/cgroup/memory/memory.stat",
                    "inactive_file 7\ntotal_inactive_file 100000\n",
                ),
            ],
        );
        assert_eq!(available_under(root).bytes, 600_000);
        write(
            root,
            &[(
                "sys/fs/cgroup/memory/memory.limit_in_bytes",
                "9223372036854771712\n",
            )],
        );
        assert_eq!(available_under(root).limit, Limit::Machine);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_machine_says_what_it_has() {
        assert_ne!(available().limit, Limit::Unknown);
    }
}
