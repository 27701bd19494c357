//! The Llama family as a plugin: Llama 1 to 3 and SmolLM, Mistral, Qwen2 and Qwen3, with every rope scaling of Llama's,
//! grouped queries, tied and untied heads.
//!
//! It is written in tensor operations and names of weights only, so it runs on any compute plugin, and the host can put
//! adapters or quantised weights behind the names.

mod attention;
mod config;
mod exported_config;
mod family;
mod json;
mod model;
mod parameters;
mod rope_frequencies;
mod sliding_window;

pub use family::{AttentionBias, Family, Llama, Member, Mistral, Qwen2, Qwen3};
pub use model::{Config, Decoder};
pub use sliding_window::WindowRule;

mdt_plugin_api::plugin! {
    model "llama" => Decoder<Llama>;
    model "mistral" => Decoder<Mistral>;
    model "qwen2" => Decoder<Qwen2>;
    model "qwen3" => Decoder<Qwen3>;
}
