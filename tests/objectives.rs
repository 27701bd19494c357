//! Trainers of strangers, built elsewhere and dropped in: preference pairs against PyTorch, answers that the model draws
//! itself and is rewarded for, a teacher.

use std::path::Path;

use mdt_tests::{Job, arrays, assert_says, command, example_plugin, relative_difference, root};
use serde_json::{Value, json};

/// All are relative. In brackets the largest that was seen.
const NEAR: f64 = 1e-5;

fn with_example(job: Job, name: &str) -> Job {
    let library = example_plugin(name);
    job.argument("--plugin-dir").argument(library.parent().expect("a directory").display().to_string())
}

fn dpo() -> Job {
    with_example(Job::of(&["dpo/job.toml"]), "dpo")
}

/// Prompts of which answers are drawn, two to an update.
fn grpo() -> Job {
    let job = with_example(Job::of(&["../../examples/grpo/job.toml"]), "grpo");
    job.set("trainer.max_steps", 4).set("checkpoint.save_steps", 2)
}

fn fixture(name: &str) -> Value {
    let text = std::fs::read_to_string(root().join(name)).expect("the fixture");
    serde_json::from_str(&text).expect("JSON")
}

#[track_caller]
fn assert_near(what: &str, value: &Value, expected: &Value, scale: f64) {
    let [value, expected] = [value, expected].map(|number| number.as_f64().expect("a number"));
    let apart = (value - expected).abs();
    assert!(apart <= NEAR * scale.max(expected.abs()), "{what}: {value} and not {expected}");
}

#[test]
fn dpo_has_the_losses_rewards_gradients_and_weights_of_pytorch() {
    let job = dpo();
    job.run().success();
    let curve = fixture("tests/fixtures/dpo/curve.json");
    let expected = curve.as_array().expect("a list");
    let updates = job.updates();
    assert_eq!(updates.len(), expected.len());
    for (line, expected) in updates.iter().zip(expected) {
        let step = &expected["step"];
        for key in ["loss", "grad_norm"] {
            assert_near(&format!("{key} of update {step}"), &line[key], &expected[key], 0.0);
        }
        for key in ["rewards/chosen", "rewards/rejected", "rewards/margins"] {
            assert_near(&format!("{key} of update {step}"), &line[key], &expected[key], 1.0);
        }
        // Before the first update all rewards are 0, and which of them is larger is rounding.
        if *step != 1 {
            assert_eq!(line["rewards/accuracies"], expected["rewards/accuracies"], "update {step}");
        }
    }
    let theirs = arrays(&root().join("tests/fixtures/dpo/final.safetensors"));
    let ours = arrays(&job.output().join("final/model.safetensors"));
    for ((name, ours), (_, theirs)) in ours.iter().zip(&theirs) {
        let difference = relative_difference(ours, theirs);
        assert!(difference <= NEAR, "{name}: {difference:e}");
    }
}

#[test]
fn pairs_count_alike_however_micro_batches_are_cut() {
    let cut = |rows: u32, accumulation: u32| {
        let job = dpo().set("trainer.batch_size", rows).set("trainer.gradient_accumulation_steps", accumulation);
        job.run().success();
        job
    };
    let (one, four) = (cut(4, 1), cut(1, 4));
    for (a, b) in one.updates().iter().zip(four.updates()) {
        for key in ["loss", "grad_norm", "rewards/margins"] {
            assert_near(key, &a[key], &b[key], 0.1);
        }
    }
}

#[test]
fn held_out_pairs_have_their_rewards_too() {
    let job = dpo().set("data.eval", root().join("tests/fixtures/dpo/train.jsonl").display());
    job.run().success();
    let line = job.metrics().into_iter().find(|line| line.get("eval_loss").is_some()).expect("an evaluation");
    assert!(line["eval_loss"].as_f64() < Some(0.4), "{line}");
    assert!(line["eval_rewards/accuracies"].as_f64() > Some(0.9), "{line}");
    assert_eq!(line.get("eval_perplexity"), None, "the loss of a pair is not that of a token: {line}");
}

#[test]
fn a_row_without_a_pair_is_named() {
    let job = dpo();
    let rows = job.file("rows.jsonl", json!({"prompt": "a", "completion": "b"}).to_string() + "\n");
    let failure = job.set("data.train", rows.display()).run().failure(4);
    assert_says(&failure, &["the row has no `chosen`", "rows.jsonl row 1", "prompt, completion"]);
}

