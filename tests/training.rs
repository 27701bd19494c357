//! Training follows PyTorch for every architecture, with AdamW and SGD: the same losses, and a `final/` with the tensors
//! and the config that transformers saves.
//!
//! The jobs have ragged rows, several micro-batches to an update, updates that are clipped and others that are not,
//! tied and untied heads, windows that an epoch does not fill, and each schedule: see `tests/fixtures/README.md`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use mdt_tests::{Job, LoadedModel, arrays, example_plugin, integers, relative_difference, root};
use safetensors::SafeTensors;
use serde_json::{Value, json};

// All are relative, and what was promised is 1e-4. In brackets the largest that was seen.
/// Losses and norms of gradients [7.4e-6].
const CURVE: f64 = 3e-5;
/// ‖a − b‖ / ‖b‖ of each tensor by itself [8.6e-7].
const WEIGHTS: f64 = 5e-6;
/// The same of all that the updates have added to the weights [3.7e-6].
const CHANGE: f64 = 2e-5;
/// Logits of the trained model [5.4e-6].
const LOGITS: f64 = 2e-5;
/// Biases of keys under AdamW [2.5e-5, where PyTorch is 1.9e-5 away from itself in f64]. Where rotations are slow such
/// a bias shifts all scores alike, which changes nothing: its gradient is rounding, and AdamW makes whole steps of it.
const KEY_BIASES: f64 = 1e-4;

#[test]
fn twenty_updates_follow_the_losses_norms_rates_and_weights_of_pytorch() {
    let job = Job::new();
    follows_pytorch("training", &job, "training/curve.json", "training/model", "training/final.safetensors");
}

#[test]
fn llama_follows_pytorch() {
    architecture("llama", "llama2");
}

#[test]
fn smollm_follows_pytorch_on_conversations() {
    architecture("smollm", "smollm");
}

#[test]
fn mistral_follows_pytorch() {
    architecture("mistral", "mistral");
}

#[test]
fn qwen2_with_its_biases_follows_pytorch_into_a_second_epoch() {
    architecture("qwen2", "qwen2");
}

#[test]
fn qwen3_with_its_norms_follows_pytorch_into_a_second_epoch() {
    architecture("qwen3", "qwen3");
}

#[test]
fn mixtral_with_its_router_loss_follows_pytorch() {
    let job = Job::of(&["mixtral/job.toml"]);
    follows_pytorch("mixtral", &job, "mixtral/curve.json", "mixtral/model", "mixtral/final.safetensors");
}

/// The plugin of `examples/muon`, whose updates are tensor operations.
#[test]
fn muon_on_the_device_follows_pytorch() {
    let job = Job::of(&["muon/job.toml"]);
    let (built, plugins) = (example_plugin("muon"), job.directory().join("plugins"));
    fs::create_dir(&plugins).expect("a directory");
    fs::copy(&built, plugins.join(built.file_name().expect("a name"))).expect("a copy");
    let job = job.argument("--plugin-dir").argument(plugins.display().to_string());
    follows_pytorch("muon", &job, "muon/curve.json", "models/llama2", "muon/final.safetensors");
}

/// 20 updates with either optimizer of an architecture that starts as `tests/fixtures/models/START`.
fn architecture(name: &str, start: &str) {
    for optimizer in ["adamw", "sgd"] {
        let file = |extension: &str| format!("architectures/{name}/{optimizer}.{extension}");
        let job = Job::of(&[&format!("architectures/{name}/job.toml"), &file("toml")]);
        let (name, start) = (format!("{name}, {optimizer}"), format!("models/{start}"));
        follows_pytorch(&name, &job, &file("json"), &start, &file("safetensors"));
        has_the_logits(&name, &job.output().join("final"), &fixture(&file("logits.safetensors")));
    }
}

/// Loads what was trained and compares it with what transformers has trained.
fn has_the_logits(name: &str, directory: &Path, expected: &Path) {
    let [(_, theirs)] = <[_; 1]>::try_from(arrays(expected)).expect("one array of f32");
    let ours = LoadedModel::open(directory).logits(1, &integers(expected, "input_ids"));
    let difference = relative_difference(&ours, &theirs);
    println!("{name}: logits {difference:.1e}");
    assert!(difference <= LOGITS, "{name}: the logits are {difference:e} apart");
}

