//! `metrics.jsonl`: its lines, writing and reading it, and the picture of the loss.

mod line;
mod memory;
mod picture;
mod read;
mod write;

pub use line::{EarlyStop, Evaluation, Extra, Update, numbers};
pub(crate) use memory::status;
pub use memory::{peak_memory_bytes, resident_memory_bytes};
pub use picture::write_picture;
pub use read::{last_update, read_losses};
pub use write::Metrics;

pub const FILE: &str = "metrics.jsonl";

/// The name of the picture of the loss in the output directory.
pub const PICTURE: &str = "loss.svg";
