//! `trainer.packing`: items that share a row train as items that have rows of their own, and do not see each other.

use mdt_plugin_api::{BatchRows, HostBatch, Item};
use mdt_tests::{Job, LoadedModel, arrays, assert_says, command, example_plugin, families, relative_difference, root};

fn packed(job: Job) -> Job {
    job.set("trainer.packing", "best_fit")
}

fn with_example(job: Job, name: &str) -> Job {
    let library = example_plugin(name);
    job.argument("--plugin-dir").argument(library.parent().expect("a directory").display().to_string())
}

/// Twenty epochs of one update each, which has all rows whatever shares a row with what.
fn epochs_of_one_update() -> Job {
    let job = Job::new().rows(0..24).set("trainer.num_epochs", 20).set("trainer.batch_size", 24);
    job.set("trainer.gradient_accumulation_steps", 1)
}

/// The largest relative difference of one number of all updates.
fn apart(a: &Job, b: &Job, key: &str) -> f64 {
    let (a, b) = (a.numbers(key), b.numbers(key));
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs() / b.abs()).fold(0.0, f64::max)
}

fn weights_apart(a: &Job, b: &Job) -> f64 {
    let weights = |job: &Job| arrays(&job.output().join("final/model.safetensors"));
    let each = weights(a).into_iter().zip(weights(b)).map(|((_, a), (_, b))| relative_difference(&a, &b));
    each.fold(0.0, f64::max)
}

#[test]
fn packed_rows_train_as_rows_of_one_item() {
    let (plain, packed) = (epochs_of_one_update(), packed(epochs_of_one_update()));
    plain.run().success();
    let run = packed.run().success();
    assert_says(&run.stderr, &["24 rows", "packed into", "rows of up to", "padding", "packed rows each"]);
    assert_eq!(packed.numbers("tokens"), plain.numbers("tokens"));
    assert_eq!(packed.numbers("supervised_tokens"), plain.numbers("supervised_tokens"));
    let (loss, grad_norm) = (apart(&packed, &plain, "loss"), apart(&packed, &plain, "grad_norm"));
    let weights = weights_apart(&packed, &plain);
    println!("loss {loss:.1e}, norm of the gradient {grad_norm:.1e}, weights {weights:.1e}");
    assert!(loss <= 2e-6 && grad_norm <= 2e-6 && weights <= 2e-6, "{loss:e} {grad_norm:e} {weights:e}");
}

#[test]
fn a_run_that_resumes_within_an_epoch_of_packed_rows_has_the_same_bits() {
    let job = packed(Job::new()).set("data.shuffle", true).set("trainer.batch_size", 1).set("trainer.num_epochs", 2);
    let job = job.set("checkpoint.save_steps", 3).set("checkpoint.keep", 100);
    job.run().success();
    let (weights, losses) = (job.final_weights(), job.numbers("loss"));
    for directory in std::fs::read_dir(job.output().join("checkpoints")).expect("checkpoints") {
        let directory = directory.expect("an entry").path();
        if directory != job.checkpoint(3) {
            std::fs::remove_dir_all(directory).expect("it was written");
        }
    }
    std::fs::remove_dir_all(job.output().join("final")).expect("it was written");
    assert_says(&job.run().success().stderr, &["resuming from"]);
    assert!(losses.len() > 12, "{losses:?}");
    assert_eq!((job.final_weights(), job.numbers("loss")), (weights, losses));
}

#[test]
fn ranks_train_on_the_packed_rows_of_one_process() {
    let job = |micro_batches: u32| {
        let job = packed(Job::new()).set("data.shuffle", true).set("trainer.batch_size", 2).set("compute.threads", 1);
        job.set("trainer.gradient_accumulation_steps", micro_batches)
    };
    let (one, two) = (job(2), job(1));
    one.run().success();
    let status = command().args(["launch", "-n", "2"]).args(two.arguments()).args(["--set", "comm.use=grpc"]).status();
    assert!(status.is_ok_and(|status| status.success()));
    assert_eq!(one.final_weights(), two.final_weights());
    assert_eq!(one.numbers("loss"), two.numbers("loss"));
}

#[test]
fn layers_that_are_computed_again_for_gradients_change_no_bit_of_packed_rows() {
    let job = |layers: &str| {
        let job = packed(epochs_of_one_update()).set("trainer.max_steps", 3);
        job.set("trainer.checkpoint_activations", layers)
    };
    let (kept, computed_again) = (job("none"), job("all"));
    kept.run().success();
    computed_again.run().success();
    assert_eq!(kept.final_weights(), computed_again.final_weights());
}

