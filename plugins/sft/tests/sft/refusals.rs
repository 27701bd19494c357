//! What cannot be trained on is an error that says what and where, and what to do.

use std::path::Path;

use mdt_plugin_api::prelude::*;
use serde_json::json;

use crate::setup::{
    Config, conversation, create, directory, example, fixtures, messages, prompt_completion, trainer, with_template,
};

fn chatml() -> std::path::PathBuf {
    fixtures().join("chat/chatml")
}

fn refused(directory: &Path, config: Config) -> Error {
    create(directory, config).err().expect("refused")
}

fn assert_says(error: &Error, code: ErrorCode, parts: &[&str]) {
    let text = format!("{error:?}");
    assert_eq!(error.code(), code, "{text}");
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing in: {text}");
    }
}

#[test]
fn a_prompt_that_is_no_beginning_of_the_conversation_names_template_and_row() {
    // Shows a question otherwise once it is answered: no context of the answer is what generation would see.
    let template = "{% for m in messages %}<|im_start|>{{ m.role }}\n\
        {{ m.content if loop.last else m.content | upper }}<|im_end|>\n{% endfor %}\
        {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    let trainer = with_template("chatml", template);
    let one = json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]);
    let more = json!([one[0], one[1], {"role": "user", "content": "Hm"}, {"role": "assistant", "content": "Ha"}]);
    for chat in [one, more] {
        let error = trainer.encode(&example(messages(&chat))).expect_err("refused");
        let parts = ["template: tokenizer.chat_template", "row: 812", "message: 2", "HI", "{% generation %}"];
        assert_says(&error, ErrorCode::Input, &parts);
    }
}

#[test]
fn a_prompt_that_no_answer_follows_is_refused_by_template_and_row() {
    let template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
        {% if add_generation_prompt %}<|im_start|>model\n{% endif %}";
    let chat = json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]);
    let error = with_template("chatml", template).encode(&example(messages(&chat))).expect_err("refused");
    assert_says(&error, ErrorCode::Input, &["template: tokenizer.chat_template", "row: 812", "message: 2", "model"]);
}

#[test]
fn without_an_end_of_sequence_token_a_template_that_never_ends_an_answer_is_refused() {
    let template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}";
    let chat = json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]);
    let place = directory("chatml", &[("tokenizer_config.json", "{}")]);
    let config = Config { chat_template: Some(template.to_owned()), ..Config::default() };
    let error = trainer(place.path(), config).encode(&example(messages(&chat))).expect_err("refused");
    assert_says(&error, ErrorCode::Input, &["no special token", "row: 812", "eos_token"]);
}

#[test]
fn what_a_template_itself_refuses_is_passed_on() {
    let trainer = trainer(&chatml(), Config::default());
    let chat = json!([{"role": "judge", "content": "Hi"}]);
    let error = trainer.encode(&example(messages(&chat))).expect_err("refused");
    assert_says(&error, ErrorCode::Input, &["unknown role: judge", "tokenizer_config.json", "row: 812"]);
}

#[test]
fn the_noncharacters_that_mark_answers_are_refused_in_rows() {
    let template = chatml().join("generation.jinja").display().to_string();
    let trainer = with_template("chatml", &template);
    let chat = json!([{"role": "user", "content": "\u{FDD0}"}, {"role": "assistant", "content": "Ho"}]);
    let error = trainer.encode(&example(messages(&chat))).expect_err("refused");
    assert_says(&error, ErrorCode::Input, &["U+FDD0", "row: 812"]);
}

#[test]
fn tools_and_calls_are_never_left_out_silently() {
    let trainer = trainer(&chatml(), Config::default());
    let turns = json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]);
    let tools = json!({"messages": turns, "tools": [{"type": "function", "function": {"name": "f"}}]});
    let error = trainer.encode(&example(conversation(&tools))).expect_err("refused");
    assert_says(&error, ErrorCode::Input, &["has tools", "tokenizer_config.json", "row: 812", "data.fields"]);
    let none = json!({"messages": turns, "tools": []});
    assert!(trainer.encode(&example(conversation(&none))).is_ok());

    let calls = json!([turns[0], {"role": "assistant", "content": "", "tool_calls": [{"name": "f"}]}]);
    let error = trainer.encode(&example(messages(&calls))).expect_err("refused");
    assert_says(&error, ErrorCode::Input, &["calls tools", "message: 2", "tokenizer_config.json", "row: 812"]);
}

#[test]
fn a_conversation_without_a_template_says_how_to_give_one() {
    let place = directory("chatml", &[("tokenizer_config.json", r#"{"eos_token": "<|im_end|>"}"#)]);
    let trainer = trainer(place.path(), Config::default());
    assert!(trainer.encode(&prompt_completion("Hi", "Ho")).is_ok());
    let error = trainer.encode(&example(messages(&json!([{ "role": "user", "content": "Hi" }])))).expect_err("refused");
    assert_says(&error, ErrorCode::Input, &["no chat template", "tokenizer.chat_template", "row: 812"]);
}

#[test]
fn a_tokenizer_without_an_end_of_sequence_cannot_train_completions() {
    let place = directory("chatml", &[("tokenizer_config.json", "{}")]);
    let error = trainer(place.path(), Config::default()).encode(&prompt_completion("Hi", "Ho")).expect_err("refused");
    assert_says(&error, ErrorCode::Input, &["end-of-sequence", "tokenizer_config.json", "row: 812"]);
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let empty = tempfile::tempdir().expect("a temporary directory");
    assert_says(&refused(empty.path(), Config::default()), ErrorCode::Input, &["tokenizer.json", "help"]);

    let broken = directory("chatml", &[("tokenizer.json", "{\"version\": ")]);
    assert_says(&refused(broken.path(), Config::default()), ErrorCode::Input, &["tokenizer.json", "line 1"]);

    let unknown = directory("chatml", &[("tokenizer_config.json", r#"{"eos_token": "</nowhere>"}"#)]);
    assert_says(&refused(unknown.path(), Config::default()), ErrorCode::Input, &["eos_token", "</nowhere>"]);

    let invalid = directory("chatml", &[("chat_template.jinja", "a\n{% if %}")]);
    assert_says(&refused(invalid.path(), Config::default()), ErrorCode::Input, &["chat_template.jinja", "line 2"]);
}

#[test]
fn configuration_that_cannot_work_names_its_key() {
    let cases = [
        (Config { template_date: Some("today".into()), ..Config::default() }, "tokenizer.template_date"),
        (Config { chat_template: Some("no/such/file.jinja".into()), ..Config::default() }, "tokenizer.chat_template"),
    ];
    for (config, key) in cases {
        assert_says(&refused(&chatml(), config), ErrorCode::Config, &[key]);
    }
}
