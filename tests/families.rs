//! Every family of models has transformers' gradients and follows 20 updates of PyTorch, and what it has trained loads again;
//! its layers take adapters, are quantised, computed again and in half precision. `logits.rs` and `packing.rs` have them too.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use mdt_tests::{
    Job, arrays, assert_says, command, copy_files, example_plugin, families, integers, relative_difference,
};
use serde_json::{Value, json};

// All are relative. In brackets the largest that was seen.
/// Gradients of one update, each parameter by itself [1.4e-5].
const GRADIENTS: f64 = 5e-5;
/// Losses, norms of gradients and router losses [8.6e-6].
const CURVE: f64 = 3e-5;
/// Logits after 20 updates.
const TRAINED: f64 = 1e-4;

/// The job of `families/job.toml` on a model of this kind, with the plugin that it needs.
fn job(name: &str) -> Job {
    job_at(name, &families::file(name, "model"))
}

fn job_at(name: &str, model: &Path) -> Job {
    let job = Job::of(&["families/job.toml"]).set("model.path", model.display());
    match families::example(name) {
        Some(example) => {
            let plugin = example_plugin(example);
            job.argument("--plugin-dir").argument(plugin.parent().expect("a directory").display().to_string())
        }
        None => job,
    }
}

/// One update of SGD on four rows, as `tests/fixtures/make/families.py` makes it.
fn one_update(job: Job) -> Job {
    job.set("optimizer", "sgd")
        .set("optimizer.momentum", 0.0)
        .set("optimizer.weight_decay", 0.0)
        .set("optimizer.learning_rate", 0.1)
        .set("scheduler", "constant")
        .set("scheduler.warmup_steps", 0)
        .set("trainer.batch_size", 4)
        .set("trainer.gradient_accumulation_steps", 1)
        .set("trainer.max_grad_norm", 0)
        .set("trainer.max_steps", 1)
}

fn weights(file: &Path) -> BTreeMap<String, Vec<f32>> {
    arrays(file).into_iter().collect()
}

fn read_json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).expect("a file")).expect("JSON")
}

#[test]
fn one_update_has_the_gradients_of_transformers() {
    for name in families::NAMES {
        let job = one_update(job(name));
        job.run().success();
        let before = weights(&families::file(name, "model/model.safetensors"));
        let after = [job.output().join("final/model.safetensors"), families::file(name, "one_update.safetensors")];
        let [ours, theirs] = after.map(|file| weights(&file));
        assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>(), "{name}: the names");
        let gradient = |of: &BTreeMap<String, Vec<f32>>, parameter: &str| -> Vec<f32> {
            before[parameter].iter().zip(&of[parameter]).map(|(before, after)| (before - after) / 0.1).collect()
        };
        let mut largest = 0.0_f64;
        for parameter in before.keys() {
            let theirs = gradient(&theirs, parameter);
            let difference = relative_difference(&gradient(&ours, parameter), &theirs);
            // Where rotations are slow a bias of keys changes nothing: its gradient is rounding.
            if !parameter.ends_with("k_proj.bias") {
                assert!(difference < GRADIENTS, "{name}: the gradients of {parameter} are {difference:e} apart");
                largest = largest.max(difference);
            }
        }
        println!("{name}: gradients {largest:.1e}");
    }
}

#[test]
fn twenty_updates_follow_pytorch_and_what_is_trained_loads_again() {
    for name in families::NAMES {
        let job = job(name);
        job.run().success();
        let (ours, theirs) = (job.updates(), read_json(&families::file(name, "curve.json")));
        let theirs = theirs.as_array().expect("a list");
        assert_eq!(ours.len(), theirs.len());
        let mut largest = 0.0_f64;
        for (ours, theirs) in ours.iter().zip(theirs) {
            assert_eq!(ours["supervised_tokens"], theirs["supervised_tokens"], "{name}");
            assert_eq!(ours.get("router_loss").is_some(), theirs.get("router_loss").is_some(), "{name}");
            for key in ["loss", "grad_norm", "router_loss"].into_iter().filter(|key| theirs.get(key).is_some()) {
                let [a, b] = [ours, theirs].map(|update| update[key].as_f64().expect("a number"));
                let apart = (a - b).abs() / b.abs();
                assert!(apart < CURVE, "{name}, update {}: {key} is {a}, and {b} by PyTorch", theirs["step"]);
                largest = largest.max(apart);
            }
        }

        let (last, answers) = (job.output().join("final"), families::file(name, "logits.safetensors"));
        let trained = &weights(&answers)["trained"];
        let ids = integers(&answers, "input_ids");
        let logits = families::open_at(name, &last).logits(1, &ids[..ids.len() / 2]);
        let difference = relative_difference(&logits, trained);
        println!("{name}: curve {largest:.1e}, trained {difference:.1e}");
        assert!(difference < TRAINED, "{name}: the trained logits are {difference:e} apart");

        // transformers reads what it wrote, and finds more only where older readers need it.
        let [before, after] = [families::file(name, "model"), last].map(|of| read_json(&of.join("config.json")));
        for (key, value) in before.as_object().expect("an object") {
            assert_eq!(&after[key], value, "{name}: {key}");
        }
    }
}

