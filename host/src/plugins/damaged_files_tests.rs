//! Damaged plugin files: everything that is read before a plugin is loaded says what is wrong, whatever the bytes are.
//!
//! The damage is drawn from a fixed seed, so that a failure comes again; each case is named in the message.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::{manifest, native};
use crate::random::Stream;

const CASES: u64 = 1_000;

/// A plugin file: Lion in C, which any machine that builds Rust can build.
fn plugin(directory: &Path) -> Vec<u8> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let file = directory.join("liblion_c.so");
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-I"])
        .arg(root.join("plugin-api/include"))
        .arg(root.join("examples/lion_c/lion.c"))
        .args(["-lm", "-o"])
        .arg(&file)
        .status();
    assert!(built.is_ok_and(|status| status.success()), "examples/lion_c does not build");
    fs::read(file).unwrap()
}

/// The bytes with one to eight places damaged, more often near the ends, where the format's own tables lie.
fn damaged(bytes: &[u8], random: &mut Stream) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..=random.below(8) {
        let length = bytes.len() as u64;
        let Some(near) = length.checked_sub(1).map(|last| random.below(last.min(4096) + 1)) else { break };
        let at = [near, length - 1 - near, random.below(length)][random.below(3) as usize] as usize;
        match random.below(5) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.bits() as u8,
            2 => {
                let number = [u64::MAX, 1 << 62, u64::from(u32::MAX), length, random.bits()][random.below(5) as usize];
                bytes[at..].iter_mut().zip(number.to_le_bytes()).for_each(|(byte, new)| *byte = new);
            }
            3 => bytes.truncate(at),
            _ => {
                let piece = bytes[at..(at + 64).min(bytes.len())].to_vec();
                let to = random.below(length) as usize;
                bytes.splice(to..to, piece);
            }
        }
    }
    bytes
}

#[test]
fn a_damaged_plugin_file_is_read_or_refused_and_never_a_crash() {
    let directory = tempfile::tempdir().unwrap();
    let whole = plugin(directory.path());
    let file = directory.path().join("damaged.so");
    let mut refused = 0;
    for case in 0..CASES {
        fs::write(&file, damaged(&whole, &mut Stream::new(8, "damaged file", case))).unwrap();
        let read = std::panic::catch_unwind(|| {
            native::libraries(&file);
            native::has_name(&file, "liblion_c.so");
            manifest::read(&file)
        });
        refused += u64::from(read.unwrap_or_else(|_| panic!("case {case} panics")).is_err());
    }
    assert!(
        (CASES / 20..CASES).contains(&refused),
        "{refused} of {CASES} refused: the damage is too little or too much"
    );
}

#[test]
fn damaged_records_are_read_or_refused_and_never_a_crash() {
    let whole = concat!(
        r#"{"abi":"0.2","package":"lion","version":"1.0.0","license":"MIT","native":"liba.so "}"#,
        "\n\0",
        r#"{"kind":"optimizer","id":"lion","interfaces":["optimizer.slices/1"],"needs":["host.services/1"]}"#,
        "\n",
    );
    let mut refused = 0;
    for case in 0..10 * CASES {
        let bytes = damaged(whole.as_bytes(), &mut Stream::new(8, "damaged records", case));
        let read = std::panic::catch_unwind(|| manifest::parse(&bytes));
        refused += u64::from(read.unwrap_or_else(|_| panic!("case {case} panics")).is_err());
    }
    assert!(refused > CASES, "{refused}");
}
