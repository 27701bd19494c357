//! `data.train = "hf://org/name"`: data sets of the Hugging Face Hub, played by a server on this machine.

use std::fs;

use mdt_tests::{Hub, Job, Process, Run, assert_says, command, root, run_where};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const LATER: &str = "89abcdef0123456789abcdef0123456789abcdef";
const TRAIN: &str = "data/train-00000-of-00001.parquet";

fn fixture(name: &str) -> Vec<u8> {
    fs::read(root().join("tests/fixtures/tables").join(name)).expect("a fixture")
}

/// Rows to train and to evaluate, and the same rows in another form.
fn files() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("README.md", b"# Rows\n".to_vec()),
        (TRAIN, fixture("pairs.snappy.parquet")),
        ("data/test-00000-of-00001.parquet", fixture("pairs.gzip.parquet")),
        ("data/validation-00000-of-00001.parquet", fixture("pairs.gzip.parquet")),
        ("raw/pairs.jsonl", fixture("pairs.jsonl")),
    ]
}

fn job(train: &str) -> Job {
    Job::new().set("data.train", train).set("trainer.max_steps", 4).set("data.shuffle", true)
}

/// Runs a job, whose cache of the hub is beside its output.
fn run(job: &Job, hub: &Hub, more: &[(&str, &str)]) -> Run {
    let home = job.directory().join("hf").display().to_string();
    run_where(&[&[("HF_ENDPOINT", hub.address.as_str()), ("HF_HOME", &home)], more].concat(), job.arguments())
}

#[test]
fn a_data_set_of_the_hub_trains_as_its_files_do_and_is_downloaded_once() {
    let hub = Hub::start(COMMIT, &files());
    let from_hub = job("hf://org/rows").set("trainer.eval_steps", 2);
    let told = run(&from_hub, &hub, &[]).success().stderr;
    assert_says(&told, &[&format!("from hf://org/rows@{COMMIT}"), "24 rows", "held out 24 rows"]);
    let here = |name: &str| root().join("tests/fixtures/tables").join(name).display().to_string();
    let from_files =
        job(&here("pairs.snappy.parquet")).set("data.eval", here("pairs.gzip.parquet")).set("trainer.eval_steps", 2);
    from_files.run().success();
    assert_eq!(from_hub.unmeasured(), from_files.unmeasured());
    assert!(from_hub.final_weights() == from_files.final_weights());
    assert_eq!((hub.downloads(TRAIN), hub.downloads("test-00000-of-00001.parquet")), (1, 0));

    // Once it is here, the hub is not asked.
    fs::remove_dir_all(from_hub.output()).expect("the output");
    run(&from_hub, &hub, &[("HF_HUB_OFFLINE", "1")]).success();
    assert_eq!(hub.downloads(TRAIN), 1);
    let failure = run(&job("hf://org/rows"), &hub, &[("HF_HUB_OFFLINE", "1")]).failure(4);
    assert_says(&failure, &["the cache does not have all files", "HF_HUB_OFFLINE"]);
}

#[test]
fn a_path_names_files_and_two_ranks_download_them_once() {
    let hub = Hub::start(COMMIT, &files());
    let job = job("hf://datasets/org/rows@main/raw/*.jsonl").set("comm.use", "grpc");
    let home = job.directory().join("hf");
    let mut launch = command();
    launch.args(["launch", "-n", "2"]).args(job.arguments()).env("HF_ENDPOINT", &hub.address).env("HF_HOME", home);
    let told = Process::start(&mut launch).end().success().stderr;
    assert!(!told.contains("held out"), "{told}");
    assert_eq!((hub.downloads("raw/pairs.jsonl"), hub.downloads(TRAIN)), (1, 0));
}

#[test]
fn a_data_set_whose_files_are_several_or_none_is_told_what_it_has() {
    let several = [
        ("data/train_sft-00000-of-00001.parquet", fixture("pairs.snappy.parquet")),
        ("data/train_gen-00000-of-00001.parquet", fixture("pairs.snappy.parquet")),
    ];
    let hub = Hub::start(COMMIT, &several);
    let failure = run(&job("hf://org/rows"), &hub, &[]).failure(4);
    assert_says(&failure, &["hf://org/rows", "`train_sft` (data/train_sft-00000-of-00001.parquet)", "`train_gen`"]);
    run(&job("hf://org/rows/data/train_sft-*"), &hub, &[]).success();
    let failure = run(&job("hf://org/rows/data/valid*"), &hub, &[]).failure(4);
    assert_says(&failure, &["no files of rows of that name", "it has data/train_sft-00000-of-00001.parquet"]);
    let failure = run(&job("hf://org/rows/data/train_sft-*").set("data.eval", "hf://org/rows"), &hub, &[]).failure(4);
    assert_says(&failure, &["hf://org/rows", "no files of rows of that name"]);
    assert_says(&run(&job("hf://org/other"), &hub, &[]).failure(4), &["org/other", "no such repository"]);
    assert_says(&run(&job("hf://rows"), &hub, &[]).failure(2), &["no name on the Hugging Face Hub"]);
}

#[test]
fn a_data_set_that_has_changed_is_told_with_the_revision_that_the_job_began_with() {
    let hub = Hub::start(COMMIT, &files());
    let job = job("hf://org/rows").set("checkpoint.save_steps", 2);
    run(&job, &hub, &[]).success();
    fs::remove_dir_all(job.directory().join("hf")).expect("the cache of the hub");
    let changed = Hub::start(LATER, &[("train.jsonl", fixture("pairs.jsonl").repeat(2))]);
    let longer = job.set("trainer.max_steps", 6);
    let failure = run(&longer, &changed, &[]).failure(2);
    assert_says(&failure, &["the training data has changed", &format!("hf://org/rows@{COMMIT}")]);
}
