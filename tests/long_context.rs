//! A long row takes memory for its tokens, and not for every pair of them.

use mdt_tests::{Job, copy_files, root, run};
use serde_json::Value;

/// The figures of two updates on rows of random tokens.
fn figures(job: &Job, rows: usize, tokens: usize) -> Value {
    let tokens = tokens.to_string();
    let command = ["bench", "train", "--json", "--steps", "1", "--tokens", &tokens];
    let rows = ["--set".to_owned(), format!("trainer.batch_size={rows}")];
    let arguments = command.map(str::to_owned).into_iter().chain(job.arguments().iter().cloned()).chain(rows);
    serde_json::from_str(&run(arguments).success().stdout).expect("figures")
}

/// Models whose every query sees all keys before it, and those of a window.
fn jobs() -> [Job; 2] {
    let windowed = Job::of(&["architectures/mistral/job.toml", "architectures/mistral/adamw.toml"]);
    let model = windowed.directory().join("model");
    copy_files(&root().join("tests/fixtures/models/mistral"), &model);
    let config = std::fs::read_to_string(model.join("config.json")).expect("a config.json");
    let config = config.replace("\"sliding_window\": 128", "\"sliding_window\": 700");
    std::fs::write(model.join("config.json"), config).expect("a config.json");
    [Job::new(), windowed.set("model.path", model.display())]
}

#[test]
fn one_long_row_takes_no_more_memory_than_many_short_ones() {
    for job in jobs() {
        let peak = |rows, tokens| figures(&job, rows, tokens)["peak_memory_bytes"].as_f64().expect("bytes");
        let (long, short) = (peak(1, 8192), peak(32, 256));
        // The scores of one head alone would be 256 MiB.
        assert!(long < 1.5 * short, "{long} bytes for one row, {short} for many");
    }
}

#[test]
fn long_rows_have_the_same_bits_when_layers_are_computed_again() {
    for job in jobs() {
        let job = job.set("optimizer.learning_rate", 0.01);
        let kept = figures(&job, 1, 3000);
        let again = figures(&job.set("trainer.checkpoint_activations", "all"), 1, 3000);
        assert_eq!(kept["loss"], again["loss"]);
    }
}
