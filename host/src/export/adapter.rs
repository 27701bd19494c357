//! The trained adapter: its configuration, and one safetensors file.

use std::io;
use std::path::Path;

use super::write_json;
use crate::model::{ADAPTER_CONFIG, WrittenAdapter};
use crate::storage::{Array, write_tensors};

/// Writes an adapter to a directory and calls `proceed` before each array. An error comes with the name of its file.
pub(super) fn write(
    directory: &Path,
    adapter: &WrittenAdapter,
    proceed: &dyn Fn() -> io::Result<()>,
) -> Result<(), (String, io::Error)> {
    let WrittenAdapter { config, file, tensors } = adapter;
    let arrays: Vec<_> =
        tensors.iter().map(|tensor| Array { name: &tensor.name, shape: &tensor.shape, data: &tensor.data }).collect();
    write_json(directory, ADAPTER_CONFIG, config)?;
    // As peft and mlx-lm, which both read it back without this entry, too.
    let metadata = [("format", "pt")];
    let written = write_tensors(&directory.join(file), &arrays, &metadata, proceed);
    written.map(drop).map_err(|error| ((*file).to_owned(), error))
}
