//! The names of special tokens, which a trainer leaves out when it decodes.

use std::collections::HashMap;
use std::io::ErrorKind;

use serde_json::Value;

use crate::exit::{Failure, Status};
use crate::model::Directory;
use crate::text_file;

/// The special tokens of a model's `tokenizer.json` by their ids; none where the trainer has another tokenizer.
///
/// # Errors
/// The file is there and cannot be read.
pub(super) fn tokens(directory: &Directory) -> Result<HashMap<u32, String>, Failure> {
    let file = directory.path().join("tokenizer.json");
    let failure = |cause: &dyn std::fmt::Display| {
        Failure::new(Status::Input, "the tokenizer cannot be read").at(file.display()).because(cause)
    };
    let text = match text_file::read_of_model(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(HashMap::new()),
        Err(error) => return Err(failure(&error)),
    };
    let tokenizer: Value = serde_json::from_str(&text).map_err(|error| failure(&error))?;
    let added = tokenizer["added_tokens"].as_array().into_iter().flatten();
    let special = added.filter(|token| token["special"] == true);
    let entry =
        |token: &Value| Some((u32::try_from(token["id"].as_u64()?).ok()?, token["content"].as_str()?.to_owned()));
    Ok(special.filter_map(entry).collect())
}
