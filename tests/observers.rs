//! Observers in real runs: what they are told, and that training neither waits for them nor fails with them.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use mdt_tests::{Job, Process, assert_says, command, example_plugin};
use serde_json::{Value, json};

fn observers(job: Job, list: &Value) -> Job {
    let file = job.file("observers.json", json!({ "observers": list }).to_string());
    job.argument("--config").argument(file.display().to_string())
}

fn notes(job: &Job, name: &str) -> String {
    job.directory().join(name).display().to_string()
}

#[test]
fn observers_are_told_the_first_answer_of_each_update_and_of_each_evaluation() {
    let prompts = mdt_tests::root().join("examples/grpo/prompts.jsonl");
    let library = example_plugin("grpo");
    let job =
        Job::of(&["../../examples/grpo/job.toml"]).set("trainer.max_steps", 2).set("data.eval", prompts.display());
    let job = job.argument("--plugin-dir").argument(library.parent().expect("a directory").display().to_string());
    let job = job.set("trainer.eval_steps", 2);
    let file = notes(&job, "notes");
    let job = observers(job, &json!([{ "use": "notes", "file": file }]));
    job.run().success();
    let samples: Vec<Value> = noted(&file).into_iter().filter(|event| event["event"] == "sampled").collect();
    let of = |sample: &Value| (sample["update"].as_u64(), sample["evaluation"].as_bool());
    assert_eq!(
        samples.iter().map(of).collect::<Vec<_>>(),
        [(Some(1), Some(false)), (Some(2), Some(false)), (Some(2), Some(true))]
    );
    let asked = fs::read_to_string(prompts).expect("the prompts");
    for sample in &samples {
        let [prompt, answer] = ["prompt", "answer"].map(|key| sample[key].as_str().expect("text"));
        assert!(!prompt.is_empty() && asked.contains(prompt.trim()), "{prompt:?}");
        assert!(!answer.is_empty() && answer.chars().count() <= 8, "{answer:?}");
    }
}

/// What an observer has noted.
fn noted(file: &str) -> Vec<Value> {
    let text = fs::read_to_string(file).expect("the observer's notes");
    text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")["event"].clone()).collect()
}

fn names(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["event"].as_str().expect("a name")).collect()
}

#[test]
fn several_observers_are_told_the_run_in_order_from_its_configuration_to_its_end() {
    let job = Job::new().set("trainer.max_steps", 3).set("checkpoint.save_steps", 2).set("data.eval_split", 0.2);
    let files = ["a", "b"].map(|name| notes(&job, name));
    let list = files.iter().map(|file| json!({ "use": "notes", "file": file })).collect();
    let job = observers(job.set("trainer.eval_steps", 2), &list);
    assert_says(&job.run().success().stderr, &["observer notes 0.1.0"]);

    let events = noted(&files[0]);
    assert_eq!(events, noted(&files[1]));
    // A checkpoint is told when it is on the disk, and training goes on until then: the first one, of update 2, at any time before
    // the second one.
    let (written, others): (Vec<_>, Vec<_>) =
        names(&events).into_iter().enumerate().partition(|&(_, name)| name == "checkpoint_written");
    let expected = "started updated updated evaluated updated evaluated final_written finished";
    assert_eq!(
        others.iter().map(|&(_, name)| name).collect::<Vec<_>>(),
        expected.split_whitespace().collect::<Vec<_>>()
    );
    assert!(matches!(written[..], [(4..=6, _), (7, _)]), "{:?}", names(&events));
    assert_eq!(events[0]["configuration"]["trainer"]["max_steps"], 3);
    assert_eq!((&events[0]["updates_planned"], &events[0]["world_size"]), (&json!(3), &json!(1)));
    let losses: Vec<_> = events.iter().filter(|event| event["event"] == "updated").collect();
    let told: Vec<_> = losses.iter().map(|event| event["values"]["loss"].as_f64().expect("a loss")).collect();
    assert_eq!(told, job.numbers("loss"));
    let files = events[8]["files"].as_array().expect("a list");
    assert!(files.contains(&json!("model.safetensors")), "{files:?}");
}

