//! Which columns are looked for, what a row becomes, and what the user reads when it does not fit.

use mdt_plugin_api::serde_json::{from_value, json};

use super::*;

fn read(format: Format, fields: Value, row: Value) -> Result<Example> {
    let Value::Object(row) = row else { panic!("a row is an object") };
    Columns::new(format, from_value(fields).unwrap(), None)?.example(1, row)
}

fn read_auto(row: Value) -> Result<Example> {
    read(Format::Auto, json!({}), row)
}

fn pair(prompt: &str, completion: &str) -> Example {
    Example::new(1).with("prompt", prompt).with("completion", completion)
}

fn text(text: &str) -> Example {
    Example::new(1).with("text", text)
}

/// The conversation of a row.
fn messages(example: Result<Example>) -> Vec<Message> {
    example.unwrap().messages("messages").unwrap()
}

fn turn(role: &str, content: &str) -> Message {
    Message::new(role, content)
}

/// The message of an error and its advice.
fn complaint(result: Result<Example>) -> (String, String) {
    let error = result.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Input);
    let advice = error.context().iter().find(|(key, _)| key == "help").map(|(_, advice)| advice.clone());
    (error.message().to_owned(), advice.unwrap_or_default())
}

#[test]
fn the_format_of_a_row_is_told_by_its_columns() {
    let row = json!({"prompt": "2+2", "completion": "4", "source": "school"});
    assert_eq!(read_auto(row).unwrap(), pair("2+2", "4").with("source", "school"));
    assert_eq!(read_auto(json!({"text": "Once upon a time"})).unwrap(), text("Once upon a time"));
    let conversation = read_auto(json!({"prompt": "other", "messages": [{"role": "user", "content": "Hi"}]}));
    let expected = Example::new(1).with("messages", vec![turn("user", "Hi")]).with("prompt", "other");
    assert_eq!(conversation.unwrap(), expected);
}

#[test]
fn columns_that_no_format_has_stay_as_they_are() {
    let pair = json!({"prompt": "p", "chosen": "a", "rejected": [{"role": "assistant", "content": "b"}], "score": 0.5});
    let example = read_auto(pair).unwrap();
    assert_eq!((example.text("prompt").unwrap(), example.text("chosen").unwrap()), ("p", "a"));
    assert_eq!(example.messages("rejected").unwrap(), [turn("assistant", "b")]);
    assert_eq!(example.number("score").unwrap(), 0.5);
    let renamed = read(
        Format::Preference,
        json!({"prompt": "q", "rejected": "worse"}),
        json!({"q": "p", "chosen": "a", "worse": "b"}),
    );
    let expected = Example::new(1).with("prompt", "p").with("chosen", "a").with("rejected", "b");
    assert_eq!(renamed.unwrap(), expected);

    let any =
        json!({"question": "q", "tags": ["a", 1, {"b": true}], "id": 18_446_744_073_709_551_615u64, "none": null});
    let example = read(Format::Columns, json!({"prompt": "question"}), any).unwrap();
    let tags = vec!["a".into(), 1.into(), Datum::Map(vec![("b".to_owned(), true.into())])];
    assert_eq!(example, Example::new(1).with("prompt", "q").with("tags", tags).with("id", u64::MAX));
}

#[test]
fn a_forced_format_is_what_a_trainer_finds() {
    let row = json!({"messages": [], "prompt": "a", "completion": "b", "text": "c", "id": 7});
    let example = read(Format::Text, json!({}), row.clone()).unwrap();
    assert!(!example.has("messages") && !example.has("completion") && example.has("id"), "{example:?}");
    let example = read(Format::PromptCompletion, json!({}), row).unwrap();
    assert_eq!(example, pair("a", "b").with("text", "c").with("id", 7));
}

#[test]
fn null_columns_count_as_missing() {
    let row = json!({"messages": null, "prompt": null, "completion": null, "text": "a"});
    assert_eq!(read_auto(row).unwrap(), text("a"));
}

