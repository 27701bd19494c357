//! `final/` is the model that was trained, and the start of the next job.

use std::fs;
use std::path::{Path, PathBuf};

use mdt_tests::{Job, LoadedModel, arrays, copy_files, integers, root};
use serde_json::Value;

/// A directory with a model of the fixtures, and a tokenizer from elsewhere where it has none; four updates of it.
fn trained(model: &str, config: &str) -> (Job, PathBuf) {
    let job = Job::new().rows(0..8).set("trainer.batch_size", 2).set("trainer.gradient_accumulation_steps", 1);
    let source = job.directory().join("model");
    copy_files(&root().join("tests/fixtures/models").join(model), &source);
    for file in ["tokenizer.json", "tokenizer_config.json"].into_iter().filter(|file| !source.join(file).exists()) {
        fs::copy(root().join("tests/fixtures/training/model").join(file), source.join(file)).expect("the tokenizer");
    }
    if config != "config.json" {
        fs::rename(source.join(config), source.join("config.json")).expect("the other config");
    }
    // As it was trained; `precision.rs` has a model that is written in the type of its files.
    let job = job.set("model.path", source.display()).set("checkpoint.export_dtype", "float32");
    job.run().success();
    (job, source)
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).expect("a file")).expect("JSON")
}

const MODELS: [(&str, bool); 8] = [
    ("llama2", false),
    ("llama3", true),
    ("linear_sharded", false),
    ("bf16", false),
    ("smollm", true),
    ("mistral", false),
    ("qwen2", true),
    ("qwen3", false),
];
const CONFIGS: [&str; 2] = ["config.json", "config.transformers4.json"];

#[test]
fn the_saved_model_has_the_logits_of_the_trained_weights_tied_or_not() {
    let file = root().join("tests/fixtures/models/llama2.logits.safetensors");
    let ids = integers(&file, "input_ids");
    for (name, _) in MODELS {
        for config in CONFIGS {
            let (job, source) = trained(name, config);
            let saved = LoadedModel::open(&job.output().join("final")).logits(2, &ids);
            let trained = job.checkpoint(4).join("model.safetensors");
            assert!(arrays(&job.output().join("final/model.safetensors")) == arrays(&trained), "{name}");
            // The weights as they were trained, under the config that they were trained with.
            let weights = job.directory().join("weights");
            fs::create_dir(&weights).expect("a directory");
            fs::copy(source.join("config.json"), weights.join("config.json")).expect("the config");
            fs::copy(trained, weights.join("model.safetensors")).expect("weights");
            assert!(saved == LoadedModel::open(&weights).logits(2, &ids), "{name} with {config}");
            assert!(saved != LoadedModel::open(&source).logits(2, &ids), "{name} was not trained");
        }
    }
}

#[test]
fn tie_word_embeddings_is_written_as_it_is() {
    for (name, tied) in MODELS {
        let (job, source) = trained(name, "config.json");
        assert_eq!(json(&source.join("config.json"))["tie_word_embeddings"], tied, "the fixture {name}");
        assert_eq!(json(&job.output().join("final/config.json"))["tie_word_embeddings"], tied, "{name}");
        let weights = arrays(&job.output().join("final/model.safetensors"));
        let head = weights.iter().any(|(tensor, _)| tensor == "lm_head.weight");
        assert_eq!(head, !tied, "{name}");
    }
}

#[test]
fn keys_of_the_config_are_kept() {
    for (name, _) in MODELS {
        for config in CONFIGS {
            let (job, source) = trained(name, config);
            let (before, after) = (json(&source.join("config.json")), json(&job.output().join("final/config.json")));
            for (key, value) in before.as_object().expect("an object") {
                // What the weights are stored as is f32 now.
                let expected = if key == "dtype" || key == "torch_dtype" { &Value::from("float32") } else { value };
                assert_eq!(&after[key], expected, "{key} of {name} with {config}");
            }
        }
    }
}

#[test]
fn files_of_the_tokenizer_are_kept_as_they_are() {
    let (job, source) = trained("llama2", "config.json");
    for file in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
        let bytes = |directory: PathBuf| fs::read(directory.join(file)).expect("a file");
        assert!(bytes(source.clone()) == bytes(job.output().join("final")), "{file}");
    }
}

#[test]
fn the_saved_model_is_the_start_of_a_next_job() {
    let held_out = "tests/fixtures/training/train.jsonl";
    let first = Job::new().rows(0..24).set("data.eval", held_out);
    first.run().success();
    // No learning: what it evaluates is what it was given.
    let next = Job::new().rows(0..8).set("data.eval", held_out).set("optimizer.learning_rate", 0);
    let next = next.set("model.path", first.output().join("final").display());
    next.run().success();
    let held_out_loss = |job: &Job| job.metrics().last().expect("a line")["eval_loss"].as_f64().expect("an evaluation");
    assert_eq!(held_out_loss(&next), held_out_loss(&first));
    assert!(next.final_weights() == first.final_weights());
}

#[test]
fn the_trained_model_keeps_the_chat_template_that_it_was_trained_with() {
    let template =
        "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}";
    let row = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#;
    let job = Job::new().set("trainer.max_steps", 1);
    let data = job.file("rows.jsonl", row).display().to_string();
    let file = job.file("own.jinja", template).display().to_string();
    let job = job.set("data.train", data).set("tokenizer.chat_template", file);
    job.run().success();
    let saved = job.output().join("final");
    assert_eq!(fs::read_to_string(saved.join("chat_template.jinja")).expect("the template"), template);
    // The fixture has one there too, which older readers would take.
    assert_eq!(json(&saved.join("tokenizer_config.json"))["chat_template"], template);

    let model = saved.display().to_string();
    let run = mdt_tests::run(
        ["data", "preview", "--set", &format!("model.path={model}"), "--json", "--set"]
            .into_iter()
            .map(str::to_owned)
            .chain([format!("data.train={}", job.directory().join("rows.jsonl").display())]),
    )
    .success();
    assert!(run.stdout.contains("\"text\":\"ab</s>\""), "{}", run.stdout);
}
