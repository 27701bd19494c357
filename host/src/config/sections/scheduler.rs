//! `scheduler`: the host's own components, chosen by `use` like a plugin's.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// `scheduler`: a string stands for `{ use = … }`. Default: `cosine`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "use", rename_all = "lowercase")]
pub enum Scheduler {
    /// The peak, after the warm-up.
    Constant(Constant),
    /// Half a cosine from the peak down to `min_ratio` of it, after the warm-up.
    Cosine(Cosine),
}

impl Default for Scheduler {
    fn default() -> Self {
        Scheduler::Cosine(Cosine::default())
    }
}

/// Keys of `scheduler.use = "constant"`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Constant {
    /// Updates over which the learning rate rises linearly to its peak. Default: 0.
    pub warmup_steps: u64,
}

/// Keys of `scheduler.use = "cosine"`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Cosine {
    /// Updates over which the learning rate rises linearly to its peak. Default: 0.
    pub warmup_steps: u64,
    /// Part of the peak that the last update is left with, 0 to 1. Default: 0.0.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub min_ratio: f64,
}

impl Scheduler {
    /// The names that `scheduler.use` may have.
    pub const IDS: [&'static str; 2] = ["constant", "cosine"];

    /// The JSON Schema of the keys of scheduler `id`; `None` where there is no such scheduler.
    pub(in crate::config) fn schema(id: &str) -> Option<Value> {
        match id {
            "constant" => Some(schemars::schema_for!(Constant).to_value()),
            "cosine" => Some(schemars::schema_for!(Cosine).to_value()),
            _ => None,
        }
    }
}
