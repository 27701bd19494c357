//! GPT-2 and Gemma 3, written outside of this project, have transformers' logits and gradients in real runs.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use mdt_tests::{Job, LoadedModel, arrays, assert_says, example_plugin, integers, relative_difference, root};
use serde_json::Value;

/// Tokens of a row of the fixtures.
const LENGTH: usize = 40;

fn fixture(file: &str) -> PathBuf {
    root().join("tests/fixtures/examples").join(file)
}

/// The plugin of an example, alone in a directory of the job's.
fn dropped_in(job: &Job, name: &str) -> PathBuf {
    let built = example_plugin(name);
    let place = job.directory().join("plugins").join(built.file_name().expect("a name"));
    fs::create_dir_all(place.parent().expect("a directory")).expect("a directory");
    fs::copy(built, &place).expect("a copy");
    place
}

/// One update of SGD on four rows, as `tests/fixtures/make/examples.py` makes it.
fn one_update(name: &str) -> Job {
    let job = Job::new();
    let plugin = dropped_in(&job, name);
    job.argument("--plugin-dir")
        .argument(plugin.parent().expect("a directory").display().to_string())
        .set("model.path", fixture(&format!("{name}/model")).display())
        .set("optimizer", "sgd")
        .set("optimizer.momentum", 0.0)
        .set("optimizer.weight_decay", 0.0)
        .set("optimizer.learning_rate", 0.5)
        .set("scheduler", "constant")
        .set("scheduler.warmup_steps", 0)
        .set("trainer.gradient_accumulation_steps", 1)
        .set("trainer.max_grad_norm", 0)
        .set("trainer.max_steps", 1)
}

fn weights(file: &Path) -> BTreeMap<String, Vec<f32>> {
    arrays(file).into_iter().collect()
}

/// Trains, and compares logits, gradients and what is written with transformers.
fn is_that_of_transformers(name: &str) {
    let job = one_update(name);
    let expected = fixture(&format!("{name}.safetensors"));
    let of_transformers = weights(&expected);
    let start = fixture(&format!("{name}/model"));
    let plugin = dropped_in(&job, name);

    let (ids, theirs) = (integers(&expected, "input_ids"), &of_transformers["logits"]);
    let model = LoadedModel::open_with(&start, &plugin);
    let ours = model.logits(ids.len() / LENGTH, &ids);
    let difference = relative_difference(&ours, theirs);
    println!("{name}: logits {difference:.1e}");
    assert!(difference < 1e-4, "{name}: the logits are {difference:e} apart");

    job.run().success();
    let before = weights(&start.join("model.safetensors"));
    let after = weights(&job.output().join("final/model.safetensors"));
    assert_eq!(after.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>(), "{name}: the names");
    for (parameter, before) in &before {
        // The same scale for all: what rounds to 0 in one parameter is no error.
        let gradient = |after: &[f32]| before.iter().zip(after).map(|(b, a)| (b - a) / 0.5).collect::<Vec<f32>>();
        let theirs = gradient(&of_transformers[&format!("after.{parameter}")]);
        let difference = relative_difference(&gradient(&after[parameter]), &theirs);
        println!("{name}: gradient of {parameter} {difference:.1e}");
        assert!(difference < 1e-4, "{name}: the gradients of {parameter} are {difference:e} apart");
    }

    // What was written is read again, and is another model than at the start.
    let trained = LoadedModel::open_with(&job.output().join("final"), &plugin).logits(ids.len() / LENGTH, &ids);
    assert!(relative_difference(&trained, theirs) > 1e-2, "{name}: nothing was trained");
}

#[test]
fn gpt2_has_the_logits_and_gradients_of_transformers() {
    is_that_of_transformers("gpt2");
}

#[test]
fn gemma3_has_the_logits_and_gradients_of_transformers() {
    is_that_of_transformers("gemma3");
}

