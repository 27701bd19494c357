//! Adapters: they follow peft, its files are read and written, and the model beside them keeps every bit.

mod files;
mod fuse;
mod peft;
mod refusals;
mod runs;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use mdt_tests::{Job, arrays, example_plugin, root};
use serde_json::Value;

/// The cases of `tests/fixtures/make/adapters.py`: their names, and the directories of their models.
const CASES: [(&str, &str); 16] = [
    ("gpt2_dora", GPT2),
    ("gpt2_lora", GPT2),
    ("llama_dora", LLAMA),
    ("llama_dropout", LLAMA),
    ("llama_lora", LLAMA),
    ("llama_rslora", LLAMA),
    ("qwen3_dora", QWEN3),
    ("qwen3_lora", QWEN3),
    ("qwen3_rslora", QWEN3),
    ("tied_dora", TIED),
    ("tied_dora_dropout", TIED),
    ("tied_embedding_dora", TIED),
    ("tied_ends", TIED),
    ("tied_head_saved", TIED),
    ("tied_lora", TIED),
    ("tied_rslora", TIED),
];
const GPT2: &str = "families/gpt2/model";
const LLAMA: &str = "models/llama2";
const QWEN3: &str = "models/qwen3";
const TIED: &str = "training/model";

fn fixture(file: &str) -> PathBuf {
    root().join("tests/fixtures").join(file)
}

/// The job of a case.
fn case(name: &str) -> Job {
    Job::of(&[&format!("adapters/{name}/job.toml")])
}

/// The job with the plugin of an example, alone in a directory of the job's own.
fn with_plugin(job: Job, example: &str) -> Job {
    let (built, place) = (example_plugin(example), job.directory().join("plugins"));
    fs::create_dir_all(&place).expect("a directory");
    fs::copy(&built, place.join(built.file_name().expect("a name"))).expect("a copy");
    job.argument("--plugin-dir").argument(place.display().to_string())
}

/// The job of `tests/fixtures/training` with a new adapter, which learns fast: four updates.
fn fresh(kind: &str) -> Job {
    Job::new()
        .set("trainer.max_steps", 4)
        .set("optimizer.learning_rate", 1e-2)
        .set("checkpoint.save_steps", 2)
        .set("checkpoint.keep", 9)
        .set("model.adapter", kind)
}

/// The tensors of a file by their names.
fn tensors(file: &Path) -> BTreeMap<String, Vec<f32>> {
    arrays(file).into_iter().collect()
}

fn json(file: &Path) -> Value {
    serde_json::from_slice(&fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))).expect("JSON")
}

/// The bytes of the adapter that a job trained.
fn trained(job: &Job) -> Vec<u8> {
    fs::read(job.output().join("final/adapter_model.safetensors")).expect("the adapter")
}
