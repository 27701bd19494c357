//! Weight files with an output layer, for a config that says that the output layer is the embedding.

use mdt_plugin_api::ParameterSpec;

use super::files::Files;
use crate::exit::{Failure, Status};

const HEAD: &str = "lm_head.weight";
const EMBEDDING: &str = "model.embed_tokens.weight";

/// Checks that no output layer of the files would be dropped. A copy of the embedding is ignored, because many tools write
/// one.
///
/// # Errors
/// The files have another output layer: the config is wrong, and training without it would train another model.
pub(super) fn check(files: &Files, specs: &[ParameterSpec]) -> Result<(), Failure> {
    if specs.iter().any(|spec| spec.name == HEAD) {
        return Ok(());
    }
    let Some(embedding) = specs.iter().find(|spec| spec.name == EMBEDDING) else { return Ok(()) };
    let head = ParameterSpec { name: HEAD.to_owned(), ..embedding.clone() };
    // One of another shape cannot be this model's, whatever its config says.
    let Ok(head) = files.read(&head) else { return Ok(()) };
    let embedding = files.read(embedding)?;
    if (head.dtype, head.bytes) == (embedding.dtype, embedding.bytes) {
        return Ok(());
    }
    Err(Failure::new(Status::Input, format!("the weights have a tensor `{HEAD}` that is not the embedding"))
        .because("`tie_word_embeddings` in config.json says that it is")
        .help("set `tie_word_embeddings` to false in config.json, or take the tensor out of the weights"))
}
