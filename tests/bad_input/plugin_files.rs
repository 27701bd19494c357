//! Files that are no plugins, plugins of another version, and plugins that are refused before they are loaded.

use std::fs;
use std::path::PathBuf;

use mdt_tests::{Job, assert_says, library, library_name, lock_file, patched, run, run_where};
use serde_json::Value;

/// A job that looks into `plugins` beside its output directory first.
fn job() -> Job {
    let job = Job::new().set("trainer.max_steps", 1);
    let plugins = job.directory().join("plugins");
    fs::create_dir(&plugins).expect("a directory for plugins");
    job.argument("--plugin-dir").argument(plugins.display().to_string())
}

/// The same with one file in that directory.
fn job_with(name: &str, content: impl AsRef<[u8]>) -> Job {
    let job = job();
    job.file(&format!("plugins/{}", library_name(name)), content);
    job
}

/// Half of a real plugin: its section table, at the end, is gone.
fn half() -> Vec<u8> {
    let mut bytes = fs::read(library("mdt_optim")).expect("the built plugin");
    bytes.truncate(bytes.len() / 2);
    bytes
}

#[test]
fn files_that_are_no_plugins_are_listed_with_the_reason_and_are_in_nobodys_way() {
    let job = job_with("text", "not a library\n");
    job.file(&format!("plugins/{}", library_name("noise")), [0x5a, 0xc3].repeat(2000));
    job.file(&format!("plugins/{}", library_name("empty")), "");
    job.file(&format!("plugins/{}", library_name("half")), half());
    job.file("plugins/README.md", "no library by its name");
    let plugins = job.directory().join("plugins");
    fs::create_dir(plugins.join(library_name("directory"))).expect("a directory");
    // Opening it would wait for a writer.
    let pipe = std::process::Command::new("mkfifo").arg(plugins.join(library_name("pipe"))).status();
    assert!(pipe.expect("the command mkfifo").success());
    // A program is an object file without plugin records.
    let program = std::env::current_exe().expect("this test");
    std::os::unix::fs::symlink(program, plugins.join(library_name("plain"))).expect("a link");

    let list = run(["plugin", "list", "--json", "--plugin-dir", &plugins.display().to_string()]).success().stdout;
    let list: Value = serde_json::from_str(&list).expect("JSON");
    let others = list["passed_over"].as_array().expect("a list");
    for (name, reason) in [
        ("text", "no object file"),
        ("noise", "no object file"),
        ("empty", "the file is empty"),
        ("half", "no object file"),
        ("directory", "not a file"),
        ("pipe", "not a file"),
        ("plain", "a library without plugin records"),
    ] {
        let file = plugins.join(library_name(name)).display().to_string();
        let other = others.iter().find(|other| other["file"] == file).expect(name);
        assert_says(other["reason"].as_str().expect("text"), &[reason]);
    }
    assert_eq!(others.len(), 7, "{others:?}");
    let text = run(["plugin", "list", "--plugin-dir", &plugins.display().to_string()]).success().stdout;
    assert_says(&text, &["passed over", "without plugin records"]);
    job.run().success();
}

#[test]
fn a_missing_plugin_is_an_error_with_every_place_that_was_searched() {
    let job = job_with("lion", half()).set("optimizer", "lion");
    let places: [PathBuf; 3] = ["configured", "variable", "data"].map(|name| job.directory().join(name));
    let [configured, variable, data] = places.each_ref().map(|place| place.display().to_string());
    let job = job.set("plugins.dirs", format!("[{configured:?}]"));
    let failure = run_where(&[("MDT_PLUGIN_PATH", &variable), ("XDG_DATA_HOME", &data)], job.arguments()).failure(3);
    let user = format!("{data}/mdt/plugins (user): no such directory");
    assert_says(
        &failure,
        &[
            "there is no optimizer plugin `lion`",
            "(--plugin-dir): no optimizer among 0 plugins",
            &format!("{}: passed over: no object file", library_name("lion")),
            &format!("{configured} (plugins.dirs): no such directory"),
            &format!("{variable} (MDT_PLUGIN_PATH): no such directory"),
            "(beside the program): has adamw",
            &user,
            "(system)",
            "--set optimizer",
        ],
    );
    let tiers = ["(--plugin-dir)", "(plugins.dirs)", "(MDT_PLUGIN_PATH)", "(beside the program)", "(user)", "(system)"];
    let order: Vec<_> = tiers.iter().map(|tier| failure.find(tier)).collect();
    assert!(order.is_sorted(), "{failure}");
}

