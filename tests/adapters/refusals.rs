//! What is wrong with an adapter is said before anything is trained.

use std::fs;

use mdt_tests::{Job, assert_says};
use serde_json::{Value, json};

use super::{case, fixture, fresh};

/// A job whose adapter is a copy of a fixture's with another configuration.
fn edited(edit: impl FnOnce(&mut Value)) -> Job {
    let job = case("tied_lora");
    let start = fixture("adapters/tied_lora/start");
    let mut config = super::json(&start.join("adapter_config.json"));
    edit(&mut config);
    let tensors = fs::read(start.join("adapter_model.safetensors")).expect("the tensors");
    job.file("adapter/adapter_model.safetensors", tensors);
    let file = job.file("adapter/adapter_config.json", config.to_string());
    let directory = file.parent().expect("a directory").display().to_string();
    job.set("model.adapter.path", directory)
}

#[test]
fn what_peft_knows_and_this_program_does_not_is_refused() {
    edited(|_| ()).set("trainer.max_steps", 1).run().success();
    let edits: [(&str, Value); 6] = [
        ("peft_type", json!("IA3")),
        ("rank_pattern", json!({ "q_proj": 2 })),
        ("alpha_pattern", json!({ "q_proj": 2 })),
        ("lora_bias", json!(true)),
        ("bias", json!("all")),
        ("init_lora_weights", json!("pissa")),
    ];
    for (key, value) in edits {
        let error = edited(|config| config[key] = value.clone()).run().failure(4);
        assert_says(&error, &["which this version does not have", "/adapter"]);
    }
    let error = edited(|config| config["r"] = json!(3)).run().failure(4);
    assert_says(&error, &["lora_A", "has shape [4, ", "not [3, "]);
}

#[test]
fn an_adapter_of_another_model_is_refused() {
    let other = fixture("adapters/gpt2_lora/start");
    let error = case("tied_lora").set("model.adapter.path", other.display()).run().failure(4);
    assert_says(&error, &["transformer.h.0", "of which the model has nothing"]);
    let other = fixture("adapters/llama_lora/start");
    let error = case("tied_lora").set("model.adapter.path", other.display()).run().failure(4);
    assert_says(&error, &["has shape", "trained on another model"]);
}

#[test]
fn a_directory_that_is_no_adapter_says_what_is_missing() {
    let job = case("tied_lora");
    let error = job.run_with(&["--set", "model.adapter.path=tests/fixtures/training/model"]).failure(4);
    assert_says(&error, &["the adapter's configuration cannot be read", "adapter_config.json"]);
}

#[test]
fn an_adapter_that_is_the_model_takes_no_other_one_beside_it() {
    let error = case("tied_lora").set("model.path", fixture("adapters/tied_lora/final").display()).run().failure(2);
    assert_says(&error, &["the model is one with an adapter", "mdt-host fuse"]);
}

#[test]
fn keys_that_exclude_each_other_and_names_that_mean_nothing_are_errors() {
    let error = case("tied_lora").set("model.adapter.rank", 4).run().failure(2);
    assert_says(&error, &["`model.adapter.rank` is set beside `model.adapter.path`"]);
    let error = fresh("lora").set("model.freeze", "*norm*").run().failure(2);
    assert_says(&error, &["`model.freeze`", "`model.adapter.modules_to_save`"]);
    let error = fresh("lora").set("model.adapter.targets", "[\"q_prj\"]").run().failure(2);
    assert_says(&error, &["\"q_prj\"", "`q_proj`"]);
    let error = fresh("lora").set("model.adapter.rnak", 4).run().failure(2);
    assert_says(&error, &["model.adapter.rnak", "`model.adapter.rank`"]);
    let error = fresh("lara").run().failure(2);
    assert_says(&error, &["\"lora\"", "\"dora\""]);
    let error = fresh("lora").set("model.adapter.dropout", 1.0).run().failure(2);
    assert_says(&error, &["model.adapter.dropout", "below 1.0"]);
}
