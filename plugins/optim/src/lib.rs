//! Optimizers that come with `mdt-host`: [`AdamW`], by the name `adamw`.
//!
//! An optimizer here is a rule on slices of f32: the host owns parameters, states, schedule and threads, and saves and
//! shards the states. So this library holds no tensor, no thread and no file.

mod adamw;

pub use adamw::{AdamW, Config};

mdt_plugin_api::plugin! { optimizer "adamw" => AdamW; }
