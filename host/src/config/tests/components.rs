//! Choosing components: which keys survive, which are dropped, and what a component is created with.

use super::*;

const ADAMW: &str = "[optimizer]\nuse = 'adamw'\nlearning_rate = 3e-4\nweight_decay = 0.2\nno_decay = ['*.bias']\nbeta1 = 0.8\neps = 1e-6\n";

#[test]
fn another_optimizer_over_an_adamw_config_drops_what_it_does_not_know() {
    let resolved = Configuration::with(ADAMW).set("optimizer=lion").resolved();
    let optimizer = &resolved.settings.optimizer;
    assert_eq!((optimizer.learning_rate, optimizer.weight_decay), (3e-4, 0.2));
    assert_eq!(optimizer.no_decay, ["*.bias"]);
    let dropped: Vec<&str> = resolved.dropped.iter().map(|d| d.key.as_str()).collect();
    assert_eq!(dropped, ["optimizer.eps"]);
    let text = resolved.dropped[0].to_string();
    assert!(text.starts_with("dropped optimizer.eps = 1e-6 ("), "{text}");
    assert!(text.ends_with("job.toml:7): `lion` has no such key"), "{text}");
    assert_eq!(value(&resolved, "optimizer.eps"), &Value::Null);
    let lion = resolved.component(Kind::Optimizer).unwrap();
    assert_eq!((lion.id.as_str(), &lion.config), ("lion", &json!({ "beta1": 0.8, "cautious": false })));
}

#[test]
fn a_key_beside_the_choice_must_be_known_to_the_choice() {
    let configuration = Configuration::with(ADAMW).set("optimizer=lion").set("optimizer.eps=1e-7");
    assert!(
        configuration.message().contains("unknown key `optimizer.eps`\n  at: --set optimizer.eps"),
        "{}",
        configuration.message()
    );
    let configuration = Configuration::with(ADAMW).file("b.toml", "[optimizer]\nuse = 'lion'\neps = 1e-7\n");
    assert!(configuration.message().contains("at: b.toml:3"), "{}", configuration.message());
}

#[test]
fn choosing_back_keeps_every_key() {
    let resolved = Configuration::with(ADAMW).file("b.toml", "optimizer = 'lion'").set("optimizer=adamw").resolved();
    assert!(resolved.dropped.is_empty());
    assert_eq!(value(&resolved, "optimizer.eps"), &json!(1e-6));
}

#[test]
fn a_misspelt_key_is_refused_even_where_it_would_have_been_dropped() {
    let configuration = Configuration::with("[optimizer]\nuse = 'adamw'\nbeta3 = 0.8\n").set("optimizer=lion");
    assert_eq!(
        configuration.message(),
        "error: unknown key `optimizer.beta3`\n  at: job.toml:3\n  help: did you mean `optimizer.beta1`?"
    );
}

#[test]
fn keys_of_a_component_that_is_not_installed_are_dropped_with_its_choice() {
    let resolved =
        Configuration::with("[optimizer]\nuse = 'elsewhere'\nexotic = 1\n").set("optimizer=adamw").resolved();
    assert_eq!(resolved.dropped[0].key, "optimizer.exotic");
}

#[test]
fn another_backend_keeps_where_ranks_meet() {
    let base = "[comm]\nuse = 'grpc'\nworld_size = 2\nrank = 1\naddress = 'node0'\nport = 7\ntls = { cert = 'c' }\n";
    let resolved = Configuration::with(base).file("b.toml", "comm = 'local'").resolved();
    let comm = &resolved.settings.comm;
    assert_eq!((comm.world_size, comm.rank, comm.address.as_str(), comm.port), (2, 1, "node0", 7));
    assert_eq!(resolved.dropped.iter().map(|d| d.key.as_str()).collect::<Vec<_>>(), ["comm.tls"]);
}

