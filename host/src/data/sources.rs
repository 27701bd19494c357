//! What the names of sources stand for: files, directories of files, patterns. Whatever else a name may stand for one day, it becomes
//! files here, before anything is opened.

use std::fs;
use std::path::{Path, PathBuf};

use mdt_plugin_api::Kind;
use serde_json::Value;

use crate::config::{Components, Resolved, Source};
use crate::plugins::Catalog;

/// Extensions of compressed files, which come after the one that says what is in them.
const COMPRESSED: [&str; 4] = ["gz", "zst", "bz2", "xz"];

/// Extensions of rows in JSON, which the data component reads that is chosen by default.
const JSON: [&str; 3] = ["jsonl", "json", "ndjson"];

/// Files in JSON that describe a directory of the Python library `datasets`.
const DESCRIPTIONS: [&str; 4] = ["dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"];

/// Which rows of a directory are meant, by how the names of files begin.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Training,
    Validation,
    Test,
}

const PARTS: [(Part, &[&str]); 3] = [
    (Part::Training, &["train", "training"]),
    (Part::Validation, &["valid", "validation", "val", "dev"]),
    (Part::Test, &["test"]),
];

/// Replaces names of directories and patterns by those of the files that they stand for, in the order of their names. A directory of
/// training rows that has a part for validation is also the source for evaluation, unless another one is configured. A name that
/// stands for nothing stays, for the error of whoever opens it. Where a data component is chosen, names are its own.
pub fn expand(resolved: &mut Resolved, catalog: &Catalog) {
    if !resolved.reads_by_extension() {
        return;
    }
    let ids = catalog.ids(Kind::Data);
    let data = &mut resolved.settings.data;
    if data.eval.is_empty() && data.eval_split.is_none() {
        let directories = data.train.iter().filter(|source| Path::new(&source.path).is_dir());
        data.eval =
            directories.flat_map(|source| in_directory(Path::new(&source.path), Part::Validation, &ids)).collect();
    } else {
        data.eval = data.eval.iter().flat_map(|name| files(name, &[Part::Validation, Part::Test], &ids)).collect();
    }
    let sources = std::mem::take(&mut data.train).into_iter().enumerate();
    let expanded = sources.flat_map(|(group, Source { path, weight, .. })| {
        files(&path, &[Part::Training], &ids).into_iter().map(move |path| Source { path, weight, group })
    });
    data.train = expanded.collect();
}

/// The data component that reads this file by its extension, if there is one of that name.
pub fn component(path: &str, ids: &[String]) -> Option<String> {
    extension(Path::new(path)).filter(|extension| ids.contains(extension))
}

/// The extension of a file, or the one before that of its compression.
fn extension(path: &Path) -> Option<String> {
    let own = path.extension()?.to_string_lossy().to_lowercase();
    if COMPRESSED.contains(&own.as_str()) { extension(&path.with_extension("")) } else { Some(own) }
}

/// The files that a name stands for, where it is a directory those of the first of these parts that it has.
fn files(name: &str, parts: &[Part], ids: &[String]) -> Vec<String> {
    let path = Path::new(name);
    let found = match name {
        _ if path.is_dir() => {
            let of_parts = parts.iter().map(|&part| in_directory(path, part, ids)).find(|files| !files.is_empty());
            of_parts.unwrap_or_else(|| data_files(path, ids).iter().map(|file| text(file)).collect())
        }
        pattern if pattern.contains(['*', '?', '[']) && !path.exists() => {
            let matches = glob::glob(pattern).into_iter().flatten().flatten();
            matches.filter(|path| path.is_file()).map(|path| text(&path)).collect()
        }
        _ => Vec::new(),
    };
    if found.is_empty() { vec![name.to_owned()] } else { found }
}

/// The files of a part of a directory. Files that are of no part are training rows, if no file is.
fn in_directory(directory: &Path, part: Part, ids: &[String]) -> Vec<String> {
    let described = |name: &str| {
        let text = fs::read_to_string(directory.join(name)).ok()?;
        serde_json::from_str::<Value>(&text).ok()
    };
    let names = |value: &Value| value.as_array().into_iter().flatten().cloned().collect::<Vec<_>>();
    // `save_to_disk` of `datasets` writes one directory for each part, and says in it in which order its files come.
    if let Some(splits) = described("dataset_dict.json") {
        let splits = names(&splits["splits"]);
        let split = splits.iter().filter_map(Value::as_str).find(|split| part_of(split) == Some(part));
        return split.map_or(Vec::new(), |split| saved(&directory.join(split)));
    }
    if directory.join("state.json").is_file() {
        return if part == Part::Training { saved(directory) } else { Vec::new() };
    }
    let all = data_files(directory, ids);
    let of = |wanted: Option<Part>| -> Vec<String> {
        let is_wanted = |path: &&PathBuf| part_of(&path.file_name().unwrap_or_default().to_string_lossy()) == wanted;
        all.iter().filter(is_wanted).map(|file| text(file)).collect()
    };
    let own = of(Some(part));
    if own.is_empty() && part == Part::Training { of(None) } else { own }
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
    let is_data = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let known = |extension: String| JSON.contains(&extension.as_str()) || ids.contains(&extension);
        !name.starts_with('.')
            && !DESCRIPTIONS.contains(&&*name)
            && extension(path).is_some_and(known)
            && path.is_file()
    };
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(is_data).collect();
    files.sort();
    files
}

/// The part that a file belongs to by its name: `train.jsonl`, `train-00000-of-00002.parquet`.
fn part_of(name: &str) -> Option<Part> {
    let word = name.split(|letter: char| !letter.is_alphanumeric()).next().unwrap_or_default().to_lowercase();
    PARTS.iter().find(|(_, words)| words.contains(&word.as_str())).map(|(part, _)| *part)
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
        let of = |part| found(&directory, in_directory(directory.path(), part, &[]));
        assert_eq!(of(Part::Training), ["train/b.arrow", "train/a.arrow"]);
        assert_eq!(of(Part::Validation), ["validation/b.arrow", "validation/a.arrow"]);
        assert_eq!(
            found(&directory, in_directory(&directory.path().join("train"), Part::Training, &[])),
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