#[test]
fn what_is_drawn_and_learned_is_the_same_in_every_run_and_after_every_resume() {
    let job = grpo();
    job.run().success();
    let (weights, rewards) = (job.final_weights(), job.numbers("reward"));
    let again = grpo();
    again.run().success();
    assert_eq!((again.final_weights(), again.numbers("reward")), (weights.clone(), rewards.clone()));
    // A device may have a memory of its own.
    let apart = grpo().set("compute.shared_memory", false);
    apart.run().success();
    assert_eq!((apart.final_weights(), apart.numbers("reward")), (weights.clone(), rewards.clone()));
    // From the checkpoint of update 2.
    for directory in [job.checkpoint(4), job.output().join("final")] {
        std::fs::remove_dir_all(directory).expect("it was written");
    }
    job.run().success();
    assert_eq!((job.final_weights(), job.numbers("reward")), (weights, rewards));
}

#[test]
fn ranks_draw_what_one_process_draws() {
    let one = grpo().set("trainer.batch_size", 1).set("trainer.gradient_accumulation_steps", 2);
    one.run().success();
    let two = grpo().set("trainer.batch_size", 1).set("trainer.gradient_accumulation_steps", 1);
    let status = command().args(["launch", "-n", "2"]).args(two.arguments()).args(["--set", "comm.use=grpc"]).status();
    assert!(status.is_ok_and(|status| status.success()));
    assert_eq!(one.final_weights(), two.final_weights());
    assert_eq!(one.numbers("reward"), two.numbers("reward"));
}

/// The job of the example as it stands. Other processors round otherwise, so that some other tokens are drawn: the curves of
/// other seeds, where all tokens are drawn anew, were at most 0.22 away while the reward rises, and 0.004 at its end.
#[test]
fn the_reward_rises_as_the_committed_curve_does() {
    let job = with_example(Job::of(&["../../examples/grpo/job.toml"]), "grpo");
    job.run().success();
    let rewards = job.numbers("reward");
    let file = root().join("examples/grpo/curve.json");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&file, format!("{:#}\n", json!(rewards))).expect("the curve");
    }
    let curve = fixture("examples/grpo/curve.json");
    let curve: Vec<f64> = curve.as_array().expect("a list").iter().map(|reward| reward.as_f64().expect("it")).collect();
    assert_eq!(rewards.len(), curve.len());
    assert!(rewards[0] < 0.05 && rewards[rewards.len() - 20..].iter().all(|reward| *reward > 0.95), "{rewards:?}");
    for (place, (reward, expected)) in rewards.iter().zip(&curve).enumerate() {
        let allowed = if place < 20 { 0.3 } else { 0.05 };
        assert!((reward - expected).abs() <= allowed, "update {}: {reward} and not {expected}", place + 1);
    }
}

/// A student with random weights, whose teacher is the model of the training fixture.
fn distillation(teacher: &Path) -> Job {
    let job = Job::new().rows(0..16).set("trainer.use", "distill").set("model.init", "random");
    job.set("trainer.models.teacher.path", teacher.display())
}

#[test]
fn a_student_learns_from_the_teacher_that_the_configuration_names() {
    let job = distillation(&root().join("tests/fixtures/training/model"));
    let job = job.set("trainer.num_epochs", 8).set("optimizer.learning_rate", 1e-2);
    job.run().success();
    let losses = job.numbers("loss");
    assert!(losses[losses.len() - 1] < 0.7 * losses[0], "{losses:?}");
}

#[test]
fn a_teacher_that_is_not_named_or_not_there_is_an_error_that_says_where() {
    let job = Job::new().rows(0..16).set("trainer.use", "distill");
    assert_says(&job.run().failure(3), &["frozen model `teacher`", "trainer.models.teacher"]);
    let failure = distillation(Path::new("nowhere")).run().failure(4);
    assert_says(&failure, &["the model directory does not exist", "nowhere", "trainer.models.teacher"]);
    let failure = Job::new().set("trainer.models.reference.path", "nowhere").run().failure(2);
    assert_says(&failure, &["`trainer.models.reference`"]);
}
