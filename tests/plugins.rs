//! Plugins of other authors in real runs, and what `plugin list` and `plugin inspect` say of plugins.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use mdt_tests::{Job, assert_says, example_plugin, library, library_name, patched, root, run, run_where};
use serde_json::{Value, json};

/// A job that looks first into a directory into which an author's plugin was dropped.
fn job_with(plugin: &Path) -> Job {
    let job = Job::new();
    let plugins = job.directory().join("plugins");
    drop_into(&plugins, plugin);
    job.argument("--plugin-dir").argument(plugins.display().to_string())
}

fn drop_into(directory: &Path, plugin: &Path) {
    fs::create_dir_all(directory).expect("a directory for plugins");
    fs::copy(plugin, directory.join(plugin.file_name().expect("a name"))).expect("a copy");
}

fn json_of(arguments: &[&str]) -> Value {
    serde_json::from_str(&run(arguments).success().stdout).expect("JSON")
}

/// `config show --json` of a job with further arguments.
fn shown(job: &Job, more: &[&str]) -> Value {
    let more: Vec<_> = more.iter().chain(&["config", "show", "--json"]).copied().collect();
    serde_json::from_str(&job.run_with(&more).success().stdout).expect("JSON")
}

/// A file of configuration with every key of AdamW's.
fn adamw(job: &Job) -> String {
    let text = "[optimizer]\nuse = \"adamw\"\nlearning_rate = 2e-3\nbeta1 = 0.8\nbeta2 = 0.95\neps = 1e-7\n";
    job.file("adamw.toml", text).display().to_string()
}

#[test]
fn lion_takes_over_an_adamw_configuration_and_the_loss_falls() {
    let job = job_with(&example_plugin("lion"));
    let config = adamw(&job);
    let lion = ["--config", &config, "--set", "optimizer=lion"];

    let values = shown(&job, &lion);
    assert_eq!(values["values"]["optimizer.use"], json!({ "value": "lion", "from": "--set optimizer" }));
    let place = |line| format!("{config}:{line}");
    // What the host owns and what both optimizers know stays; what Lion does not know is dropped and shown.
    assert_eq!(values["values"]["optimizer.learning_rate"], json!({ "value": 2e-3, "from": place(3) }));
    assert_eq!(values["values"]["optimizer.beta1"], json!({ "value": 0.8, "from": place(4) }));
    assert_eq!(values["values"].get("optimizer.eps"), None);
    let dropped = json!({ "key": "optimizer.eps", "value": 1e-7, "from": place(6), "unknown_to": "lion" });
    assert_eq!(values["dropped"], json!([dropped]));
    let line = format!("dropped optimizer.eps = 1e-7 ({}): `lion` has no such key", place(6));
    let text = job.run_with(&[&lion[..], &["config", "show"]].concat()).success().stdout;
    assert_says(&text, &[&line]);

    let run = job.run_with(&[&lion[..], &["--set", "optimizer.learning_rate=1e-3"]].concat()).success();
    assert_says(&run.stderr, &[&line, "optimizer lion 0.1.0"]);
    let losses = job.numbers("loss");
    assert_eq!(losses.len(), 20);
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    assert!(mean(&losses[15..]) < 0.8 * mean(&losses[..5]), "{losses:?}");
}

/// `examples/lion_c`, built into this directory.
fn lion_in_c(directory: &Path) -> PathBuf {
    let file = directory.join(library_name("lion_c"));
    let compiled = Command::new("cc")
        .args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-O2", "-ffp-contract=off", "-shared", "-fPIC", "-I"])
        .arg(root().join("plugin-api/include"))
        .arg(root().join("examples/lion_c/lion.c"))
        .args(["-lm", "-o"])
        .arg(&file)
        .status();
    assert!(compiled.is_ok_and(|status| status.success()), "examples/lion_c does not build");
    file
}

#[test]
fn lion_in_c_gives_the_bits_of_lion_in_rust() {
    let place = Job::new();
    let file = lion_in_c(place.directory());
    let run = |plugin: &Path, id: &str| {
        let job = job_with(plugin).set("optimizer", id).set("optimizer.beta1", 0.8);
        job.run().success();
        (job.numbers("loss"), job.final_weights())
    };
    let (c, rust) = (run(&file, "lion-c"), run(&example_plugin("lion"), "lion"));
    assert_eq!(c.0, rust.0);
    assert!(c.1 == rust.1, "the models differ");
    let failure = job_with(&file).set("optimizer", "lion-c").set("optimizer.beta3", 1).run().failure(2);
    assert_says(&failure, &["unknown key `optimizer.beta3`"]);
}

