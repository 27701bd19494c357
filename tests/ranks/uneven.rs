//! Ranks that have less to do than others, or other things to tell.

use mdt_tests::{Job, Process, assert_says};

use super::{error_of, job, launch, lines_of, run};

/// The most memory that rank 1 had over this many updates of which it has no row.
fn peak_without_rows(updates: u32) -> u64 {
    let job = job(1).rows(0..1).set("trainer.max_steps", updates).set("trainer.eval_steps", 0);
    let ended = Process::start(launch(&job, 2).env("MDT_LOG", "debug")).end().success();
    let peak = lines_of(&ended, 1).into_iter().find_map(|line| line.strip_prefix("peak memory: ")?.split_once(' '));
    peak.and_then(|(bytes, _)| bytes.parse().ok()).unwrap_or_else(|| panic!("no peak of rank 1:\n{}", ended.stderr))
}

#[test]
fn a_rank_without_rows_needs_no_more_memory_after_hundreds_of_updates() {
    let (few, many) = (peak_without_rows(20), peak_without_rows(600));
    // A gradient is 0.2 MB: keeping one of each update would be 120 MB.
    assert!(many < few + (40 << 20), "{few} bytes after 20 updates, {many} after 600");
}

/// The job with the trainer `bytes`, on rows of 9 and 4 supervised tokens: one for each of two ranks.
fn bytes(accumulation: u32) -> Job {
    let job = job(accumulation).set("trainer", "bytes").set("trainer.batch_size", 1).set("trainer.max_steps", 3);
    let rows = ["abcdefghi", "abcd"].map(|word| format!("{{\"prompt\": \"{word}\", \"completion\": \"{word}\"}}\n"));
    let rows = job.file("rows.jsonl", rows.concat());
    job.set("data.train", rows.display()).set("data.shuffle", false)
}

#[test]
fn metrics_of_every_rank_are_in_the_file_under_their_own_names() {
    let with_metrics = |job: Job| job.set("trainer.metrics", true).set("trainer.reports", true);
    let (one, two) = (with_metrics(bytes(2)), with_metrics(bytes(1)));
    one.run().success();
    run(&two, 2).success();
    for line in two.updates() {
        // Tokens for each micro-batch: 9 on one rank, 4 on the other.
        assert_eq!((&line["all"], &line["odd"], &line["even"]), (&6.5.into(), &9.0.into(), &4.0.into()), "{line}");
    }
    // What ranks report while they make batches comes some updates early.
    let reported = |name: &str| two.updates().iter().find_map(|line| line.get(name).cloned());
    assert_eq!((reported("odd_tokens"), reported("even_tokens")), (Some(9.0.into()), Some(4.0.into())));
    let summed = |job: &Job| -> Vec<_> {
        let lines = job.updates().into_iter();
        lines.map(|line| ["loss", "all", "odd", "even"].map(|key| line[key].clone())).collect()
    };
    assert_eq!(summed(&one), summed(&two));
}

#[test]
fn all_ranks_stop_before_an_update_whose_weight_is_wrong_on_one_of_them() {
    let job = bytes(1).set("trainer.odd_weight", "-9.0");
    let ended = run(&job, 2);
    for rank in 0..2 {
        assert_says(&error_of(&ended, rank), &["the trainer `bytes`", "weight -9", "rank 0, ", "rows.jsonl row 1"]);
    }
    assert_eq!(ended.status, Some(3), "{}", ended.stderr);
    assert!(job.updates().is_empty());
}

#[test]
fn gradients_that_overflow_only_in_the_sum_over_ranks_stop_them_all() {
    // An update of one process has half of the rows, as each rank has; the largest number that does not overflow.
    let overflowing = |rows: usize| {
        let job = bytes(rows as u32 / 2).set("trainer.scale", "2e36").set("trainer.max_steps", 1);
        let row = "{\"prompt\": \"ab\", \"completion\": \"ab\"}\n";
        let rows = job.file("same.jsonl", row.repeat(rows));
        job.set("data.train", rows.display())
    };
    let fits = (1..).map(|power| 1 << power).take_while(|&rows| overflowing(rows).run().status == Some(0)).last();
    let job = overflowing(fits.expect("one row for each rank fits"));
    let ended = run(&job, 2);
    for rank in 0..2 {
        assert_says(&error_of(&ended, rank), &["the gradients of update 1", "sum", "rank 0, ", "rank 1, "]);
    }
    assert_eq!(ended.status, Some(6), "{}", ended.stderr);
}