#[test]
fn a_misspelt_plugin_gets_the_nearest_name() {
    let failure = Job::new().set("optimizer", "adamv").run().failure(3);
    assert_says(&failure, &["there is no optimizer plugin `adamv`", "did you mean `adamw`?"]);
    let failure = Job::new().set("compute", "mxl").run().failure(3);
    assert_says(&failure, &["there is no compute plugin `mxl`", "did you mean `mlx`?"]);
}

#[test]
#[cfg(target_os = "linux")]
fn a_plugin_that_the_system_cannot_load_is_an_error_and_no_other_one_takes_its_place() {
    let mut bytes = fs::read(library("mdt_optim")).expect("the built plugin");
    // The number of program headers of an ELF file: without any there are records to read and nothing to load.
    bytes[56..58].fill(0);
    let job = job_with("mine", bytes);
    let failure = job.run().failure(3);
    assert_says(&failure, &["the plugin cannot be loaded", &library_name("mine"), "no loadable segments"]);
}

#[test]
fn a_plugin_for_another_version_of_the_boundary_is_refused_before_its_code_runs() {
    let never = library("mdt_test_entry_panics");
    let job = job_with("never", patched(&never, "\"abi\":\"0.2\"", "\"abi\":\"9.9\""));
    let failure = job.set("optimizer", "never").run().failure(3);
    assert_says(&failure, &["another version of the plugin boundary", "has version 9.9, this host 0.2", "rebuild"]);
    assert_says(&failure, &[&library_name("never")]);
    assert!(!failure.contains("panicked"), "it ran:\n{failure}");
}

#[test]
fn a_component_that_this_host_cannot_use_refuses_itself_before_its_code_runs_and_no_other() {
    let never = library("mdt_test_entry_panics");
    for (from, to, because) in [
        (
            "optimizer.slices/1",
            "optimizer.slices/7",
            "it has the interface optimizer.slices/7, and this host uses optim",
        ),
        ("host.services/1", "host.crystals/1", "it needs host.crystals/1, which this host does not have"),
    ] {
        let failure = job_with("never", patched(&never, from, to)).set("optimizer", "never").run().failure(3);
        assert_says(&failure, &["this host cannot use the optimizer `never`", because, &library_name("never")]);
        assert!(!failure.contains("panicked"), "it ran:\n{failure}");
    }
    // AdamW refuses itself: SGD in the same library still works.
    let [from, to] = [1, 7].map(|number| format!("\"id\":\"adamw\",\"interfaces\":[\"optimizer.slices/{number}\"]"));
    let job = |optimizer| job_with("mine", patched(&library("mdt_optim"), &from, &to)).set("optimizer", optimizer);
    assert_says(&job("adamw").run().failure(3), &["this host cannot use the optimizer `adamw`"]);
    job("sgd").run().success();
}

#[test]
fn a_plugin_whose_records_promise_more_than_its_entry_keeps_is_an_error() {
    let optim = library("mdt_optim");
    let cases = [
        (patched(&optim, "mdt plugin 2", "mdt plugin 1"), "adamw", "its entry is not one of this boundary"),
        (patched(&optim, "MDT_PLUGIN_ENTRY", "MDT_PLUGIN_EXITS"), "adamw", "no entry symbol"),
        (patched(&optim, "\"id\":\"adamw\"", "\"id\":\"adamx\""), "adamx", "but it has none"),
    ];
    for (bytes, id, message) in cases {
        let failure = job_with("mine", bytes).set("optimizer", id).run().failure(3);
        assert_says(&failure, &[message, &library_name("mine")]);
    }
}

