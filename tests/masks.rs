//! What is trained, from the rows of a file to the counts of an update: answers with their last token, nothing else.

use std::path::PathBuf;

use mdt_plugin_api::{Content, Example, Message};
use mdt_tests::{Job, library_job, root};
use serde_json::{Value, json};

const TEMPLATES: [&str; 3] = ["chatml", "llama3", "llama2"];
/// Rows of the embedding: more than any of the tokenizers has ids.
const VOCABULARY: usize = 304;

fn chat(template: &str) -> PathBuf {
    root().join("tests/fixtures/chat").join(template)
}

/// What transformers made of a conversation.
struct Conversation {
    messages: Value,
    ids: Vec<u32>,
    mask: Vec<bool>,
}

impl Conversation {
    fn supervised(&self) -> usize {
        self.mask.iter().filter(|&&trained| trained).count()
    }
}

/// The golden conversations of a template, and the id of the token that ends a turn.
fn conversations(template: &str) -> Vec<Conversation> {
    let text = std::fs::read_to_string(chat(template).join("expected.json")).expect("the fixture");
    let expected: Value = serde_json::from_str(&text).expect("JSON");
    let numbers = |value: &Value| -> Vec<u32> {
        value.as_array().expect("a list").iter().map(|number| number.as_u64().expect("a number") as u32).collect()
    };
    let conversations = expected["conversations"].as_object().expect("conversations").values();
    conversations
        .map(|conversation| Conversation {
            messages: conversation["messages"].clone(),
            ids: numbers(&conversation["input_ids"]),
            mask: numbers(&conversation["assistant_mask"]).into_iter().map(|mark| mark == 1).collect(),
        })
        .collect()
}

/// A job over these conversations, with the template as the tokenizer has it or with its assistant's words marked.
fn job(template: &str, marked: bool, conversations: &[Conversation]) -> Job {
    let job = Job::new().tiny_llama(&chat(template), VOCABULARY);
    let rows: Vec<_> = conversations.iter().map(|row| json!({ "messages": row.messages }).to_string()).collect();
    let data = job.file("chat.jsonl", rows.join("\n"));
    let job = job.set("data.train", data.display()).set("trainer.max_seq_len", 256);
    if marked { job.set("trainer.chat_template", chat(template).join("generation.jinja").display()) } else { job }
}

#[test]
fn every_template_trains_the_spans_that_transformers_marks_in_all_turns() {
    for template in TEMPLATES {
        let conversations = conversations(template);
        for marked in [false, true] {
            let job = job(template, marked, &conversations)
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
        let conversations = conversations(template);
        for marked in [false, true] {
            let files = job(template, marked, &conversations);
            let keys = files.arguments().chunks(2).filter(|pair| pair[0] == "--set").map(|pair| pair[1].clone());
            let library = library_job(&keys.collect::<Vec<_>>());
            let trainer = library.trainer(&library.model_directory().expect("a directory")).expect("the trainer");
            for (conversation, row) in conversations.iter().zip(1..) {
                let text = |value: &Value| value.as_str().expect("text").to_owned();
                let messages = conversation.messages.as_array().expect("a list").iter().map(|message| Message {
                    role: text(&message["role"]),
                    content: text(&message["content"]),
                    ..Message::default()
                });
                let example = Example { row, content: Content::Messages(messages.collect()) };
                let encoded = trainer.encode(&example).expect("a row");
                assert_eq!(encoded.tokens, conversation.ids, "{template}, marked: {marked}, row {row}");
                assert_eq!(encoded.supervised, conversation.mask, "{template}, marked: {marked}, row {row}");
            }
        }
    }
}

#[test]
fn the_end_of_every_answer_is_trained_where_padding_is_the_same_token() {
    // llama3's padding is <|eot_id|>, id 4. All rows in one batch, so that the shorter ones are padded with it.
    let conversations = conversations("llama3");
    let ends = |row: &Conversation| row.ids.iter().zip(&row.mask).filter(|&(&id, &trained)| id == 4 && trained).count();
    let turns = |row: &Conversation| {
        row.messages.as_array().expect("a list").iter().filter(|message| message["role"] == "assistant").count()
    };
    assert!(conversations.iter().all(|row| ends(row) == turns(row)), "the fixture");
    let lengths: Vec<_> = conversations.iter().map(|row| row.ids.len()).collect();
    assert!(lengths.iter().any(|&length| length != lengths[0]), "the fixture");

    let rows = conversations.len();
    let job = job("llama3", false, &conversations)
        .set("trainer.batch_size", rows)
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