#[test]
fn an_adapter_of_all_linear_layers_is_trained_and_answers() {
    for name in families::NAMES {
        let job = job(name)
            .rows(0..4)
            .set("model.adapter", "lora")
            .set("model.adapter.targets", "all-linear")
            .set("model.adapter.rank", 2)
            .set("optimizer.learning_rate", 1e-2)
            .set("trainer.max_steps", 6)
            .set("trainer.checkpoint_activations", "all");
        job.run().success();
        let losses = job.numbers("loss");
        assert!(losses[5] < losses[0], "{name}: {losses:?}");
        let (model, adapter) = (families::file(name, "model"), job.output().join("final"));
        let mut generate = command();
        generate.args(["generate", "--prompt", "Shout abc", "--max-tokens", "4", "--model"]).arg(model);
        generate.arg("--adapter").arg(adapter);
        if let Some(example) = families::example(name) {
            generate.arg("--plugin-dir").arg(example_plugin(example).parent().expect("a directory"));
        }
        let output = generate.output().expect("it runs");
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        let tensors = weights(&job.output().join("final/adapter_model.safetensors"));
        assert!(!tensors.is_empty() && tensors.values().flatten().all(|element| element.is_finite()), "{name}");
    }
}

#[test]
fn layers_that_are_computed_again_have_the_same_bits_and_half_precision_is_near() {
    for name in families::NAMES {
        let run = |key: &str, value: &str| {
            let job = one_update(job(name)).set(key, value);
            job.run().success();
            let numbers = ["loss", "grad_norm"].map(|number| job.numbers(number)[0]);
            (numbers, job.final_weights())
        };
        let plain = run("trainer.checkpoint_activations", "none");
        assert!(run("trainer.checkpoint_activations", "all") == plain, "{name}: other bits");
        let (half, _) = run("compute.dtype", "bfloat16");
        for (half, whole) in half.into_iter().zip(plain.0) {
            println!("{name}: in half precision {:.1e}", (half - whole).abs() / whole);
            assert!(half != whole && (half - whole).abs() < 0.05 * whole, "{name}: {half} and {whole}");
        }
    }
}

/// A copy of a family's directory with another `config.json`.
fn edited(job: &Job, name: &str, edit: impl FnOnce(&mut Value)) -> PathBuf {
    let copy = job.directory().join("model");
    copy_files(&families::file(name, "model"), &copy);
    let mut config = read_json(&copy.join("config.json"));
    edit(&mut config);
    fs::write(copy.join("config.json"), config.to_string()).expect("the config");
    copy
}

#[test]
fn dropout_is_a_function_of_the_seed_and_the_same_when_layers_are_computed_again() {
    for (name, keys) in [
        ("gpt2", &["resid_pdrop", "embd_pdrop", "attn_pdrop"][..]),
        ("starcoder2", &["residual_dropout", "embedding_dropout", "attention_dropout"]),
        ("phi3", &["resid_pdrop"]),
        ("granite", &["attention_dropout"]),
    ] {
        let run = |seed: u64, recompute: bool| {
            let job = one_update(job(name));
            let model = edited(&job, name, |config| keys.iter().for_each(|&key| config[key] = json!(0.2)));
            let job = job.set("model.path", model.display()).set("seed", seed).set("trainer.max_steps", 3);
            let job = job.set("trainer.checkpoint_activations", if recompute { "all" } else { "none" });
            job.run().success();
            job.final_weights()
        };
        let first = run(1, false);
        assert!(run(1, false) == first, "{name}: the same seed gave other weights");
        assert!(run(1, true) == first, "{name}: computing layers again gave other weights");
        assert!(run(2, false) != first, "{name}: another seed gave the same weights");
    }
}

