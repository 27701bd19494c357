//! The trained weights: one safetensors file, or shards with an index.

use crate::storage::{self, Array, StoredArray, write_tensors};
use serde_json::json;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;

/// The largest file: 5 GB, as in `save_pretrained` of transformers. A larger array has a file of its own.
pub(super) const SHARD_BYTES: u64 = 5_000_000_000;

/// transformers refuses files without this entry.
const METADATA: [(&str, &str); 1] = [("format", "pt")];

/// Writes the weights to a directory and calls `proceed` before each array. An error comes with the name of its file.
pub(super) fn write(
    directory: &Path,
    parameters: &[StoredArray<'_>],
    shard_bytes: u64,
    proceed: &dyn Fn() -> io::Result<()>,
) -> Result<(), (String, io::Error)> {
    let shards = shards(parameters, shard_bytes);
    let write = |name: String, arrays: &[StoredArray<'_>]| match write_tensors(
        &directory.join(&name),
        arrays,
        &METADATA,
        proceed,
    ) {
        Ok(_) => Ok(name),
        Err(error) => Err((name, error)),
    };
    if let [_] | [] = shards[..] {
        return write("model.safetensors".to_owned(), parameters).map(drop);
    }
    let mut weight_map = BTreeMap::new();
    for (number, arrays) in shards.iter().enumerate() {
        let name = write(format!("model-{:05}-of-{:05}.safetensors", number + 1, shards.len()), arrays)?;
        weight_map.extend(arrays.iter().map(|stored| (stored.array.name, name.clone())));
    }
    let total_size: u64 = parameters.iter().map(StoredArray::bytes).sum();
    let index = json!({ "metadata": { "total_size": total_size }, "weight_map": weight_map });
    let name = "model.safetensors.index.json";
    storage::write_staged(&directory.join(name), format!("{index:#}\n").as_bytes())
        .map(drop)
        .map_err(|error| (name.to_owned(), error))
}

/// Writes the trainer's own parameters, where it has some. Programs that load the model pass over this file.
pub(super) fn write_trainers(
    directory: &Path,
    parameters: &[Array<'_>],
    proceed: &dyn Fn() -> io::Result<()>,
) -> Result<(), (String, io::Error)> {
    const NAME: &str = "trainer.safetensors";
    if parameters.is_empty() {
        return Ok(());
    }
    let written = write_tensors(&directory.join(NAME), parameters, &METADATA, proceed);
    written.map(drop).map_err(|error| (NAME.to_owned(), error))
}

/// The parameters in their order, as slices that each fit into one file.
fn shards<'a>(parameters: &'a [StoredArray<'a>], shard_bytes: u64) -> Vec<&'a [StoredArray<'a>]> {
    let (mut shards, mut start, mut bytes) = (Vec::new(), 0, 0);
    for (place, array) in parameters.iter().enumerate() {
        if place > start && bytes + array.bytes() > shard_bytes {
            shards.push(&parameters[start..place]);
            (start, bytes) = (place, 0);
        }
        bytes += array.bytes();
    }
    if start < parameters.len() {
        shards.push(&parameters[start..]);
    }
    shards
}

#[cfg(test)]
mod tests {
    use super::*;
    use mdt_plugin_api::Dtype;
    use proptest::prelude::*;

    use crate::storage::TypedArray;

    proptest! {
        #[test]
        fn shards_hold_every_parameter_once_in_order_and_stay_below_the_limit(
            sizes in proptest::collection::vec(0usize..50, 0..20),
            limit in 1u64..400,
        ) {
            let bytes = [0; 200];
            let parameters: Vec<_> =
                sizes.iter().map(|&n| TypedArray { name: "a", shape: &[], dtype: Dtype::F32, bytes: &bytes[..4 * n] }.into()).collect();
            let shards = shards(&parameters, limit);
            let held: Vec<usize> = shards.iter().flat_map(|shard| shard.iter().map(|array| array.bytes() as usize / 4)).collect();
            prop_assert_eq!(held, sizes);
            for shard in shards {
                let bytes: u64 = shard.iter().map(StoredArray::bytes).sum();
                prop_assert!(bytes <= limit || shard.len() == 1);
            }
        }
    }
}
