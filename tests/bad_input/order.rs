//! The order of checks: with two things wrong, the status is that of the one that is checked first, and whatever is
//! wrong, what an earlier run wrote stays as it is.

use mdt_tests::{Job, tree};

const CONFIGURATION: (&str, &str) = ("seeed", "1");
const PLUGIN: (&str, &str) = ("optimizer", "panics_when_made");
const MISSING_PLUGIN: (&str, &str) = ("comm", "pigeons");
const MODEL: (&str, &str) = ("model.path", "tests/fixtures/nowhere");
const DATA: (&str, &str) = ("data.train", "tests/fixtures/nowhere.jsonl");
const OUTPUT: (&str, &str) = ("output_dir", "Cargo.toml");

#[test]
fn of_two_things_that_are_wrong_the_earlier_check_decides() {
    for (wrong, status) in [
        (&[CONFIGURATION, PLUGIN, MODEL, DATA, OUTPUT][..], 2),
        (&[CONFIGURATION, MISSING_PLUGIN], 2),
        (&[("optimizer.learning_rate", "-1"), MISSING_PLUGIN], 2),
        (&[MISSING_PLUGIN, MODEL, DATA, OUTPUT], 3),
        (&[PLUGIN, MODEL], 3),
        (&[PLUGIN, DATA, OUTPUT], 3),
        (&[("optimizer", "never"), MODEL, OUTPUT], 3),
        (&[("optimizer.beta1", "7"), MODEL, OUTPUT], 2),
        (&[MODEL, DATA, OUTPUT], 4),
        (&[DATA, OUTPUT], 4),
        (&[OUTPUT], 7),
    ] {
        let job = wrong.iter().fold(Job::new(), |job, (key, value)| job.set(key, value));
        let run = job.run();
        assert_eq!(run.status, Some(status), "{wrong:?}\n{}", run.stderr);
        run.failure(status);
    }
}

#[test]
fn whatever_is_wrong_an_earlier_runs_files_stay_as_they_are() {
    let job = Job::new().set("trainer.max_steps", 2).set("checkpoint.save_steps", 1);
    job.run().success();
    let before = tree(&job.output());
    for (key, value) in [
        CONFIGURATION,
        PLUGIN,
        MISSING_PLUGIN,
        MODEL,
        DATA,
        ("seed", "7"),
        ("data.train", "tests/fixtures/training/job.toml"),
        ("model.path", "tests/fixtures/models/llama3"),
        ("checkpoint.resume", "tests/fixtures/training/model"),
    ] {
        let run = job.run_with(&["--set", &format!("{key}={value}")]);
        assert!(matches!(run.status, Some(2..=7)), "{key}={value}: {run:?}");
        assert!(tree(&job.output()) == before, "{key}={value} changed what was there");
    }
    let done = job.run().success();
    assert!(done.stderr.contains("all 2 updates are done already"), "{}", done.stderr);
}