#[test]
fn keys_that_would_make_another_model_are_refused_by_name() {
    for (name, key, value) in [
        ("gemma", "use_bidirectional_attention", json!(true)),
        ("gemma2", "layer_types", json!(["full_attention", "chunked_attention", "full_attention"])),
        ("gemma3", "attn_logit_softcapping", json!(50.0)),
        ("phi3", "rope_scaling", json!({ "type": "longrope", "short_factor": [1.0], "long_factor": [1.0] })),
        ("phi3", "partial_rotary_factor", json!(0.3)),
        ("mixtral", "router_jitter_noise", json!(0.1)),
        ("mixtral", "num_experts_per_tok", json!(9)),
        ("smollm3", "no_rope_layers", json!([1])),
        ("granite", "clip_qkv", json!(8.0)),
        ("olmo2", "hidden_act", json!("quick_gelu")),
        ("gpt2", "add_cross_attention", json!(true)),
        ("starcoder2", "rope_parameters", json!({ "rope_type": "spiral" })),
    ] {
        let job = job(name);
        let model = edited(&job, name, |config| {
            // Phi-3's own positions go before others.
            if key == "partial_rotary_factor" {
                config["rope_parameters"].as_object_mut().expect("an object").remove(key);
            }
            config[key] = value;
        });
        let failure = job.set("model.path", model.display()).run().failure(4);
        let file = model.join("config.json").display().to_string();
        assert_says(&failure, &[if key == "rope_scaling" { "short_factor" } else { key }, &file]);
    }
}

#[test]
fn documents_of_a_packed_row_each_have_the_learnt_positions_from_the_first_on() {
    // Rows of 256 tokens are packed, and the model knows 64 positions.
    let losses = |packing: &str| {
        let job = job("gpt2").set("trainer.packing", packing).set("trainer.max_seq_len", 256).set("data.limit", 24);
        let job = job.set("trainer.batch_size", if packing == "none" { 24 } else { 8 });
        let job = job.set("trainer.gradient_accumulation_steps", 1).set("trainer.max_steps", 1);
        job.run().success();
        job.numbers("loss")[0]
    };
    let (plain, packed) = (losses("none"), losses("best_fit"));
    assert!((packed - plain).abs() < 1e-5 * plain, "{packed} and {plain}");
}

#[test]
fn a_row_longer_than_the_learnt_positions_is_an_error_of_the_data_with_its_place() {
    let job = job("gpt2").set("trainer.max_steps", 1);
    let row = |letters: usize| json!({ "prompt": "Shout ", "completion": "a".repeat(letters) }).to_string();
    let rows = job.file("long.jsonl", [row(5), row(80), row(5)].join("\n"));
    let job = job.set("data.train", rows.display());
    for size in [1, 2] {
        let failure = job.run_with(&["--set", &format!("trainer.batch_size={size}")]).failure(4);
        let place = format!("{} row 2", rows.display());
        assert_says(&failure, &["88 tokens", "64 positions", "trainer.max_seq_len = 64", &place]);
    }
    // Cut, left out or skipped it does no harm.
    for setting in ["trainer.max_seq_len=64", "data.max_tokens=64", "data.on_bad_row=skip"] {
        job.run_with(&["--set", setting, "--set", "checkpoint.resume=never"]).success();
    }
    let model = families::file("gpt2", "model").display().to_string();
    let prompt = "a".repeat(80);
    let failure =
        mdt_tests::run(["generate", "--model", &model, "--prompt", &prompt, "--prompt-format", "plain"]).failure(4);
    assert_says(&failure, &["81 tokens", "64 positions"]);
    let answer =
        mdt_tests::run(["generate", "--model", &model, "--prompt", "Shout a", "--json", "--max-tokens", "100"]);
    let answer: Value = serde_json::from_str(&answer.success().stdout).expect("JSON");
    let all = answer["prompt_tokens"].as_u64().zip(answer["rows"][0]["answer_tokens"].as_u64());
    assert!(all.is_some_and(|(prompt, answer)| prompt + answer <= 64), "{answer}");
}

