//! What the names of sources stand for: files, directories of files, patterns, data sets of the hub. All become files here, before
//! anything is opened.

use std::fs;
use std::path::{Path, PathBuf};

use mdt_plugin_api::Kind;
use serde_json::Value;

use super::hub_sources::HubSource;
use super::parts::{Part, choose, part_of};
use crate::config::{Components, Resolved, Source};
use crate::exit::{Failure, Status};
use crate::plugins::Catalog;

/// Extensions of compressed files, which come after the one that says what is in them.
const COMPRESSED: [&str; 4] = ["gz", "zst", "bz2", "xz"];

/// Extensions of rows in JSON, which the data component reads that is chosen by default.
const JSON: [&str; 3] = ["jsonl", "json", "ndjson"];

/// Files in JSON that describe a directory of the Python library `datasets`.
const DESCRIPTIONS: [&str; 5] =
    ["config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"];

/// Replaces names of directories, patterns and data sets of the hub by those of the files that they stand for, in the order of their
/// names. A directory or data set of training rows that has a part for validation is also the source for evaluation, unless another
/// one is configured. A name that stands for nothing stays, for the error of whoever opens it. Where a data component is chosen, names
/// are its own. `cancelled` ends a download.
///
/// # Errors
/// The hub does not give a data set; several files may be meant.
pub fn expand(resolved: &mut Resolved, catalog: &Catalog, cancelled: &dyn Fn() -> bool) -> Result<(), Failure> {
    if !resolved.reads_by_extension() {
        return Ok(());
    }
    let mut names = Names { ids: catalog.ids(Kind::Data), cancelled, revisions: Vec::new() };
    let data = &mut resolved.settings.data;
    let (mut eval, mut train) = (Vec::new(), Vec::new());
    for (group, Source { path, weight, .. }) in std::mem::take(&mut data.train).into_iter().enumerate() {
        if data.eval.is_empty() && data.eval_split.is_none() {
            eval.extend(names.held_out(&path)?);
        }
        let files = names.files(&path, &[Part::Training])?;
        train.extend(files.into_iter().map(|path| Source { path, weight, group }));
    }
    for name in &data.eval {
        eval.extend(names.files(name, &[Part::Validation, Part::Test])?);
    }
    names.revisions.sort();
    names.revisions.dedup();
    (data.train, data.eval, data.revisions) = (train, eval, names.revisions);
    Ok(())
}

/// The data component that reads this file by its extension, if there is one of that name.
pub fn component(path: &str, ids: &[String]) -> Option<String> {
    extension(Path::new(path)).filter(|extension| ids.contains(extension))
}

/// Whether a file is compressed, by its name.
pub(super) fn is_compressed(path: &str) -> bool {
    let own = Path::new(path).extension().map(|extension| extension.to_string_lossy().to_lowercase());
    own.is_some_and(|own| COMPRESSED.contains(&own.as_str()))
}

/// The extension of a file, or the one before that of its compression.
pub(super) fn extension(path: &Path) -> Option<String> {
    let own = path.extension()?.to_string_lossy().to_lowercase();
    if COMPRESSED.contains(&own.as_str()) { extension(&path.with_extension("")) } else { Some(own) }
}

/// What names stand for.
struct Names<'a> {
    /// The ids of data components.
    ids: Vec<String>,
    cancelled: &'a dyn Fn() -> bool,
    /// What the names of data sets of the hub have led to.
    revisions: Vec<String>,
}

impl Names<'_> {
    /// The files that a name stands for, where it is a directory or a data set those of the first of these parts that it has.
    fn files(&mut self, name: &str, parts: &[Part]) -> Result<Vec<String>, Failure> {
        if let Some(source) = HubSource::parse(name) {
            let fetched = source.fetch(parts, &self.ids, self.cancelled)?;
            self.revisions.extend((!fetched.revision.is_empty()).then_some(fetched.revision));
            return Ok(fetched.paths);
        }
        let path = Path::new(name);
        let found = match name {
            _ if path.is_dir() => {
                let mut found = Vec::new();
                for &part in parts {
                    if found.is_empty() {
                        found = in_directory(path, part, &self.ids)?;
                    }
                }
                if found.is_empty() {
                    data_files(path, &self.ids).iter().map(|file| text(file)).collect()
                } else {
                    found
                }
            }
            pattern if pattern.contains(['*', '?', '[']) && !path.exists() => {
                let matches = glob::glob(pattern).into_iter().flatten().flatten();
                matches.filter(|path| path.is_file()).map(|path| text(&path)).collect()
            }
            _ => Vec::new(),
        };
        Ok(if found.is_empty() { vec![name.to_owned()] } else { found })
    }

    /// The rows for validation that a source of training rows has beside those.
    fn held_out(&mut self, name: &str) -> Result<Vec<String>, Failure> {
        match HubSource::parse(name) {
            Some(_) => self.files(name, &[Part::Validation]),
            None if Path::new(name).is_dir() => in_directory(Path::new(name), Part::Validation, &self.ids),
            None => Ok(Vec::new()),
        }
    }
}

