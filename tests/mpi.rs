//! Ranks that `mpirun` starts train over MPI, to the bits of one process.
//!
//! Needs an MPI library with `mpicc` and `mpirun`, and libclang; `.ci/run` installs Open MPI. Without `mpicc` these tests pass
//! without a check, unless `CI` is set.

use std::process::Command;
use std::time::{Duration, Instant};

use mdt_tests::{Job, Process, assert_says, command, example_plugin};

/// A directory with the plugin alone, or nothing on a machine without MPI.
fn plugin_directory(job: &Job) -> Option<String> {
    if Command::new("mpicc").arg("--version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "mpicc is missing");
        eprintln!("not checked: there is no mpicc");
        return None;
    }
    let library = example_plugin("../plugins/mpi");
    let directory = job.directory().join("plugins");
    std::fs::create_dir_all(&directory).expect("a directory");
    std::fs::copy(&library, directory.join(library.file_name().expect("a name"))).expect("the plugin");
    Some(directory.display().to_string())
}

/// 30 updates, each of two micro-batches of two rows: over one rank or split over two.
fn job(micro_batches: u32) -> Job {
    let job = Job::new().rows(0..30).set("trainer.batch_size", 2).set("data.shuffle", true);
    job.set("trainer.gradient_accumulation_steps", micro_batches).set("trainer.max_steps", 30).set("compute.threads", 1)
}

/// The command that starts two ranks.
fn mpirun(job: &Job, plugins: &str) -> Command {
    let program = command();
    let mut mpirun = Command::new("mpirun");
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => mpirun.env(name, value),
            None => mpirun.env_remove(name),
        };
    }
    mpirun.current_dir(mdt_tests::root());
    mpirun.args(["-n", "2", "--oversubscribe", "--allow-run-as-root"]);
    mpirun.arg(program.get_program()).args(job.arguments());
    mpirun.args(["--plugin-dir", plugins, "--set", "comm.use=mpi"]);
    mpirun
}

#[test]
fn two_ranks_over_mpi_end_with_the_bits_of_one_process_with_two_micro_batches() {
    let (one, two) = (job(2), job(1));
    let Some(plugins) = plugin_directory(&two) else { return };
    one.run().success();
    Process::start(&mut mpirun(&two, &plugins)).end().success();
    assert_eq!(one.unmeasured(), two.unmeasured());
    assert!(one.final_weights() == two.final_weights(), "the final model");
}

#[test]
fn a_killed_rank_ends_the_job_and_the_same_command_goes_on_from_its_checkpoint() {
    let straight = job(2);
    let job = job(1).set("checkpoint.save_steps", 5);
    let Some(plugins) = plugin_directory(&job) else { return };
    straight.run().success();
    let mut ranks = Process::start(&mut mpirun(&job, &plugins));
    ranks.wait_until(|| job.lines_so_far() >= 12);
    let found = Command::new("ps").args(["-A", "-o", "pid=,ppid="]).output().expect("the command ps");
    let (found, parent) = (String::from_utf8_lossy(&found.stdout).into_owned(), ranks.id().to_string());
    let child = |line: &str| {
        let (id, of) = line.trim().split_once(' ')?;
        (of.trim() == parent).then(|| id.to_owned())
    };
    // mpirun starts them in order of ranks.
    let victim = found.lines().filter_map(child).next_back().expect("the ranks run");
    Command::new("kill").args(["-s", "KILL", &victim]).status().expect("the command kill");
    let killed = Instant::now();
    let ended = ranks.end();
    assert!(killed.elapsed() < Duration::from_secs(20), "it took {:?}", killed.elapsed());
    assert_ne!(ended.status, Some(0), "{}", ended.stderr);
    assert_says(&ended.stderr, &["signal 9"]);
    let resumed = Process::start(&mut mpirun(&job, &plugins)).end().success();
    assert_says(&resumed.stderr, &["resuming from"]);
    assert_eq!(straight.unmeasured(), job.unmeasured());
    assert!(straight.final_weights() == job.final_weights(), "the final model");
}
