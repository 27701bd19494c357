//! The memory of ranks that go on from a checkpoint.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use mdt_tests::{Job, free_port};

use super::start_rank;

/// The largest memory that each of two ranks has had in a run to its end, in bytes.
fn peaks(job: &Job) -> [u64; 2] {
    let port = free_port();
    let mut ranks = [0, 1].map(|rank| start_rank(job, rank, port));
    let mut peaks = [0; 2];
    while ranks.iter_mut().any(|rank| rank.runs()) {
        for (rank, peak) in ranks.iter().zip(&mut peaks) {
            let status = fs::read_to_string(format!("/proc/{}/status", rank.id())).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
            *peak = kib.map_or(*peak, |kib| kib << 10);
        }
        sleep(Duration::from_millis(2));
    }
    ranks.into_iter().for_each(|rank| drop(rank.end().success()));
    peaks
}

/// A run that only resumes and writes the final model: an update needs more memory, which would hide this.
fn peaks_of_a_resume(width: u64) -> [u64; 2] {
    let job = super::wide(super::job(1).set("trainer.max_steps", 1), width);
    peaks(&job);
    fs::remove_dir_all(job.output().join("final")).expect("the final model");
    peaks(&job)
}

#[test]
fn ranks_that_resume_hold_weights_and_optimizer_states_once() {
    let (narrow, wide) = (96, 30_000);
    let weights = 2 * 3 * 48 * size_of::<f32>() as u64 * (wide - narrow);
    let [small, large] = [narrow, wide].map(peaks_of_a_resume);
    // AdamW keeps two states for each weight. The first rank's files, which it maps, count as its memory too.
    for (rank, limit) in [5.4, 4.2].into_iter().enumerate() {
        let held = (large[rank] - small[rank]) as f64 / weights as f64;
        // Somewhat less than three, as the small run has memory to spare.
        assert!((2.9..limit).contains(&held), "rank {rank} held {held:.2} times the weights, not below {limit}");
    }
}
