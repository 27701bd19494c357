//! What reaches a terminal: no control characters of files and models, and a bar that fits.

use std::fs;

use mdt_tests::{Job, Run, command, on_terminal, root, run};

/// A name that would turn the text red, clear the screen and reverse the order of what follows.
const HOSTILE: &str = "a\x1b[31m\x1b[2J\u{9b}\u{202e}b";

#[track_caller]
fn assert_harmless(text: &str) {
    let commands = |c: &char| c.is_control() && !matches!(c, '\n' | '\t') || *c == '\u{202e}';
    assert_eq!(text.chars().find(commands), None, "{text:?}");
}

/// Checks that the run names the hostile file and that nothing of it commands the terminal.
#[track_caller]
fn assert_names_harmlessly(run: &Run) {
    assert_harmless(&run.stdout);
    assert_harmless(&run.stderr);
    let all = format!("{}{}", run.stdout, run.stderr);
    assert!(all.contains("a\\u001b[31m\\u001b[2J\\u009b\\u202eb"), "{all}");
}

/// A job that trains on a file of that name.
fn hostile_job() -> Job {
    let job = Job::new();
    let data = job.directory().join(HOSTILE).with_extension("jsonl");
    fs::copy(root().join("tests/fixtures/training/train.jsonl"), &data).expect("rows");
    job.set("data.train", data.display()).set("trainer.max_steps", 1)
}

#[test]
fn errors_name_files_harmlessly() {
    assert_names_harmlessly(&run(["config", "check", "--config", &format!("{HOSTILE}.toml")]));
    assert_names_harmlessly(&Job::new().set("model.path", HOSTILE).run());
    assert_names_harmlessly(&Job::new().set("data.train", format!("{HOSTILE}.jsonl")).run());
}

#[test]
fn values_of_files_are_shown_harmlessly() {
    let job = Job::new();
    let text = "output_dir = \"a\\u001b[31m\\u001b[2J\\u009b\\u202eb\"\n";
    let file = job.file("job.toml", text).display().to_string();
    assert_names_harmlessly(&run(["config", "show", "--config", &file]));
    let json = run(["config", "show", "--json", "--config", &file]);
    assert_names_harmlessly(&json);
    let value: serde_json::Value = serde_json::from_str(&json.stdout).expect("JSON");
    assert_eq!(value["values"]["output_dir"]["value"], HOSTILE, "escaped JSON has the same values");
}

#[test]
fn plugin_lists_and_doctor_name_files_harmlessly() {
    let job = Job::new();
    let plugins = job.directory().join(HOSTILE);
    fs::create_dir(&plugins).expect("a directory");
    fs::write(plugins.join(format!("{HOSTILE}{}", std::env::consts::DLL_SUFFIX)), "no plugin").expect("a file");
    let plugins = plugins.display().to_string();
    assert_names_harmlessly(&run(["plugin", "list", "--plugin-dir", &plugins]));
    assert_names_harmlessly(&run(["doctor", "--plugin-dir", &plugins]));
    assert_names_harmlessly(&run(["plugin", "inspect", HOSTILE]));
}

#[test]
fn previews_answers_and_the_merged_view_of_ranks_name_files_harmlessly() {
    let job = hostile_job();
    assert_names_harmlessly(&job.run_with(&["data", "preview", "--rows", "1"]).success());
    let output = job.output().with_file_name(HOSTILE);
    let job = job.set("output_dir", output.display()).set("checkpoint.save_steps", 1);
    assert_names_harmlessly(&job.run_with(&["launch", "-n", "1"]).success());
    let model = output.join("final").display().to_string();
    let answer = run(["generate", "--model", &model, "--prompt", "a\x1b[31m", "--max-tokens", "2"]).success();
    assert_harmless(&answer.stdout);
    assert_names_harmlessly(&run(["generate", "--model", &format!("{model}x"), "--prompt", "a"]));
}

#[test]
fn on_a_narrow_terminal_progress_keeps_to_its_line() {
    for columns in [24, 40, 59, 80, 200] {
        let job = Job::new().set("trainer.max_steps", 4);
        let shown = on_terminal(command().args(job.arguments()), columns);
        let lines = shown.split(['\n', '\r']).map(without_sequences).filter(|line| line.contains("step "));
        let longest = lines.map(|line| line.trim_end().chars().count()).max().expect("progress");
        assert!(longest <= usize::from(columns), "{longest} of {columns} columns:\n{shown}");
        assert!(columns < 40 || shown.contains("loss"), "{shown}");
    }
}

/// The text without colours and movements of the cursor.
fn without_sequences(text: &str) -> String {
    let mut parts = text.split("\x1b[");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| {
        text + part.trim_start_matches(|c: char| !c.is_ascii_alphabetic()).get(1..).unwrap_or("")
    })
}
