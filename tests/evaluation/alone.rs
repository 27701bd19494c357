//! `mdt-host evaluate`: the held-out loss without training.

use mdt_tests::{Job, assert_says, run};
use serde_json::Value;

use super::{evaluations, hold_out};

fn evaluated(job: &Job, arguments: &[&str]) -> Value {
    let run = job.run_with(&[&["evaluate", "--json"], arguments].concat()).success();
    serde_json::from_str(&run.stdout).expect("JSON on standard output")
}

/// A job of six updates, with an evaluation and a checkpoint after every second one.
fn job() -> Job {
    let job = hold_out(Job::new().rows(0..24), 100..113).set("trainer.max_steps", 6).set("trainer.eval_steps", 2);
    job.set("checkpoint.save_steps", 2).set("checkpoint.keep", 0).set("trainer.eval_at_start", true)
}

#[test]
fn a_model_and_each_checkpoint_have_the_loss_that_training_saw() {
    let job = job();
    job.run().success();
    let seen = evaluations(&job);
    assert_eq!(seen.len(), 4);
    for line in seen {
        let step = line["step"].as_u64().expect("a number");
        let figures = match step {
            0 => evaluated(&job, &[]),
            step => evaluated(&job, &["--checkpoint", &job.checkpoint(step).display().to_string()]),
        };
        let pairs = [("loss", "eval_loss"), ("perplexity", "eval_perplexity"), ("tokens", "eval_tokens")];
        for (own, of_training) in pairs {
            assert_eq!(figures[own], line[of_training], "{own} after update {step}");
        }
    }
    let last = evaluations(&job).pop().expect("an evaluation");
    let model = job.output().join("final").display().to_string();
    assert_eq!(evaluated(&job, &["--model", &model])["loss"], last["eval_loss"]);
    let text = job.run_with(&["evaluate", "--model", &model]).success().stdout;
    assert_says(&text, &["held-out loss ", "perplexity ", " tokens"]);
}

#[test]
fn it_needs_no_training_rows_and_writes_nothing() {
    let job = job();
    let rows = job.directory().join("held-out.jsonl").display().to_string();
    let model = mdt_tests::root().join("tests/fixtures/training/model").display().to_string();
    let output = format!("output_dir={}", job.output().display());
    let run = run([
        "evaluate",
        "--model",
        &model,
        "--data",
        &rows,
        "--set",
        &output,
        "--set",
        "trainer.batch_size=4",
        "--json",
    ])
    .success();
    let figures: Value = serde_json::from_str(&run.stdout).expect("JSON");
    assert_eq!(figures["loss"], evaluated(&job, &[])["loss"]);
    assert!(!job.output().exists(), "an evaluation writes nothing");
    let split = Job::new().set("data.eval_split", 10);
    assert!(evaluated(&split, &[])["tokens"].as_u64() > Some(0));
}

#[test]
fn without_rows_to_evaluate_or_with_a_broken_checkpoint_it_says_so() {
    assert_says(&Job::new().run_with(&["evaluate"]).failure(2), &["no rows for evaluation", "data.eval"]);
    let job = job();
    assert_says(&job.run_with(&["evaluate", "--checkpoint", "nowhere"]).failure(4), &["nowhere"]);
}
