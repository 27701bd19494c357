//! Check `machine`.

use sysinfo::System;

use super::{Check, Finding, Subject};

pub(super) const CHECK: Check = Check { name: "machine", description: "Cores and memory.", run };

fn run(_: &Subject) -> Vec<Finding> {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let plural = if cores == 1 { "core" } else { "cores" };
    let finding = Finding::ok(format!("{cores} {plural}")).fact("cores", cores);
    let Ok(mut system) = System::new() else { return vec![finding] };
    system.refresh_memory();
    let (mut total, mut available) = (system.total_memory(), system.available_memory());
    // In a container the limit of its control group is what counts.
    if let Some(limits) = system.cgroup_limits() {
        total = total.min(limits.total_memory);
        available = available.min(limits.free_memory);
    }
    let memory = format!("{} of memory, {} available", gibibytes(total), gibibytes(available));
    let finding = Finding { message: format!("{}, {memory}", finding.message), ..finding };
    vec![finding.fact("memory_bytes", total).fact("memory_available_bytes", available)]
}

/// `23.5 GiB`.
pub(super) fn gibibytes(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}
