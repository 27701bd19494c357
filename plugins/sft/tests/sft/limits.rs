//! Files from strangers: templates and tokenizers that would run or grow without end are refused soon.

use std::time::{Duration, Instant};

use mdt_plugin_api::prelude::*;
use serde_json::{Value, json};

use crate::setup::{Config, create, directory, example, fixtures, messages, prompt_completion, trainer};

/// Generous: a template that runs without end takes hours.
const SOON: Duration = Duration::from_secs(60);

fn chat() -> Content {
    messages(&json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]))
}

/// The error of a conversation with this template. One that exceeds the limits of time and memory is refused when the
/// trainer is made.
fn refused(template: &str) -> Error {
    let begin = Instant::now();
    let config = Config { chat_template: Some(template.to_owned()), ..Config::default() };
    let error = match create(&fixtures().join("chat/chatml"), config) {
        Ok(trainer) => {
            let error = trainer.encode_prompt(&example(chat())).map(|tokens| tokens.len()).expect_err(template);
            assert!(format!("{error:?}").contains("row: 812"), "{error:?}");
            error
        }
        Err(error) => error,
    };
    assert!(begin.elapsed() < SOON, "{template}: {:?}", begin.elapsed());
    assert_eq!(error.code(), ErrorCode::Input, "{error:?}");
    let text = format!("{error:?}");
    assert!(text.contains("the chat template"), "{text}");
    assert!(text.len() < 2000, "{template}: {} bytes of message", text.len());
    error
}

#[test]
fn loops_without_end_run_out_of_steps() {
    for template in [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}x{% endfor %}{% endfor %}{% endfor %}",
        "{% set ns = namespace(s='x') %}{% for a in range(90) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}",
        "{% set ns = namespace(s=[1]) %}{% for a in range(90) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s | length }}",
    ] {
        refused(template);
    }
}

#[test]
fn values_that_would_fill_the_memory_are_never_made() {
    for template in [
        "{{ 'x' | indent(10000000000) }}{{ 'x\ny' | indent(10000000000) }}",
        "{{ 'x' * 10000000000 }}",
        "{{ [1] * 10000000000 }}",
        "{{ '%10000000000d' % 1 }}",
        "{{ '%10000000000d' | format(1) }}",
        "{{ '{:>10000000000}'.format('x') }}",
        "{{ 'x'.center(10000000000) }}",
        "{{ 'x'.ljust(10000000000) }}",
        "{{ 'x'.zfill(10000000000) }}",
        "{{ 'x' | center(10000000000) }}",
        "{{ [1, 2] | tojson(indent=10000000000) }}",
        "{{ ([1] * 100000) | tojson(separators=('x' * 100000, ':')) }}",
        "{{ 'x'.replace('', 'x' * 100000).replace('', 'x' * 100000) }}",
        "{{ ('x' * 100000).join(([1] * 100000) | map('string')) }}",
        "{{ 'x\n' * 100000000 }}",
        "{% set a = 'x' * 1000000 %}{{ (a.split('x') | join(a)) }}",
        "{{ strftime_now('%10000000000d') }}",
        "{{ raise_exception('x' * 10000000) }}",
    ] {
        refused(template);
    }
}

#[test]
fn templates_that_lead_back_to_themselves_are_refused() {
    let deep = "{% set ns = namespace(x=[]) %}{% for a in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}";
    for template in [
        "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}".to_owned(),
        "{% include 'chat template' %}".to_owned(),
        "{% set ns = namespace() %}{% set ns.me = ns %}{{ ns }}".to_owned(),
        "{% set ns = namespace() %}{% set ns.me = ns %}{{ ns | tojson }}".to_owned(),
        "{% set ns = namespace() %}{% set ns.me = ns %}{% set ns.you = ns %}{{ ns | tojson }}".to_owned(),
        "{% set ns = namespace() %}{% set ns.me = ns %}{{ ns | string }}".to_owned(),
        "{% set ns = namespace() %}{% set ns.me = ns %}{{ ns | pprint }}".to_owned(),
        "{% set ns = namespace() %}{% set ns.me = ns %}{{ [ns] | sort | join }}".to_owned(),
        "{% set ns = namespace() %}{% set ns.me = ns %}{{ {ns: 1} }}".to_owned(),
        format!("{deep}{{{{ ns.x }}}}"),
        format!("{deep}{{{{ ns.x | tojson }}}}"),
        format!("{deep}{{{{ ns.x == ns.x }}}}{{{{ raise_exception('dropped') }}}}"),
    ] {
        refused(&template);
    }
}

#[test]
fn a_rendering_that_is_far_too_long_is_refused_before_it_is_tokenized() {
    let error = refused("{{ 'x' * 60000000 }}");
    assert!(format!("{error:?}").contains("32 MiB"), "{error:?}");
}

#[test]
fn templates_nested_too_deeply_are_not_valid() {
    for template in ["{{ ".to_owned() + &"(".repeat(100_000), "{% if a %}".repeat(100_000), "{{ [".repeat(100_000)] {
        let config = Config { chat_template: Some(template), ..Config::default() };
        let error = create(directory("chatml", &[]).path(), config).err().expect("refused");
        assert_eq!(error.code(), ErrorCode::Input, "{error:?}");
    }
}

#[test]
fn a_long_conversation_with_tools_is_within_the_limits() {
    let turn = |n: usize| json!({"role": if n.is_multiple_of(2) { "user" } else { "assistant" }, "content": "word ".repeat(400)});
    let turns: Vec<Value> = (0..400).map(turn).collect();
    let trainer = trainer(&fixtures().join("chat/qwen"), Config::default());
    assert!(trainer.encode_prompt(&example(messages(&Value::Array(turns)))).is_ok());
}

/// The error of a tokenizer that splits text by this pattern.
fn backtracks(pattern: &str, text: &str) -> Error {
    let file = fixtures().join("chat/chatml/tokenizer.json");
    let mut tokenizer = crate::setup::json(&file);
    tokenizer["pre_tokenizer"] =
        json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    let place = directory("chatml", &[("tokenizer.json", &tokenizer.to_string())]);
    let begin = Instant::now();
    let error = trainer(place.path(), Config::default()).encode(&prompt_completion(text, "b"));
    let error = error.map(|encoded| encoded.tokens.len()).expect_err(pattern);
    assert!(begin.elapsed() < SOON, "{pattern}: {:?}", begin.elapsed());
    error
}

#[test]
fn a_tokenizer_whose_pattern_backtracks_without_end_is_a_fault_of_its_file() {
    let exponential = backtracks("(a+)+$", &"a".repeat(60));
    // Quadratic: no single attempt takes long, but there is one at each character.
    let quadratic = backtracks("(?:a|b)*x(?!y)", &("a".repeat(200_000) + "xy"));
    for error in [exponential, quadratic] {
        assert_eq!(error.code(), ErrorCode::Input, "{error:?}");
        let text = format!("{error:?}");
        assert!(text.contains("tokenizer.json") && text.contains("backtrack") && text.contains("row: 812"), "{text}");
    }
}
