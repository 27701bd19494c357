//! Check `machine`.

use super::{Check, Finding, Subject};
use crate::counted::counted;
use crate::memory::{Memory, gibibytes, memory};

pub(super) const CHECK: Check = Check { name: "machine", description: "Cores and memory.", run };

fn run(_: &Subject) -> Vec<Finding> {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let finding = Finding::ok(counted(cores, "core")).fact("cores", cores);
    let Some(Memory { total, available }) = memory() else { return vec![finding] };
    let memory = format!("{} of memory, {} available", gibibytes(total), gibibytes(available));
    let finding = Finding { message: format!("{}, {memory}", finding.message), ..finding };
    vec![finding.fact("memory_bytes", total).fact("memory_available_bytes", available)]
}
