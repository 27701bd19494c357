//! What is trained, from the rows of a file to the counts of an update: answers with their last token, nothing else.

use std::path::PathBuf;

use mdt_tests::{Job, assert_says, library_job, root};
use serde_json::{Value, json};

const TEMPLATES: [&str; 6] = ["chatml", "llama3", "llama2", "mistral", "qwen", "qwen3"];
/// Rows of the embedding: more than any of the tokenizers has ids.
const VOCABULARY: usize = 320;

fn chat(template: &str) -> PathBuf {
    root().join("tests/fixtures/chat").join(template)
}

/// A conversation, and what transformers made of it.
struct Conversation {
    /// As a row of a data file has it: messages, tools, variables.
    row: Value,
    ids: Vec<u32>,
    mask: Vec<bool>,
}

impl Conversation {
    fn supervised(&self) -> usize {
        self.mask.iter().filter(|&&trained| trained).count()
    }

    /// The token that ends each answer.
    fn ends(&self) -> Vec<u32> {
        let ends = |&t: &usize| self.mask[t] && self.mask.get(t + 1) != Some(&true);
        (0..self.ids.len()).filter(ends).map(|t| self.ids[t]).collect()
    }

    fn answers(&self) -> usize {
        let turns = self.row["messages"].as_array().expect("a list");
        turns.iter().filter(|message| message["role"] == "assistant").count()
    }
}

/// The golden conversations of a template, plain or with its answers marked. Those that the plain one has no mask for
/// are the second list.
fn conversations(template: &str, marked: bool) -> (Vec<Conversation>, Vec<Value>) {
    let text = std::fs::read_to_string(chat(template).join("expected.json")).expect("the fixture");
    let expected: Value = serde_json::from_str(&text).expect("JSON");
    let numbers = |value: &Value| -> Vec<u32> {
        value.as_array().expect("a list").iter().map(|number| number.as_u64().expect("a number") as u32).collect()
    };
    let (mut trained, mut refused) = (Vec::new(), Vec::new());
    for case in expected["conversations"].as_object().expect("conversations").values() {
        let mut row = case.clone();
        let keys = ["messages", "tools", "chat_template_kwargs", "turns"];
        row.as_object_mut().expect("an object").retain(|key, _| keys.contains(&key.as_str()));
        match &case[if marked { "assistant_mask" } else { "plain_mask" }] {
            Value::Null => refused.push(row),
            mask => trained.push(Conversation {
                row,
                ids: numbers(&case["input_ids"]),
                mask: numbers(mask).into_iter().map(|mark| mark == 1).collect(),
            }),
        }
    }
    (trained, refused)
}

/// A job over these rows, with the template as the tokenizer has it or with its assistant's words marked.
fn job<'a>(template: &str, marked: bool, rows: impl IntoIterator<Item = &'a Value>) -> Job {
    let job = Job::new().tiny_llama(&chat(template), VOCABULARY);
    let rows: Vec<_> = rows.into_iter().map(Value::to_string).collect();
    let data = job.file("chat.jsonl", rows.join("\n"));
    let job = job.set("data.train", data.display()).set("trainer.max_seq_len", 1024);
    if marked { job.set("tokenizer.chat_template", chat(template).join("generation.jinja").display()) } else { job }
}

fn rows(conversations: &[Conversation]) -> impl Iterator<Item = &Value> {
    conversations.iter().map(|conversation| &conversation.row)
}

#[test]
fn every_template_trains_the_spans_that_transformers_marks_in_all_turns() {
    for template in TEMPLATES {
        for marked in [false, true] {
            let (mut conversations, _) = conversations(template, marked);
            // The longer ones, with tools, take most of the time and are compared token by token below.
            conversations.retain(|conversation| conversation.ids.len() < 200);
            let job = job(template, marked, rows(&conversations))
                .set("trainer.batch_size", 1)
                .set("trainer.gradient_accumulation_steps", 1);
            job.run().success();
            let counts = |count: &dyn Fn(&Conversation) -> usize| -> Vec<f64> {
                conversations.iter().map(|conversation| count(conversation) as f64).collect()
            };
            assert_eq!(job.numbers("tokens"), counts(&|row| row.ids.len()), "{template}, marked: {marked}");
            assert_eq!(
                job.numbers("supervised_tokens"),
                counts(&Conversation::supervised),
                "{template}, marked: {marked}"
            );
        }
    }
}

