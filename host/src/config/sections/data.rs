//! `data`: the training data, and the rows held out for evaluation.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::exit::Failure;

/// `data`: a string stands for `{ use = … }`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Data {
    /// The data component. With `jsonl` a file is read by the component that is named as its extension, if there is one.
    /// Default: `jsonl`.
    #[serde(rename = "use")]
    pub id: String,
    /// Sources of training examples, read one after the other; a string stands for a list of one. A directory stands for the
    /// files in it, `*` and `?` for any letters, `hf://org/name` for a data set of the Hugging Face Hub (or
    /// `hf://org/name@REVISION/PATTERN` for some files of it). With weights, as in
    /// `[{ path = "a.jsonl", weight = 2 }, { path = "b.jsonl" }]`, each row is drawn from one of them by `seed`: two of
    /// three from the first here; a source that ends begins again. Default: none.
    #[schemars(schema_with = "sources")]
    pub train: Vec<Source>,
    /// Sources of examples for evaluation; a string stands for a list of one. Default: none.
    #[schemars(schema_with = "string_or_strings")]
    pub eval: Vec<String>,
    /// Rows of `train` that are held out for evaluation and never trained, chosen by `seed`: a value below 1 is their
    /// share, a value from 1 on their number. Default: unset.
    #[schemars(schema_with = "share_or_number")]
    pub eval_split: Option<f64>,
    /// The most rows of `train` that are read; with weights, of each source. Default: unset.
    #[schemars(range(min = 1))]
    pub limit: Option<u64>,
    /// What becomes of rows that cannot be used. Default: `error`.
    pub on_bad_row: OnBadRow,
    /// Rows with more tokens are left out and counted, whatever `trainer.max_seq_len` is. Default: unset.
    #[schemars(range(min = 1))]
    pub max_tokens: Option<u64>,
    /// Whether training rows are left out and counted that have the tokens of an earlier one, of which the same are trained.
    /// Not where rows stream. Default: false.
    pub deduplicate: bool,
    /// Whether each epoch shuffles the rows by `seed`; otherwise they keep the order of the files. Default: true.
    pub shuffle: bool,
    /// Whether rows are read while training goes on; otherwise they are all read before the first update. Unset, they
    /// are where the sources do not say how many rows they have and `trainer.max_steps` is set, or where they have
    /// weights. Default: unset.
    pub streaming: Option<bool>,
    /// Whether training rows are tokenized when their turn comes, and not all before the first update. The order and the bits are
    /// the same. Unset, they are where the files have 64 MiB or more, all of them can be read from any row on, and no other
    /// key needs to know all rows before. Compressed files are unpacked into the cache for it. Default: unset.
    pub lazy: Option<bool>,
    /// The directory in which such rows are kept as tokens, for later passes and runs; false keeps none. The oldest are removed
    /// when all have 16 GiB. Default: true, which is `mdt` in the user's directory of caches (`XDG_CACHE_HOME`).
    pub cache: CacheDirectory,
    /// Rows that are shuffled together where they stream, and that are in memory at a time. Default: 10,000.
    #[schemars(range(min = 1))]
    pub shuffle_buffer: u64,
    /// The commit of each data set of the hub that a source stands for, as `hf://org/name@COMMIT`.
    #[serde(skip)]
    pub revisions: Vec<String>,
}

/// Where rows are kept as tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum CacheDirectory {
    /// In the user's directory of caches, or nowhere.
    Default(bool),
    /// Here.
    At(PathBuf),
}

/// What becomes of rows that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnBadRow {
    /// The first one ends the run.
    #[default]
    Error,
    /// They keep their places in the order, and nothing of them is trained. They are counted, and all are listed with their
    /// reasons in `bad_rows.jsonl` in the output directory.
    Skip,
}

/// A source of training examples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "SourceForm")]
pub struct Source {
    /// What the data component reads: a file, a directory, a name.
    pub path: String,
    /// How often a row is drawn from it, relative to the others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<f64>,
    /// The place in the list that it was written at: a directory becomes several sources, which are one to weights.
    #[serde(skip)]
    pub group: usize,
}

/// A source as it is written: a string stands for a table with a path alone.
#[derive(Deserialize)]
#[serde(untagged)]
enum SourceForm {
    Path(String),
    Table {
        path: String,
        #[serde(default)]
        weight: Option<f64>,
    },
}

