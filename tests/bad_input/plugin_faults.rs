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

#[test]
fn optimizer_states_that_cannot_be_saved_are_refused_at_the_start() {
    let states = |key: &str, value: &str| Job::new().set("optimizer", "states").set(key, value);
    let twice = states("optimizer.names", r#"["momentum", "variance", "momentum"]"#);
    assert_says(&twice.run().failure(3), &["the optimizer `states`", "two states", "`momentum`"]);
    let undefined = states("optimizer.undefined_initial", "true").set("optimizer.names", r#"["momentum"]"#);
    assert_says(&undefined.run().failure(3), &["the optimizer `states`", "`momentum`", "NaN"]);
    for job in [twice, undefined] {
        assert!(!job.output().exists(), "nothing is written before everything is checked");
    }
}

#[test]
fn parameters_that_cannot_be_kept_are_refused_at_the_start() {
    let declares = |names: &str, shape: &str| {
        let job = Job::new().set("model.use", "declares").set("model.init", "random");
        job.set("model.names", names).set("model.shape", shape)
    };
    let twice = declares(r#"["a.weight", "b.weight", "a.weight"]"#, "[2]");
    assert_says(&twice.run().failure(3), &["the model `declares`", "two parameters", "`a.weight`"]);
    let huge = declares(r#"["a.weight"]"#, "[4294967296, 4294967296]");
    assert_says(&huge.run().failure(3), &["the model `declares`", "`a.weight`", "[4294967296, 4294967296]"]);
    let sum = declares(r#"["a", "b", "c", "d", "e", "f", "g", "h", "i"]"#, "[536870912, 536870912]");
    assert_says(&sum.run().failure(3), &["the model `declares`", "more elements"]);
    for job in [twice, huge, sum] {
        assert!(!job.output().exists(), "nothing is written before everything is checked");
    }
}

#[test]
fn starting_values_that_are_no_numbers_are_refused_at_the_start() {
    for (std, shown) in [("nan", "NaN"), ("inf", "inf"), ("-0.5", "-0.5"), ("1e300", "1e300")] {
        let job = Job::new().set("model.use", "declares").set("model.init", "random");
        let job = job.set("model.names", r#"["a.weight"]"#).set("model.shape", "[2]");
        let failure = job.set("model.std", format!("'{std}'")).run().failure(3);
        assert_says(&failure, &["the model `declares`", "`a.weight`", "standard deviation", shown]);
    }
}

#[test]
fn an_index_that_a_plugin_got_wrong_has_the_status_of_plugins() {
    let job = Job::new().set("trainer", "bytes").set("trainer.place_beyond_the_end", "true");
    assert_says(&job.run().failure(3), &["out of range", "update 1, ", "train.jsonl"]);
    assert!(job.updates().is_empty() && !job.output().join("final").exists());
}

#[test]
fn hidden_states_of_another_shape_are_never_trained() {
    let job = Job::new().set("model.use", "declares").set("model.init", "random");
    let job = job.set("model.names", r#"["head.weight"]"#).set("model.shape", "[1024, 4]");
    assert_says(&job.run().failure(3), &["hidden states of shape [", "must give [B, T, D]", "model declares"]);
}

#[test]
fn an_error_of_an_operation_names_the_component_that_asked_for_it() {
    let job = Job::new().set("trainer", "bytes").set("trainer.product_of_unlike", "true");
    assert_says(&job.run().failure(3), &["operation matmul on float32 [", "compute mlx", "called by trainer bytes"]);
}

#[test]
fn a_loss_that_is_no_scalar_is_the_trainers_error() {
    let job = Job::new().set("trainer", "bytes").set("trainer.not_summed", "true");
    let failure = job.run().failure(3);
    assert_says(&failure, &["the sum of the loss has shape [", "must be a scalar", "trainer bytes", "update 1"]);
}

#[test]
fn an_optimizer_state_that_is_not_finite_is_never_saved() {
    let job = Job::new().set("optimizer", "states").set("optimizer.names", r#"["momentum"]"#);
    let job = job.set("optimizer.undefined_from", 2);
    let failure = job.run().failure(6);
    assert_says(
        &failure,
        &["the optimizer state `", ".momentum` is not finite after update", "optimizer states", "is not saved"],
    );
    assert!(!job.output().join("final").exists() && !job.checkpoint(3).exists());
}

#[test]
fn of_many_rows_that_panic_the_first_is_reported_whichever_thread_is_faster() {
    let job = Job::new().set("trainer", "panics_at_row_32").set("compute.threads", 4);
    let failure = job.run().failure(3);
    assert_says(&failure, &["row 32 is one too many", "trainer panics_at_row_32", "train.jsonl row 32\n"]);
}

#[test]
fn a_panic_in_a_destructor_is_a_warning_that_names_the_component_and_the_job_is_done() {
    let job = Job::new().set("optimizer", "panics_when_dropped").set("trainer.max_steps", 2);
    let run = job.run().success();
    assert_says(&run.stderr, &["warning: optimizer panics_when_dropped", "not without a fight", "in its destructor"]);
    assert!(job.output().join("final").exists());
}

#[test]
fn a_call_that_does_not_come_back_is_warned_of_and_ends_the_run_from_the_last_checkpoint() {
    let job = Job::new().set("plugins.timeout_s", 2).set("checkpoint.save_steps", 1);
    let job = job.set("optimizer", "ends_the_process").set("optimizer.by", "spin");
    let run = job.run();
    assert_says(&run.stderr, &["warning: optimizer ends_the_process 0.1.0: the call `", "`plugins.timeout_s`"]);
    assert_says(
        &run.failure(3),
        &["a call into a plugin has not come back for 2 seconds", "optimizer ends_the_process"],
    );
    // The same job goes on from there, to the same end.
    let again = job.run();
    assert_says(&again.stderr, &["resuming from", "step-000002"]);
    again.failure(3);
}

#[test]
fn a_preview_in_which_a_plugin_ends_the_process_gives_one_error_that_names_it() {
    for (by, said) in [("exit", "ended the process by calling exit"), ("abort", "SIGABRT"), ("fault", "SIGSEGV")] {
        let job = Job::new().set("data", "endless").set("data.limit", 10).set("data.misbehaves_at", 3);
        let failure = job.set("data.by", by).run_with(&["data", "preview"]).failure(3);
        assert_says(&failure, &[said, "data endless 0.1.0"]);
        assert_eq!(failure.matches("error: ").count(), 1, "{failure}");
    }
}
