//! The program and the plugins that the tests run, built before the first of them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::library_name;

/// The top of the repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// Cargo without the variables that it sets for the package of a test. Build scripts of dependencies ask for these, so with other
/// ones Cargo builds such a dependency, and all that needs it, again.
pub fn cargo() -> Command {
    let mut cargo = Command::new(env!("CARGO"));
    let of_package = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    for (name, _) in std::env::vars().filter(|(name, _)| of_package(name)) {
        cargo.env_remove(name);
    }
    cargo
}

/// The directory with `mdt-host` and all plugins of the workspace, as the tests' own profile builds them.
///
/// Cargo does not build another package's program or dynamic libraries for a test, so this asks it to, once per
/// process: when everything is fresh, that takes a fraction of a second.
pub fn built() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| {
        let mut cargo = cargo();
        cargo.args(["build", "--quiet", "--workspace"]).current_dir(root());
        if !cfg!(debug_assertions) {
            cargo.arg("--release");
        }
        assert!(cargo.status().is_ok_and(|status| status.success()), "the workspace does not build");
        // …/target/release/deps/test-hash
        let test = std::env::current_exe().expect("a running test has a path");
        let directory = test.ancestors().nth(2).expect("tests run from target/PROFILE/deps").to_owned();
        // Cargo leaves them there, and they have the components of those that came in their place.
        for gone in ["mdt_llama", "mdt_test_mixtral"] {
            let _ = std::fs::remove_file(directory.join(library_name(gone)));
        }
        directory
    })
}

/// The library of a stand-alone project, by its folder as seen from `examples/`, built as its author would build it.
pub fn example_plugin(name: &str) -> PathBuf {
    let project = root().join("examples").join(name);
    let target = built().parent().expect("target/PROFILE has a parent").join("examples");
    let status = cargo()
        .args(["build", "--quiet", "--release", "--manifest-path"])
        .arg(project.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target)
        .status();
    assert!(status.is_ok_and(|status| status.success()), "examples/{name} does not build");
    let manifest = std::fs::read_to_string(project.join("Cargo.toml")).expect("the example's manifest");
    let manifest: toml::Table = manifest.parse().expect("TOML");
    let named = manifest["lib"].get("name").unwrap_or(&manifest["package"]["name"]);
    target.join("release").join(library_name(&named.as_str().expect("a name").replace('-', "_")))
}
