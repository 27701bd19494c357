//! `checkpoints/best.json`: which checkpoint has the lowest held-out loss. For people and scripts; a run reads its own
//! standing from the checkpoint that it resumes from.

use super::state::to_json;
use crate::storage;
use serde::Serialize;
use std::fs;
use std::io;
use std::path::Path;

pub(super) const BEST: &str = "best.json";

/// The checkpoint with the lowest held-out loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Best {
    /// Its update.
    pub update: u64,
    /// Mean loss over the supervised tokens of the held-out rows.
    pub eval_loss: f64,
}

/// Writes the file, in place of an earlier one, with the directory's name of the checkpoint.
pub(super) fn write(directory: &Path, best: Best, checkpoint: &str) -> io::Result<()> {
    #[derive(Serialize)]
    struct File<'a> {
        step: u64,
        eval_loss: f64,
        checkpoint: &'a str,
    }
    let text = to_json(&File { step: best.update, eval_loss: best.eval_loss, checkpoint })?;
    let temporary = directory.join(format!(".{BEST}.tmp"));
    storage::write(&temporary, &text)?;
    fs::rename(temporary, directory.join(BEST))?;
    storage::crash_points::reached("best.json renamed");
    storage::sync(directory)
}
