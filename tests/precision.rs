//! Half precision: products and activations are rounded, what is learned is not.

use std::fs;
use std::path::PathBuf;

use mdt_tests::{Job, Process, arrays, assert_says, command, copy_files, relative_difference, root, run};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

/// The two ways to compute with numbers of bfloat16.
const HALF: [&str; 2] = ["compute.dtype", "compute.matmul"];

fn half(key: &str) -> Job {
    Job::new().set(key, "bfloat16")
}

/// Of so many updates of two micro-batches of two rows, and a checkpoint after each.
fn updates(job: Job, count: u64) -> Job {
    job.rows(0..16)
        .set("trainer.batch_size", 2)
        .set("trainer.gradient_accumulation_steps", 2)
        .set("trainer.max_steps", count)
        .set("checkpoint.save_steps", 1)
        .set("checkpoint.keep", 0)
}

/// The weights of a checkpoint, by name.
fn weights(job: &Job, update: u64) -> Vec<(String, Vec<f32>)> {
    arrays(&job.checkpoint(update).join("model.safetensors"))
}

/// The largest distance of two curves, relative to the second one.
fn apart(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs() / b).fold(0.0, f64::max)
}

#[test]
fn a_hundred_updates_in_bfloat16_follow_pytorch_as_closely_as_it_follows_itself_in_float32() {
    let text = fs::read_to_string(root().join("tests/fixtures/half/curve.json")).expect("the fixture");
    let curves: Value = serde_json::from_str(&text).expect("JSON");
    let theirs = |dtype: &str| -> Vec<f64> {
        curves[dtype].as_array().expect("losses").iter().map(|loss| loss.as_f64().expect("a loss")).collect()
    };
    let (in_f32, in_bf16) = (theirs("float32"), theirs("bfloat16"));
    let between = apart(&in_bf16, &in_f32);
    let job = || Job::new().set("trainer.num_epochs", 5);
    let plain = job();
    plain.run().success();
    println!("float32: {:.1e}", apart(&plain.numbers("loss"), &in_f32));
    for key in HALF {
        let job = job().set(key, "bfloat16");
        job.run().success();
        let ours = job.numbers("loss");
        let (from_bf16, from_f32) = (apart(&ours, &in_bf16), apart(&ours, &in_f32));
        println!(
            "{key}: {from_bf16:.1e} from PyTorch's bfloat16, {from_f32:.1e} from its float32; those are {between:.1e}"
        );
        assert!(from_bf16 < 3.0 * between && from_f32 < 3.0 * between, "{key}: {from_bf16:e}, {from_f32:e}");
        assert!(from_f32 > between / 100.0, "{key}: nothing is rounded");
    }
}

#[test]
fn a_thousand_updates_smaller_than_half_a_step_of_bfloat16_move_the_weights() {
    const RATE: f64 = 1e-6;
    let job = |job: Job| {
        let tokenizer = root().join("tests/fixtures/training/model");
        let job = job.tiny_llama(&tokenizer, 104).rows(0..2).set("trainer.batch_size", 1);
        job.set("trainer.gradient_accumulation_steps", 1)
            .set("trainer.max_steps", 1000)
            .set("optimizer.learning_rate", RATE)
            .set("optimizer.weight_decay", 0)
            .set("scheduler", "constant")
            .set("checkpoint.save_steps", 999)
            .set("checkpoint.keep", 0)
    };
    let start = job(Job::new()).set("trainer.max_steps", 1).set("optimizer.learning_rate", 0);
    start.run().success();
    let before = weights(&start, 1);
    for key in HALF {
        let job = job(half(key));
        job.run().success();
        let (almost, last) = (weights(&job, 999), weights(&job, 1000));
        for (((name, before), (_, almost)), (_, last)) in before.iter().zip(&almost).zip(&last) {
            // Of a number that is not tiny, half a step of bfloat16 is more than any one update.
            let of_size: Vec<usize> = (0..before.len()).filter(|&place| before[place].abs() > 0.01).collect();
            let step = |x: f32| f64::from(x.abs()) / 512.0;
            for &place in &of_size {
                let update = f64::from((last[place] - almost[place]).abs());
                assert!(update < step(before[place]) / 2.0, "{key}: {name}[{place}] moves by {update:e} at once");
            }
            let moved = of_size.iter().filter(|&&place| f64::from((last[place] - before[place]).abs()) > 20.0 * RATE);
            let moved = moved.count();
            assert!(2 * moved > of_size.len(), "{key}: {moved} of {} numbers of {name} have moved", of_size.len());
        }
    }
}

