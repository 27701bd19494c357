//! The job token: needed by more than one rank, made by `launch`, and never shown.

use std::fs;

use mdt_tests::{Process, assert_says, command, run_where, tree};

use super::faults::process_of;
use super::{job, launch};

const TOKEN: &str = "5be0cd191f83d9ab9b05688c2b3e6c1f";

#[test]
fn a_rank_without_a_token_is_told_how_to_make_one() {
    let (job, mut rank) = (job(1), command());
    rank.args(job.arguments()).args(["--set", "comm.use=grpc", "--set", "comm.world_size=2"]);
    let failure = Process::start(&mut rank).end().failure(2);
    assert_says(&failure, &["need a job token", "export MDT_JOB_TOKEN=$(openssl rand -hex 32)", "comm.token_file"]);
}

#[test]
fn the_token_is_no_configuration_value_and_is_not_shown() {
    let job = job(1);
    for command in [&["config", "show"][..], &["config", "check"], &["run"]] {
        let arguments = command.iter().map(|word| (*word).to_owned()).chain(job.arguments().iter().cloned());
        let run = run_where(&[("MDT_JOB_TOKEN", TOKEN), ("MDT_LOG", "debug")], arguments).success();
        assert!(!format!("{}{}", run.stdout, run.stderr).contains(TOKEN), "{command:?}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn launch_makes_a_token_for_its_ranks_that_no_argument_output_or_file_shows() {
    let job = job(1).set("trainer.max_steps", 400).set("checkpoint.save_steps", 5);
    let mut launcher = Process::start(launch(&job, 2).env("MDT_LOG", "debug").env("MDT_JOB_TOKEN", TOKEN));
    launcher.wait_until(|| job.lines_so_far() >= 6);
    let ranks = [process_of(&launcher, 0), process_of(&launcher, 1)];
    let read = |process: u32, name: &str| fs::read(format!("/proc/{process}/{name}")).expect("the process runs");
    let tokens = ranks.map(|rank| {
        let variables = String::from_utf8(read(rank, "environ")).expect("text");
        variables.split('\0').find_map(|line| line.strip_prefix("MDT_JOB_TOKEN=")).expect("a token").to_owned()
    });
    assert_eq!(tokens[0], tokens[1]);
    assert!(tokens[0].len() == 64 && tokens[0] != TOKEN, "a token of its own, of 256 bits");
    let shows = |bytes: &[u8]| bytes.windows(64).any(|part| part == tokens[0].as_bytes());
    for process in ranks.into_iter().chain([launcher.id()]) {
        assert!(!shows(&read(process, "cmdline")), "arguments");
    }
    launcher.signal("INT");
    let ended = launcher.end();
    assert_eq!(ended.status, Some(130), "{}", ended.stderr);
    assert!(!shows(ended.stderr.as_bytes()) && !shows(ended.stdout.as_bytes()), "output");
    let files = tree(&job.output());
    assert!(files.len() > 3);
    for (path, bytes) in &files {
        assert!(!shows(bytes), "{}", path.display());
    }
}
