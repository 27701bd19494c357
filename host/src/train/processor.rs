//! What computes a run, as far as the bits of its results depend on it.

use mdt_plugin_api::{DeviceInfo, Dtype};

/// The system, and what the device says of its arithmetic; otherwise the instruction set, the library and its kernels, and for a GPU
/// its model too, whose kernels are its own. Two processes in which this differs may compute other bits from the same numbers.
/// `operands` is the type that products round their operands to.
pub(super) fn describe(device: &DeviceInfo, operands: Option<Dtype>) -> String {
    let system = std::env::consts::OS;
    if !device.arithmetic.is_empty() {
        let fast = operands.filter(|operands| device.fast_products.contains(operands));
        let fast = fast.map_or(String::new(), |operands| format!(", instructions for {operands}"));
        return format!("{system} on {}{fast}", device.arithmetic);
    }
    match device.kind.as_str() {
        "cpu" => format!("{system} on {}, {}", instruction_set(), device.library),
        _ => format!("{system} on {} {}, {}", device.kind, device.name, device.library),
    }
}

/// The instruction set of this processor, in the steps in which libraries of linear algebra choose their kernels.
fn instruction_set() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        match (avx2 && is_x86_feature_detected!("avx512f"), avx2) {
            (true, _) => "x86_64 with AVX-512",
            (_, true) => "x86_64 with AVX2 and FMA",
            _ => "x86_64",
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    std::env::consts::ARCH
}
