//! Adapters in the files of peft and of mlx-lm.

use std::fs;
use std::path::Path;

use mdt_tests::{Job, LoadedModel, arrays, assert_says, integers, relative_difference};
use serde_json::{Value, json};

use super::{TIED, case, fixture, fresh, tensors};

/// Keys of peft's configuration that say how an adapter computes.
const KEYS: [&str; 9] =
    ["peft_type", "task_type", "r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "bias", "fan_in_fan_out"];

/// The job of a case that changes nothing: one update at a rate of 0.
fn unchanged(job: Job) -> Job {
    job.set("trainer.max_steps", 1).set("optimizer.learning_rate", 0)
}

fn files(directory: &Path) -> Vec<(String, Vec<u8>)> {
    ["adapter_config.json", "adapter_model.safetensors", "adapters.safetensors"]
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), fs::read(directory.join(name)).ok()?)))
        .collect()
}

/// Checks what is written of a case against what peft writes: the configuration, and which files there are.
pub(super) fn says_what_peft_says(name: &str, written: &Path) {
    let ours = super::json(&written.join("adapter_config.json"));
    let theirs = super::json(&fixture(&format!("adapters/{name}/final/adapter_config.json")));
    for key in KEYS {
        assert_eq!(ours[key], theirs[key], "{name}: {key}");
    }
    let is_set = |value: &Value| !value.is_null();
    assert_eq!(is_set(&ours["modules_to_save"]), is_set(&theirs["modules_to_save"]), "{name}");
    let base = ours["base_model_name_or_path"].as_str().expect("a path");
    assert!(Path::new(base).is_absolute() && Path::new(base).join("config.json").exists(), "{name}: {base}");
    assert!(written.join("tokenizer.json").exists() && !written.join("config.json").exists(), "{name}");
}

#[test]
fn an_adapter_that_is_read_written_and_read_again_is_the_same_bytes() {
    let of_mlx = ["llama_rslora", "qwen3_dora"].map(|name| (name, "mlx"));
    let of_peft = ["tied_ends", "tied_head_saved", "gpt2_dora"].map(|name| (name, "peft"));
    for (name, format) in of_mlx.into_iter().chain(of_peft) {
        let first = unchanged(case(name).set("model.adapter.format", format));
        first.run().success();
        let written = first.output().join("final");
        let second = unchanged(case(name).set("model.adapter.path", written.display()));
        second.run().success();
        let again = second.output().join("final");
        assert!(files(&written) == files(&again), "{name}, {format}");
        assert_eq!(files(&written).len(), 2);
        let third =
            unchanged(case(name).set("model.adapter.path", again.display())).set("model.adapter.format", "peft");
        third.run().success();
        let start = tensors(&fixture(&format!("adapters/{name}/start/adapter_model.safetensors")));
        for (tensor, values) in tensors(&third.output().join("final/adapter_model.safetensors")) {
            assert!(values == start[&tensor], "{name}, {format}: {tensor}");
        }
    }
}

#[test]
fn an_adapter_of_mlx_lm_has_its_names_orientation_and_scale_and_the_same_logits() {
    for kind in ["lora", "dora"] {
        let job = |format: &str| {
            let job = fresh(kind).set("model.adapter.rank", 4).set("model.adapter.alpha", 6);
            let job =
                job.set("model.adapter.targets", "[\"q_proj\", \"down_proj\"]").set("model.adapter.format", format);
            job.run().success();
            job
        };
        let (peft, mlx) = (job("peft"), job("mlx"));
        let [of_peft, of_mlx] = [&peft, &mlx].map(|job| job.output().join("final"));
        let config = super::json(&of_mlx.join("adapter_config.json"));
        assert_eq!(config["fine_tune_type"], json!(kind));
        let (keys, scale) = (&config["lora_parameters"]["keys"], &config["lora_parameters"]["scale"]);
        assert_eq!((keys.as_array().map(Vec::len), scale), (Some(4), &json!(1.5)));
        let (ours, theirs) =
            (tensors(&of_mlx.join("adapters.safetensors")), tensors(&of_peft.join("adapter_model.safetensors")));
        let layer = "model.layers.1.self_attn.q_proj";
        let a = &theirs[&format!("base_model.model.{layer}.lora_A.weight")];
        let transposed: Vec<f32> = (0..48).flat_map(|column| (0..4).map(move |row| a[row * 48 + column])).collect();
        assert!(ours[&format!("{layer}.lora_a")] == transposed);
        assert_eq!(ours.contains_key(&format!("{layer}.m")), kind == "dora");

        let answers = fixture("adapters/tied_lora/logits.safetensors");
        let [a, b] = [of_peft, of_mlx].map(|directory| {
            LoadedModel::open_adapted(&fixture(TIED), &directory).logits(1, &integers(&answers, "input_ids"))
        });
        assert_eq!(relative_difference(&a, &b), 0.0);
    }
}

#[test]
fn an_adapter_that_mlx_lm_made_has_the_logits_that_it_has_there() {
    for kind in ["lora", "dora"] {
        let directory = fixture(&format!("adapters/mlx_{kind}"));
        let answers = directory.join("logits.safetensors");
        let model = LoadedModel::open_adapted(&fixture(super::LLAMA), &directory);
        let [(_, theirs)] = <[_; 1]>::try_from(arrays(&answers)).expect("one array of f32");
        let apart = relative_difference(&model.logits(1, &integers(&answers, "input_ids")), &theirs);
        println!("{kind}: {apart:.1e}");
        assert!(apart < 5e-6, "{kind}: {apart:e}");
    }
}

#[test]
fn what_an_adapter_of_mlx_lm_cannot_say_is_refused_before_training() {
    for (targets, says) in [("lm_head", "`lm_head` is tied"), ("embed_tokens", "`model.embed_tokens` is tied")] {
        let job = fresh("lora").set("model.adapter.format", "mlx").set("model.adapter.targets", targets);
        assert_says(&job.run().failure(2), &[says, "`model.adapter.format`"]);
    }
    let job = fresh("lora").set("model.adapter.format", "mlx").set("model.adapter.modules_to_save", "norm");
    assert_says(&job.run().failure(2), &["holds no modules as they are, such as `model.norm`"]);
}
