//! `mdt-host doctor`: its findings are true, and its exit status is that of the first failure.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use mdt_tests::{Job, Run, assert_says, built, command, copy_files, library, library_name, lock_file, patched, root};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The program and the built-in plugins in a tree of their own, without the broken plugins that other tests build
/// beside them.
struct Staged(TempDir);

impl Staged {
    fn new() -> Self {
        let staged = Self(tempfile::tempdir().expect("a temporary directory"));
        fs::create_dir_all(staged.plugins()).expect("a directory for plugins");
        fs::create_dir_all(staged.path("bin")).expect("a directory for the program");
        fs::copy(built().join("mdt-host"), staged.path("bin/mdt-host")).expect("the program");
        for name in ["data", "grpc", "local", "mlx", "models", "optim", "sft", "tokenizer"] {
            staged.install(&library(&format!("mdt_{name}")));
        }
        staged
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn plugins(&self) -> PathBuf {
        self.path("plugins")
    }

    fn install(&self, library: &Path) {
        fs::copy(library, self.plugins().join(library.file_name().expect("a name"))).expect("a plugin");
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let clean = command();
        let mut staged = Command::new(self.path("bin/mdt-host"));
        for (name, value) in clean.get_envs() {
            match value {
                Some(value) => staged.env(name, value),
                None => staged.env_remove(name),
            };
        }
        staged.current_dir(self.0.path()).arg("doctor").args(arguments);
        staged
    }

    fn run(&self, arguments: &[&str]) -> Run {
        self.command(arguments).output().expect("the program starts").into()
    }

    fn report(&self, arguments: &[&str]) -> Report {
        Report::of(self.run(&[&["--json"], arguments].concat()))
    }
}

/// A report in JSON, with the exit status of the program.
struct Report {
    value: Value,
    status: Option<i32>,
}

impl Report {
    fn of(run: Run) -> Self {
        let value: Value = serde_json::from_str(&run.stdout).expect("JSON");
        assert_eq!(value["summary"]["exit_status"].as_i64().map(|status| status as i32), run.status);
        Self { value, status: run.status }
    }

    /// The findings of a check.
    fn findings(&self, check: &str) -> Vec<Value> {
        let checks = self.value["checks"].as_array().expect("a list");
        let found = checks.iter().find(|found| found["name"] == check).unwrap_or_else(|| panic!("{check}"));
        found["findings"].as_array().expect("a list").clone()
    }

    /// The one finding of a check.
    fn finding(&self, check: &str) -> Value {
        let mut findings = self.findings(check);
        assert_eq!(findings.len(), 1, "{findings:?}");
        findings.remove(0)
    }
}

/// A port that nobody listens on now.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port()
}

fn port_key(port: u16) -> String {
    format!("comm.port={port}")
}

