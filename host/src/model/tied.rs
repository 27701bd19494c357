//! Output layers that a config says are the embedding, in weight files that have one of their own.

use mdt_plugin_api::ParameterSpec;

use super::files::Files;
use crate::exit::{Failure, Status};

const HEAD: &str = "lm_head.weight";
const EMBEDDING: &str = "model.embed_tokens.weight";

/// Checks that a model without an output layer of its own loses none that the files have: a copy of the embedding is
/// passed over, as many tools write one.
///
/// # Errors
/// The files have another output layer: the config is wrong, and to train without it would be to train another model.
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
