//! The promises of checkpoints.

mod crash;
mod damage;
mod disk;

use super::arrays::Tensors;
use super::*;
use crate::exit::Status;
use crate::storage::{Array, TypedArray};
use crate::training_format::RowForm;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

fn state(update: u64) -> State {
    State {
        update,
        config: json!({ "optimizer": { "learning_rate": 1e-4, "beta2": 0.999 }, "seed": 7 }),
        defaults: vec!["seed".to_owned()],
        data: "fingerprint".to_owned(),
        revisions: Vec::new(),
        components: vec!["optimizer adamw 0.1.0".to_owned()],
        builds: BTreeMap::from([("optimizer/adamw".to_owned(), "0123".to_owned())]),
        processor: "x86_64 with AVX2 and FMA, MLX".to_owned(),
        frozen: String::new(),
        by_the_tree: true,
        model: "/models/small".to_owned(),
        adapter: json!(null),
        history: vec![Changed { after: 1, keys: BTreeMap::from([("seed".to_owned(), [json!(null), json!(7)])]) }],
        rows: vec![RowForm::Prompts],
        templates: BTreeMap::from([("chat_template".to_owned(), "{{ messages }}".to_owned())]),
        metrics_bytes: 100 * update,
        progress: json!({ "tokens": 12 }),
    }
}

/// Values that a bit lost anywhere would change, different for each update.
fn values(update: u64, length: usize) -> Vec<f32> {
    (0..length).map(|i| f32::from_bits((i as u32).wrapping_mul(2_654_435_761) ^ update as u32)).collect()
}

const LENGTH: usize = 6000;

fn save(store: &Store, update: u64) -> Result<std::path::PathBuf, crate::exit::Failure> {
    save_beside(store, update, None)
}

/// The same, while the checkpoint of update `best` is the best.
fn save_beside(store: &Store, update: u64, best: Option<u64>) -> Result<std::path::PathBuf, crate::exit::Failure> {
    let (w, m, v) = (values(update, LENGTH), values(update + 1000, LENGTH), values(update + 2000, LENGTH));
    let shape: &[usize] = &[LENGTH / 2, 2];
    let saving = store.begin_save(
        &state(update),
        &[Array { name: "w", shape, data: &w }, Array { name: "scale", shape: &[], data: &w[..1] }],
        &[Array { name: "w.m", shape, data: &m }, Array { name: "w.v", shape, data: &v }].map(TypedArray::from),
        best.map(|update| Evaluated { update, eval_loss: 0.5 }),
    )?;
    saving.finish()?;
    Ok(store.path(update))
}

/// Checks that a checkpoint holds the bits that [`save`] gave it.
fn assert_whole(checkpoint: &Checkpoint) {
    let update = checkpoint.state.update;
    assert_eq!(checkpoint.state, state(update));
    let shape: &[usize] = &[LENGTH / 2, 2];
    let read = |tensors: &Tensors, expected: &[(&str, &[usize])], first: u64| {
        let arrays = tensors.arrays(expected).unwrap();
        for (place, array) in arrays.iter().filter(|array| array.shape == shape).enumerate() {
            let mut found = vec![0.0; LENGTH];
            copy_elements(*array, &mut found);
            let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&found), bits(&values(first + 1000 * place as u64, LENGTH)));
        }
    };
    read(&checkpoint.parameters().unwrap(), &[("w", shape), ("scale", &[])], update);
    read(&checkpoint.optimizer().unwrap(), &[("w.m", shape), ("w.v", shape)], update + 1000);
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn what_is_saved_comes_back_bit_for_bit() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::new(root.path(), 3).unwrap();
    let path = save(&store, 12).unwrap();
    assert_eq!(path, root.path().join("checkpoints/step-000012"));
    assert_eq!(names(&path), ["manifest.json", "model.safetensors", "optimizer.safetensors", "state.json"]);
    assert_whole(&Checkpoint::open(&path).unwrap());
    assert_whole(&store.latest().unwrap().checkpoint.unwrap());
}

#[test]
fn a_new_run_has_no_checkpoint_and_no_warning() {
    let root = tempfile::tempdir().unwrap();
    let latest = Store::new(root.path(), 3).unwrap().latest().unwrap();
    assert!(latest.checkpoint.is_none() && latest.warnings.is_empty());
}

#[test]
fn the_newest_k_are_kept_and_zero_keeps_all() {
    for (keep, expected) in [(0, vec![1, 2, 3, 4, 5]), (1, vec![5]), (3, vec![3, 4, 5])] {
        let root = tempfile::tempdir().unwrap();
        let store = Store::new(root.path(), keep).unwrap();
        (1..=5).for_each(|update| drop(save(&store, update).unwrap()));
        let expected: Vec<_> = expected.iter().map(|update| format!("step-{update:06}")).collect();
        assert_eq!(names(&root.path().join("checkpoints")), expected);
    }
}

