//! The memory of the machine, and what this process may still use of it.

use std::fs;
use std::path::Path;

use rustix::process::Resource;
use sysinfo::System;

use crate::metrics::status;

/// Bytes of memory.
pub(crate) struct Memory {
    /// All of it.
    pub(crate) total: u64,
    /// What programs may take now.
    pub(crate) available: u64,
}

/// The memory of this machine or, if it is less, of the control group of this process (a container, a batch system), or
/// what its own limits leave (`ulimit -v`, `ulimit -d`). `None` where the system does not say.
pub(crate) fn memory() -> Option<Memory> {
    let mut system = System::new().ok()?;
    system.refresh_memory();
    let total = system.cgroup_limits().map_or(u64::MAX, |limits| limits.total_memory);
    let available = [control_group(), own_limit(Resource::As, "VmSize:"), own_limit(Resource::Data, "VmData:")];
    let available = available.into_iter().flatten().min().unwrap_or(u64::MAX);
    Some(Memory { total: system.total_memory().min(total), available: system.available_memory().min(available) })
}

/// `23.5 GiB`.
pub(crate) fn gibibytes(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}

/// `23.5 GiB`, or `518 MiB` of what is less than one GiB.
pub(crate) fn size(bytes: u64) -> String {
    if bytes < 1 << 30 { format!("{} MiB", (bytes + (1 << 19)) >> 20) } else { gibibytes(bytes) }
}

/// What a limit of this process leaves, of which it uses as much as `/proc/self/status` says under a name.
fn own_limit(resource: Resource, used: &str) -> Option<u64> {
    let limit = rustix::process::getrlimit(resource).current?;
    Some(limit.saturating_sub(status(used)?))
}

/// The least that is available in this process's control groups and those above them. Memory of cached files counts as
/// available, because the system frees it before a limit is reached.
fn control_group() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let root = Path::new("/sys/fs/cgroup");
    let left = groups.lines().filter_map(|line| {
        let (controllers, group) = line.split_once(':')?.1.split_once(':')?;
        let (mount, files) = match controllers {
            "" => (root.to_owned(), &VERSION_2),
            _ if controllers.split(',').any(|name| name == "memory") => (root.join("memory"), &VERSION_1),
            _ => return None,
        };
        let path = mount.join(group.trim_start_matches('/'));
        path.ancestors().take_while(|group| group.starts_with(&mount)).filter_map(|group| files.left(group)).min()
    });
    left.min()
}

/// What the files of a control group are called.
struct Files {
    limit: &'static str,
    used: &'static str,
    /// Entries of `memory.stat`: bytes of cached files.
    cached: [&'static str; 2],
}

/// <https://docs.kernel.org/admin-guide/cgroup-v2.html#memory-interface-files>
const VERSION_2: Files =
    Files { limit: "memory.max", used: "memory.current", cached: ["active_file", "inactive_file"] };

/// <https://docs.kernel.org/admin-guide/cgroup-v1/memory.html>
const VERSION_1: Files = Files {
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    cached: ["total_active_file", "total_inactive_file"],
};

impl Files {
    /// What is available in one group; none where it has no limit.
    fn left(&self, group: &Path) -> Option<u64> {
        let number = |name: &str| fs::read_to_string(group.join(name)).ok()?.trim().parse::<u64>().ok();
        // Version 1 has a number close to 2^63 where there is no limit.
        let limit = number(self.limit).filter(|&limit| limit < 1 << 62)?;
        let statistics = fs::read_to_string(group.join("memory.stat")).ok()?;
        let cached = cached(&statistics, &self.cached);
        Some(limit.saturating_sub(number(self.used)?.saturating_sub(cached)))
    }
}

/// The bytes of cached files in `memory.stat`.
fn cached(statistics: &str, names: &[&str]) -> u64 {
    let number = |line: &str| {
        let (name, bytes) = line.split_once(' ')?;
        names.contains(&name).then(|| bytes.parse::<u64>().ok())?
    };
    statistics.lines().filter_map(number).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cached_files_are_counted_as_free() {
        assert_eq!(cached("anon 5\nfile 300\ninactive_file 100\nactive_file 200\nshmem 7\n", &VERSION_2.cached), 300);
    }

    #[test]
    fn both_versions_of_control_groups_are_read() {
        let group = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(group.path().join(name), text).unwrap();
        write("memory.stat", "total_inactive_file 10\ninactive_file 20\n");
        assert_eq!(VERSION_1.left(group.path()), None);
        write("memory.max", "1000\n");
        write("memory.current", "300\n");
        write("memory.limit_in_bytes", "500\n");
        write("memory.usage_in_bytes", "300\n");
        assert_eq!((VERSION_2.left(group.path()), VERSION_1.left(group.path())), (Some(720), Some(210)));
        write("memory.max", "max\n");
        write("memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!((VERSION_2.left(group.path()), VERSION_1.left(group.path())), (None, None));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn some_memory_is_available_here() {
        assert!(memory().is_some_and(|memory| memory.available > 1 << 20 && memory.total >= memory.available));
    }
}
