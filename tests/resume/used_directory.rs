//! An output directory that another run has used, or that somebody changes while a run uses it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use mdt_tests::assert_says;

use super::{job, names};

/// The results of a run that anybody could look for.
fn results(directory: &Path) -> Vec<Vec<u8>> {
    let files = ["final/model.safetensors", "metrics.jsonl", "loss.svg", "checkpoints/step-000004/model.safetensors"];
    files.map(|file| fs::read(directory.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))).into()
}

#[test]
fn a_run_that_resumes_from_nothing_leaves_no_result_of_an_earlier_one_in_its_place() {
    let job = job(4);
    job.run().success();
    let before = results(&job.output());
    // It fails after its second update.
    let failing = ["--set", "optimizer=panics_at_three", "--set", "checkpoint.save_steps=0"];
    let run = job.run_with(&[&failing[..], &["--set", "checkpoint.resume=never"]].concat());
    assert_says(&run.stderr, &["the results of an earlier run were moved to", "earlier-1"]);
    run.failure(3);
    assert!(results(&job.output().join("earlier-1")) == before);
    for name in ["final", "loss.svg"] {
        assert!(!job.output().join(name).exists(), "{name} is of the earlier run");
    }
    assert_eq!(job.updates().len(), 2);
}

#[test]
fn a_job_that_is_refused_moves_no_earlier_results() {
    let job = job(4);
    job.run().success();
    let before = results(&job.output());
    job.run_with(&["--set", "checkpoint.resume=never", "--set", "data.train=missing.jsonl"]).failure(4);
    assert!(results(&job.output()) == before);
}

#[test]
fn a_checkpoint_of_another_run_cuts_no_metrics_of_the_run_in_the_directory() {
    let (other, used) = (job(6), job(4));
    other.run().success();
    used.run().success();
    let before = results(&used.output());
    let rows = format!("data.train={}", other.directory().join("train.jsonl").display());
    let resume = format!("checkpoint.resume={}", other.checkpoint(3).display());
    let run = used.run_with(&["--set", "trainer.max_steps=6", "--set", &rows, "--set", &resume]).success();
    assert_says(&run.stderr, &["resuming from", "the results of an earlier run were moved to"]);
    assert!(results(&used.output().join("earlier-1")) == before);
    assert_eq!(used.unmeasured(), other.unmeasured()[3..]);
    assert!(used.final_weights() == other.final_weights());
}

#[test]
fn a_final_model_whose_checkpoints_were_deleted_is_not_taken_for_a_new_one() {
    let job = job(4);
    job.run().success();
    let before = job.final_weights();
    fs::remove_dir_all(job.output().join("checkpoints")).expect("checkpoints");
    job.run_with(&["--set", "optimizer=panics_at_three"]).failure(3);
    assert!(!job.output().join("final").exists());
    assert!(fs::read(job.output().join("earlier-1/final/model.safetensors")).expect("the earlier model") == before);
}

#[test]
fn a_second_run_is_refused_even_where_the_checkpoints_were_deleted() {
    let job = job(1000).set("checkpoint.save_steps", 50);
    let mut process = job.start();
    // Between two saves.
    process.wait_until(|| job.lines_so_far() >= 55);
    fs::remove_dir_all(job.output().join("checkpoints")).expect("checkpoints");
    assert_says(&job.run().failure(7), &["another run is writing to this output directory"]);
    let lines = job.lines_so_far();
    assert!(process.wait_until(|| job.lines_so_far() > lines + 1), "{}", process.stderr());
    process.signal("INT");
    process.end().failure(130);
    assert!(job.checkpoint(job.lines_so_far() as u64).join("manifest.json").exists());
}

#[test]
fn links_in_the_place_of_files_are_refused_and_what_they_point_to_stays() {
    for name in [".lock", "metrics.jsonl"] {
        let job = job(2);
        let target = job.file("precious", "mine");
        fs::create_dir_all(job.output()).expect("the output directory");
        symlink(&target, job.output().join(name)).expect("a link");
        let error = job.run().failure(7);
        assert_says(&error, &[name, "symbolic link", "remove it"]);
        assert_eq!(fs::read_to_string(target).expect("the target"), "mine");
    }
}

