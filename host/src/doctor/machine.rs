//! Check `machine`.

use std::process::Command;

use super::{Check, Finding, Subject};

pub(super) const CHECK: Check = Check { name: "machine", description: "Cores and memory.", run };

fn run(_: &Subject) -> Vec<Finding> {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let plural = if cores == 1 { "core" } else { "cores" };
    let Memory { total, available } = memory();
    let mut message = format!("{cores} {plural}");
    let mut finding = Finding::ok("").fact("cores", cores);
    if let Some(total) = total {
        message += &format!(", {} of memory", gibibytes(total));
        finding = finding.fact("memory_bytes", total);
    }
    if let Some(available) = available {
        message += &format!(", {} available", gibibytes(available));
        finding = finding.fact("memory_available_bytes", available);
    }
    finding.message = message;
    vec![finding]
}

/// Bytes of memory, where the system tells.
#[derive(Default)]
struct Memory {
    total: Option<u64>,
    available: Option<u64>,
}

/// Linux: `/proc/meminfo`, and the limit of the control group, which is what counts in a container.
fn memory() -> Memory {
    if cfg!(target_os = "macos") {
        let output = Command::new("sysctl").args(["-n", "hw.memsize"]).output().ok();
        let total = output.and_then(|output| String::from_utf8(output.stdout).ok()?.trim().parse().ok());
        return Memory { total, available: None };
    }
    let Ok(text) = std::fs::read_to_string("/proc/meminfo") else { return Memory::default() };
    let limited = |file: &str| std::fs::read_to_string(file).ok()?.trim().parse::<u64>().ok();
    let (mut total, mut available) = (kibibytes(&text, "MemTotal:"), kibibytes(&text, "MemAvailable:"));
    if let Some(limit) = limited("/sys/fs/cgroup/memory.max").filter(|&limit| total.is_none_or(|total| limit < total)) {
        let used = limited("/sys/fs/cgroup/memory.current").unwrap_or_default();
        let left = limit.saturating_sub(used);
        total = Some(limit);
        available = available.map(|available| available.min(left));
    }
    Memory { total, available }
}

/// The bytes of a line such as `MemTotal:  24626896 kB`.
fn kibibytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kibibytes| kibibytes * 1024)
}

/// `23.5 GiB`.
pub(super) fn gibibytes(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_meminfo_are_read_in_bytes() {
        let text = "MemTotal:       24626896 kB\nMemAvailable:   1024 kB\nHugePages_Total:       0\n";
        assert_eq!(kibibytes(text, "MemTotal:"), Some(24_626_896 * 1024));
        assert_eq!(kibibytes(text, "MemAvailable:"), Some(1 << 20));
        assert_eq!(kibibytes(text, "HugePages_Total:"), None);
        assert_eq!(gibibytes(3 << 29), "1.5 GiB");
    }
}