#[test]
fn two_plugins_of_one_name_in_one_directory_are_an_error_that_names_both() {
    let job = job();
    for name in ["first", "second"] {
        fs::copy(library("mdt_optim"), job.directory().join("plugins").join(library_name(name))).expect("a copy");
    }
    let failure = job.run().failure(3);
    assert_says(&failure, &["two plugins in one directory have the optimizer `adamw`", "remove one of them"]);
    assert_says(&failure, &[&library_name("first"), &library_name("second")]);
}

#[test]
fn a_plugin_that_anybody_could_replace_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let job = job_with("mine", fs::read(library("mdt_optim")).expect("the built plugin"));
    let plugins = job.directory().join("plugins");
    let file = plugins.join(library_name("mine"));
    for (place, mode, other) in [(&file, 0o666, 0o644), (&plugins, 0o777, 0o755)] {
        fs::set_permissions(place, fs::Permissions::from_mode(mode)).expect("other permissions");
        let failure = job.run().failure(3);
        assert_says(&failure, &["every user of this machine can change", &format!("chmod o-w {}", place.display())]);
        fs::set_permissions(place, fs::Permissions::from_mode(other)).expect("other permissions");
    }
    job.run().success();
}

#[test]
fn a_lock_file_lets_in_what_was_locked_and_nothing_else() {
    let job = Job::new().set("trainer.max_steps", 1);
    let locked = lock_file(["mlx", "llama", "huggingface", "sft", "adamw", "jsonl", "local"]);
    let lock = job.file("plugins.lock", &locked);
    let job = job.set("plugins.lock", lock.display());
    job.run().success();

    let entry = locked.lines().find(|line| line.contains(&library_name("mdt_optim"))).expect("an entry");
    let (name, checksum) = entry.split_once(" = ").expect("a line of TOML");
    fs::write(&lock, locked.replace(entry, &format!("{name} = \"{}\"", "0".repeat(64)))).expect("another lock file");
    let failure = job.run().failure(3);
    let checksum = checksum.trim_matches('"');
    assert_says(&failure, &["is not the one that was locked", &library_name("mdt_optim"), checksum, &"0".repeat(64)]);

    fs::write(&lock, locked.replace(&format!("{entry}\n"), "")).expect("another lock file");
    let failure = job.run().failure(3);
    assert_says(&failure, &["is not in the lock file", &library_name("mdt_optim")]);

    // The library that the compute plugin needs, and one that only that library needs.
    for name in locked.lines().filter(|line| line.contains("libmlx.so") || line.contains("openblas")) {
        fs::write(&lock, locked.replace(&format!("{name}\n"), "")).expect("another lock file");
        assert_says(&job.run().failure(3), &["is not in the lock file", "under [native]", name]);
        let (library, _) = name.split_once(" = ").expect("a line of TOML");
        let other = format!("{library} = \"{}\"", "0".repeat(64));
        fs::write(&lock, locked.replace(name, &other)).expect("another lock file");
        assert_says(&job.run().failure(3), &["the native library", "is not the one that was locked"]);
    }

    fs::write(&lock, "plugins = 3\n").expect("another lock file");
    assert_says(&job.run().failure(3), &["the plugin lock file cannot be read", "plugins.lock"]);
    fs::remove_file(&lock).expect("no lock file");
    assert_says(&job.run().failure(3), &["the plugin lock file cannot be read", "plugins.lock"]);
}

#[test]
fn one_broken_plugin_does_not_keep_the_others_from_the_schema() {
    let broken = patched(&library("mdt_test_entry_panics"), "\"schema\":{", "\"scheme\":{");
    let schema = job_with("broken", broken).run_with(&["config", "schema"]).success();
    assert_says(&schema.stderr, &["warning: left out", "has no schema", &library_name("broken")]);
    let schema: Value = serde_json::from_str(&schema.stdout).expect("JSON");
    assert!(schema["$defs"]["layer"].to_string().contains("beta1"), "{schema}");
}