#[test]
fn a_forced_format_looks_at_its_own_columns_only() {
    let row = json!({"prompt": "a", "completion": "b", "text": "c"});
    assert_eq!(read(Format::Text, json!({}), row.clone()).unwrap(), text("c").with("prompt", "a"));
    assert_eq!(read(Format::PromptCompletion, json!({}), row.clone()).unwrap(), pair("a", "b").with("text", "c"));
    assert_eq!(complaint(read(Format::Messages, json!({}), row)).0, "the row has no `messages`");
}

#[test]
fn mapped_columns_are_read_and_choose_the_format() {
    let row = json!({"question": "a", "answer": "b", "body": "c", "text": "d"});
    let fields = json!({"prompt": "question", "completion": "answer"});
    assert_eq!(read(Format::Auto, fields, row.clone()).unwrap(), pair("a", "b").with("body", "c").with("text", "d"));
    let example = read(Format::Auto, json!({"text": "body"}), row).unwrap();
    assert_eq!(example, text("c").with("question", "a").with("answer", "b"), "the mapped column is the text");

    let half_mapped = read(Format::Auto, json!({"prompt": "question"}), json!({"question": "a", "completion": "b"}));
    assert_eq!(half_mapped.unwrap(), pair("a", "b"));
}

#[test]
fn mapped_columns_of_another_format_are_refused() {
    let error = read(Format::Text, json!({"prompt": "question"}), json!({})).unwrap_err();
    assert_eq!(error.code(), ErrorCode::Config);
    assert_eq!(
        error.message(),
        "data.fields maps columns of the format `prompt_completion`, but data.format is `text`"
    );
    let error = read(Format::Auto, json!({"prompt": "a", "completion": "a"}), json!({})).unwrap_err();
    assert_eq!(error.message(), "the prompt and the completion are both the column `a`");
}

#[test]
fn a_row_that_fits_no_format_gets_the_mapping_that_would_fit() {
    for (row, mapping) in [
        (json!({"id": 7, "question": "a", "answer": "b"}), "prompt = \"question\", completion = \"answer\""),
        (json!({"Instruction": "a", "output": "b"}), "prompt = \"Instruction\", completion = \"output\""),
        (json!({"chat": [{"role": "user"}]}), "messages = \"chat\""),
        (json!({"chat": [{"from": "human"}]}), "conversations = \"chat\""),
        (json!({"input": "a", "output": "b"}), "prompt = \"input\", completion = \"output\""),
        (json!({"body": "a"}), "text = \"body\""),
    ] {
        let (message, advice) = complaint(read_auto(row));
        assert_eq!(
            message,
            "the row has none of `messages`, `prompt` + `completion`, `conversations`, `instruction` + `output`, `chosen` + `rejected`, `text`"
        );
        assert_eq!(advice, format!("if that is what it is, map it: data.fields = {{ {mapping} }}"));
    }
    let (_, advice) = complaint(read_auto(json!({"xyz": 1})));
    assert!(advice.starts_with("map the columns that it has"), "{advice}");
}

#[test]
fn a_row_with_half_of_its_columns_is_told_the_nearest_key() {
    let error = read_auto(json!({"prompt": "a", "completoin": "b"})).unwrap_err();
    assert_eq!(error.message(), "the row has no `completion`");
    assert!(error.context().contains(&("keys found".to_owned(), "prompt, completoin".to_owned())));
    let (_, advice) = complaint(Err(error));
    assert_eq!(advice, "if that is what it is, map it: data.fields = { completion = \"completoin\" }");

    let (message, _) = complaint(read(Format::Auto, json!({"prompt": "question"}), json!({"Question": "a"})));
    assert_eq!(message, "the row has no `question` and no `completion`");
    assert!(read_auto(json!({})).unwrap_err().context().contains(&("keys found".to_owned(), "none".to_owned())));
}

#[test]
fn columns_of_other_types_are_named() {
    let (message, _) = complaint(read_auto(json!({"prompt": 3, "completion": "b"})));
    assert_eq!(message, "`prompt` must be a string, not a number");
    let (message, advice) = complaint(read_auto(json!({"prompt": [], "completion": "b"})));
    assert_eq!(message, "`prompt` must be a string, not an array");
    assert!(advice.contains("use the format `messages`"));
    let (message, _) = complaint(read(Format::Auto, json!({"text": "body"}), json!({"body": false})));
    assert_eq!(message, "`body` must be a string, not a boolean");
}

