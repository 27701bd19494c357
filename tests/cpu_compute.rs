//! The compute plugin of `examples/cpu_compute`, which has nothing of MLX, trains as MLX does: what the host and the other plugins
//! expect of a device is what the table of operations says.

use std::fs;

use mdt_tests::{Job, example_plugin, root, run};
use serde_json::Value;

/// The largest relative difference of a loss [2.3e-7 from MLX, 6.9e-8 from PyTorch].
const APART: f64 = 1e-6;

/// A job with the compute plugin, and the optimizer `muon`, dropped in.
fn with_examples(job: Job) -> Job {
    let plugins = job.directory().join("plugins");
    fs::create_dir(&plugins).expect("a directory");
    for name in ["cpu_compute", "muon"] {
        let built = example_plugin(name);
        fs::copy(&built, plugins.join(built.file_name().expect("a name"))).expect("a copy");
    }
    job.argument("--plugin-dir").argument(plugins.display().to_string())
}

/// The job, run on the small compute.
fn on_cpu(job: Job) -> Job {
    let job = with_examples(job).set("compute", "cpu");
    job.run().success();
    job
}

fn assert_close(name: &str, ours: &[f64], theirs: &[f64]) {
    assert_eq!(ours.len(), theirs.len());
    let apart = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs() / b.abs()).fold(0.0, f64::max);
    println!("{name}: losses {apart:.1e}");
    assert!(apart <= APART, "{name}: the losses are {apart:e} apart");
}

/// Runs a job on the small compute and on MLX.
fn assert_trains_as_mlx(name: &str, job: impl Fn() -> Job) {
    let (ours, theirs) = (on_cpu(job()), with_examples(job()).set("compute", "mlx"));
    theirs.run().success();
    assert_close(name, &ours.numbers("loss"), &theirs.numbers("loss"));
    assert_eq!(ours.numbers("tokens"), theirs.numbers("tokens"), "{name}");
}

#[test]
fn twenty_updates_have_the_losses_of_mlx_and_of_pytorch() {
    assert_trains_as_mlx("mlx", Job::new);
    let curve = fs::read_to_string(root().join("tests/fixtures/training/curve.json")).expect("the fixture");
    let curve: Vec<Value> = serde_json::from_str(&curve).expect("JSON");
    let theirs: Vec<f64> = curve.iter().map(|update| update["loss"].as_f64().expect("a number")).collect();
    assert_close("pytorch", &on_cpu(Job::new()).numbers("loss"), &theirs);
}

#[test]
fn packed_rows_and_optimizers_on_the_device_need_no_mlx() {
    let few = |job: Job| job.set("trainer.max_steps", 5);
    assert_trains_as_mlx("packing", || {
        few(Job::of(&["architectures/qwen2/job.toml", "architectures/qwen2/adamw.toml"]))
            .set("trainer.packing", "best_fit")
    });
    assert_trains_as_mlx("muon", || few(Job::of(&["muon/job.toml"])));
}

#[test]
fn recomputed_layers_resumed_runs_ranks_and_threads_change_no_bit() {
    let job = || Job::new().set("trainer.max_steps", 4).set("checkpoint.save_steps", 2).set("checkpoint.keep", 0);
    let straight = on_cpu(job());
    let recomputed = on_cpu(job().set("trainer.checkpoint_activations", "all"));
    assert!(recomputed.final_weights() == straight.final_weights(), "layers that are computed again");
    assert!(on_cpu(job().set("compute.threads", 1)).final_weights() == straight.final_weights(), "one thread");

    let ranks = with_examples(job()).set("compute", "cpu").set("comm.use", "grpc");
    let ranks = ranks.set("trainer.gradient_accumulation_steps", 1);
    run(["launch", "-n", "2"].into_iter().chain(ranks.arguments().iter().map(String::as_str))).success();
    assert!(ranks.final_weights() == straight.final_weights(), "two ranks");

    let weights = straight.final_weights();
    fs::remove_dir_all(straight.checkpoint(4)).expect("a checkpoint");
    fs::remove_dir_all(straight.output().join("final")).expect("a final model");
    straight.run().success();
    assert!(straight.final_weights() == weights, "a run that was resumed");
}

#[test]
fn a_model_answers_as_on_mlx() {
    let job = on_cpu(Job::new());
    let model = job.output().join("final").display().to_string();
    let plugins = job.directory().join("plugins").display().to_string();
    let answer = |compute: &str| {
        let compute = format!("compute={compute}");
        let arguments =
            ["generate", "--model", &model, "--plugin-dir", &plugins, "--set", &compute, "--max-tokens", "16"];
        run(arguments.into_iter().chain(["--prompt", "12 + 7"])).success().stdout
    };
    let ours = answer("cpu");
    assert!(!ours.trim().is_empty(), "there is an answer");
    assert_eq!(ours, answer("mlx"));
}

#[test]
fn half_precision_is_composed_where_a_device_has_no_products_of_its_own_for_it() {
    for key in ["compute.dtype", "compute.matmul"] {
        let job = || Job::new().set("trainer.max_steps", 4).set(key, "bfloat16");
        let (ours, theirs) = (on_cpu(job()), with_examples(job()).set("compute", "mlx"));
        theirs.run().success();
        let (ours, theirs) = (ours.numbers("loss"), theirs.numbers("loss"));
        let apart = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs() / b).fold(0.0, f64::max);
        println!("{key}: losses {apart:.1e}");
        // Sums are in another order, and then something is rounded the other way.
        assert!(apart < 1e-3, "{key}: the losses are {apart:e} apart");
    }
}
