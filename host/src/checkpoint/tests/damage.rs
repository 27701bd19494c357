//! What is not whole is never resumed from, and the message says which file and why.

use super::*;
use proptest::prelude::*;

const FILES: [&str; 4] = ["manifest.json", "model.safetensors", "optimizer.safetensors", "state.json"];

/// Two checkpoints, of updates 1 and 2.
fn two() -> (tempfile::TempDir, Store) {
    let root = tempfile::tempdir().unwrap();
    let store = Store::new(root.path(), 0).unwrap();
    (1..=2).for_each(|update| drop(save(&store, update).unwrap()));
    (root, store)
}

/// Checks that update 2 is refused where it is named, and passed over with a warning where the newest is looked for.
fn assert_passed_over(store: &Store, file: &str) {
    let path = store.path(2);
    let failure = Checkpoint::open(&path).unwrap_err();
    assert_eq!(failure.status(), Status::Storage);
    let place = path.join(file).display().to_string();
    assert!(failure.to_string().contains(&place), "{failure}");
    let latest = store.latest().unwrap();
    assert_whole(latest.checkpoint.as_ref().unwrap());
    assert_eq!(latest.checkpoint.unwrap().state.update, 1);
    let [warning] = &latest.warnings[..] else { panic!("{:?}", latest.warnings) };
    assert!(warning.contains(&place) && warning.contains("step-000001") && !warning.contains('\n'), "{warning}");
}

#[test]
fn a_missing_file_is_named() {
    for file in FILES {
        let (_root, store) = two();
        fs::remove_file(store.path(2).join(file)).unwrap();
        assert_passed_over(&store, file);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_file_cut_anywhere_is_named(file in 0..FILES.len(), place: prop::sample::Index) {
        let (_root, store) = two();
        let path = store.path(2).join(FILES[file]);
        let length = place.index(fs::metadata(&path).unwrap().len() as usize - 1);
        fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(length as u64).unwrap();
        assert_passed_over(&store, FILES[file]);
    }

    #[test]
    fn a_bit_flipped_anywhere_is_found(file in 1..FILES.len(), place: prop::sample::Index, bit in 0..8u8) {
        let (_root, store) = two();
        let path = store.path(2).join(FILES[file]);
        let mut bytes = fs::read(&path).unwrap();
        let place = place.index(bytes.len());
        bytes[place] ^= 1 << bit;
        fs::write(&path, bytes).unwrap();
        assert_passed_over(&store, FILES[file]);
    }
}

#[test]
fn checkpoints_that_are_all_damaged_are_an_error_and_not_a_new_run() {
    let (_root, store) = two();
    for update in 1..=2 {
        fs::remove_file(store.path(update).join("manifest.json")).unwrap();
    }
    let failure = store.latest().unwrap_err();
    assert_eq!(failure.status(), Status::Storage);
    let text = failure.to_string();
    assert!(text.contains("none of the 2") && text.contains("step-000002") && text.contains("never"), "{text}");
}

#[test]
fn a_checkpoint_of_another_format_says_so() {
    let (_root, store) = two();
    let path = store.path(2).join("manifest.json");
    let text = fs::read_to_string(&path).unwrap().replace("\"format\": 1", "\"format\": 2");
    fs::write(&path, text).unwrap();
    let failure = Checkpoint::open(&store.path(2)).unwrap_err();
    assert!(failure.to_string().contains("its format is 2, this program knows 1"), "{failure}");
}

#[test]
fn a_named_checkpoint_that_is_not_there_says_so() {
    let (root, _store) = two();
    let file = root.path().join("file");
    fs::write(&file, "").unwrap();
    for (path, cause) in [(root.path().join("nowhere"), "does not exist"), (file, "it is a file")] {
        let failure = Checkpoint::open(&path).unwrap_err();
        assert_eq!(failure.status(), Status::Storage);
        let text = failure.to_string();
        assert!(text.contains(cause) && text.contains(&path.display().to_string()), "{text}");
    }
}
