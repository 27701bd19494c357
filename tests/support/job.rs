//! Jobs in temporary directories.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{Process, Run, command, copy_files, root, run};

/// Keys of metrics.jsonl that say how a run went on its machine, and so differ from run to run.
const MEASURED: [&str; 5] = ["tokens_per_s", "step_s", "data_wait_s", "peak_memory_bytes", "eval_s"];

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
        Job::of(&["training/job.toml"])
    }

    /// The job of these files of `tests/fixtures`, the later ones over the earlier ones.
    pub fn of(layers: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut job = Job { directory, arguments: Vec::new() };
        for layer in layers {
            let path = root().join("tests/fixtures").join(layer);
            job.arguments.extend(["--config".to_owned(), path.display().to_string()]);
        }
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

    /// Runs the program with further arguments, for this run alone.
    pub fn run_with(&self, arguments: &[&str]) -> Run {
        run(self.arguments.iter().map(String::as_str).chain(arguments.iter().copied()))
    }

    /// Starts the program in the background.
    pub fn start(&self) -> Process {
        Process::start(command().args(&self.arguments))
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

    /// The lines of metrics.jsonl.
    pub fn metrics(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.output().join("metrics.jsonl")).expect("metrics.jsonl");
        text.lines().map(|line| serde_json::from_str::<Value>(line).expect("a line of JSON")).collect()
    }

    /// Those of them that are updates.
    pub fn updates(&self) -> Vec<Value> {
        self.metrics().into_iter().filter(|line| line.get("loss").is_some()).collect()
    }

    /// One number of every update.
    pub fn numbers(&self, key: &str) -> Vec<f64> {
        self.updates().iter().map(|line| line[key].as_f64().expect("a number")).collect()
    }

    /// The lines of metrics.jsonl without what was measured, which is the same in every run of one job.
    pub fn unmeasured(&self) -> Vec<Value> {
        let mut lines = self.metrics();
        for line in lines.iter_mut().filter_map(Value::as_object_mut) {
            MEASURED.iter().for_each(|key| drop(line.remove(*key)));
        }
        lines
    }

    /// How many lines metrics.jsonl has by now; 0 where there is none.
    pub fn lines_so_far(&self) -> usize {
        let text = fs::read(self.output().join("metrics.jsonl")).unwrap_or_default();
        text.iter().filter(|&&byte| byte == b'\n').count()
    }

    /// The bytes of the trained model.
    pub fn final_weights(&self) -> Vec<u8> {
        fs::read(self.output().join("final/model.safetensors")).expect("the trained model")
    }

    /// Makes it start from random weights of another architecture, with the tokenizer in this directory.
    #[must_use]
    pub fn tiny_llama(self, tokenizer: &Path, vocabulary: usize) -> Self {
        let model = self.directory.path().join("model");
        copy_files(tokenizer, &model);
        let config = json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": vocabulary,
            "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
            "num_key_value_heads": 1, "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
            "tie_word_embeddings": true, "torch_dtype": "float32",
        });
        self.file("model/config.json", config.to_string());
        self.set("model.path", model.display()).set("model.init", "random")
    }

    /// Trains on these rows of the fixture, counted from 0.
    #[must_use]
    pub fn rows(self, rows: std::ops::Range<usize>) -> Self {
        let text = fs::read_to_string(root().join("tests/fixtures/training/train.jsonl")).expect("the fixture");
        let lines: Vec<_> = text.lines().skip(rows.start).take(rows.len()).collect();
        let path = self.file("train.jsonl", lines.join("\n"));
        self.set("data.train", path.display())
    }

    /// Where the checkpoint of an update is.
    pub fn checkpoint(&self, update: u64) -> PathBuf {
        self.output().join(format!("checkpoints/step-{update:06}"))
    }
}
