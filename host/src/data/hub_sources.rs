//! Data sets of the Hugging Face Hub as sources: `hf://org/name`, `hf://org/name@REVISION`, and with a path behind it, which is a
//! file, a pattern, a directory or a configuration of the data set. `hf://datasets/org/name`, as `HfFileSystem` of
//! huggingface_hub has it, is the same.

use std::fs;

use super::parts::{Part, choose, matching, of_configuration};
use super::sources::{extension, is_data};
use crate::exit::{Failure, Status};
use crate::hub::{self, Kind, Wanted};

/// How the name of such a source begins.
const SCHEME: &str = "hf://";

/// A data set of the hub, and which of its files are meant.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct HubSource {
    /// `org/name`.
    name: String,
    revision: Option<String>,
    /// A path within it; empty for the whole data set.
    path: String,
}

/// Files in the cache of the hub.
pub(super) struct Fetched {
    pub paths: Vec<String>,
    /// `hf://org/name@COMMIT`.
    pub revision: String,
}

impl HubSource {
    /// What a name means that begins as these do; none for others.
    pub fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix(SCHEME)?;
        let rest = rest.strip_prefix("datasets/").unwrap_or(rest);
        let mut parts = rest.splitn(3, '/');
        let (org, repository, path) =
            (parts.next().unwrap_or_default(), parts.next().unwrap_or_default(), parts.next());
        let (repository, revision) = match repository.split_once('@') {
            Some((repository, revision)) => (repository, Some(revision)),
            None => (repository, None),
        };
        // A revision that is not a branch of its own name: `refs/convert/parquet`, `refs/pr/7`.
        let mut path = path.unwrap_or_default().to_owned();
        let mut revision = revision.map(|revision| revision.replace("%2F", "/").replace("%2f", "/"));
        if revision.as_deref() == Some("refs") {
            let mut below = path.splitn(3, '/');
            let (kind, which, rest) = (below.next(), below.next(), below.next());
            revision = Some(format!("refs/{}/{}", kind.unwrap_or_default(), which.unwrap_or_default()));
            path = rest.unwrap_or_default().to_owned();
        }
        Some(Self { name: format!("{org}/{repository}"), revision, path: path.trim_end_matches('/').to_owned() })
    }

    /// The files of the first of these parts that there is, or all that the path names, in the cache; what is missing there is
    /// downloaded once for all ranks of a machine. No paths, where only a part is asked for that the data set does not have.
    ///
    /// # Errors
    /// The hub does not give them; none or several may be meant.
    pub fn fetch(&self, parts: &[Part], ids: &[String], cancelled: &dyn Fn() -> bool) -> Result<Fetched, Failure> {
        let all = hub::files(Kind::Dataset, &self.name, self.revision.as_deref(), cancelled)?;
        let get = |wanted: &dyn Fn(&str) -> bool| {
            hub::snapshot(Kind::Dataset, &self.name, self.revision.as_deref(), &Wanted::Those(wanted), cancelled)
        };
        let is_hidden = |file: &str| file.split('/').any(|part| part.starts_with('.') || part.starts_with("__"));
        let data: Vec<String> = all.iter().filter(|file| is_data(file, ids) && !is_hidden(file)).cloned().collect();
        let readme = match all.iter().any(|file| file == "README.md") {
            true => fs::read_to_string(get(&|file| file == "README.md")?.join("README.md")).ok(),
            false => None,
        };
        let chosen = self.choose(&data, parts, readme.as_deref()).map_err(|why| {
            let example = data.first().map_or("data/train-*.parquet", String::as_str);
            self.failure("the data set does not say which files are for training")
                .because(why)
                .help(format!("name them by a path or a pattern, such as {}/{example}", self.address()))
        })?;
        if chosen.is_empty() {
            // Rows for validation that training rows may have beside them; all others were asked for.
            let is_optional = parts == [Part::Validation];
            let listed = all.iter().take(10).map(String::as_str).collect::<Vec<_>>().join(", ");
            return match is_optional {
                true => Ok(Fetched { paths: Vec::new(), revision: String::new() }),
                false => Err(self
                    .failure("the data set has no files of rows of that name")
                    .because(format!("it has {listed}{}", if all.len() > 10 { ", …" } else { "" }))
                    .help("rows are in files that end in jsonl, json, parquet, arrow, csv or tsv, perhaps compressed")),
            };
        }
        let snapshot = get(&|file| chosen.iter().any(|chosen| chosen == file))?;
        if let Some(missing) = chosen.iter().find(|file| !snapshot.join(file).is_file()) {
            return Err(self
                .failure(format!("the cache does not have {missing}"))
                .at(snapshot.display())
                .help("unset HF_HUB_OFFLINE, or run the same command again: the data set may have changed meanwhile"));
        }
        let commit = snapshot.file_name().unwrap_or_default().to_string_lossy();
        let paths = chosen.iter().map(|file| snapshot.join(file).to_string_lossy().into_owned()).collect();
        Ok(Fetched { paths, revision: format!("{SCHEME}{}@{commit}", self.name) })
    }

    fn choose(&self, data: &[String], parts: &[Part], readme: Option<&str>) -> Result<Vec<String>, String> {
        if self.path.is_empty() {
            return one_kind(choose(data, parts, readme)?);
        }
        if let Some(files) = readme.map_or(Ok(None), |readme| of_configuration(data, parts, readme, &self.path))? {
            return one_kind(files);
        }
        let named = matching(data, &self.path);
        if !named.is_empty() {
            // Of what is named, nothing is for evaluation by itself.
            return Ok(if parts == [Part::Validation] { Vec::new() } else { named });
        }
        let before = format!("{}/", self.path);
        let below: Vec<String> = data.iter().filter_map(|file| file.strip_prefix(&before).map(str::to_owned)).collect();
        let chosen = one_kind(choose(&below, parts, None)?)?;
        Ok(chosen.into_iter().map(|file| before.clone() + &file).collect())
    }

    fn address(&self) -> String {
        let revision = self.revision.as_ref().map_or(String::new(), |revision| format!("@{revision}"));
        format!("{SCHEME}{}{revision}", self.name)
    }

    fn failure(&self, message: impl Into<String>) -> Failure {
        let path = if self.path.is_empty() { String::new() } else { format!("/{}", self.path) };
        Failure::new(Status::Input, message.into()).at(self.address() + &path)
    }
}

