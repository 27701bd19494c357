//! Models that mlx-lm quantised: logits, generation, training beside them, and what is left of them.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use mdt_tests::{Job, LoadedModel, arrays, integers, relative_difference, root, run};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

/// Tokens of a row of the fixtures.
const LENGTH: usize = 40;
/// Tied 4 bits; 3 and 6 bits with biases and scales in bf16; 5 bits beside whole embeddings, with scales in f16.
const NAMES: [&str; 3] = ["tied", "mixed", "partly"];

fn fixture(name: &str) -> PathBuf {
    root().join("tests/fixtures/quantised").join(name)
}

#[test]
fn logits_of_a_quantised_model_are_those_of_mlx_lm() {
    for name in NAMES {
        let file = fixture(&format!("{name}.logits.safetensors"));
        let [(_, theirs)] = <[_; 1]>::try_from(arrays(&file)).expect("one array of f32");
        let (ids, model) = (integers(&file, "input_ids"), LoadedModel::open(&fixture(name)));
        let difference = relative_difference(&model.logits(ids.len() / LENGTH, &ids), &theirs);
        println!("{name}: {difference:.1e}");
        assert!(difference < 1e-4, "{name}: {difference:e}");
        let tokens = integers(&file, "greedy");
        assert_eq!(model.greedy(&ids[..6], tokens.len()), tokens, "{name}");
        // Token by token, as generation has them: few rows are multiplied by another kernel.
        let ids = &ids[..LENGTH];
        let whole = model.hidden(ids);
        for pieces in [ids.chunks(1).collect::<Vec<_>>(), vec![&ids[..1], &ids[1..9], &ids[9..10], &ids[10..]]] {
            let difference = relative_difference(&model.hidden_in_pieces(&pieces), &whole);
            assert!(difference < 1e-5, "{name}, {} pieces: {difference:e}", pieces.len());
        }
    }
}

#[test]
fn weights_that_are_quantised_when_they_are_loaded_are_those_of_mlx_lm_bit_for_bit() {
    for (name, bits) in [("llama3", 4), ("bf16", 3)] {
        let model = LoadedModel::open_quantised(&root().join("tests/fixtures/models").join(name), bits, 32);
        let ours = model.quantised();
        let bytes = std::fs::read(fixture(&format!("of_{name}.safetensors"))).expect("the fixture");
        let theirs = SafeTensors::deserialize(&bytes).expect("arrays");
        let is_quantised = |name: &str| theirs.tensor(&name.replace(".weight", ".scales")).is_ok();
        let count = theirs.names().iter().filter(|name| is_quantised(name)).count();
        assert!(ours.len() == count && count > 30, "{name}: {} arrays, and {count}", ours.len());
        for (tensor, bytes) in ours {
            assert_eq!(bytes, theirs.tensor(&tensor).expect("the array").data(), "{name}: {tensor}");
        }
    }
}

/// The config of a directory.
fn config(directory: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(directory.join("config.json")).expect("a config")).expect("JSON")
}

/// A quantised model's weights in f32, as a model of its own.
fn write_whole(name: &str, to: &Path) {
    fs::create_dir(to).expect("a directory");
    mdt_tests::copy_files(&fixture(name), to);
    let mut config = config(to);
    let keys = config.as_object_mut().expect("an object");
    keys.remove("quantization");
    keys.remove("quantization_config");
    fs::write(to.join("config.json"), config.to_string()).expect("the config");
    let whole = LoadedModel::open(&fixture(name)).whole();
    let bytes = whole.iter().map(|(_, _, elements)| elements.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>());
    let bytes: Vec<_> = bytes.collect();
    let tensors = whole.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
        (name, TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).expect("an array"))
    });
    safetensors::serialize_to_file(tensors, None, &to.join("model.safetensors")).expect("the weights");
}

#[test]
fn an_adapter_learns_beside_quantised_weights_what_it_learns_beside_the_same_ones_in_f32() {
    for name in ["tied", "mixed"] {
        let learns = |model: &Path| {
            Job::new()
                .set("model.path", model.display())
                .set("model.adapter", "{ kind = \"lora\", rank = 4, alpha = 16 }")
                .set("optimizer.learning_rate", 5e-3)
                .set("checkpoint.save_steps", 10)
        };
        let quantised = learns(&fixture(name));
        let whole = learns(&quantised.directory().join("whole"));
        write_whole(name, &quantised.directory().join("whole"));
        quantised.run().success();
        whole.run().success();
        let losses = |job: &Job| job.numbers("loss");
        assert_eq!(losses(&quantised).len(), 20);
        assert!(losses(&quantised)[0] - losses(&quantised)[19] > 0.05, "{name} learns: {:?}", losses(&quantised));
        for (ours, theirs) in losses(&quantised).iter().zip(losses(&whole)) {
            assert!((ours - theirs).abs() < 2e-5 * theirs, "{name}: {ours} {theirs}");
        }
        // Only the adapter is written, and the weights beside it have not changed by a bit.
        let written = quantised.output().join("final");
        assert!(!written.join("model.safetensors").exists());
        let file = "adapter_model.safetensors";
        for ((name, ours), (_, theirs)) in
            arrays(&written.join(file)).iter().zip(arrays(&whole.output().join("final").join(file)))
        {
            assert!(relative_difference(ours, &theirs) < 1e-3, "{name}");
        }
        let checksum = |update: u64| -> Value {
            let state = fs::read_to_string(quantised.checkpoint(update).join("state.json")).expect("a state");
            serde_json::from_str::<Value>(&state).expect("JSON")["frozen"].clone()
        };
        assert_eq!(checksum(10).as_str().map(str::len), Some(64));
        assert_eq!(checksum(10), checksum(20));

        // Blocks that are computed again are given words, scales and biases as they are.
        let again = learns(&fixture(name)).set("trainer.checkpoint_activations", "all");
        again.run().success();
        assert_eq!(losses(&again), losses(&quantised), "{name}");
    }
}

