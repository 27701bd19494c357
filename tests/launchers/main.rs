//! Programs that start ranks: those of others, recognised by their environment, and `launch` on several machines.

mod clusters;
mod environment;
mod mpirun;
mod slurm;
mod ssh;
mod sshd;

use std::process::Command;

use mdt_tests::Job;

/// A job of a few updates over grpc, of which each rank makes one micro-batch of each.
fn job(micro_batches: u32) -> Job {
    Job::new()
        .rows(0..30)
        .set("trainer.batch_size", 2)
        .set("trainer.gradient_accumulation_steps", micro_batches)
        .set("trainer.max_steps", 8)
        .set("data.shuffle", true)
        .set("compute.threads", 1)
}

/// Whether a program is installed. Where it is not, says that the test was left out.
fn installed(name: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&paths).any(|directory| directory.join(name).is_file());
    if !found && !std::path::Path::new("/usr/sbin").join(name).is_file() {
        eprintln!("SKIPPED: {name} is not installed; .ci/run installs it");
        return false;
    }
    true
}

/// This program under another one that starts it, such as `mpirun -n 2`.
fn under(launcher: &[&str], job: &Job) -> Command {
    let mut command = with_environment(Command::new(launcher[0]));
    command.args(&launcher[1..]).arg(mdt_tests::command().get_program());
    command.args(job.arguments()).args(["--set", "comm.use=grpc"]);
    command
}

/// The same command with directory and environment of the program's own.
fn with_environment(mut command: Command) -> Command {
    command.current_dir(mdt_tests::root());
    for (name, value) in mdt_tests::command().get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}