#[test]
fn a_file_with_a_second_name_is_refused_and_its_content_stays() {
    for name in [".lock", "metrics.jsonl"] {
        let job = job(2);
        let target = job.file("precious", "mine");
        fs::create_dir_all(job.output()).expect("the output directory");
        fs::hard_link(&target, job.output().join(name)).expect("a second name");
        let error = job.run().failure(7);
        assert_says(&error, &[name, "a second name (a hard link)", "remove it"]);
        assert_eq!(fs::read_to_string(target).expect("the target"), "mine");
    }
    let job = job(2);
    let target = job.file("precious", "mine");
    fs::create_dir_all(job.output()).expect("the output directory");
    fs::hard_link(&target, job.output().join("loss.svg")).expect("a second name");
    assert_says(&job.run().success().stderr, &["warning: loss.svg was not drawn"]);
    assert_eq!(fs::read_to_string(target).expect("the target"), "mine");
}

#[test]
fn a_checkpoint_that_a_kill_kept_from_being_deleted_is_deleted_at_the_next_start() {
    // A kill between the last checkpoint's rename and the deletion of the oldest leaves one too many.
    let job = job(4).set("checkpoint.keep", 0);
    job.run().success();
    fs::remove_dir_all(job.checkpoint(1)).expect("a checkpoint");
    job.run_with(&["--set", "checkpoint.keep=2"]).success();
    assert_eq!(names(&job.output().join("checkpoints")), ["step-000003", "step-000004"]);
}

#[test]
fn metrics_that_somebody_cuts_during_the_run_do_not_fail_it() {
    let job = job(300).set("checkpoint.save_steps", 0);
    let mut process = job.start();
    process.wait_until(|| job.lines_so_far() >= 3);
    // In the middle of a line.
    let file = fs::OpenOptions::new().write(true).open(job.output().join("metrics.jsonl")).expect("metrics");
    file.set_len(20).expect("a shorter file");
    let run = process.end().success();
    assert_says(&run.stderr, &["metrics.jsonl was changed during the run", "wrote"]);
    let steps: Vec<u64> = job.updates().iter().map(|line| line["step"].as_u64().expect("a step")).collect();
    assert!(steps.len() > 1 && steps.windows(2).all(|pair| pair[0] < pair[1]), "{steps:?}");
    assert_eq!(steps.last(), Some(&300));
    assert!(job.output().join("loss.svg").exists());
}

#[test]
fn metrics_that_somebody_deletes_during_the_run_go_on_in_a_new_file() {
    let job = job(300).set("checkpoint.save_steps", 0);
    let mut process = job.start();
    process.wait_until(|| job.lines_so_far() >= 3);
    fs::remove_file(job.output().join("metrics.jsonl")).expect("metrics");
    let run = process.end().success();
    assert_says(&run.stderr, &["metrics.jsonl was changed during the run"]);
    assert_eq!(job.updates().last().expect("a line")["step"], 300);
}

#[test]
fn a_picture_that_cannot_be_drawn_does_not_fail_a_run_whose_model_is_written() {
    let job = job(2);
    fs::create_dir_all(job.output().join("loss.svg")).expect("a directory in the place of the picture");
    let run = job.run().success();
    assert_says(&run.stderr, &["warning: loss.svg was not drawn", "wrote"]);
    assert!(!job.final_weights().is_empty());
}

#[test]
fn best_json_that_a_kill_left_stale_is_repaired_at_the_next_start() {
    let job = job(4).set("checkpoint.keep_best", true).set("trainer.eval_steps", 1);
    let rows = job.directory().join("train.jsonl").display().to_string();
    let job = job.set("data.eval", rows);
    job.run().success();
    let path = job.output().join("checkpoints/best.json");
    let right = fs::read_to_string(&path).expect("best.json");
    // What a kill between the rename of the last checkpoint and that of best.json leaves, with an earlier best or none.
    let stale = right.replace("step-000004", "step-000001");
    assert_ne!(stale, right, "the last evaluation must be the best for this test");
    fs::write(&path, stale).expect("a stale file");
    job.run().success();
    assert_eq!(fs::read_to_string(&path).expect("best.json"), right);
    fs::remove_file(&path).expect("best.json");
    job.run().success();
    assert_eq!(fs::read_to_string(&path).expect("best.json"), right);
    assert_eq!(names(&job.output().join("checkpoints")).len(), 5);
}
