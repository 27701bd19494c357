//! `<output_dir>/final/`: the trained model in the format of Hugging Face, which transformers and mlx-lm load, or the trained
//! adapter in that of peft or mlx-lm.

mod adapter;
mod card;
mod config;
mod types;
mod weights;

use crate::exit::{Failure, Status};
use crate::model::{Directory, OWN, Packing, WrittenAdapter};
use crate::storage::{self, Array, Staged, StoredArray, TypedArray, unwritable};
use crate::tokenizer_files::TokenizerFiles;
use mdt_plugin_api::ParameterSpec;
use serde_json::{Map, Value};
use std::io;
use std::path::{Path, PathBuf};

pub use card::Card;
pub use types::Types;

/// A model to write.
#[derive(Clone, Copy)]
pub struct Export<'a> {
    /// The directory that the model came from.
    pub source: &'a Directory,
    /// The files of its tokenizer.
    pub tokenizer: &'a TokenizerFiles,
    /// Keys that its `config.json` gets, as the model plugin says.
    pub config: &'a Map<String, Value>,
    /// All parameters that are not quantised, and the trainer's own.
    pub parameters: &'a [Array<'a>],
    /// What the model plugin says of them.
    pub specs: &'a [ParameterSpec],
    /// The words, scales and biases of those that are.
    pub quantised: &'a [TypedArray<'a>],
    /// The form of those that are not, in the files that are written.
    pub types: &'a Types,
    /// How the job quantised them; `None` where they are as in the model's files.
    pub packing: Option<Packing>,
    /// What is written in the place of the model's own files, where its adapter was trained.
    pub adapter: Option<&'a WrittenAdapter>,
    /// Its model card, where it has one.
    pub card: Option<&'a str>,
}

/// Its name in the output directory.
pub const DIRECTORY: &str = "final";

impl<'a> Export<'a> {
    /// Writes `<output_dir>/final/` and returns it when it is on the disk. Until then an earlier one stays.
    ///
    /// # Errors
    /// Status 7, with the file and what to do about it; 130 if `cancelled` becomes true; 4 if a file of the tokenizer
    /// cannot be read.
    pub fn write(&self, output_dir: &Path, cancelled: &dyn Fn() -> bool) -> Result<PathBuf, Failure> {
        let target = output_dir.join(DIRECTORY);
        self.write_to(&target, cancelled).map(|()| target)
    }

    /// Writes a directory of any name, whose parent must exist.
    ///
    /// # Errors
    /// As [`Export::write`].
    pub fn write_to(&self, target: &Path, cancelled: &dyn Fn() -> bool) -> Result<(), Failure> {
        self.write_sharded(target, weights::SHARD_BYTES, cancelled)
    }

    fn write_sharded(&self, target: &Path, shard_bytes: u64, cancelled: &dyn Fn() -> bool) -> Result<(), Failure> {
        let failed = |path: &Path, error: &io::Error| match error.kind() {
            io::ErrorKind::Interrupted => {
                Failure::new(Status::Interrupted, "interrupted while the trained model was written")
                    .at(target.display())
            }
            _ => unwritable("the trained model cannot be written", path, error),
        };
        let proceed = || if cancelled() { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) };
        storage::recover(target).map_err(|error| failed(target, &error))?;
        let staged = Staged::create(target).map_err(|error| failed(target, &error))?;
        let own = |array: &Array<'a>| Some(Array { name: array.name.strip_prefix(OWN)?, ..*array });
        let trainers: Vec<_> = self.parameters.iter().filter_map(own).collect();
        let written = match self.adapter {
            Some(adapter) => adapter::write(staged.path(), adapter, &proceed),
            None => {
                let config = match self.quantised.is_empty() {
                    true => config::trained(self.source.config(), self.config, self.types.main()),
                    false => config::quantised(self.source.config(), self.config, self.packing),
                };
                let whole: Vec<_> = self.parameters.iter().filter(|array| own(array).is_none()).copied().collect();
                let mut of_model = self.types.stored(self.specs, &whole)?;
                of_model.extend(self.quantised.iter().map(|&array| StoredArray::from(array)));
                write_json(staged.path(), "config.json", &config)
                    .and_then(|()| weights::write(staged.path(), &of_model, shard_bytes, &proceed))
            }
        };
        written
            .and_then(|()| weights::write_trainers(staged.path(), &trainers, &proceed))
            .map_err(|(name, error)| failed(&target.join(name), &error))?;
        if let Some(card) = self.card {
            let written = storage::write_staged(&staged.path().join(card::FILE), card.as_bytes());
            written.map_err(|error| failed(&target.join(card::FILE), &error))?;
        }
        self.tokenizer.write(staged.path(), target)?;
        staged.publish().map_err(|error| failed(target, &error))
    }
}

/// Writes a file of JSON to a directory. An error comes with the name of its file.
fn write_json(directory: &Path, name: &str, value: &Value) -> Result<(), (String, io::Error)> {
    let text = format!("{value:#}\n");
    storage::write_staged(&directory.join(name), text.as_bytes()).map(drop).map_err(|error| (name.to_owned(), error))
}

#[cfg(test)]
mod tests;
