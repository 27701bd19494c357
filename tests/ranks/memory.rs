//! The memory of ranks that go on from a checkpoint.

use std::fs;

use mdt_tests::{Job, copy_files, free_port, root};
use serde_json::Value;

use super::start_rank;

/// The largest memory that each of two ranks has had in a run to its end, in kB.
fn peaks(job: &Job) -> [u64; 2] {
    let port = free_port();
    let mut ranks = [0, 1].map(|rank| start_rank(job, rank, port));
    let mut peaks = [0; 2];
    loop {
        for (rank, peak) in ranks.iter().zip(&mut peaks) {
            let status = fs::read_to_string(format!("/proc/{}/status", rank.id())).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            *peak = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok()).unwrap_or(*peak);
        }
        if ranks.iter_mut().all(|rank| !rank.runs()) {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    ranks.into_iter().for_each(|rank| drop(rank.end().success()));
    peaks
}

#[test]
fn ranks_that_resume_hold_little_more_than_ranks_that_begin() {
    let fixture = root().join("tests/fixtures/training/model");
    let job = super::job(1).set("trainer.max_steps", 2).set("checkpoint.save_steps", 1);
    copy_files(&fixture, &job.directory().join("model"));
    let config = fs::read_to_string(fixture.join("config.json")).expect("the fixture");
    let mut config: Value = serde_json::from_str(&config).expect("JSON");
    // 67 MB of weights, 133 MB of optimizer states.
    config["intermediate_size"] = 58_000.into();
    let config = job.file("model/config.json", config.to_string());
    let model = config.parent().expect("a directory").display().to_string();
    let job = job.set("model.path", model).set("model.init", "random");

    let begun = peaks(&job);
    fs::remove_dir_all(job.checkpoint(2)).expect("the last checkpoint");
    fs::remove_dir_all(job.output().join("final")).expect("the final model");
    let resumed = peaks(&job);
    for (resumed, begun) in resumed.into_iter().zip(begun) {
        assert!(begun > 200_000, "weights, gradients and states have {begun} kB");
        assert!(4 * resumed < 5 * begun, "{resumed} kB after a resume, {begun} kB without");
    }
}
