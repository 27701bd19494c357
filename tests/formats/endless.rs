//! Data sources without end, and more rows than memory has room for.

use std::process::Command;

use mdt_tests::{Job, Process, assert_says, built, root};

/// A job on the data source `endless` of the tests, which gives the same row for ever.
fn job() -> Job {
    Job::new().set("data", "{ use = \"endless\", train = \"rows\" }")
}

#[test]
fn a_source_without_end_streams_for_as_many_updates_as_are_asked_for() {
    let job = job().set("trainer.max_steps", 3).set("data.shuffle_buffer", 10);
    let run = Process::start(mdt_tests::command().args(job.arguments())).end().success();
    assert_says(
        &run.stderr,
        &["data     rows, streamed; read in windows of 10 rows", "plan     3 updates, 8 rows each"],
    );
    assert_eq!(job.updates().len(), 3);
    assert!(job.updates().iter().all(|update| update["epoch"].is_null()));
    let run = job.run_with(&["--set", "data.eval_split=2", "--set", "checkpoint.resume=never"]).success();
    assert_says(&run.stderr, &["2 rows held out", "held out 2 rows"]);
}

#[test]
fn epochs_of_a_source_without_end_are_an_error_that_says_what_to_set() {
    let failure = |set: &[(&str, &str)]| {
        let job = set.iter().fold(job(), |job, (key, value)| job.set(key, value));
        Process::start(mdt_tests::command().args(job.arguments())).end().failure(2)
    };
    let epochs = ("trainer.num_epochs", "2");
    assert_says(&failure(&[epochs]), &["`trainer.num_epochs`", "rows has no end", "`trainer.max_steps`"]);
    assert_says(&failure(&[epochs, ("data.streaming", "true")]), &["rows has no end", "`trainer.max_steps`"]);
    let whole = failure(&[("trainer.max_steps", "2"), ("data.streaming", "false")]);
    assert_says(&whole, &["`data.streaming` is false", "no end", "`data.limit`"]);
    let two = failure(&[("trainer.max_steps", "2"), ("data.train", "['a', 'b']")]);
    assert_says(&two, &["b would never be read: a has no end", "weight"]);
    let share = failure(&[("trainer.max_steps", "2"), ("data.eval_split", "0.2")]);
    assert_says(&share, &["`data.eval_split` is a share", "the number of rows"]);
}

#[test]
fn a_slow_source_can_be_interrupted_while_training_waits_for_it() {
    let job = job().set("trainer.max_steps", 1000).set("data.pause_ms", 20);
    let mut run = Process::start(mdt_tests::command().args(job.arguments()));
    run.wait_for("plan ");
    run.signal("INT");
    assert_says(&run.end().failure(130), &["interrupted before the first update"]);
}

#[test]
fn generate_asks_for_a_limit_where_a_source_does_not_say_how_many_rows_it_has() {
    let generate = ["generate", "--max-tokens=1", "--data=rows"];
    let start = |more: &[&str]| Process::start(mdt_tests::command().args(job().arguments()).args(generate).args(more));
    assert_says(&start(&[]).end().failure(2), &["rows does not say how many rows it has", "--limit N"]);
    assert_says(&start(&["--limit=3"]).end().success().stdout, &[" of 3 "]);
}

#[cfg(target_os = "linux")]
#[test]
fn counting_the_rows_of_a_large_file_can_be_interrupted() {
    use std::io::Write as _;
    let mut rows = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    rows.write_all(&b"{\"text\": \"a\"}\n".repeat(1 << 20)).expect("in memory");
    let job = Job::new();
    // 3 GiB of rows. A file may be several compressed ones.
    let data = job.file("rows.jsonl", rows.finish().expect("in memory").repeat(256));
    let job = job.set("data.train", data.display());
    let mut run = job.start();
    let opened = format!("/proc/{}/fd", run.id());
    run.wait_until(|| {
        let files = std::fs::read_dir(&opened).into_iter().flatten().flatten();
        files.filter_map(|file| std::fs::read_link(file.path()).ok()).any(|file| file == data)
    });
    run.signal("INT");
    assert_says(&run.end().failure(130), &["interrupted while the rows of the data file were counted", "rows.jsonl"]);
}

#[test]
fn a_limit_of_rows_holds_for_every_source() {
    let job = job().set("data.limit", 10).set("trainer.num_epochs", 2);
    let run = Process::start(mdt_tests::command().args(job.arguments())).end().success();
    assert_says(&run.stderr, &["reading ends in rows after 10 rows, all that `data.limit` allows"]);
    assert_eq!(job.updates().len(), 4);
    let of_a_file = Job::new().set("data.limit", 10).set("trainer.max_steps", 1).run().success();
    assert_says(&of_a_file.stderr, &["data     10 rows, "]);
}

#[test]
fn rows_that_do_not_fit_in_memory_are_one_error_that_names_the_keys() {
    // A machine with 4 MiB left, as far as the program can see.
    let job = job().set("data.limit", 1_000_000_000u64);
    let facts = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let facts = facts.lines().map(|line| match line.split_once(':') {
        Some((name @ "MemAvailable", _)) => format!("{name}: 4096 kB\n"),
        _ => format!("{line}\n"),
    });
    let facts = job.file("meminfo", facts.collect::<String>());
    let script = "mount --bind \"$0\" /proc/meminfo || exit 77; exec \"$@\"";
    let mut shell = Command::new("unshare");
    shell.args(["--map-root-user", "--mount", "sh", "-c", script]).arg(facts).arg(built().join("mdt-host"));
    let run = Process::start(shell.args(job.arguments()).current_dir(root())).end();
    if run.status == Some(77) || run.stderr.contains("unshare") {
        return eprintln!("skipped: this machine lets nobody mount anything: {}", run.stderr);
    }
    let failure = run.failure(4);
    assert_says(
        &failure,
        &["the rows do not fit in memory", "rows were read", "`data.limit`", "`data.streaming = true`"],
    );
}
