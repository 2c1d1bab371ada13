//! What the system tells about the machine and the limits of this process.

use serde::Serialize;
use std::fs;
use std::path::{Path, PathBuf};

/// The machine's processor: its name and architecture.
#[derive(Clone, Debug, Serialize)]
pub struct Processor {
    /// Name of the processor, as the system calls it; `None` where it does not tell.
    pub name: Option<String>,
    /// Instruction set architecture of the program: `x86_64`, `aarch64`, …
    pub architecture: &'static str,
}

/// How many threads can run at once, and what decides it.
#[derive(Clone, Debug, Serialize)]
pub struct Cores {
    /// Threads that this command computes with.
    pub threads: usize,
    /// Processors that this process may run on, quota included.
    pub available: usize,
    /// Processors that the machine has on line; `None` where the system does not tell.
    pub online: Option<usize>,
    /// Processors' worth of time that the cgroup grants; `None` without a limit.
    pub cgroup_quota: Option<f64>,
}

/// Memory in bytes; `None` for what the system does not tell.
#[derive(Clone, Debug, Serialize)]
pub struct MachineMemory {
    /// Memory of the machine.
    pub total_bytes: Option<u64>,
    /// Memory of the machine that is not in use, or given back on demand.
    pub available_bytes: Option<u64>,
    /// The least limit of the cgroups that this process is in; `None` without one.
    pub cgroup_limit_bytes: Option<u64>,
    /// Memory of that cgroup that is in use.
    pub cgroup_used_bytes: Option<u64>,
}

/// The processor's name and architecture.
pub fn processor() -> Processor {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    Processor {
        name: name_in(&info).or_else(device_tree_model),
        architecture: std::env::consts::ARCH,
    }
}

/// `model name` on x86, `Processor` or `Hardware` on Arm.
fn name_in(cpuinfo: &str) -> Option<String> {
    let field = |wanted: &str| {
        cpuinfo.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            (name.trim() == wanted && !value.trim().is_empty()).then(|| value.trim().to_string())
        })
    };
    ["model name", "Processor", "Hardware"]
        .into_iter()
        .find_map(field)
}

fn device_tree_model() -> Option<String> {
    let model = fs::read_to_string("/proc/device-tree/model").ok()?;
    Some(model.trim_end_matches('\0').to_string())
}

/// Cores and their limits, for a command that computes with `threads`.
pub fn cores(threads: usize) -> Cores {
    let online = fs::read_to_string("/sys/devices/system/cpu/online").ok();
    Cores {
        threads,
        available: std::thread::available_parallelism().map_or(1, usize::from),
        online: online.and_then(|list| count_in(&list)),
        cgroup_quota: cgroups()
            .iter()
            .filter_map(|group| quota(group))
            .min_by(f64::total_cmp),
    }
}

/// Numbers in a list such as `0-3,8`.
fn count_in(list: &str) -> Option<usize> {
    let one = |part: &str| match part.split_once('-') {
        None => part.parse::<usize>().ok().map(|_| 1),
        Some((first, last)) => (last.parse::<usize>().ok()? + 1).checked_sub(first.parse().ok()?),
    };
    list.trim().split(',').map(one).sum()
}

/// Processors' worth of time: version 2 has both numbers in one file, version 1 in two.
fn quota(group: &Path) -> Option<f64> {
    if let Ok(text) = fs::read_to_string(group.join("cpu.max")) {
        return quota_in(&text);
    }
    let number = |name: &str| {
        fs::read_to_string(group.join(name))
            .ok()?
            .trim()
            .parse::<f64>()
            .ok()
    };
    let (quota, period) = (number("cpu.cfs_quota_us")?, number("cpu.cfs_period_us")?);
    (quota > 0.0 && period > 0.0).then_some(quota / period)
}

/// `200000 100000`, or `max 100000` without a limit.
fn quota_in(text: &str) -> Option<f64> {
    let (quota, period) = text.trim().split_once(' ')?;
    let (quota, period) = (quota.parse::<f64>().ok()?, period.parse::<f64>().ok()?);
    (period > 0.0).then_some(quota / period)
}

/// Memory and its limits.
pub fn memory() -> MachineMemory {
    let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let number = |group: &Path, names: [&str; 2]| {
        let files = names
            .into_iter()
            .filter_map(|name| fs::read_to_string(group.join(name)).ok());
        // `max` is no limit, and neither is what version 1 writes for none.
        files
            .filter_map(|text| text.trim().parse::<u64>().ok())
            .find(|bytes| *bytes < 1 << 60)
    };
    let limited = cgroups().into_iter().filter_map(|group| {
        let limit = number(&group, ["memory.max", "memory.limit_in_bytes"])?;
        Some((limit, group))
    });
    let least = limited.min_by_key(|(limit, _)| *limit);
    MachineMemory {
        total_bytes: kib_in(&info, "MemTotal"),
        available_bytes: kib_in(&info, "MemAvailable"),
        cgroup_used_bytes: least
            .as_ref()
            .and_then(|(_, group)| number(group, ["memory.current", "memory.usage_in_bytes"])),
        cgroup_limit_bytes: least.map(|(limit, _)| limit),
    }
}

/// A field of `/proc/meminfo`, which counts in KiB.
fn kib_in(meminfo: &str, field: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// The folders of this process's cgroups and of those above them.
fn cgroups() -> Vec<PathBuf> {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mut folders = Vec::new();
    for (root, path) in own.lines().filter_map(root_and_path) {
        let root = Path::new("/sys/fs/cgroup").join(root);
        // Inside a container the path may be that of the host, of which only the root is mounted.
        let inside = root.join(path.trim_start_matches('/'));
        folders.extend(
            inside
                .ancestors()
                .take_while(|folder| folder.starts_with(&root))
                .map(Path::to_path_buf),
        );
        folders.push(root);
    }
    folders.sort();
    folders.dedup();
    folders.retain(|folder| folder.is_dir());
    folders
}

/// From a cgroup's line `0::/path` (version 2) or `4:memory:/path` (version 1), the folder of the hierarchy and the path in it.
fn root_and_path(line: &str) -> Option<(&str, &str)> {
    let mut fields = line.splitn(3, ':');
    let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
    match controllers {
        "" => Some(("", path)),
        "memory" => Some(("memory", path)),
        _ if controllers.split(',').any(|name| name == "cpu") => Some(("cpu", path)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_the_system_are_read_as_they_are_written() {
        assert_eq!(count_in("0-3,8\n"), Some(5));
        assert_eq!(count_in("0"), Some(1));
        assert_eq!(count_in("x"), None);
        assert_eq!(quota_in("150000 100000\n"), Some(1.5));
        assert_eq!(quota_in("max 100000"), None);
        assert_eq!(
            kib_in("MemTotal:       2048 kB\nMemFree: 1 kB", "MemTotal"),
            Some(2 << 20)
        );
        assert_eq!(kib_in("MemTotalX: 1 kB", "MemTotal"), None);
        assert_eq!(
            name_in("processor\t: 0\nmodel name\t: A B\nmodel name : C"),
            Some("A B".into())
        );
        assert_eq!(root_and_path("0::/user.slice"), Some(("", "/user.slice")));
        assert_eq!(root_and_path("4:cpu,cpuacct:/a:b"), Some(("cpu", "/a:b")));
        assert_eq!(root_and_path("3:pids:/"), None);
    }
}
