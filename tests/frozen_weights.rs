//! `model.freeze` and `model.train`: what is not trained keeps every bit, and has no gradient, no state and no place in
//! checkpoints.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use mdt_tests::{Job, arrays, assert_says, copy_files, root};

/// The weights of a model by their names.
fn weights(directory: &Path) -> BTreeMap<String, Vec<f32>> {
    arrays(&directory.join("model.safetensors")).into_iter().collect()
}

fn names(file: &Path) -> Vec<String> {
    arrays(file).into_iter().map(|(name, _)| name).collect()
}

fn start() -> BTreeMap<String, Vec<f32>> {
    weights(&root().join("tests/fixtures/training/model"))
}

/// Six updates, with checkpoints after each second one.
fn job() -> Job {
    Job::new().set("trainer.max_steps", 6).set("checkpoint.save_steps", 2).set("checkpoint.keep", 9)
}

/// The names of what has moved.
fn moved(before: &BTreeMap<String, Vec<f32>>, after: &BTreeMap<String, Vec<f32>>) -> Vec<String> {
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    before.keys().filter(|name| bits(&before[*name]) != bits(&after[*name])).cloned().collect()
}

fn matching(pattern: impl Fn(&str) -> bool) -> Vec<String> {
    start().into_keys().filter(|name| pattern(name)).collect()
}

/// A key, its patterns, and which names are trained.
type Case = (&'static str, &'static str, fn(&str) -> bool);

#[test]
fn what_is_frozen_keeps_every_bit_and_the_rest_is_trained() {
    let cases: [Case; 4] = [
        ("model.freeze", "[\"*embed_tokens*\", \"model.layers.0.*\"]", |name| {
            !name.contains("embed_tokens") && !name.starts_with("model.layers.0.")
        }),
        // The head is tied to the embeddings: either name means both.
        ("model.freeze", "lm_head.weight", |name| !name.contains("embed_tokens")),
        ("model.train", "[\"*norm*\"]", |name| name.contains("norm")),
        ("model.train", "lm_head.*", |name| name.contains("embed_tokens")),
    ];
    for (key, patterns, is_trained) in cases {
        let job = job().set(key, patterns);
        let run = job.run().success();
        let expected = matching(is_trained);
        assert_eq!(moved(&start(), &weights(&job.output().join("final"))), expected, "{key} = {patterns}");
        assert_eq!(names(&job.checkpoint(6).join("model.safetensors")), expected);
        let states = names(&job.checkpoint(6).join("optimizer.safetensors"));
        let has_states = |name: &String| states.iter().any(|state| state.starts_with(name));
        assert!(matching(|_| true).iter().all(|name| has_states(name) == expected.contains(name)), "{states:?}");
        assert_says(&run.stderr, &["of them trained"]);
    }
}

#[test]
fn a_trainers_own_parameters_are_trained_beside_a_model_of_which_nothing_is() {
    let job = Job::of(&["value_head/job.toml"]).set("trainer.max_steps", 2).set("model.freeze", "*");
    job.run().success();
    assert_eq!(moved(&start(), &weights(&job.output().join("final"))), <[String; 0]>::default());
    let errors = job.numbers("value_error");
    assert_ne!(errors[0], errors[1]);
}

#[test]
fn the_norm_of_the_gradient_is_that_of_what_is_trained() {
    let [all, norms] = [job(), job().set("model.train", "*norm*")].map(|job| {
        job.run().success();
        job.numbers("grad_norm")[0]
    });
    assert!(norms > 0.0 && norms < 0.5 * all, "{norms} of {all}");
}

#[test]
fn a_resumed_run_with_frozen_weights_has_the_same_bits() {
    let job = job().set("model.freeze", "[\"*proj*\"]");
    job.run().success();
    let before = (job.final_weights(), job.unmeasured());
    for directory in [job.checkpoint(4), job.checkpoint(6), job.output().join("final")] {
        fs::remove_dir_all(directory).expect("it was written");
    }
    job.run().success();
    assert!(before == (job.final_weights(), job.unmeasured()));
}

#[test]
fn what_was_trained_beside_other_weights_is_not_resumed() {
    let job = job();
    let model = job.directory().join("model");
    copy_files(&root().join("tests/fixtures/training/model"), &model);
    let job = job.set("model.path", model.display()).set("model.train", "*embed_tokens*");
    job.run().success();
    let file = model.join("model.safetensors");
    let mut bytes = fs::read(&file).expect("the weights");
    let last = bytes.len() - 2;
    bytes[last] ^= 1;
    fs::write(&file, bytes).expect("all but a bit of them");
    let before = job.final_weights();
    let error = job.run().failure(2);
    assert_says(&error, &["the weights that are not trained are others", &model.display().to_string(), "checksum"]);
    assert!(job.final_weights() == before);
}

#[test]
fn a_pattern_that_matches_nothing_and_nothing_left_to_train_are_errors() {
    let error = job().set("model.freeze", "[\"model.embed_token.weight\"]").run().failure(2);
    assert_says(&error, &["\"model.embed_token.weight\"", "`model.freeze`", "`model.embed_tokens.weight`"]);
    let error = job().set("model.train", "[\"*nowhere*\"]").run().failure(2);
    assert_says(&error, &["\"*nowhere*\"", "`model.train`"]);
    let error = job().set("model.freeze", "*").run().failure(2);
    assert_says(&error, &["nothing is trained", "`model.freeze`"]);
}
