//! Plugins that panic: the error names the component and what it said, and what was written before stays.

use mdt_tests::{Job, assert_says, library_name, tree};

#[test]
fn a_panic_while_a_plugin_is_loaded_names_its_file() {
    let job = Job::new().set("optimizer", "never");
    let failure = job.run().failure(3);
    assert_says(&failure, &["the plugin cannot be used", &library_name("mdt_test_entry_panics"), "no entry"]);
    assert!(!job.output().exists(), "nothing is written before everything is checked");
}

#[test]
fn a_panic_while_a_component_is_made_names_the_component() {
    let job = Job::new().set("optimizer", "panics_when_made");
    let failure = job.run().failure(3);
    assert_says(&failure, &["the plugin panicked: born to fail", "optimizer panics_when_made"]);
    assert!(!job.output().exists(), "nothing is written before everything is checked");
}

#[test]
fn a_panic_at_update_three_leaves_the_checkpoint_of_update_two_whole() {
    let job = Job::new().set("optimizer", "panics_at_three").set("checkpoint.save_steps", 1);
    let failure = job.run().failure(3);
    assert_says(&failure, &["three is too much for me", "optimizer panics_at_three", "update 3"]);
    assert_eq!(job.updates().len(), 2, "no line for an update that was not made");
    assert!(!job.output().join("final").exists() && !job.checkpoint(3).exists());
    let before = tree(&job.checkpoint(2));

    // The same job resumes from it, which reads every byte of it against its checksums, and comes to the same end.
    let again = job.run();
    assert_says(&again.stderr, &["resuming from", "step-000002"]);
    assert_says(&again.failure(3), &["three is too much for me"]);
    assert_eq!(tree(&job.checkpoint(2)), before);
    assert_eq!(job.updates().len(), 2);

    // Another optimizer would continue another job.
    let failure = job.run_with(&["--set", "optimizer=adamw"]).failure(2);
    assert_says(&failure, &["optimizer.use was \"panics_at_three\" and is \"adamw\"", "step-000002"]);
    assert_eq!(tree(&job.checkpoint(2)), before);
}
