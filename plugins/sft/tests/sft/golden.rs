//! Token ids and masks against those of transformers, for the fixtures of three families of chat templates.

use mdt_plugin_api::prelude::*;
use mdt_sft::{Config, Sft};
use serde_json::Value;

use crate::setup::{self, example, fixtures, messages, ones, trainer};

/// A family, its conversations, and a trainer for its plain and for its marked template.
fn for_each_conversation(check: impl Fn(&Sft, &str, &Value)) {
    for family in ["chatml", "llama3", "llama2"] {
        let directory = fixtures().join("chat").join(family);
        let marked = directory.join("generation.jinja").display().to_string();
        let expected = setup::json(&directory.join("expected.json"));
        for chat_template in [None, Some(marked)] {
            let kind = if chat_template.is_some() { "marked" } else { "plain" };
            let trainer = trainer(&directory, Config { chat_template, ..Config::default() });
            for (name, case) in expected["conversations"].as_object().expect("an object") {
                check(&trainer, &format!("{family}, {kind} template, {name}"), case);
            }
        }
    }
}

#[test]
fn conversations_get_the_ids_and_masks_of_transformers() {
    for_each_conversation(|trainer, name, case| {
        let encoded = trainer.encode(&example(messages(&case["messages"]))).expect(name);
        assert_eq!(encoded.tokens, setup::ids(&case["input_ids"]), "{name}");
        assert_eq!(ones(&encoded.supervised), setup::ids(&case["assistant_mask"]), "{name}");
        assert_eq!(encoded.truncated, 0, "{name}");
    });
}

#[test]
fn prompts_are_rendered_up_to_where_the_assistant_begins() {
    for_each_conversation(|trainer, name, case| {
        let Content::Messages(turns) = messages(&case["messages"]) else { unreachable!() };
        let whole = trainer.encode_prompt(&example(Content::Messages(turns.clone()))).expect(name);
        let without_answer = turns[..turns.len() - 1].to_vec();
        assert_eq!(trainer.encode_prompt(&example(Content::Messages(without_answer))).expect(name), whole, "{name}");

        let expected = case["generation_prompt_text"].as_str().expect("text");
        let ids = setup::ids(&case["input_ids"]);
        assert!(ids.starts_with(&whole) && whole.len() < ids.len(), "{name}");
        let tokens = trainer.encode(&example(Content::Text(expected.to_owned()))).expect(name).tokens;
        assert!(tokens.starts_with(&whole), "{name}");
    });
}

#[test]
fn each_answer_ends_with_its_end_of_turn_token_and_that_stops_generation() {
    for_each_conversation(|trainer, name, case| {
        let encoded = trainer.encode(&example(messages(&case["messages"]))).expect(name);
        let stop = trainer.vocabulary().expect(name).stop;
        let answers = case["messages"].as_array().expect("a list").iter().filter(|turn| turn["role"] == "assistant");
        let ends: Vec<usize> = (0..encoded.tokens.len())
            .filter(|&t| encoded.supervised[t] && encoded.supervised.get(t + 1) != Some(&true))
            .collect();
        assert_eq!(ends.len(), answers.count(), "{name}");
        for end in ends {
            assert!(stop.contains(&encoded.tokens[end]), "{name}");
        }
    });
}

#[test]
fn prompts_and_completions_get_the_ids_and_masks_of_the_training_fixture() {
    let directory = fixtures().join("training");
    let trainer = trainer(&directory.join("model"), Config { max_seq_len: 64, ..Config::default() });
    let rows = setup::lines(&directory.join("train.jsonl"));
    let expected = setup::lines(&directory.join("tokens.jsonl"));
    assert_eq!(rows.len(), expected.len());
    for (row, expected) in rows.iter().zip(&expected) {
        let text = |key: &str| row[key].as_str().expect("text").to_owned();
        let content = Content::PromptCompletion { prompt: text("prompt"), completion: text("completion") };
        let encoded = trainer.encode(&example(content.clone())).expect("encodes");
        assert_eq!(encoded.tokens, setup::ids(&expected["input_ids"]));
        assert_eq!(ones(&encoded.supervised), setup::ids(&expected["supervised"]));

        let prompt = trainer.encode_prompt(&example(content)).expect("encodes");
        assert_eq!(prompt.len(), encoded.supervised.iter().position(|&trained| trained).expect("an answer"));
        let answer = trainer.decode(&encoded.tokens[prompt.len()..]).expect("decodes");
        assert_eq!(answer, text("completion"), "special tokens are not decoded");
    }
    assert_eq!(trainer.vocabulary().expect("known"), Vocabulary { size: 99, stop: vec![2] });
}
