//! `scheduler`: components of the host itself, chosen by `use` like those of plugins.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// `scheduler`: a string stands for `{ use = … }`. Default: `cosine`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "use", rename_all = "lowercase")]
pub enum Scheduler {
    /// The peak learning rate after the warm-up.
    Constant(Constant),
    /// Half a cosine from the peak down to `min_ratio` of it, after the warm-up.
    Cosine(Decay),
    /// A straight line from the peak down to `min_ratio` of it, after the warm-up.
    Linear(Decay),
    /// A power of that line, after the warm-up.
    Polynomial(Polynomial),
    /// Warm-up, stable, decay: the peak, then a straight line down to `min_ratio` of it at the end.
    Wsd(Wsd),
}

impl Default for Scheduler {
    fn default() -> Self {
        Scheduler::Cosine(Decay::default())
    }
}

/// Keys of `scheduler.use = "constant"`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Constant {
    /// Updates over which the learning rate rises linearly to its peak. Default: 0.
    pub warmup_steps: u64,
}

/// Keys of `scheduler.use = "cosine"` and `"linear"`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Decay {
    /// Updates over which the learning rate rises linearly to its peak. Default: 0.
    pub warmup_steps: u64,
    /// Learning rate of the last update as a part of the peak, 0 to 1. Default: 0.0.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub min_ratio: f64,
}

/// Keys of `scheduler.use = "polynomial"`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Polynomial {
    /// Updates over which the learning rate rises linearly to its peak. Default: 0.
    pub warmup_steps: u64,
    /// Exponent of the remaining part of the updates; 1 is a straight line, 0 stays at the peak. Default: 1.0.
    #[schemars(range(min = 0.0))]
    pub power: f64,
    /// Learning rate of the last update as a part of the peak, 0 to 1. Default: 0.0.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub min_ratio: f64,
}

impl Default for Polynomial {
    fn default() -> Self {
        Polynomial { warmup_steps: 0, power: 1.0, min_ratio: 0.0 }
    }
}

/// Keys of `scheduler.use = "wsd"`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Wsd {
    /// Updates over which the learning rate rises linearly to its peak. Default: 0.
    pub warmup_steps: u64,
    /// Part of all updates for the linear decay at the end, 0 to 1. It never overlaps the warm-up. Default: 0.1.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub decay_ratio: f64,
    /// Number of updates of the decay. It overrides `decay_ratio`. Default: unset.
    pub decay_steps: Option<u64>,
    /// Learning rate of the last update as a part of the peak, 0 to 1. Default: 0.0.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub min_ratio: f64,
}

impl Default for Wsd {
    fn default() -> Self {
        Wsd { warmup_steps: 0, decay_ratio: 0.1, decay_steps: None, min_ratio: 0.0 }
    }
}

impl Scheduler {
    /// The names that `scheduler.use` may have.
    pub const IDS: [&'static str; 5] = ["constant", "cosine", "linear", "polynomial", "wsd"];

    /// Updates over which the learning rate rises linearly to its peak.
    pub fn warmup_steps(&self) -> u64 {
        match self {
            Scheduler::Constant(c) => c.warmup_steps,
            Scheduler::Cosine(c) | Scheduler::Linear(c) => c.warmup_steps,
            Scheduler::Polynomial(c) => c.warmup_steps,
            Scheduler::Wsd(c) => c.warmup_steps,
        }
    }

    /// The JSON Schema of the keys of scheduler `id`; `None` if there is no such scheduler.
    pub(in crate::config) fn schema(id: &str) -> Option<Value> {
        match id {
            "constant" => Some(schemars::schema_for!(Constant).to_value()),
            "cosine" | "linear" => Some(schemars::schema_for!(Decay).to_value()),
            "polynomial" => Some(schemars::schema_for!(Polynomial).to_value()),
            "wsd" => Some(schemars::schema_for!(Wsd).to_value()),
            _ => None,
        }
    }
}