#[test]
fn the_best_is_kept_beside_the_newest_k_until_another_is_better() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::new(root.path(), 2).unwrap();
    let best = [1, 2, 2, 2, 2, 6, 6];
    for (update, best) in (1..).zip(best) {
        save_beside(&store, update, Some(best)).unwrap();
        let text = fs::read_to_string(root.path().join("checkpoints/best.json")).unwrap();
        let told: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(told["step"], best);
        assert_eq!(told["eval_loss"], 0.5);
        let named = root.path().join("checkpoints").join(told["checkpoint"].as_str().unwrap());
        assert_whole(&Checkpoint::open(&named).unwrap());
        if update == 5 {
            let expected = ["best.json", "step-000002", "step-000004", "step-000005"];
            assert_eq!(names(&root.path().join("checkpoints")), expected);
        }
    }
    assert_eq!(names(&root.path().join("checkpoints")), ["best.json", "step-000006", "step-000007"]);
}

#[test]
fn a_run_that_went_back_keeps_what_it_saves_and_what_was_saved_later() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::new(root.path(), 1).unwrap();
    save(&store, 20).unwrap();
    for update in [10, 15] {
        assert_whole(&Checkpoint::open(&save(&store, update).unwrap()).unwrap());
    }
    assert_eq!(names(&root.path().join("checkpoints")), ["step-000015", "step-000020"]);
}

#[test]
fn updates_beyond_six_digits_are_newer_than_those_before() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::new(root.path(), 2).unwrap();
    [999_999, 1_000_000, 1_000_001].into_iter().for_each(|update| drop(save(&store, update).unwrap()));
    assert_eq!(names(&root.path().join("checkpoints")), ["step-1000000", "step-1000001"]);
    assert_eq!(store.latest().unwrap().checkpoint.unwrap().state.update, 1_000_001);
}

#[test]
fn two_runs_never_write_to_one_output_directory() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::new(root.path(), 3).unwrap();
    let refused = || {
        let failure = Store::new(root.path(), 3).unwrap_err();
        assert_eq!(failure.status(), Status::Storage);
        assert!(failure.to_string().contains("another run"), "{failure}");
    };
    refused();
    // Deleting the checkpoints does not delete the lock.
    fs::remove_dir_all(root.path().join("checkpoints")).unwrap();
    refused();
    save(&store, 1).unwrap();
    drop(store);
    Store::new(root.path(), 3).unwrap();
}

#[test]
fn a_lock_that_is_a_link_is_refused_and_what_it_points_to_stays() {
    let root = tempfile::tempdir().unwrap();
    let target = root.path().join("precious");
    fs::write(&target, "mine").unwrap();
    std::os::unix::fs::symlink(&target, root.path().join(".lock")).unwrap();
    let failure = Store::new(root.path(), 3).unwrap_err();
    assert!(failure.to_string().contains("symbolic link"), "{failure}");
    assert_eq!(fs::read_to_string(target).unwrap(), "mine");
}

/// An output directory of a finished run.
fn finished(number: u64) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    save_beside(&Store::new(root.path(), 3).unwrap(), number, Some(number)).unwrap();
    write_results(root.path());
    root
}

fn write_results(output_dir: &Path) {
    fs::create_dir(output_dir.join("final")).unwrap();
    for file in ["final/config.json", "metrics.jsonl", "loss.svg"] {
        fs::write(output_dir.join(file), file).unwrap();
    }
}

/// Checks that these are all results of a run.
fn assert_results(directory: &Path, number: u64) {
    assert_whole(&Checkpoint::open(&directory.join(format!("checkpoints/step-{number:06}"))).unwrap());
    assert!(directory.join("checkpoints/best.json").exists());
    for file in ["final/config.json", "metrics.jsonl", "loss.svg"] {
        assert_eq!(fs::read_to_string(directory.join(file)).unwrap(), file);
    }
}

#[test]
fn an_earlier_run_is_set_aside_with_all_its_results_and_not_deleted() {
    let root = finished(1);
    let store = Store::new(root.path(), 3).unwrap();
    for number in 1..=2 {
        let aside = store.set_aside_earlier().unwrap().unwrap();
        assert_eq!(aside, root.path().join(format!("earlier-{number}")));
        assert_results(&aside, number);
        assert!(store.latest().unwrap().checkpoint.is_none());
        for name in ["final", "metrics.jsonl", "loss.svg", "checkpoints/best.json"] {
            assert!(!root.path().join(name).exists(), "{name}");
        }
        assert_eq!(store.set_aside_earlier().unwrap(), None);
        save_beside(&store, number + 1, Some(number + 1)).unwrap();
        write_results(root.path());
    }
}

#[test]
fn a_final_model_without_checkpoints_is_set_aside_too() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::new(root.path(), 3).unwrap();
    write_results(root.path());
    let aside = store.set_aside_earlier().unwrap().unwrap();
    assert!(aside.join("final/config.json").exists() && aside.join("metrics.jsonl").exists());
    save(&store, 1).unwrap();
}

#[test]
fn arrays_that_do_not_fit_the_model_are_named() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::new(root.path(), 3).unwrap();
    let checkpoint = Checkpoint::open(&save(&store, 1).unwrap()).unwrap();
    let parameters = checkpoint.parameters().unwrap();
    let failure = parameters.arrays(&[("w", &[2, 2]), ("lm_head.weight", &[1])]).unwrap_err();
    assert_eq!(failure.status(), Status::Storage);
    let text = failure.to_string();
    for part in [
        "step-000001/model.safetensors",
        "`w` has shape [3000, 2], expected [2, 2]",
        "`lm_head.weight` is missing",
        "`scale` is not expected",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
}
