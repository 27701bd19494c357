//! The configuration through the real program: every key from every layer, shown with its origin.

mod flat;
mod golden;
mod switching;

use std::collections::BTreeMap;
use std::process::Stdio;

use mdt_tests::{Job, Run, assert_says, command, example_plugin, lock_file, run, run_where};
use serde_json::{Map, Value, json};

/// One key and a value for it that is not its default.
struct Key {
    path: String,
    value: Value,
    /// Whether it is a `use`, which has only one value in one schema.
    chooses: bool,
}

fn schema() -> Value {
    serde_json::from_str(&run(["config", "schema"]).success().stdout).expect("a schema of JSON")
}

/// The tables that a section may be: one for each component of a kind, or the only one.
fn tables(section: &Value) -> Vec<&Value> {
    let Some(branches) = section["anyOf"].as_array() else { return vec![section] };
    branches.iter().filter(|branch| branch["properties"]["use"]["const"].is_string()).collect()
}

/// All keys of a table, those of tables in it included, with other values than the defaults.
fn collect(root: &Value, prefix: &str, table: &Value, keys: &mut Vec<Key>) {
    for (name, property) in table["properties"].as_object().into_iter().flatten() {
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        let resolved = resolve(root, property);
        if name == "use" {
            keys.push(Key { path, value: property["const"].clone(), chooses: true });
        } else if resolved["properties"].is_object() {
            collect(root, &path, resolved, keys);
        } else if path == "trainer.models" {
            keys.push(Key { path: format!("{path}.x.path"), value: json!("x"), chooses: false });
        } else if resolved["type"] == "object" {
            // A table of any keys.
            keys.push(Key { path: format!("{path}.x"), value: json!("x"), chooses: false });
        } else {
            keys.push(Key { value: another(&path, resolved, &property["default"]), path, chooses: false });
        }
    }
}

/// A property without its references; where host and component both describe it, the one that is more particular.
fn resolve<'a>(root: &'a Value, property: &'a Value) -> &'a Value {
    if let Some(name) = property["$ref"].as_str() {
        return root.pointer(name.trim_start_matches('#')).expect("a definition");
    }
    // What may be unset as well.
    let set = property["anyOf"].as_array().and_then(|branches| branches.iter().find(|branch| branch["type"] != "null"));
    if let Some(set) = set {
        return resolve(root, set);
    }
    let both = property["allOf"].as_array().into_iter().flatten().map(|branch| resolve(root, branch));
    both.max_by_key(|branch| branch["oneOf"].is_array()).unwrap_or(property)
}

/// A value that the schema allows and that is not the default.
fn another(path: &str, schema: &Value, default: &Value) -> Value {
    let constants: Vec<_> = schema["oneOf"].as_array().into_iter().flatten().map(|branch| &branch["const"]).collect();
    if let Some(other) = constants.into_iter().find(|&constant| constant != default) {
        return other.clone();
    }
    let types = [&schema["type"], &schema["type"][0], &schema["type"][1]];
    match types.iter().find_map(|name| name.as_str().filter(|name| *name != "null")) {
        Some("integer") => json!(default.as_u64().unwrap_or_default() + 2),
        Some("number") => json!(default.as_f64().unwrap_or_default() / 2.0 + 0.25),
        Some("boolean") => json!(default != &json!(true)),
        Some("string") => json!("x"),
        Some("array") if schema["items"]["type"] == "integer" => json!([2]),
        Some("array") if path == "optimizer.groups" => json!([{ "match": ["x"] }]),
        Some("array") => json!(["x"]),
        other => panic!("no value for {path}, which has type {other:?}: {schema}"),
    }
}

/// A set of components, with all keys that a job of them has.
struct Selection {
    /// The section and the component that it uses.
    uses: Vec<(String, String)>,
    keys: Vec<Key>,
}

