//! Which files of a data set are for training and which for evaluation, found out as the Python library `datasets` does: by what
//! `README.md` says in `configs`, by files named `data/train-00000-of-00002.parquet`, by the names of directories, by those of files.

use serde_json::Value;

use crate::config::yaml_value;

/// Which rows of a data set are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Training,
    Validation,
    Test,
}

const PARTS: [(Part, &[&str]); 3] = [
    (Part::Training, &["train", "training"]),
    (Part::Validation, &["validation", "valid", "dev", "val"]),
    (Part::Test, &["test", "testing", "eval", "evaluation"]),
];

/// The part that one of the words of a name stands for: `train.jsonl`, `my-valid-00000-of-00002.parquet`.
pub(super) fn part_of(name: &str) -> Option<Part> {
    let name = name.to_lowercase();
    let words: Vec<&str> = name.split(|letter: char| "-._ ".contains(letter) || letter.is_ascii_digit()).collect();
    PARTS.iter().find(|(_, keywords)| keywords.iter().any(|word| words.contains(word))).map(|(part, _)| *part)
}

/// The part of a split of this name, where it is one of the usual ones.
fn part_of_split(split: &str) -> Option<Part> {
    PARTS.iter().find(|(_, keywords)| keywords.contains(&split)).map(|(part, _)| *part)
}

/// The files of the first of these parts that there is, among all of a data set, whose names are paths within it. Where no name
/// says what a file is for, all are for training. `readme` is the text of its `README.md`.
///
/// # Errors
/// Several files may be meant: says which.
pub(super) fn choose(files: &[String], parts: &[Part], readme: Option<&str>) -> Result<Vec<String>, String> {
    let configured = readme.map_or(Ok(None), |readme| configured(files, readme, None))?;
    of_parts(&configured.unwrap_or_else(|| by_name(files)), parts)
}

/// The same of the configuration of this name in `README.md`; none where it has none of that name.
pub(super) fn of_configuration(
    files: &[String],
    parts: &[Part],
    readme: &str,
    name: &str,
) -> Result<Option<Vec<String>>, String> {
    configured(files, readme, Some(name))?.map(|splits| of_parts(&splits, parts)).transpose()
}

/// Names of parts, and the files of each.
type Splits = Vec<(String, Vec<String>)>;

fn of_parts(splits: &Splits, parts: &[Part]) -> Result<Vec<String>, String> {
    let of = |part: &Part| splits.iter().find(|(split, _)| part_of_split(split) == Some(*part));
    match parts.iter().find_map(of) {
        Some((_, files)) => Ok(files.clone()),
        None if parts.contains(&Part::Training) && !splits.is_empty() => {
            Err(format!("it has the parts {}, and none of them is `train`", described(splits)))
        }
        None => Ok(Vec::new()),
    }
}

/// What `configs` in `README.md` says: of the configuration of this name, or of the default one.
fn configured(files: &[String], readme: &str, name: Option<&str>) -> Result<Option<Splits>, String> {
    let front = readme.strip_prefix("---\n").and_then(|text| text.split_once("\n---"));
    let front = front.and_then(|(front, _)| yaml_value(front)).unwrap_or_default();
    let configs: Vec<&Value> = front["configs"].as_array().into_iter().flatten().collect();
    let called = |name: &str| configs.iter().copied().find(|config| config["config_name"] == name);
    let config = match (name, configs.as_slice()) {
        (Some(name), _) => called(name),
        (None, []) => None,
        (None, [one]) => Some(*one),
        (None, several) => {
            let default = several.iter().copied().find(|config| config["default"] == true).or(called("default"));
            let names =
                || several.iter().filter_map(|config| config["config_name"].as_str()).collect::<Vec<_>>().join(", ");
            Some(default.ok_or_else(|| format!("it has the configurations {}, and none is the default one", names()))?)
        }
    };
    let Some(config) = config else { return Ok(None) };
    let base =
        config["data_dir"].as_str().map_or(String::new(), |directory| format!("{}/", directory.trim_matches('/')));
    let patterns = |paths: &Value| -> Vec<String> {
        let one = paths.as_str().into_iter();
        let texts = one.chain(paths.as_array().into_iter().flatten().filter_map(Value::as_str));
        texts.map(|pattern| format!("{base}{}", pattern.trim_start_matches("./"))).collect()
    };
    let matching =
        |paths: &Value| patterns(paths).iter().flat_map(|pattern| matching(files, pattern)).collect::<Vec<_>>();
    let listed = &config["data_files"];
    let of_splits: Splits = match listed {
        Value::Array(entries) if entries.iter().any(Value::is_object) => entries
            .iter()
            .filter_map(|entry| Some((entry["split"].as_str()?.to_owned(), matching(&entry["path"]))))
            .collect(),
        Value::Object(entries) => entries.iter().map(|(split, paths)| (split.clone(), matching(paths))).collect(),
        Value::Null => by_name(&files.iter().filter(|file| file.starts_with(&base)).cloned().collect::<Vec<_>>()),
        paths => vec![("train".to_owned(), matching(paths))],
    };
    Ok(Some(of_splits.into_iter().filter(|(_, files)| !files.is_empty()).collect()))
}

