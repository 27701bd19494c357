//! What an optimizer can ask for beyond slices of f32: states of other shapes and types, updates on the device, other
//! weights for evaluation, rates of groups. All of it through kill and resume, to the same bits.

use std::collections::BTreeMap;
use std::fs;

use mdt_tests::{Job, arrays, assert_says, root, run_where};
use safetensors::{Dtype, SafeTensors};

/// Types and shapes of a checkpoint's optimizer states, by name.
fn states(job: &Job, update: u64) -> BTreeMap<String, (Dtype, Vec<usize>)> {
    let bytes = fs::read(job.checkpoint(update).join("optimizer.safetensors")).expect("states");
    let tensors = SafeTensors::deserialize(&bytes).expect("a safetensors file").tensors();
    tensors.into_iter().map(|(name, view)| (name, (view.dtype(), view.shape().to_vec()))).collect()
}

/// Four updates in one run, and a run that is killed after the second's checkpoint and goes on from there.
fn resumes_to_the_same_bits(job: impl Fn() -> Job) -> Job {
    let job = || job().set("trainer.max_steps", 4).set("checkpoint.save_steps", 2);
    let whole = job();
    whole.run().success();
    let broken = job();
    let mut process = broken.start();
    process.wait_until(|| broken.checkpoint(2).exists());
    // Dropped, it is killed.
    drop(process);
    fs::remove_dir_all(broken.checkpoint(4)).ok();
    fs::remove_dir_all(broken.output().join("final")).ok();
    assert_says(&broken.run().success().stderr, &["resuming from", "step-000002"]);
    assert!(broken.final_weights() == whole.final_weights(), "the weights differ");
    let file = |job: &Job| fs::read(job.checkpoint(4).join("optimizer.safetensors")).expect("states");
    assert!(file(&broken) == file(&whole), "the states differ");
    assert_eq!(broken.unmeasured(), whole.unmeasured());
    whole
}

fn job(optimizer: &str) -> Job {
    Job::new().set("optimizer", optimizer).set("optimizer.learning_rate", 1e-2)
}

#[test]
fn factored_states_are_resumed_to_the_same_bits() {
    let states = states(&resumes_to_the_same_bits(|| job("factored")), 2);
    let of = |name: &str| states[&format!("model.layers.0.mlp.down_proj.weight.{name}")].clone();
    assert_eq!((of("rows").1.len(), of("columns").1.len(), of("count")), (1, 1, (Dtype::U64, vec![1])));
    assert!(states.values().any(|(dtype, _)| *dtype == Dtype::F64));
}

#[test]
fn states_in_bf16_and_f16_are_resumed_to_the_same_bits() {
    let states = states(&resumes_to_the_same_bits(|| job("half")), 2);
    assert!(states.iter().all(|(name, (dtype, _))| match name.ends_with(".mean") {
        true => *dtype == Dtype::F16,
        false => *dtype == Dtype::BF16,
    }));
}

#[test]
fn states_of_8_bits_with_scales_of_blocks_are_resumed_to_the_same_bits() {
    let states = states(&resumes_to_the_same_bits(|| job("blocks")), 2);
    for (name, (dtype, shape)) in &states {
        match name.strip_suffix(".scale") {
            None => assert_eq!(*dtype, Dtype::U8),
            Some(parameter) => {
                let elements: usize = states[&format!("{parameter}.momentum")].1.iter().product();
                assert_eq!((*dtype, shape.as_slice()), (Dtype::F32, &[elements.div_ceil(24)][..]));
            }
        }
    }
}

#[test]
fn weights_for_evaluation_are_exported_and_checkpoints_keep_those_that_are_trained() {
    let job = resumes_to_the_same_bits(|| job("average").set("data.eval", HELD_OUT).set("trainer.eval_steps", 1));
    let trained = arrays(&job.checkpoint(4).join("model.safetensors"));
    let states: BTreeMap<_, _> = arrays(&job.checkpoint(4).join("optimizer.safetensors")).into_iter().collect();
    let exported: BTreeMap<_, _> = arrays(&job.output().join("final/model.safetensors")).into_iter().collect();
    let mut differs = false;
    for (name, trained) in trained {
        let (z, exported) = (&states[&format!("{name}.z")], &exported[&name]);
        let expected = trained.iter().zip(z).map(|(y, z)| y + (1.0 - 1.0 / 0.9f32) * (z - y));
        assert!(expected.eq(exported.iter().copied()), "{name}");
        differs |= trained != *exported;
    }
    assert!(differs);
}

#[test]
fn the_best_weights_for_evaluation_are_exported_and_have_the_loss_that_was_best() {
    let job = |resume: &str| {
        let job = job("average").set("data.eval", HELD_OUT).set("trainer.eval_steps", 1).set("trainer.max_steps", 6);
        // So large that the loss rises in the end.
        job.set("optimizer.learning_rate", 2.0).set("checkpoint.export", "best").set("checkpoint.resume", resume)
    };
    let first = job("never");
    first.run().success();
    let losses: Vec<(u64, f64)> =
        first.metrics().iter().filter_map(|line| Some((line["step"].as_u64()?, line["eval_loss"].as_f64()?))).collect();
    let (best, loss) = losses.iter().copied().min_by(|a, b| a.1.total_cmp(&b.1)).expect("evaluations");
    assert!(best < 6, "{losses:?}");
    // The exported model, evaluated before any update.
    let again = Job::new()
        .set("model.path", first.output().join("final").display())
        .set("data.eval", HELD_OUT)
        .set("trainer.eval_at_start", true)
        .set("trainer.max_steps", 1);
    again.run().success();
    assert_eq!(again.metrics()[0]["eval_loss"].as_f64(), Some(loss));
}

