//! Two ranks are one process with twice the micro-batches, bit for bit.

use std::fs;

use mdt_tests::{Job, Process};

use super::{job, launch, lines_of, run};

/// Everything of a checkpoint that is a number.
pub(super) fn arrays(job: &Job, update: u64) -> (Vec<u8>, Vec<u8>) {
    let read = |name: &str| fs::read(job.checkpoint(update).join(name)).expect(name);
    (read("model.safetensors"), read("optimizer.safetensors"))
}

/// The numbers of all updates and evaluations, which no rank changes.
#[track_caller]
pub(super) fn assert_same_course(one: &Job, other: &Job) {
    let (one, other) = (one.unmeasured(), other.unmeasured());
    assert_eq!(one.len(), other.len());
    for (one, other) in one.iter().zip(&other) {
        assert_eq!(one, other);
    }
}

#[test]
fn two_ranks_end_after_50_updates_with_the_bits_of_one_process_with_two_micro_batches() {
    // 30 rows in updates of 4: the last update of each epoch leaves the second rank without rows.
    let (one, two) = (job(2), job(1));
    one.run().success();
    let ended = run(&two, 2).success();
    assert_same_course(&one, &two);
    assert_eq!(arrays(&one, 50), arrays(&two, 50), "weights and optimizer states");
    assert!(one.final_weights() == two.final_weights(), "the final model");
    // One rank speaks for both.
    assert!(lines_of(&ended, 1).is_empty(), "{}", ended.stderr);
    assert_eq!(two.updates().len(), 50);
}

#[test]
fn ranks_that_share_memory_end_with_the_bits_of_ranks_that_do_not() {
    let small = |shared_memory: &str| {
        let job = job(1).set("trainer.max_steps", 8).set("comm.shared_memory", shared_memory);
        let notes = run(&job, 3).success().stderr;
        assert!(notes.contains("through shared memory"), "{notes}");
        assert_eq!(notes.contains("over TCP"), shared_memory == "off" || !cfg!(target_os = "linux"), "{notes}");
        job
    };
    let (with, without) = (small("auto"), small("off"));
    assert_same_course(&with, &without);
    assert_eq!(arrays(&with, 8), arrays(&without, 8), "weights and optimizer states");
    assert!(with.final_weights() == without.final_weights(), "the final model");
}

