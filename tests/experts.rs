//! A model with experts: transformers' logits and gradients, its files, its router loss.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use mdt_tests::{Job, LoadedModel, arrays, assert_says, copy_files, integers, relative_difference, root};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

/// Shape and bytes of each tensor of a file.
type Tensors = BTreeMap<String, (Vec<usize>, Vec<u8>)>;

/// Number of experts of a layer.
const EXPERTS: usize = 5;

fn fixture(file: &str) -> PathBuf {
    root().join("tests/fixtures/mixtral").join(file)
}

fn weights(file: &Path) -> BTreeMap<String, Vec<f32>> {
    arrays(file).into_iter().collect()
}

/// Logits of the fixture's ids, by the model in a directory.
fn logits(directory: &Path) -> Vec<f32> {
    LoadedModel::open(directory).logits(2, &integers(&fixture("logits.safetensors"), "input_ids"))
}

/// One update of SGD on four rows, as `tests/fixtures/make/mixtral.py` makes it.
fn one_update() -> Job {
    Job::of(&["mixtral/job.toml"])
        .set("optimizer", "sgd")
        .set("optimizer.momentum", 0.0)
        .set("optimizer.weight_decay", 0.0)
        .set("optimizer.learning_rate", 0.5)
        .set("scheduler", "constant")
        .set("scheduler.warmup_steps", 0)
        .set("trainer.batch_size", 4)
        .set("trainer.gradient_accumulation_steps", 1)
        .set("trainer.max_grad_norm", 0)
        .set("trainer.max_steps", 1)
}

#[test]
fn mixtral_has_the_logits_and_the_gradients_of_transformers() {
    let theirs = &weights(&fixture("logits.safetensors"))["logits"];
    let difference = relative_difference(&logits(&fixture("model")), theirs);
    println!("logits {difference:.1e}");
    assert!(difference < 5e-6, "{difference:e}");

    let job = one_update();
    job.run().success();
    let before = weights(&fixture("model/model.safetensors"));
    let [ours, theirs] =
        [job.output().join("final/model.safetensors"), fixture("one_update.safetensors")].map(|file| weights(&file));
    assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
    for (name, before) in &before {
        let gradient = |after: &[f32]| before.iter().zip(after).map(|(b, a)| (b - a) / 0.5).collect::<Vec<f32>>();
        let difference = relative_difference(&gradient(&ours[name]), &gradient(&theirs[name]));
        println!("gradient of {name} {difference:.1e}");
        assert!(difference < 5e-5, "the gradients of {name} are {difference:e} apart");
    }
}

#[test]
fn the_router_loss_is_reported_apart_from_the_loss_and_changes_no_evaluation() {
    let run = |coefficient: f64| {
        let job = one_update().set("data.eval", "tests/fixtures/training/train.jsonl").set("data.limit", 8);
        let model = edited(&job, |text| {
            text.replace("\"router_aux_loss_coef\": 0.5", &format!("\"router_aux_loss_coef\": {coefficient:?}"))
        });
        let job = job.set("model.path", model.display()).set("trainer.eval_at_start", true);
        job.run().success();
        let (lines, updates) = (job.metrics(), job.updates());
        let evaluation = lines.iter().find(|line| line.get("eval_loss").is_some()).expect("an evaluation").clone();
        (updates[0].clone(), evaluation, job.final_weights())
    };
    let (with, without) = (run(0.5), run(0.0));
    for key in ["loss", "router_loss"] {
        assert_eq!(with.0[key], without.0[key], "{key}");
        assert_eq!(with.1[format!("eval_{key}")], without.1[format!("eval_{key}")], "eval_{key}");
        assert!(with.1[format!("eval_{key}")].is_f64());
    }
    assert_ne!(with.0["grad_norm"], without.0["grad_norm"]);
    assert!(with.2 != without.2, "the router loss trained nothing");
}

