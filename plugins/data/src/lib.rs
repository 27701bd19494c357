//! Data sources that come with `mdt-host`: [`Jsonl`], by the name `jsonl`.
//!
//! A row is one of three things, told apart by the keys that it has:
//!
//! | format | row | trained |
//! |---|---|---|
//! | `messages` | `{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}` | assistant turns |
//! | `prompt_completion` | `{"prompt": "…", "completion": "…"}` | the completion |
//! | `text` | `{"text": "…"}` | everything |
//!
//! `data.fields` maps columns that have other names, `data.format` forces one format; see [`Columns`].

mod columns;
mod jsonl;

pub use columns::{Columns, Fields, Format};
pub use jsonl::{Config, Jsonl};

mdt_plugin_api::plugin! { data "jsonl" => Jsonl; }