#[test]
fn a_student_and_its_teacher_see_packed_rows_alike() {
    let job = || {
        let teacher = root().join("tests/fixtures/training/model");
        let job = epochs_of_one_update().set("trainer.use", "distill").set("model.init", "random");
        job.set("trainer.models.teacher.path", teacher.display()).set("trainer.max_steps", 8)
    };
    let (plain, packed) = (job(), packed(job()));
    plain.run().success();
    packed.run().success();
    let (loss, weights) = (apart(&packed, &plain, "loss"), weights_apart(&packed, &plain));
    println!("distill: loss {loss:.1e}, weights {weights:.1e}");
    assert!(loss <= 2e-6 && weights <= 2e-6, "{loss:e} {weights:e}");
}

#[test]
fn a_trainer_that_lays_items_out_by_itself_is_right_and_not_packed() {
    let job = || epochs_of_one_update().set("trainer.use", "bytes").set("trainer.max_steps", 3);
    let (plain, packed) = (job(), packed(job()));
    plain.run().success();
    packed.run().success();
    let loss = apart(&packed, &plain, "loss");
    assert!(loss <= 2e-6, "{loss:e}");
}

#[test]
fn pairs_are_packed_and_train_as_pairs_of_their_own() {
    let job = || with_example(Job::of(&["dpo/job.toml"]), "dpo").set("trainer.batch_size", 32);
    let job = || job().set("trainer.gradient_accumulation_steps", 1).set("trainer.num_epochs", 8);
    let (plain, packed) = (job(), packed(job()));
    plain.run().success();
    assert_says(&packed.run().success().stderr, &["32 rows", "packed into"]);
    let (loss, weights) = (apart(&packed, &plain, "loss"), weights_apart(&packed, &plain));
    println!("loss {loss:.1e}, weights {weights:.1e}");
    assert!(loss <= 2e-6 && weights <= 2e-6, "{loss:e} {weights:e}");
}

#[test]
fn answers_that_are_drawn_are_packed_when_they_are_known() {
    let job = || with_example(Job::of(&["../../examples/grpo/job.toml"]), "grpo").set("trainer.max_steps", 1);
    let (plain, packed) = (job(), packed(job()));
    plain.run().success();
    packed.run().success();
    for key in ["reward", "answer_tokens", "tokens"] {
        assert_eq!(packed.numbers(key), plain.numbers(key), "{key}");
    }
    let grad_norm = apart(&packed, &plain, "grad_norm");
    assert!(grad_norm <= 2e-6, "{grad_norm:e}");
    assert_ne!(packed.final_weights(), plain.final_weights(), "nothing was packed: the bits are the same");
}

/// Models with attention to all earlier tokens, and within windows that are shorter than the items; of all families.
fn models() -> Vec<(&'static str, LoadedModel)> {
    let llama = LoadedModel::open(&root().join("tests/fixtures/training/model"));
    let families = families::NAMES.into_iter().map(|name| (name, families::open(name)));
    [("llama", llama)].into_iter().chain(families).collect()
}

/// The losses of all trained tokens of these items in rows of so many.
fn losses(model: &LoadedModel, items: &[Item], items_per_row: &[usize]) -> Vec<f32> {
    let items: Vec<&Item> = items.iter().collect();
    let mut batch = HostBatch::default();
    let rows = BatchRows::new(&items, items_per_row).expect("rows");
    batch.add_sequences(&rows, Item::TOKENS).expect("a batch");
    model.trained_losses(&batch, Item::TOKENS)
}

fn items() -> Vec<Item> {
    let item = |(number, length): (u32, usize)| {
        let tokens = (0..length as u32).map(|place| 3 + (number * 31 + place * 7) % 90).collect();
        Item::of(tokens, vec![true; length])
    };
    (0..).zip([12, 17, 9, 20, 14]).map(item).collect()
}

#[test]
fn an_item_of_a_packed_row_has_the_losses_that_it_has_alone() {
    for (name, model) in models() {
        let (alone, packed) = (losses(&model, &items(), &[1; 5]), losses(&model, &items(), &[3, 2]));
        let difference = relative_difference(&packed, &alone);
        println!("{name}: {difference:.1e}");
        assert!(difference <= 1e-6, "{name}: {difference:e}");
    }
}

#[test]
fn a_token_of_one_item_moves_no_bit_of_another_one() {
    for (name, model) in models() {
        let before = losses(&model, &items(), &[3, 2]);
        for changed in 0..5 {
            let mut items = items();
            // Not the last one, which is seen by no other.
            let token = &mut items[changed].sequences[0].tokens[2];
            *token = 3 + (*token + 40) % 90;
            let after = losses(&model, &items, &[3, 2]);
            let mut start = 0;
            for (place, item) in items.iter().enumerate() {
                let own = start..start + item.tokens() - 1;
                let same = before[own.clone()] == after[own.clone()];
                assert_eq!(same, place != changed, "{name}: item {place}, of which item {changed} was changed");
                start = own.end;
            }
        }
    }
}
