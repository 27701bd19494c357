//! Identifies what turns rows into tokens, beside the configuration: the tokenizer's files and the chat template.

use sha2::{Digest, Sha256};

use crate::checksum;
use crate::exit::{Failure, Status};
use crate::job::Job;

/// The files of a model's directory that tokens depend on.
const FILES: [&str; 10] = [
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
];

/// A checksum of all that is there of them. The keys of the configuration are compared on their own.
pub(super) fn checksum(job: &Job) -> Result<String, Failure> {
    let directory = job.model_directory()?;
    let mut digest = Sha256::new();
    for name in FILES {
        let file = directory.path().join(name);
        if file.is_file() {
            let bytes = std::fs::read(&file).map_err(|error| {
                Failure::new(Status::Input, "a file of the tokenizer cannot be read").at(file.display()).because(error)
            })?;
            digest.update(name);
            digest.update(Sha256::digest(bytes));
        }
    }
    digest.update(directory.configured_chat_template().unwrap_or_default());
    Ok(checksum::hexadecimal(&digest.finalize()))
}
