//! A component answers alike as it is, exported and imported, and loaded from a file: values, errors and panics.

use std::process::Command;

/// What the program prints.
fn transcript(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_every-kind")).args(arguments).output().expect("the program");
    let (status, stderr) = (output.status, String::from_utf8_lossy(&output.stderr));
    assert!(status.success() && stderr.is_empty(), "{arguments:?}: {status}\n{stderr}");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn components_of_every_kind_answer_alike_native_exported_and_loaded() {
    let native = transcript(&[]);
    // Cargo has built the plugin beside this test.
    let test = std::env::current_exe().expect("a running test has a path");
    let name = [std::env::consts::DLL_PREFIX, "mdt_test_every_kind", std::env::consts::DLL_SUFFIX].concat();
    let plugin = test.with_file_name(name).display().to_string();
    for arguments in [&["--exported"][..], &[&plugin]] {
        let other = transcript(arguments);
        let differs = native.lines().zip(other.lines()).position(|(native, other)| native != other);
        let place = differs.map(|line| (line + 1, native.lines().nth(line), other.lines().nth(line)));
        assert!(native == other, "{arguments:?}: {place:?}");
    }
}
