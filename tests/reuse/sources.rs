//! A checkpoint, an adapter and an output directory are used as a model's own directory is.

use std::fs;

use mdt_tests::{Job, assert_says, copy_files, root, run};
use serde_json::Value;

use super::{evaluated, job, seen};

/// The kinds of jobs, by what they train.
fn kinds() -> Vec<(&'static str, Job)> {
    vec![
        ("all", job()),
        ("from random weights", job().set("model.init", "random")),
        ("a part", job().set("model.freeze", "[\"*embed_tokens*\", \"*norm*\"]")),
        ("a part of random weights", job().set("model.freeze", "[\"*norm*\"]").set("model.init", "random")),
        ("an adapter", job().set("model.adapter", "lora")),
        ("an adapter beside random weights", job().set("model.adapter", "dora").set("model.init", "random")),
        (
            "an adapter beside quantised weights",
            job().set("model.adapter.modules_to_save", "norm").set("model.quantize", "{ bits = 8, group_size = 32 }"),
        ),
        ("in half precision", job().set("model.adapter", "lora").set("compute.dtype", "bfloat16")),
    ]
}

#[test]
fn a_checkpoint_alone_has_the_loss_that_its_job_saw() {
    for (kind, job) in kinds() {
        job.run().success();
        for update in [2, 4] {
            let checkpoint = job.checkpoint(update).display().to_string();
            assert_eq!(evaluated(&job, &["--model", &checkpoint])["loss"], seen(&job, update), "{kind}, {update}");
        }
        if !kind.contains("adapter") && kind != "in half precision" {
            continue;
        }
        // Its model may be named, too.
        let (checkpoint, base) = (job.checkpoint(4), root().join("tests/fixtures/training/model"));
        let [checkpoint, base] = [checkpoint, base].map(|path| path.display().to_string());
        if !kind.contains("random") {
            let figures = evaluated(&job, &["--model", &base, "--adapter", &checkpoint]);
            assert_eq!(figures["loss"], seen(&job, 4), "{kind}");
        }
    }
}

#[test]
fn an_output_directory_is_its_final_model_or_else_its_newest_checkpoint_which_is_said_once() {
    for (kind, job) in [("all", job()), ("an adapter", job().set("model.adapter", "lora"))] {
        job.run().success();
        let output = job.output().display().to_string();
        let rows = job.directory().join("held-out.jsonl").display().to_string();
        let evaluate = || {
            let of_job = ["--set", "trainer.batch_size=4"];
            run([&["evaluate", "--json", "--data", &rows, "--model", &output][..], &of_job].concat()).success()
        };
        let of_final = evaluate();
        assert_eq!(
            of_final.stderr.matches("is the output of a job: using the final model, ").count(),
            1,
            "{kind}: {}",
            of_final.stderr
        );
        fs::remove_dir_all(job.output().join("final")).expect("the final model");
        let of_newest = evaluate();
        let said = format!("using the newest checkpoint, {}", job.checkpoint(4).display());
        assert_says(&of_newest.stderr, &[&said]);
        let loss = |run: &mdt_tests::Run| serde_json::from_str::<Value>(&run.stdout).expect("JSON")["loss"].clone();
        assert_eq!([loss(&of_final), loss(&of_newest)], [seen(&job, 4), seen(&job, 4)], "{kind}");
        let answer = run(["generate", "--model", &output, "--prompt", "a", "--max-tokens", "4"]).success();
        let named = run([
            "generate",
            "--model",
            &job.checkpoint(4).display().to_string(),
            "--prompt",
            "a",
            "--max-tokens",
            "4",
        ]);
        assert_eq!(answer.stdout, named.success().stdout, "{kind}");
    }
}

