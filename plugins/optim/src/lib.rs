//! Optimizers that come with `mdt-host`: [`AdamW`], by the name `adamw`, and [`Sgd`], by the name `sgd`.
//!
//! An optimizer here is a rule on slices of f32: the host owns parameters, states, schedule and threads, and saves and
//! shards the states. So this library holds no tensor, no thread and no file.

pub mod adamw;
pub mod sgd;

pub use adamw::AdamW;
pub use sgd::Sgd;

mdt_plugin_api::plugin! {
    optimizer "adamw" => AdamW;
    optimizer "sgd" => Sgd;
}