#[test]
fn a_component_of_a_kind_from_the_future_is_listed_and_passed_over() {
    let job = Job::new();
    let plugins = job.directory().join("plugins");
    fs::create_dir_all(&plugins).expect("a directory");
    let newer = patched(&lion_in_c(job.directory()), "optimizer", "evaluator");
    fs::write(plugins.join(library_name("newer")), newer).expect("a plugin");
    let job = job.argument("--plugin-dir").argument(plugins.display().to_string());
    job.run().success();
    assert_says(&job.run_with(&["plugin", "list"]).success().stdout, &["evaluator", "lion-c"]);
}

#[test]
fn sgd_takes_over_an_adamw_configuration_and_the_loss_falls() {
    let job = Job::new();
    let config = adamw(&job);
    let sgd = ["--config", &config, "--set", "optimizer=sgd"];

    let values = shown(&job, &sgd);
    assert_eq!(values["values"]["optimizer.use"], json!({ "value": "sgd", "from": "--set optimizer" }));
    assert_eq!(values["values"]["optimizer.learning_rate"]["value"], 2e-3);
    for (key, default) in [("momentum", json!(0.0)), ("dampening", json!(0.0)), ("nesterov", json!(false))] {
        assert_eq!(values["values"][format!("optimizer.{key}")]["value"], default, "{key}");
    }
    let dropped = values["dropped"].as_array().expect("a list").iter().map(|dropped| &dropped["key"]);
    assert_eq!(dropped.collect::<Vec<_>>(), ["optimizer.beta1", "optimizer.beta2", "optimizer.eps"]);

    let keys = ["optimizer.learning_rate=0.1", "optimizer.momentum=0.9", "optimizer.nesterov=true"];
    let keys = keys.map(|key| ["--set", key]).concat();
    assert_says(&job.run_with(&[&sgd[..], &keys].concat()).success().stderr, &["optimizer sgd 0.1.0"]);
    let losses = job.numbers("loss");
    assert_eq!(losses.len(), 20);
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    assert!(mean(&losses[15..]) < 0.8 * mean(&losses[..5]), "{losses:?}");
}

#[test]
fn keys_that_sgd_cannot_work_with_are_refused_by_name() {
    let failure = Job::new().set("optimizer", "sgd").set("optimizer.nesterov", true).run().failure(2);
    assert_says(&failure, &["nesterov needs a momentum above 0", "optimizer.nesterov"]);
}

#[test]
fn switching_back_finds_every_key_where_it_was() {
    let job = job_with(&example_plugin("lion"));
    let config = adamw(&job);
    let lion = job.file("lion.toml", "optimizer = \"lion\"\n").display().to_string();
    let straight = shown(&job, &["--config", &config, "--set", "optimizer=adamw"]);
    let there_and_back = shown(&job, &["--config", &config, "--config", &lion, "--set", "optimizer=adamw"]);
    assert_eq!(there_and_back, straight);
    assert_eq!(straight["values"]["optimizer.eps"]["value"], 1e-7);
    assert_eq!(straight["dropped"], json!([]));
}

#[test]
fn a_misspelt_key_of_the_optimizer_that_is_left_is_an_error_not_dropped() {
    let job = job_with(&example_plugin("lion"));
    let config = job.file("adamw.toml", "[optimizer]\nuse = \"adamw\"\nepsi = 1e-7\n").display().to_string();
    let failure = job.run_with(&["--config", &config, "--set", "optimizer=lion"]).failure(2);
    assert_says(&failure, &["unknown key `optimizer.epsi`", &format!("{config}:3"), "did you mean `optimizer.eps`?"]);
    // A key in the layer that chooses Lion is meant for Lion.
    let failure = job.run_with(&["--set", "optimizer=lion", "--set", "optimizer.eps=1e-7"]).failure(2);
    assert_says(&failure, &["unknown key `optimizer.eps`", "--set optimizer.eps"]);
}

