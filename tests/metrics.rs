//! The lines of metrics.jsonl are a contract with scripts.

use mdt_tests::Job;
use serde_json::Value;

fn keys(line: &Value) -> Vec<&str> {
    line.as_object().expect("an object").keys().map(String::as_str).collect()
}

fn evaluated() -> Job {
    let job = Job::new().rows(0..16).set("trainer.num_epochs", 2);
    let held_out = job.file("held-out.jsonl", "{\"prompt\": \"Shout adc\\n\", \"completion\": \"ADC!\"}\n");
    let job = job.set("data.eval", held_out.display()).set("trainer.eval_steps", 3);
    job.run().success();
    job
}

#[test]
fn every_update_has_a_line_with_the_documented_keys_from_step_1_on() {
    let job = evaluated();
    let updates = job.updates();
    let steps: Vec<_> = updates.iter().map(|line| line["step"].as_u64().expect("a number")).collect();
    assert_eq!(steps, [1, 2, 3, 4]);
    assert_eq!(job.numbers("epoch"), [0.5, 1.0, 1.5, 2.0]);
    let documented = "step epoch loss grad_norm lr tokens supervised_tokens tokens_per_s step_s data_wait_s \
                      peak_memory_bytes";
    let mut documented: Vec<_> = documented.split_whitespace().collect();
    documented.sort_unstable();
    for line in &updates {
        let mut keys = keys(line);
        keys.sort_unstable();
        assert_eq!(keys, documented);
        let number = |key: &str| line[key].as_f64().expect("a number");
        assert!(documented.iter().all(|key| number(key).is_finite()), "{line}");
        assert!(number("supervised_tokens") < number("tokens") && number("data_wait_s") <= number("step_s"), "{line}");
        let rate = number("tokens") / number("step_s");
        assert!((number("tokens_per_s") - rate).abs() <= 1e-6 * rate, "{line}");
        // More than the weights and moments, less than this machine: bytes, and not kilobytes.
        assert!((1e6..1e11).contains(&number("peak_memory_bytes")), "{line}");
    }
}

#[test]
fn an_evaluation_has_a_line_with_eval_loss_and_no_loss() {
    let lines = evaluated().metrics();
    let evaluations: Vec<_> = lines.iter().filter(|line| line.get("eval_loss").is_some()).collect();
    let steps: Vec<_> = evaluations.iter().map(|line| line["step"].as_u64().expect("a number")).collect();
    assert_eq!(steps, [3, 4], "every third update, and the last");
    for line in evaluations {
        let mut keys = keys(line);
        keys.sort_unstable();
        assert_eq!(keys, ["epoch", "eval_loss", "eval_perplexity", "eval_s", "eval_tokens", "step"]);
        assert!(line["eval_loss"].as_f64().is_some_and(|loss| loss > 0.0), "{line}");
    }
}

#[test]
fn the_loss_of_update_1_is_the_held_out_loss_of_the_weights_before_it() {
    let job = Job::new().rows(0..8).set("optimizer.learning_rate", 0);
    let rows = job.directory().join("train.jsonl");
    let job = job.set("data.eval", rows.display());
    job.run().success();
    let loss = job.numbers("loss")[0];
    let line = job.metrics().into_iter().find_map(|line| line["eval_loss"].as_f64()).expect("an evaluation");
    assert!((loss - line).abs() < 1e-6 * loss, "{loss} and {line}");
}

#[test]
fn fewer_lines_are_written_on_request_and_the_last_update_always() {
    let job = Job::new().rows(0..16).set("trainer.max_steps", 7).set("metrics.every", 3);
    job.run().success();
    assert_eq!(job.numbers("step"), [3.0, 6.0, 7.0]);
}

/// The job with the trainer `bytes`, on four rows of 9, 4, 3 and 6 supervised tokens: one row to a micro-batch.
fn bytes() -> Job {
    let job = Job::new().set("trainer", "bytes").set("trainer.batch_size", 1);
    let row = |letters: usize| {
        let word = "abcdefghi".get(..letters).expect("letters");
        format!("{{\"prompt\": \"{word}\", \"completion\": \"{word}\"}}\n")
    };
    let rows = job.file("rows.jsonl", [9, 4, 3, 6].map(row).concat());
    job.set("data.train", rows.display())
}

#[test]
fn a_trainers_metrics_are_means_matched_by_name_wherever_micro_batches_differ_in_them() {
    let job = bytes().set("trainer.metrics", true).set("trainer.gradient_accumulation_steps", 4);
    job.run().success();
    let line = &job.updates()[0];
    // The mean number of supervised tokens of a micro-batch: of all, of those with 9 and 3, of those with 4 and 6.
    assert_eq!((&line["all"], &line["odd"], &line["even"]), (&5.5.into(), &6.0.into(), &5.0.into()));

    // One row to an update: a metric that no micro-batch has is not in the line.
    let job = bytes().set("trainer.metrics", true).set("trainer.gradient_accumulation_steps", 1);
    job.run().success();
    let has: Vec<_> =
        job.updates().iter().map(|line| (line.get("odd").is_some(), line.get("even").is_some())).collect();
    assert_eq!(has, [(true, false), (false, true), (true, false), (false, true)]);
}

#[test]
fn held_out_metrics_are_means_matched_by_name() {
    let job = bytes().set("trainer.metrics", true);
    let rows = job.directory().join("rows.jsonl");
    let job = job.set("data.eval", rows.display());
    job.run().success();
    let line = job.metrics().into_iter().find(|line| line.get("eval_loss").is_some()).expect("an evaluation");
    assert_eq!((&line["eval_all"], &line["eval_odd"], &line["eval_even"]), (&5.5.into(), &6.0.into(), &5.0.into()));
}

#[test]
fn a_metric_that_is_nan_is_null_and_training_goes_on() {
    let job = bytes().set("trainer.undefined_metric", true).set("trainer.metrics", true);
    let run = job.run().success();
    assert!(job.updates().len() > 1);
    for line in job.updates() {
        assert!(line["undefined"].is_null() && line.get("undefined").is_some(), "{line}");
        assert!(line["loss"].is_f64() && line["all"].is_f64(), "{line}");
    }
    let warnings = run.stderr.lines().filter(|line| line.contains("`undefined`")).collect::<Vec<_>>();
    assert!(matches!(warnings[..], [one] if one.contains("null")), "said once: {warnings:?}");
}

#[test]
fn numbers_that_plugins_report_are_averaged_over_the_updates_of_a_line() {
    let job = Job::new().rows(0..16).set("trainer.max_steps", 7).set("metrics.every", 3);
    let job = job.set("optimizer", "states").set("optimizer.reports", true);
    job.run().success();
    assert_eq!(job.numbers("step"), [3.0, 6.0, 7.0]);
    assert_eq!(job.numbers("update_number"), [2.0, 5.0, 7.0], "of updates 1 to 3, 4 to 6, and 7");
}
