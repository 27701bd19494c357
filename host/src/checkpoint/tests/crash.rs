//! A process that is killed at any moment of a save leaves a whole checkpoint.

use super::*;
use crate::storage::crash_points;
use std::cell::RefCell;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::Duration;

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// Runs `work` and returns what the directory was after each of its file operations.
fn moments(root: &Path, work: impl FnOnce()) -> Vec<(&'static str, tempfile::TempDir)> {
    let taken = Rc::new(RefCell::new(Vec::new()));
    let (root, into) = (root.to_owned(), Rc::clone(&taken));
    crash_points::observe(
        move |step| {
            let moment = tempfile::tempdir().unwrap();
            copy_tree(&root, moment.path());
            into.borrow_mut().push((step, moment));
        },
        work,
    );
    taken.take()
}

#[test]
fn a_kill_after_any_step_of_a_save_leaves_a_whole_checkpoint_and_no_litter() {
    for keep in [1, 2] {
        let root = tempfile::tempdir().unwrap();
        let store = Store::new(root.path(), keep).unwrap();
        (1..=3).for_each(|update| drop(save(&store, update).unwrap()));
        // The second time replaces the checkpoint of the same update.
        for update in [4, 4] {
            let moments = moments(root.path(), || drop(save(&store, update).unwrap()));
            // Temporary directory, four files, all on the disk, rename, and either the replacement or the deletion of the oldest.
            assert_eq!(moments.len(), 9);
            for (step, moment) in moments {
                let store = Store::new(moment.path(), keep).unwrap();
                let latest = store.latest().unwrap();
                assert!(latest.warnings.is_empty(), "{step}: {:?}", latest.warnings);
                let checkpoint = latest.checkpoint.unwrap_or_else(|| panic!("nothing is left after {step}"));
                assert!(checkpoint.state.update >= 3, "{step}");
                assert_whole(&checkpoint);
                let names = names(&moment.path().join("checkpoints"));
                assert!(names.iter().all(|name| name.starts_with("step-")), "{step}: {names:?}");
                save(&store, 5).unwrap();
            }
        }
    }
}

#[test]
fn a_kill_after_any_step_of_a_save_leaves_the_best_checkpoint_that_is_told() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::new(root.path(), 1).unwrap();
    save_beside(&store, 1, Some(1)).unwrap();
    save_beside(&store, 2, Some(1)).unwrap();
    // The best stays, then another one takes its place and it is deleted.
    for (update, best) in [(3, 1), (4, 4)] {
        for (step, moment) in moments(root.path(), || drop(save_beside(&store, update, Some(best)).unwrap())) {
            let store = Store::new(moment.path(), 1).unwrap();
            let text = fs::read_to_string(moment.path().join("checkpoints/best.json")).unwrap();
            let told: serde_json::Value = serde_json::from_str(&text).unwrap();
            let told = told["step"].as_u64().unwrap();
            assert!([1, best].contains(&told), "{step}: {told}");
            assert_whole(&Checkpoint::open(&store.path(told)).unwrap());
            save_beside(&store, update, Some(best)).unwrap();
        }
    }
}

#[test]
fn a_kill_while_an_earlier_run_is_set_aside_leaves_its_results_together() {
    let root = finished(7);
    let store = Store::new(root.path(), 1).unwrap();
    let moments = moments(root.path(), || drop(store.set_aside_earlier().unwrap()));
    assert_eq!(moments.len(), 5);
    for (_, moment) in moments {
        let store = Store::new(moment.path(), 1).unwrap();
        assert!(store.latest().unwrap().checkpoint.is_none());
        assert_results(&moment.path().join("earlier-1"), 7);
        assert_eq!(store.set_aside_earlier().unwrap(), None);
    }
}

#[test]
fn a_kill_before_best_json_is_renamed_is_repaired_at_the_next_start() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::new(root.path(), 0).unwrap();
    save_beside(&store, 1, Some(1)).unwrap();
    save_beside(&store, 2, None).unwrap();
    assert!(!root.path().join("checkpoints/best.json").exists());
    for best in [1, 2, 2] {
        store.finish_save(2, Some(Evaluated { update: best, eval_loss: 0.5 })).unwrap();
        let text = fs::read_to_string(root.path().join("checkpoints/best.json")).unwrap();
        assert!(text.contains(&format!("step-{best:06}")), "{text}");
    }
}

#[test]
fn leftovers_of_a_killed_run_are_removed_and_strangers_files_are_not() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("checkpoints");
    let strangers = [".notes.tmp", "step-best", "step-7", ".step-000001.bak"];
    for name in strangers.iter().chain(&[".step-000009.tmp", ".step-000008.gone"]) {
        fs::create_dir_all(directory.join(name).join("inside")).unwrap();
    }
    let store = Store::new(root.path(), 1).unwrap();
    save(&store, 1).unwrap();
    save(&store, 2).unwrap();
    let mut expected = strangers.map(str::to_owned).to_vec();
    expected.push("step-000002".to_owned());
    expected.sort();
    assert_eq!(names(&directory), expected);
}

/// Set in the process that saves until it is killed.
const VICTIM: &str = "MDT_TEST_CHECKPOINT_VICTIM";

#[test]
fn kill_9_during_saves_leaves_the_newest_finished_checkpoint() {
    if let Ok(root) = std::env::var(VICTIM) {
        let store = Store::new(Path::new(&root), 1).unwrap();
        let done = store.latest().unwrap().checkpoint.map_or(0, |checkpoint| checkpoint.state.update);
        for update in done + 1.. {
            save(&store, update).unwrap();
            // Renamed, so that a kill leaves no empty file.
            let (written, acknowledged) = (Path::new(&root).join("written"), Path::new(&root).join("acknowledged"));
            fs::write(&written, update.to_string()).unwrap();
            fs::rename(written, acknowledged).unwrap();
        }
    }
    let root = tempfile::tempdir().unwrap();
    let acknowledged = || -> u64 {
        let text = fs::read_to_string(root.path().join("acknowledged"));
        text.map_or(0, |text| text.parse().unwrap())
    };
    for round in 0..12u64 {
        let before = acknowledged();
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "checkpoint::tests::crash::kill_9_during_saves_leaves_the_newest_finished_checkpoint"])
            .env(VICTIM, root.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        while acknowledged() == before && victim.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        // Not in step with the saves, which take some milliseconds.
        std::thread::sleep(Duration::from_micros(3_137 * round));
        victim.kill().unwrap();
        victim.wait().unwrap();
        let acknowledged = acknowledged();
        assert!(acknowledged > before, "the process saved nothing");
        let latest = Store::new(root.path(), 1).unwrap().latest().unwrap();
        assert!(latest.warnings.is_empty(), "{:?}", latest.warnings);
        let found = latest.checkpoint.inspect(assert_whole).map_or(0, |checkpoint| checkpoint.state.update);
        assert!(found >= acknowledged, "{found} is there, {acknowledged} was saved");
    }
}
