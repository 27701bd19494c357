//! `checkpoints/best.json`: which checkpoint has the lowest held-out loss. It is for people and scripts; a run that
//! resumes reads its evaluations from its checkpoint.

use super::state::to_json;
use crate::storage;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::Path;

pub(super) const BEST: &str = "best.json";

/// One evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Evaluated {
    /// The update that it followed.
    pub update: u64,
    /// Mean loss over the supervised tokens of the held-out rows.
    pub eval_loss: f64,
}

/// Writes the best checkpoint and the name of its directory to the file; removes the file if there is none.
pub(super) fn write(directory: &Path, best: Option<(Evaluated, String)>) -> io::Result<()> {
    #[derive(Serialize)]
    struct File<'a> {
        step: u64,
        eval_loss: f64,
        checkpoint: &'a str,
    }
    let path = directory.join(BEST);
    let Some((best, checkpoint)) = best else {
        return match fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        };
    };
    let text = to_json(&File { step: best.update, eval_loss: best.eval_loss, checkpoint: &checkpoint })?;
    if fs::read(&path).is_ok_and(|found| found == text) {
        return Ok(());
    }
    let temporary = directory.join(format!(".{BEST}.tmp"));
    storage::write(&temporary, &text)?;
    fs::rename(temporary, path)?;
    storage::crash_points::reached("best.json renamed");
    storage::sync(directory)
}
