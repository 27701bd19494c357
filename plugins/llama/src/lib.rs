//! The Llama family as a plugin: Llama 1 to 3 with every rope scaling of theirs, grouped queries, tied and untied heads.
//!
//! It is written in tensor operations and names of weights only, so it runs on any compute plugin, and the host can put
//! adapters or quantised weights behind the names.

mod attention;
mod config;
mod json;
mod model;
mod parameters;
mod rope;

pub use model::{Config, Llama};

mdt_plugin_api::plugin! { model "llama" => Llama; }
