//! A trainer with parameters of its own: they are trained, saved and resumed as those of the model are, and stay out of its
//! files.

use std::fs;
use std::path::Path;

use mdt_tests::{Job, LoadedModel, arrays, command, relative_difference, root};
use serde_json::Value;

/// All are relative. In brackets the largest that was seen.
const NEAR: f64 = 1e-5;

fn job() -> Job {
    Job::of(&["value_head/job.toml"])
}

fn fixture(name: &str) -> std::path::PathBuf {
    root().join("tests/fixtures/value_head").join(name)
}

/// What is trained: the model and the head.
fn trained(job: &Job) -> [Vec<u8>; 2] {
    ["model.safetensors", "trainer.safetensors"]
        .map(|name| fs::read(job.output().join("final").join(name)).expect(name))
}

fn head(job: &Job) -> Vec<(String, Vec<f32>)> {
    arrays(&job.output().join("final/trainer.safetensors"))
}

/// The largest relative difference of the arrays of two files, which have the same names.
fn apart(ours: &Path, theirs: &Path) -> f64 {
    let (ours, theirs) = (arrays(ours), arrays(theirs));
    let names = |arrays: &[(String, Vec<f32>)]| arrays.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&ours), names(&theirs));
    ours.iter().zip(&theirs).map(|((_, ours), (_, theirs))| relative_difference(ours, theirs)).fold(0.0, f64::max)
}

#[test]
fn a_value_head_has_the_losses_gradients_and_weights_of_pytorch() {
    let job = job();
    job.run().success();
    let curve: Value = serde_json::from_slice(&fs::read(fixture("curve.json")).expect("the fixture")).expect("JSON");
    let curve = curve.as_array().expect("a list");
    for key in ["loss", "grad_norm", "value_error"] {
        let ours = job.numbers(key);
        assert_eq!(ours.len(), curve.len());
        let theirs = curve.iter().map(|line| line[key].as_f64().expect("a number"));
        let apart = ours.iter().zip(theirs).map(|(ours, theirs)| (ours - theirs).abs() / theirs).fold(0.0, f64::max);
        println!("{key} {apart:.1e}");
        assert!(apart <= NEAR, "{key}: {apart:e}");
    }
    for (ours, theirs) in [("model.safetensors", "final.safetensors"), ("trainer.safetensors", "trainer.safetensors")] {
        let apart = apart(&job.output().join("final").join(ours), &fixture(theirs));
        println!("{ours} {apart:.1e}");
        assert!(apart <= NEAR, "{ours}: {apart:e}");
    }
    // The model's file is that of a model: it loads without the trainer.
    LoadedModel::open(&job.output().join("final")).logits(1, &[1, 20, 30]);
}

#[test]
fn a_resumed_run_has_the_same_model_and_the_same_head() {
    let job = job().set("trainer.max_steps", 6).set("checkpoint.save_steps", 2).set("checkpoint.keep", 9);
    job.run().success();
    let before = (trained(&job), job.numbers("loss"));
    for directory in [job.checkpoint(4), job.checkpoint(6), job.output().join("final")] {
        fs::remove_dir_all(directory).expect("it was written");
    }
    job.run().success();
    assert!(before == (trained(&job), job.numbers("loss")));
}

#[test]
fn ranks_train_the_head_of_one_process() {
    let job = |micro_batches: u32| {
        let job = job().set("trainer.max_steps", 4).set("trainer.ones", false).set("compute.threads", 1);
        job.set("trainer.gradient_accumulation_steps", micro_batches)
    };
    let (one, two) = (job(2), job(1));
    one.run().success();
    let status = command().args(["launch", "-n", "2"]).args(two.arguments()).args(["--set", "comm.use=grpc"]).status();
    assert!(status.is_ok_and(|status| status.success()));
    assert!(trained(&one) == trained(&two));
}

#[test]
fn a_head_begins_with_the_values_of_the_jobs_seed_and_is_reached_by_patterns() {
    let held = |seed: u32| {
        let job = job().set("seed", seed).set("trainer.ones", false).set("trainer.max_steps", 1);
        let job = job.set("optimizer.groups", "[{ match = [\"trainer.*\"], learning_rate = 0 }]");
        job.run().success();
        head(&job)
    };
    let (one, other) = (held(1), held(2));
    assert_eq!(one, held(1));
    assert_ne!(one, other);
    let weight = &one.iter().find(|(name, _)| name == "value_head.weight").expect("a weight").1;
    assert_eq!(weight.len(), 48);
    assert!(weight.iter().all(|value| *value != 0.0 && value.abs() < 0.1), "{weight:?}");
}

#[test]
fn an_evaluation_reads_values_of_the_head() {
    let job = job().set("data.eval_split", 4).set("trainer.max_steps", 2).set("trainer.eval_steps", 1);
    job.run().success();
    let lines: Vec<Value> = job.metrics().into_iter().filter(|line| line.get("eval_loss").is_some()).collect();
    assert_eq!(lines.len(), 2);
    assert!(
        lines.iter().all(|line| line["eval_last_value"].is_f64() && line["eval_value_error"].is_f64()),
        "{lines:?}"
    );
    assert_ne!(lines[0]["eval_last_value"], lines[1]["eval_last_value"]);
}