/// What the names of files say.
fn by_name(files: &[String]) -> Splits {
    let group = |split_of: &dyn Fn(&str) -> Option<String>| {
        let mut splits: Splits = Vec::new();
        for file in files {
            let Some(name) = split_of(file) else { continue };
            match splits.iter_mut().find(|(known, _)| *known == name) {
                Some((_, files)) => files.push(file.clone()),
                None => splits.push((name, vec![file.clone()])),
            }
        }
        splits
    };
    let named = |part: Part| match part {
        Part::Training => "train".to_owned(),
        Part::Validation => "validation".to_owned(),
        Part::Test => "test".to_owned(),
    };
    let in_directory = |file: &str| {
        let (directories, _) = file.rsplit_once('/')?;
        directories.split('/').find_map(part_of).map(named)
    };
    let by_file = |file: &str| part_of(file.rsplit('/').next()?).map(named);
    type Rule<'a> = &'a dyn Fn(&str) -> Option<String>;
    let rules: [Rule<'_>; 4] =
        [&|file| sharded(file).map(str::to_owned), &in_directory, &by_file, &|_| Some(named(Part::Training))];
    rules.into_iter().map(group).find(|splits| !splits.is_empty()).unwrap_or_default()
}

/// The split of `data/SPLIT-00000-of-00002.parquet`.
fn sharded(file: &str) -> Option<&str> {
    let is_number = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    let name = file.strip_prefix("data/").filter(|name| !name.contains('/'))?;
    let (start, end) = name.rsplit_once("-of-")?;
    let (split, number) = start.rsplit_once('-')?;
    (is_number(number) && end.get(..5).is_some_and(is_number)).then_some(split)
}

/// The files whose names match a pattern, in which `*` stands for no slash and `**` for any directories.
pub(super) fn matching(files: &[String], pattern: &str) -> Vec<String> {
    let options = glob::MatchOptions { require_literal_separator: true, ..glob::MatchOptions::new() };
    let Ok(parsed) = glob::Pattern::new(pattern) else { return Vec::new() };
    files.iter().filter(|file| *file == pattern || parsed.matches_with(file, options)).cloned().collect()
}

fn described(splits: &Splits) -> String {
    let first =
        |(split, files): &(String, Vec<String>)| format!("`{split}` ({})", files.first().map_or("", String::as_str));
    splits.iter().map(first).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRAINING: &[Part] = &[Part::Training];
    const EVALUATION: &[Part] = &[Part::Validation, Part::Test];

    fn chosen(files: &[&str], parts: &[Part], readme: &str) -> Result<Vec<String>, String> {
        let files: Vec<String> = files.iter().map(|&file| file.to_owned()).collect();
        choose(&files, parts, Some(readme).filter(|text| !text.is_empty()))
    }

    #[test]
    fn names_of_files_and_directories_say_what_they_are_for() {
        let sharded = [
            "data/test-00000-of-00001.parquet",
            "data/train-00000-of-00002.parquet",
            "data/train-00001-of-00002.parquet",
        ];
        let in_directories = ["en/training_set/a.jsonl", "en/training_set/test.jsonl", "en/val/b.jsonl"];
        let by_file = ["x.train.csv", "sub/dev2.csv", "latest.csv"];
        for (files, training, evaluation) in [
            (&sharded[..], &sharded[1..], &sharded[..1]),
            (&["other.jsonl", sharded[0], sharded[1]], &[sharded[1]], &[sharded[0]]),
            (&in_directories, &in_directories[..2], &in_directories[2..]),
            (&by_file, &by_file[..1], &by_file[1..2]),
            (&["a.jsonl", "b/latest.jsonl"], &["a.jsonl", "b/latest.jsonl"], &[]),
        ] {
            assert_eq!(chosen(files, TRAINING, "").unwrap(), training);
            assert_eq!(chosen(files, EVALUATION, "").unwrap(), evaluation);
        }
        let several = ["data/train_sft-00000-of-00001.parquet", "data/train_gen-00000-of-00001.parquet"];
        let refused = chosen(&several, TRAINING, "").unwrap_err();
        assert!(refused.contains("`train_sft` (data/train_sft-00000-of-00001.parquet)"), "{refused}");
        assert_eq!(chosen(&several, EVALUATION, "").unwrap(), [""; 0]);
    }

    #[test]
    fn the_readme_comes_before_names() {
        let files = ["a/one.jsonl", "a/two.jsonl", "b/train.jsonl", "c/x.csv"];
        let readme = |configs: &str| format!("---\nlicense: mit\nconfigs:\n{configs}\n---\n# Data\n");
        let one = "- config_name: a\n  data_files:\n  - split: train\n    path: a/o*.jsonl\n  - split: validation\n    path:\n    - a/two.jsonl";
        assert_eq!(chosen(&files, TRAINING, &readme(one)).unwrap(), ["a/one.jsonl"]);
        assert_eq!(chosen(&files, EVALUATION, &readme(one)).unwrap(), ["a/two.jsonl"]);
        let other = "- config_name: c\n  data_files: '**/*.csv'";
        let both = readme(&format!("{one}\n{other}"));
        let refused = chosen(&files, TRAINING, &both).unwrap_err();
        assert!(refused.contains("the configurations a, c"), "{refused}");
        let default = readme(&format!("{one}\n{other}\n  default: true"));
        assert_eq!(chosen(&files, TRAINING, &default).unwrap(), ["c/x.csv"]);
        assert_eq!(chosen(&files, TRAINING, &readme("- config_name: b\n  data_dir: b")).unwrap(), ["b/train.jsonl"]);
        let all: Vec<String> = files.iter().map(|&file| file.to_owned()).collect();
        assert_eq!(of_configuration(&all, TRAINING, &both, "c").unwrap().unwrap(), ["c/x.csv"]);
        assert_eq!(of_configuration(&all, TRAINING, &both, "d").unwrap(), None);
        assert_eq!(chosen(&files, TRAINING, "# No configuration").unwrap(), ["b/train.jsonl"]);
    }
}