impl From<SourceForm> for Source {
    fn from(form: SourceForm) -> Self {
        match form {
            SourceForm::Path(path) => Self { path, weight: None, group: 0 },
            SourceForm::Table { path, weight } => Self { path, weight, group: 0 },
        }
    }
}

impl Default for Data {
    fn default() -> Self {
        Data {
            id: "jsonl".into(),
            train: Vec::new(),
            eval: Vec::new(),
            eval_split: None,
            limit: None,
            on_bad_row: OnBadRow::Error,
            max_tokens: None,
            deduplicate: false,
            shuffle: true,
            streaming: None,
            lazy: None,
            cache: CacheDirectory::Default(true),
            shuffle_buffer: 10_000,
            revisions: Vec::new(),
        }
    }
}

/// How many of the training rows are held out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum EvalSplit {
    /// This share of them, above 0 and below 1.
    Share(f64),
    /// This many.
    Rows(u64),
}

impl EvalSplit {
    /// The number of rows to hold out of `rows`, rounded to the nearest. It may be more than `rows`.
    pub fn of(self, rows: usize) -> u64 {
        match self {
            Self::Share(share) => (share * rows as f64).round() as u64,
            Self::Rows(number) => number,
        }
    }
}

impl Data {
    /// The names of the training sources.
    pub fn train_names(&self) -> Vec<String> {
        self.train.iter().map(|source| source.path.clone()).collect()
    }

    /// Whether the training sources are mixed by weight.
    pub fn is_weighted(&self) -> bool {
        self.train.iter().any(|source| source.weight.is_some())
    }

    /// The meaning of `eval_split`.
    ///
    /// # Errors
    /// It is neither a share nor a whole number, or `eval` is set too.
    pub fn split(&self) -> Result<Option<EvalSplit>, Failure> {
        let Some(split) = self.eval_split else { return Ok(None) };
        if !self.eval.is_empty() {
            return Err(Failure::configuration("`data.eval` and `data.eval_split` are both set")
                .help("set `data.eval` for rows from a file, or `data.eval_split` for rows from `data.train`"));
        }
        if 0.0 < split && split < 1.0 {
            return Ok(Some(EvalSplit::Share(split)));
        }
        // From 2^53 on, neighbouring numbers are the same f64.
        if (1.0..=(1u64 << 53) as f64).contains(&split) && split.fract() == 0.0 {
            return Ok(Some(EvalSplit::Rows(split as u64)));
        }
        Err(Failure::configuration(format!(
            "`data.eval_split` is {split:?}, which is neither a share nor a number of rows"
        ))
        .help("0.05 holds out a twentieth of the rows, 200 holds out 200 rows"))
    }
}

/// The schema of a list of sources. A string is turned into a list before layers are merged.
fn string_or_strings(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": ["array", "string"], "items": { "type": "string", "minLength": 1 } })
}

/// The schema of a list of sources with weights.
fn sources(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": ["array", "string"],
        "items": { "anyOf": [
            { "type": "string", "minLength": 1 },
            {
                "type": "object",
                "required": ["path"],
                "properties": {
                    "path": { "type": "string", "minLength": 1 },
                    "weight": { "type": "number", "exclusiveMinimum": 0 },
                },
                "additionalProperties": false,
            },
        ] },
    })
}

/// Both types by name, so that a number of rows stays the integer that the user wrote.
fn share_or_number(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": ["number", "integer", "null"], "exclusiveMinimum": 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(value: f64) -> Result<Option<EvalSplit>, Failure> {
        Data { eval_split: Some(value), ..Data::default() }.split()
    }

    #[test]
    fn below_1_a_split_is_a_share_and_from_1_on_a_number() {
        assert_eq!(split(0.05), Ok(Some(EvalSplit::Share(0.05))));
        assert_eq!(split(1.0), Ok(Some(EvalSplit::Rows(1))));
        assert_eq!(split(200.0), Ok(Some(EvalSplit::Rows(200))));
        assert_eq!(Data::default().split(), Ok(None));
        for wrong in [0.0, -1.0, 1.5, f64::NAN, f64::INFINITY, 1e300] {
            assert!(split(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_share_is_rounded_to_whole_rows() {
        assert_eq!(EvalSplit::Share(0.07).of(100), 7);
        assert_eq!(EvalSplit::Share(0.1).of(4), 0);
        assert_eq!(EvalSplit::Rows(9).of(4), 9);
    }
}