#[test]
fn lion_in_the_users_directory_is_found_by_its_name() {
    let job = Job::new().set("optimizer", "lion").set("trainer.max_steps", 2);
    let data = job.directory().join("data");
    drop_into(&data.join("mdt/plugins"), &example_plugin("lion"));
    let data = data.display().to_string();
    let run = run_where(&[("XDG_DATA_HOME", &data)], job.arguments()).success();
    assert_says(&run.stderr, &["optimizer lion 0.1.0"]);
    let list = run_where(&[("XDG_DATA_HOME", &data)], ["plugin", "list"]).success().stdout;
    let line = list.lines().find(|line| line.contains(" lion ")).expect("a line for it");
    assert_says(line, &["optimizer", "0.1.0", &data, "(user)"]);
}

#[test]
fn a_resumed_lion_is_bit_equal_to_one_that_never_stopped() {
    let library = example_plugin("lion");
    assert_resumes_to_the_same_bits(|| job_with(&library).set("optimizer", "lion"), "lion");
}

#[test]
fn a_resumed_sgd_is_bit_equal_to_one_that_never_stopped_with_momentum_and_without() {
    for momentum in [0.0, 0.9] {
        let sgd = || Job::new().set("optimizer", "sgd").set("optimizer.momentum", momentum);
        assert_resumes_to_the_same_bits(|| sgd().set("optimizer.dampening", 0.5), "sgd");
    }
}

/// Four updates in one run, and two in a run that goes on from the checkpoint after two.
fn assert_resumes_to_the_same_bits(job: impl Fn() -> Job, optimizer: &str) {
    let job = || job().set("trainer.max_steps", 4).set("checkpoint.save_steps", 2);
    let whole = job();
    whole.run().success();
    let broken = job();
    broken.run().success();
    let saved = broken.checkpoint(2);
    fs::remove_dir_all(broken.checkpoint(4)).expect("the last checkpoint");
    fs::remove_dir_all(broken.output().join("final")).expect("the final model");
    assert!(fs::read_to_string(saved.join("state.json")).expect("a state").contains(optimizer));
    assert_says(&broken.run().success().stderr, &["resuming from", "step-000002"]);
    assert!(broken.final_weights() == whole.final_weights());
    assert_eq!(broken.unmeasured(), whole.unmeasured());
}

#[test]
fn a_data_plugin_is_found_by_the_extension_of_its_files_and_trains_as_the_same_rows_in_json() {
    let turns = |number: usize| (format!("Shout {number}"), "HEY".repeat(1 + number % 3));
    let (mut transcript, mut json) = (String::new(), String::new());
    for (question, answer) in (0..160).map(turns) {
        transcript += &format!("User: {question}\nBot: {answer}\n\n");
        let messages = json!([{"role": "user", "content": question}, {"role": "assistant", "content": answer}]);
        json += &format!("{}\n", json!({ "messages": messages }));
    }
    let job = job_with(&example_plugin("transcript"));
    let file = job.file("train.transcript", &transcript);
    let job = job.set("data.train", file.display());
    let run = job.run().success();
    assert_says(&run.stderr, &["data transcript 0.1.0", "160 rows"]);
    let reference = Job::new();
    let file = reference.file("train.jsonl", json);
    let reference = reference.set("data.train", file.display());
    assert_says(&reference.run().success().stderr, &["data jsonl 0.1.0"]);
    assert!(job.final_weights() == reference.final_weights());
    let (losses, file) = (job.numbers("loss"), job.file("bad.transcript", transcript + "Cat: Meow\n"));
    assert!(losses[19] < 0.8 * losses[0], "{losses:?}");

    let bad = job.set("data.train", file.display());
    let failure = bad.run_with(&["--set", "checkpoint.resume=never"]).failure(4);
    assert_says(&failure, &["\"Cat\" is none of the speakers", "bad.transcript", "line 481", "data transcript"]);
    let skip = ["--set", "checkpoint.resume=never", "--set", "data.on_bad_row=skip"];
    assert_says(&bad.run_with(&skip).success().stderr, &["160 rows", "1 bad row skipped", "row 481"]);
}

