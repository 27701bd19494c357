//! `mdt-host launch`: what it fills in, and what it refuses.

use mdt_tests::{assert_says, command};

use super::{error_of, job, last_error, run};

#[test]
fn a_job_that_names_no_backend_is_launched_over_grpc_and_says_so() {
    let job = job(1).set("trainer.max_steps", 2);
    let mut launched = command();
    // The fixture's own file names `local`.
    launched.args(["launch", "-n", "2"]).args(job.arguments()).args(["--set", "comm.use=grpc"]);
    let ended = mdt_tests::Process::start(&mut launched).end().success();
    assert_says(&ended.stderr, &["launch   2 ranks here over grpc at 127.0.0.1:", "1 thread each"]);
}

#[test]
fn a_backend_that_cannot_connect_so_many_ranks_is_refused_by_its_name() {
    let job = job(1);
    let mut launched = command();
    launched.args(["launch", "-n", "2"]).args(job.arguments());
    let ended = mdt_tests::Process::start(&mut launched).end();
    assert!(!ended.stderr.contains("[rank"), "{}", ended.stderr);
    assert_says(&ended.failure(2), &["`comm.world_size` is 2", "`local`", "1 at most", "comm.use=grpc"]);
}

#[test]
fn a_wrong_configuration_is_one_error_and_no_rank_is_started() {
    let ended = run(&job(1).set("optimizer.learning_rat", 1), 2);
    assert!(!ended.stderr.contains("[rank"), "{}", ended.stderr);
    assert_says(&ended.failure(2), &["optimizer.learning_rat", "did you mean"]);
}

#[test]
fn what_is_wrong_with_the_data_is_the_status_of_the_whole_job() {
    let job = job(1);
    let broken = job.file("broken.jsonl", "{\"prompt\": \"a\", \"completion\": \"b\"}\n{nonsense}\n");
    let ended = run(&job.set("data.train", broken.display()), 2);
    assert_eq!(ended.status, Some(4), "{}", ended.stderr);
    assert_says(&error_of(&ended, 0), &["broken.jsonl", "2"]);
    assert_says(&last_error(&ended), &["ended with status 4"]);
}

#[test]
fn the_world_size_of_a_cluster_file_is_the_number_of_ranks() {
    let job = job(1).set("trainer.max_steps", 2).set("comm.world_size", 2).set("comm.use", "grpc");
    let mut launched = command();
    launched.arg("launch").args(job.arguments());
    let ended = mdt_tests::Process::start(&mut launched).end().success();
    assert_says(&ended.stderr, &["launch   2 ranks"]);
}

#[test]
fn sums_over_ranks_are_measured_by_the_backend_that_is_configured() {
    let job = job(1);
    let measure = |collective: &str, backend: &str| {
        let mut command = command();
        command
            .args(["bench", collective, "-n", "2", "--bytes", "4096", "--bytes", "400000", "--times", "5", "--json"]);
        command.args(["--set", &format!("comm.use={backend}")]);
        if backend == "files" {
            command.args(["--set", &format!("comm.directory={}", job.directory().display())]);
        }
        mdt_tests::Process::start(&mut command).end()
    };
    for (collective, backend) in
        [("all-reduce", "grpc"), ("reduce-scatter", "grpc"), ("all-gather", "grpc"), ("all-reduce", "files")]
    {
        let measured = measure(collective, backend).success();
        let figures: serde_json::Value = serde_json::from_str(&measured.stdout).expect("JSON on standard output");
        assert_eq!(figures["collective"], collective.replace('-', "_"));
        assert_eq!((&figures["backend"], &figures["ranks"]), (&backend.into(), &2.into()));
        assert_eq!(figures["sizes"][1]["bytes"], 400_000);
        assert!(figures["sizes"][1]["s_median"].as_f64() > Some(0.0));
    }
    let refused = measure("reduce-scatter", "files");
    assert_eq!(refused.status, Some(3), "{}", refused.stderr);
    assert_says(&error_of(&refused, 0), &["`files`", "comm.reduce_scatter/1", "comm.use=grpc"]);
}

#[test]
fn keys_of_the_backend_that_launch_chooses_need_no_name_of_it() {
    let mut bench = command();
    bench.args([
        "bench",
        "all-reduce",
        "-n",
        "2",
        "--bytes",
        "4096",
        "--times",
        "5",
        "--set",
        "comm.shared_memory=off",
    ]);
    assert_says(&mdt_tests::Process::start(&mut bench).end().success().stdout, &["between 2 ranks over grpc"]);
}
