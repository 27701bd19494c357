//! What becomes of rows: ends, beginnings, and templates that real models bring.

use mdt_plugin_api::prelude::*;
use proptest::prelude::*;
use serde_json::json;

use crate::setup::{
    Config, directory, example, fixtures, messages, prompt_completion, trained, trainer, with_template,
};

const BOS: u32 = 0; // <|begin_of_text|> of the llama3 fixture
const EOS: u32 = 4; // <|eot_id|>, which is also its padding

fn llama3() -> std::path::PathBuf {
    fixtures().join("chat/llama3")
}

#[test]
fn a_row_begins_with_exactly_one_bos() {
    let trainer = trainer(&llama3(), Config::default());
    let rows = [
        prompt_completion("Hello", " there"),
        prompt_completion("<|begin_of_text|>Hello", " there"),
        prompt_completion("", "there"),
        example(Content::Text("Hello there".into())),
        example(Content::Text("<|begin_of_text|>Hello there".into())),
        example(messages(&json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]))),
    ];
    for row in rows {
        for tokens in [trainer.encode(&row).expect("encodes").tokens, trainer.encode_prompt(&row).expect("encodes")] {
            assert_eq!(tokens[0], BOS, "{row:?}");
            assert_eq!(tokens.iter().filter(|&&token| token == BOS).count(), 1, "{row:?}");
        }
    }
}

#[test]
fn a_completion_ends_with_one_trained_eos_even_where_padding_is_the_same_token() {
    let trainer = trainer(&llama3(), Config::default());
    for completion in [" there", " there<|eot_id|>", ""] {
        let encoded = trainer.encode(&prompt_completion("Hello<|eot_id|>", completion)).expect("encodes");
        let (last, rest) = encoded.tokens.split_last().expect("tokens");
        assert_eq!((*last, encoded.supervised.last()), (EOS, Some(&true)), "{completion:?}");
        assert_eq!(rest.iter().filter(|&&token| token == EOS).count(), 1, "only the prompt's own: {completion:?}");

        // Beside a longer row, so that there is padding.
        let long = trainer.encode(&prompt_completion("Hello", &" there".repeat(9))).expect("encodes");
        let batch = trainer.collate(&[&encoded, &long]).expect("collates");
        assert_eq!(batch.supervised_tokens as usize, encoded.supervised_tokens() + long.supervised_tokens());
    }
}

#[test]
fn a_token_that_holds_the_end_of_the_prompt_and_the_start_of_the_completion_is_trained() {
    let trainer = trainer(&llama3(), Config::default());
    // "capital" is one token of this tokenizer.
    let whole = trainer.encode(&example(Content::Text(" capital".into()))).expect("encodes");
    let encoded = trainer.encode(&prompt_completion(" cap", "ital")).expect("encodes");
    assert_eq!(encoded.tokens, whole.tokens);
    assert_eq!(trained(&llama3(), &encoded), [" capital<|eot_id|>"]);
}

#[test]
fn all_of_a_text_is_trained_but_its_first_token() {
    let trainer = trainer(&llama3(), Config::default());
    let encoded = trainer.encode(&example(Content::Text("Hello there".into()))).expect("encodes");
    assert!(!encoded.supervised[0] && encoded.supervised[1..].iter().all(|&trained| trained));
    assert_eq!(trained(&llama3(), &encoded), ["Hello there<|eot_id|>"]);
}

#[test]
fn user_turns_are_never_trained_even_when_they_say_what_the_assistant_says() {
    let chat = messages(&json!([
        {"role": "system", "content": "Paris."},
        {"role": "user", "content": "Paris."},
        {"role": "assistant", "content": "Paris."},
        {"role": "user", "content": "Paris."},
        {"role": "assistant", "content": "Paris."},
    ]));
    for (family, answer) in [("chatml", "Paris.<|im_end|>"), ("llama3", "Paris.<|eot_id|>"), ("llama2", " Paris.</s>")]
    {
        let place = fixtures().join("chat").join(family);
        let encoded = trainer(&place, Config::default()).encode(&example(chat.clone())).expect("encodes");
        assert_eq!(trained(&place, &encoded), [answer, answer], "{family}");
    }
}

