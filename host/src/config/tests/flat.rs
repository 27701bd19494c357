//! Flat files: the keys of the package that this program replaces, its defaults, and both forms side by side.

use super::*;

const YAML: &str = "\
model_path: m
batch_size: 4
learning_rate: 2e-5
num_epochs: 1
gradient_accumulation_steps: 2
world_size: 2
backend: local
optimizer: lion
scheduler: constant
warmup_steps: 7
save_steps: 9
output_dir: out
";
const TOML: &str = "model_path = 'm'\nbatch_size = 4\nlearning_rate = 2e-5\nnum_epochs = 1\n\
                    gradient_accumulation_steps = 2\nworld_size = 2\nbackend = 'local'\noptimizer = 'lion'\n\
                    scheduler = 'constant'\nwarmup_steps = 7\nsave_steps = 9\noutput_dir = 'out'\n";
const JSON: &str = r#"{ "model_path": "m", "batch_size": 4, "learning_rate": 2e-5, "num_epochs": 1,
    "gradient_accumulation_steps": 2, "world_size": 2, "backend": "local", "optimizer": "lion",
    "scheduler": "constant", "warmup_steps": 7, "save_steps": 9, "output_dir": "out" }"#;

#[test]
fn every_flat_key_has_its_place_in_every_file_format() {
    let sections = Configuration::with(
        "output_dir = 'out'\nmodel = 'm'\noptimizer = { use = 'lion', learning_rate = 2e-5 }\n\
         trainer = { batch_size = 4, num_epochs = 1, gradient_accumulation_steps = 2 }\n\
         scheduler = { use = 'constant', warmup_steps = 7 }\ncomm = { use = 'local', world_size = 2 }\n\
         checkpoint.save_steps = 9\n",
    );
    for (name, text) in [("old.yaml", YAML), ("old.toml", TOML), ("old.json", JSON)] {
        let resolved = Configuration::new().file(name, text).resolved();
        assert_eq!(resolved.canonical(), sections.resolved().canonical(), "{name}");
    }
    let named = Configuration::new().file("old.yaml", "model_name: org/m\nmodel_path:\n").resolved();
    assert_eq!((named.settings.model.name.as_deref(), named.settings.model.path), (Some("org/m"), None));
}

#[test]
fn a_value_of_a_flat_file_names_its_line_and_its_key() {
    let resolved = Configuration::new().file("old.yaml", YAML).resolved();
    assert_eq!(origin(&resolved, "model.path"), "old.yaml:1 (model_path)");
    assert_eq!(origin(&resolved, "comm.use"), "old.yaml:7 (backend)");
    assert_eq!(origin(&resolved, "optimizer.use"), "old.yaml:8");
    assert_eq!(origin(&resolved, "optimizer.learning_rate"), "old.yaml:3 (learning_rate)");
    let wrong = Configuration::new().file("old.yaml", "num_epochs: 1\nbatch_size: lots\n").message();
    assert!(wrong.starts_with("error: `trainer.batch_size` is the string \"lots\""), "{wrong}");
    assert!(wrong.contains("at: old.yaml:2 (batch_size)"), "{wrong}");
}

#[test]
fn what_a_flat_file_leaves_out_has_the_defaults_of_flat_files() {
    let configuration = Configuration::new().file("old.yaml", "model_path: m\n");
    let resolved = configuration.resolved();
    assert_eq!(resolved.flat_files, [configuration.path("old.yaml")]);
    for (key, wanted) in [
        ("trainer.batch_size", json!(8)),
        ("trainer.num_epochs", json!(3)),
        ("trainer.gradient_accumulation_steps", json!(1)),
        ("optimizer.use", json!("adamw")),
        ("optimizer.learning_rate", json!(1e-4)),
        ("scheduler.use", json!("cosine")),
        ("scheduler.warmup_steps", json!(100)),
        ("comm.use", json!("grpc")),
        ("comm.world_size", json!(1)),
        ("checkpoint.save_steps", json!(100)),
        ("output_dir", json!("./outputs")),
    ] {
        assert_eq!((value(&resolved, key), origin(&resolved, key)), (&wanted, "default of flat files".into()), "{key}");
    }
    assert_eq!(origin(&resolved, "optimizer.eps"), "default of optimizer/adamw");
}

#[test]
fn keys_that_both_forms_have_do_not_make_a_file_flat() {
    let resolved =
        Configuration::new().file("new.yaml", "optimizer: lion\nscheduler: constant\noutput_dir: out\n").resolved();
    assert_eq!((resolved.settings.trainer.num_epochs, resolved.settings.comm.id.as_str()), (1, "local"));
    assert!(resolved.flat_files.is_empty());
}

#[test]
fn defaults_of_flat_files_lie_below_every_file() {
    let configuration =
        Configuration::with("comm = 'local'\ntrainer.num_epochs = 5\n").file("old.yaml", "batch_size: 4\n");
    let resolved = configuration.file("more.toml", "trainer.batch_size = 2\n").resolved();
    assert_eq!((resolved.settings.trainer.num_epochs, resolved.settings.trainer.batch_size), (5, 2));
    assert_eq!(origin(&resolved, "comm.use"), "job.toml:1");
    assert_eq!(value(&resolved, "scheduler.warmup_steps"), &json!(100));
}

