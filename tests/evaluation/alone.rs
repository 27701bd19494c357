//! `mdt-host evaluate`: the held-out loss without training.

use mdt_tests::{Job, LoadedModel, assert_says, run};
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
fn accuracy_is_the_share_of_trained_tokens_that_have_the_largest_logit() {
    let job = job().set("optimizer.learning_rate", 1e-2);
    job.run().success();
    let model = job.output().join("final");
    let rows = job.run_with(&["data", "preview", "--json", "--split", "eval", "--rows", "100"]).success().stdout;
    let rows: Vec<Value> = rows.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let (loaded, mut right, mut all) = (LoadedModel::open(&model), 0, 0);
    for row in rows.iter().filter(|row| row.get("tokens").is_some_and(Value::is_array)) {
        let tokens: Vec<i32> =
            row["tokens"].as_array().expect("a list").iter().map(|id| id.as_i64().expect("an id") as i32).collect();
        let logits = loaded.logits(1, &tokens);
        let width = logits.len() / tokens.len();
        let best = |place: usize| {
            let logits = logits[place * width..][..width].iter().enumerate();
            logits.max_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(token, _)| token as i32)
        };
        for (place, trained) in row["supervised"].as_array().expect("a list").iter().enumerate() {
            if *trained == Value::Bool(true) {
                all += 1;
                right += usize::from(best(place - 1) == Some(tokens[place]));
            }
        }
    }
    let figures = evaluated(&job, &["--model", &model.display().to_string()]);
    assert_eq!(figures["tokens"], all);
    assert!(right > 0 && right < all, "{right} of {all}");
    assert_eq!(figures["accuracy"].as_f64(), Some(right as f64 / all as f64));
    let text = job.run_with(&["evaluate", "--model", &model.display().to_string()]).success().stdout;
    assert_says(&text, &[&format!("accuracy {:.1} %", 100.0 * right as f64 / all as f64)]);
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
