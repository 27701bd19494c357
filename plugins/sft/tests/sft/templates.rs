//! What templates of real models do: close whatever they render, take arguments as text, ask for variables.

use serde_json::{Value, json};

use crate::setup::{
    self, Config, conversation, create, create_sft, example, fixtures, messages, trained, trainer, with_template,
};

fn chatml() -> std::path::PathBuf {
    fixtures().join("chat/chatml")
}

#[test]
fn a_template_may_end_what_it_renders_with_a_special_token_of_its_own() {
    // As Phi-3's: the end of text follows the last turn, and no turn before it.
    let template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
        {% if add_generation_prompt %}<|im_start|>assistant\n{% else %}<|endoftext|>{% endif %}";
    let chat = messages(&json!([
        {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"},
        {"role": "user", "content": "Hm"}, {"role": "assistant", "content": "Ha"},
    ]));
    let encoded = with_template("chatml", template).encode(&example(chat)).expect("encodes");
    assert_eq!(trained(&chatml(), &encoded), ["Ho<|im_end|>", "Ha<|im_end|>\n<|endoftext|>"]);
}

/// Drops the reasoning of all answers but the last, and asks for answers that begin with a thought.
const REASONING: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n\
    {{ m.content if loop.last else m.content.split('</think>')[-1] }}<|im_end|>\n{% endfor %}\
    {% if add_generation_prompt %}<|im_start|>assistant\n<think>{% endif %}";

#[test]
fn answers_that_lack_the_thought_that_they_are_asked_for_are_trained_from_where_they_differ() {
    let chat = messages(&json!([
        {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "<think>a</think>Ho"},
        {"role": "user", "content": "Hm"}, {"role": "assistant", "content": "Ha"},
    ]));
    let sequences = with_template("chatml", REASONING).sequences(&example(chat.clone())).expect("encodes");
    let trained: Vec<_> = sequences.iter().map(|sequence| trained(&chatml(), sequence)).collect();
    assert_eq!(trained, [["a</think>Ho<|im_end|>"], ["Ha<|im_end|>"]]);
    let notes = with_template("chatml", REASONING).notes(&example(chat)).expect("encodes");
    assert!(
        matches!(&notes[..], [note] if note.contains("generation begins answers with") && note.contains("<think>")),
        "{notes:?}"
    );
}

#[test]
fn an_answer_that_the_template_never_ends_is_ended_by_the_end_of_sequence_token() {
    let template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}\
        {% if add_generation_prompt %}assistant: {% endif %}";
    let turns = |count: usize| {
        let all = json!([
            {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"},
            {"role": "user", "content": "Hm"}, {"role": "assistant", "content": "Ha"},
        ]);
        example(messages(&json!(all.as_array().expect("a list")[..count])))
    };
    let pair = with_template("chatml", template);
    let of = |count| {
        let sequences = pair.sequences(&turns(count)).expect("encodes");
        sequences.iter().map(|sequence| trained(&chatml(), sequence).concat()).collect::<Vec<_>>()
    };
    assert_eq!(of(2), ["Ho\n<|im_end|>"]);
    // Each in its own sequence: the second is not asked for behind an end that generation would not have.
    assert_eq!(of(4), ["Ho\n<|im_end|>", "Ha\n<|im_end|>"]);
    let notes = pair.notes(&turns(2)).expect("encodes");
    assert!(
        matches!(&notes[..], [note] if note.contains("ends answers with no token") && note.contains("<|im_end|>")),
        "{notes:?}"
    );
}

/// Behind all that was said it asks for an answer in few words, as Command R+ does for tools.
const LAST_INSTRUCTION: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
    <|im_start|>system\nBe brief.<|im_end|>\n{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// Ends all turns but the last one otherwise.
const OTHER_END: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}\
    {{ '<|endoftext|>' if loop.last else '<|im_end|>' }}{% endfor %}\
    {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

#[test]
fn a_template_that_shows_a_question_otherwise_once_it_is_answered_is_refused() {
    let row = messages(&json!([
        {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho", "reasoning_content": "a"},
        {"role": "user", "content": "Hm"}, {"role": "assistant", "content": "Ha", "reasoning_content": "b"},
    ]));
    for template in [LAST_INSTRUCTION, OTHER_END] {
        let error = with_template("chatml", template).encode(&example(row.clone())).expect_err("refused");
        assert!(error.to_string().contains("chat template"), "{error}");
    }
}

#[test]
fn a_training_template_is_compared_with_the_one_of_generation_on_each_row() {
    let twin = |marks: [&str; 2], content: &str| {
        format!(
            "{{% for m in messages %}}<|im_start|>{{{{ m.role }}}}\n{{% if m.role == 'assistant' %}}{}{{{{ {content} }}}}<|im_end|>{}\
             {{% else %}}{{{{ m.content }}}}<|im_end|>{{% endif %}}{{{{ '\\n' }}}}{{% endfor %}}\
             {{% if add_generation_prompt %}}<|im_start|>assistant\n<think>{{% endif %}}",
            marks[0], marks[1]
        )
    };
    let marks = ["{% generation %}", "{% endgeneration %}"];
    let pair = |training: String| {
        let (chat_template, training_template) = (Some(REASONING.to_owned()), Some(training));
        trainer(&chatml(), Config { chat_template, training_template, ..Config::default() })
    };
    let one = example(messages(
        &json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "<think>a</think>Ho"}]),
    ));
    let two = example(messages(&json!([
        {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "<think>a</think>Ho"},
        {"role": "user", "content": "Hm"}, {"role": "assistant", "content": "<think>b</think>Ha"},
    ])));
    let right = pair(twin(marks, "m.content"));
    assert_eq!(right.notes(&one).expect("encodes"), [""; 0], "the same text");
    let notes = right.notes(&two).expect("encodes");
    assert!(matches!(&notes[..], [note] if note.contains("earlier turns")), "{notes:?}");
    let encoded = right.encode(&two).expect("encodes");
    assert_eq!(trained(&chatml(), &encoded), ["<think>a</think>Ho<|im_end|>", "<think>b</think>Ha<|im_end|>"]);
    // Generation goes on with its own.
    let prompt = right.decode(&right.encode_prompt(&two).expect("renders")).expect("decodes");
    assert!(!prompt.contains("a</think>"), "{prompt}");
    let other = pair(twin(marks, "m.content.split('</think>')[-1]"));
    let notes = other.notes(&one).expect("encodes");
    assert!(notes.iter().any(|note| note.contains("the last exchange otherwise")), "{notes:?}");
    assert!(
        notes.iter().any(|note| note.contains("generation begins answers with") && note.contains("<think>")),
        "{notes:?}"
    );
}