#[test]
fn schedulers_are_chosen_like_plugins() {
    let base = "[scheduler]\nuse = 'cosine'\nwarmup_steps = 10\nmin_ratio = 0.1\n";
    let resolved = Configuration::with(base).resolved();
    assert_eq!(resolved.settings.scheduler, Scheduler::Cosine(Decay { warmup_steps: 10, min_ratio: 0.1 }));
    let resolved = Configuration::with(base).set("scheduler=constant").resolved();
    assert_eq!(resolved.settings.scheduler, Scheduler::Constant(Constant { warmup_steps: 10 }));
    assert_eq!(resolved.dropped[0].key, "scheduler.min_ratio");
    let resolved = Configuration::with(base).set("scheduler=polynomial").set("scheduler.power=2").resolved();
    let polynomial = Polynomial { warmup_steps: 10, power: 2.0, min_ratio: 0.1 };
    assert_eq!(resolved.settings.scheduler, Scheduler::Polynomial(polynomial));
    let resolved = Configuration::with(base).set("scheduler=wsd").set("scheduler.decay_steps=5").resolved();
    let wsd = Wsd { warmup_steps: 10, decay_ratio: 0.1, decay_steps: Some(5), min_ratio: 0.1 };
    assert_eq!(resolved.settings.scheduler, Scheduler::Wsd(wsd));
    assert_eq!(Configuration::with("scheduler = 'step'").failure().status(), Status::Configuration);
}

#[test]
fn a_component_gets_its_own_keys_and_the_host_keys_it_names() {
    let resolved =
        Configuration::with("model = 'm'\n[trainer]\nbatch_size = 2\n[comm]\nuse = 'grpc'\ntls = { cert = 'c' }")
            .resolved();
    let config = |kind| resolved.component(kind).map(|chosen| chosen.config.clone()).unwrap();
    assert_eq!(config(Kind::Trainer), json!({ "max_seq_len": 1024, "join_turns": false, "template": null }));
    assert_eq!(resolved.settings.trainer.max_seq_len, 1024, "a component's default stands above the host's");
    assert_eq!(config(Kind::Comm), json!({ "heartbeat_s": 60.0, "tls": { "cert": "c" } }));
    assert_eq!(config(Kind::Optimizer)["beta1"].to_string(), "0.9");
    assert_eq!(config(Kind::Data), json!({ "format": "auto", "fields": {} }));
    assert_eq!(config(Kind::Model), json!({ "rope_theta": null }));
}

#[test]
fn the_model_component_is_told_by_the_model_unless_it_is_chosen() {
    let resolved = Configuration::with("model = 'm'").resolved();
    assert_eq!(resolved.component(Kind::Model).unwrap().id, "llama");
    assert_eq!(origin(&resolved, "model.use"), "the model's config.json");
    assert!(Configuration::new().resolved().component(Kind::Model).is_none());
    assert_eq!(
        Configuration::with("model = 'nowhere'\n").resolved().require_model().unwrap_err().status(),
        Status::Input
    );
    let both = Configuration::with("model = 'nowhere'\ncomm = 'carrier pigeon'\n");
    assert_eq!(both.failure().status(), Status::Plugin, "plugins are checked before models");
    let both = Configuration::with("model = 'nowhere'\ntrainer.join_turns = 3\n");
    assert_eq!(both.failure().status(), Status::Configuration);
}

#[test]
fn every_key_of_every_scheduler_states_its_meaning_and_its_default() {
    for id in Scheduler::IDS {
        let schema = Scheduler::schema(id).unwrap();
        let resolved = Configuration::with(&format!("scheduler = '{id}'")).resolved();
        for (key, property) in schema["properties"].as_object().unwrap() {
            let description = property["description"].as_str().unwrap_or_default();
            assert!(description.contains("Default: "), "{id}.{key}");
            assert!(resolved.entries.iter().any(|e| e.path == ["scheduler", key]), "{id}.{key}");
        }
    }
}