const HELD_OUT: &str = "tests/fixtures/training/train.jsonl";

#[test]
fn updates_on_the_device_are_resumed_to_the_same_bits_with_shared_memory_and_without() {
    let runs = [true, false].map(|shared| {
        let job = resumes_to_the_same_bits(|| job("device").set("compute.shared_memory", shared));
        (job.final_weights(), states(&job, 4))
    });
    assert!(runs[0] == runs[1], "sharing memory changes the bits");
    assert!(runs[0].1.values().any(|(dtype, _)| *dtype == Dtype::I32));
}

/// The bytes that each update of a job copied to the device and from it.
fn staged(job: &Job) -> Vec<[u64; 2]> {
    let stderr = run_where(&[("MDT_LOG", "debug")], job.arguments()).success().stderr;
    let numbers = |line: &str| {
        let (update, rest) = line.split_once(" bytes copied to the device, ")?;
        let (from, _) = rest.split_once(" bytes from it")?;
        Some([update.rsplit(' ').next()?.parse().ok()?, from.parse().ok()?])
    };
    stderr.lines().filter_map(numbers).collect()
}

#[test]
fn without_a_collective_an_update_on_the_device_copies_batches_and_scalars_whatever_the_size_of_the_model() {
    let small = |job: Job| job.set("trainer.max_steps", 2).set("compute.shared_memory", false);
    for optimizer in ["device", "device_and_slices"] {
        let staged = staged(&small(job(optimizer)));
        assert_eq!(staged.len(), 2);
        // Two micro-batches: for each a loss, its weight and whether the gradient is finite; for the update, its norm.
        assert!(staged.iter().all(|&[_, to_host]| to_host < 100), "{staged:?}");
        assert!(staged.iter().all(|&[to_device, _]| to_device < 20_000), "{staged:?}");
    }
    let on_slices = staged(&small(job("sgd")));
    let model = fs::metadata(root().join("tests/fixtures/training/model/model.safetensors")).expect("the model").len();
    assert!(on_slices.iter().all(|&[_, to_host]| to_host > model), "{on_slices:?}");
}

#[test]
fn slices_are_staged_where_the_device_does_not_share_its_memory_and_give_the_same_bits() {
    for optimizer in ["adamw", "blocks", "average"] {
        let weights = [true, false].map(|shared| {
            let job = job(optimizer).set("trainer.max_steps", 3).set("compute.shared_memory", shared);
            job.run().success();
            (job.final_weights(), job.numbers("loss"))
        });
        assert!(weights[0] == weights[1], "{optimizer}");
    }
}

#[test]
fn updates_on_the_device_follow_those_on_slices() {
    let run = |optimizer: &str, momentum: &[&str]| {
        let job = job(optimizer).set("optimizer.weight_decay", 0);
        let keys = momentum.iter().flat_map(|key| ["--set", key]).collect::<Vec<_>>();
        job.run_with(&keys).success();
        (job.numbers("loss"), job.numbers("grad_norm"))
    };
    let (device, slices) = (run("device_and_slices", &[]), run("sgd", &["optimizer.momentum=0.9"]));
    for (ours, theirs) in device.0.iter().chain(&device.1).zip(slices.0.iter().chain(&slices.1)) {
        assert!((ours - theirs).abs() <= 1e-4 * theirs.abs(), "{ours} and {theirs}");
    }
}

#[test]
fn an_update_on_the_device_that_is_none_is_one_error_that_names_the_optimizer_and_the_parameter() {
    for (by, says) in [
        ("shape", "an update made a parameter of float32 and shape []"),
        ("states", "an update gave 0 states back, not 1"),
        ("dtype", "an update made a state of float16"),
        ("panic", "three is too much for this device"),
    ] {
        let failure = job("device_faults").set("optimizer.by", by).run().failure(3);
        assert_says(&failure, &[says, "update 3", "optimizer device_faults"]);
    }
}

#[test]
fn groups_have_their_own_rate_and_decay_and_a_pattern_that_matches_nothing_is_an_error() {
    let groups = |rate: f64| {
        let groups = format!("[{{ match = [\"*norm*\"], learning_rate = {rate:?}, weight_decay = 0 }}]");
        let job = job("adamw").set("optimizer.weight_decay", 0.1).set("trainer.max_steps", 2);
        job.set("optimizer.groups", groups)
    };
    let frozen = groups(0.0);
    frozen.run().success();
    let trained = groups(1e-3);
    trained.run().success();
    let before: BTreeMap<_, _> =
        arrays(&root().join("tests/fixtures/training/model/model.safetensors")).into_iter().collect();
    for (name, after) in arrays(&frozen.output().join("final/model.safetensors")) {
        assert_eq!(after == before[&name], name.contains("norm"), "{name}");
    }
    for (name, after) in arrays(&trained.output().join("final/model.safetensors")) {
        assert!(after != before[&name], "{name}");
    }
    let failure = job("adamw").set("optimizer.groups", "[{ match = [\"*layernrm*\"] }]").run().failure(2);
    assert_says(&failure, &["the pattern \"*layernrm*\" in `optimizer.groups` matches no parameter of the model"]);
}

#[test]
fn a_rate_that_overflows_typed_states_ends_before_they_are_saved() {
    let failure = job("half").set("optimizer.learning_rate", "1e38").run().failure(6);
    assert_says(&failure, &["not finite"]);
}
