//! How much memory this process has used.

/// Peak resident memory of this process in bytes, memory-mapped files included; none where the system does not tell.
///
/// On Linux it is `VmHWM` of `/proc/self/status`, not `getrusage`, whose peak goes on from the process that started
/// this one.
#[cfg(target_os = "linux")]
pub fn peak_memory_bytes() -> Option<u64> {
    status("VmHWM:")
}

/// A number of bytes in `/proc/self/status`, as `VmSize:`; none where there is no such file.
pub(crate) fn status(name: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix(name))?.trim().strip_suffix("kB")?;
    Some(kib.trim().parse::<u64>().ok()? * 1024)
}

/// Peak resident memory of this process in bytes, memory-mapped files included; none where the system does not tell.
#[cfg(not(target_os = "linux"))]
pub fn peak_memory_bytes() -> Option<u64> {
    // SAFETY: all fields of `rusage` are integers, for which zero is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a `rusage` that lives through the call.
    let failed = unsafe { libc::getrusage(libc::RUSAGE_SELF, &mut usage) } != 0;
    // Apple's systems give bytes, the other BSDs KiB.
    let unit = if cfg!(target_vendor = "apple") { 1 } else { 1024 };
    (!failed).then_some(u64::try_from(usage.ru_maxrss).ok()? * unit)
}

/// Resident memory of this process now, in bytes, as [`peak_memory_bytes`] counts it.
pub fn resident_memory_bytes() -> Option<u64> {
    #[cfg(target_os = "linux")]
    return status("VmRSS:");
    #[cfg(not(target_os = "linux"))]
    peak_memory_bytes()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn peak_memory_rises_with_what_is_touched_and_stays() {
        const BYTES: usize = 64 << 20;
        let resident = || {
            let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
            statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
        };
        let before = resident();
        drop(std::hint::black_box(vec![1u8; BYTES]));
        let peak = peak_memory_bytes().unwrap();
        // Other tests free memory meanwhile.
        assert!(peak >= before + BYTES as u64 / 2, "{peak} after {before}");
        assert!(peak < 1 << 40);
    }
}
