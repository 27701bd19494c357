//! The number of threads changes no bit of a training run, whatever is trained and however.

use mdt_tests::{Job, copy_files, root};
use serde_json::json;

/// Two updates of a model whose products are large enough to be shared between threads: each of 16 rows of up to 64 tokens.
fn job() -> Job {
    let job = Job::new();
    let row = |number: usize| {
        let word: String =
            (0..20 + number * 7 % 9).map(|place| char::from(b'a' + (number * 5 + place * 3) as u8 % 7)).collect();
        json!({ "prompt": format!("Shout {word}\n"), "completion": format!("{}!", word.to_uppercase()) }).to_string()
    };
    let rows = job.file("train.jsonl", (0..48).map(row).collect::<Vec<_>>().join("\n"));
    job.set("data.train", rows.display())
        .set("trainer.batch_size", 16)
        .set("trainer.gradient_accumulation_steps", 1)
        .set("trainer.max_steps", 2)
}

/// Trains a Mistral of this vocabulary, each of whose tokens sees the last 24 ones.
fn model(job: Job, vocabulary: usize) -> Job {
    copy_files(&root().join("tests/fixtures/training/model"), &job.directory().join("model"));
    let config = json!({
        "architectures": ["MistralForCausalLM"], "model_type": "mistral", "vocab_size": vocabulary, "hidden_size": 256,
        "intermediate_size": 768, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "sliding_window": 24,
        "tie_word_embeddings": true, "torch_dtype": "float32",
    });
    job.file("model/config.json", config.to_string());
    let path = job.directory().join("model").display().to_string();
    job.set("model.path", path).set("model.init", "random")
}

/// Checks that 1, 2, 3 and 4 threads end with the same loss, norm of the gradient and weights in every update.
fn assert_threads_change_no_bit(name: &str, make: impl Fn(Job) -> Job) {
    let runs = [1, 2, 3, 4].map(|threads| {
        let job = make(job()).set("compute.threads", threads);
        job.run().success();
        job
    });
    let file = |job: &Job, name: &str| std::fs::read(job.checkpoint(2).join(name)).expect("a checkpoint");
    for (threads, other) in (2..).zip(&runs[1..]) {
        assert_eq!(other.unmeasured(), runs[0].unmeasured(), "{name}: {threads} threads");
        for part in ["model.safetensors", "optimizer.safetensors"] {
            assert!(file(other, part) == file(&runs[0], part), "{name}: {part} of {threads} threads");
        }
    }
}

#[test]
fn training_of_all_weights_has_the_same_bits_on_any_number_of_threads() {
    assert_threads_change_no_bit("float32", |job| model(job, 104));
    assert_threads_change_no_bit("products of bfloat16", |job| model(job, 104).set("compute.matmul", "bfloat16"));
    assert_threads_change_no_bit("bfloat16", |job| model(job, 104).set("compute.dtype", "bfloat16"));
}

#[test]
fn a_head_whose_logits_are_computed_in_tiles_has_the_same_bits_on_any_number_of_threads() {
    assert_threads_change_no_bit("tiles", |job| model(job, 40_000));
}

#[test]
fn adapters_and_quantised_weights_have_the_same_bits_on_any_number_of_threads() {
    let adapted = |job: Job| model(job, 104).set("model.adapter", "{ kind = \"lora\", dropout = 0.1 }");
    assert_threads_change_no_bit("LoRA", adapted);
    assert_threads_change_no_bit("QLoRA", |job| adapted(job).set("model.quantize", "{ bits = 4, group_size = 64 }"));
}

#[test]
fn packed_rows_have_the_same_bits_on_any_number_of_threads() {
    assert_threads_change_no_bit("packing", |job| {
        model(job, 104).set("trainer.packing", "best_fit").set("trainer.max_seq_len", 256).set("trainer.batch_size", 3)
    });
}