/// Every component of every kind in one selection or another.
fn selections(schema: &Value) -> Vec<Selection> {
    let sections = schema["$defs"]["layer"]["properties"].as_object().expect("sections");
    // A list, whose elements have their own tests.
    let sections: Vec<_> = sections.iter().filter(|(name, _)| *name != "observers").collect();
    let count =
        sections.iter().map(|(_, section)| section).map(|section| tables(section).len()).max().unwrap_or_default();
    (0..count)
        .map(|number| {
            let (mut uses, mut keys) = (Vec::new(), Vec::new());
            for &(name, section) in &sections {
                let tables = tables(section);
                let table = tables[number % tables.len()];
                if let Some(id) = table["properties"]["use"]["const"].as_str() {
                    uses.push((name.clone(), id.to_owned()));
                }
                match table["properties"].is_object() {
                    true => collect(schema, name, table, &mut keys),
                    false => {
                        let value = another(name, table, &table["default"]);
                        keys.push(Key { path: name.clone(), value, chooses: false });
                    }
                }
            }
            Selection { uses, keys }
        })
        .collect()
}

/// The values of `config show --json`.
fn values(run: Run) -> Map<String, Value> {
    let mut shown: Value = serde_json::from_str(&run.success().stdout).expect("JSON");
    shown["values"].as_object_mut().map(std::mem::take).expect("values")
}

const SHOW: [&str; 3] = ["config", "show", "--json"];

#[test]
fn every_key_of_the_host_and_of_every_plugin_can_be_set_in_a_file_the_environment_and_the_command_line() {
    let job = Job::new();
    let lock = job.file("plugins.lock", every_plugin_locked()).display().to_string();
    let mut tried = BTreeMap::new();
    for Selection { uses, mut keys } in selections(&schema()) {
        // What this key names is read to find plugins, so it cannot be just anything.
        keys.iter_mut().filter(|key| key.path == "plugins.lock").for_each(|key| key.value = json!(lock));
        let base: String = uses.iter().map(|(section, id)| format!("{section}.use = {id:?}\n")).collect();
        let base = job.file("base.toml", base).display().to_string();
        let base = ["--config", &base];
        let before = values(run([&base[..], &SHOW].concat()));

        let text: String = keys.iter().map(|key| format!("{} = {}\n", key.path, toml(&key.value))).collect();
        let file = job.file("keys.toml", text).display().to_string();
        let from_file = values(run([&base[..], &["--config", &file], &SHOW].concat()));
        let variables: Vec<_> = keys.iter().map(|key| (variable(&key.path), toml(&key.value))).collect();
        let borrowed: Vec<_> = variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let from_environment = values(run_where(&borrowed, [&base[..], &SHOW].concat()));
        let sets: Vec<_> = keys.iter().map(|key| format!("--set={}={}", key.path, toml(&key.value))).collect();
        let sets: Vec<_> = base.iter().copied().chain(sets.iter().map(String::as_str)).chain(SHOW).collect();
        let from_set = values(run(sets));

        for (number, Key { path, value, chooses }) in keys.iter().enumerate() {
            let old = before.get(path).map_or(&Value::Null, |entry| &entry["value"]);
            assert!(*chooses || old != value, "{path} is {value} by default");
            for (shown, origin) in [
                (&from_file, format!("{file}:{}", number + 1)),
                (&from_environment, format!("environment variable {}", variable(path))),
                (&from_set, format!("--set {path}")),
            ] {
                let entry = shown.get(path).unwrap_or_else(|| panic!("{path} is not shown"));
                assert_eq!(*entry, json!({ "value": value, "from": origin }), "{path}");
            }
            tried.insert(path.clone(), ());
        }
    }
    for key in ["output_dir", "data.fields.prompt", "optimizer.eps", "scheduler.min_ratio", "comm.port", "plugins.dirs"]
    {
        assert!(tried.contains_key(key), "{key}: {:?}", tried.keys());
    }
    assert!(tried.len() > 40, "{:?}", tried.keys());
}

/// A value as TOML writes it.
fn toml(value: &Value) -> String {
    value.to_string().replace("\":", "\"=")
}

fn every_plugin_locked() -> String {
    lock_file(["mlx", "llama", "huggingface", "sft", "adamw", "jsonl", "local", "grpc", "panics_at_three"])
}