#[test]
fn both_continue_through_the_cache_as_they_read_whole_sequences() {
    for name in ["gpt2", "gemma3"] {
        let model = LoadedModel::open_with(&fixture(&format!("{name}/model")), &example_plugin(name));
        let ids = &integers(&fixture(&format!("{name}.safetensors")), "input_ids")[..LENGTH];
        let whole = model.hidden(ids);
        let token_by_token: Vec<&[i32]> = ids.chunks(1).collect();
        let uneven = [&ids[..1], &ids[1..9], &ids[9..10], &ids[10..33], &ids[33..]];
        for pieces in [token_by_token.as_slice(), &uneven] {
            let difference = relative_difference(&model.hidden_in_pieces(pieces), &whole);
            println!("{name}, {} pieces: {difference:.1e}", pieces.len());
            assert!(difference < 1e-5, "{name}, {} pieces: {difference:e}", pieces.len());
        }
    }
}

/// A copy of GPT-2's directory with another `config.json`.
fn gpt2_with(job: &Job, edit: impl FnOnce(&mut Value)) -> PathBuf {
    let copy = job.directory().join("model");
    fs::create_dir_all(&copy).expect("a directory");
    mdt_tests::copy_files(&fixture("gpt2/model"), &copy);
    let mut config: Value = serde_json::from_slice(&fs::read(copy.join("config.json")).expect("it")).expect("JSON");
    edit(&mut config);
    fs::write(copy.join("config.json"), config.to_string()).expect("the config");
    copy
}

#[test]
fn dropout_is_a_function_of_the_seed_and_the_same_when_layers_are_computed_again() {
    let run = |seed: u64, recompute: bool| {
        let job = one_update("gpt2");
        let model = gpt2_with(&job, |config| {
            for key in ["resid_pdrop", "embd_pdrop", "attn_pdrop"] {
                config[key] = 0.2.into();
            }
        });
        let job = job.set("model.path", model.display()).set("seed", seed).set("trainer.max_steps", 3);
        let job = job.set("trainer.checkpoint_activations", if recompute { "all" } else { "none" });
        job.run().success();
        job.final_weights()
    };
    let first = run(1, false);
    assert!(run(1, false) == first, "the same seed gave other weights");
    assert!(run(1, true) == first, "computing layers again gave other weights");
    assert!(run(2, false) != first, "another seed gave the same weights");
}

#[test]
fn tensors_that_no_parameter_takes_are_reported_and_other_names_are_found() {
    let job = one_update("gpt2");
    let model = gpt2_with(&job, |_| ());
    let file = model.join("model.safetensors");
    let bytes = fs::read(&file).expect("the weights");
    let size = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
    let header = String::from_utf8(bytes[8..8 + size].to_vec()).expect("JSON");
    // As the first checkpoints have it: no prefix, and the mask as a tensor.
    let mut header: Value = serde_json::from_str(&header.replace("\"transformer.", "\"")).expect("JSON");
    let end = (bytes.len() - 8 - size) as u64;
    for layer in 0..2 {
        header[format!("h.{layer}.attn.masked_bias")] =
            serde_json::json!({ "dtype": "F32", "shape": [0], "data_offsets": [end, end] });
    }
    let header = header.to_string();
    let whole = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &bytes[8 + size..]].concat();
    fs::write(&file, whole).expect("the weights");
    let job = job.set("model.path", model.display());
    let run = job.run().success();
    assert_says(&run.stderr, &["2 tensors of the model's files are taken by no parameter: `h.0.attn.masked_bias`"]);
    let plain = one_update("gpt2");
    plain.run().success();
    assert!(job.final_weights() == plain.final_weights(), "other names gave other weights");
}

#[test]
fn they_compute_in_half_precision_too() {
    for name in ["gpt2", "gemma3"] {
        let plain = one_update(name);
        plain.run().success();
        for key in ["compute.dtype", "compute.matmul"] {
            let half = one_update(name).set(key, "bfloat16");
            half.run().success();
            for number in ["loss", "grad_norm"] {
                let (ours, theirs) = (half.numbers(number)[0], plain.numbers(number)[0]);
                println!("{name}, {key}: {number} {:.1e}", (ours - theirs).abs() / theirs);
                assert!(
                    ours != theirs && (ours - theirs).abs() < 0.03 * theirs,
                    "{name}: {number} {ours} and {theirs}"
                );
            }
        }
    }
}
