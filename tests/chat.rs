//! `mdt-host chat`: a conversation from lines, and on a terminal.

use std::io::Write;
use std::process::Stdio;

use mdt_tests::{Job, Run, Typing, assert_says, command, root, run};
use serde_json::{Value, json};

fn model() -> String {
    root().join("tests/fixtures/training/model").display().to_string()
}

/// A conversation of these lines.
fn chat(arguments: &[&str], lines: &str) -> Run {
    let mut command = command();
    command.args(["chat", "--model", &model(), "--max-tokens", "12"]).args(arguments);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    child.stdin.take().expect("a pipe").write_all(lines.as_bytes()).expect("it reads");
    Run::from(child.wait_with_output().expect("its output"))
}

fn answers(run: &Run) -> Vec<Value> {
    run.stdout.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

/// The answer that `generate` gives to a conversation, which it computes from its first token on.
fn generated(messages: Value) -> Value {
    let job = Job::new();
    let rows = job.file("rows.jsonl", json!({ "messages": messages }).to_string()).display().to_string();
    let arguments = ["generate", "--model", &model(), "--data", &rows, "--max-tokens", "12", "--json"];
    let answers: Value = serde_json::from_str(&run(arguments).success().stdout).expect("JSON");
    answers["rows"][0]["answer"].clone()
}

#[test]
fn each_answer_is_that_of_the_whole_conversation_and_only_what_is_new_is_computed() {
    let run = chat(&["--json", "--system", "Be loud"], "Shout abc\n\nShout bf\nand again\n").success();
    let answers = answers(&run);
    assert_eq!(answers.len(), 3, "an empty line is no message:\n{}", run.stdout);
    let mut messages = vec![json!({ "role": "system", "content": "Be loud" })];
    let mut computed = 0;
    for (line, answer) in ["Shout abc", "Shout bf", "and again"].into_iter().zip(&answers) {
        messages.push(json!({ "role": "user", "content": line }));
        assert_eq!(answer["answer"], generated(json!(messages)), "{messages:?}");
        messages.push(json!({ "role": "assistant", "content": answer["answer"] }));
        let number = |name: &str| answer[name].as_u64().expect("a number");
        // All that was computed before, where the text of an answer has the tokens that it was made of.
        assert_eq!(number("known_tokens"), computed, "{answer}");
        computed = number("prompt_tokens") + number("answer_tokens") - u64::from(answer["ended_by"] == "max_tokens");
    }
}

#[test]
fn a_reset_forgets_everything_and_the_end_of_input_or_exit_ends() {
    let run = chat(&["--json"], "Shout abc\n/reset\nShout abc\n/exit\nShout bf\n").success();
    let answers = answers(&run);
    assert_eq!(answers.len(), 2, "{}", run.stdout);
    assert_eq!(answers[0], answers[1], "nothing is known after a reset");
    assert_eq!(answers[1]["known_tokens"], 0);
    let text = chat(&[], "Shout abc\nShout bf").success().stdout;
    assert_eq!(text.lines().next(), answers[0]["answer"].as_str());
    assert_eq!(text.lines().count(), 2, "{text}");
    assert_eq!(chat(&[], "").success().stdout, "");
}

#[test]
fn a_model_without_a_template_holds_no_conversations() {
    let job = Job::new();
    let copy = job.directory().join("plain");
    mdt_tests::copy_files(std::path::Path::new(&model()), &copy);
    let config = copy.join("tokenizer_config.json");
    let text = std::fs::read_to_string(&config).expect("the file").replace("\"chat_template\"", "\"other\"");
    std::fs::write(&config, text).expect("a file");
    let error = run(["chat", "--model", &copy.display().to_string()]).failure(4);
    assert_says(&error, &["no chat template", "plain", "tokenizer.chat_template", "mdt-host generate"]);
}

#[test]
fn on_a_terminal_an_interruption_stops_the_answer_and_another_one_the_program() {
    let mut chat = on_terminal("1000000");
    chat.wait_until(|shown| shown.ends_with("> "));
    assert_says(&chat.shown(), &["/reset", "Ctrl-C"]);
    chat.types("Shout abc\n");
    chat.wait_until(|shown| shown.find("Shout abc").is_some_and(|line| shown.len() > line + 30));
    let before = chat.shown().matches("> ").count();
    chat.interrupt();
    chat.wait_until(|shown| shown.ends_with("> ") && shown.matches("> ").count() > before);
    std::thread::sleep(std::time::Duration::from_secs(1));
    chat.interrupt();
    assert_eq!(chat.end(), Some(130));

    let mut chat = on_terminal("5");
    chat.wait_until(|shown| shown.ends_with("> "));
    chat.types("Shout bf\n");
    chat.wait_until(|shown| shown.matches("> ").count() > 1 && shown.ends_with("> "));
    // The end of input, as Ctrl-D types it.
    chat.types("\u{4}");
    assert_eq!(chat.end(), Some(0));
}

/// A conversation on a terminal, whose answers have at most so many tokens.
fn on_terminal(max_tokens: &str) -> Typing {
    Typing::start(command().args(["chat", "--model", &model(), "--max-tokens", max_tokens]))
}
