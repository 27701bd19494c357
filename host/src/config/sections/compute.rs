//! `compute` and `comm`: the device, and how ranks connect.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `compute`: a string stands for `{ use = … }`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Compute {
    /// The compute component. Default: `mlx`.
    #[serde(rename = "use")]
    pub id: String,
    /// The device, as the component names it; `auto` is the fastest one. Default: `auto`.
    #[schemars(length(min = 1))]
    pub device: String,
    /// Type of activations, and of weights where they meet activations: `float32` or `bfloat16`. Weights that are trained,
    /// optimizer states, losses, and sums of gradients stay in float32. Default: `float32`.
    pub dtype: Dtype,
    /// Type that inputs and weights of layers are rounded to where they are multiplied: `float32` or `bfloat16`. Sums and
    /// results are of float32; with another `dtype`, this is that type. Default: `float32`.
    pub matmul: Dtype,
    /// Threads for work on the CPU; 0 uses all cores. Results have the same bits for any number of them. Default: 0.
    #[schemars(range(max = 512))]
    pub threads: u32,
}

impl Default for Compute {
    fn default() -> Self {
        Compute {
            id: "mlx".into(),
            device: "auto".into(),
            dtype: Dtype::default(),
            matmul: Dtype::default(),
            threads: 0,
        }
    }
}

impl Compute {
    /// The number of threads that `threads` stands for on this machine.
    pub fn thread_count(&self) -> usize {
        match self.threads {
            0 => std::thread::available_parallelism().map_or(1, |n| n.get()),
            n => n as usize,
        }
    }
}

/// The type that activations are computed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// 32-bit floating point.
    #[default]
    Float32,
    /// 16-bit floating point with f32's exponent.
    Bfloat16,
    /// 16-bit IEEE floating point.
    Float16,
}

/// `comm`: a string stands for `{ use = … }`. These keys are kept if a higher layer chooses another component.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Comm {
    /// The collectives component. Default: `local`.
    #[serde(rename = "use")]
    pub id: String,
    /// Number of ranks. Default: 1.
    #[schemars(range(min = 1))]
    pub world_size: u32,
    /// Rank of this process, from 0. Default: 0.
    pub rank: u32,
    /// Host name or address of rank 0; `unix:PATH` is a socket of this machine, for backends that know them.
    /// Default: `127.0.0.1`.
    #[schemars(length(min = 1))]
    pub address: String,
    /// Port of rank 0. Default: 50051.
    #[schemars(range(min = 1))]
    pub port: u16,
    /// Seconds without progress after which a collective between ranks fails. Default: 30.
    #[schemars(range(min = 0.1, max = 86400.0))]
    pub timeout_s: f64,
    /// Divide the optimizer's states among the ranks, so that each has those of the weights that it updates (ZeRO-1): less
    /// memory, the same bits. Default: false.
    pub shard_optimizer: bool,
    /// Add gradients over ranks while others are still computed. The bits are the same. Default: true.
    pub overlap: bool,
    /// Megabytes of gradients that are added at once. Default: 4.
    #[schemars(range(min = 1, max = 100000))]
    pub bucket_mb: u32,
    /// The type in which gradients go to other ranks: with `bfloat16` they are half as long, and rounded before ranks are
    /// added. Default: `float32`.
    pub gradient_dtype: GradientDtype,
}

/// The type in which gradients go to other ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum GradientDtype {
    /// 32-bit floating point.
    #[default]
    Float32,
    /// 16-bit floating point with f32's exponent.
    Bfloat16,
}

impl Comm {
    /// Where rank 0 is reached, in words.
    pub fn place(&self) -> String {
        self.place_at(self.port)
    }

    /// The same with another port.
    pub fn place_at(&self, port: u16) -> String {
        match self.is_on_this_machine() {
            true => self.address.clone(),
            false => format!("{}:{port}", self.address),
        }
    }

    /// Whether the ranks meet at a Unix socket, which has no port.
    pub fn is_on_this_machine(&self) -> bool {
        self.address.starts_with("unix:")
    }
}

impl Default for Comm {
    fn default() -> Self {
        Comm {
            id: "local".into(),
            world_size: 1,
            rank: 0,
            address: "127.0.0.1".into(),
            port: 50051,
            timeout_s: 30.0,
            shard_optimizer: false,
            overlap: true,
            bucket_mb: 4,
            gradient_dtype: GradientDtype::Float32,
        }
    }
}