fn variable(path: &str) -> String {
    format!("MDT_{}", path.to_uppercase().replace('.', "__"))
}

#[test]
fn an_unknown_key_of_any_section_is_an_error_in_every_layer() {
    let schema = schema();
    let sections = schema["$defs"]["layer"]["properties"].as_object().expect("sections");
    let tables = sections.iter().filter(|(_, section)| section["type"] != "string" && section["type"] != "integer");
    let names: Vec<_> = tables.map(|(name, _)| format!("{name}.zzz")).chain(["zzz".to_owned()]).collect();
    assert!(names.len() > 10, "{names:?}");
    let job = Job::new();
    for name in names {
        let file = job.file("keys.toml", format!("{name} = 1\n")).display().to_string();
        let message = format!("unknown key `{name}`");
        let failure = run(["--config", &file, "config", "show"]).failure(2);
        assert_says(&failure, &[&message, &format!("{file}:1")]);
        let failure = run_where(&[(&variable(&name), "1")], ["config", "show"]).failure(2);
        assert_says(&failure, &[&message, &variable(&name)]);
        let failure = run(["--set", &format!("{name}=1"), "config", "show"]).failure(2);
        assert_says(&failure, &[&message, &format!("--set {name}")]);
    }
}

#[test]
fn what_is_shown_is_a_configuration_that_says_the_same() {
    let job = Job::new().set("optimizer.no_decay", "[\"*.bias\", \"a\\\"b\"]").set("data.fields.prompt", "prompt");
    let text = job.run_with(&["config", "show"]).success().stdout;
    let file = job.file("shown.toml", &text).display().to_string();
    let original = values(job.run_with(&SHOW));
    let again = values(run(["--config", &file, "config", "show", "--json"]));
    let only_values = |shown: &Map<String, Value>| -> BTreeMap<String, Value> {
        shown.iter().map(|(key, entry)| (key.clone(), entry["value"].clone())).collect()
    };
    assert_eq!(only_values(&again), only_values(&original));
    for (key, entry) in &original {
        let (name, origin) = (key.rsplit('.').next().expect("a name"), entry["from"].as_str().expect("text"));
        let line = text.lines().find(|line| line.contains(name) && line.ends_with(&format!("# {origin}")));
        assert!(line.is_some(), "{key} from {origin} is not in:\n{text}");
    }
}

#[test]
fn layers_lie_above_each_other_in_the_documented_order() {
    let job = Job::new();
    let first = job.file("first.toml", "seed = 1\n[profile.p]\nseed = 3\n").display().to_string();
    let second = job.file("second.yaml", "seed: 2\n").display().to_string();
    let files = ["--config", &first, "--config", &second];
    let profile = ["--profile", "p"];
    let seed = |variables: &[(&str, &str)], arguments: &[&[&str]]| {
        let entry = values(run_where(variables, [&arguments.concat()[..], &SHOW].concat()))["seed"].clone();
        (entry["value"].as_u64(), entry["from"].as_str().unwrap_or_default().to_owned())
    };
    let variable = [("MDT_SEED", "4")];
    assert_eq!(seed(&[], &[]), (Some(0), "default".to_owned()));
    assert_eq!(seed(&[], &[&files[..2]]), (Some(1), format!("{first}:1")));
    assert_eq!(seed(&[], &[&files]), (Some(2), format!("{second}:1")));
    assert_eq!(seed(&[], &[&files, &profile]), (Some(3), format!("{first}:3 (profile p)")));
    assert_eq!(seed(&variable, &[&files, &profile]), (Some(4), "environment variable MDT_SEED".to_owned()));
    let set = ["--set", "seed=5"];
    assert_eq!(seed(&variable, &[&files, &profile, &set]), (Some(5), "--set seed".to_owned()));
}