#[test]
fn the_last_answer_alone_or_every_token_is_trained_where_that_is_configured() {
    let chat = example(messages(&json!([
        {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "<think>a</think>Ho"},
        {"role": "user", "content": "Hm"}, {"role": "assistant", "content": "<think>b</think>Ha"},
        {"role": "user", "content": "Bye"},
    ])));
    let config =
        || Config { chat_template: Some(REASONING.replace("<think>{% endif", "{% endif")), ..Config::default() };
    let of = |sft: mdt_sft::Config| {
        let sequences = create_sft(&chatml(), config(), sft).expect("a trainer").sequences(&chat).expect("encodes");
        sequences.iter().map(|sequence| trained(&chatml(), sequence).concat()).collect::<Vec<_>>()
    };
    let last = ["<think>b</think>Ha<|im_end|>"];
    assert_eq!(of(mdt_sft::Config { turns: mdt_sft::Turns::Last, ..mdt_sft::Config::default() }), last);
    assert_eq!(of(mdt_sft::Config { train_on: mdt_sft::TrainOn::Completion, ..mdt_sft::Config::default() }), last);
    let all = of(mdt_sft::Config { train_on: mdt_sft::TrainOn::All, ..mdt_sft::Config::default() }).remove(0);
    assert!(
        all.ends_with("Hm<|im_end|>\n<|im_start|>assistant\nHa<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n"),
        "{all}"
    );
}

#[test]
fn a_prompt_and_its_completion_are_plain_text_or_a_question_and_its_answer() {
    let row = setup::prompt_completion("Hi", "Ho");
    let of = |prompt_format| {
        let sft = mdt_sft::Config { prompt_format: Some(prompt_format), ..mdt_sft::Config::default() };
        create_sft(&chatml(), Config::default(), sft).expect("a trainer").encode(&row).expect("encodes")
    };
    let turns = json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]);
    let chat = trainer(&chatml(), Config::default()).encode(&example(messages(&turns))).expect("encodes");
    assert_eq!(of(mdt_sft::PromptFormat::Template), chat);
    assert_eq!(trained(&chatml(), &of(mdt_sft::PromptFormat::Plain)), ["Ho<|im_end|>"]);
}

