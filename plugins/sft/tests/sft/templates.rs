//! What templates of real models do: close whatever they render, take arguments as text, ask for variables.

use serde_json::{Value, json};

use crate::setup::{Config, conversation, create, example, fixtures, messages, trained, trainer, with_template};

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

#[test]
fn a_template_that_ends_earlier_answers_otherwise_is_refused() {
    let template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}\
        {{ '<|endoftext|>' if loop.last else '<|im_end|>' }}{% endfor %}\
        {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    let chat = messages(&json!([
        {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"},
        {"role": "user", "content": "Hm"}, {"role": "assistant", "content": "Ha"},
    ]));
    assert!(with_template("chatml", template).encode(&example(chat)).is_err());
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
