//! The memory of the machine, and what this process may still use of it.

use std::fs;
use std::path::Path;

use sysinfo::System;

/// Bytes of memory.
pub(crate) struct Memory {
    /// All of it.
    pub(crate) total: u64,
    /// What programs may take now.
    pub(crate) available: u64,
}

/// The memory of this machine or, if it is less, of the control group of this process (a container, a batch system).
/// `None` where the system does not say.
pub(crate) fn memory() -> Option<Memory> {
    let mut system = System::new().ok()?;
    system.refresh_memory();
    let total = system.cgroup_limits().map_or(u64::MAX, |limits| limits.total_memory);
    let available = control_group().unwrap_or(u64::MAX);
    Some(Memory { total: system.total_memory().min(total), available: system.available_memory().min(available) })
}

/// `23.5 GiB`.
pub(crate) fn gibibytes(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}

/// The least that is available in this process's control group and those above it. Memory of cached files counts as
/// available, because the system frees it before a limit is reached.
///
/// The files are those of version 2: <https://docs.kernel.org/admin-guide/cgroup-v2.html#memory-interface-files>.
fn control_group() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let path = Path::new("/sys/fs/cgroup").join(group);
    let left = |group: &Path| {
        let limit: u64 = fs::read_to_string(group.join("memory.max")).ok()?.trim().parse().ok()?;
        let used: u64 = fs::read_to_string(group.join("memory.current")).ok()?.trim().parse().ok()?;
        let statistics = fs::read_to_string(group.join("memory.stat")).ok()?;
        Some(limit.saturating_sub(used.saturating_sub(cached(&statistics))))
    };
    path.ancestors().take_while(|group| group.starts_with("/sys/fs/cgroup")).filter_map(left).min()
}

/// The bytes of cached files in `memory.stat`.
fn cached(statistics: &str) -> u64 {
    let number = |line: &str| {
        let (name, bytes) = line.split_once(' ')?;
        ["active_file", "inactive_file"].contains(&name).then(|| bytes.parse::<u64>().ok())?
    };
    statistics.lines().filter_map(number).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cached_files_are_counted_as_free() {
        assert_eq!(cached("anon 5\nfile 300\ninactive_file 100\nactive_file 200\nshmem 7\n"), 300);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn some_memory_is_available_here() {
        assert!(memory().is_some_and(|memory| memory.available > 1 << 20 && memory.total >= memory.available));
    }
}
