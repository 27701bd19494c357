//! The files beside the weights, copied from the model that was trained.

use crate::exit::{Failure, Status};
use crate::model::Directory;
use crate::storage::{self, unwritable};
use crate::text_file;
use serde_json::Value;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What tokenizers of the Hugging Face form consist of, and how to generate.
const FILES: [&str; 13] = [
    "tokenizer.json",
    CONFIG,
    "special_tokens_map.json",
    "added_tokens.json",
    TEMPLATE,
    "chat_template.json",
    "generation_config.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "sentencepiece.bpe.model",
    "spiece.model",
];

const CONFIG: &str = "tokenizer_config.json";
const TEMPLATE: &str = "chat_template.jinja";
/// A directory of further chat templates.
const TEMPLATES: &str = "additional_chat_templates";

/// Checks that every file that [`copy`] will copy is a regular file of the model, before anything is spent.
///
/// # Errors
/// One is a link out of the model's directory, or is no regular file.
pub(crate) fn check(source: &Path) -> Result<(), Failure> {
    files(source).map(drop)
}

/// Copies the tokenizer's files to `to`; messages call that `target`. A configured chat template takes the place of the
/// model's own.
pub(super) fn copy(source: &Directory, to: &Path, target: &Path) -> Result<(), Failure> {
    let unwritable =
        |name: &Path, error: io::Error| unwritable("the trained model cannot be written", &target.join(name), &error);
    for (name, file) in files(source.path())? {
        if let Some(parent) = name.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            fs::create_dir_all(to.join(parent)).map_err(|error| unwritable(parent, error))?;
        }
        // Opened apart from the copy, so that the user hears which of the two files is at fault.
        fs::File::open(&file).map_err(|error| unreadable(&file, error))?;
        storage::copy(&file, &to.join(&name)).map_err(|error| unwritable(&name, error))?;
    }
    if to.join(TEMPLATES).is_dir() {
        storage::sync(&to.join(TEMPLATES)).map_err(|error| unwritable(Path::new(TEMPLATES), error))?;
    }
    let Some(template) = source.configured_chat_template() else { return Ok(()) };
    storage::write(&to.join(TEMPLATE), template.as_bytes()).map_err(|error| unwritable(Path::new(TEMPLATE), error))?;
    replace_template(&to.join(CONFIG), template).map_err(|error| unwritable(Path::new(CONFIG), error))
}

/// Gives `tokenizer_config.json` this template, where it has one: older readers know no other place for it.
fn replace_template(config: &Path, template: &str) -> io::Result<()> {
    if !config.exists() {
        return Ok(());
    }
    let mut value: Value = serde_json::from_str(&text_file::read_of_model(config)?)?;
    let Some(own) = value.get_mut("chat_template") else { return Ok(()) };
    *own = template.into();
    storage::write(config, format!("{value:#}\n").as_bytes()).map(drop)
}

/// The tokenizer's files in a model's directory: their names there, and where they are.
fn files(source: &Path) -> Result<Vec<(PathBuf, PathBuf)>, Failure> {
    let mut names: Vec<PathBuf> = FILES.into_iter().map(PathBuf::from).collect();
    let templates = source.join(TEMPLATES);
    if templates.is_dir() {
        inside(source, &templates)?;
        let entries = fs::read_dir(&templates).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
        let entries = entries.map_err(|error| unreadable(&templates, error))?;
        let jinja = entries.iter().map(|entry| Path::new(TEMPLATES).join(entry.file_name()));
        names.extend(jinja.filter(|name| name.extension().is_some_and(|extension| extension == "jinja")));
    }
    names.retain(|name| source.join(name).exists());
    let located = |name: PathBuf| {
        let file = inside(source, &source.join(&name))?;
        if !file.is_file() {
            return Err(Failure::new(Status::Input, "a file of the model is not a regular file")
                .at(source.join(&name).display())
                .help("the trained model gets a copy of it: put the file itself there, or remove it"));
        }
        Ok((name, file))
    };
    names.into_iter().map(located).collect()
}

/// Where a file of the model really is: in its directory or, for a snapshot in a cache of the Hugging Face Hub, among
/// the files that all snapshots of that model share (`models--NAME/snapshots/REVISION/FILE` is a link to
/// `models--NAME/blobs/HASH`).
///
/// # Errors
/// It is a link to anywhere else: a model from a stranger could have anything of the user's copied.
fn inside(source: &Path, path: &Path) -> Result<PathBuf, Failure> {
    let real = |path: &Path| fs::canonicalize(path).map_err(|error| unreadable(path, error));
    let (directory, file) = (real(source)?, real(path)?);
    let snapshots = directory.parent().filter(|parent| parent.ends_with("snapshots"));
    let blobs = snapshots
        .and_then(Path::parent)
        .filter(|model| model.file_name().is_some_and(|name| name.to_string_lossy().starts_with("models--")))
        .map(|model| model.join("blobs"));
    if file.starts_with(&directory) || blobs.is_some_and(|blobs| file.starts_with(blobs)) {
        return Ok(file);
    }
    Err(Failure::new(Status::Input, "a file of the model is a link that leads out of its directory")
        .at(path.display())
        .because(format!("it leads to {}", file.display()))
        .help("the trained model gets a copy of the tokenizer's files: replace the link with the file, or remove it"))
}

fn unreadable(path: &Path, error: io::Error) -> Failure {
    Failure::new(Status::Input, "a file of the model that was trained cannot be read").at(path.display()).because(error)
}