/// Files of one kind: the same rows are often there in several.
fn one_kind(files: Vec<String>) -> Result<Vec<String>, String> {
    let kind = |file: &String| extension(file.as_ref());
    match files.iter().find(|file| kind(file) != kind(&files[0])) {
        Some(other) => Err(format!("it has files of several kinds, such as {} and {other}", files[0])),
        None => Ok(files),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_hub_are_taken_apart_as_huggingface_hub_does() {
        let source = |name: &str, revision: Option<&str>, path: &str| {
            Some(HubSource { name: name.to_owned(), revision: revision.map(str::to_owned), path: path.to_owned() })
        };
        for (text, expected) in [
            ("hf://org/name", source("org/name", None, "")),
            ("hf://datasets/org/name/", source("org/name", None, "")),
            ("hf://org/name@v1.0/data/train-*.parquet", source("org/name", Some("v1.0"), "data/train-*.parquet")),
            (
                "hf://datasets/org/name@refs/convert/parquet/main/train",
                source("org/name", Some("refs/convert/parquet"), "main/train"),
            ),
            ("hf://org/name@refs%2Fpr%2F7/a.jsonl", source("org/name", Some("refs/pr/7"), "a.jsonl")),
            ("org/name", None),
            ("https://org/name", None),
        ] {
            assert_eq!(HubSource::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn a_path_is_a_file_a_pattern_a_directory_or_a_configuration() {
        let data = ["a/train-0.jsonl", "a/train-1.jsonl", "a/valid-0.jsonl", "b/train-0.csv", "b/train-0.jsonl"]
            .map(str::to_owned);
        let readme = "---\nconfigs:\n- config_name: first\n  data_files: a/*-0.jsonl\n- config_name: x\n  data_files: b/*\n---\n";
        let chosen = |path: &str, parts: &[Part]| {
            HubSource::parse(&format!("hf://org/name/{path}")).unwrap().choose(&data, parts, Some(readme))
        };
        let (training, evaluation) = (&[Part::Training][..], &[Part::Validation][..]);
        assert_eq!(chosen("a/train-1.jsonl", training).unwrap(), [&data[1][..]]);
        assert_eq!(chosen("**/*-0.jsonl", training).unwrap(), [&data[0][..], &data[2], &data[4]]);
        assert_eq!(chosen("**/*-0.jsonl", evaluation).unwrap(), [""; 0]);
        assert_eq!(chosen("a", training).unwrap(), [&data[0][..], &data[1]]);
        assert_eq!(chosen("a", evaluation).unwrap(), [&data[2][..]]);
        assert_eq!(chosen("first", training).unwrap(), [&data[0][..], &data[2]]);
        assert_eq!(chosen("none", training).unwrap(), [""; 0]);
        for several in ["b", "x", ""] {
            assert!(chosen(several, training).is_err(), "{several}");
        }
    }
}