#[test]
fn messages_keep_what_else_the_template_may_want() {
    let calls = json!([{"function": {"name": "add", "arguments": {"a": 1}}}]);
    let messages = messages(read_auto(json!({"messages": [
        {"role": "user", "content": "1+1", "name": "Ada"},
        {"role": "assistant", "content": null, "tool_calls": calls},
        {"role": "tool", "content": "2", "tool_call_id": "x"},
    ]})));
    let extras: Vec<Value> = messages.iter().map(|message| Value::Object(message.extra.clone())).collect();
    // A content of null says that there is none, which is not the same to a template as an empty one.
    let called = json!({"tool_calls": calls, "content": null});
    assert_eq!(extras, [json!({"name": "Ada"}), called, json!({"tool_call_id": "x"})]);
    assert_eq!(messages[1].content, "");
}

#[test]
fn messages_that_cannot_be_rendered_are_named_by_their_place() {
    let first = json!({"role": "user", "content": "Hi"});
    for (messages, expected) in [
        (json!("Hi"), "`messages` must be an array of { role, content }, not a string"),
        (json!([]), "`messages` is empty"),
        (json!([first, "Ho"]), "`messages[1]` must be an object with role and content, not a string"),
        (json!([first, {"content": "Ho"}]), "`messages[1]` has no `role`"),
        (json!([first, {"role": 1, "content": "Ho"}]), "`messages[1].role` must be a string, not a number"),
        (json!([first, {"role": "assistant"}]), "`messages[1]` has no `content`"),
        (json!([first, {"role": "assistant", "content": null}]), "`messages[1].content` must be a string, not null"),
        (
            json!([first, {"role": "assistant", "content": null, "tool_calls": null}]),
            "`messages[1].content` must be a string, not null",
        ),
        (json!([first, {"role": "assistant", "tool_calls": []}]), "`messages[1]` has no `content`"),
        (
            json!([first, {"role": "assistant", "tool_calls": "f()"}]),
            "`messages[1].tool_calls` must be an array of calls, not a string",
        ),
        (
            json!([first, {"role": "assistant", "tool_calls": [{"function": {"arguments": {}}}]}]),
            "`messages[1].tool_calls[0]` does not name the function that it calls",
        ),
        (
            json!([{"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "image", "url": "a.png"}]}]),
            "`messages[0].content` has parts that are not text",
        ),
    ] {
        assert_eq!(complaint(read_auto(json!({ "messages": messages }))).0, expected);
    }
}

#[test]
fn content_may_be_parts_of_text() {
    let parts = json!([{"type": "text", "text": "Hi "}, {"type": "text", "text": "there"}]);
    let read = messages(read_auto(json!({"messages": [{"role": "user", "content": parts}]})));
    assert_eq!((read[0].content.as_str(), &read[0].extra["content_parts"]), ("Hi there", &parts));
}

#[test]
fn a_role_that_only_some_templates_know_is_left_to_them() {
    let read = messages(read_auto(json!({"messages": [{"role": "ipython", "content": "1"}]})));
    assert_eq!(read[0].role, "ipython");
}

#[test]
fn an_unknown_role_is_told_what_it_looks_like() {
    for (role, ours) in [("gpt", "assistant"), ("Human", "user"), ("asistant", "assistant"), ("User", "user")] {
        let row = json!({"chat": [{"role": role, "content": "Hi"}]});
        let (message, advice) = complaint(read(Format::Auto, json!({"messages": "chat"}), row));
        assert_eq!(message, format!("`chat[0]` has the unknown role {role:?}"));
        assert!(advice.ends_with(&format!("{role:?} looks like {ours:?}")), "{advice}");
    }
}

#[test]
fn an_unknown_field_is_refused_when_the_configuration_is_read() {
    let error = from_value::<Fields>(json!({"promt": "question"})).unwrap_err().to_string();
    assert!(error.contains("unknown field `promt`"), "{error}");
    assert_eq!(mdt_plugin_api::serde_json::to_value(Fields::default()).unwrap(), json!({}));
}

fn conversation(turns: &[(&str, &str)]) -> Vec<Message> {
    turns.iter().map(|(role, content)| turn(role, content)).collect()
}

#[test]
fn alpaca_rows_are_conversations_of_two_turns() {
    for (row, turns) in [
        (
            json!({"instruction": "Add", "input": "1 2", "output": "3"}),
            &[("user", "Add\n\n1 2"), ("assistant", "3")][..],
        ),
        (json!({"instruction": "Go", "input": "", "output": "3", "text": "x"}), &[("user", "Go"), ("assistant", "3")]),
        (json!({"instruction": "Go", "input": null, "output": "3"}), &[("user", "Go"), ("assistant", "3")]),
        (
            json!({"instruction": "Go", "output": "3", "system": "Be brief"}),
            &[("system", "Be brief"), ("user", "Go"), ("assistant", "3")],
        ),
    ] {
        assert_eq!(messages(read_auto(row.clone())), conversation(turns));
        assert_eq!(messages(read(Format::Alpaca, json!({}), row)), conversation(turns));
    }
    let (message, advice) = complaint(read_auto(json!({"instruction": "Go", "response": "3"})));
    assert_eq!(message, "the row has no `output`");
    assert!(advice.ends_with("data.fields = { output = \"response\" }"), "{advice}");
    let (message, _) = complaint(read_auto(json!({"instruction": "Go", "input": 3, "output": "3"})));
    assert_eq!(message, "`input` must be a string, not a number");
}

#[test]
fn sharegpt_turns_are_read_by_either_names() {
    let row = json!({"conversations": [
        {"from": "system", "value": "s"},
        {"from": "human", "value": "a", "role": null},
        {"role": "assistant", "content": null, "tool_calls": [{"name": "f"}]},
        {"from": "tool", "content": "t"},
        {"from": "gpt", "value": "b"},
    ]});
    let mut turns = vec![("system", "s"), ("user", "a"), ("assistant", ""), ("tool", "t"), ("assistant", "b")];
    let mut read_turns = messages(read_auto(row.clone()));
    assert_eq!(
        Value::Object(std::mem::take(&mut read_turns[2].extra)),
        json!({"tool_calls": [{"name": "f"}], "content": null})
    );
    assert_eq!(read_turns, conversation(&turns));

    let row = json!({"system": "s", "chat": row["conversations"].as_array().unwrap()[1..2]});
    turns.truncate(2);
    assert_eq!(messages(read(Format::Auto, json!({"conversations": "chat"}), row)), conversation(&turns));
}

#[test]
fn sharegpt_turns_that_cannot_be_read_are_named_by_their_place() {
    for (turns, expected) in [
        (json!([]), "`conversations` is empty"),
        (json!("Hi"), "`conversations` must be an array of { from, value }, not a string"),
        (json!([{"value": "a"}]), "`conversations[0]` has no `from` and no `role`"),
        (json!([{"from": "human"}]), "`conversations[0]` has no `value`"),
        (json!([{"from": "humn", "value": "a"}]), "`conversations[0]` has the unknown role \"humn\""),
        (json!([{"from": "human", "value": 3}]), "`conversations[0].value` must be a string, not a number"),
        (
            json!([{"from": "human", "value": "a", "content": "b"}]),
            "`conversations[0]` has both `value` and `content`, which differ",
        ),
    ] {
        assert_eq!(complaint(read_auto(json!({ "conversations": turns }))).0, expected);
    }
    let (message, advice) = complaint(read_auto(json!({"messages": [{"from": "human", "value": "a"}]})));
    assert_eq!(message, "`messages[0]` has no `role`");
    assert!(advice.contains("data.fields = { conversations = \"messages\" }"), "{advice}");
    let twice = json!({"system": "a", "conversations": [{"from": "system", "value": "b"}]});
    assert!(complaint(read_auto(twice)).0.contains("begins with another"));
}

#[test]
fn sharegpt_turns_may_be_calls_and_their_results() {
    let call = json!({"name": "add", "arguments": {"a": 1}});
    let wrapped = json!({"type": "function", "function": call});
    for (value, calls) in [
        (json!(call.to_string()), json!([wrapped])),
        (call.clone(), json!([wrapped])),
        (json!([call, call]), json!([wrapped, wrapped])),
        (wrapped.clone(), json!([wrapped])),
    ] {
        let row = json!({"conversations": [
            {"from": "human", "value": "1+1"},
            {"from": "function_call", "value": value},
            {"from": "observation", "value": "2"},
        ]});
        let messages = messages(read_auto(row));
        let roles: Vec<_> = messages.iter().map(|message| message.role.as_str()).collect();
        assert_eq!(roles, ["user", "assistant", "tool"]);
        assert_eq!(Value::Object(messages[1].extra.clone()), json!({"tool_calls": calls, "content": null}));
    }
    for (value, expected) in [
        ("add(1)", "`conversations[0].value` is text that is no JSON"),
        ("{}", "`conversations[0].tool_calls[0]` does not name the function that it calls"),
    ] {
        let row = json!({"conversations": [{"from": "function_call", "value": value}]});
        assert_eq!(complaint(read_auto(row)).0, expected);
    }
}

#[test]
fn tools_and_variables_are_columns_of_a_conversation() {
    let turns = json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]);
    let tools = json!([{"type": "function", "function": {"name": "f"}}]);
    let conversation = Example::new(1).with("messages", conversation(&[("user", "Hi"), ("assistant", "Ho")]));
    for given in [tools.clone(), json!(tools.to_string())] {
        for column in ["messages", "conversations"] {
            let row = json!({ column: turns, "tools": given });
            assert_eq!(read_auto(row).unwrap(), conversation.clone().with("tools", tools.clone()));
        }
    }
    for none in [json!(null), json!([]), json!(""), json!("[]")] {
        assert_eq!(read_auto(json!({ "messages": turns, "tools": none })).unwrap(), conversation);
    }
    let row = json!({"messages": turns, "chat_template_kwargs": {"enable_thinking": false}, "functions": tools});
    let fields = json!({"messages": "messages", "tools": "functions"});
    let variables = Datum::Map(vec![("enable_thinking".to_owned(), false.into())]);
    let expected = conversation.with("tools", tools).with("chat_template_kwargs", variables);
    assert_eq!(read(Format::Auto, fields, row).unwrap(), expected);
}

#[test]
fn a_column_is_passed_over_where_its_name_is_mapped_to_one_that_is_not_there() {
    let turns = json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]);
    let conversation = Example::new(1).with("messages", conversation(&[("user", "Hi"), ("assistant", "Ho")]));
    for (column, value) in [("tools", json!([{"name": "f"}])), ("chat_template_kwargs", json!("no variables"))] {
        for turns_in in ["messages", "conversations"] {
            let row = json!({ turns_in: turns, column: value, "id": 7 });
            let example = read(Format::Auto, json!({ column: "none" }), row).unwrap();
            assert_eq!(example, conversation.clone().with("id", 7), "{column} beside {turns_in}");
        }
    }
    // One that only some rows have does not fall back on a column of our name.
    let row = json!({"messages": turns, "tools": "hammer, saw"});
    assert_eq!(read(Format::Auto, json!({"tools": "functions"}), row).unwrap(), conversation);
    let preference = json!({"prompt": "Hi", "chosen": "a", "rejected": "b"});
    assert!(!read(Format::Preference, json!({"prompt": "none"}), preference).unwrap().has("prompt"));
}

