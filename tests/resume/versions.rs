//! Checkpoints that another version of the program or its plugins, or another machine, has written.

use std::fs;

use mdt_tests::{Job, assert_says};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{assert_same_result, job, rewind};

/// Changes `state.json` of a checkpoint, as another version would have written it.
fn rewrite_state(job: &Job, update: u64, change: impl FnOnce(&mut Value)) {
    let directory = job.checkpoint(update);
    let read = |name: &str| -> Value {
        serde_json::from_slice(&fs::read(directory.join(name)).expect("a file of the checkpoint")).expect("JSON")
    };
    let mut state = read("state.json");
    change(&mut state);
    let text = serde_json::to_vec_pretty(&state).expect("JSON");
    let mut manifest = read("manifest.json");
    let sha256: String = Sha256::digest(&text).iter().map(|byte| format!("{byte:02x}")).collect();
    manifest["files"]["state.json"] = json!({ "bytes": text.len(), "sha256": sha256 });
    fs::write(directory.join("state.json"), text).expect("state.json");
    fs::write(directory.join("manifest.json"), manifest.to_string()).expect("manifest.json");
}

fn stopped() -> Job {
    let job = job(4);
    job.run().success();
    rewind(&job, 2, 4);
    job
}

fn remove(state: &mut Value, section: &str, key: &str) {
    state["config"][section].as_object_mut().expect("a section").remove(key).expect("the key");
    state["defaults"].as_array_mut().expect("keys").retain(|name| *name != format!("{section}.{key}"));
}

#[test]
fn a_key_that_the_version_before_did_not_have_is_no_change_while_it_has_its_default() {
    let straight = job(4);
    straight.run().success();
    // A key of a plugin, one of the host.
    for (section, key) in [("optimizer", "eps"), ("trainer", "num_epochs"), ("data", "format")] {
        let job = stopped();
        rewrite_state(&job, 2, |state| remove(state, section, key));
        let run = job.run().success();
        assert_says(&run.stderr, &["resuming from"]);
        assert_same_result(&straight, &job, 4);
    }
    let job = stopped();
    rewrite_state(&job, 2, |state| remove(state, "optimizer", "eps"));
    let error = job.run_with(&["--set", "optimizer.eps=1e-5"]).failure(2);
    assert_says(&error, &["`optimizer.eps` has changed", "optimizer.eps was unset and is "]);
}

#[test]
fn a_key_that_no_longer_exists_is_no_change_if_it_had_its_default() {
    let job = stopped();
    rewrite_state(&job, 2, |state| {
        state["config"]["optimizer"]["amsgrad"] = json!(false);
        state["defaults"].as_array_mut().expect("keys").push(json!("optimizer.amsgrad"));
    });
    job.run().success();
    let job = stopped();
    rewrite_state(&job, 2, |state| state["config"]["optimizer"]["amsgrad"] = json!(true));
    assert_says(&job.run().failure(2), &["`optimizer.amsgrad` has changed", "was true and is unset"]);
}

#[test]
fn a_checkpoint_of_another_processor_is_resumed_from_with_a_note_that_bits_may_differ() {
    let job = stopped();
    let note = "the bits of further updates may differ";
    let run = job.run().success();
    assert!(!run.stderr.contains(note), "{}", run.stderr);
    let job = stopped();
    rewrite_state(&job, 2, |state| {
        assert!(state["processor"].as_str().expect("a processor").contains("MLX"), "{}", state["processor"]);
        state["processor"] = json!("sparc with VIS, MLX 0.1");
    });
    let run = job.run().success();
    assert_says(&run.stderr, &[note, "computed with sparc with VIS, MLX 0.1, this run computes with"]);
}

#[test]
fn held_out_rows_may_be_added_when_a_job_resumes() {
    let straight = job(4);
    straight.run().success();
    let job = stopped();
    let eval = format!("data.eval={}", job.directory().join("train.jsonl").display());
    let run = job.run_with(&["--set", &eval]).success();
    assert_says(&run.stderr, &["resuming from", "held-out loss after update 4"]);
    assert!(straight.final_weights() == job.final_weights());
    // And taken away again.
    rewind(&job, 3, 4);
    job.run().success();
    assert!(straight.final_weights() == job.final_weights());
}
