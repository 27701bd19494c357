//! Token ids and masks against those of transformers, for the fixtures of six families of chat templates.

use mdt_plugin_api::prelude::*;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::setup::{self, Config, Pair, conversation, example, fixtures, ones, trainer};

const FAMILIES: [&str; 6] = ["chatml", "llama3", "llama2", "mistral", "qwen", "qwen3"];

/// A template of a family, plain or with its answers marked.
struct Template {
    name: String,
    trainer: Pair,
    /// The key of the mask that it gives.
    mask: &'static str,
    end_of_turn: u32,
}

/// Each family's conversations with its plain and with its marked template.
fn for_each_conversation(check: impl Fn(&Template, &str, &Value)) {
    for family in FAMILIES {
        let directory = fixtures().join("chat").join(family);
        let marked = directory.join("generation.jinja").display().to_string();
        let expected = setup::json(&directory.join("expected.json"));
        let tokenizer = tokenizers::Tokenizer::from_file(directory.join("tokenizer.json")).expect("a tokenizer");
        let end_of_turn = tokenizer.token_to_id(expected["end_of_turn"].as_str().expect("text")).expect("a token");
        for (chat_template, mask) in [(None, "plain_mask"), (Some(marked), "assistant_mask")] {
            let name = format!("{family}, {}", if chat_template.is_some() { "marked" } else { "plain" });
            let trainer = trainer(&directory, Config { chat_template, ..Config::default() });
            let template = Template { name, trainer, mask, end_of_turn };
            for (name, case) in expected["conversations"].as_object().expect("an object") {
                check(&template, &format!("{}, {name}", template.name), case);
            }
        }
    }
}

/// The same, without the conversations that a plain template has no mask for.
fn for_each_mask(check: impl Fn(&Template, &str, &Value)) {
    for_each_conversation(|template, name, case| {
        if !case[template.mask].is_null() {
            check(template, name, case);
        }
    });
}

#[test]
fn conversations_get_the_ids_and_masks_of_transformers() {
    for_each_mask(|template, name, case| {
        let encoded = template.trainer.encode(&example(conversation(case))).expect(name);
        assert_eq!(encoded.tokens, setup::ids(&case["input_ids"]), "{name}");
        assert_eq!(ones(&encoded.supervised), setup::ids(&case[template.mask]), "{name}");
        assert_eq!(encoded.truncated, 0, "{name}");
    });
}

#[test]
fn a_plain_template_that_changes_earlier_turns_trains_each_answer_as_generation_sees_it() {
    let split = std::cell::Cell::new(0);
    for_each_conversation(|template, name, case| {
        if case[template.mask].is_null() {
            let sequences = template.trainer.sequences(&example(conversation(case))).expect(name);
            let turns = case["turns"].as_array().expect("a list");
            assert_eq!(sequences.len(), turns.len(), "{name}");
            for (sequence, turn) in sequences.iter().zip(turns) {
                assert_eq!(sequence.tokens, setup::ids(&turn["input_ids"]), "{name}");
                assert_eq!(ones(&sequence.supervised), setup::ids(&turn["mask"]), "{name}");
            }
            split.set(split.get() + 1);
        }
    });
    assert_eq!(split.get(), 8, "the fixtures of qwen3 with several answers");
}

#[test]
fn prompts_are_rendered_up_to_where_the_assistant_begins() {
    for_each_mask(|template, name, case| {
        let trainer = &template.trainer;
        let Content::Messages(turns) = conversation(case) else { unreachable!() };
        let whole = trainer.encode_prompt(&example(Content::Messages(turns.clone()))).expect(name);
        let without_answer = turns[..turns.len() - 1].to_vec();
        assert_eq!(trainer.encode_prompt(&example(Content::Messages(without_answer))).expect(name), whole, "{name}");

        let expected = case["generation_prompt_text"].as_str().expect("text");
        let tokens = trainer.encode(&example(Content::Text(expected.to_owned()))).expect(name).tokens;
        assert!(tokens.starts_with(&whole), "{name}");
        // A template of reasoning models may show the last question without what was thought before it.
        if case["text"].as_str().expect("text").starts_with(expected) {
            let ids = setup::ids(&case["input_ids"]);
            assert!(ids.starts_with(&whole) && whole.len() < ids.len(), "{name}");
        }
    });
}

