//! Output directories that cannot be written: status 7, and what is there already stays whole and can be resumed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use mdt_tests::{Job, Run, assert_says, built, root, tree};

#[test]
fn an_output_directory_that_cannot_be_one_is_refused_before_training() {
    let job = Job::new();
    let file = job.file("file", "something of the user's").display().to_string();
    for place in [file.clone(), format!("{file}/out")] {
        let failure = job.run_with(&["--set", &format!("output_dir={place}")]).failure(7);
        assert_says(&failure, &["the output directory cannot be used", &place, "a file where a directory is needed"]);
    }
    assert_eq!(fs::read_to_string(file).expect("the file"), "something of the user's");
}

/// Runs a script in which `$DISK` is a small file system of its own, `$HOST` the program, and `run NAME ARGUMENTS…`
/// keeps what a run came to in files of that name. None where this machine lets nobody mount anything.
fn on_a_small_disk(job: &Job, size: &str, script: &str) -> Option<PathBuf> {
    let kept = job.directory().join("kept");
    let disk = job.directory().join("disk");
    fs::create_dir_all(&kept).and_then(|()| fs::create_dir_all(&disk)).expect("directories");
    let script = format!(
        "mount -t tmpfs -o size={size} tmpfs \"$DISK\" || exit\n: >\"$KEPT/mounted\"\n\
         run() {{ \"$HOST\" \"$@\" >\"$KEPT/$NAME.out\" 2>\"$KEPT/$NAME.err\"; echo $? >\"$KEPT/$NAME.status\"; }}\n\
         {script}"
    );
    let status = Command::new("unshare")
        .args(["--map-root-user", "--mount", "sh", "-c", &script, "sh"])
        .args(job.arguments())
        .arg("--set")
        .arg(format!("output_dir={}/out", disk.display()))
        .envs([("DISK", &disk), ("KEPT", &kept), ("HOST", &built().join("mdt-host"))])
        .current_dir(root())
        .stderr(std::process::Stdio::null())
        .status();
    if !kept.join("mounted").exists() {
        eprintln!("skipped: this machine lets nobody mount a file system ({status:?})");
        return None;
    }
    assert!(status.as_ref().is_ok_and(ExitStatus::success), "the script ended with {status:?}");
    Some(kept)
}

/// What `run` kept under a name.
fn kept(directory: &Path, name: &str) -> Run {
    let read = |extension: &str| fs::read_to_string(directory.join(format!("{name}.{extension}"))).expect("kept");
    Run { status: read("status").trim().parse().ok(), stdout: read("out"), stderr: read("err") }
}

#[test]
fn a_full_disk_loses_the_checkpoint_being_written_and_none_before_it() {
    let job = Job::new().set("trainer.max_steps", 3).set("checkpoint.save_steps", 1).set("checkpoint.keep", 0);
    // A checkpoint of the fixture has 0.55 MB: the second one does not fit.
    let script = "NAME=full run \"$@\"; cp -r \"$DISK/out\" \"$KEPT/full\"
                  mount -o remount,size=8m \"$DISK\"
                  NAME=space run \"$@\"; cp -r \"$DISK/out\" \"$KEPT/space\"";
    let Some(directory) = on_a_small_disk(&job, "900k", script) else { return };
    let failure = kept(&directory, "full").failure(7);
    assert_says(&failure, &["the checkpoint of update 2 cannot be written", "No space left on device"]);
    assert_says(&failure, &["the newest checkpoint is step-000001", "free space"]);
    let full = tree(&directory.join("full"));
    assert!(full.keys().all(|file| !file.to_string_lossy().contains("step-000002")), "{:?}", full.keys());

    // With space again, the same command ends where a run on an ordinary disk ends.
    let run = kept(&directory, "space").success();
    assert_says(&run.stderr, &["resuming from", "step-000001"]);
    job.run().success();
    assert!(fs::read(directory.join("space/final/model.safetensors")).expect("weights") == job.final_weights());
}

#[test]
fn a_disk_that_has_no_room_for_the_final_model_keeps_the_last_checkpoint() {
    let job = Job::new().set("trainer.max_steps", 2);
    let script = "NAME=full run \"$@\"; cp -r \"$DISK/out\" \"$KEPT/full\"
                  mount -o remount,size=8m \"$DISK\"
                  NAME=space run \"$@\"; cp -r \"$DISK/out\" \"$KEPT/space\"";
    let Some(directory) = on_a_small_disk(&job, "620k", script) else { return };
    let failure = kept(&directory, "full").failure(7);
    assert_says(&failure, &["No space left on device", "final"]);
    assert!(!directory.join("full/final").exists(), "half a model is no model");
    assert_says(&kept(&directory, "space").success().stderr, &["all 2 updates are done already"]);
    job.run().success();
    assert!(fs::read(directory.join("space/final/model.safetensors")).expect("weights") == job.final_weights());
}

#[test]
fn a_disk_that_cannot_be_written_is_refused_before_training() {
    let job = Job::new().set("trainer.max_steps", 2);
    let script = "mount -o remount,ro \"$DISK\"; NAME=locked run \"$@\"";
    let Some(directory) = on_a_small_disk(&job, "8m", script) else { return };
    let failure = kept(&directory, "locked").failure(7);
    assert_says(&failure, &["the output directory cannot be used", "Read-only file system"]);
}
