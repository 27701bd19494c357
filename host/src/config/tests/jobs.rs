//! What is done with a resolved configuration: shown, published, compared.

use super::*;

const JOB: &str = "model = 'm'\noptimizer = { use = 'adamw', learning_rate = 2e-5, eps = 1e-7 }\n[data]\ntrain = 'a'\n\
                   fields = { prompt = 'the question', \"a b\" = \"c\\n\\\"d\\\"\" }\n";

#[test]
fn what_is_shown_is_a_configuration_file_that_resolves_to_the_same() {
    for configuration in [
        Configuration::with(JOB),
        Configuration::with(JOB).set("optimizer=lion").set("comm={ use = 'grpc', tls = { key = 'k' } }"),
    ] {
        let resolved = configuration.resolved();
        let shown = resolved.show();
        assert_eq!(Configuration::with(&shown).resolved().canonical(), resolved.canonical(), "{shown}");
        assert_eq!(configuration.resolved().show(), shown);
    }
}

#[test]
fn what_is_shown_names_the_layer_of_each_value_and_what_was_dropped() {
    let shown = Configuration::with(JOB).set("optimizer=lion").set("seed=3").resolved().show();
    let line = |start: &str| {
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        shown.lines().map(words).find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{shown}"))
    };
    assert_eq!(line("seed"), "seed = 3 # --set seed");
    assert_eq!(line("use = \"lion\""), "use = \"lion\" # --set optimizer");
    assert!(line("learning_rate").ends_with("job.toml:2"));
    assert_eq!(line("cautious"), "cautious = false # default of optimizer/lion");
    assert_eq!(line("# max_steps"), "# max_steps is unset # default");
    assert!(line("# dropped optimizer.eps = 1e-7 (").ends_with("`lion` has no such key"));
}

#[test]
fn the_json_form_has_the_same_values() {
    let resolved = Configuration::with(JOB).set("optimizer=lion").resolved();
    let json = resolved.show_json();
    assert_eq!(json["values"]["optimizer.use"], json!({ "value": "lion", "from": "--set optimizer" }));
    assert_eq!(json["values"].as_object().unwrap().len(), resolved.entries.len());
    assert_eq!(json["dropped"][0]["key"], "optimizer.eps");
}

#[test]
fn a_job_needs_a_model_and_data() {
    Configuration::with(JOB).resolved().require_job().unwrap();
    let missing = |toml| Configuration::with(toml).resolved().require_job().unwrap_err().message().to_owned();
    assert!(missing("data.train = 'a'").contains("`model.path`"));
    assert!(missing("model = 'm'").contains("`data.train`"));
}

#[test]
fn a_job_continues_under_keys_that_change_no_result() {
    let before = Configuration::with(JOB).resolved();
    let same = Configuration::with(JOB)
        .set("output_dir=elsewhere")
        .set("checkpoint.keep=1")
        .set("metrics.every=2")
        .set("plugins.dirs=['p']")
        .set("comm.port=6000")
        .set("data.train=elsewhere.jsonl")
        .set("compute.threads=77")
        .resolved();
    let changed = same.require_same_job(&before.canonical(), &before.keys_at_default(), [true; 2]).unwrap();
    let keys: Vec<_> = changed.iter().map(|difference| difference.key.as_str()).collect();
    assert_eq!(keys, ["checkpoint.keep", "compute.threads", "data.train", "metrics.every"], "places are not told");
    assert!(changed.iter().all(|difference| difference.key == "data.train" || !difference.changes_updates()));
    assert_eq!(same.identity(), before.identity());
}

#[test]
fn a_job_continues_under_keys_of_later_updates_on_which_all_ranks_agree() {
    let before = Configuration::with(JOB).resolved();
    for (set, values) in [
        ("optimizer.learning_rate=3e-5", ["0.0001", "0.00003"]),
        ("optimizer.weight_decay=0.5", ["0.0", "0.5"]),
        ("optimizer.no_decay=['*norm*']", ["[]", "[\"*norm*\"]"]),
        ("scheduler.use=linear", ["\"cosine\"", "\"linear\""]),
        ("scheduler.warmup_steps=5", ["0", "5"]),
        ("trainer.num_epochs=9", ["1", "9"]),
        ("trainer.max_steps=5", ["unset", "5"]),
        ("trainer.max_grad_norm=0.5", ["1.0", "0.5"]),
    ] {
        let now = Configuration::with(JOB).set(set).resolved();
        let changed = now.require_same_job(&before.canonical(), &before.keys_at_default(), [true; 2]).unwrap();
        let [difference] = changed.as_slice() else { panic!("{set}: {changed:?}") };
        assert_eq!(difference.key, set[..set.find('=').unwrap()]);
        let [was, is] = difference.values();
        assert!(was != is && (is == values[1] || is == "3e-5"), "{set}: {was} {is}");
        assert!(difference.changes_updates());
        assert_ne!(now.identity(), before.identity());
    }
}