#[test]
fn gradients_are_not_rounded_to_the_type_of_the_products() {
    for key in HALF {
        let job = updates(half(key), 1).set("trainer.gradient_accumulation_steps", 1).set("trainer.max_grad_norm", 0);
        job.run().success();
        let tokens = job.numbers("supervised_tokens")[0];
        // What adamw keeps of the first gradient, a tenth of the mean over these tokens.
        let states = arrays(&job.checkpoint(1).join("optimizer.safetensors"));
        let of_products = states.iter().filter(|(name, _)| name.ends_with("_proj.weight.exp_avg"));
        let mut count = 0;
        for (name, state) in of_products {
            let is_rounded = |x: &&f32| {
                let sum = f64::from(**x) * 10.0 * tokens;
                let nearest = f64::from(mdt_plugin_api::half::bf16::from_f64(sum).to_f32());
                (sum - nearest).abs() <= 2e-6 * sum.abs()
            };
            let rounded = state.iter().filter(is_rounded).count();
            assert!(rounded < state.len() / 10, "{key}: {rounded} of {} numbers of {name}", state.len());
            count += 1;
        }
        assert_eq!(count, 14, "two layers of seven products");
    }
}

/// The mean gradient of update 1, of eight rows in so many micro-batches, as far as products give it.
fn gradient(key: &str, batch_size: u32, accumulation: u32) -> Vec<f32> {
    let job = half(key)
        .rows(0..8)
        .set("trainer.batch_size", batch_size)
        .set("trainer.gradient_accumulation_steps", accumulation)
        .set("trainer.max_steps", 1)
        .set("trainer.max_grad_norm", 0);
    job.run().success();
    let states = arrays(&job.checkpoint(1).join("optimizer.safetensors")).into_iter();
    states.filter(|(name, _)| name.ends_with("_proj.weight.exp_avg")).flat_map(|(_, state)| state).collect()
}

#[test]
fn a_batch_of_eight_is_eight_micro_batches_of_one() {
    for key in HALF {
        let difference = relative_difference(&gradient(key, 1, 8), &gradient(key, 8, 1));
        println!("{key}: {difference:.1e}");
        // Of eight gradients that are rounded to bfloat16 before they are added up it would be 1e-3.
        assert!(difference < ACCUMULATION, "{key}: gradients differ by {difference:e}");
    }
}

/// How far gradients may be apart when rows are portioned in another way.
const ACCUMULATION: f64 = 1e-4;

#[test]
fn six_updates_are_three_a_stop_and_three_and_recomputed_layers_change_no_bit() {
    for key in HALF {
        let straight = updates(half(key), 6);
        straight.run().success();
        let stopped = updates(half(key), 6);
        stopped.run().success();
        (4..=6).for_each(|later| fs::remove_dir_all(stopped.checkpoint(later)).expect("a checkpoint"));
        fs::remove_dir_all(stopped.output().join("final")).expect("a final model");
        assert_says(&stopped.run().success().stderr, &["resuming from"]);
        let recomputed = updates(half(key), 6).set("trainer.checkpoint_activations", "all");
        recomputed.run().success();
        for other in [&stopped, &recomputed] {
            for file in ["model.safetensors", "optimizer.safetensors"] {
                let bytes = |job: &Job| fs::read(job.checkpoint(6).join(file)).expect("a checkpoint");
                assert!(bytes(&straight) == bytes(other), "{key}: {file}");
            }
            assert_eq!(straight.numbers("loss"), other.numbers("loss"));
        }
    }
}

#[test]
fn two_ranks_are_one_process_with_two_micro_batches_bit_for_bit() {
    for key in HALF {
        let (one, two) = (updates(half(key), 4), updates(half(key), 4).set("trainer.gradient_accumulation_steps", 1));
        let (one, two) = (one.set("compute.threads", 1), two.set("compute.threads", 1).set("comm.use", "grpc"));
        one.run().success();
        Process::start(command().args(["launch", "-n", "2"]).args(two.arguments())).end().success();
        assert!(weights(&one, 4) == weights(&two, 4), "{key}");
        assert!(one.final_weights() == two.final_weights(), "{key}");
    }
}

