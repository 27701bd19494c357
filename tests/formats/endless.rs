//! Data sources without end, and more rows than memory has room for.

use std::process::Command;

use mdt_tests::{Job, Process, assert_says, built, root};

/// A job on the data source `endless` of the tests, which gives the same row for ever.
fn job() -> Job {
    Job::new().set("data", "{ use = \"endless\", train = \"rows\" }")
}

#[test]
fn of_a_source_without_end_as_many_rows_are_read_as_the_updates_can_use() {
    let job = job().set("trainer.max_steps", 3);
    let run = Process::start(mdt_tests::command().args(job.arguments())).end().success();
    // Four rows in two micro-batches each.
    assert_says(
        &run.stderr,
        &["reading ends in rows after 24 rows, all that `trainer.max_steps` can use", "24 rows, "],
    );
    assert_eq!(job.updates().len(), 3);
    // The same rows again, whatever is held out of them.
    let run = job.run_with(&["--set", "data.eval_split=0.2", "--set", "checkpoint.resume=never"]).success();
    assert_says(&run.stderr, &["after 30 rows", "24 of 30 rows", "6 of 30 rows"]);
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
    let job = job();
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
    assert_says(&failure, &["the rows do not fit in memory", "rows were read", "`data.limit`", "`trainer.max_steps`"]);
}
