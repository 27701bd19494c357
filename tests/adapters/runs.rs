//! Runs that train an adapter: the model beside it keeps every bit, and they resume, recompute and spread over ranks to the same
//! bits as any other run.

use std::fs;

use mdt_tests::{Job, arrays, assert_says, command, copy_files, relative_difference};
use serde_json::Value;

use super::{TIED, fixture, fresh, tensors, trained, with_plugin};

/// With dropout, so that its masks count.
fn dropping(kind: &str) -> Job {
    fresh(kind).set("model.adapter.dropout", 0.25)
}

fn delete_the_second_half(job: &Job) {
    for directory in [job.checkpoint(4), job.output().join("final")] {
        fs::remove_dir_all(directory).expect("it was written");
    }
}

#[test]
fn checkpoints_hold_the_adapter_and_its_states_and_a_checksum_of_the_model() {
    let job = fresh("dora").set("model.adapter.targets", "[\"q_proj\"]").set("model.adapter.modules_to_save", "norm");
    job.run().success();
    let names =
        |file: &str| arrays(&job.checkpoint(4).join(file)).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    let mut expected: Vec<String> = (0..2)
        .flat_map(|layer| {
            ["lora_A.weight", "lora_B.weight", "lora_magnitude_vector"]
                .map(|name| format!("model.layers.{layer}.self_attn.q_proj.{name}"))
        })
        .collect();
    expected.push("model.norm.weight".to_owned());
    assert_eq!(names("model.safetensors"), expected);
    let states = names("optimizer.safetensors");
    assert!(states.iter().all(|state| expected.iter().any(|name| state.starts_with(name.as_str()))), "{states:?}");
    let state: Value = super::json(&job.checkpoint(4).join("state.json"));
    assert_eq!(state["frozen"].as_str().map(str::len), Some(64));
    // The model has not changed by a bit: its checksum is that of the first checkpoint.
    assert_eq!(state["frozen"], super::json(&job.checkpoint(2).join("state.json"))["frozen"]);
}

#[test]
fn a_resumed_run_has_the_same_bits() {
    for kind in ["lora", "dora"] {
        let job = dropping(kind).set("model.adapter.modules_to_save", "norm");
        job.run().success();
        let before = (trained(&job), job.unmeasured());
        delete_the_second_half(&job);
        job.run().success();
        assert!(before == (trained(&job), job.unmeasured()), "{kind}");
    }
}

#[test]
fn a_run_is_not_resumed_beside_another_model() {
    let job = fresh("lora");
    let model = job.directory().join("model");
    copy_files(&fixture(TIED), &model);
    let job = job.set("model.path", model.display());
    job.run().success();
    let file = model.join("model.safetensors");
    let mut bytes = fs::read(&file).expect("the weights");
    let last = bytes.len() - 2;
    bytes[last] ^= 1;
    fs::write(&file, bytes).expect("all but a bit of them");
    assert_says(&job.run().failure(2), &["the weights that are not trained are others", &model.display().to_string()]);
}

#[test]
fn a_run_is_not_resumed_with_another_scale_of_the_adapter_that_it_began_with() {
    let first = fresh("lora");
    first.run().success();
    let job = Job::new().set("trainer.max_steps", 4).set("checkpoint.save_steps", 2).set("checkpoint.keep", 9);
    let start = job.directory().join("start");
    copy_files(&first.output().join("final"), &start);
    let job = job.set("model.adapter.path", start.display());
    job.run().success();
    delete_the_second_half(&job);
    let file = start.join("adapter_config.json");
    let mut config = super::json(&file);
    let before = config["lora_alpha"].clone();
    config["lora_alpha"] = 16.into();
    fs::write(&file, config.to_string()).expect("a file");
    let refused = job.run().failure(2);
    assert_says(&refused, &["alpha", "16", &start.display().to_string(), "checkpoint.resume=never"]);
    config["lora_alpha"] = before;
    fs::write(&file, config.to_string()).expect("a file");
    assert_says(&job.run().success().stderr, &["resuming from"]);
}

#[test]
fn two_ranks_train_the_adapter_of_one_process() {
    let job = |micro_batches: u32| {
        dropping("dora").set("compute.threads", 1).set("trainer.gradient_accumulation_steps", micro_batches)
    };
    let (one, two) = (job(2), job(1));
    one.run().success();
    let status = command().args(["launch", "-n", "2"]).args(two.arguments()).args(["--set", "comm.use=grpc"]).status();
    assert!(status.is_ok_and(|status| status.success()));
    assert!(trained(&one) == trained(&two));
}

#[test]
fn layers_that_are_computed_again_draw_the_same_masks() {
    for kind in ["lora", "dora"] {
        let [kept, again] = ["none", "all"].map(|layers| {
            let job = dropping(kind).set("trainer.checkpoint_activations", layers);
            job.run().success();
            trained(&job)
        });
        assert!(kept == again, "{kind}");
    }
}

#[test]
fn dropout_is_drawn_by_the_seed_the_update_and_the_layer_and_there_is_none_in_evaluations() {
    let run = |seed: u32, rate: f64| {
        let job = Job::new()
            .set("model.adapter.path", fixture("adapters/tied_lora/final").display())
            .set("model.adapter.dropout", rate)
            .set("seed", seed)
            .set("optimizer.learning_rate", 0)
            .set("trainer.max_steps", 2)
            .set("data.eval_split", 8)
            .set("data.limit", 16);
        job.run().success();
        let evaluated = job.metrics().into_iter().find_map(|line| line["eval_loss"].as_f64()).expect("an evaluation");
        (job.numbers("loss"), evaluated)
    };
    let ((plain, of_plain), (dropped, of_dropped), (other, _)) = (run(1, 0.0), run(1, 0.5), run(2, 0.5));
    assert_eq!(of_plain, of_dropped);
    assert!(dropped.iter().zip(&plain).all(|(dropped, plain)| dropped != plain));
    assert_ne!(dropped, other);
}

