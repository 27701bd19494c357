//! Ranks whose machines and builds differ: what decides results must be the same, and what cannot promise equal bits is said once.

use std::fs;
use std::path::{Path, PathBuf};

use mdt_tests::{Job, Process, Run, assert_says, built, free_port, library_name};

use super::{job, rank_command};

fn few_updates() -> Job {
    job(1).set("trainer.max_steps", 4)
}

/// Runs two ranks of a job, the second one with further arguments and variables.
fn run_with(second: &[&str], variables: &[(&str, &str)], both: &[&str]) -> (Job, [Run; 2]) {
    let (first_job, second_job, port) = (few_updates(), few_updates(), free_port());
    let [mut first, mut other] = [rank_command(&first_job, 0, port), rank_command(&second_job, 1, port)];
    first.args(both);
    other.args(both).args(second).envs(variables.iter().copied());
    let ranks = [first, other].map(|mut command| Process::start(&mut command));
    (first_job, ranks.map(Process::end))
}

/// The trained model of a job of one process that makes the updates of both ranks.
fn alone() -> Vec<u8> {
    let job = super::job(2).set("trainer.max_steps", 4);
    job.run().success();
    job.final_weights()
}

/// A copy of the library of the optimizers in a directory of its own, changed.
fn optimizers(directory: &Path, change: impl FnOnce(&mut Vec<u8>)) -> PathBuf {
    let name = library_name("mdt_optim");
    let mut bytes = fs::read(built().join(&name)).expect("the library");
    change(&mut bytes);
    let plugins = directory.join("plugins");
    fs::create_dir_all(&plugins).expect("a directory");
    fs::write(plugins.join(name), bytes).expect("a copy");
    plugins
}

/// Renames the sources in the records of a library.
fn of_other_sources(bytes: &mut [u8]) {
    const FIELD: &[u8] = b"\"sources\":\"";
    let field = bytes.windows(FIELD.len()).position(|bytes| bytes == FIELD).expect("named sources");
    let place = field + FIELD.len();
    bytes[place] = if bytes[place] == b'0' { b'1' } else { b'0' };
}

#[test]
fn ranks_with_other_numbers_of_threads_train_to_the_same_bits() {
    let (job, runs) = run_with(&["--set", "compute.threads=3"], &[], &[]);
    for run in runs {
        assert!(!run.success().stderr.contains("note:"), "nothing differs");
    }
    assert!(job.final_weights() == alone());
}

#[test]
fn files_that_differ_are_the_same_plugin_where_they_are_built_from_the_same_sources() {
    let place = tempfile::tempdir().expect("a directory");
    let plugins = optimizers(place.path(), |bytes| bytes.extend(b"the end of another build"));
    let (job, [first, second]) = run_with(&["--plugin-dir", &plugins.display().to_string()], &[], &[]);
    let note = "note: ranks have different files of optimizer/adamw (built from the same sources)";
    assert_eq!(first.success().stderr.matches(note).count(), 1);
    assert!(!second.success().stderr.contains("note: ranks"), "one rank says it");
    assert!(job.final_weights() == alone());
}

#[test]
fn other_sources_are_refused_unless_the_configuration_says_that_builds_are_equivalent() {
    let place = tempfile::tempdir().expect("a directory");
    let plugins = optimizers(place.path(), |bytes| of_other_sources(bytes)).display().to_string();
    let (_, runs) = run_with(&["--plugin-dir", &plugins], &[], &[]);
    for run in runs {
        let error = run.failure(3);
        assert_says(&error, &["rank 1 differs from rank 0 in `optimizer/adamw`", "sha256", "`plugins.equivalent`"]);
    }
    let declared = ["--set", "plugins.equivalent=[\"optimizer/adamw\"]"];
    let (job, [first, second]) = run_with(&["--plugin-dir", &plugins], &[], &declared);
    assert_says(&first.success().stderr, &["optimizer/adamw (equivalent, as `plugins.equivalent` says)"]);
    second.success();
    assert!(job.final_weights() == alone());
}

#[test]
#[cfg(target_arch = "x86_64")]
fn ranks_that_compute_with_other_instructions_are_named_once_and_train_together() {
    let (_, [first, second]) = run_with(&[], &[("MLX_PLUGIN_ISA", "baseline")], &["--set", "checkpoint.save_steps=2"]);
    let first = first.success();
    let warning =
        "warning: ranks do not compute with the same, so the results are not bit for bit those of equal machines";
    assert_eq!(first.stderr.matches(warning).count(), 1, "{}", first.stderr);
    assert_says(
        &first.stderr,
        &["rank 0 with linux on x86_64", "rank 1 with linux on x86_64 without fused multiply-add"],
    );
    assert!(!second.success().stderr.contains("warning:"), "one rank says it");
}

#[test]
#[cfg(target_arch = "x86_64")]
fn wider_vectors_change_no_bit() {
    // The second rank has vectors of AVX2, which is no news where the first one has no wider ones.
    let (job, [first, second]) = run_with(&[], &[("MLX_PLUGIN_ISA", "avx2")], &[]);
    let first = first.success();
    second.success();
    assert!(!first.stderr.contains("warning: ranks"), "{}", first.stderr);
    assert!(job.final_weights() == alone());
}

#[test]
fn a_checkpoint_of_another_build_of_a_plugin_is_resumed_from_with_a_warning() {
    let job = job(1).set("trainer.max_steps", 4).set("checkpoint.save_steps", 2).set("checkpoint.keep", 0);
    job.run().success();
    let weights = job.final_weights();
    let rewind = || {
        fs::remove_dir_all(job.checkpoint(4)).expect("a checkpoint");
        fs::remove_dir_all(job.output().join("final")).expect("a final model");
    };
    rewind();
    let same = optimizers(job.directory(), |bytes| bytes.extend(b"the end of another build")).display().to_string();
    let run = job.run_with(&["--plugin-dir", &same]).success();
    assert!(!run.stderr.contains("other builds"), "{}", run.stderr);
    assert!(job.final_weights() == weights);
    rewind();
    let other = optimizers(job.directory(), |bytes| of_other_sources(bytes)).display().to_string();
    let run = job.run_with(&["--plugin-dir", &other]).success();
    assert_says(&run.stderr, &["the checkpoint was written with other builds of optimizer/adamw"]);
}