#[test]
fn a_seed_may_be_any_number_of_64_bits() {
    let (job, seed) = (Job::new(), u64::MAX);
    let files = [
        ("a.yaml", format!("seed: {seed}\n")),
        ("c.toml", format!("seed = {seed}\n")),
        ("b.json", format!("{{\"seed\": {seed}}}\n")),
    ];
    for (name, text) in files {
        let file = job.file(name, text).display().to_string();
        assert_eq!(values(run([&["--config", &file][..], &SHOW].concat()))["seed"]["value"], seed, "{name}");
    }
    let set = format!("seed={seed}");
    assert_eq!(values(run([&["--set", &set][..], &SHOW].concat()))["seed"]["value"], seed);
    let variable = seed.to_string();
    assert_eq!(values(run_where(&[("MDT_SEED", &variable)], SHOW))["seed"]["value"], seed);
    assert_eq!(values(run(["--set", "seed=9223372036854775808"].into_iter().chain(SHOW)))["seed"]["value"], 1u64 << 63);
}

#[test]
fn a_check_says_whether_a_job_can_be_started() {
    let text = Job::new().run_with(&["config", "check"]).success().stdout;
    assert_says(&text, &["the configuration is complete"]);
    assert_says(&run(["config", "check"]).failure(2), &["`model.path` is not set"]);
    let failure = Job::new().set("model.path", "nowhere").run_with(&["config", "check"]).failure(4);
    assert_says(&failure, &["the model directory does not exist"]);
    assert_says(&Job::new().set("optimizer", "tiger").run_with(&["config", "check"]).failure(3), &["`tiger`"]);
    assert!(!Job::new().output().exists());
}

#[test]
fn the_schema_has_the_keys_of_the_host_and_of_every_plugin_that_is_found() {
    let [lion, _] = ["lion", "transcript"].map(example_plugin);
    let directory = lion.parent().expect("a directory").display().to_string();
    let text = run(["config", "schema", "--plugin-dir", &directory]).success().stdout;
    let schema: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    let layer = &schema["$defs"]["layer"]["properties"];
    for (section, id, keys) in [
        ("model", "llama", &["path", "init"][..]),
        ("data", "jsonl", &["train", "shuffle", "format", "fields"]),
        ("data", "csv", &["train", "delimiter", "fields", "text"]),
        ("data", "transcript", &["train", "speakers"]),
        ("trainer", "sft", &["batch_size", "max_seq_len"]),
        ("tokenizer", "huggingface", &["chat_template", "chat_template_kwargs"]),
        ("optimizer", "adamw", &["learning_rate", "no_decay", "beta1", "beta2", "eps"]),
        ("optimizer", "sgd", &["learning_rate", "no_decay", "momentum", "dampening", "nesterov"]),
        ("optimizer", "lion", &["learning_rate", "no_decay", "beta1", "beta2"]),
        ("scheduler", "cosine", &["warmup_steps", "min_ratio"]),
        ("scheduler", "constant", &["warmup_steps"]),
        ("scheduler", "linear", &["warmup_steps", "min_ratio"]),
        ("scheduler", "polynomial", &["warmup_steps", "power", "min_ratio"]),
        ("scheduler", "wsd", &["warmup_steps", "decay_ratio", "decay_steps", "min_ratio"]),
        ("comm", "local", &["world_size", "rank", "address", "port", "shard_optimizer", "overlap", "gradient_dtype"]),
        ("compute", "mlx", &["device", "dtype", "matmul", "threads"]),
    ] {
        let table = tables(&layer[section]).into_iter().find(|table| table["properties"]["use"]["const"] == id);
        let table = table.unwrap_or_else(|| panic!("{section} {id} is not in the schema"));
        for key in keys {
            assert!(table["properties"][key].is_object(), "{section} {id} has no {key}");
        }
    }
    for (section, key) in [("checkpoint", "resume"), ("metrics", "every"), ("plugins", "lock")] {
        assert!(layer[section]["properties"][key].is_object(), "{section}.{key}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let mut child = command()
        .args(["config", "schema"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    // The schema is longer than a pipe holds, so that the program must find out.
    drop(child.stdout.take());
    let run = Run::from(child.wait_with_output().expect("it ends")).success();
    assert!(!run.stderr.contains("error:"), "{}", run.stderr);
}
