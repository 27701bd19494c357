//! `mdt-host fuse`: the merged model is the model with its adapter.

use std::fs;
use std::path::PathBuf;

use mdt_tests::{Job, LoadedModel, Run, assert_says, integers, relative_difference, run};

use super::{GPT2, TIED, case, fixture, fresh};

/// ‖a − b‖ / ‖b‖ of the logits of the merged model and of the model with its adapter [5.5e-7].
const NEAR: f64 = 5e-6;

fn fuse(job: &Job, name: &str, model: &str) -> (Run, PathBuf) {
    let out = job.directory().join(format!("fused-{name}"));
    let [model, adapter] =
        [model.to_owned(), format!("adapters/{name}/final")].map(|file| fixture(&file).display().to_string());
    let place = out.display().to_string();
    (run(["fuse", "--model", &model, "--adapter", &adapter, "--out", &place]), out)
}

#[test]
fn a_merged_model_has_the_logits_of_the_model_with_its_adapter_and_is_tied_unless_one_of_two_has_one() {
    let job = fresh("lora");
    let cases = [
        ("llama_dora", super::LLAMA, None),
        ("qwen3_lora", super::QWEN3, None),
        ("tied_rslora", TIED, Some(true)),
        ("tied_ends", TIED, Some(false)),
        ("tied_embedding_dora", TIED, Some(false)),
        ("tied_head_saved", TIED, Some(false)),
    ];
    for (name, model, is_tied) in cases {
        let (run, out) = fuse(&job, name, model);
        let run = run.success();
        assert_says(&run.stdout, &["merged the adapters of", "no logit differs by more than"]);
        assert!(!run.stderr.contains("warning"), "{}", run.stderr);
        let ids = integers(&fixture(&format!("adapters/{name}/logits.safetensors")), "input_ids");
        let adapted = LoadedModel::open_adapted(&fixture(model), &fixture(&format!("adapters/{name}/final")));
        let apart = relative_difference(&LoadedModel::open(&out).logits(1, &ids), &adapted.logits(1, &ids));
        println!("{name}: {apart:.1e}");
        assert!(apart < NEAR, "{name}: {apart:e}");
        if let Some(is_tied) = is_tied {
            assert_eq!(super::json(&out.join("config.json"))["tie_word_embeddings"], is_tied, "{name}");
            let has_head = super::tensors(&out.join("model.safetensors")).contains_key("lm_head.weight");
            assert_eq!(has_head, !is_tied, "{name}");
            assert_eq!(!run.stderr.contains("`lm_head.weight` was tied"), is_tied, "{}", run.stderr);
        }
    }
}

#[test]
fn weights_in_out_are_merged_in_their_own_order() {
    let job = fresh("lora");
    for name in ["gpt2_lora", "gpt2_dora"] {
        let out = job.directory().join(name);
        let (model, adapter) = (fixture(GPT2), fixture(&format!("adapters/{name}/final")));
        let arguments = [model.display().to_string(), adapter.display().to_string(), out.display().to_string()];
        let [model_argument, adapter_argument, out_argument] = &arguments;
        let flags = ["fuse", "--model", model_argument, "--adapter", adapter_argument, "--out", out_argument];
        let run = run(flags).success();
        assert!(!run.stderr.contains("warning"), "{}", run.stderr);
        let ids = integers(&fixture(&format!("adapters/{name}/logits.safetensors")), "input_ids");
        let adapted = LoadedModel::open_adapted(&model, &adapter);
        let apart = relative_difference(&LoadedModel::open(&out).logits(1, &ids), &adapted.logits(1, &ids));
        assert!(apart < NEAR, "{name}: {apart:e}");
    }
}

#[test]
fn a_merged_model_is_trained_and_generates_as_any_other() {
    let job = case("tied_lora");
    let (run, out) = fuse(&job, "tied_lora", TIED);
    run.success();
    let trained = Job::new().set("model.path", out.display()).set("trainer.max_steps", 1);
    trained.run().success();
    assert!(out.join("tokenizer.json").exists());
}

#[test]
fn a_quantised_model_is_merged_in_f32_and_is_quantised_no_longer() {
    let model = fixture("quantised/tied");
    let job =
        fresh("dora").set("model.path", model.display()).set("model.adapter.targets", "[\"q_proj\", \"embed_tokens\"]");
    job.run().success();
    let (adapter, out) = (job.output().join("final"), job.directory().join("fused"));
    let arguments = [&model, &adapter, &out].map(|path| path.display().to_string());
    let [model_argument, adapter_argument, out_argument] = &arguments;
    let run = run(["fuse", "--model", model_argument, "--adapter", adapter_argument, "--out", out_argument]).success();
    assert!(!run.stderr.contains("warning"), "{}", run.stderr);
    assert_eq!(super::json(&out.join("config.json")).get("quantization"), None);
    let ids = integers(&fixture("quantised/tied.logits.safetensors"), "input_ids");
    let adapted = LoadedModel::open_adapted(&model, &adapter);
    let apart = relative_difference(&LoadedModel::open(&out).logits(1, &ids[..40]), &adapted.logits(1, &ids[..40]));
    assert!(apart < NEAR, "{apart:e}");
}

#[test]
fn a_merged_model_that_is_rounded_to_half_precision_is_warned_of() {
    let job = fresh("lora");
    let out = |name: &str| job.directory().join(name).display().to_string();
    let [model, adapter] = [TIED, "adapters/tied_lora/final"].map(|file| fixture(file).display().to_string());
    let fused = |name: &str, dtype: &str| {
        let dtype = format!("checkpoint.export_dtype={dtype}");
        run(["fuse", "--model", &model, "--adapter", &adapter, "--out", &out(name), "--set", &dtype]).success()
    };
    let warning = ["warning: the merged model is not quite", "--set checkpoint.export_dtype=float32"];
    assert_says(&fused("rounded", "bfloat16").stderr, &warning);
    assert!(!fused("whole", "float32").stderr.contains("warning"));
}

#[test]
fn a_directory_that_exists_is_not_written_over() {
    let job = fresh("lora");
    fs::create_dir(job.directory().join("fused-tied_lora")).expect("a directory");
    let (run, _) = fuse(&job, "tied_lora", TIED);
    assert_says(&run.failure(7), &["exists already", "--out"]);
}
