//! Whose plugins are loaded: a configuration file alone cannot make the program run code.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use mdt_tests::{Job, Run, assert_says, library, library_name, lock_file, run_where};

/// A job whose file names a directory with a plugin in it, and the file that the plugin's constructor writes.
struct Stranger {
    job: Job,
    config: String,
    mark: PathBuf,
}

impl Stranger {
    fn new() -> Self {
        let job = Job::new();
        let plugins = job.directory().join("marked");
        fs::create_dir(&plugins).expect("a directory for plugins");
        let name = library_name("mdt_test_entry_panics");
        fs::copy(library("mdt_test_entry_panics"), plugins.join(name)).expect("a copy");
        let text = format!("optimizer = \"never\"\n[plugins]\ndirs = [{:?}]\n", plugins.display().to_string());
        let config = job.file("job.toml", text).display().to_string();
        let mark = job.directory().join("mark");
        Self { job, config, mark }
    }

    /// Runs the program with this file above the job's own.
    fn run(&self, arguments: &[&str]) -> Run {
        let _ = fs::remove_file(&self.mark);
        let mark = self.mark.display().to_string();
        let config = ["--config", &self.config];
        let own = self.job.arguments().iter().map(String::as_str);
        run_where(&[("TEST_PLUGIN_MARK", &mark)], own.chain(config).chain(arguments.iter().copied()))
    }

    fn ran(&self) -> bool {
        self.mark.exists()
    }
}

#[test]
fn a_directory_that_only_a_file_names_has_no_code_run_by_any_command() {
    let stranger = Stranger::new();
    for command in [&["config", "check"][..], &["run"], &[]] {
        let failure = stranger.run(command).failure(3);
        assert!(!stranger.ran(), "{command:?} ran a constructor");
        let place = format!("{}:3", stranger.config);
        assert_says(&failure, &["only a configuration file names", &place, "--trust-plugin-dirs", "plugins.lock=FILE"]);
    }
    assert_says(&stranger.run(&["doctor"]).stdout, &["only a configuration file names"]);
    assert!(!stranger.ran(), "doctor ran a constructor");
    // These need other components of the job only.
    for command in [&["data", "preview"][..], &["generate", "--prompt", "Hello"]] {
        stranger.run(command).success();
        assert!(!stranger.ran(), "{command:?} ran a constructor");
    }
    // Its records may be read.
    assert_says(&stranger.run(&["config", "show"]).success().stdout, &["never"]);
    assert_says(&stranger.run(&["config", "schema"]).success().stdout, &["\"never\""]);
    assert_says(&stranger.run(&["plugin", "list"]).success().stdout, &["optimizer", "never", "(plugins.dirs)"]);
    assert_says(&stranger.run(&["plugin", "inspect", "never"]).success().stdout, &["optimizer never"]);
    assert!(!stranger.ran(), "a command that only reads ran a constructor");
}

#[test]
fn commands_that_only_read_run_no_code_of_any_plugin() {
    let stranger = Stranger::new();
    for command in [
        &["config", "show"][..],
        &["config", "check"],
        &["config", "schema"],
        &["plugin", "list"],
        &["plugin", "inspect", "optimizer/never", "--json"],
    ] {
        stranger.run(&[&["--trust-plugin-dirs"], command].concat()).success();
        assert!(!stranger.ran(), "{command:?} ran a constructor");
    }
    stranger.run(&["--trust-plugin-dirs"]).failure(3);
    assert!(stranger.ran(), "the plugin's constructor leaves no mark");
}

#[test]
fn a_directory_that_the_user_names_too_is_trusted() {
    let stranger = Stranger::new();
    let directory = stranger.job.directory().join("marked").display().to_string();
    let set = format!("plugins.dirs=[{directory:?}]");
    for user in [&["--trust-plugin-dirs"][..], &["--plugin-dir", &directory], &["--set", &set]] {
        let failure = stranger.run(user).failure(3);
        assert_says(&failure, &["the plugin cannot be used", "no entry"]);
        assert!(stranger.ran(), "{user:?}");
    }
}

#[test]
fn a_lock_file_of_the_users_vouches_for_what_it_pins_and_one_of_the_configuration_does_not() {
    let stranger = Stranger::new();
    let locked = lock_file(["mlx", "llama", "huggingface", "sft", "adamw", "jsonl", "local"]);
    let lock = stranger.job.file("plugins.lock", &locked).display().to_string();
    let set = format!("plugins.lock={lock}");
    let failure = stranger.run(&["--set", &set, "config", "check"]).failure(3);
    assert_says(&failure, &["is not in the lock file", &library_name("mdt_test_entry_panics")]);
    assert!(!stranger.ran());

    let pin = failure.lines().find_map(|line| line.split_once("[plugins]: ")).expect("the line to add").1;
    fs::write(&lock, locked.replace("[plugins]\n", &format!("[plugins]\n{pin}\n"))).expect("another lock file");
    assert_says(&stranger.run(&["--set", &set]).failure(3), &["no entry"]);
    assert!(stranger.ran());

    let theirs = stranger.job.file("lock.toml", format!("[plugins]\nlock = {lock:?}\n")).display().to_string();
    let failure = stranger.run(&["--config", &theirs, "config", "check"]).failure(3);
    assert_says(&failure, &["only a configuration file names"]);
    assert!(!stranger.ran());
}

/// The system's loader is told to open a file; before it does, another file takes that one's place.
#[cfg(target_os = "linux")]
#[test]
fn a_file_that_is_replaced_between_its_checks_and_its_loading_runs_no_code() {
    const SWAP: &str = r#"
        #define _GNU_SOURCE
        #include <dlfcn.h>
        #include <limits.h>
        #include <stdio.h>
        #include <stdlib.h>
        #include <string.h>
        void *dlopen(const char *path, int flags) {
            char file[PATH_MAX];
            if (path && realpath(path, file) && !strcmp(file, getenv("SWAP_TO")))
                rename(getenv("SWAP_FROM"), file);
            return ((void *(*)(const char *, int))dlsym(RTLD_NEXT, "dlopen"))(path, flags);
        }"#;
    let stranger = Stranger::new();
    let directory = stranger.job.directory().canonicalize().expect("a directory");
    let file = |name: &str| directory.join(name).display().to_string();
    let (source, swap) = (stranger.job.file("swap.c", SWAP), file("swap.so"));
    let compiled = Command::new("cc").args(["-shared", "-fPIC", "-o", &swap]).arg(source).arg("-ldl").status();
    assert!(compiled.expect("a C compiler").success());

    let [checked, other] =
        ["mdt_optim", "mdt_test_entry_panics"].map(|name| file(&format!("marked/{}", library_name(name))));
    let from = file("other");
    fs::copy(library("mdt_optim"), &checked).expect("a copy");
    fs::rename(other, &from).expect("a file outside of the directory");
    let mark = stranger.mark.display().to_string();
    let variables = [("TEST_PLUGIN_MARK", &*mark), ("LD_PRELOAD", &swap), ("SWAP_FROM", &from), ("SWAP_TO", &checked)];
    let marked = ["--plugin-dir".to_owned(), file("marked")];
    let failure = run_where(&variables, stranger.job.arguments().iter().chain(&marked)).failure(3);
    assert!(!fs::exists(&from).expect("a directory"), "nothing was swapped");
    assert!(!stranger.ran(), "the constructor of the other file ran");
    assert_says(&failure, &["was changed while it was loaded", &checked]);
}