#[test]
fn tools_and_variables_that_are_none_are_named() {
    for (column, value, expected) in [
        ("tools", json!({}), "`tools` must be an array of tools, not an object"),
        ("tools", json!([{}, "f"]), "`tools[1]` must be an object, not a string"),
        ("tools", json!("f()"), "`tools` is text that is no JSON"),
        ("chat_template_kwargs", json!([1]), "`chat_template_kwargs` must be an object, not an array"),
    ] {
        let row = json!({"messages": [{"role": "user", "content": "Hi"}], column: value});
        assert_eq!(complaint(read_auto(row)).0, expected);
    }
    let error = read(Format::Text, json!({"tools": "functions"}), json!({})).unwrap_err();
    assert_eq!(error.message(), "data.fields maps `tools`, which rows of the format `text` do not have");
}

#[test]
fn a_mapped_name_may_lead_into_a_column() {
    let row = json!({"id": 1, "qa": {"question": "a", "answers": [{"text": "b"}]}, "a.b": "c"});
    let fields = json!({"prompt": "qa.question", "completion": "qa.answers.0.text"});
    let example = read(Format::Auto, fields, row.clone()).unwrap();
    assert_eq!((example.text("prompt").unwrap(), example.text("completion").unwrap()), ("a", "b"));
    assert_eq!(read(Format::Auto, json!({"text": "a.b"}), row.clone()).unwrap().text("text").unwrap(), "c");
    let (message, _) = complaint(read(Format::Auto, json!({"text": "qa.body"}), row));
    assert_eq!(message, "the row has no `qa.body`");
}