#[test]
fn rows_with_tools_are_rendered_by_the_template_for_them() {
    let template = |name: &str| {
        format!(
            "{name}{{{{ tools | length if tools else '' }}}}{{% for m in messages %}}<|im_start|>{{{{ m.role }}}}\n\
             {{{{ m.content }}}}<|im_end|>{{% endfor %}}{{% if add_generation_prompt %}}<|im_start|>assistant\n{{% endif %}}"
        )
    };
    let config = json!({"eos_token": "<|im_end|>", "chat_template": [
        {"name": "default", "template": template("default")}, {"name": "tool_use", "template": template("tools")},
    ]});
    let place = setup::directory("chatml", &[("tokenizer_config.json", &config.to_string())]);
    let trainer = trainer(place.path(), Config::default());
    let turns = json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]);
    let text = |row: &Value| {
        let prompt = trainer.encode_prompt(&example(conversation(row))).expect("renders");
        trainer.decode(&prompt).expect("decodes")
    };
    assert!(text(&json!({ "messages": turns })).starts_with("default"));
    let tools = json!([{"type": "function", "function": {"name": "f"}}]);
    assert!(text(&json!({"messages": turns, "tools": tools})).starts_with("tools1"));
}

#[test]
fn a_role_is_one_that_the_template_names_and_shows() {
    let template = "{% for m in messages %}{% if m.role != 'critic' %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n\
        {% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}{# 'ipython' #}";
    let trainer = with_template("chatml", template);
    let row = |role: &str| {
        example(messages(&json!([
            {"role": role, "content": "Hi"}, {"role": "assistant", "content": "Ho"},
        ])))
    };
    for (role, expected) in
        [("ipython", None), ("developer", None), ("critic", Some("leaves out")), ("asker", Some("does not name"))]
    {
        let error = trainer.encode(&row(role)).err().map(|error| format!("{error:?}"));
        let is_expected = match (&error, expected) {
            (None, None) => true,
            (Some(error), Some(part)) => error.contains(part) && error.contains("message: 1"),
            _ => false,
        };
        assert!(is_expected, "{role}: {error:?}");
    }
}

/// A conversation with one call.
fn call(arguments: Value) -> Value {
    let call = json!({"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}});
    json!({"messages": [
        {"role": "user", "content": "Hi"}, {"role": "assistant", "content": null, "tool_calls": [call]},
    ]})
}

#[test]
fn arguments_are_given_as_a_template_takes_them() {
    let template = |arguments: &str| {
        format!(
            "{{% for m in messages %}}<|im_start|>{{{{ m.role }}}}\n{{{{ m.content }}}}\
             {{% for call in m.tool_calls %}}{{{{ '>' + {arguments} }}}}{{% endfor %}}<|im_end|>\n{{% endfor %}}\
             {{% if add_generation_prompt %}}<|im_start|>assistant\n{{% endif %}}"
        )
    };
    let text = json!("{\"a\":  1}");
    for (arguments, given, expected) in [
        // As most templates do, and as DeepSeek-V3's does.
        ("(call.function.arguments | tojson)", &text, ">{\"a\": 1}<|im_end|>"),
        ("(call.function.arguments | tojson)", &json!({"a": 1}), ">{\"a\": 1}<|im_end|>"),
        ("call.function.arguments", &text, ">{\"a\":  1}<|im_end|>"),
    ] {
        let row = example(conversation(&call(given.clone())));
        let encoded = with_template("chatml", &template(arguments)).encode(&row).expect(arguments);
        assert_eq!(trained(&chatml(), &encoded), [expected], "{arguments}");
    }
}

#[test]
fn variables_of_the_configuration_hold_where_the_row_has_none() {
    let place = fixtures().join("chat/qwen3");
    let kwargs = |value: Value| {
        let Value::Object(variables) = value else { panic!("an object") };
        Config { chat_template_kwargs: variables.into_iter().collect(), ..Config::default() }
    };
    let turns = json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]);
    let plain = example(conversation(&json!({ "messages": turns })));
    let thinks = example(conversation(&json!({"messages": turns, "chat_template_kwargs": {"enable_thinking": true}})));

    let encode = |config, row| trainer(&place, config).encode(row).expect("encodes");
    let thought = "<think>\n\n</think>\n\nHo<|im_end|>";
    assert_eq!(trained(&place, &encode(Config::default(), &plain)), [thought]);
    let config = kwargs(json!({"enable_thinking": false}));
    assert_eq!(trained(&place, &encode(config.clone(), &plain)), ["Ho<|im_end|>"]);
    assert_eq!(trained(&place, &encode(config, &thinks)), [thought]);

    let error = create(&place, kwargs(json!({"messages": []}))).err().expect("refused");
    assert!(format!("{error:?}").contains("tokenizer.chat_template_kwargs.messages"), "{error:?}");
}
