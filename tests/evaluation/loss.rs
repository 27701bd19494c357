//! What the held-out loss is.

use std::fs;

use mdt_tests::{Job, assert_says, root};
use serde_json::Value;

use super::{evaluations, held_out_losses, hold_out, overfitting};

/// Rows 100 to 112 of the fixture: 13 of differing lengths, so that batches of 2, 3, 5 and 8 all leave a smaller one.
const ROWS: std::ops::Range<usize> = 100..113;

/// One evaluation of weights that stay as they are.
fn evaluated_in_batches_of(batch_size: u32) -> Value {
    let job = Job::new().rows(0..8).set("optimizer.learning_rate", 0).set("trainer.max_steps", 1);
    let job = hold_out(job, ROWS).set("trainer.batch_size", batch_size);
    job.run().success();
    evaluations(&job).pop().expect("an evaluation")
}

#[test]
fn it_is_the_mean_over_supervised_tokens_whatever_the_batch_size() {
    // Trained one row at a time at a rate of 0, each row's update has the row's own mean and number of tokens.
    let rows = Job::new().rows(ROWS).set("optimizer.learning_rate", 0).set("trainer.batch_size", 1);
    let rows = rows.set("trainer.gradient_accumulation_steps", 1);
    rows.run().success();
    let (losses, tokens) = (rows.numbers("loss"), rows.numbers("supervised_tokens"));
    let all: f64 = tokens.iter().sum();
    let mean = losses.iter().zip(&tokens).map(|(loss, tokens)| loss * tokens).sum::<f64>() / all;
    let mean_of_means = losses.iter().sum::<f64>() / losses.len() as f64;
    assert!((mean - mean_of_means).abs() > 1e-4 * mean, "rows of these lengths cannot tell the two apart");

    for batch_size in [1, 2, 3, 5, 8, 13, 100] {
        let line = evaluated_in_batches_of(batch_size);
        let loss = line["eval_loss"].as_f64().expect("a loss");
        assert!((loss - mean).abs() < 1e-6 * mean, "{loss} in batches of {batch_size}, and {mean}");
        assert_eq!(line["eval_tokens"].as_f64(), Some(all));
        let perplexity = line["eval_perplexity"].as_f64().expect("a perplexity");
        assert!((perplexity - loss.exp()).abs() <= 1e-12 * perplexity, "{line}");
        assert!(line["eval_s"].as_f64().is_some_and(|seconds| seconds > 0.0), "{line}");
    }
}

#[test]
fn looking_at_held_out_rows_changes_nothing_that_is_trained() {
    let watched = overfitting().set("trainer.eval_at_start", true);
    watched.run().success();
    let unwatched = overfitting().set("data.eval", "[]");
    unwatched.run().success();
    assert!(watched.final_weights() == unwatched.final_weights());
    assert_eq!(watched.numbers("loss"), unwatched.numbers("loss"));
}

#[test]
fn it_is_known_before_the_first_update_on_request_and_only_then() {
    let job = overfitting().set("trainer.eval_at_start", true).set("trainer.max_steps", 4);
    let job = job.set("checkpoint.save_steps", 1);
    let run = job.run().success();
    let losses = held_out_losses(&job);
    assert_eq!(losses.iter().map(|(update, _)| *update).collect::<Vec<_>>(), [0, 2, 4]);
    assert_eq!(evaluations(&job)[0]["epoch"], 0.0);
    let said = |losses: f64| format!("{losses:.4}, perplexity {:.3}", losses.exp());
    assert_says(&run.stderr, &[&format!("held-out loss before the first update: {}", said(losses[0].1))]);
    assert_says(&run.stderr, &[&format!("held-out loss after update 4: {}", said(losses[2].1))]);

    let still = overfitting().set("trainer.max_steps", 2).set("optimizer.learning_rate", 0);
    still.run().success();
    assert_eq!(held_out_losses(&still), [(2, losses[0].1)], "no update, no change");

    // A run that goes on has it already.
    [3, 4].iter().for_each(|&update| fs::remove_dir_all(job.checkpoint(update)).expect("a checkpoint"));
    job.run().success();
    assert_eq!(held_out_losses(&job), losses);
}

#[test]
fn a_loss_that_is_not_finite_is_null_and_a_warning_and_ends_nothing() {
    // The update makes the weights huge, and products of three of them are no longer numbers.
    let job = hold_out(Job::new().rows(0..8), ROWS).set("trainer.max_steps", 1);
    let job = job.set("scheduler", "constant").set("optimizer.learning_rate", "1e15");
    let run = job.run().success();
    let line = evaluations(&job).pop().expect("an evaluation");
    assert_eq!((&line["eval_loss"], &line["eval_perplexity"]), (&Value::Null, &Value::Null));
    assert_says(&run.stderr, &["warning: the held-out loss is not finite, first in", "held-out.jsonl rows 1, 2, 3, 4"]);

    // There is no best of such evaluations.
    let failure = job.run_with(&["--set", "checkpoint.export=best"]).failure(7);
    assert_says(&failure, &["no evaluation had a finite loss", "--set checkpoint.export=last"]);
}

#[test]
fn held_out_rows_that_have_changed_are_evaluated_anew_by_a_run_that_goes_on() {
    let job = overfitting().set("trainer.max_steps", 4).set("checkpoint.save_steps", 1);
    job.run().success();
    fs::remove_dir_all(job.checkpoint(4)).expect("the last checkpoint");
    let path = job.directory().join("held-out.jsonl");
    let text = fs::read_to_string(&path).expect("the rows");
    fs::write(&path, text.lines().skip(1).collect::<Vec<_>>().join("\n")).expect("one row less");
    let run = job.run().success();
    assert_says(&run.stderr, &["changed  the held-out rows are others", "held-out loss after update 3"]);
}

#[test]
fn every_key_that_needs_held_out_rows_says_so_where_there_are_none() {
    let keys = [
        ("trainer.early_stopping_patience", "2"),
        ("trainer.eval_at_start", "true"),
        ("checkpoint.keep_best", "true"),
        ("checkpoint.export", "best"),
    ];
    for (key, value) in keys {
        let job = Job::new().set(key, value);
        let failure = job.run().failure(2);
        assert_says(&failure, &[&format!("`{key}` is set, and there are no held-out rows"), "--set", "`data.eval`"]);
        assert!(!job.output().exists(), "nothing is written before everything is checked");
        // Rows drawn from the training rows are held-out rows, too.
        let rows = root().join("tests/fixtures/training/train.jsonl");
        job.set("data.eval", rows.display()).set("trainer.max_steps", 1).run().success();
    }
}