#[test]
fn an_earlier_directory_shadows_a_later_one_and_the_list_shows_it() {
    let job = Job::new();
    let plugins = job.directory().join("plugins");
    drop_into(&plugins, &library("mdt_optim"));
    let nearer = plugins.join(library_name("mdt_optim")).display().to_string();
    let directory = plugins.display().to_string();

    let list = json_of(&["plugin", "list", "--json", "--plugin-dir", &directory]);
    let rows: Vec<_> =
        list["components"].as_array().expect("a list").iter().filter(|row| row["id"] == "adamw").collect();
    let [first, second] = rows[..] else { panic!("{rows:?}") };
    assert_eq!((&first["file"], &first["tier"]), (&json!(nearer), &json!("--plugin-dir")));
    assert_eq!(first["shadowed_by"], Value::Null);
    assert_eq!((&second["tier"], &second["shadowed_by"]), (&json!("beside the program"), &json!(nearer)));
    let text = run(["plugin", "list", "--plugin-dir", &directory]).success().stdout;
    assert_says(&text, &[&format!("shadowed by {nearer}"), "(--plugin-dir)", "(beside the program)"]);
    let described = json_of(&["plugin", "inspect", "adamw", "--json", "--plugin-dir", &directory]);
    assert_eq!(described[0]["file"], nearer);
}

#[test]
fn inspecting_a_plugin_shows_its_keys_with_defaults_and_where_it_is_from() {
    let lion = example_plugin("lion");
    let directory = lion.parent().expect("a directory").display().to_string();
    let described = json_of(&["plugin", "inspect", "lion", "--json", "--plugin-dir", &directory]);
    let [lion] = described.as_array().expect("a list").as_slice() else { panic!("{described}") };
    for (key, value) in [("kind", "optimizer"), ("id", "lion"), ("package", "lion"), ("license", "MIT")] {
        assert_eq!(lion[key], value);
    }
    assert_eq!(lion["sha256"].as_str().map(str::len), Some(64));
    let properties = &lion["schema"]["properties"];
    assert_eq!((&properties["beta1"]["default"], &properties["beta2"]["default"]), (&json!(0.9), &json!(0.99)));
    assert_says(properties["beta2"]["description"].as_str().expect("text"), &["Decay of the momentum"]);
    assert_eq!(properties.as_object().map(serde_json::Map::len), Some(2));

    for name in ["optimizer/lion", &library_name("lion")] {
        let text = run(["plugin", "inspect", name, "--plugin-dir", &directory]).success().stdout;
        assert_says(&text, &["optimizer lion", "beta1 = 0.9", "beta2 = 0.99", "optimizer.slices/1"]);
    }
    let failure = run(["plugin", "inspect", "tiger"]).failure(3);
    assert_says(&failure, &["no plugin or component is called `tiger`", "plugin list"]);
}

#[test]
fn every_built_in_component_is_listed_and_can_be_inspected() {
    let list = json_of(&["plugin", "list", "--json"]);
    let names: Vec<_> =
        list["components"].as_array().expect("a list").iter().map(|row| (&row["kind"], &row["id"])).collect();
    for (kind, id) in [
        ("compute", "mlx"),
        ("model", "llama"),
        ("tokenizer", "huggingface"),
        ("trainer", "sft"),
        ("optimizer", "adamw"),
        ("optimizer", "sgd"),
        ("data", "jsonl"),
        ("comm", "local"),
    ] {
        assert!(names.contains(&(&json!(kind), &json!(id))), "{kind} {id}: {names:?}");
        let described = json_of(&["plugin", "inspect", &format!("{kind}/{id}"), "--json"]);
        assert!(described[0]["schema"]["properties"].is_object() || described[0]["schema"]["type"] == "object");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn matrix_products_of_mlx_do_not_reach_the_reference_blas() {
    // The reference BLAS, which MLX's wheel brings along, has the same functions and takes seven times as long.
    let place = tempfile::tempdir().expect("a directory");
    let log = place.path().join("log");
    let job = Job::new().set("trainer.max_steps", 1);
    let mut command = mdt_tests::command();
    command.args(job.arguments()).env("LD_DEBUG", "bindings").env("LD_DEBUG_OUTPUT", &log);
    assert!(command.output().expect("the program starts").status.success());
    let log = fs::read_dir(place.path()).expect("a directory").map(|file| file.expect("a file").path()).next();
    let log = String::from_utf8_lossy(&fs::read(log.expect("a log")).expect("readable")).into_owned();
    let products: Vec<_> =
        log.lines().filter(|line| line.contains("libmlx.so [") && line.contains("`cblas_sgemm'")).collect();
    assert!(!products.is_empty(), "the log says nothing of matrix products");
    assert!(products.iter().all(|line| line.contains("libmlxc.so [")), "{products:#?}");
}
