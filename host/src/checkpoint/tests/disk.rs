//! A disk that takes no more: the error says so, nothing of the failed save stays, and the checkpoint before does.

use super::*;
use std::process::Command;

/// Where the child process writes, and what its error is to say.
const CHILD: &str = "MDT_TEST_CHECKPOINT_DISK";

/// Runs this test again under a shell command that limits the disk. None where the machine does not allow the limit.
fn limited(test: &str, limit: &str, expected: &str) {
    let root = tempfile::tempdir().unwrap();
    let script = format!("{limit} || exit 77; exec \"$0\" --exact checkpoint::tests::disk::{test} --nocapture");
    let mut shell = if limit.contains("mount") { Command::new("unshare") } else { Command::new("sh") };
    if limit.contains("mount") {
        shell.args(["-rm", "sh"]);
    }
    let output = shell
        .args(["-c", &script])
        .arg(std::env::current_exe().unwrap())
        .env("ROOT", root.path())
        .env(CHILD, format!("{}|{expected}", root.path().display()))
        .output();
    let output = match output {
        Ok(output) => output,
        Err(error) => return eprintln!("skipped: this machine has no such limit: {error}"),
    };
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if stdout.contains("checked in the child") {
        assert!(output.status.success(), "{stdout}{stderr}");
    } else if stdout.contains("running 1 test") {
        panic!("{stdout}{stderr}");
    } else {
        eprintln!("skipped: this machine does not allow the limit: {stderr}");
    }
}

/// In the child: the first save fits, the second does not.
fn child() -> bool {
    let Ok(told) = std::env::var(CHILD) else { return false };
    let (root, expected) = told.split_once('|').unwrap();
    let store = Store::new(Path::new(root), 0).unwrap();
    save(&store, 1).unwrap();
    let large = vec![0.5f32; 100_000];
    let array = Array { name: "w", shape: &[100_000], data: &large };
    for _ in 0..2 {
        let failure = store.begin_save(&state(2), &[array], &[array.into()], None).map(drop).unwrap_err();
        assert_eq!(failure.status(), Status::Storage);
        let text = failure.to_string();
        for part in [expected, "step-000002/model.safetensors", "the newest checkpoint is step-000001"] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert_eq!(names(&Path::new(root).join("checkpoints")), ["step-000001"]);
        assert_whole(&store.latest().unwrap().checkpoint.unwrap());
    }
    println!("checked in the child");
    true
}

#[test]
fn a_full_disk_is_reported_and_loses_nothing() {
    if !child() {
        let limit = "mount -t tmpfs -o size=300k tmpfs \"$ROOT\"";
        limited("a_full_disk_is_reported_and_loses_nothing", limit, "the disk is full: free space");
    }
}

#[test]
fn a_limit_on_file_sizes_is_reported_and_loses_nothing() {
    if !child() {
        // In blocks of 512 bytes; without the signal the write fails, which is what is tested.
        let limit = "trap '' XFSZ && ulimit -f 400";
        limited("a_limit_on_file_sizes_is_reported_and_loses_nothing", limit, "ulimit -f");
    }
}

#[test]
fn an_output_directory_that_is_a_file_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("out");
    fs::write(&path, "").unwrap();
    let failure = Store::new(&path, 3).unwrap_err();
    assert_eq!(failure.status(), Status::Storage);
    assert!(failure.to_string().contains("a file where a directory is needed"), "{failure}");
}
