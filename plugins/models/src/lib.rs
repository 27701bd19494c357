//! Families of language models, each a file of [`families`] that says what of a `config.json` makes which layers.
//!
//! What they share stands once: `decoder` runs a stack of layers, each of `attention` and a `feed_forward` part, which may
//! have `experts`. All is written in tensor operations and names of weights, so it runs on any compute plugin, and the host
//! can put adapters or quantised weights behind the names.
//!
//! A family more is a file there and a line in `plugin!`; its fixture is an entry of `tests/fixtures/make/families.py`, and its name
//! one of `tests/support/families.rs`, which every test of families goes through.

mod attention;
mod config;
mod decoder;
mod experts;
mod exported_config;
pub mod families;
mod family;
mod feed_forward;
mod json;
mod layer_types;
mod norm;
mod parameters;
mod rope;

use families::*;
pub use family::{Config, Family, FamilyModel};

mdt_plugin_api::plugin! {
    model "gemma" => FamilyModel<Gemma>;
    model "gemma2" => FamilyModel<Gemma2>;
    model "gemma3_text" => FamilyModel<Gemma3>;
    model "gpt2" => FamilyModel<Gpt2>;
    model "granite" => FamilyModel<Granite>;
    model "llama" => FamilyModel<Llama>;
    model "mistral" => FamilyModel<Mistral>;
    model "mixtral" => FamilyModel<Mixtral>;
    model "olmo2" => FamilyModel<Olmo2>;
    model "phi3" => FamilyModel<Phi3>;
    model "qwen2" => FamilyModel<Qwen2>;
    model "qwen3" => FamilyModel<Qwen3>;
    model "qwen3_moe" => FamilyModel<Qwen3Moe>;
    model "smollm3" => FamilyModel<SmolLm3>;
    model "starcoder2" => FamilyModel<Starcoder2>;
}
