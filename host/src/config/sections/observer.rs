//! `observers`: what is told of the run.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One of `observers`: a string stands for `{ use = … }`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Observer {
    /// The observer component.
    #[serde(rename = "use")]
    pub id: String,
    /// Whether every rank has this observer, and not only rank 0. Default: false.
    #[serde(default)]
    pub every_rank: bool,
    /// The keys of the component.
    #[serde(flatten)]
    pub keys: Map<String, Value>,
}