#[test]
fn a_prompt_and_a_completion_may_be_conversations_of_which_only_the_completion_is_trained() {
    let [system, user, answer] = [("system", "s"), ("user", "u"), ("assistant", "a")]
        .map(|(role, content)| json!({"role": role, "content": content}));
    let row = json!({"prompt": [system, user, answer, user], "completion": [answer], "tools": [{"name": "f"}]});
    let example = read_auto(row).unwrap();
    let turns = example.messages("messages").unwrap();
    assert_eq!(
        turns.iter().map(|turn| turn.role.as_str()).collect::<Vec<_>>(),
        ["system", "user", "assistant", "user", "assistant"]
    );
    assert_eq!(
        turns.iter().map(|turn| turn.extra.get("weight").is_some()).collect::<Vec<_>>(),
        [false, false, true, false, false]
    );
    assert!(example.has("tools") && !example.has("prompt"));
    let (message, _) = complaint(read_auto(json!({"prompt": [user], "completion": "a"})));
    assert_eq!(message, "`prompt` must be a string, not an array");
}

#[test]
fn the_prompt_of_a_pair_without_one_is_what_both_begin_with() {
    let turn = |role: &str, content: &str| json!({"role": role, "content": content});
    let [user, good, bad] = [turn("user", "u"), turn("assistant", "g"), turn("assistant", "b")];
    let example = read_auto(json!({"chosen": [user, good], "rejected": [user, bad]})).unwrap();
    let contents =
        |name: &str| example.messages(name).unwrap().into_iter().map(|turn| turn.content).collect::<String>();
    assert_eq!(["prompt", "chosen", "rejected"].map(contents), ["u", "g", "b"]);
    let example = read_auto(json!({"chosen": "The sky is blue.", "rejected": "The sky is green."})).unwrap();
    let texts = ["prompt", "chosen", "rejected"].map(|name| example.text(name).unwrap());
    assert_eq!(texts, ["The sky is", " blue.", " green."]);
    assert!(!read_auto(json!({"chosen": "a", "rejected": "b"})).unwrap().has("prompt"));
}