/// Types and numbers of the tensors of a model, and the type that its config names.
fn written(directory: PathBuf) -> (Vec<(String, Dtype)>, Value) {
    let bytes = fs::read(directory.join("model.safetensors")).expect("weights");
    let tensors = SafeTensors::deserialize(&bytes).expect("a safetensors file").tensors();
    let mut types: Vec<_> = tensors.into_iter().map(|(name, view)| (name, view.dtype())).collect();
    types.sort_by(|a, b| a.0.cmp(&b.0));
    let config = fs::read_to_string(directory.join("config.json")).expect("a config");
    let config: Value = serde_json::from_str(&config).expect("JSON");
    (types, config["dtype"].clone())
}

#[test]
fn a_model_is_written_in_the_type_of_its_files_and_its_checkpoints_in_float32() {
    let job = || {
        let job = updates(Job::new(), 2);
        let source = job.directory().join("model");
        copy_files(&root().join("tests/fixtures/models/bf16"), &source);
        for file in ["tokenizer.json", "tokenizer_config.json"] {
            fs::copy(root().join("tests/fixtures/training/model").join(file), source.join(file))
                .expect("the tokenizer");
        }
        let path = source.display().to_string();
        job.set("model.path", path)
    };
    for (key, expected, name) in
        [("auto", Dtype::BF16, "bfloat16"), ("float32", Dtype::F32, "float32"), ("float16", Dtype::F16, "float16")]
    {
        let job = job().set("checkpoint.export_dtype", key);
        job.run().success();
        let (types, config) = written(job.output().join("final"));
        assert!(types.iter().all(|(_, dtype)| *dtype == expected), "{key}: {types:?}");
        assert_eq!(config, name);
        let trained = weights(&job, 2);
        assert_eq!(trained.len(), types.len(), "checkpoints have float32");
        if key == "auto" {
            let bytes = job.final_weights();
            let tensors = SafeTensors::deserialize(&bytes).expect("a safetensors file");
            for (name, numbers) in trained {
                let found = tensors.tensor(&name).expect("the tensor").data().as_chunks::<2>().0;
                let nearest = |x: &f32| mdt_plugin_api::half::bf16::from_f32(*x).to_le_bytes();
                assert!(numbers.iter().map(nearest).eq(found.iter().copied()), "{name}");
            }
        }
    }
}

#[test]
fn evaluation_and_generation_compute_in_the_same_types() {
    let held_out = "tests/fixtures/training/train.jsonl";
    let job = |job: Job| updates(job, 2).set("data.eval", held_out).set("optimizer.learning_rate", 0);
    let evaluated = |job: &Job| job.metrics().last().expect("a line")["eval_loss"].as_f64().expect("an evaluation");
    let plain = job(Job::new());
    plain.run().success();
    for key in HALF {
        let job = job(half(key));
        job.run().success();
        let (ours, theirs) = (evaluated(&job), evaluated(&plain));
        assert!(ours != theirs && (ours - theirs).abs() < 2e-3 * theirs, "{key}: {ours}, and {theirs} in float32");
        let model = job.output().join("final").display().to_string();
        let setting = format!("{key}=bfloat16");
        let arguments =
            ["generate", "--model", &model, "--prompt", "Reverse abc: ", "--max-tokens", "4", "--set", &setting];
        assert!(!run(arguments).success().stdout.is_empty());
    }
}

#[test]
fn the_start_and_the_doctor_say_what_the_processor_makes_of_it() {
    let run = half("compute.dtype").set("trainer.max_steps", 1).run().success();
    let notes = run.stderr.lines().filter(|line| line.contains("no faster than float32")).count();
    let report = |job: &Job| {
        let arguments = ["doctor", "--json"].map(str::to_owned).into_iter().chain(job.arguments().iter().cloned());
        let text = mdt_tests::run(arguments).stdout;
        let report: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        let checks = report["checks"].as_array().expect("checks").clone();
        checks.into_iter().find(|check| check["name"] == "compute").expect("the check of compute")
    };
    let check = report(&half("compute.matmul")).to_string();
    assert_says(&check, &["\"dtype\":\"float32\"", "\"matmul\":\"bfloat16\"", "products of bfloat16"]);
    let is_fast = check.contains("\"fast_products\":[\"bfloat16\"]");
    assert_eq!(notes, usize::from(!is_fast), "{}", run.stderr);
    let plain = Job::new().set("trainer.max_steps", 1).run().success();
    assert!(!plain.stderr.contains("bfloat16"), "{}", plain.stderr);
}

#[test]
fn a_device_without_the_type_is_refused_with_what_it_lacks() {
    for key in HALF {
        let error = half(key).set("compute.use", "every_kind").run().failure(3);
        let other = format!("{key}=float32");
        assert_says(&error, &["`every_kind` does not compute in bfloat16", "no operation `", &other]);
    }
}