#[test]
fn every_template_gives_the_ids_and_masks_of_transformers() {
    for template in TEMPLATES {
        for marked in [false, true] {
            let (conversations, _) = conversations(template, marked);
            let job = job(template, marked, rows(&conversations));
            let keys = job.arguments().chunks(2).filter(|pair| pair[0] == "--set").map(|pair| pair[1].clone());
            let library = library_job(&keys.collect::<Vec<_>>());
            let directory = library.model_directory().expect("a directory");
            let tokenizer = library.tokenizer(&directory).expect("the tokenizer");
            let trainer = library.trainer(&directory, &tokenizer).expect("the trainer");
            let file = job.directory().join("chat.jsonl").display().to_string();
            let mut source = library.data(&file).expect("the rows");
            for conversation in &conversations {
                let example = source.next().expect("a row").expect("a row");
                let encoded = trainer.encode(&example).expect("a row").remove(0).sequences.remove(0);
                let row = format!("{template}, marked: {marked}, row {}", example.row);
                assert_eq!(encoded.tokens, conversation.ids, "{row}");
                assert_eq!(encoded.supervised, conversation.mask, "{row}");
            }
            assert!(source.next().expect("the end").is_none());
        }
    }
}

#[test]
fn the_last_trained_token_of_every_answer_is_the_same_end_of_turn() {
    for template in TEMPLATES {
        for marked in [false, true] {
            let (conversations, _) = conversations(template, marked);
            let end = conversations[0].ends()[0];
            for conversation in &conversations {
                assert_eq!(conversation.ends(), vec![end; conversation.answers()], "{template}, marked: {marked}");
            }
            let most = conversations.iter().map(Conversation::answers).max();
            assert!(most >= Some(4) || (template == "qwen3" && !marked), "four answers in one row");
        }
    }
}

#[test]
fn a_template_that_changes_earlier_turns_trains_each_answer_in_a_sequence_of_its_own() {
    let (_, split) = conversations("qwen3", false);
    for case in &split {
        let job = job("qwen3", false, [case]);
        let run = job.run_with(&["data", "preview", "--json", "--rows", "100"]).success();
        let shown: Vec<Value> = run.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let turns = case["turns"].as_array().expect("a list");
        assert_eq!(shown.len(), turns.len() + 1, "each answer, and the totals");
        for (number, (sequence, turn)) in (1..).zip(shown.iter().zip(turns)) {
            assert_eq!(sequence["tokens"], turn["input_ids"]);
            let mask: Vec<Value> =
                turn["mask"].as_array().expect("a list").iter().map(|mark| json!(mark == 1)).collect();
            assert_eq!(sequence["supervised"], json!(mask));
            assert_eq!((&sequence["row"], &sequence["part"]), (&json!(1), &json!([number, turns.len()])));
        }
        assert_eq!(shown[turns.len()]["totals"]["rows"], 1);
        assert_eq!(shown[turns.len()]["totals"]["rows_by_answer"], json!([1, turns.len()]));
    }
    let rows: Vec<_> = split.iter().collect();
    let sequences: usize = split.iter().map(|case| case["turns"].as_array().expect("a list").len()).sum();
    let run = job("qwen3", false, rows).set("trainer.max_steps", 1).run().success();
    let said = format!("{} rows with a sequence for each answer, {sequences} in all", split.len());
    assert_says(&run.stderr, &[&said, "trainer  sft: ", "turns = all"]);
}

#[test]
fn variables_for_the_template_come_from_the_configuration_or_the_row() {
    let turns = json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]);
    let row = json!({ "messages": turns });
    let thinks = json!({"messages": turns, "chat_template_kwargs": {"enable_thinking": true}});
    let job = job("qwen3", false, [&row, &thinks])
        .set("trainer.batch_size", 1)
        .set("trainer.gradient_accumulation_steps", 1)
        .set("tokenizer.chat_template_kwargs.enable_thinking", false);
    job.run().success();
    // `Ho<|im_end|>`, and with an empty thought before it.
    let trained = job.numbers("supervised_tokens");
    assert!(trained[0] == 3.0 && trained[1] > 3.0, "{trained:?}");
}