/// The files of a part of a directory. Files that are of no part are training rows, if no file is. Where all files are further down,
/// they are chosen as those of a data set of the hub.
fn in_directory(directory: &Path, part: Part, ids: &[String]) -> Result<Vec<String>, Failure> {
    let described = |name: &str| {
        let text = fs::read_to_string(directory.join(name)).ok()?;
        serde_json::from_str::<Value>(&text).ok()
    };
    let names = |value: &Value| value.as_array().into_iter().flatten().cloned().collect::<Vec<_>>();
    // `save_to_disk` of `datasets` writes one directory for each part, and says in it in which order its files come.
    if let Some(splits) = described("dataset_dict.json") {
        let splits = names(&splits["splits"]);
        let split = splits.iter().filter_map(Value::as_str).find(|split| part_of(split) == Some(part));
        return Ok(split.map_or(Vec::new(), |split| saved(&directory.join(split))));
    }
    if directory.join("state.json").is_file() {
        return Ok(if part == Part::Training { saved(directory) } else { Vec::new() });
    }
    let all = data_files(directory, ids);
    if all.is_empty() {
        let readme = fs::read_to_string(directory.join("README.md")).ok();
        let chosen = choose(&below(directory, "", ids), &[part], readme.as_deref());
        let chosen = chosen.map_err(|why| {
            Failure::new(Status::Input, "the directory does not say which files are for training")
                .at(directory.display())
                .because(why)
                .help("name them by a path or a pattern")
        })?;
        return Ok(chosen.iter().map(|file| text(&directory.join(file))).collect());
    }
    let of = |wanted: Option<Part>| -> Vec<String> {
        let is_wanted = |path: &&PathBuf| part_of(&path.file_name().unwrap_or_default().to_string_lossy()) == wanted;
        all.iter().filter(is_wanted).map(|file| text(file)).collect()
    };
    let own = of(Some(part));
    Ok(if own.is_empty() && part == Part::Training { of(None) } else { own })
}

/// The files of rows below a directory, relative to the one that was begun with. Directories of the system are not entered.
fn below(directory: &Path, before: &str, ids: &[String]) -> Vec<String> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{before}{name}");
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && !name.starts_with(['.', '_']) => {
                files.extend(below(&entry.path(), &format!("{path}/"), ids));
            }
            Ok(kind) if !kind.is_dir() && is_data(&name, ids) => files.push(path),
            _ => {}
        }
    }
    files.sort();
    files
}

/// The files of a data set that `save_to_disk` has written.
fn saved(directory: &Path) -> Vec<String> {
    let state = fs::read_to_string(directory.join("state.json")).ok();
    let state = state.and_then(|text| serde_json::from_str::<Value>(&text).ok()).unwrap_or_default();
    let files = state["_data_files"].as_array().into_iter().flatten();
    files.filter_map(|file| file["filename"].as_str()).map(|name| text(&directory.join(name))).collect()
}

/// The files of rows in a directory, by name.
fn data_files(directory: &Path, ids: &[String]) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> =
        entries.map(|entry| entry.path()).filter(|path| is_data(&text(path), ids) && path.is_file()).collect();
    files.sort();
    files
}