#[test]
fn a_name_stands_for_an_observer_with_its_defaults_and_set_works() {
    let job = Job::new();
    let show = ["--set", r#"observers=["notes", { use = "notes", pause_ms = 5 }]"#, "config", "show", "--json"];
    let shown: Value = serde_json::from_str(&job.run_with(&show).success().stdout).expect("JSON");
    let list = &shown["values"]["observers"]["value"];
    let defaults = json!({
        "use": "notes", "every_rank": false, "file": null, "pause_ms": 0, "fails_at": 0, "panics_at": 0, "spins_at": 0,
        "thread_panics_at": 0, "panics_when_dropped": false,
    });
    let mut second = defaults.clone();
    second["pause_ms"] = json!(5);
    // The default of a key that every observer has is stated once, in the host.
    let with_host = |value: &Value| {
        let mut value = value.clone();
        value["every_rank"] = json!(false);
        value
    };
    assert_eq!(list.as_array().expect("a list").iter().map(with_host).collect::<Vec<_>>(), [defaults, second]);
    assert_eq!(shown["values"]["observers"]["from"], "--set observers");
    let one = job.run_with(&["--set", "observers=notes", "config", "check"]);
    one.success();
}

#[test]
fn wrong_keys_and_values_of_an_observer_are_named() {
    for (observer, status, said) in [
        (
            json!({ "use": "notes", "pause": 1 }),
            2,
            &["unknown key `observers.0.pause`", "did you mean `pause_ms`?"][..],
        ),
        (json!({ "use": "notes", "pause_ms": "x" }), 2, &["`observers.0.pause_ms`", "an integer from 0"]),
        (json!({ "pause_ms": 1 }), 2, &["`observers.0.use` is not set"]),
        (json!("notez"), 3, &["there is no observer plugin `notez`", "did you mean `notes`?"]),
        (
            json!({ "use": "notes", "file": "/dev/null/x" }),
            2,
            &["the file of notes cannot be created", "observer notes"],
        ),
    ] {
        let job = observers(Job::new(), &json!([observer]));
        assert_says(&job.run().failure(status), said);
        assert!(!job.output().exists(), "nothing is written before everything is checked");
    }
}

#[test]
fn an_observer_that_fails_or_panics_is_reported_once_and_the_run_goes_on() {
    let plain = Job::new();
    plain.run().success();
    let job = Job::new();
    let file = notes(&job, "a");
    let job = observers(
        job,
        &json!([{ "use": "notes", "fails_at": 3 }, { "use": "notes", "panics_at": 4 }, { "use": "notes", "file": file },
            { "use": "notes", "panics_when_dropped": true }]),
    );
    let run = job.run().success();
    for said in ["the dashboard is gone", "this number is too much for me", "not without my notes"] {
        assert_eq!(run.stderr.matches(said).count(), 1, "{said}: {}", run.stderr);
    }
    assert_says(&run.stderr, &["warning: observer notes 0.1.0 is switched off, and the run goes on"]);
    assert!(job.final_weights() == plain.final_weights());
    assert_eq!(names(&noted(&file)).last(), Some(&"finished"));
}

#[test]
fn a_panic_on_a_thread_of_a_plugins_own_is_logged_with_its_library() {
    let job = observers(Job::new().set("trainer.max_steps", 3), &json!([{ "use": "notes", "thread_panics_at": 2 }]));
    let run = job.run().success();
    assert_says(
        &run.stderr,
        &["warning: mdt-test-faulty 0.1.0: a thread of its own panicked: nobody is with me", ".rs:"],
    );
    assert!(!run.stderr.contains("panicked at"), "{}", run.stderr);
}

#[test]
fn a_slow_observer_and_one_that_never_comes_back_hold_up_nothing_but_the_last_seconds() {
    let plain = Job::new();
    let begin = Instant::now();
    plain.run().success();
    let alone = begin.elapsed();
    let list = json!([{ "use": "notes", "pause_ms": 600_000 }, { "use": "notes", "spins_at": 2 }]);
    let job = observers(Job::new(), &list);
    let begin = Instant::now();
    let run = job.run().success();
    assert!(begin.elapsed() < 3 * alone + Duration::from_secs(20), "{:?} after {alone:?}", begin.elapsed());
    assert_says(&run.stderr, &["has not worked through what it was told"]);
    assert!(job.final_weights() == plain.final_weights());
}

#[test]
fn observers_are_told_of_a_failure_and_of_an_interruption() {
    let job = Job::new();
    let file = notes(&job, "a");
    let list = json!([{ "use": "notes", "file": file }]);
    let failing = observers(job.set("optimizer", "panics_at_three"), &list);
    failing.run().failure(3);
    let events = noted(&file);
    assert_eq!(names(&events), ["started", "updated", "updated", "failed"]);
    assert_says(events[3]["message"].as_str().expect("text"), &["three is too much for me"]);

    let job = Job::new().set("plugins.timeout_s", 1);
    let file = notes(&job, "a");
    let spinning = job.set("optimizer", "ends_the_process").set("optimizer.by", "spin");
    let spinning = observers(spinning, &json!([{ "use": "notes", "file": file }]));
    spinning.run().failure(3);
    let events = noted(&file);
    assert_eq!(names(&events), ["started", "updated", "updated", "failed"]);
    assert_says(events[3]["message"].as_str().expect("text"), &["has not come back for 1 second"]);

    let job = Job::new().set("trainer.max_steps", 100_000);
    let file = notes(&job, "a");
    let job = observers(job, &json!([{ "use": "notes", "file": file }]));
    let mut process = job.start();
    process.wait_until(|| job.lines_so_far() > 2);
    process.signal("INT");
    assert_eq!(process.end().status, Some(130));
    assert_eq!(names(&noted(&file))[names(&noted(&file)).len() - 2..], ["checkpoint_written", "interrupted"]);
}

#[test]
fn only_rank_0_observes_unless_every_rank_is_to() {
    for (every_rank, observed) in [(false, 1), (true, 2)] {
        let job = Job::new().set("trainer.max_steps", 2).set("trainer.batch_size", 2);
        let list = json!([{ "use": "notes", "every_rank": every_rank, "fails_at": 1 }]);
        let job = observers(job, &list);
        let mut launched = command();
        launched.args(["launch", "-n", "2"]).args(job.arguments()).args(["--set", "comm.use=grpc"]);
        let run = Process::start(&mut launched).end().success();
        assert_eq!(run.stderr.matches("the dashboard is gone").count(), observed, "{}", run.stderr);
    }
}

/// The records of an event file, each checked against its checksums.
fn records(file: &Path) -> Vec<Vec<u8>> {
    let bytes = fs::read(file).expect("an event file");
    let number = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().expect("four bytes"));
    let masked = |bytes: &[u8]| crc_fast::crc32_iscsi(bytes).rotate_right(15).wrapping_add(0xa282_ead8);
    let (mut records, mut rest) = (Vec::new(), &bytes[..]);
    while !rest.is_empty() {
        let length = u64::from_le_bytes(rest[..8].try_into().expect("eight bytes")) as usize;
        assert_eq!(number(&rest[8..12]), masked(&rest[..8]));
        let record = &rest[12..12 + length];
        assert_eq!(number(&rest[12 + length..16 + length]), masked(record));
        records.push(record.to_vec());
        rest = &rest[16 + length..];
    }
    records
}

