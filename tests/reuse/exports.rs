//! `mdt-host export`: models for transformers and mlx-lm.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use mdt_tests::{Job, LoadedModel, assert_says, root, run};
use serde_json::{Value, json};

use super::{evaluated, job, seen};

fn export(job: &Job, from: &Path, name: &str, arguments: &[&str]) -> PathBuf {
    let out = job.directory().join(name);
    let (from, place) = (from.display().to_string(), out.display().to_string());
    run([&["export", "--model", &from, "--out", &place], arguments].concat()).success();
    out
}

/// A fixture's model with a tokenizer.
fn model(job: &Job, name: &str) -> PathBuf {
    let model = job.directory().join(name);
    let fixtures = root().join("tests/fixtures");
    for from in ["training/model", &format!("models/{name}")] {
        mdt_tests::copy_files(&fixtures.join(from), &model);
    }
    model
}

fn config(directory: &Path) -> Value {
    serde_json::from_slice(&fs::read(directory.join("config.json")).expect("a config")).expect("JSON")
}

/// The bytes of every tensor of a directory's one file, with their types.
fn tensors(directory: &Path) -> BTreeMap<String, (String, Vec<u8>)> {
    tensors_of(&directory.join("model.safetensors"))
}

fn tensors_of(file: &Path) -> BTreeMap<String, (String, Vec<u8>)> {
    let bytes = fs::read(file).expect("the weights");
    let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
    tensors
        .iter()
        .map(|(name, view)| (name.to_owned(), (format!("{:?}", view.dtype()), view.data().to_vec())))
        .collect()
}

#[test]
fn a_checkpoint_is_written_with_the_bits_of_the_final_model_and_has_its_loss() {
    for (kind, job) in [("all", job()), ("an adapter", job().set("model.adapter", "lora"))] {
        job.run().success();
        let of_checkpoint = export(&job, &job.checkpoint(4), "of-checkpoint", &["--to", "transformers"]);
        let of_output = export(&job, &job.output(), "of-output", &["--to", "mlx"]);
        assert!(tensors(&of_checkpoint) == tensors(&of_output), "{kind}");
        if kind == "all" {
            assert!(tensors(&of_checkpoint) == tensors(&job.output().join("final")));
        }
        let loss = |path: &Path| evaluated(&job, &["--model", &path.display().to_string()])["loss"].as_f64();
        let apart = loss(&of_checkpoint).zip(seen(&job, 4).as_f64()).map(|(one, other)| (one / other - 1.0).abs());
        assert!(apart.is_some_and(|apart| apart < 1e-5), "{kind}: {apart:?}");
        // A merged adapter is what `fuse` writes.
        if kind == "an adapter" {
            let (from, out) = (job.checkpoint(4), job.directory().join("fused"));
            let [from, place] = [&from, &out].map(|path| path.display().to_string());
            run(["fuse", "--model", &from, "--out", &place]).success();
            assert!(tensors(&out) == tensors(&of_checkpoint));
        }
    }
}

#[test]
fn the_type_is_that_of_the_source_or_the_one_that_is_asked_for() {
    let job = job();
    let source = model(&job, "llama3");
    let plain = export(&job, &source, "plain", &["--to", "transformers"]);
    assert!(tensors(&plain) == tensors(&source));
    // Beside them are the names that older readers know.
    let written = config(&plain);
    for (key, value) in config(&source).as_object().expect("a table") {
        assert_eq!(written[key], *value, "{key}");
    }
    let half = export(&job, &source, "half", &["--to", "transformers", "--dtype", "bfloat16"]);
    assert!(tensors(&half).values().all(|(dtype, _)| dtype == "BF16"));
    let dtypes: Vec<_> =
        ["dtype", "torch_dtype"].into_iter().filter_map(|key| config(&half).get(key).cloned()).collect();
    assert!(!dtypes.is_empty() && dtypes.iter().all(|dtype| dtype == "bfloat16"), "{dtypes:?}");
}

#[test]
fn a_quantised_export_has_the_bits_that_mlx_lm_writes() {
    for (name, bits) in [("llama3", 4), ("bf16", 3)] {
        let job = job();
        let source = model(&job, name);
        let ours = export(&job, &source, "ours", &["--to", "mlx", "--quantize", &format!("{bits},32")]);
        let of_ours = tensors(&ours);
        let theirs = tensors_of(&root().join(format!("tests/fixtures/quantised/of_{name}.safetensors")));
        assert_eq!(of_ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>(), "{name}");
        for (tensor, theirs) in &theirs {
            assert!(of_ours[tensor] == *theirs, "{name}: {tensor}");
        }
        let packing = json!({ "group_size": 32, "bits": bits, "mode": "affine" });
        assert_eq!(config(&ours)["quantization"], packing);
        assert!(LoadedModel::open(&ours).quantised() == LoadedModel::open_quantised(&source, bits, 32).quantised());
        // transformers does not read it; what is whole again it does.
        let whole = export(&job, &ours, "whole", &["--to", "transformers"]);
        assert!(
            config(&whole).get("quantization").is_none()
                && !tensors(&whole).keys().any(|name| name.ends_with("scales"))
        );
        assert!(tensors(&export(&job, &ours, "again", &["--to", "mlx"])) == of_ours, "what is quantised stays so");
    }
    let refused =
        run(["export", "--model", "x", "--to", "transformers", "--quantize", "4,64", "--out", "y"]).failure(2);
    assert_says(&refused, &["transformers does not read", "--to mlx"]);
    let refused = run(["export", "--model", "x", "--to", "mlx", "--quantize", "7,64", "--out", "y"]);
    assert_eq!(refused.status, Some(2));
    assert_says(&refused.stderr, &["`bits` may be"]);
}

#[test]
fn the_card_says_what_was_trained_on_what_and_with_which_result() {
    let job = job().set("optimizer.learning_rate", 5e-4);
    job.run().success();
    let out = export(&job, &job.output(), "card", &["--to", "transformers"]);
    let card = fs::read_to_string(out.join("README.md")).expect("a card");
    let state: Value =
        serde_json::from_slice(&fs::read(job.checkpoint(4).join("state.json")).expect("a state")).expect("JSON");
    let fingerprint = state["data"].as_str().expect("a fingerprint");
    assert_says(
        &card,
        &[
            "---\nlibrary_name: \"transformers\"\npipeline_tag: \"text-generation\"\n",
            "- \"mdt-host\"",
            "optimizer.learning_rate = 0.0005",
            "Updates: 4.",
            fingerprint,
            "held-out loss",
            "`optimizer adamw",
        ],
    );
    assert!(!card.contains(&job.directory().display().to_string()), "no path of this machine: {card}");
    assert!(!card.contains("license"), "nothing is made up");
    // What was written so is a model of its own, and says the same when it is written in another form.
    let again = export(&job, &out, "again", &["--to", "mlx"]);
    let of_mlx = fs::read_to_string(again.join("README.md")).expect("a card");
    assert_eq!(of_mlx, card.replace("library_name: \"transformers\"", "library_name: \"mlx\""));
}

#[test]
fn what_exists_is_not_written_over() {
    let job = job();
    let source = root().join("tests/fixtures/models/llama3").display().to_string();
    let out = job.directory().display().to_string();
    let refused = run(["export", "--model", &source, "--to", "mlx", "--out", &out]).failure(7);
    assert_says(&refused, &["exists already", &out]);
}