#[test]
fn tools_that_the_template_would_leave_out_are_an_error_that_names_template_and_row() {
    let turns = json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]);
    let tool = json!({"type": "function", "function": {"name": "f", "parameters": {}}});
    let job = job("chatml", false, [&json!({"messages": turns, "tools": [tool]})]);
    let failure = job.run().failure(4);
    let passed_over = "data.fields = { tools = \"none\" }";
    assert_says(&failure, &["never shows them", "tokenizer_config.json", "row 1", passed_over]);
    job.run_with(&["--set", &passed_over.replace(' ', "")]).success();
}

#[test]
fn the_end_of_every_answer_is_trained_where_padding_is_the_same_token() {
    // llama3's padding is <|eot_id|>, id 4. All rows in one batch, so that the shorter ones are padded with it.
    let (conversations, _) = conversations("llama3", false);
    assert!(conversations.iter().all(|row| row.ends() == vec![4; row.answers()]), "the fixture");
    let lengths: Vec<_> = conversations.iter().map(|row| row.ids.len()).collect();
    assert!(lengths.iter().any(|&length| length != lengths[0]), "the fixture");

    let job = job("llama3", false, rows(&conversations))
        .set("trainer.batch_size", conversations.len())
        .set("trainer.gradient_accumulation_steps", 1);
    job.run().success();
    let total = conversations.iter().map(Conversation::supervised).sum::<usize>() as f64;
    assert_eq!(job.numbers("supervised_tokens"), [total]);
    assert_eq!(job.numbers("tokens"), [lengths.iter().sum::<usize>() as f64]);
}

#[test]
fn a_row_has_exactly_one_bos_whether_the_template_or_the_tokenizer_adds_it() {
    let job = Job::new().set("trainer.batch_size", 1).set("trainer.gradient_accumulation_steps", 1);
    // One token per character. Template and tokenizer of the fixture's model both know bos.
    let chat =
        json!({ "messages": [{ "role": "user", "content": "Shout" }, { "role": "assistant", "content": "AB" }] });
    let rows = [
        chat,
        json!({ "prompt": "Shout", "completion": "AB" }),
        json!({ "text": "ShoutAB" }),
        // A text that brings its own.
        json!({ "prompt": "<s>Shout", "completion": "AB" }),
    ];
    for (row, tokens) in rows.iter().zip([10.0, 9.0, 9.0, 9.0]) {
        let data = job.file("row.jsonl", row.to_string());
        let arguments = ["--set", &format!("data.train={}", data.display()), "--set", "checkpoint.resume=never"];
        job.run_with(&arguments).success();
        assert_eq!(job.numbers("tokens"), [tokens], "{row}");
    }
}

#[test]
fn a_prompt_of_6_tokens_and_an_answer_of_3_give_3_supervised_tokens() {
    let job = Job::new().set("trainer.batch_size", 2).set("trainer.gradient_accumulation_steps", 1);
    // bos and five characters; two characters and eos. Beside it a row that makes padding necessary.
    let short = json!({ "prompt": "Shout", "completion": "AB" }).to_string();
    let long = json!({ "prompt": "Shout abcdefghijkl", "completion": "ABCDEFGHIJKL" }).to_string();
    let data = job.file("rows.jsonl", format!("{short}\n{short}\n{short}\n{long}\n"));
    let job = job.set("data.train", data.display());
    job.run().success();
    assert_eq!(job.numbers("tokens"), [9.0 + 9.0, 9.0 + 1.0 + 18.0 + 13.0]);
    assert_eq!(job.numbers("supervised_tokens"), [3.0 + 3.0, 3.0 + 13.0]);
}

#[test]
fn the_pad_token_changes_nothing() {
    let fixture = root().join("tests/fixtures/training/model");
    let trained = |pad: Value| {
        let job = Job::new();
        let model = job.directory().join("model");
        mdt_tests::copy_files(&fixture, &model);
        let path = model.join("tokenizer_config.json");
        let text = std::fs::read_to_string(&path).expect("the tokenizer's config");
        let mut config: Value = serde_json::from_str(&text).expect("JSON");
        config["pad_token"] = pad;
        job.file("model/tokenizer_config.json", config.to_string());
        let job = job.rows(0..24).set("model.path", model.display());
        job.run().success();
        (job.final_weights(), job.unmeasured())
    };
    let given = trained("<pad>".into());
    for pad in ["</s>".into(), "<s>".into(), Value::Null] {
        assert!(trained(pad.clone()) == given, "with {pad} as the pad token");
    }
}