#[test]
fn each_answer_ends_with_its_end_of_turn_token_and_that_stops_generation() {
    for_each_mask(|template, name, case| {
        let encoded = template.trainer.encode(&example(conversation(case))).expect(name);
        let stop = template.trainer.vocabulary().stop.clone();
        let answers = case["messages"].as_array().expect("a list").iter().filter(|turn| turn["role"] == "assistant");
        let ends: Vec<u32> = (0..encoded.tokens.len())
            .filter(|&t| encoded.supervised[t] && encoded.supervised.get(t + 1) != Some(&true))
            .map(|t| encoded.tokens[t])
            .collect();
        assert_eq!(ends, vec![template.end_of_turn; answers.count()], "{name}");
        assert!(stop.contains(&template.end_of_turn), "{name}");
    });
}

#[test]
fn arguments_of_a_call_may_be_an_object_or_the_text_of_one() {
    for_each_mask(|template, name, case| {
        let mut case = case.clone();
        let calls = case["messages"].as_array_mut().expect("a list").iter_mut();
        for call in calls.filter_map(|turn| turn.get_mut("tool_calls")?.as_array_mut()).flatten() {
            let arguments = call["function"]["arguments"].take();
            call["function"]["arguments"] = arguments.to_string().into();
        }
        let encoded = template.trainer.encode(&example(conversation(&case))).expect(name);
        assert_eq!(encoded.tokens, setup::ids(&case["input_ids"]), "{name}");
    });
}

#[test]
fn prompts_and_completions_get_the_ids_and_masks_of_the_training_fixture() {
    let directory = fixtures().join("training");
    let trainer = trainer(&directory.join("model"), Config::default());
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
    assert_eq!((trainer.vocabulary().size, &*trainer.vocabulary().stop), (99, &[2][..]));
}

#[test]
fn prompts_and_completions_get_the_ids_and_masks_of_transformers() {
    for tokenizer in ["prepend", "metaspace", "replace", "byte_level"] {
        let directory = fixtures().join("seams").join(tokenizer);
        let trainer = trainer(&directory, Config::default());
        for row in setup::json(&directory.join("expected.json")).as_array().expect("a list") {
            let text = |key: &str| row[key].as_str().expect("text");
            let encoded =
                trainer.encode(&setup::prompt_completion(text("prompt"), text("completion"))).expect("encodes");
            assert_eq!(encoded.tokens, setup::ids(&row["input_ids"]), "{tokenizer}: {row}");
            assert_eq!(ones(&encoded.supervised), setup::ids(&row["mask"]), "{tokenizer}: {row}");
        }
    }
}

/// What the fixture has of lists of numbers: eight digits of the checksum of their text.
fn digest(lists: &[&[u32]]) -> String {
    let text = |numbers: &&[u32]| numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
    let digest = Sha256::digest(lists.iter().map(text).collect::<Vec<_>>().join("|"));
    digest[..4].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn tokenizers_of_every_kind_give_the_ids_and_masks_of_transformers() {
    let place = fixtures().join("tokenizers");
    let given = setup::json(&place.join("texts.json"));
    let (texts, pairs) = (given["texts"].as_array().expect("a list"), given["pairs"].as_array().expect("a list"));
    let kinds = setup::json(&place.join("expected.json"));
    let kinds = kinds.as_object().expect("an object");
    assert!(kinds.len() >= 16 && texts.len() == 200, "the fixture");
    for (kind, expected) in kinds {
        let trainer = trainer(&place.join(kind), Config::default());
        let digests = |key: &str| expected[key].as_str().expect("text").split(' ');
        for (text, expected) in texts.iter().zip(digests("texts")) {
            let ids = trainer.encode_from_start(text.as_str().expect("text")).expect("encodes");
            assert_eq!(digest(&[&ids]), expected, "{kind}: {text}: {ids:?}");
        }
        for (pair, expected) in pairs.iter().zip(digests("pairs")) {
            let text = |side: usize| pair[side].as_str().expect("text");
            let encoded = trainer.encode(&setup::prompt_completion(text(0), text(1))).expect("encodes");
            let mask = ones(&encoded.supervised);
            assert_eq!(digest(&[&encoded.tokens, &mask]), expected, "{kind}: {pair}: {:?} {mask:?}", encoded.tokens);
        }
    }
}
