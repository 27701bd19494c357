//! What must not happen to rows on their way, in any format: trained padding, answers without their end, lost tails,
//! rows with nothing to train that go unnoticed.

use mdt_tests::{Job, assert_says, copy_files, root};
use serde_json::{Value, json};

use crate::written::{FORMS, Form, array, gzip, lines, messages, over, pairs, preview};

#[test]
fn every_row_is_trained_once_per_epoch_and_no_tail_is_lost() {
    for (name, form) in FORMS {
        let rows: Vec<Value> = pairs(11).iter().map(form).collect();
        let job = over("train.json.gz", gzip(&array(&rows)))
            .set("trainer.batch_size", 2)
            .set("trainer.gradient_accumulation_steps", 2)
            .set("trainer.num_epochs", 2)
            .set("data.shuffle", true);
        let (seen, totals) = preview(&job);
        assert_eq!(seen.len(), 11, "{name}");
        job.run().success();
        // Three updates an epoch, of which the last has three rows.
        for key in ["tokens", "supervised_tokens"] {
            let numbers = job.numbers(key);
            let epochs: Vec<f64> = numbers.chunks(3).map(|updates| updates.iter().sum()).collect();
            assert_eq!(epochs, [totals[key].as_f64().expect("a number"); 2], "{name}: {key}");
        }
    }
}

#[test]
fn a_prompt_longer_than_max_seq_len_is_dropped_counted_and_named() {
    let long: Form = |(question, answer)| messages(&(question.repeat(9), answer.clone()));
    for (name, form) in FORMS {
        let pairs = pairs(5);
        let mut rows: Vec<Value> = pairs.iter().map(form).collect();
        let question = "Shout ".repeat(12);
        for number in [1, 4] {
            rows[number] = form(&(question.clone(), pairs[number].1.clone()));
        }
        let file = format!("{name}.json");
        let job = over(&file, array(&rows));
        let run = job.run().success();
        let path = job.directory().join(&file).display().to_string();
        assert_says(&run.stderr, &[&format!("2 dropped with nothing to train ({path} rows 2, 5)")]);

        // They leave no trace in the training.
        let kept: Vec<Value> = [0, 2, 3].map(|number| form(&pairs[number])).to_vec();
        let without = over("train.jsonl", lines(&kept));
        without.run().success();
        assert!(job.final_weights() == without.final_weights(), "{name}");
        assert_eq!(job.unmeasured(), without.unmeasured(), "{name}");
    }
    let rows: Vec<Value> = pairs(2).iter().map(long).collect();
    let failure = over("train.json", array(&rows)).run().failure(4);
    assert_says(&failure, &["none of the 2 rows has anything to train", "rows 1, 2"]);
}

/// A conversation of some turns as a row of `messages`, and as one of ShareGPT.
fn conversation(turns: usize) -> (Value, Value) {
    let asks = |turn: usize| turn.is_multiple_of(2);
    let says = |turn: usize| if asks(turn) { "a".repeat(3 * turn + 1) } else { "b".repeat(turn) };
    let messages =
        (0..turns).map(|turn| json!({"role": if asks(turn) { "user" } else { "assistant" }, "content": says(turn)}));
    let shared = (0..turns).map(|turn| json!({"from": if asks(turn) { "human" } else { "gpt" }, "value": says(turn)}));
    (json!({"messages": messages.collect::<Vec<_>>()}), json!({"conversations": shared.collect::<Vec<_>>()}))
}

/// The job of rows of differing lengths in one batch, with the tokenizer of `llama3` and this padding.
fn padded(rows: &[Value], pad: &Value) -> Job {
    let job = Job::new();
    let tokenizer = job.directory().join("tokenizer");
    copy_files(&root().join("tests/fixtures/chat/llama3"), &tokenizer);
    let path = tokenizer.join("tokenizer_config.json");
    let text = std::fs::read_to_string(&path).expect("the tokenizer's configuration");
    let mut config: Value = serde_json::from_str(&text).expect("JSON");
    config["pad_token"] = pad.clone();
    job.file("tokenizer/tokenizer_config.json", config.to_string());
    let job = job.tiny_llama(&tokenizer, 320);
    let file = job.file("train.jsonl", lines(rows));
    job.set("data.train", file.display()).set("trainer.max_seq_len", 256).set("trainer.batch_size", rows.len())
}

#[test]
fn padding_is_never_trained_and_its_id_changes_nothing() {
    let (messages, shared): (Vec<Value>, Vec<Value>) = [2, 8, 4].map(conversation).into_iter().unzip();
    let trained = |rows: &[Value], pad: &str| {
        let job = padded(rows, &json!(pad));
        job.run().success();
        (job.unmeasured(), job.final_weights())
    };
    // llama3's own padding is what ends each of its answers.
    let expected = trained(&messages, "<|eot_id|>");
    assert!(trained(&shared, "<|eot_id|>") == expected);
    for pad in ["<|end_of_text|>", "<|begin_of_text|>"] {
        assert!(trained(&shared, pad) == expected, "{pad}");
    }
}

#[test]
fn every_answer_keeps_its_end_where_padding_is_the_same_token() {
    let (_, shared): (Vec<Value>, Vec<Value>) = [2, 8, 4].map(conversation).into_iter().unzip();
    let job = padded(&shared, &json!("<|eot_id|>"));
    let (rows, _) = preview(&job);
    let ends = rows.iter().map(|(tokens, marks)| {
        let (tokens, marks) = (tokens.as_array().expect("ids"), marks.as_array().expect("marks"));
        tokens.iter().zip(marks).filter(|(id, mark)| **id == 4 && **mark == true).count()
    });
    assert_eq!(ends.collect::<Vec<_>>(), [1, 4, 2]);
    job.run().success();
    let marked = |(_, marks): &(Value, Value)| marks.as_array().expect("marks").iter().filter(|m| **m == true).count();
    assert_eq!(job.numbers("supervised_tokens"), [rows.iter().map(marked).sum::<usize>() as f64]);
}
