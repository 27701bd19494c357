//! Files in the flat form of the package that this program replaces: they load, and they train.

use mdt_tests::{Job, assert_says, run, run_where};
use serde_json::{Map, Value, json};

const EXAMPLE: [&str; 4] = ["--config", "examples/flat/old.yaml", "--config", "examples/flat/demo.toml"];

/// The values of `config show --json`.
fn values(arguments: &[&str]) -> Map<String, Value> {
    let text = run([arguments, &["config", "show", "--json"]].concat()).success().stdout;
    let mut shown: Value = serde_json::from_str(&text).expect("JSON");
    shown["values"].as_object_mut().map(std::mem::take).expect("values")
}

#[test]
fn the_example_resolves_to_its_values_and_the_packages_defaults() {
    let values = values(&EXAMPLE);
    for (key, value, from) in [
        ("model.name", json!("demo"), "examples/flat/old.yaml:1 (model_name)"),
        ("model.path", json!("examples/demo/model"), "examples/flat/old.yaml:2 (model_path)"),
        ("trainer.batch_size", json!(32), "examples/flat/old.yaml:3 (batch_size)"),
        ("optimizer.learning_rate", json!(3e-3), "examples/flat/old.yaml:4 (learning_rate)"),
        ("trainer.num_epochs", json!(3), "examples/flat/old.yaml:5 (num_epochs)"),
        ("comm.world_size", json!(1), "examples/flat/old.yaml:6 (world_size)"),
        ("comm.use", json!("grpc"), "examples/flat/old.yaml:7 (backend)"),
        ("optimizer.use", json!("adamw"), "examples/flat/old.yaml:8"),
        ("scheduler.use", json!("cosine"), "examples/flat/old.yaml:9"),
        ("scheduler.warmup_steps", json!(40), "examples/flat/old.yaml:10 (warmup_steps)"),
        ("output_dir", json!("outputs/flat"), "examples/flat/old.yaml:11"),
        ("trainer.gradient_accumulation_steps", json!(1), "default of flat files"),
        ("checkpoint.save_steps", json!(100), "default of flat files"),
        ("data.train", json!(["examples/demo/train.jsonl"]), "examples/flat/demo.toml:6"),
    ] {
        assert_eq!(values[key], json!({ "value": value, "from": from }), "{key}");
    }
}

#[test]
fn the_example_trains_and_says_that_its_file_is_flat() {
    let job = Job::new();
    let output = format!("output_dir={}", job.output().display());
    let once = ["--set", "trainer.max_steps=1", "--set", &output];
    let started = run([&EXAMPLE[..], &once].concat()).success().stderr;
    assert_says(&started, &["examples/flat/old.yaml is a flat file"]);
    assert_eq!(job.updates().len(), 1);
    assert!(job.output().join("final/model.safetensors").is_file());
}

#[test]
fn a_flat_file_with_its_data_beside_the_flat_keys_trains_in_every_format() {
    let (model, data) = ("tests/fixtures/training/model", "tests/fixtures/training/train.jsonl");
    for (name, text) in [
        ("old.yaml", format!("model_path: {model}\nbatch_size: 2\nwarmup_steps: 1\ndata:\n  train: {data}\n")),
        ("old.toml", format!("model_path = '{model}'\nbatch_size = 2\nwarmup_steps = 1\ndata.train = '{data}'\n")),
        (
            "old.json",
            format!(
                r#"{{"model_path": "{model}", "batch_size": 2, "warmup_steps": 1, "data": {{"train": "{data}"}}}}"#
            ),
        ),
    ] {
        let job = Job::new();
        let file = job.file(name, text).display().to_string();
        let output = format!("output_dir={}", job.output().display());
        run(["--config", &file, "--set", "trainer.max_steps=2", "--set", &output]).success();
        // One update of warm-up, then the cosine's first from the default peak.
        let rates = job.numbers("lr");
        assert_eq!((rates.len(), rates[0]), (2, 1e-4), "{name}");
    }
}

#[test]
fn a_model_that_is_only_named_says_how_to_get_it() {
    let job = Job::new();
    let file = job.file("old.yaml", "model_name: org/model\ndata: { train: rows.jsonl }\n").display().to_string();
    let cache = job.directory().join("hub").display().to_string();
    let failure = run_where(&[("HF_HUB_OFFLINE", "1"), ("HF_HOME", &cache)], ["--config", &file]).failure(4);
    assert_says(&failure, &["org/model", "the cache does not have all files", "HF_HUB_OFFLINE"]);
    let failure = run_where(&[("HF_HOME", &cache)], ["config", "check", "--config", &file]);
    assert_says(&failure.stderr, &["org/model of the Hugging Face Hub is not in the cache"]);
    let file = job.file("old.yaml", "model_name: examples/demo/model\ndata: { train: a }\n").display().to_string();
    let failure = run(["--config", &file]).failure(2);
    assert_says(&failure, &["\"examples/demo/model\", which is a directory", "set `model.path` to it"]);
}
