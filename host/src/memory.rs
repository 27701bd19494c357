//! The machine's memory.

use sysinfo::System;

/// Bytes of memory.
pub(crate) struct Memory {
    /// All of it.
    pub(crate) total: u64,
    /// What programs may take now.
    pub(crate) available: u64,
}

/// The memory of this machine or, in a container, of its control group; `None` where the system does not say.
pub(crate) fn memory() -> Option<Memory> {
    let mut system = System::new().ok()?;
    system.refresh_memory();
    let (total, available) = (system.total_memory(), system.available_memory());
    Some(match system.cgroup_limits() {
        Some(limits) => Memory { total: total.min(limits.total_memory), available: available.min(limits.free_memory) },
        None => Memory { total, available },
    })
}

/// `23.5 GiB`.
pub(crate) fn gibibytes(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}
