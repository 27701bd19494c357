//! Jobs in temporary directories.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use crate::{Run, root, run};

/// The job of `tests/fixtures/training` with an output directory of its own; every key can be set.
pub struct Job {
    directory: TempDir,
    arguments: Vec<String>,
}

impl Default for Job {
    fn default() -> Self {
        Job::new()
    }
}

impl Job {
    /// The job as the fixture has it: 20 updates of two micro-batches of four rows, AdamW, warm-up, cosine, clipping.
    pub fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let config = root().join("tests/fixtures/training/job.toml");
        let arguments = vec!["--config".to_owned(), config.display().to_string()];
        let mut job = Job { directory, arguments };
        let output = job.output().display().to_string();
        job.arguments.extend(["--set".to_owned(), format!("output_dir={output}")]);
        job
    }

    /// Sets one key, as `--set` does: a TOML value, else a string.
    #[must_use]
    pub fn set(self, key: &str, value: impl std::fmt::Display) -> Self {
        self.argument("--set").argument(format!("{key}={value}"))
    }

    /// Adds an argument of the command line.
    #[must_use]
    pub fn argument(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// The command line.
    pub fn arguments(&self) -> &[String] {
        &self.arguments
    }

    /// Runs the program.
    pub fn run(&self) -> Run {
        run(&self.arguments)
    }

    /// A file of the job's own, beside its output directory.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.directory.path().join(name);
        fs::create_dir_all(path.parent().expect("a file has a directory")).expect("a directory for the file");
        fs::write(&path, content).expect("a file of the job's own");
        path
    }

    /// The job's own directory.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The output directory.
    pub fn output(&self) -> PathBuf {
        self.directory.path().join("out")
    }

    /// The lines of metrics.jsonl that are updates.
    pub fn updates(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.output().join("metrics.jsonl")).expect("metrics.jsonl");
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("a line of JSON"));
        lines.filter(|line| line.get("loss").is_some()).collect()
    }

    /// The bytes of the trained model.
    pub fn final_weights(&self) -> Vec<u8> {
        fs::read(self.output().join("final/model.safetensors")).expect("the trained model")
    }

    /// Where the checkpoint of an update is.
    pub fn checkpoint(&self, update: u64) -> PathBuf {
        self.output().join(format!("checkpoints/step-{update:06}"))
    }
}