/// Runs the job and compares it with what PyTorch and transformers have in these fixtures.
fn follows_pytorch(name: &str, job: &Job, curve: &str, start: &str, weights: &str) {
    job.run().success();
    let (start, last) = (fixture(start), job.output().join("final"));
    let curve = compare_updates(&job.updates(), read_json(&fixture(curve)).as_array().expect("a list"));
    assert_eq!(header(&last.join("model.safetensors")), header(&fixture(weights)), "{name}");
    let [ours, theirs, before] = [&last.join("model.safetensors"), &fixture(weights), &start.join("model.safetensors")]
        .map(|path| tensors(path));

    let (biases, others): (Vec<_>, Vec<_>) = ours.keys().partition(|name| name.ends_with("k_proj.bias"));
    let apart = |name: &&String| relative_difference(&ours[*name], &theirs[*name]);
    let largest = |names: &[&String]| names.iter().map(apart).fold(0.0, f64::max);
    let change = relative_difference(&added(&ours, &before, &others), &added(&theirs, &before, &others));
    let (biases, others) = (largest(&biases), largest(&others));
    println!("{name}: curve {curve:.1e}, weights {others:.1e}, change {change:.1e}, key biases {biases:.1e}");
    assert!(curve <= CURVE && others <= WEIGHTS && change <= CHANGE && biases <= KEY_BIASES, "{name} is too far off");

    compare_config(name, read_json(&start.join("config.json")), &read_json(&last.join("config.json")));
}

/// The largest relative difference of a loss or a norm; rates and counts have to be the same.
fn compare_updates(ours: &[Value], theirs: &[Value]) -> f64 {
    assert_eq!(ours.len(), theirs.len());
    let mut largest = 0.0_f64;
    for (ours, theirs) in ours.iter().zip(theirs) {
        let apart = |key: &str| {
            let [a, b] = [ours, theirs].map(|update| update[key].as_f64().expect("a number"));
            (a - b).abs() / b.abs()
        };
        assert!(apart("lr") <= 1e-12, "update {}: {} and not {}", theirs["step"], ours["lr"], theirs["lr"]);
        for key in ["step", "tokens", "supervised_tokens"] {
            assert_eq!(ours[key], theirs[key], "{key} of update {}", theirs["step"]);
        }
        largest = largest.max(apart("loss")).max(apart("grad_norm"));
        if theirs.get("router_loss").is_some() {
            largest = largest.max(apart("router_loss"));
        }
    }
    largest
}

/// What transformers saves after training is the start's config, whose weights are f32 here; `final/` says beside that
/// in the older form which rotations it has.
fn compare_config(name: &str, mut start: Value, last: &Value) {
    if let Some(rope) = start.get("rope_parameters").cloned() {
        start["rope_theta"] = rope["rope_theta"].clone();
        start["rope_scaling"] = json!(null);
    }
    assert_eq!(last, &start, "{name}");
}

/// Names, types and shapes.
fn header(path: &Path) -> BTreeMap<String, String> {
    let bytes = fs::read(path).expect("weights");
    let tensors = SafeTensors::deserialize(&bytes).expect("a safetensors file").tensors();
    tensors.into_iter().map(|(name, view)| (name, format!("{} {:?}", view.dtype(), view.shape()))).collect()
}

fn tensors(path: &Path) -> BTreeMap<String, Vec<f32>> {
    arrays(path).into_iter().collect()
}

/// What the updates have added to these tensors, one after the other.
fn added(after: &BTreeMap<String, Vec<f32>>, before: &BTreeMap<String, Vec<f32>>, names: &[&String]) -> Vec<f32> {
    let elements = |name: &&String| after[*name].iter().zip(&before[*name]).map(|(a, b)| a - b).collect::<Vec<_>>();
    names.iter().flat_map(elements).collect()
}

fn fixture(name: &str) -> PathBuf {
    root().join("tests/fixtures").join(name)
}

fn read_json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).expect("a file")).expect("JSON")
}