#[test]
fn quantised_on_load_every_family_takes_an_adapter_and_answers() {
    for name in families::NAMES {
        let job = job(name)
            .rows(0..4)
            .set("model.adapter", "lora")
            .set("model.adapter.rank", 2)
            .set("model.quantize", "{ bits = 4, group_size = 32 }")
            .set("optimizer.learning_rate", 1e-2)
            .set("trainer.max_steps", 4);
        // Rows of weights have whole groups of 32 numbers.
        let narrow = job.run();
        if narrow.status == Some(4) && narrow.stderr.contains("group") {
            assert_says(&narrow.stderr, &["model.quantize"]);
            println!("{name}: too narrow to be quantised");
            continue;
        }
        narrow.success();
        let losses = job.numbers("loss");
        assert!(losses.iter().all(|loss| loss.is_finite()) && losses[3] < losses[0], "{name}: {losses:?}");
        let mut generate = command();
        generate.args(["generate", "--prompt", "Shout abc", "--max-tokens", "4", "--model"]).arg(job.output());
        generate.args(["--set", "model.quantize={ bits = 4, group_size = 32 }"]);
        if let Some(example) = families::example(name) {
            generate.arg("--plugin-dir").arg(example_plugin(example).parent().expect("a directory"));
        }
        let output = generate.output().expect("it runs");
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn beyond_the_length_of_short_factors_longrope_answers_as_transformers_does() {
    let (model, answers) = (families::open("phi3_long"), read_json(&families::file("phi3_long", "generation.json")));
    let tokens = |value: &Value| -> Vec<i32> {
        value.as_array().expect("a list").iter().map(|id| id.as_i64().expect("an id") as i32).collect()
    };
    for answer in answers.as_array().expect("a list") {
        let (prompt, expected) = (tokens(&answer["prompt"]), tokens(&answer["answer"]));
        // With keys of short factors in the cache, all but the longest prompt are answered otherwise.
        assert_eq!(model.greedy(&prompt, expected.len()), expected, "after {} tokens", prompt.len());
    }
}

#[test]
fn tensors_that_no_parameter_takes_are_reported_and_other_names_are_found() {
    let job = one_update(job("gpt2"));
    let model = edited(&job, "gpt2", |_| ());
    let file = model.join("model.safetensors");
    let bytes = fs::read(&file).expect("the weights");
    let size = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
    let header = String::from_utf8(bytes[8..8 + size].to_vec()).expect("JSON");
    // As the first checkpoints have it: no prefix, and the mask as a tensor.
    let mut header: Value = serde_json::from_str(&header.replace("\"transformer.", "\"")).expect("JSON");
    let end = (bytes.len() - 8 - size) as u64;
    for layer in 0..2 {
        header[format!("h.{layer}.attn.masked_bias")] =
            json!({ "dtype": "F32", "shape": [0], "data_offsets": [end, end] });
    }
    let header = header.to_string();
    let whole = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &bytes[8 + size..]].concat();
    fs::write(&file, whole).expect("the weights");
    let run = job.set("model.path", model.display());
    let said = run.run().success();
    assert_says(&said.stderr, &["2 tensors of the model's files are taken by no parameter: `h.0.attn.masked_bias`"]);
    let plain = one_update(self::job("gpt2"));
    plain.run().success();
    assert!(run.final_weights() == plain.final_weights(), "other names gave other weights");
}

/// The tensors of a file, those of all experts in two as transformers 5 has them in memory.
fn with_fused_experts(file: &Path, target: &Path) {
    let (mut tensors, mut experts) = (Tensors::new(), BTreeMap::<(String, usize), BTreeMap<&str, Tensor>>::new());
    for (name, tensor) in stored_in(file) {
        let name = name.replace("block_sparse_moe", "mlp");
        match name.split_once(".experts.") {
            None => drop(tensors.insert(name, tensor)),
            Some((layer, rest)) => {
                let (expert, part) = rest.split_once('.').expect("a number and a part");
                let part = match part.trim_end_matches(".weight") {
                    "w1" | "gate_proj" => "gate",
                    "w3" | "up_proj" => "up",
                    _ => "down",
                };
                let place = (format!("{layer}.experts"), expert.parse().expect("a number"));
                experts.entry(place).or_default().insert(part, tensor);
            }
        }
    }
    for ((place, _), parts) in experts {
        for (name, parts) in [("gate_up_proj", &[&parts["gate"], &parts["up"]][..]), ("down_proj", &[&parts["down"]])] {
            let rows = parts.iter().map(|(_, shape, _)| shape[0]).sum();
            let fused = tensors.entry(format!("{place}.{name}")).or_insert((
                parts[0].0,
                vec![0, rows, parts[0].1[1]],
                Vec::new(),
            ));
            fused.1[0] += 1;
            parts.iter().for_each(|(_, _, bytes)| fused.2.extend(bytes));
        }
    }
    let views = tensors.iter().map(|(name, (dtype, shape, bytes))| {
        (name, safetensors::tensor::TensorView::new(*dtype, shape.clone(), bytes).expect("a tensor"))
    });
    safetensors::serialize_to_file(views, None, target).expect("written");
}

#[test]
fn experts_that_stand_in_one_tensor_are_read_to_the_same_bits() {
    for name in ["mixtral", "qwen3_moe", "qwen3_moe_sparse"] {
        let job = one_update(job(name));
        let model = edited(&job, name, |_| ());
        let weights = families::file(name, "model/model.safetensors");
        with_fused_experts(&weights, &model.join("model.safetensors"));
        let ids = integers(&families::file(name, "logits.safetensors"), "input_ids");
        assert!(families::open_at(name, &model).logits(2, &ids) == families::open(name).logits(2, &ids), "{name}");
        let run = job.set("model.path", model.display());
        assert!(!run.run().success().stderr.contains("taken by no parameter"), "{name}");
        let plain = one_update(self::job(name));
        plain.run().success();
        // As transformers 5 does: what was read as one tensor is written as one.
        let [written, of_experts] = [&run, &plain].map(|job| job.output().join("final"));
        let expected = plain.directory().join("fused.safetensors");
        with_fused_experts(&of_experts.join("model.safetensors"), &expected);
        assert!(stored(&written) == stored_in(&expected), "{name}");
        let logits = |model: &Path| families::open_at(name, model).logits(2, &ids);
        assert!(logits(&written) == logits(&of_experts), "{name}");
    }
}

#[test]
fn experts_in_one_tensor_are_rounded_as_others_are_and_taken_apart_for_mlx() {
    let name = "qwen3_moe";
    let job = one_update(job(name)).set("checkpoint.export_dtype", "bfloat16");
    let model = edited(&job, name, |_| ());
    with_fused_experts(&families::file(name, "model/model.safetensors"), &model.join("model.safetensors"));
    let run = job.set("model.path", model.display());
    run.run().success();
    let plain = one_update(self::job(name)).set("checkpoint.export_dtype", "bfloat16");
    plain.run().success();
    let [written, of_experts] = [&run, &plain].map(|job| job.output().join("final"));
    let fused = plain.directory().join("fused.safetensors");
    with_fused_experts(&of_experts.join("model.safetensors"), &fused);
    assert!(stored(&written) == stored_in(&fused));
    for (form, expected) in [("mlx", stored(&of_experts)), ("transformers", stored_in(&fused))] {
        let out = run.directory().join(form);
        let [model, place] = [&written, &out].map(|path| path.display().to_string());
        mdt_tests::run(["export", "--model", &model, "--out", &place, "--to", form]).success();
        assert!(stored(&out) == expected, "{form}");
    }
}

/// Type, shape and bytes.
type Tensor = (safetensors::Dtype, Vec<usize>, Vec<u8>);
type Tensors = BTreeMap<String, Tensor>;

/// The tensors of a model's file.
fn stored(model: &Path) -> Tensors {
    stored_in(&model.join("model.safetensors"))
}

fn stored_in(file: &Path) -> Tensors {
    let bytes = fs::read(file).expect("the weights");
    let read = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
    let tensor = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
        (name, (view.dtype(), view.shape().to_vec(), view.data().to_vec()))
    };
    read.tensors().into_iter().map(tensor).collect()
}

/// All families of the built-in plugin have a row in the table above.
#[test]
fn every_family_that_is_registered_has_a_fixture() {
    let listed = mdt_tests::run(["plugin", "list", "--json"]).success();
    let listed: Value = serde_json::from_str(&listed.stdout).expect("JSON");
    let types = families::NAMES.map(|name| read_json(&families::file(name, "model/config.json"))["model_type"].clone());
    let listed =
        listed["components"].as_array().expect("a list").iter().filter(|component| component["kind"] == "model");
    for component in listed.filter(|component| component["file"].to_string().contains("mdt_models")) {
        // Llama's fixtures are those of `tests/fixtures/models`.
        assert!(types.contains(&component["id"]) || component["id"] == "llama", "{component}");
    }
}
