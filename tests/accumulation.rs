//! An update is the mean over its supervised tokens, however its rows are portioned into micro-batches.

use mdt_tests::{Job, arrays, relative_difference, root};
use serde_json::Value;

/// Two updates of eight rows of differing lengths in each of two epochs.
fn portioned(batch_size: u32, accumulation: u32) -> Job {
    let job = Job::new()
        .rows(0..16)
        .set("trainer.batch_size", batch_size)
        .set("trainer.gradient_accumulation_steps", accumulation)
        .set("trainer.num_epochs", 2)
        .set("trainer.max_grad_norm", 0)
        .set("data.shuffle", true)
        .set("checkpoint.save_steps", 1)
        .set("checkpoint.keep", 0);
    job.run().success();
    job
}

/// The mean gradient of update 1: what adamw keeps of it is a tenth of it.
fn gradient(job: &Job) -> Vec<f32> {
    let states = arrays(&job.checkpoint(1).join("optimizer.safetensors")).into_iter();
    let gradient: Vec<f32> =
        states.filter(|(name, _)| name.ends_with(".exp_avg")).flat_map(|(_, state)| state).collect();
    assert!(!gradient.is_empty(), "adamw keeps exp_avg");
    gradient
}

#[test]
fn a_batch_of_eight_is_eight_micro_batches_of_one() {
    let whole = portioned(8, 1);
    for (batch_size, accumulation) in [(1, 8), (2, 4)] {
        let parts = portioned(batch_size, accumulation);
        let difference = relative_difference(&gradient(&parts), &gradient(&whole));
        println!("{batch_size} × {accumulation}: gradient {difference:.1e}");
        assert!(difference < 1e-6, "{batch_size} × {accumulation}: gradients differ by {difference:e}");
        for key in ["loss", "grad_norm"] {
            let (parts, whole) = (parts.numbers(key), whole.numbers(key));
            assert_eq!((parts.len(), whole.len()), (4, 4));
            for (update, (a, b)) in parts.iter().zip(&whole).enumerate() {
                println!("{batch_size} × {accumulation}: {key} of update {}: {:.1e}", update + 1, (a - b).abs() / b);
                // Update 1 starts from equal weights; later ones from weights that rounding has moved.
                let tolerance = if update == 0 { 1e-6 } else { 1e-5 };
                assert!((a - b).abs() < tolerance * b, "{key} of update {}: {a} and {b}", update + 1);
            }
        }
        for key in ["lr", "epoch", "tokens", "supervised_tokens"] {
            assert_eq!(parts.numbers(key), whole.numbers(key), "{key}");
        }
    }
}

#[test]
fn a_partial_last_window_is_applied_with_its_own_token_count() {
    let windows = |rows, batch_size, accumulation| {
        let job = Job::new()
            .rows(rows)
            .set("trainer.batch_size", batch_size)
            .set("trainer.gradient_accumulation_steps", accumulation)
            // The weights stay, so that the last window can be looked at alone.
            .set("optimizer.learning_rate", 0);
        job.run().success();
        job
    };
    // Five batches by four are two updates; the last has one batch, and that one is not full.
    let job = windows(0..9, 2, 4);
    let last = windows(8..9, 2, 4);
    assert_eq!((job.updates().len(), last.updates().len()), (2, 1));
    for key in ["loss", "grad_norm", "tokens", "supervised_tokens"] {
        let (a, b) = (job.numbers(key)[1], last.numbers(key)[0]);
        assert!((a - b).abs() <= 1e-6 * b, "{key} of the last window is {a}, and {b} alone");
    }
    assert_eq!(job.numbers("epoch"), [8.0 / 9.0, 1.0]);
}

/// Tokens and supervised tokens of the fixture's rows.
fn lengths(rows: usize) -> Vec<(f64, f64)> {
    let text = std::fs::read_to_string(root().join("tests/fixtures/training/tokens.jsonl")).expect("the fixture");
    let count = |line: &str| {
        let row: Value = serde_json::from_str(line).expect("JSON");
        let supervised = row["supervised"].as_array().expect("a list").iter().filter_map(Value::as_u64).sum::<u64>();
        (row["input_ids"].as_array().expect("a list").len() as f64, supervised as f64)
    };
    text.lines().take(rows).map(count).collect()
}

#[test]
fn every_row_is_seen_once_per_epoch_in_an_order_of_the_epochs_own() {
    let job = Job::new()
        .rows(0..25)
        .set("trainer.batch_size", 1)
        .set("trainer.gradient_accumulation_steps", 1)
        .set("trainer.num_epochs", 3)
        .set("data.shuffle", true);
    job.run().success();
    let seen: Vec<_> = job.numbers("tokens").into_iter().zip(job.numbers("supervised_tokens")).collect();
    let epochs: Vec<&[(f64, f64)]> = seen.chunks(25).collect();
    assert_eq!(epochs.len(), 3);
    let sorted = |rows: &[(f64, f64)]| {
        let mut rows = rows.to_vec();
        rows.sort_by(|a, b| a.partial_cmp(b).expect("numbers"));
        rows
    };
    for epoch in &epochs {
        assert_eq!(sorted(epoch), sorted(&lengths(25)));
    }
    assert!(epochs[0] != epochs[1] && epochs[1] != epochs[2] && epochs[0] != lengths(25));
}

#[test]
fn no_tail_is_dropped_where_rows_do_not_fill_the_last_batch() {
    for shuffle in [false, true] {
        let job = Job::new()
            .rows(0..25)
            .set("trainer.batch_size", 3)
            .set("trainer.gradient_accumulation_steps", 2)
            .set("trainer.num_epochs", 2)
            .set("data.shuffle", shuffle);
        job.run().success();
        let total = |key: &str| job.numbers(key).iter().sum::<f64>();
        let (tokens, supervised): (Vec<f64>, Vec<f64>) = lengths(25).into_iter().unzip();
        assert_eq!(job.updates().len(), 10);
        assert_eq!(total("tokens"), 2.0 * tokens.iter().sum::<f64>());
        assert_eq!(total("supervised_tokens"), 2.0 * supervised.iter().sum::<f64>());
    }
}

#[test]
fn an_accumulation_far_beyond_the_rows_costs_nothing() {
    let job = |accumulation: u32| {
        let job = Job::new().rows(0..6).set("trainer.num_epochs", 2);
        job.set("trainer.gradient_accumulation_steps", accumulation)
    };
    let (all, enough) = (job(u32::MAX), job(2));
    all.run().success();
    enough.run().success();
    assert_eq!(all.unmeasured(), enough.unmeasured());
    assert!(all.final_weights() == enough.final_weights());
}