#[test]
fn a_run_has_the_same_bits_when_layers_are_computed_again_and_on_two_ranks() {
    let job = || Job::of(&["mixtral/job.toml"]).set("trainer.max_steps", 3);
    let alone = job().set("trainer.gradient_accumulation_steps", 2);
    alone.run().success();
    let again = job().set("trainer.gradient_accumulation_steps", 2).set("trainer.checkpoint_activations", "all");
    again.run().success();
    assert!(again.final_weights() == alone.final_weights());
    assert_eq!(again.unmeasured(), alone.unmeasured());

    let ranks = job().set("trainer.gradient_accumulation_steps", 1);
    let ranks = ranks.set("comm", "grpc").set("compute.threads", 1);
    let arguments: Vec<&str> =
        ["launch", "-n", "2"].into_iter().chain(ranks.arguments().iter().map(String::as_str)).collect();
    mdt_tests::run(arguments).success();
    let one_thread = job().set("trainer.gradient_accumulation_steps", 2).set("compute.threads", 1);
    one_thread.run().success();
    assert!(ranks.final_weights() == one_thread.final_weights());
    assert_eq!(ranks.unmeasured(), one_thread.unmeasured());
}

/// A copy of the model with another `config.json`.
fn edited(job: &Job, edit: impl FnOnce(&str) -> String) -> PathBuf {
    let copy = job.directory().join("model");
    copy_files(&fixture("model"), &copy);
    let config = copy.join("config.json");
    let text = fs::read_to_string(&config).expect("the config");
    fs::write(config, edit(&text)).expect("the config");
    copy
}

/// A copy of the model whose weights are these.
fn with_weights(job: &Job, tensors: &Tensors) -> PathBuf {
    let copy = edited(job, str::to_owned);
    let views = tensors.iter().map(|(name, (shape, bytes))| {
        (name, TensorView::new(Dtype::F32, shape.clone(), bytes).expect("as many bytes as the shape has"))
    });
    safetensors::serialize_to_file(views, None, &copy.join("model.safetensors")).expect("the weights");
    copy
}

/// The model's weights.
fn stored() -> Tensors {
    let bytes = fs::read(fixture("model/model.safetensors")).expect("the weights");
    let tensors = SafeTensors::deserialize(&bytes).expect("a safetensors file").tensors();
    tensors.into_iter().map(|(name, view)| (name, (view.shape().to_vec(), view.data().to_vec()))).collect()
}

fn expert(layer: usize, expert: usize, part: &str) -> String {
    format!("model.layers.{layer}.block_sparse_moe.experts.{expert}.{part}.weight")
}

#[test]
fn experts_that_stand_in_one_tensor_are_the_same_model() {
    let job = one_update();
    let mut tensors = stored();
    for (layer, part) in [(0, "w1"), (1, "w2"), (1, "w3")] {
        let parts: Vec<_> = (0..EXPERTS).map(|n| tensors.remove(&expert(layer, n, part)).expect("it")).collect();
        let shape = [&[EXPERTS], parts[0].0.as_slice()].concat();
        let name = format!("model.layers.{layer}.block_sparse_moe.experts.{part}.weight");
        tensors.insert(name, (shape, parts.into_iter().flat_map(|(_, bytes)| bytes).collect()));
    }
    let model = with_weights(&job, &tensors);
    assert_eq!(logits(&model), logits(&fixture("model")));
    job.set("model.path", model.display()).run().success();
}

#[test]
fn what_is_wrong_with_an_expert_is_said_by_its_name_in_the_file() {
    let name = expert(1, 3, "w2");
    let fails = |edit: &dyn Fn(&mut Tensors), says: &[&str]| {
        let job = one_update();
        let mut tensors = stored();
        edit(&mut tensors);
        let model = with_weights(&job, &tensors);
        assert_says(&job.set("model.path", model.display()).run().failure(4), says);
    };
    fails(&|tensors| drop(tensors.remove(&name)), &["no tensor", &name]);
    fails(
        &|tensors| tensors.get_mut(&name).expect("it").1[..4].copy_from_slice(&f32::NAN.to_le_bytes()),
        &[&name, "not finite"],
    );
    let wrong = |tensors: &mut Tensors| {
        tensors.get_mut(&name).expect("it").0.reverse();
    };
    fails(&wrong, &[&name, "[24, 32]", "[32, 24]"]);

    let job = one_update();
    let mut tensors = stored();
    let (shape, bytes) = tensors[&name].clone();
    tensors.insert("more.weight".to_owned(), (shape, bytes));
    let model = with_weights(&job, &tensors);
    let run = job.set("model.path", model.display()).run().success();
    assert_says(&run.stderr, &["1 tensor of the model's files", "`more.weight`"]);
}
