//! Columns of other names: `data.format` and `data.fields`.

use mdt_tests::{Job, assert_says};
use serde_json::{Value, json};

use crate::written::{Pair, lines, messages, over, pairs, preview};

/// Keys of the configuration with their values.
type Keys<'a> = &'a [(&'a str, &'a str)];
/// How rows are written, and the keys that make them readable.
type Mapping<'a> = (&'a dyn Fn(&Pair) -> Value, Keys<'a>);

/// What a job on rows of this form sees.
fn seen(form: impl Fn(&Pair) -> Value, set: Keys<'_>) -> Vec<(Value, Value)> {
    let rows: Vec<Value> = pairs(3).iter().map(form).collect();
    let job = over("train.jsonl", lines(&rows));
    preview(&set.iter().fold(job, |job, (key, value)| job.set(key, value))).0
}

#[test]
fn columns_of_other_names_and_within_others_are_mapped() {
    let expected = seen(messages, &[]);
    let turns = |(question, answer): &Pair| json!([{"role": "user", "content": question}, {"role": "assistant", "content": answer}]);
    let shared =
        |(question, answer): &Pair| json!([{"from": "human", "value": question}, {"from": "gpt", "value": answer}]);
    let mapped: [Mapping<'_>; 6] = [
        (&|pair| json!({"chat": turns(pair)}), &[("data.fields.messages", "chat")]),
        (&|pair| json!({"data": {"turns": turns(pair)}}), &[("data.fields.messages", "data.turns")]),
        (&|pair| json!({"data": [{"turns": shared(pair)}]}), &[("data.fields.conversations", "data.0.turns")]),
        (
            &|(question, answer)| json!({"question": format!("{question}\n"), "answers": {"text": [answer]}}),
            &[("data.fields", "{ prompt = \"question\", completion = \"answers.text.0\" }")],
        ),
        (
            &|(question, answer)| json!({"task": question, "response": answer, "text": "not this"}),
            &[("data.fields", "{ instruction = \"task\", output = \"response\" }"), ("data.format", "alpaca")],
        ),
        // A column whose own name has a dot.
        (&|pair| json!({"data.turns": turns(pair)}), &[("data.fields.messages", "data.turns")]),
    ];
    for (number, (form, set)) in mapped.into_iter().enumerate() {
        assert_eq!(seen(form, set), expected, "mapping {number}");
    }
}

#[test]
fn a_named_format_is_taken_where_a_row_has_the_columns_of_several() {
    let both = |(question, answer): &Pair| {
        let mut row = messages(&(question.clone(), answer.clone()));
        row["prompt"] = json!(question);
        row["completion"] = json!("Z");
        row
    };
    assert_eq!(seen(both, &[]), seen(messages, &[]));
    let pair = |(question, _): &Pair| json!({"prompt": question, "completion": "Z"});
    assert_eq!(seen(both, &[("data.format", "prompt_completion")]), seen(pair, &[]));
}

#[test]
fn an_input_follows_its_instruction_and_a_system_column_precedes_both() {
    let alpaca =
        |(question, answer): &Pair| json!({"instruction": "Shout", "input": question, "output": answer, "system": "S"});
    let turns = |(question, answer): &Pair| {
        json!({"messages": [
            {"role": "system", "content": "S"},
            {"role": "user", "content": format!("Shout\n\n{question}")},
            {"role": "assistant", "content": answer},
        ]})
    };
    assert_eq!(seen(alpaca, &[]), seen(turns, &[]));
}

#[test]
fn a_mapping_that_leads_nowhere_names_the_row_and_what_it_has() {
    let rows = [json!({"data": {"turns": 3}})];
    let job = |fields: &str| over("train.jsonl", lines(&rows)).set("data.fields.messages", fields);
    assert_says(&job("data.chat").run().failure(4), &["the row has no `data.chat`", "keys found data", "line 1"]);
    assert_says(&job("data.turns").run().failure(4), &["`data.turns` must be an array", "not a number", "line 1"]);

    let other = Job::new().set("data.format", "text").set("data.fields.tools", "functions");
    assert_says(&other.run().failure(2), &["data.fields maps `tools`", "`text`"]);
}