#[test]
fn tensorboards_event_files_have_every_number_of_a_run_and_of_its_continuation() {
    let job = Job::new().set("trainer.max_steps", 4).set("checkpoint.save_steps", 2);
    let plugins = job.directory().join("plugins");
    fs::create_dir(&plugins).expect("a directory");
    let library = example_plugin("tensorboard");
    fs::copy(&library, plugins.join(library.file_name().expect("a name"))).expect("a copy");
    let job = job.argument("--plugin-dir").argument(plugins.display().to_string());
    let job = observers(job, &json!("tensorboard"));
    assert_says(&job.run().success().stderr, &["observer tensorboard 0.1.0"]);

    let has = |record: &Vec<u8>, what: &[u8]| record.windows(what.len()).any(|window| window == what);
    let directory = job.output().join("tensorboard");
    let files = || {
        let mut files: Vec<_> =
            fs::read_dir(&directory).expect("event files").map(|entry| entry.expect("an entry").path()).collect();
        files.sort();
        files
    };
    let first = records(&files()[0]);
    assert!(has(&first[0], b"brain.Event:2") && first.iter().any(|record| has(record, b"max_steps")));
    let losses: Vec<_> = first.iter().filter(|record| has(record, b"train/loss")).collect();
    let expected = job.numbers("loss");
    assert_eq!(losses.len(), expected.len());
    for (record, loss) in losses.iter().zip(expected) {
        assert!(has(record, &[b"train/loss\x15", &(loss as f32).to_le_bytes()[..]].concat()), "{loss}");
    }

    fs::remove_dir_all(job.checkpoint(4)).expect("the last checkpoint");
    fs::remove_dir_all(job.output().join("final")).expect("the final model");
    job.run().success();
    let second = records(&files()[1]);
    assert_eq!(second.iter().filter(|record| has(record, b"train/loss")).count(), 2);
}