#[test]
fn an_adapter_learns_beside_quantised_weights_in_half_precision() {
    let losses = |keys: &[(&str, &str)]| {
        let job = Job::new()
            .set("model.path", fixture("mixed").display())
            .set("model.adapter", "{ kind = \"lora\", rank = 4, alpha = 16 }")
            .set("optimizer.learning_rate", 5e-3);
        let job = keys.iter().fold(job, |job, (key, value)| job.set(key, value));
        job.run().success();
        job.numbers("loss")
    };
    let exact = losses(&[]);
    for key in ["compute.matmul", "compute.dtype"] {
        for (half, exact) in losses(&[(key, "bfloat16")]).iter().zip(&exact) {
            assert!((half - exact).abs() < 0.02 * exact, "{key}: {half} {exact}");
        }
    }
}

#[test]
fn what_is_quantised_is_written_as_it_was_where_other_weights_are_trained() {
    for name in ["mixed", "partly"] {
        let job = Job::new().set("model.path", fixture(name).display()).set("model.train", "[\"*norm*\"]");
        let job = job.set("trainer.max_steps", 2);
        job.run().success();
        let written = job.output().join("final");
        let (before, after) = [fixture(name), written.clone()]
            .map(|model| fs::read(model.join("model.safetensors")).expect("weights"))
            .into();
        let (before, after) =
            (SafeTensors::deserialize(&before).expect("arrays"), SafeTensors::deserialize(&after).expect("arrays"));
        let mut names: [Vec<&str>; 2] = [before.names(), after.names()];
        names.iter_mut().for_each(|names| names.sort_unstable());
        assert_eq!(names[0], names[1], "{name}");
        let is_part = |tensor: &str| {
            before.tensor(&tensor.replace(".weight", ".scales")).is_ok()
                || tensor.ends_with(".scales")
                || tensor.ends_with(".biases")
        };
        for tensor in before.names().into_iter().filter(|tensor| is_part(tensor)) {
            let (before, after) = (before.tensor(tensor).expect("an array"), after.tensor(tensor).expect("an array"));
            assert!(before == after, "{name}: {tensor}");
        }
        assert_eq!(config(&written)["quantization"], config(&fixture(name))["quantization"]);
        let model = LoadedModel::open(&written);
        assert!(model.logits(1, &[1, 5, 9]).iter().all(|logit| logit.is_finite()));
        assert_eq!(model.quantised(), LoadedModel::open(&fixture(name)).quantised());
    }
}

#[test]
fn layers_that_the_job_quantises_are_written_for_mlx_lm_and_loaded_again() {
    let source = root().join("tests/fixtures/models/llama2");
    let job = |init: &str| {
        let job = Job::new().set("model.path", source.display()).set("model.init", init).set("trainer.max_steps", 2);
        job.set("model.quantize", "{ bits = 6, group_size = 32 }").set("model.train", "[\"*norm*\"]")
    };
    let pretrained = job("pretrained");
    pretrained.run().success();
    let written = pretrained.output().join("final");
    assert_eq!(config(&written)["quantization"], json!({"group_size": 32, "bits": 6, "mode": "affine"}));
    let by_name: HashMap<_, _> = LoadedModel::open_quantised(&source, 6, 32).quantised().into_iter().collect();
    assert!(by_name.len() > 40);
    assert_eq!(LoadedModel::open(&written).quantised().into_iter().collect::<HashMap<_, _>>(), by_name);
    // Random weights, too, and they are the same in every run.
    let [one, two] = [job("random"), job("random")].map(|job| {
        job.run().success();
        LoadedModel::open(&job.output().join("final")).quantised()
    });
    assert!(one == two && one.len() == by_name.len());
}

#[test]
fn a_quantised_model_answers() {
    for name in NAMES {
        let model = fixture(name).display().to_string();
        let greedy = run(["generate", "--model", &model, "--prompt", "abc", "--max-tokens", "8", "--json"]).success();
        let answers: Value = serde_json::from_str(&greedy.stdout).expect("JSON");
        assert!(answers.to_string().contains("abc"), "{answers}");
    }
    let model = root().join("tests/fixtures/models/llama2").display().to_string();
    run([
        "generate",
        "--model",
        &model,
        "--set",
        "model.quantize.group_size=32",
        "--prompt",
        "abc",
        "--max-tokens",
        "8",
    ])
    .success();
}