#[test]
fn an_adapter_beside_random_weights_ends_as_a_model_of_its_own() {
    let adapters: [&[(&str, &str)]; 4] = [
        &[],
        &[("model.adapter.kind", "dora"), ("checkpoint.export", "best"), ("optimizer.learning_rate", "0.05")],
        &[("model.adapter.modules_to_save", "norm"), ("compute.dtype", "bfloat16")],
        &[("model.quantize", "{ bits = 8, group_size = 32 }")],
    ];
    for settings in adapters {
        let job = job().set("model.init", "random").set("model.adapter.kind", "lora");
        let job = settings.iter().fold(job, |job, (key, value)| job.set(key, value));
        assert_says(&job.run().success().stderr, &["from random weights, which the trained adapter is merged into"]);
        let model = job.output().join("final");
        assert!(!model.join("adapter_config.json").exists());
        let best = |update: &u64| (seen(&job, *update).as_f64().expect("a loss") * 1e9) as u64;
        let update = if settings.len() == 3 { [2, 4].into_iter().min_by_key(best).expect("one") } else { 4 };
        let figures = evaluated(&job, &["--model", &model.display().to_string()]);
        let [own, of_training] = [&figures["loss"], &seen(&job, update)].map(|loss| loss.as_f64().expect("a loss"));
        let apart = (own - of_training).abs() / of_training;
        println!("{settings:?}: {apart:.1e}");
        // Merged in f32, and then rounded in the products.
        let near = if settings.iter().any(|(_, value)| *value == "bfloat16") { 2e-3 } else { 1e-5 };
        assert!(apart < near, "{settings:?}: {own} and {of_training}");
    }
}

#[test]
fn rows_are_as_long_as_in_training_without_its_job_file() {
    let plain = job();
    plain.run().success();
    let all = evaluated(&plain, &["--model", &plain.output().join("final").display().to_string()])["tokens"].clone();
    for (long_rows, adapter) in [("cut", None), ("drop", Some("lora"))] {
        let job = job().set("trainer.max_seq_len", 22).set("trainer.long_rows", long_rows);
        let job = adapter.into_iter().fold(job, |job, kind| job.set("model.adapter", kind));
        job.run().success();
        let tokens =
            job.metrics().into_iter().find_map(|line| line.get("eval_tokens").cloned()).expect("an evaluation");
        assert_ne!(tokens, all, "{long_rows}: the limit means something here");
        for model in [job.output().join("final"), job.checkpoint(4)] {
            let model = model.display().to_string();
            let of_command = evaluated(&job, &["--model", &model, "--set", "trainer.batch_size=4"]);
            assert_eq!((&of_command["tokens"], &of_command["loss"]), (&tokens, &seen(&job, 4)), "{long_rows}");
        }
    }
}

#[test]
fn training_goes_on_from_the_weights_of_a_checkpoint_and_from_its_adapter() {
    for (kind, first) in [("all", job()), ("an adapter", job().set("model.adapter", "lora"))] {
        first.run().success();
        let from = |path: String| {
            let rows = first.directory().join("train.jsonl");
            let held_out = first.directory().join("held-out.jsonl");
            let next = Job::new().set("data.train", rows.display()).set("data.eval", held_out.display());
            let next = next.set("model.path", path).set("trainer.max_steps", 2).set("trainer.eval_at_start", true);
            next.run().success();
            next
        };
        let next = from(first.checkpoint(4).display().to_string());
        assert_eq!(seen(&next, 0), seen(&first, 4), "{kind}");
        let of_final = from(first.output().display().to_string());
        assert_eq!(of_final.unmeasured(), next.unmeasured(), "{kind}: the final model has the same weights");
        assert_eq!(next.output().join("final/adapter_config.json").exists(), kind == "an adapter");
        // What came of a checkpoint is used as everything else is.
        let figures = evaluated(&first, &["--model", &next.checkpoint(2).display().to_string()]);
        assert_eq!(figures["loss"], seen(&next, 2), "{kind}");
        // Again under the same command: nothing to do.
        assert_says(&next.run().success().stderr, &["all 2 updates are done already"]);
    }
}

