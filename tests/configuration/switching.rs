//! Another component by one more layer: its keys are its own, the host's survive, and what is dropped is said.

use mdt_tests::{Job, assert_says, example_plugin, root, run};
use serde_json::{Value, json};

/// What `config show --json` says.
fn shown(job: &Job, arguments: &[&str]) -> Value {
    let text = job.run_with(&[arguments, &["config", "show", "--json"]].concat()).success().stdout;
    serde_json::from_str(&text).expect("JSON")
}

/// A job with every key of AdamW, in a file of its own.
fn adamw() -> (Job, String) {
    let job = Job::new();
    let text = "[optimizer]\nuse = 'adamw'\nlearning_rate = 3e-4\nweight_decay = 0.2\nno_decay = ['*.bias']\n\
                beta1 = 0.8\nbeta2 = 0.9\neps = 1e-6\n";
    let file = job.file("adamw.toml", text).display().to_string();
    (job.argument("--config").argument(&file), file)
}

#[track_caller]
fn assert_host_keys_survive(shown: &Value, file: &str) {
    for (key, value, line) in [
        ("optimizer.learning_rate", json!(3e-4), 3),
        ("optimizer.weight_decay", json!(0.2), 4),
        ("optimizer.no_decay", json!(["*.bias"]), 5),
    ] {
        assert_eq!(shown["values"][key], json!({ "value": value, "from": format!("{file}:{line}") }), "{key}");
    }
}

#[track_caller]
fn assert_dropped(shown: &Value, keys: &[&str], by: &str) {
    let dropped = shown["dropped"].as_array().expect("a list");
    let names: Vec<_> = dropped.iter().map(|dropped| dropped["key"].as_str().expect("a key")).collect();
    assert_eq!(names, keys);
    assert!(dropped.iter().all(|dropped| dropped["unknown_to"] == by), "{dropped:?}");
    keys.iter().for_each(|key| assert!(shown["values"].get(*key).is_none(), "{key}"));
}

#[test]
fn another_optimizer_is_one_layer_and_what_it_does_not_know_is_said() {
    let (job, file) = adamw();
    let sgd = job.file("sgd.toml", "optimizer = { use = 'sgd', momentum = 0.9 }\n").display().to_string();
    let sgd = ["--config", &sgd];
    let values = shown(&job, &sgd);
    assert_host_keys_survive(&values, &file);
    assert_dropped(&values, &["optimizer.beta1", "optimizer.beta2", "optimizer.eps"], "sgd");
    assert_eq!(values["values"]["optimizer.momentum"]["value"], 0.9);

    let line = format!("dropped optimizer.beta1 = 0.8 ({file}:6): `sgd` has no such key");
    let text = job.run_with(&[&sgd[..], &["config", "show"]].concat()).success().stdout;
    assert_says(&text, &[&format!("# {line}")]);
    let started = job.run_with(&[&sgd[..], &["--set", "trainer.max_steps=1"]].concat()).success().stderr;
    assert_says(&started, &[&line, "dropped optimizer.eps = 1e-6"]);
    assert!(started.find("dropped").expect("dropped") < started.find("device").expect("the device"), "{started}");
}

#[test]
fn an_optimizer_of_others_is_one_argument() {
    let (job, file) = adamw();
    let directory = example_plugin("lion").parent().expect("a directory").display().to_string();
    let values = shown(&job, &["--plugin-dir", &directory, "--set", "optimizer=lion"]);
    assert_host_keys_survive(&values, &file);
    // Both have the betas.
    assert_dropped(&values, &["optimizer.eps"], "lion");
    assert_eq!(values["values"]["optimizer.beta1"]["value"], 0.8);
}

#[test]
fn another_backend_is_one_layer_and_ranks_still_meet_where_they_did() {
    let grpc = "[comm]\nuse = 'grpc'\nworld_size = 1\naddress = 'localhost'\nport = 50077\nconnect_timeout_s = 9.0\n";
    let job = Job::new();
    let file = job.file("grpc.toml", grpc).display().to_string();
    let job = job.argument("--config").argument(&file);
    let upwards = shown(&job, &[]);
    assert_eq!(upwards["values"]["comm.use"], json!({ "value": "grpc", "from": format!("{file}:2") }));
    assert_eq!(upwards["values"]["comm.connect_timeout_s"]["value"], 9.0);
    assert_eq!(upwards["dropped"], json!([]));

    let downwards = shown(&job, &["--set", "comm=local"]);
    assert_dropped(&downwards, &["comm.connect_timeout_s"], "local");
    for (key, value, line) in [("comm.address", json!("localhost"), 4), ("comm.port", json!(50077), 5)] {
        assert_eq!(downwards["values"][key], json!({ "value": value, "from": format!("{file}:{line}") }), "{key}");
    }
    let started = job.run_with(&["--set", "comm=local", "--set", "trainer.max_steps=1"]).success().stderr;
    assert_says(&started, &[&format!("dropped comm.connect_timeout_s = 9.0 ({file}:6): `local` has no such key")]);
}

#[test]
fn a_cluster_is_one_layer_over_any_job() {
    let layers = ["--config", "configs/sft.toml", "--config", "configs/clusters/two-local.toml"];
    let shown = run(layers.iter().copied().chain(["config", "show", "--json"])).success().stdout;
    let shown: Value = serde_json::from_str(&shown).expect("JSON");
    let file = "configs/clusters/two-local.toml";
    let text = std::fs::read_to_string(root().join(file)).expect("the layer");
    let line = |key: &str| text.lines().position(|line| line.starts_with(key)).expect("the key") + 1;
    for (key, name, value) in [
        ("comm.use", "use", json!("grpc")),
        ("comm.world_size", "world_size", json!(2)),
        ("comm.address", "address", json!("127.0.0.1")),
        ("comm.port", "port", json!(50051)),
    ] {
        assert_eq!(shown["values"][key], json!({ "value": value, "from": format!("{file}:{}", line(name)) }), "{key}");
    }
    assert_eq!(shown["values"]["trainer.batch_size"]["value"], 4, "the job is still the job");
    assert_eq!(shown["dropped"], json!([]));
}