#[test]
fn a_machine_that_can_train_has_nothing_that_failed_without_any_configuration() {
    let staged = Staged::new();
    let report = staged.report(&[]);
    assert_eq!(report.status, Some(0), "{:#}", report.value);
    assert_eq!(report.value["summary"]["failed"], 0);

    let version = &report.finding("version")["facts"];
    assert_eq!((&version["version"], &version["system"]), (&json!("0.1.0"), &json!(std::env::consts::OS)));
    let cores = std::thread::available_parallelism().expect("cores").get();
    let machine = &report.finding("machine")["facts"];
    assert_eq!(machine["cores"], cores);
    assert!(machine["memory_bytes"].as_u64().is_some_and(|bytes| bytes > 1 << 28), "{machine}");

    let device = report.finding("compute");
    assert_eq!((&device["status"], &device["facts"]["component"]), (&json!("ok"), &json!("mlx")));
    assert_says(device["facts"]["library"].as_str().expect("text"), &["MLX "]);
    assert_says(device["message"].as_str().expect("text"), &["it multiplies matrices correctly"]);

    let backends = report.findings("communication");
    let backend = |id: &str| backends.iter().find(|backend| backend["facts"]["id"] == id).expect("a backend").clone();
    assert_eq!(backend("local")["facts"]["max_world_size"], 1);
    assert_eq!(backend("local")["facts"]["configured"], true);
    assert_eq!(backend("grpc")["facts"]["configured"], false);

    let plugins = report.findings("plugins");
    assert_eq!(plugins.len(), 8, "{plugins:?}");
    assert!(plugins.iter().all(|plugin| plugin["status"] == "ok"), "{plugins:?}");
    assert_eq!(report.finding("plugin-lock")["status"], "skipped");
    assert_eq!(report.finding("output-directory")["status"], "ok");
    // Looking changes nothing.
    let left: Vec<_> =
        fs::read_dir(staged.0.path()).expect("the tree").map(|entry| entry.expect("one").path()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn the_text_has_a_line_for_every_finding() {
    let staged = Staged::new();
    let text = staged.run(&[]).success().stdout;
    let report = staged.report(&[]);
    for check in report.value["checks"].as_array().expect("a list") {
        let name = check["name"].as_str().expect("text");
        for finding in check["findings"].as_array().expect("a list") {
            let status = finding["status"].as_str().expect("text");
            let line = text.lines().any(|line| line.starts_with(status) && line.contains(&format!("  {name} ")));
            assert!(line, "{status} {name} is not in:\n{text}");
        }
    }
    assert_says(text.lines().last().expect("a line"), &[" ok, ", " 0 failed, "]);
}

#[test]
fn a_plugin_that_does_not_load_is_named_with_the_reason_and_the_status_is_3() {
    let staged = Staged::new();
    let optim = library("mdt_optim");
    let older = patched(&optim, r#""abi":"0.2""#, r#""abi":"9.1""#);
    let broken = staged.path(&library_name("broken"));
    fs::write(&broken, older).expect("a broken plugin");
    let directory = staged.0.path().display().to_string();
    let report = staged.report(&["--plugin-dir", &directory]);
    assert_eq!(report.status, Some(3));
    let file = json!(broken.display().to_string());
    let plugins = report.findings("plugins");
    let finding = plugins.iter().find(|plugin| plugin["facts"]["file"] == file).expect("a finding");
    assert_eq!(finding["status"], "failed");
    assert_says(finding["error"].as_str().expect("text"), &["another version of the plugin boundary", "version 9.1"]);
    // The plugins behind it are hidden by it, and the checks that need them say so.
    assert_eq!(report.finding("configuration")["status"], "failed");
    assert_eq!(report.finding("compute")["status"], "skipped");

    let run = staged.run(&["--plugin-dir", &directory]);
    assert_says(&run.stdout, &["failed   plugins", &broken.display().to_string()]);
    assert_says(&run.failure(3), &["checks failed"]);
}

#[test]
fn a_file_that_is_no_plugin_is_a_warning() {
    let staged = Staged::new();
    fs::write(staged.plugins().join(library_name("notes")), "not a library").expect("a file");
    let report = staged.report(&[]);
    assert_eq!(report.status, Some(0));
    let plugins = report.findings("plugins");
    let finding = plugins.iter().find(|plugin| plugin["status"] == "warning").expect("a warning");
    assert_says(finding["message"].as_str().expect("text"), &["notes", "passed over"]);
}

#[test]
fn a_port_that_is_taken_is_a_warning_that_says_by_what_error() {
    let staged = Staged::new();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = port_key(listener.local_addr().expect("an address").port());
    let report = staged.report(&["--set", &taken]);
    assert_eq!(report.status, Some(0));
    let finding = report.finding("port");
    assert_eq!(finding["status"], "warning");
    assert_says(finding["message"].as_str().expect("text"), &["is in use"]);
    drop(listener);
    assert_eq!(staged.report(&["--set", &port_key(free_port())]).finding("port")["status"], "ok");
    // Another machine's address: TEST-NET-1 is nobody's.
    let elsewhere = staged.report(&["--set", "comm.address=192.0.2.1"]).finding("port");
    assert_eq!(elsewhere["status"], "skipped");
}

#[test]
fn an_output_directory_that_cannot_be_is_status_7() {
    let staged = Staged::new();
    fs::write(staged.path("taken"), "a file").expect("a file");
    let report = staged.report(&["--set", "output_dir=taken"]);
    assert_eq!(report.status, Some(7));
    assert_eq!(report.finding("output-directory")["status"], "failed");
    let report = staged.report(&["--set", "output_dir=new/deep"]);
    assert_eq!((report.status, report.finding("output-directory")["status"].as_str()), (Some(0), Some("ok")));
    assert!(report.finding("output-directory")["facts"]["free_bytes"].is_u64());
    assert!(!staged.path("new").exists());
}

#[test]
fn a_configuration_with_an_error_leaves_the_other_checks_to_work() {
    let staged = Staged::new();
    let report = staged.report(&["--set", "optimizer.learning_rat=1"]);
    assert_eq!(report.status, Some(2));
    assert_says(report.finding("configuration")["error"].as_str().expect("text"), &["optimizer.learning_rate"]);
    assert!(report.findings("plugins").iter().all(|plugin| plugin["status"] == "ok"));
    assert_eq!(report.finding("compute")["status"], "skipped");
}

#[test]
fn a_device_that_is_not_there_is_a_failure() {
    let staged = Staged::new();
    let report = staged.report(&["--set", "compute.device=gpu"]);
    let finding = report.finding("compute");
    if finding["status"] == "ok" {
        return assert_eq!(finding["facts"]["kind"], "gpu");
    }
    assert_eq!((report.status, &finding["status"]), (Some(2), &json!("failed")));
    assert_says(finding["error"].as_str().expect("text"), &["sees no GPU"]);
}

#[test]
fn a_lock_file_is_compared_with_every_plugin() {
    let staged = Staged::new();
    let lock = |text: &str| {
        fs::write(staged.path("plugins.lock"), text).expect("a lock file");
        staged.report(&["--set", "plugins.lock=plugins.lock"])
    };
    let text = lock_file(["mlx", "llama", "huggingface", "sft", "adamw", "jsonl", "local", "grpc"]);
    let report = lock(&text);
    assert_eq!(report.status, Some(0), "{:#}", report.value);
    assert_says(report.finding("plugin-lock")["message"].as_str().expect("text"), &["all 8 plugins"]);
    let report = lock("[plugins]\n");
    assert_eq!(report.status, Some(3));
    assert_eq!(report.findings("plugin-lock").len(), 8);
}

#[test]
fn variables_are_named_and_secrets_in_them_are_not_shown() {
    let staged = Staged::new();
    let mut command = staged.command(&["--json"]);
    let variables =
        [("RANK", "3"), ("OMPI_COMM_WORLD_SIZE", "4"), ("PMIX_SECURITY_KEY", "hunter2"), ("MDT_OUTPUT_DIR", "secret")];
    let report = Report::of(command.envs(variables).output().expect("the program starts").into());
    let launchers = report.findings("launchers");
    let found = &launchers[1]["facts"]["variables"];
    assert_eq!(*found, json!(["OMPI_COMM_WORLD_SIZE=4", "PMIX_SECURITY_KEY", "RANK=3"]));
    assert_eq!(report.finding("environment")["facts"]["variables"], json!(["MDT_OUTPUT_DIR"]));
    assert!(!report.value.to_string().contains("hunter2"));
}

#[test]
fn a_plugin_that_ends_the_process_is_a_finding_and_the_other_checks_are_made() {
    for (by, said) in
        [("fault", "SIGSEGV"), ("exit", "ended the process by calling exit"), ("spin", "has not come back")]
    {
        let staged = Staged::new();
        staged.install(&library("mdt_test_faulty"));
        let set =
            ["data=endless", "data.train=x", "data.misbehaves_at=1", &format!("data.by={by}"), "plugins.timeout_s=5"];
        let report = staged.report(&set.map(|key| ["--set", key]).concat());
        let finding = report.finding("data");
        assert_eq!((report.status, &finding["status"]), (Some(3), &json!("failed")), "{finding}");
        assert_says(
            finding["error"].as_str().expect("text"),
            &["ended the process of this check", said, "data endless"],
        );
        assert_eq!(report.finding("output-directory")["status"], "ok");
        assert!(report.findings("components").iter().all(|component| component["status"] == "ok"));
    }
}

#[test]
fn a_device_with_a_memory_of_its_own_is_examined_too() {
    let report = Staged::new().report(&["--set", "compute.shared_memory=false"]);
    let device = report.finding("compute");
    assert_eq!((&device["status"], &device["facts"]["unified_memory"]), (&json!("ok"), &json!(false)), "{device}");
}

#[test]
fn only_the_components_of_the_job_are_loaded() {
    let staged = Staged::new();
    let (marked, mark) = (staged.path("marked"), staged.path("mark"));
    fs::create_dir(&marked).expect("a directory");
    let never = library("mdt_test_entry_panics");
    fs::copy(&never, marked.join(never.file_name().expect("a name"))).expect("a plugin");
    let directory = marked.display().to_string();
    let mut command = staged.command(&["--json", "--plugin-dir", &directory]);
    let report = Report::of(command.env("TEST_PLUGIN_MARK", &mark).output().expect("the program starts").into());
    assert_eq!(report.status, Some(0), "{:#}", report.value);
    assert!(!mark.exists(), "a constructor ran");
    let mut command = staged.command(&["--json", "--plugin-dir", &directory, "--set", "optimizer=never"]);
    let report = Report::of(command.env("TEST_PLUGIN_MARK", &mark).output().expect("the program starts").into());
    assert_eq!(report.status, Some(3));
    assert!(cfg!(not(target_os = "linux")) || mark.exists(), "the constructor leaves no mark");
}

#[test]
fn a_job_with_a_model_is_examined_as_it_is_configured() {
    let (staged, job) = (Staged::new(), Job::new());
    let model = staged.path("model");
    copy_files(&root().join("tests/fixtures/training/model"), &model);
    let path = format!("model.path={}", model.display());
    let keys = ["--set", &path, "--set", "comm=grpc", "--set", "comm.world_size=2", "--set", "optimizer=sgd"];
    let report = staged.report(&keys);
    assert_eq!(report.status, Some(0), "{:#}", report.value);
    let data_path = |report: &Report| {
        let backends = report.findings("communication");
        let grpc = backends.iter().find(|backend| backend["facts"]["id"] == "grpc").expect("grpc").clone();
        assert_eq!(grpc["facts"]["configured"], true);
        assert_says(grpc["message"].as_str().expect("text"), &["; data moves "]);
        grpc["facts"]["data_path"].as_str().expect("text").to_owned()
    };
    if cfg!(target_os = "linux") {
        assert_says(&data_path(&report), &["through shared memory where all ranks run on one host"]);
    }
    let unshared = staged.report(&[&keys[..], &["--set", "comm.shared_memory=off"]].concat());
    assert_says(&data_path(&unshared), &["over TCP", "comm.shared_memory = \"off\""]);
    assert_says(report.finding("configuration")["message"].as_str().expect("text"), &["4 of "]);
    assert_eq!(report.finding("model")["status"], "ok");
    assert_eq!(report.finding("data")["status"], "skipped");

    let train = root().join("tests/fixtures/training/train.jsonl");
    let rows = job.file("rows.jsonl", fs::read(train).expect("rows"));
    let (train, eval) = (format!("data.train={}", rows.display()), format!("data.eval={}", rows.display()));
    let report = staged.report(&[&keys[..], &["--set", &train, "--set", &eval]].concat());
    assert_eq!(report.status, Some(0), "{:#}", report.value);
    assert_eq!(report.findings("data").len(), 2);
    assert!(report.findings("data").iter().all(|source| source["status"] == "ok"));
}

#[test]
fn a_model_or_data_that_is_not_there_is_a_failed_check_with_the_path_and_what_to_do() {
    let (staged, job) = (Staged::new(), Job::new());
    let whole = root().join("tests/fixtures/training/model");
    let model = |name: &str, without: &str| {
        let directory = job.directory().join(name);
        copy_files(&whole, &directory);
        fs::remove_file(directory.join(without)).expect("a file of the model");
        directory
    };
    let cases = [
        (job.directory().join("nowhere"), &["the model directory does not exist", "nowhere", "`model.path` names"][..]),
        (model("no-config", "config.json"), &["config.json cannot be read", "no-config"]),
        (model("no-weights", "model.safetensors"), &["the model directory has no weights", "no-weights", "convert"]),
        (model("no-tokenizer", "tokenizer.json"), &["tokenizer", "no-tokenizer"]),
    ];
    for (path, parts) in cases {
        let report = staged.report(&["--set", &format!("model.path={}", path.display())]);
        assert_eq!((report.status, &report.value["summary"]["failed"]), (Some(4), &json!(1)), "{:#}", report.value);
        assert_eq!(report.finding("model")["status"], "failed");
        assert_says(&report.finding("model")["error"].to_string(), parts);
    }
    let empty = job.file("empty.jsonl", "");
    let cases = [(job.directory().join("nowhere.jsonl"), "nowhere.jsonl"), (empty, "has no rows")];
    for (path, part) in cases {
        for key in ["data.train", "data.eval"] {
            let report = staged.report(&["--set", &format!("{key}={}", path.display())]);
            assert_eq!(report.status, Some(4), "{:#}", report.value);
            let findings = report.findings("data");
            assert_eq!(findings[0]["status"], "failed");
            assert_says(&findings[0]["error"].to_string(), &[part, key]);
        }
    }
    let path = format!("model.path={}", job.directory().join("nowhere").display());
    let text = staged.run(&["--set", &path]);
    assert_eq!(text.status, Some(4));
    assert_says(&text.stdout, &["failed   model ", " 1 failed, "]);
    assert_says(&text.stderr, &["error: 1 check failed"]);
}
