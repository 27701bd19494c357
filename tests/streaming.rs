//! Rows that stream: read while training goes on, in windows, mixed by weight, and resumed to the bit.

use std::fs;

use mdt_tests::{Job, Process, assert_says, command, example_plugin};

/// Six updates per epoch, of which the last has two rows for four, in windows of seven rows.
fn job(updates: u64) -> Job {
    without_end().set("trainer.max_steps", updates)
}

fn without_end() -> Job {
    Job::new()
        .rows(0..22)
        .set("data.shuffle", true)
        .set("data.streaming", true)
        .set("data.shuffle_buffer", 7)
        .set("trainer.batch_size", 2)
        .set("trainer.gradient_accumulation_steps", 2)
        .set("checkpoint.save_steps", 1)
        .set("checkpoint.keep", 0)
}

/// The same job over two files of unequal weight.
fn mixture(updates: u64) -> Job {
    let job = job(updates);
    let rows = fs::read_to_string(job.directory().join("train.jsonl")).expect("the rows of the job");
    let rows: Vec<&str> = rows.lines().collect();
    let [a, b] = [("a.jsonl", &rows[..6]), ("b.jsonl", &rows[6..])]
        .map(|(name, rows)| job.file(name, rows.join("\n")).display().to_string());
    job.set("data.train", format!("[{{ path = \"{a}\", weight = 3 }}, {{ path = \"{b}\" }}]"))
}

#[track_caller]
fn assert_same(a: &Job, b: &Job) {
    assert_eq!(a.unmeasured(), b.unmeasured());
    assert!(a.final_weights() == b.final_weights(), "the final weights differ");
}

#[test]
fn rows_that_stream_through_one_window_train_as_rows_that_are_read_whole() {
    for epochs in [false, true] {
        let [whole, streamed] = [false, true].map(|streaming| {
            let job = if epochs { without_end().set("trainer.num_epochs", 2) } else { job(14) };
            job.set("data.shuffle_buffer", 22).set("data.streaming", streaming)
        });
        whole.run().success();
        let run = streamed.run().success();
        assert_says(&run.stderr, &["streamed; shuffled in windows of 22 rows"]);
        let without_epochs = |job: &Job| {
            let mut lines = job.unmeasured();
            lines.iter_mut().for_each(|line| drop(line.as_object_mut().map(|line| line.remove("epoch"))));
            lines
        };
        assert_eq!(without_epochs(&whole), without_epochs(&streamed));
        assert!(whole.final_weights() == streamed.final_weights());
    }
}

#[test]
fn every_row_of_a_pass_is_trained_once_in_another_order_in_each() {
    let job = job(12);
    job.run().success();
    let tokens = job.numbers("supervised_tokens");
    let (first, second) = tokens.split_at(6);
    assert_eq!(first.iter().sum::<f64>(), second.iter().sum::<f64>());
    assert_ne!(first, second);
    let whole = self::job(12).set("data.streaming", false);
    whole.run().success();
    assert_eq!(whole.numbers("supervised_tokens")[..6].iter().sum::<f64>(), first.iter().sum::<f64>());
}

#[test]
fn a_streamed_run_that_was_stopped_anywhere_ends_with_the_same_bits() {
    for make in [job, mixture] {
        let straight = make(14);
        straight.run().success();
        for stop in [1, 3, 6, 7, 12, 13] {
            let stopped = make(14);
            mdt_tests::copy_files(&straight.output(), &stopped.output());
            for update in 1..=stop {
                let name = format!("checkpoints/step-{update:06}");
                mdt_tests::copy_files(&straight.output().join(&name), &stopped.output().join(&name));
            }
            let run = stopped.run().success();
            assert_says(&run.stderr, &[&format!("step-{stop:06}")]);
            assert_same(&straight, &stopped);
        }
    }
}

#[test]
fn several_ranks_read_one_order_and_take_their_rows() {
    for make in [job, mixture] {
        let alone = make(9).set("compute.threads", 1);
        alone.run().success();
        let together = make(9).set("compute.threads", 1).set("trainer.gradient_accumulation_steps", 1);
        let mut launch = command();
        launch.args(["launch", "-n", "2"]).args(together.arguments()).args(["--set", "comm.use=grpc"]);
        Process::start(&mut launch).end().success();
        assert_same(&alone, &together);
    }
}

#[test]
fn training_begins_before_the_rows_are_read() {
    let job = job(20);
    let rows = fs::read_to_string(job.directory().join("train.jsonl")).expect("the rows of the job");
    let file = job.file("bad.jsonl", format!("{0}\n{0}\n{{\"prompt\": 1}}\n", rows.trim_end())).display().to_string();
    let job = job.set("data.train", &file);
    assert_says(&job.run().failure(4), &["`completion`", &file, "line 45"]);
    assert!(job.updates().len() >= 5, "{} updates", job.updates().len());
}

#[test]
fn the_rows_of_a_mixture_come_by_weight() {
    let row = |answer: &str| format!("{{\"prompt\": \"a \", \"completion\": \"{answer}\"}}\n").repeat(5);
    let trained = |job: Job| {
        job.run().success();
        job.numbers("supervised_tokens").iter().sum::<f64>() / (4 * job.updates().len()) as f64
    };
    let job = mixture(100);
    let files = [("a.jsonl", "b"), ("b.jsonl", "b c d e f g")].map(|(name, answer)| job.file(name, row(answer)));
    let [a, b] = files.map(|file| trained(self::job(1).set("data.train", file.display())));
    let share = (b - trained(job)) / (b - a);
    assert!((share - 0.75).abs() < 0.06, "{share} of the rows are of the source with weight 3 of 4");
}

