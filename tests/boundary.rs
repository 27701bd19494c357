//! Plugins that were built with another version of the boundary, in real runs of today's host: the versions are copies of
//! `plugin-api` with deliberate edits. Each copy is built as an author would build it, by a project beside it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use mdt_tests::{Job, assert_says, built, example_plugin, library_name, root};

/// A file of the copy, a text in it, and what stands there instead.
type Edit = (&'static str, &'static str, &'static str);

/// Another version of all crates.
const VERSION: [Edit; 2] = [
    ("Cargo.toml", "version = \"0.1.0\"\nedition", "version = \"0.9.3\"\nedition"),
    (
        "Cargo.toml",
        "mdt-plugin-api = { path = \"plugin-api\", version = \"0.1.0\" }",
        "mdt-plugin-api = { path = \"plugin-api\", version = \"0.9.3\" }",
    ),
];

/// What a later version may have: an interface, a field of records in both directions, an operation.
const GROWTH: [Edit; 9] = [
    (
        "plugin-api/src/abi/version.rs",
        "        $crate::__interfaces!(optimizer slices)\n",
        "        concat!($crate::__interfaces!(optimizer slices), \",\\\"optimizer.later/1\\\"\")\n",
    ),
    (
        "plugin-api/src/abi/optimizer.rs",
        "replies! { Vec<StateSpec>, Granularity }\n",
        "replies! { Vec<StateSpec>, Granularity }\n\
         interfaces! {\n    /// Later.\n    \"optimizer.later/1\" OptimizerLater LaterFunctions {\n        \
         /// Later.\n        fn later(number: u64);\n    }\n}\n\
         impl LaterFunctions for OptimizerComponent {\n    fn later(&self, _: u64) -> Result<()> {\n        Ok(())\n    }\n}\n",
    ),
    (
        "plugin-api/src/abi/optimizer.rs",
        "        OptimizerSlices if slices,\n",
        "        OptimizerSlices if slices,\n        OptimizerLater,\n",
    ),
    (
        "plugin-api/src/abi/component.rs",
        "    pub(super) version: String,\n",
        "    pub(super) version: String,\n    #[serde(default)]\n    pub(super) notes: Vec<String>,\n",
    ),
    (
        "plugin-api/src/abi/component.rs",
        "Ok(ComponentRecord { kind, id, version })",
        "Ok(ComponentRecord { kind, id, version, notes: vec![\"later\".to_owned()] })",
    ),
    (
        "plugin-api/src/abi/component.rs",
        "let ComponentRecord { kind, id, version } =",
        "let ComponentRecord { kind, id, version, .. } =",
    ),
    (
        "plugin-api/src/abi/services.rs",
        "pub(super) struct SetupRecord {\n",
        "pub(super) struct SetupRecord {\n    #[serde(default)]\n    later: Option<String>,\n",
    ),
    (
        "plugin-api/src/abi/services.rs",
        "        let record = Self {\n",
        "        let record = Self {\n            later: None,\n",
    ),
    (
        "plugin-api/src/op.rs",
        "    GELU = 30, \"gelu\";\n",
        "    GELU = 30, \"gelu\";\n    /// Later.\n    LATER = 9_999, \"later\";\n",
    ),
];

/// Lion, built beside a copy of the boundary crate with these edits.
fn lion_with<'a>(name: &str, edits: impl IntoIterator<Item = &'a Edit>) -> PathBuf {
    let edits: Vec<&Edit> = edits.into_iter().collect();
    let place = built().parent().expect("target/PROFILE has a parent").join("boundary");
    let copy = place.join(name);
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("the workspace");
    let members = manifest.lines().find(|line| line.starts_with("members = ")).expect("its members");
    write(&copy, "Cargo.toml", manifest.replace(members, "members = [\"plugin-api\"]").into_bytes(), &edits);
    copy_into(&copy, "plugin-api", &edits);
    copy_into(&copy, "examples/lion", &edits);
    let status = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--release", "--manifest-path"])
        .arg(copy.join("examples/lion/Cargo.toml"))
        // One directory for all copies: they share their dependencies.
        .arg("--target-dir")
        .arg(place.join("build"))
        .status();
    assert!(status.is_ok_and(|status| status.success()), "{name} does not build");
    let plugins = copy.join("plugins");
    fs::create_dir_all(&plugins).expect("a directory");
    fs::copy(place.join("build/release").join(library_name("lion")), plugins.join(library_name("lion")))
        .expect("a copy");
    plugins
}

fn copy_into(copy: &Path, directory: &str, edits: &[&Edit]) {
    for entry in fs::read_dir(root().join(directory)).expect("a directory").map(|entry| entry.expect("an entry")) {
        let name = format!("{directory}/{}", entry.file_name().to_string_lossy());
        if entry.path().is_file() && !name.ends_with("Cargo.lock") {
            write(copy, &name, fs::read(entry.path()).expect("a file"), edits);
        } else if entry.path().is_dir() && !name.ends_with("target") {
            copy_into(copy, &name, edits);
        }
    }
}

/// Writes a file, unless it is there: what was built of it stays fresh.
fn write(copy: &Path, name: &str, mut bytes: Vec<u8>, edits: &[&Edit]) {
    for (_, from, to) in edits.iter().filter(|(file, ..)| *file == name) {
        let text = String::from_utf8(bytes).expect("text");
        assert!(text.contains(from), "{name} has no {from:?} any more: write this edit anew");
        bytes = text.replacen(from, to, 1).into_bytes();
    }
    let file = copy.join(name);
    if fs::read(&file).is_ok_and(|old| old == bytes) {
        return;
    }
    fs::create_dir_all(file.parent().expect("a directory")).expect("a directory");
    fs::write(file, bytes).expect("a file");
}

fn job(plugins: &Path) -> Job {
    let directory = plugins.display().to_string();
    Job::new()
        .argument("--plugin-dir")
        .argument(directory)
        .set("optimizer", "lion")
        .set("optimizer.learning_rate", 1e-3)
}

// One test: the builds take turns, and use each other's dependencies.
#[test]
fn a_plugin_of_another_boundary_works_or_is_refused_by_name() {
    let later = job(&lion_with("later", VERSION.iter().chain(&GROWTH)));
    later.run().success();
    let today = job(example_plugin("lion").parent().expect("a directory"));
    today.run().success();
    assert_eq!(later.numbers("loss"), today.numbers("loss"));
    assert!(later.final_weights() == today.final_weights(), "the models differ");
    assert_says(&later.run_with(&["plugin", "inspect", "lion"]).success().stdout, &["optimizer.later/1"]);

    let needs: Edit = (
        "plugin-api/src/abi/version.rs",
        "        r#\"\"host.services/1\"\"#\n",
        "        r#\"\"host.services/1\",\"host.later/1\"\"#\n",
    );
    let failure = job(&lion_with("needs_more", [&needs])).run().failure(3);
    assert_says(&failure, &["cannot use the optimizer `lion`", "it needs host.later/1, which this host does not have"]);

    let changed: Edit = (
        "plugin-api/src/abi/optimizer.rs",
        "        planned_steps: u64,\n        learning_rate: f64,\n",
        "        learning_rate: f64,\n        planned_steps: u64,\n",
    );
    let failure = job(&lion_with("changed_table", [&changed])).run().failure(3);
    assert_says(&failure, &["its interface optimizer.slices/1 is not the one of this name here"]);
}
