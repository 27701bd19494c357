//! MLX as a plugin: tensors, operations and gradients on Apple silicon, NVIDIA and plain CPUs.
//!
//! MLX is one per process, with its own allocator, so everything that needs it lives in this one library.

mod checkpoint;
mod compute;
mod custom;
mod device;
mod distributed;
mod dtype;
mod fault;
pub mod fused;
mod gradient;
mod handles;
mod host_view;
#[cfg(any(mdt_native, test))]
pub mod kernels;
mod ops;
#[cfg(mdt_native)]
mod plan;
#[cfg(test)]
mod tests;
mod vectors;

pub use compute::{Config, Mlx};
pub use device::DeviceChoice;
pub use distributed::{Config as DistributedConfig, Distributed, EngineChoice};

#[cfg(target_os = "linux")]
mdt_plugin_api::plugin! {
    native "libmlxc.so", "libmlx.so";
    compute "mlx" => Mlx;
    comm "mlx" => Distributed: reduce_scatter;
}

// On macOS mlx-sys links MLX into the plugin.
#[cfg(not(target_os = "linux"))]
mdt_plugin_api::plugin! {
    compute "mlx" => Mlx;
    comm "mlx" => Distributed: reduce_scatter;
}
