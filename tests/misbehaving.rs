//! Components of every kind that panic in each of their methods, end the process, or never come back: the error names them,
//! nothing counts as done, and only an observer lets the run go on.

use std::path::PathBuf;
use std::sync::Mutex;
use std::thread;

use mdt_tests::{Job, Process, Run, assert_says, command, library, library_name};

/// A kind; the plugin of which a component does the work; the methods that this job calls; of those the one, called by the
/// host itself, in which all other misbehaviour is tried.
type Case = (&'static str, &'static str, &'static [&'static str], &'static str);

const CASES: [Case; 8] = [
    (
        "compute",
        "mdt_mlx",
        &[
            "create",
            "device",
            "op",
            "from_host",
            "retain",
            "release",
            "tensor_type",
            "eval",
            "host_view",
            "host_view_mut",
            "read",
            "value_and_grad",
            "checkpoint",
            "drop",
        ],
        "value_and_grad",
    ),
    ("model", "mdt_models", &["create", "spec", "hidden", "drop"], "hidden"),
    ("tokenizer", "mdt_tokenizer", &["create", "vocabulary", "encode", "files", "drop"], "vocabulary"),
    ("trainer", "mdt_sft", &["create", "encode", "collate", "loss", "drop"], "loss"),
    ("optimizer", "mdt_optim", &["create", "states", "granularity", "update", "drop"], "update"),
    ("data", "mdt_data", &["create", "length", "batch", "state", "drop"], "batch"),
    (
        "comm",
        "mdt_local",
        &["create", "capabilities", "open", "rank", "world_size", "all_reduce", "all_gather", "wait", "drop"],
        "open",
    ),
    ("observer", "mdt_test_faulty", &["create", "observe", "drop"], "observe"),
];

fn job((kind, plugin, ..): Case, method: &str, by: &str) -> Job {
    let job = Job::new().set("trainer.max_steps", 3).set("checkpoint.save_steps", 1).set("plugins.timeout_s", 1);
    let job = job.set("trainer.checkpoint_activations", "all");
    let file: PathBuf = library(plugin);
    let keys = [("library", file.display().to_string()), ("method", method.to_owned()), ("by", by.to_owned())];
    if kind == "observer" {
        let keys: Vec<_> = keys.iter().map(|(key, value)| format!("{key} = \"{value}\"")).collect();
        return job.set("observers", format!("[{{ use = \"misbehaves\", {} }}]", keys.join(", ")));
    }
    let job = job.set(&format!("{kind}.use"), "misbehaves");
    keys.iter().fold(job, |job, (key, value)| job.set(&format!("{kind}.{key}"), value))
}

/// Runs a check of each of these, two at a time.
fn two_at_a_time<T: Send>(cases: Vec<T>, check: impl Fn(T) + Sync) {
    let cases = Mutex::new(cases.into_iter());
    let next = || cases.lock().expect("taking one does not panic").next();
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| std::iter::from_fn(next).for_each(&check));
        }
    });
}

fn is_done(job: &Job) -> bool {
    job.output().join("final").exists()
}

#[test]
fn a_panic_in_any_method_of_any_kind_is_an_error_that_names_the_component() {
    let of = |case: Case| case.2.iter().map(move |&method| (case, method));
    two_at_a_time(CASES.into_iter().flat_map(of).collect(), |(case, method)| {
        let (kind, ..) = case;
        let job = job(case, method, "panic");
        let run = job.run();
        let parts = [&format!("{kind} misbehaves 0.1.0"), &format!("the plugin panicked: {method} misbehaves")];
        if method == "drop" || (kind, method) == ("observer", "observe") {
            let warning = run.success().stderr;
            assert_says(&warning, &["warning: ", parts[0], parts[1]]);
            assert!(is_done(&job), "{kind} {method}");
        } else {
            let name = kind.to_owned() + " misbehaves";
            assert_says(&failure(&run, (kind, method, "panic"), Some(3)), &[&name, parts[1]]);
            assert!(!is_done(&job), "{kind} {method}");
        }
    });
}

#[track_caller]
fn failure(run: &Run, case: (&str, &str, &str), status: Option<i32>) -> String {
    assert_eq!(run.status, status, "{case:?}\n{}\n{}", run.stderr, run.stdout);
    assert!(!run.stderr.contains("panicked at"), "panic text reached the user:\n{}", run.stderr);
    run.stderr.clone()
}

#[test]
fn a_component_of_any_kind_that_ends_the_process_or_never_comes_back_is_named_and_nothing_counts_as_done() {
    let of = |case: Case| ["exit", "_exit", "abort", "fault", "spin", "log"].map(|by| (case, by));
    two_at_a_time(CASES.into_iter().flat_map(of).collect(), |(case, by)| {
        let (kind, .., method) = case;
        let job = job(case, method, by);
        let name = format!("{kind} misbehaves 0.1.0");
        let run = match by {
            // The process says nothing: whoever started it does.
            "_exit" => Process::start(command().args(["launch", "-n", "1"]).args(job.arguments())).end(),
            _ => job.run(),
        };
        if kind == "observer" && matches!(by, "spin" | "log") {
            assert_says(&run.success().stderr, &[&name, "has not worked through what it was told"]);
            return assert!(is_done(&job));
        }
        let (status, said) = match by {
            "exit" => (Some(3), format!("{name} ended the process by calling exit")),
            "_exit" => (Some(3), "ended with status 0 before the job was done".to_owned()),
            "abort" => (None, format!("SIGABRT, an abort\n  inside {name}")),
            "fault" => (None, "SIGSEGV".to_owned()),
            _ => (Some(3), "a call into a plugin has not come back for 1 second".to_owned()),
        };
        let stderr = failure(&run, (kind, method, by), status);
        assert_says(&stderr, &[&said]);
        if by != "_exit" {
            assert_says(&stderr, &[&name, &library_name("mdt_test_misbehaving"), &format!("({kind}.")]);
        }
        assert!(!is_done(&job), "{kind} {by}");
    });
}
