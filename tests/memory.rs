//! The memory of a job is told before anything is spent, and a job that does not fit is refused.

use std::process::Command;

use mdt_tests::{Job, Run, assert_says, command, root};
use serde_json::{Value, json};

const MIB: f64 = (1 << 20) as f64;

/// A model from random weights: [hidden size, layers, intermediate size, vocabulary], and rows that are longer than any limit.
fn job(shape: [usize; 4], rows: usize) -> Job {
    let [hidden, layers, intermediate, vocabulary] = shape;
    let tokenizer = root().join("examples/demo/model");
    let job = Job::new().tiny_llama(&tokenizer, vocabulary);
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": vocabulary, "hidden_size": hidden,
        "intermediate_size": intermediate, "num_hidden_layers": layers, "num_attention_heads": 4, "num_key_value_heads": 4,
        "max_position_embeddings": 1024, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": true,
        "torch_dtype": "float32",
    });
    job.file("model/config.json", config.to_string());
    let row = json!({ "text": "memory ".repeat(200) }).to_string();
    let data = job.file("rows.jsonl", vec![row; rows].join("\n"));
    job.set("data.train", data.display()).set("trainer.max_steps", 2).set("checkpoint.save_steps", 0)
}

/// The estimate by its parts, as doctor gives it.
fn estimate(job: &Job) -> Value {
    let found = finding(&job.run_with(&["doctor", "--json"]));
    assert_eq!(found["status"], "ok", "{found}");
    found["facts"].clone()
}

fn finding(run: &Run) -> Value {
    let report: Value = serde_json::from_str(&run.stdout).expect("a report");
    let checks = report["checks"].as_array().expect("checks");
    checks.iter().find(|check| check["name"] == "memory").expect("the check")["findings"][0].clone()
}

fn number(facts: &Value, name: &str) -> f64 {
    facts[name].as_f64().unwrap_or_else(|| panic!("{name} is no number in {facts}"))
}

/// Runs a job and compares its peak with the estimate; the parts that it is mostly made of are at least `share` of it.
fn compare(job: &Job, parts: &[&str], share: f64) {
    let facts = estimate(job);
    let estimated = number(&facts, "peak_bytes");
    let of_parts: f64 = parts.iter().map(|part| number(&facts, part)).sum();
    assert!(of_parts >= share * estimated, "{parts:?} are too small a part for this test: {facts}");
    let run = job.run().success();
    assert_says(&run.stderr, &["memory   about "]);
    let measured = job.numbers("peak_memory_bytes").into_iter().fold(0.0, f64::max);
    let error = estimated / measured - 1.0;
    assert!(error.abs() < 0.15, "estimated {:.0} MiB, measured {:.0} MiB: {facts}", estimated / MIB, measured / MIB);
}

#[test]
fn weights_gradients_and_states_are_within_the_estimate() {
    let job = job([512, 4, 1536, 24576], 4).set("trainer.batch_size", 1).set("trainer.max_seq_len", 32);
    let job = job.set("trainer.gradient_accumulation_steps", 4);
    compare(&job, &["weights_bytes", "gradients_bytes", "states_bytes"], 0.6);
}

#[test]
fn what_layers_keep_for_their_gradients_is_within_the_estimate() {
    let job = job([128, 8, 512, 528], 8).set("trainer.batch_size", 8).set("trainer.max_seq_len", 256);
    compare(&job, &["activations_bytes"], 0.7);
}

#[test]
fn layers_that_are_computed_again_keep_less_and_so_says_the_estimate() {
    let job = job([128, 8, 512, 528], 8).set("trainer.batch_size", 8).set("trainer.max_seq_len", 256);
    let job = job.set("trainer.checkpoint_activations", "none");
    let kept = number(&estimate(&job), "activations_bytes");
    let job = job.set("trainer.checkpoint_activations", "all");
    assert!(number(&estimate(&job), "activations_bytes") < 0.6 * kept);
    compare(&job, &["activations_bytes"], 0.3);
}

#[test]
fn head_and_loss_of_trained_tokens_are_within_the_estimate() {
    let job = job([64, 1, 128, 32768], 4).set("trainer.batch_size", 4).set("trainer.max_seq_len", 256);
    compare(&job, &["activations_bytes"], 0.4);
}

#[test]
fn the_parts_of_the_estimate_add_up_to_it() {
    let facts = estimate(&job([64, 2, 128, 528], 4));
    let parts = ["weights", "other_models", "gradients", "states", "activations", "other"];
    let sum: f64 = parts.iter().map(|part| number(&facts, &format!("{part}_bytes"))).sum();
    assert_eq!(sum, number(&facts, "peak_bytes"));
    assert_eq!(number(&facts, "states_bytes"), 2.0 * number(&facts, "weights_bytes"));
    assert!(number(&facts, "available_bytes") > number(&facts, "needed_bytes"));
}