#[test]
fn the_first_loss_beside_a_new_adapter_is_the_models_own() {
    let first_loss = |job: Job| {
        let job = job.set("trainer.max_steps", 1);
        job.run().success();
        job.numbers("loss")[0]
    };
    let plain = first_loss(Job::new());
    for kind in ["lora", "dora"] {
        let beside =
            |targets: &str| first_loss(Job::new().set("model.adapter", kind).set("model.adapter.targets", targets));
        assert_eq!(beside("all-linear"), plain, "{kind}");
        // A head with an adapter and its loss are two operations, which round otherwise than one.
        let apart = (beside("[\"embed_tokens\", \"lm_head\"]") - plain).abs() / plain;
        assert!(apart < 1e-6, "{kind}: {apart:e}");
    }
}

#[test]
fn a_new_adapter_is_uniform_in_a_and_0_in_b_and_a_function_of_the_seed() {
    let start = |seed: u32| {
        let job = fresh("lora").set("seed", seed).set("optimizer.learning_rate", 0).set("trainer.max_steps", 1);
        job.run().success();
        tensors(&job.output().join("final/adapter_model.safetensors"))
    };
    let (one, again, other) = (start(3), start(3), start(4));
    assert_eq!(one, again);
    for (name, values) in &one {
        if name.ends_with("lora_B.weight") {
            assert!(values.iter().all(|&value| value == 0.0), "{name}");
            continue;
        }
        assert_ne!(values, &other[name]);
        let bound = 1.0 / (values.len() as f32 / 8.0).sqrt();
        let largest = values.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
        assert!(largest <= bound && largest > 0.9 * bound, "{name}: {largest} of {bound}");
        let variance = values.iter().map(|value| value * value).sum::<f32>() / values.len() as f32;
        assert!((variance / (bound * bound / 3.0) - 1.0).abs() < 0.3, "{name}");
    }
}

#[test]
fn groups_of_the_optimizer_reach_an_adapter_by_its_names() {
    let tensors_of = |job: Job| {
        job.run().success();
        tensors(&job.output().join("final/adapter_model.safetensors"))
    };
    let start = tensors_of(fresh("lora").set("optimizer.learning_rate", 0).set("trainer.max_steps", 1));
    let groups = "[{ match = [\"*.lora_A.weight\"], learning_rate = 0 }]";
    let after = tensors_of(fresh("lora").set("optimizer.groups", groups));
    for (name, values) in &after {
        assert_eq!(values == &start[name], name.contains("lora_A"), "{name}");
    }
}

#[test]
fn a_compute_plugin_and_a_model_of_others_have_adapters_without_knowing_of_them() {
    let on = |example: Option<&str>| {
        let job = with_plugin(fresh("dora"), "stablelm");
        let job = job.set("model.path", fixture("families/stablelm/model").display());
        let job = match example {
            Some(example) => with_plugin(job, example).set("compute", "cpu"),
            None => job,
        };
        job.run().success();
        (job.numbers("loss"), tensors(&job.output().join("final/adapter_model.safetensors")))
    };
    let ((mlx, of_mlx), (cpu, of_cpu)) = (on(None), on(Some("cpu_compute")));
    assert!(mlx.iter().zip(&cpu).all(|(a, b)| (a - b).abs() / b < 1e-5), "{mlx:?} {cpu:?}");
    for (name, values) in of_mlx {
        let apart = relative_difference(&values, &of_cpu[&name]);
        assert!(apart < 1e-3, "{name}: {apart:e}");
    }
}

#[test]
fn a_trainers_own_parameters_are_trained_and_resumed_beside_an_adapter() {
    let job = Job::of(&["value_head/job.toml"]).set("trainer.max_steps", 4).set("checkpoint.save_steps", 2);
    let job = job.set("checkpoint.keep", 9).set("model.adapter", "dora").set("model.adapter.modules_to_save", "norm");
    job.run().success();
    let both = || {
        let head = fs::read(job.output().join("final/trainer.safetensors")).expect("the head");
        (trained(&job), head, job.unmeasured())
    };
    let before = both();
    delete_the_second_half(&job);
    job.run().success();
    assert!(before == both());
}

#[test]
fn the_reference_of_a_trainer_is_the_model_without_its_adapter() {
    let job = with_plugin(Job::of(&["dpo/job.toml"]), "dpo").set("model.adapter", "lora").set("trainer.max_steps", 3);
    // So that the reference is not the model as it is at the start either.
    let job = job.set("optimizer", "adamw").set("optimizer.learning_rate", 1e-2);
    job.run().success();
    let margins = job.numbers("rewards/margins");
    assert!(margins[0] == 0.0 && margins[2] > 0.0, "{margins:?}");
}

#[test]
fn generation_takes_an_adapter() {
    let job = fresh("lora").set("trainer.max_steps", 20).set("model.adapter.rank", 16).set("model.adapter.alpha", 32);
    job.run().success();
    let (model, adapter) = (fixture(TIED).display().to_string(), job.output().join("final").display().to_string());
    let generate = |more: &[&str]| {
        let arguments = ["generate", "--model", &model, "--prompt", "Reverse abc: ", "--max-tokens", "8"];
        mdt_tests::run(arguments.iter().chain(more)).success().stdout
    };
    let (plain, adapted) = (generate(&[]), generate(&["--adapter", &adapter]));
    assert_ne!(plain, adapted);
    // The option takes the place of what a configuration says.
    let config = fixture("adapters/tied_dora/job.toml").display().to_string();
    assert_eq!(generate(&["--adapter", &adapter, "--config", &config]), adapted);
}