#[test]
fn both_ranks_hold_the_same_bits() {
    let job = job(1).set("trainer.max_steps", 6).set("checkpoint.save_steps", 2);
    let run = mdt_tests::Process::start(launch(&job, 2).env("MDT_LOG", "debug")).end().success();
    let checksums = |rank| {
        let lines = lines_of(&run, rank)
            .into_iter()
            .filter(|line| line.starts_with("sha256 of the weights") && !line.contains("not trained"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let (first, second) = (checksums(0), checksums(1));
    assert_eq!(first.len(), 4, "at the beginning and at each save:\n{}", run.stderr);
    assert_eq!(first, second);
    assert_ne!(first[0].split(": ").last(), first[3].split(": ").last(), "training changes them");
}

#[test]
fn four_ranks_and_sgd_keep_the_bits_and_clip_the_sum_not_the_parts() {
    // A norm far below what the gradients have, so that every update is clipped.
    let sgd = |job: Job| {
        let job = job.set("optimizer", "sgd").set("optimizer.momentum", 0.9).set("trainer.max_steps", 10);
        job.set("trainer.max_grad_norm", 0.05).set("trainer.batch_size", 1)
    };
    let (one, four) = (sgd(job(4)), sgd(job(1)));
    one.run().success();
    run(&four, 4).success();
    assert!(one.numbers("grad_norm").iter().all(|&norm| norm > 0.05));
    assert_same_course(&one, &four);
    assert_eq!(arrays(&one, 10), arrays(&four, 10));
}

#[test]
fn three_ranks_with_one_and_with_two_micro_batches_have_the_bits_of_one_process() {
    for micro_batches in [1, 2] {
        let of = |micro_batches| job(micro_batches).set("trainer.batch_size", 1).set("trainer.max_steps", 12);
        let (one, three) = (of(3 * micro_batches), of(micro_batches));
        one.run().success();
        run(&three, 3).success();
        assert_same_course(&one, &three);
        assert_eq!(arrays(&one, 12), arrays(&three, 12), "weights and optimizer states");
    }
}

#[test]
fn ranks_with_three_micro_batches_each_follow_one_process_within_rounding() {
    // Blocks of three leaves are no subtrees of the pairwise tree: equal within rounding is the promise here.
    let (one, two) = (job(6).set("trainer.max_steps", 5), job(3).set("trainer.max_steps", 5));
    let [one, two] = [one, two].map(|job| job.set("trainer.batch_size", 1));
    one.run().success();
    run(&two, 2).success();
    for key in ["tokens", "supervised_tokens", "lr", "epoch"] {
        assert_eq!(one.numbers(key), two.numbers(key), "{key}");
    }
    for (a, b) in one.numbers("loss").iter().zip(two.numbers("loss")) {
        assert!((a - b).abs() < 1e-6 * a.abs(), "{a} {b}");
    }
}

#[test]
fn held_out_rows_are_shared_between_ranks_and_their_loss_has_the_bits_of_one_process() {
    let evaluated = |job: Job| {
        let held_out = mdt_tests::root().join("tests/fixtures/training/train.jsonl");
        job.set("data.eval", held_out.display()).set("trainer.eval_steps", 3).set("trainer.max_steps", 6)
    };
    let (one, two) = (evaluated(job(2)), evaluated(job(1)));
    one.run().success();
    run(&two, 2).success();
    let losses = |job: &Job| -> Vec<_> { job.metrics().iter().map(|line| line["eval_loss"].clone()).collect() };
    assert_eq!(losses(&one), losses(&two));
    assert_eq!(losses(&one).iter().filter(|loss| loss.is_f64()).count(), 2);
}

#[test]
fn ranks_with_5_and_1_supervised_tokens_are_weighted_by_their_tokens() {
    let rows = [r#"{"prompt": "Shout adc\n", "completion": "ADC!"}"#, r#"{"prompt": "Shout adc\n", "completion": ""}"#];
    let training_on = |rows: &[&str]| {
        let job = Job::new().set("trainer.batch_size", 1).set("trainer.gradient_accumulation_steps", 1);
        let file = job.file("rows.jsonl", rows.join("\n"));
        job.set("data.train", file.display()).set("data.shuffle", false).set("compute.threads", 1)
    };
    let loss = |job: &Job| job.numbers("loss")[0];
    let [long, short] = rows.map(|row| {
        let job = training_on(&[row]);
        job.run().success();
        job
    });
    assert_eq!([&long, &short].map(|job| job.numbers("supervised_tokens")[0]), [5.0, 1.0]);
    let (one, two) = (training_on(&rows).set("trainer.gradient_accumulation_steps", 2), training_on(&rows));
    one.run().success();
    run(&two, 2).success();
    assert_same_course(&one, &two);
    assert!(one.final_weights() == two.final_weights(), "the final model");
    let mean = (5.0 * loss(&long) + loss(&short)) / 6.0;
    assert!((loss(&two) - mean).abs() < 1e-6 * mean, "{} and {mean}", loss(&two));
    let mean_of_means = (loss(&long) + loss(&short)) / 2.0;
    assert!((loss(&two) - mean_of_means).abs() > 1e-2 * mean, "the test could not tell them apart");
}

#[test]
fn another_backend_trains_to_the_same_bits() {
    let [grpc, files] = [job(1), job(1)];
    run(&grpc, 2).success();
    let directory = files.directory().join("shared");
    let directory = format!("comm.directory={}", directory.display());
    let mut launched = launch(&files, 2);
    Process::start(launched.args(["--set", "comm.use=files", "--set", &directory])).end().success();
    assert_eq!(grpc.unmeasured(), files.unmeasured());
    assert!(grpc.final_weights() == files.final_weights(), "the final model");
}
