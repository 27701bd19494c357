//! The files beside the weights, copied from the model that was trained.

use crate::exit::{Failure, Status};
use crate::storage::{self, unwritable};
use std::fs::{self, File};
use std::path::Path;

/// What tokenizers of the Hugging Face form consist of, and how to generate. `additional_chat_templates` is a directory.
const FILES: [&str; 14] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates",
    "generation_config.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "sentencepiece.bpe.model",
    "spiece.model",
];

/// Copies those that are in `source` to `to`; messages call that `target`.
pub(super) fn copy(source: &Path, to: &Path, target: &Path) -> Result<(), Failure> {
    for name in FILES {
        let (from, to, target) = (source.join(name), to.join(name), target.join(name));
        if from.is_dir() {
            fs::create_dir(&to).map_err(|error| unwritable("the trained model cannot be written", &target, &error))?;
            let entries = fs::read_dir(&from).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
            for entry in entries.map_err(|error| unreadable(&from, error))? {
                let name = entry.file_name();
                copy_file(&from.join(&name), &to.join(&name), &target.join(&name))?;
            }
            storage::sync(&to).map_err(|error| unwritable("the trained model cannot be written", &target, &error))?;
        } else if from.exists() {
            copy_file(&from, &to, &target)?;
        }
    }
    Ok(())
}

fn copy_file(from: &Path, to: &Path, target: &Path) -> Result<(), Failure> {
    // Opened apart from the copy, so that the user hears which of the two files is at fault.
    File::open(from).map_err(|error| unreadable(from, error))?;
    storage::copy(from, to).map_err(|error| unwritable("the trained model cannot be written", target, &error))
}

fn unreadable(path: &Path, error: std::io::Error) -> Failure {
    Failure::new(Status::Input, "a file of the model that was trained can no longer be read")
        .at(path.display())
        .because(error)
}