/// Runs a job whose process may have so much memory.
fn run_within(kib: u64, job: &Job, further: &[&str]) -> Run {
    let program = command();
    let mut limited = Command::new("sh");
    limited.current_dir(root()).arg("-c").arg(format!("ulimit -d {kib} && exec \"$0\" \"$@\""));
    limited.arg(program.get_program()).args(job.arguments()).args(further);
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    limited.output().expect("the shell starts").into()
}

#[cfg(target_os = "linux")]
#[test]
fn a_job_that_does_not_fit_is_refused_before_anything_is_spent_with_what_would_make_it_fit() {
    let job = job([128, 8, 512, 528], 16).set("trainer.batch_size", 16).set("trainer.max_seq_len", 256);
    let needed = number(&estimate(&job), "needed_bytes");
    let refused = run_within((needed / 1024.0 * 0.8) as u64, &job, &[]).failure(4);
    assert_says(&refused, &["the job needs about", "are available", "activations", "trainer.batch_size=8", "--force"]);
    assert!(!job.output().exists(), "nothing was written");
    // The smaller job fits where the larger one did not.
    let smaller = ["--set", "trainer.batch_size=4", "--set", "trainer.gradient_accumulation_steps=4"];
    run_within((needed / 1024.0 * 0.8) as u64, &job, &smaller).success();
}

#[cfg(target_os = "linux")]
#[test]
fn a_job_that_seems_not_to_fit_begins_with_force() {
    let job = job([128, 8, 512, 528], 16).set("trainer.batch_size", 16).set("trainer.max_seq_len", 256);
    let needed = number(&estimate(&job), "needed_bytes");
    let run = run_within((needed / 1024.0 * 0.9) as u64, &job, &["--force"]);
    assert_says(&run.stderr, &["memory   about "]);
}

#[cfg(target_os = "linux")]
#[test]
fn benchmarks_evaluations_and_answers_that_do_not_fit_are_refused_too() {
    // Weights of 350 MiB.
    let job = job([1024, 4, 3072, 32768], 4).set("trainer.max_seq_len", 64);
    let rows = job.directory().join("rows.jsonl");
    let job = job.set("data.eval", rows.display());
    for command in [&["bench", "train"][..], &["evaluate"], &["generate", "--prompt", "memory"], &["chat"]] {
        let refused = run_within(250 << 10, &job, command).failure(4);
        assert_says(&refused, &["the job needs about", "weights ", "are available", "--force"]);
        assert_eq!(refused.contains("gradients"), command[0] == "bench", "{refused}");
    }
    run_within(1 << 30, &job, &["evaluate"]).success();
    run_within(1 << 30, &job, &["generate", "--prompt", "memory", "--max-tokens", "1"]).success();
}

#[cfg(target_os = "linux")]
#[test]
fn logits_that_accuracy_is_counted_of_are_in_the_estimate_of_an_evaluation() {
    let job = job([1024, 1, 1024, 32768], 4).set("trainer.batch_size", 4).set("trainer.max_seq_len", 256);
    let rows = job.directory().join("rows.jsonl");
    let refused = run_within(250 << 10, &job.set("data.eval", rows.display()), &["evaluate"]).failure(4);
    let activations = refused.split_once("activations ").and_then(|(_, rest)| rest.split([',', ' ', ')']).next());
    // 128 MiB of them are there at a time.
    assert!(activations.unwrap_or_else(|| panic!("{refused}")).parse::<f64>().expect("MiB") > 128.0, "{refused}");
}

#[cfg(target_os = "linux")]
#[test]
fn half_precision_is_named_where_it_makes_a_job_fit() {
    // Weights of 180 MiB, beside which hardly anything is trained.
    let job = job([512, 8, 2048, 24576], 4).set("trainer.batch_size", 1).set("trainer.max_seq_len", 32);
    let job = job.set("model.adapter", "lora");
    let needed = number(&estimate(&job), "needed_bytes");
    let half = finding(&job.run_with(&["doctor", "--json", "--set", "compute.dtype=bfloat16"]));
    // Between the two; five in a hundred are kept free.
    let between = 1.05 * (needed + number(&half["facts"], "needed_bytes")) / 2.0;
    // What the system counts of a process before it computes is no part of the estimate: a first refusal tells it.
    let first = run_within((needed / 1024.0) as u64, &job, &[]).failure(4);
    let (before, _) = first.split_once(" MiB are available").expect("a number of MiB");
    let available: f64 = before.rsplit(' ').next().and_then(|number| number.parse().ok()).expect("a number");
    let limit = ((needed + between - available * MIB) / 1024.0) as u64;
    let refused = run_within(limit, &job, &[]).failure(4);
    assert_says(&refused, &["`--set compute.dtype=bfloat16` ("]);
    run_within(limit, &job, &["--set", "compute.dtype=bfloat16"]).success();
}