#[test]
fn sections_and_profiles_may_stand_beside_flat_keys() {
    let text = "learning_rate: 2e-5\noptimizer:\n  use: adamw\n  eps: 1e-6\ndata: { train: a.jsonl }\n\
                trainer: { num_epochs: 2 }\nnum_epochs: 2\nprofile: { long: { trainer: { num_epochs: 9 } } }\n";
    let resolved = Configuration::new().file("old.yaml", text).resolved();
    let optimizer = &resolved.settings.optimizer;
    assert_eq!((optimizer.learning_rate, value(&resolved, "optimizer.eps")), (2e-5, &json!(1e-6)));
    assert_eq!(resolved.settings.data.train_names(), ["a.jsonl"]);
    assert_eq!(resolved.settings.trainer.num_epochs, 2);
    assert_eq!(Configuration::new().file("old.yaml", text).profile("long").resolved().settings.trainer.num_epochs, 9);
}

#[test]
fn one_setting_with_two_values_in_a_file_is_an_error_that_names_both() {
    let configuration = Configuration::new().file("old.yaml", "batch_size: 4\ntrainer:\n  batch_size: 8\n");
    assert_eq!(
        configuration.message(),
        "error: `batch_size` is the integer 4 and `trainer.batch_size` is the integer 8, but both are the same setting\n  \
         at: old.yaml:1\n  at: old.yaml:3\n  help: remove one of them"
    );
    assert!(
        Configuration::with("backend = 'mpi'\ncomm = 'grpc'\n").message().contains("`comm.use` is the string \"grpc\"")
    );
    assert!(
        Configuration::with("model = 'a'\nmodel_path = 'b'\n").message().contains("`model.path` is the string \"a\"")
    );
}

#[test]
fn a_misspelt_flat_key_is_answered_in_the_form_of_its_file() {
    let help = |configuration: Configuration| configuration.failure().help_text().unwrap_or_default().to_owned();
    let flat = |key: &str| Configuration::new().file("old.yaml", &format!("num_epochs: 1\n{key}: 1\n"));
    assert_eq!(help(flat("batchsize")), "did you mean `batch_size`?");
    assert_eq!(help(flat("modelname")), "did you mean `model_name`?");
    assert_eq!(help(flat("sede")), "did you mean `seed`?");
    assert!(flat("batchsize").message().contains("unknown key `batchsize`\n  at: old.yaml:2\n"));
    assert_eq!(help(Configuration::with("batchsize = 1\n")), "did you mean `trainer.batch_size`?");
}

#[test]
fn only_files_have_flat_keys() {
    for (key, place) in [
        ("batch_size", "trainer.batch_size"),
        ("learning_rate", "optimizer.learning_rate"),
        ("warmup_steps", "scheduler.warmup_steps"),
        ("backend", "comm.use"),
        ("model_name", "model.name"),
    ] {
        for configuration in [
            Configuration::new().variable(&format!("MDT_{}", key.to_uppercase()), "1"),
            Configuration::new().set(&format!("{key}=1")),
            Configuration::new().file("old.yaml", YAML).set(&format!("{key}=1")),
            Configuration::with(&format!("[profile.p]\n{key} = 1\n")).profile("p"),
        ] {
            let failure = configuration.failure();
            assert_eq!(failure.message(), format!("unknown key `{key}`"));
            assert_eq!(failure.help_text(), Some(format!("did you mean `{place}`?").as_str()));
        }
    }
}

#[test]
fn a_number_that_python_reads_as_text_is_a_number() {
    // PyYAML takes `1e-4`, which has no dot, for a string.
    for (text, wanted) in [("1e-4", 1e-4), ("1E-4", 1e-4), ("1.0e-4", 1e-4), ("5.e-5", 5e-5), (".5", 0.5)] {
        let resolved = Configuration::new().file("old.yaml", &format!("learning_rate: {text}\n")).resolved();
        assert_eq!(resolved.settings.optimizer.learning_rate, wanted, "{text}");
    }
    let quoted = Configuration::new().file("old.yaml", "learning_rate: '1e-4'\n");
    assert!(quoted.message().ends_with("help: write it without quotes: 1e-4"), "{}", quoted.message());
}

#[test]
fn the_published_schema_lets_a_file_be_flat_and_a_profile_not() {
    let (schema, _) = schema(&Installed);
    for flat in &super::super::flat::KEYS {
        let property = &schema["properties"][flat.name];
        assert!(property["description"].as_str().is_some_and(|text| text.contains(&flat.place())), "{}", flat.name);
        assert!(property.get("type").is_some() && property.get("default").is_none(), "{property}");
        assert!(schema["$defs"]["layer"]["properties"].get(flat.name).is_none(), "{}", flat.name);
    }
}