#[test]
fn rows_with_nothing_to_train_are_dropped_counted_and_named() {
    let job = Job::new().set("trainer.max_seq_len", 16);
    let row = |prompt: &str| json!({ "prompt": prompt, "completion": "AB" }).to_string();
    let data =
        job.file("rows.jsonl", [row("Shout"), row(&"x".repeat(40)), row("Shout"), row(&"y".repeat(15))].join("\n"));
    let job = job.set("data.train", data.display());
    let run = job.run().success();
    assert_eq!(job.numbers("supervised_tokens"), [6.0]);
    let said = format!("2 dropped with nothing to train ({} rows 2, 4)", data.display());
    assert!(run.stderr.contains(&said), "{}", run.stderr);
}

#[test]
fn data_with_nothing_left_to_train_is_an_error() {
    let job = Job::new().set("trainer.max_seq_len", 16);
    let data = job.file("rows.jsonl", json!({ "prompt": "x".repeat(40), "completion": "AB" }).to_string());
    let error = job.set("data.train", data.display()).run().failure(4);
    assert!(error.contains("none of the 1 rows has anything to train") && error.contains("row 1"), "{error}");
}

#[test]
fn prompt_and_completion_are_one_text_for_tokenizers_of_every_kind() {
    for tokenizer in ["prepend", "metaspace", "replace", "byte_level"] {
        let directory = root().join("tests/fixtures/seams").join(tokenizer);
        let text = std::fs::read_to_string(directory.join("expected.json")).expect("the fixture");
        let expected: Vec<Value> = serde_json::from_str(&text).expect("JSON");
        let job = Job::new().tiny_llama(&directory, 400);
        let rows: Vec<_> = expected
            .iter()
            .map(|row| json!({"prompt": row["prompt"], "completion": row["completion"]}).to_string())
            .collect();
        let data = job.file("rows.jsonl", rows.join("\n"));
        let job = job.set("data.train", data.display());
        let run = job.run_with(&["data", "preview", "--json", "--rows", "100"]).success();
        assert_says(&run.stderr, &["one token holds both the end of the prompt and the start of the completion"]);
        let shown: Vec<Value> = run.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(shown.len(), expected.len() + 1, "each row, and the totals");
        for (row, expected) in shown.iter().zip(&expected) {
            let mask: Vec<Value> =
                expected["mask"].as_array().expect("a list").iter().map(|mark| json!(mark == 1)).collect();
            assert_eq!(row["tokens"], expected["input_ids"], "{tokenizer}: {expected}");
            assert_eq!(row["supervised"], json!(mask), "{tokenizer}: {expected}");
        }
        job.set("trainer.max_steps", 1).run().success();
    }
}

#[test]
fn an_answer_of_weight_0_is_given_and_not_trained() {
    let turns = json!([
        {"role": "user", "content": "What is the capital of France?"},
        {"role": "assistant", "content": "Rome.", "weight": 0},
        {"role": "user", "content": "And really?"},
        {"role": "assistant", "content": "Paris.", "weight": 1},
    ]);
    let row = json!({ "messages": turns });
    for template in TEMPLATES {
        // The plain template of qwen3 drops what it rendered before.
        for marked in [false, true] {
            let run = job(template, marked, [&row]).run_with(&["data", "preview", "--json"]).success();
            let shown: Value = serde_json::from_str(run.stdout.lines().next().expect("a row")).expect("JSON");
            let pieces =
                shown["pieces"].as_array().expect("a list").iter().zip(shown["supervised"].as_array().expect("a list"));
            let text = |trained: bool| -> String {
                pieces.clone().filter(|(_, mark)| **mark == trained).filter_map(|(piece, _)| piece.as_str()).collect()
            };
            assert!(text(true).contains("Paris.") && !text(true).contains("Rome."), "{template}: {}", text(true));
            assert!(text(false).contains("Rome."), "{template}, marked: {marked}");
        }
    }
    let mut other = row.clone();
    other["messages"][1]["weight"] = json!(0.5);
    let failure = job("chatml", false, [&other]).run().failure(4);
    assert_says(&failure, &["the `weight` of a message is 0.5", "message 2", "row 1"]);
}