#[test]
fn a_checkpoint_is_refused_beside_another_model_and_when_it_is_damaged() {
    let job = job().set("model.adapter", "lora");
    let model = job.directory().join("model");
    copy_files(&root().join("tests/fixtures/training/model"), &model);
    let job = job.set("model.path", model.display());
    job.run().success();
    let checkpoint = job.checkpoint(4).display().to_string();
    let generate = || run(["generate", "--model", &checkpoint, "--prompt", "a", "--max-tokens", "2"]);
    generate().success();
    let weights = model.join("model.safetensors");
    let bytes = fs::read(&weights).expect("the weights");
    let mut other = bytes.clone();
    let last = other.len() - 2;
    other[last] ^= 1;
    fs::write(&weights, other).expect("all but a bit of them");
    let refused = generate().failure(4);
    assert_says(&refused, &["beside other weights", &checkpoint, &model.display().to_string(), "checksum"]);
    // Held in another way, they are compared as the job held them.
    let refused =
        run(["generate", "--model", &checkpoint, "--prompt", "a", "--set", "compute.dtype=bfloat16"]).failure(4);
    assert_says(&refused, &["beside other weights"]);
    fs::write(&weights, bytes).expect("the weights");
    run(["generate", "--model", &checkpoint, "--prompt", "a", "--max-tokens", "2", "--set", "compute.dtype=bfloat16"])
        .success();

    fs::rename(&model, job.directory().join("elsewhere")).expect("a directory that can be moved");
    let refused = generate().failure(4);
    assert_says(
        &refused,
        &["the model that a checkpoint was trained from is not there", &model.display().to_string(), "--adapter"],
    );
    fs::rename(job.directory().join("elsewhere"), &model).expect("a directory that can be moved");
    let file = job.checkpoint(4).join("model.safetensors");
    let mut bytes = fs::read(&file).expect("the adapter");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&file, bytes).expect("all but a bit of it");
    assert_says(&generate().failure(7), &["a file of the checkpoint is damaged", "model.safetensors"]);
}

#[test]
fn two_adapters_at_once_are_refused() {
    let job = job().set("model.adapter", "lora");
    job.run().success();
    let checkpoint = job.checkpoint(4).display().to_string();
    let refused = run(["generate", "--model", &checkpoint, "--adapter", &checkpoint, "--prompt", "a"]).failure(2);
    assert_says(&refused, &["one with an adapter", "fuse"]);
}

#[test]
fn answers_of_a_checkpoint_use_the_template_of_its_job() {
    let template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
    let job = job();
    let file = job.file("chat.jinja", template);
    let job = job.set("tokenizer.chat_template", file.display()).set("trainer.max_steps", 2);
    job.run().success();
    let answer = |model: &std::path::Path| {
        let model = model.display().to_string();
        run(["generate", "--model", &model, "--prompt", "How many?", "--max-tokens", "8", "--json"]).success().stdout
    };
    let tokens = |text: String| serde_json::from_str::<Value>(&text).expect("JSON")["prompt_tokens"].clone();
    assert_eq!(tokens(answer(&job.checkpoint(2))), tokens(answer(&job.output().join("final"))));
}

#[test]
fn exact_matches_are_counted_among_the_rows_that_have_an_answer() {
    let job = job();
    job.run().success();
    let model = job.output().display().to_string();
    let figures = evaluated(&job, &["--model", &model, "--exact-match", "--max-tokens", "16"]);
    assert_eq!(figures["compared"], 9);
    let rows = job.directory().join("held-out.jsonl").display().to_string();
    let generated = run(["generate", "--model", &model, "--data", &rows, "--max-tokens", "16", "--json"]).success();
    let generated: Value = serde_json::from_str(&generated.stdout).expect("JSON");
    assert_eq!(figures["exact_match"], generated["exact_match"]);
    let text = run(["evaluate", "--data", &rows, "--model", &model, "--exact-match", "--max-tokens", "4"]).success();
    assert_says(&text.stdout, &["held-out loss ", "exact match ", "% of 9"]);
    let refused = run(["evaluate", "--model", &model, "--exact-match"]).failure(2);
    assert_says(&refused, &["no rows for evaluation"]);
}