#[test]
fn a_conversation_without_an_answer_has_nothing_to_train() {
    let trainer = trainer(&fixtures().join("chat/chatml"), Config::default());
    let encoded = trainer.encode(&example(messages(&json!([{"role": "user", "content": "Hi"}])))).expect("encodes");
    assert_eq!(encoded.supervised_tokens(), 0);
}

#[test]
fn special_tokens_may_be_named_in_the_form_of_either_version() {
    let as_object = r#"{"bos_token": {"content": "<|begin_of_text|>", "special": true},
        "eos_token": {"content": "<|eot_id|>"}}"#;
    let place = directory("llama3", &[("tokenizer_config.json", as_object)]);
    let row = example(messages(&json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}])));
    let expected = trainer(&llama3(), Config::default()).encode(&row).expect("encodes");
    assert_eq!(trainer(place.path(), Config::default()).encode(&row).expect("encodes"), expected);
}

#[test]
fn whatever_the_model_names_as_an_end_stops_generation() {
    let place = directory("llama3", &[("generation_config.json", r#"{"eos_token_id": [1, 4]}"#)]);
    assert_eq!(trainer(place.path(), Config::default()).vocabulary().stop, [1, 4]);
    // The tokenizer's end of sequence is one token, the template's end of turn another.
    let config = r#"{"eos_token": "<|end_of_text|>", "bos_token": "<|begin_of_text|>"}"#;
    let place = directory("llama3", &[("tokenizer_config.json", config)]);
    assert_eq!(trainer(place.path(), Config::default()).vocabulary().stop, [1, 4]);
}

#[test]
fn templates_may_use_what_transformers_gives_them() {
    let template = "{%- for message in messages[::-1] -%}{%- if loop.index > 3 %}{% break %}{% endif -%}
        {{- message.role.upper() ~ ':' ~ message.content.split('|')[-1].lstrip() -}}
        {%- if message.tool_calls is defined %}{{ message.tool_calls | tojson }}{% endif -%}
        {%- endfor -%}
        {{- strftime_now('%d %b %Y') }} {{ none }} {{ true }} {{ tools is none }}\r\n{{ tools is iterable }} {{ 'text' is iterable }}";
    let trainer = with_template("chatml", template);
    let row = example(messages(&json!([
        {"role": "user", "content": "dropped"},
        {"role": "user", "content": "a| b"},
        {"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": {"x": 1}}]},
        {"role": "user", "content": "c"},
    ])));
    let text = trainer.decode(&trainer.encode_prompt(&row).expect("renders")).expect("decodes");
    assert_eq!(
        text,
        "USER:cASSISTANT:[{\"name\": \"f\", \"arguments\": {\"x\": 1}}]USER:b26 Jul 2024 None True True\nFalse True"
    );
}

fn content() -> impl Strategy<Value = Content> {
    let text = "[ a-zé<|>\n😀]{0,30}";
    let turns = prop::collection::vec((text, text), 1..4).prop_map(|pairs| {
        let turn = |role: &str, content| Message { role: role.into(), content, ..Message::default() };
        Content::Messages(
            pairs.into_iter().flat_map(|(ask, say)| [turn("user", ask), turn("assistant", say)]).collect(),
        )
    });
    prop_oneof![
        turns,
        (text, text).prop_map(|(prompt, completion)| Content::PromptCompletion { prompt, completion }),
        text.prop_map(Content::Text),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_row_has_a_mask_as_long_as_its_tokens_and_ends_with_its_end_token(content in content()) {
        let row = example(content);
        let whole = trainer(&llama3(), Config::default()).encode(&row)?;
        prop_assert_eq!(whole.tokens.len(), whole.supervised.len());
        prop_assert!(!whole.supervised[0]);
        prop_assert_eq!(whole.tokens.iter().filter(|&&token| token == BOS).count(), 1);
        prop_assert_eq!((whole.tokens.last(), whole.supervised.last()), (Some(&EOS), Some(&true)));
    }
}
