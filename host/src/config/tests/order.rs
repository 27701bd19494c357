//! Which layer wins, in every form that a layer can have.

use super::*;
use proptest::prelude::*;

#[test]
fn layers_override_each_other_in_the_documented_order() {
    let base = "seed = 1\noutput_dir = 'a'\n[optimizer]\nlearning_rate = 1e-5\neps = 1e-6\n[profile.big]\nseed = 3\n\
                [profile.big.trainer]\nbatch_size = 32\n";
    let configuration = Configuration::with(base).file("lab.yaml", "seed: 2\ncomm: grpc\n");
    let resolved = configuration.resolved();
    assert_eq!((value(&resolved, "seed"), origin(&resolved, "seed")), (&json!(2), "lab.yaml:1".into()));
    assert_eq!(origin(&resolved, "optimizer.eps"), "job.toml:5");
    assert_eq!(origin(&resolved, "optimizer.beta2"), "default of optimizer/adamw");
    assert_eq!(origin(&resolved, "trainer.batch_size"), "default");

    let configuration = configuration.profile("big");
    let resolved = configuration.resolved();
    assert_eq!((value(&resolved, "seed"), origin(&resolved, "seed")), (&json!(3), "job.toml:7 (profile big)".into()));
    assert_eq!(origin(&resolved, "trainer.batch_size"), "job.toml:9 (profile big)");

    let configuration = configuration.variable("MDT_SEED", "4");
    assert_eq!(origin(&configuration.resolved(), "seed"), "environment variable MDT_SEED");
    let mut configuration = configuration.set("seed=5").set("seed=6");
    let resolved = configuration.resolved();
    assert_eq!((value(&resolved, "seed"), origin(&resolved, "seed")), (&json!(6), "--set seed".into()));
    configuration.sources.flags.push(Flag { name: "--seed".into(), key: "seed".into(), value: json!(7) });
    assert_eq!(origin(&configuration.resolved(), "seed"), "--seed");
}

#[test]
fn the_three_file_formats_say_the_same() {
    let toml = "seed = 3\n[model]\npath = 'm'\n[optimizer]\nlearning_rate = 1\nno_decay = ['*.bias']\n\
                [data]\ntrain = 'a.jsonl'\nfields = { prompt = 'question' }\n";
    let yaml = "seed: 3\nmodel: m\noptimizer:\n  learning_rate: 1e0\n  no_decay: ['*.bias']\n\
                data:\n  train: [a.jsonl]\n  fields: { prompt: question }\nscheduler:\n";
    let json = r#"{ "seed": 3.0, "model": "m", "optimizer": { "learning_rate": 1.0, "no_decay": ["*.bias"] },
                   "data": { "train": "a.jsonl", "fields": { "prompt": "question" } } }"#;
    let one = Configuration::with(toml).resolved();
    assert_eq!(one.canonical(), Configuration::new().file("a.yaml", yaml).resolved().canonical());
    assert_eq!(one.canonical(), Configuration::new().file("a.json", json).resolved().canonical());
    assert_eq!(value(&one, "optimizer.learning_rate").to_string(), "1.0");
    assert_eq!(one.settings.data.train_names(), ["a.jsonl"]);
}

#[test]
fn yaml_anchors_and_merge_keys_work() {
    let yaml = "profile:\n  a: &a { seed: 5 }\n  b:\n    <<: *a\n    output_dir: x\n";
    let resolved = Configuration::new().file("a.yml", yaml).profile("b").resolved();
    assert_eq!((resolved.settings.seed, value(&resolved, "output_dir")), (5, &json!("x")));
}

#[test]
fn a_layer_can_unset_what_a_lower_one_set() {
    let configuration =
        Configuration::with("trainer.max_steps = 10").file("b.json", r#"{ "trainer": { "max_steps": null } }"#);
    assert_eq!(configuration.resolved().settings.trainer.max_steps, None);
}

#[test]
fn plugin_directories_are_known_before_any_plugin_is() {
    let configuration = Configuration::with("[plugins]\ndirs = ['p']\n[optimizer]\nuse = 'not there'\nwhatever = 1\n");
    let layers = Layers::read(&configuration.sources).unwrap();
    assert_eq!(layers.plugins().unwrap().dirs, [PathBuf::from("p")]);
    assert_eq!(layers.resolve(&Installed).unwrap_err().status(), Status::Plugin);
    let wrong = Configuration::with("plugins.dir = ['p']");
    assert!(Layers::read(&wrong.sources).unwrap().plugins().is_err());
}

/// A key that every layer may set, and the values it takes.
fn setting() -> impl Strategy<Value = (&'static str, i64)> {
    let keys =
        ["seed", "trainer.batch_size", "trainer.max_steps", "comm.port", "scheduler.warmup_steps", "checkpoint.keep"];
    (prop::sample::select(keys.to_vec()), 2i64..60_000)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn the_last_layer_that_sets_a_key_decides_it(
        files in prop::collection::vec(prop::collection::btree_map(setting().prop_map(|s| s.0), 2i64..60_000, 0..4), 0..4),
        variables in prop::collection::vec(setting(), 0..3),
        sets in prop::collection::vec(setting(), 0..3),
    ) {
        let mut expected = std::collections::BTreeMap::new();
        let mut configuration = Configuration::new();
        for (index, file) in files.iter().enumerate() {
            let text: String = file.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
            configuration = configuration.file(&format!("{index}.toml"), &text);
            expected.extend(file.iter().map(|(key, value)| (*key, *value)));
        }
        let variables: std::collections::BTreeMap<_, _> = variables.into_iter().collect();
        for (key, value) in variables {
            configuration = configuration.variable(&format!("MDT_{}", key.to_uppercase().replace('.', "__")), &value.to_string());
            expected.insert(key, value);
        }
        for (key, value) in sets {
            configuration = configuration.set(&format!("{key}={value}"));
            expected.insert(key, value);
        }
        let resolved = configuration.resolved();
        for (key, wanted) in expected {
            prop_assert_eq!(value(&resolved, key), &json!(wanted), "{}", key);
        }
    }

    #[test]
    fn a_string_and_the_table_it_stands_for_are_one(below in prop::sample::select(vec!["lion", "adamw"])) {
        let short = Configuration::with("optimizer = 'adamw'").set(&format!("optimizer={below}"));
        let long = Configuration::with("optimizer = { use = 'adamw' }").set(&format!("optimizer.use={below}"));
        prop_assert_eq!(short.resolved().canonical(), long.resolved().canonical());
    }
}