#[test]
fn a_changed_key_that_changes_results_is_named() {
    let before = Configuration::with(JOB).resolved();
    for (set, key, why) in [
        ("optimizer.beta1=0.5", "optimizer.beta1", "which of its states depend on it"),
        ("optimizer=lion", "optimizer.use", "the states in the checkpoint"),
        ("trainer.batch_size=3", "trainer.batch_size", "a place in its rows"),
        ("trainer.max_seq_len=99", "trainer.max_seq_len", "put together in another way"),
        ("compute.dtype=bfloat16", "compute.dtype", "rounded in another way"),
        ("seed=1", "seed", "the order of rows and all random numbers"),
        ("data.fields.prompt=other", "data.fields.prompt", "those would be others"),
        ("model.init=random", "model.init", "the model that the run began with"),
    ] {
        let now = Configuration::with(JOB).set(set).resolved();
        let failure = now.require_same_job(&before.canonical(), &before.keys_at_default(), [true; 2]).unwrap_err();
        let text = failure.to_string();
        assert!(failure.message().contains(&format!("`{key}`")) || text.contains(&format!("{key} was")), "{text}");
        assert!(text.contains(" was ") && text.contains(" and is ") && text.contains(why), "{text}");
        assert_ne!(now.identity(), before.identity());
    }
    let now = Configuration::with(JOB).set("seed=1").set("optimizer=lion").resolved();
    let text = now.require_same_job(&before.canonical(), &before.keys_at_default(), [true; 2]).unwrap_err().to_string();
    assert!(
        text.contains("because: seed was 0 and is 1: ") && text.contains("optimizer.use was \"adamw\" and is \"lion\""),
        "{text}"
    );
}

#[test]
fn a_stored_configuration_reads_back_equal() {
    let resolved = Configuration::with(JOB).resolved();
    let stored: Value = serde_json::from_str(&resolved.canonical().to_string()).unwrap();
    resolved.require_same_job(&stored, &[], [true; 2]).unwrap();
}

#[test]
fn a_key_that_another_version_lacks_is_no_change_while_it_has_its_default() {
    let (resolved, changed) =
        (Configuration::with(JOB).resolved(), Configuration::with(JOB).set("optimizer.beta1=0.5").resolved());
    let at_default = resolved.keys_at_default();
    // The version before had no such key.
    let mut earlier = resolved.canonical();
    earlier["optimizer"].as_object_mut().unwrap().remove("beta1").unwrap();
    resolved.require_same_job(&earlier, &at_default, [true; 2]).unwrap();
    let explicit =
        Configuration::with(JOB).set(&format!("optimizer.beta1={}", value(&resolved, "optimizer.beta1"))).resolved();
    explicit.require_same_job(&earlier, &at_default, [true; 2]).unwrap();
    assert!(
        changed.require_same_job(&earlier, &at_default, [true; 2]).unwrap_err().message().contains("`optimizer.beta1`")
    );
    // It had one that this version lacks.
    let mut earlier = resolved.canonical();
    earlier["optimizer"]["amsgrad"] = json!(false);
    let mut unset = at_default.clone();
    unset.push("optimizer.amsgrad".to_owned());
    resolved.require_same_job(&earlier, &unset, [true; 2]).unwrap();
    assert!(
        resolved
            .require_same_job(&earlier, &at_default, [true; 2])
            .unwrap_err()
            .message()
            .contains("`optimizer.amsgrad`")
    );
}

#[test]
fn the_published_schema_has_every_key_of_every_component() {
    let (schema, left_out) = schema(&Installed);
    assert!(left_out.is_empty(), "{left_out:?}");
    let text = schema.to_string();
    for key in ["batch_size", "cautious", "beta2", "min_ratio", "join_turns", "memory_limit", "rope_theta", "profile"] {
        assert!(text.contains(&format!("\"{key}\"")), "{key}");
    }
    assert!(!text.replace("#/$defs/layer", "").contains("#/$defs/"), "every reference leads somewhere");
}

#[test]
fn decay_spares_what_the_patterns_name() {
    let resolved =
        Configuration::with("optimizer = { weight_decay = 0.1, no_decay = ['*.bias', '*norm*'] }").resolved();
    let decay = |name: &str| resolved.settings.optimizer.weight_decay_of(name);
    assert_eq!([decay("a.weight"), decay("a.bias"), decay("input_layernorm.weight")], [0.1, 0.0, 0.0]);
}

#[test]
fn the_first_group_that_matches_gives_rate_and_decay_and_what_it_leaves_out_is_as_without_it() {
    let resolved = Configuration::with(
        "[optimizer]\nlearning_rate = 1e-3\nweight_decay = 0.1\nno_decay = ['*.bias']\n\
         [[optimizer.groups]]\nmatch = ['*.bias', '*norm*']\nlearning_rate = 2e-3\n\
         [[optimizer.groups]]\nmatch = ['*.bias', 'head*']\nweight_decay = 0.5\n",
    )
    .resolved();
    let optimizer = &resolved.settings.optimizer;
    let of = |name: &str| (optimizer.learning_rate_of(name), optimizer.weight_decay_of(name));
    let names = ["a.weight", "a.bias", "norm.weight", "head.weight"];
    assert_eq!(names.map(of), [(1e-3, 0.1), (2e-3, 0.0), (2e-3, 0.1), (1e-3, 0.5)]);
    assert_eq!(optimizer.unused_pattern(names.into_iter()), None);
    assert_eq!(optimizer.unused_pattern(["a.bias", "norm"].into_iter()), Some("head*"));
    let failure = Configuration::with("optimizer.groups = [{ match = ['*'], learning_rat = 1 }]").failure();
    assert_eq!(failure.status(), Status::Configuration);
    assert!(failure.to_string().contains("learning_rat"), "{failure}");
}