/// Whether a file has rows, by its name.
pub(super) fn is_data(path: &str, ids: &[String]) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    let known = |extension: String| JSON.contains(&extension.as_str()) || ids.contains(&extension);
    !name.starts_with('.') && !DESCRIPTIONS.contains(&name) && extension(Path::new(name)).is_some_and(known)
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(names: &[&str]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for name in names {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "{}").unwrap();
        }
        directory
    }

    fn files(name: &str, parts: &[Part], ids: &[String]) -> Vec<String> {
        Names { ids: ids.to_vec(), cancelled: &|| false, revisions: Vec::new() }.files(name, parts).unwrap()
    }

    fn found(directory: &tempfile::TempDir, files: Vec<String>) -> Vec<String> {
        let before = text(directory.path()) + "/";
        files.into_iter().map(|file| file.replace(&before, "")).collect()
    }

    #[test]
    fn a_directory_stands_for_its_files_and_its_parts() {
        let ids = ["csv", "parquet"].map(str::to_owned);
        let of = |names: &[&str], parts: &[Part]| {
            let directory = directory(names);
            found(&directory, files(&text(directory.path()), parts, &ids))
        };
        let mlx = ["train.jsonl", "valid.jsonl", "test.jsonl", "README.md"];
        assert_eq!(of(&mlx, &[Part::Training]), ["train.jsonl"]);
        assert_eq!(of(&mlx, &[Part::Validation, Part::Test]), ["valid.jsonl"]);
        assert_eq!(
            of(&["test-0.parquet", "train-1.parquet", "train-0.parquet"], &[Part::Training]),
            ["train-0.parquet", "train-1.parquet"]
        );
        let plain = ["b.csv.gz", "a.jsonl", ".hidden.jsonl", "c.txt", "dataset_info.json"];
        assert_eq!(of(&plain, &[Part::Training]), ["a.jsonl", "b.csv.gz"]);
        assert_eq!(of(&plain, &[Part::Validation, Part::Test]), ["a.jsonl", "b.csv.gz"]);
        let nested =
            ["data/train-00000-of-00001.parquet", "data/validation-00000-of-00001.parquet", ".git/train.jsonl"];
        assert_eq!(of(&nested, &[Part::Training]), nested[..1]);
        assert_eq!(of(&nested, &[Part::Validation, Part::Test]), nested[1..2]);
        let nothing = directory(&["a.txt"]);
        assert_eq!(files(&text(nothing.path()), &[Part::Training], &ids), [text(nothing.path())]);
    }

    #[test]
    fn what_datasets_has_saved_is_read_in_its_order() {
        let directory = directory(&["train/x.arrow", "validation/y.arrow"]);
        let state = r#"{"_data_files": [{"filename": "b.arrow"}, {"filename": "a.arrow"}]}"#;
        fs::write(directory.path().join("dataset_dict.json"), r#"{"splits": ["train", "validation"]}"#).unwrap();
        for split in ["train", "validation"] {
            fs::write(directory.path().join(split).join("state.json"), state).unwrap();
        }
        let of = |part| found(&directory, in_directory(directory.path(), part, &[]).unwrap());
        assert_eq!(of(Part::Training), ["train/b.arrow", "train/a.arrow"]);
        assert_eq!(of(Part::Validation), ["validation/b.arrow", "validation/a.arrow"]);
        assert_eq!(
            found(&directory, in_directory(&directory.path().join("train"), Part::Training, &[]).unwrap()),
            ["train/b.arrow", "train/a.arrow"]
        );
    }

    #[test]
    fn a_pattern_stands_for_the_files_that_match_it() {
        let directory = directory(&["b/train.jsonl", "a/train.jsonl", "a/other.jsonl"]);
        let pattern = text(&directory.path().join("*/train.jsonl"));
        assert_eq!(found(&directory, files(&pattern, &[Part::Training], &[])), ["a/train.jsonl", "b/train.jsonl"]);
        let none = text(&directory.path().join("*.csv"));
        assert_eq!(files(&none, &[Part::Training], &[]), [none]);
    }

    #[test]
    fn the_extension_before_that_of_a_compression_counts() {
        let ids = ["csv", "parquet"].map(str::to_owned);
        for (path, expected) in [
            ("a.csv", Some("csv")),
            ("A.CSV.GZ", Some("csv")),
            ("x/a.parquet", Some("parquet")),
            ("a.jsonl", None),
            ("a", None),
            ("a.gz", None),
        ] {
            assert_eq!(component(path, &ids).as_deref(), expected, "{path}");
        }
    }
}
