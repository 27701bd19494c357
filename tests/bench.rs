//! `mdt-host bench` measures each part of a job, and has its figures as JSON.

use mdt_tests::{Job, assert_says};
use serde_json::Value;

fn figures(job: &Job, command: &[&str]) -> Value {
    let command = [&["bench"], command, &["--json"]].concat();
    serde_json::from_str(&job.run_with(&command).success().stdout).expect("one JSON object")
}

fn number(figures: &Value, name: &str) -> f64 {
    figures[name].as_f64().unwrap_or_else(|| panic!("{name} in {figures}"))
}

#[test]
fn every_part_of_a_job_is_measured() {
    let job = Job::new();
    let cases: [(&[&str], &[&str]); 5] = [
        (&["train", "--tokens", "8", "--steps", "2"], &["tokens_per_s", "step_s_median", "parameters"]),
        (&["optimizer", "--times", "2"], &["s_median", "gb_per_s", "share_of_plain_pass", "parameters"]),
        (&["data"], &["rows_per_s", "tokens_per_s", "s"]),
        (&["load", "--times", "2"], &["s_median", "bytes", "gb_per_s"]),
        (&["generate", "--max-tokens", "4", "--times", "2"], &["prompt_tokens_per_s", "answer_tokens_per_s"]),
    ];
    for (command, names) in cases {
        let figures = figures(&job, command);
        for name in names {
            assert!(number(&figures, name) > 0.0, "{name} of {command:?} in {figures}");
        }
        if let Some(spread) = [&figures, &figures["prompt"]].into_iter().find(|figures| figures["s_median"].is_number())
        {
            let [least, median, most] = ["s_min", "s_median", "s_max"].map(|name| number(spread, name));
            assert!(least <= median && median <= most, "{spread}");
        }
    }
}

#[test]
fn answers_are_as_long_as_was_asked_and_figures_are_for_people_too() {
    let job = Job::new();
    let run = job.run_with(&["bench", "generate", "--batch-size", "2", "--prompt-tokens", "5", "--max-tokens", "3"]);
    assert_says(&run.success().stdout, &["prompts ", "answers ", "tokens/s", "peak memory"]);
    let run = job.run_with(&["bench", "optimizer", "--times", "1"]);
    assert_says(&run.success().stdout, &["update ", "plain pass ", "GB/s"]);
}