#[test]
fn rows_held_out_of_a_stream_are_never_trained() {
    let [whole, streamed] = [false, true].map(|streaming| {
        job(12).set("data.shuffle_buffer", 30).set("data.eval_split", 4).set("data.streaming", streaming)
    });
    let runs = [whole.run().success(), streamed.run().success()];
    assert_says(&runs[0].stderr, &["18 of 22 rows", "held out 4 of 22 rows"]);
    assert_says(&runs[1].stderr, &["; 4 rows held out", "held out 4 rows"]);
    assert!(whole.final_weights() == streamed.final_weights());
    let losses = |job: &Job| job.metrics().iter().filter_map(|line| line["eval_loss"].as_f64()).next_back();
    assert_eq!(losses(&whole), losses(&streamed));
}

#[test]
fn a_row_that_is_dropped_leaves_an_empty_place_and_moves_no_other() {
    let row = |answer: &str| format!("{{\"prompt\": \"ab\", \"completion\": \"{answer}\"}}\n");
    let long = format!("{{\"prompt\": \"{}\", \"completion\": \"c\"}}\n", "a".repeat(100));
    let rows = [row("c"), long, row("dd"), row("eee"), row("ffff")].concat();
    for streaming in [false, true] {
        let job = Job::new();
        let file = job.file("rows.jsonl", &rows).display().to_string();
        let job = job
            .set("data", format!("{{ train = \"{file}\", shuffle = false, streaming = {streaming} }}"))
            .set("trainer", "{ batch_size = 1, gradient_accumulation_steps = 1, max_steps = 5 }");
        let run = job.run().success();
        assert_says(&run.stderr, &["dropped with nothing to train"]);
        assert_eq!(job.numbers("supervised_tokens"), [2.0, 0.0, 3.0, 4.0, 5.0]);
        assert!(job.updates()[1]["loss"].is_null());
        // The batch that it is in has the other row alone.
        let pairs = job.set("trainer", "{ batch_size = 2, max_steps = 3 }");
        pairs.run_with(&["--set", "checkpoint.resume=never"]).success();
        assert_eq!(pairs.numbers("supervised_tokens"), [2.0, 7.0, 5.0]);
    }
}

#[test]
fn bucketing_pads_less_and_trains_the_same_rows() {
    let [plain, bucketed] = [false, true].map(|bucketing| {
        Job::new().set("data.shuffle", true).set("trainer.bucketing", bucketing).set("checkpoint.save_steps", 4)
    });
    let padding = |job: &Job| {
        let run = job.run_with(&["data", "preview", "--json", "--rows", "0"]).success();
        let totals: serde_json::Value = serde_json::from_str(&run.stdout).expect("JSON");
        totals["totals"]["padding_share"].as_f64().expect("a share")
    };
    assert!(padding(&bucketed) < 0.5 * padding(&plain), "{} of {}", padding(&bucketed), padding(&plain));
    let runs = [&plain, &bucketed].map(|job| {
        job.run().success();
        job.numbers("tokens").iter().sum::<f64>()
    });
    assert_eq!(runs[0], runs[1]);
    for (key, value) in [("trainer.bucketing", "true"), ("trainer.packing", "best_fit")] {
        let failure = job(4).set(key, value).run().failure(2);
        assert_says(&failure, &[&format!("`{key}`"), "stream"]);
    }
}

#[test]
fn data_preview_shows_the_first_rows_of_a_stream() {
    let run = job(5).run_with(&["data", "preview"]).success();
    assert_says(&run.stderr, &["these are totals of the first 7"]);
    assert!(!run.stdout.contains("updates "), "{}", run.stdout);
}

#[test]
fn another_file_or_weight_is_other_data() {
    let job = mixture(4);
    job.run().success();
    fs::remove_dir_all(job.checkpoint(4)).expect("a checkpoint");
    fs::remove_dir_all(job.output().join("final")).expect("a final model");
    let names = ["a.jsonl", "b.jsonl"].map(|name| job.directory().join(name).display().to_string());
    let job = job.set("data.train", format!("[{{ path = \"{}\", weight = 2 }}, \"{}\"]", names[0], names[1]));
    assert_says(&job.run().failure(2), &["the training data has changed"]);
}

/// The plugin is built by itself, as its author would build it.
#[test]
fn a_run_on_the_mixture_plugin_that_was_killed_ends_with_the_bits_of_one_that_was_not() {
    let plugin = example_plugin("mixture");
    let make = || {
        let job = job(60);
        let plugins = job.directory().join("plugins");
        fs::create_dir_all(&plugins).expect("a directory for plugins");
        fs::copy(&plugin, plugins.join(plugin.file_name().expect("a name"))).expect("a copy");
        let job = job.argument("--plugin-dir").argument(plugins.display().to_string());
        let rows = fs::read_to_string(job.directory().join("train.jsonl")).expect("the rows of the job");
        let rows: Vec<&str> = rows.lines().collect();
        job.file("a.jsonl", rows[..6].join("\n"));
        job.file("b.jsonl", rows[6..].join("\n"));
        let directory = job.directory().display().to_string();
        let weights = "{ \"a.jsonl\" = 3, \"b.jsonl\" = 1 }";
        job.set("data", format!("{{ use = \"mixture\", train = \"{directory}\", weights = {weights} }}"))
    };
    let straight = make();
    assert_says(&straight.run().success().stderr, &["data mixture 0.1.0", "streamed"]);
    let killed = make();
    for lines in [5, 30] {
        let mut run = killed.start();
        run.wait_until(|| killed.lines_so_far() >= lines);
        run.kill();
        drop(run.end());
    }
    killed.run().success();
    assert_same(&straight, &killed);
}
