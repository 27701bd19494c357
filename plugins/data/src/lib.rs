//! Data sources that come with `mdt-host`: [`Jsonl`], by the name `jsonl`.
//!
//! A row is one of these, told apart by the keys that it has:
//!
//! | format | row | trained |
//! |---|---|---|
//! | `messages` | `{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}` | assistant turns |
//! | `prompt_completion` | `{"prompt": "…", "completion": "…"}` | the completion |
//! | `sharegpt` | `{"conversations": [{"from": "human", "value": "…"}, {"from": "gpt", "value": "…"}]}` | `gpt`'s turns |
//! | `alpaca` | `{"instruction": "…", "input": "…", "output": "…"}`, `input` optional | the output |
//! | `preference` | `{"chosen": …, "rejected": …}`, each a text or messages; `prompt` optional | what the trainer takes |
//! | `text` | `{"text": "…"}` | everything |
//!
//! A row's other columns stay as they are, for trainers that read them; `data.format = "columns"` takes rows of any
//! columns.
//!
//! `sharegpt` and `alpaca` are read as conversations, so that the model's own chat template renders them: Alpaca's
//! instruction and input, joined by a blank line, are the user's turn, without the preamble of the paper. Both may have a
//! `system` column beside theirs. `data.fields` maps columns that have other names, `data.format` forces one format; see [`Columns`].

mod columns;
mod jsonl;

pub use columns::{Columns, Fields, Format};
pub use jsonl::{Config, Jsonl};

mdt_plugin_api::plugin! { data "jsonl" => Jsonl; }