#[test]
fn conversations_in_cells_of_a_table_are_text_that_is_a_list() {
    let example = read_auto(json!({"messages": "[{\"role\": \"user\", \"content\": \"Hi\"}]"}));
    assert_eq!(messages(example), [turn("user", "Hi")]);
    assert_eq!(
        complaint(read_auto(json!({"messages": "[Hi"}))).0,
        "`messages` must be an array of { role, content }, not a string"
    );
}

#[test]
fn conversations_by_columns_are_those_by_turns() {
    let expected = read_auto(
        json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "name": "c"}]}),
    );
    let columns = json!({"role": ["user", "assistant"], "content": ["a", "b"], "name": [null, "c"]});
    assert_eq!(read_auto(json!({"messages": columns})).unwrap(), expected.unwrap());
    let (message, _) = complaint(read_auto(json!({"messages": {"role": ["user"], "content": []}})));
    assert_eq!(message, "`messages` must be an array of { role, content }, not an object");
    let pair = |value: fn(&str) -> Value| {
        read_auto(json!({"prompt": "p", "chosen": value("a"), "rejected": value("b")})).unwrap()
    };
    let by_turns = pair(|text| json!([{"role": "assistant", "content": text}]));
    assert_eq!(pair(|text| json!({"role": ["assistant"], "content": [text]})), by_turns);
}
