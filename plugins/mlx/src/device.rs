//! The choice of MLX's device, and its description.

use std::ffi::{CStr, c_char};

use mdt_plugin_api::{DeviceInfo, Dtype, Error, Result};
use mlx_rs::{Device, DeviceType, memory};

use crate::fused;

mdt_plugin_api::config! {
    /// The configuration's choice.
    pub enum DeviceChoice {
        /// A GPU where MLX sees one, else the CPU.
        Auto = "auto",
        /// The CPU.
        Cpu = "cpu",
        /// The first GPU.
        Gpu = "gpu",
    }
}

/// Makes a device MLX's default for this process.
///
/// # Errors
/// A GPU is asked for and MLX sees none.
pub fn select(choice: DeviceChoice, threads: usize) -> Result<DeviceInfo> {
    install_error_handler()?;
    let kind = match (choice, gpu_available()) {
        (DeviceChoice::Gpu, false) => {
            return Err(Error::config("compute.device is \"gpu\", but this MLX sees no GPU")
                .help("set compute.device to \"cpu\" or \"auto\""));
        }
        (DeviceChoice::Gpu | DeviceChoice::Auto, true) => DeviceType::Gpu,
        _ => DeviceType::Cpu,
    };
    let device = Device::new(kind, 0);
    Device::set_default(&device);
    let (name, unified_memory) = match kind {
        DeviceType::Gpu => ("gpu", answer(mlx_sys::mlx_metal_is_available)),
        DeviceType::Cpu => ("cpu", true),
    };
    Ok(DeviceInfo {
        kind: name.to_owned(),
        name: model_name(kind).unwrap_or_else(|| name.to_owned()),
        library: match kind {
            DeviceType::Gpu => format!("MLX {}", version()),
            DeviceType::Cpu => format!("MLX {} with {}", version(), cpu_kernels()),
        },
        arithmetic: match (kind, fused::arithmetic()) {
            (DeviceType::Cpu, Some(arithmetic)) => format!("{arithmetic}, MLX {}", version()),
            _ => String::new(),
        },
        unified_memory,
        threads,
        fast_products: match kind {
            DeviceType::Gpu => vec![Dtype::BF16, Dtype::F16],
            DeviceType::Cpu if fused::has_fast_bf16() => vec![Dtype::BF16],
            DeviceType::Cpu => Vec::new(),
        },
    })
}

/// MLX's C interface ends the process on an error until a handler is set; mlx-rs sets one at its first checked call,
/// which this is.
fn install_error_handler() -> Result<()> {
    memory::active_memory().map(drop).map_err(|exception| Error::plugin(exception.what().to_owned()))
}

fn answer(question: unsafe extern "C" fn(*mut bool) -> i32) -> bool {
    let mut answer = false;
    // SAFETY: the question only writes to `answer`.
    unsafe { question(&raw mut answer) == 0 && answer }
}

/// Whether MLX sees a GPU.
pub(crate) fn gpu_available() -> bool {
    let mut count = 0;
    // SAFETY: the call only writes to `count`.
    unsafe { mlx_sys::mlx_device_count(&raw mut count, mlx_sys::mlx_device_type__MLX_GPU) == 0 && count > 0 }
}

fn version() -> String {
    // SAFETY: the string is made, filled, read and freed here; its text lives until it is freed.
    unsafe {
        let mut text = mlx_sys::mlx_string_new();
        let filled = mlx_sys::mlx_version(&raw mut text) == 0;
        let version = if filled { owned(mlx_sys::mlx_string_data(text)) } else { None };
        mlx_sys::mlx_string_free(text);
        version.unwrap_or_default()
    }
}

/// The kernels that were chosen for this processor.
fn cpu_kernels() -> String {
    #[cfg(target_arch = "x86_64")]
    let own = format!("{:?}", crate::kernels::isa::isa());
    #[cfg(not(target_arch = "x86_64"))]
    let own = std::env::consts::ARCH;
    let tiles = if fused::has_fast_bf16() { " with AMX" } else { "" };
    format!("{own} kernels{tiles}")
}

/// The device's name, as MLX knows it.
fn model_name(kind: DeviceType) -> Option<String> {
    // SAFETY: device and info are made, read and freed here; the name lives as long as the info.
    unsafe {
        let device = mlx_sys::mlx_device_new_type(kind.into(), 0);
        let mut info = mlx_sys::mlx_device_info_new();
        let mut name: *const c_char = std::ptr::null();
        let found = mlx_sys::mlx_device_info_get(&raw mut info, device) == 0
            && mlx_sys::mlx_device_info_get_string(&raw mut name, info, c"device_name".as_ptr()) == 0;
        let name = if found { owned(name) } else { None };
        mlx_sys::mlx_device_info_free(info);
        mlx_sys::mlx_device_free(device);
        name.filter(|name| !name.is_empty())
    }
}

/// A copy of a C string.
///
/// # Safety
/// The pointer is null or points to a C string.
unsafe fn owned(text: *const c_char) -> Option<String> {
    if text.is_null() {
        return None;
    }
    // SAFETY: not null, and the caller promises a C string.
    Some(unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
}
