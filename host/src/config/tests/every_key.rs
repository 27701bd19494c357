//! Every key set in a file, in the environment and on the command line changes the resolved configuration.

use super::*;

/// A value that `key` may have and does not have by default, as TOML.
fn another(key: &str, schema: &Value, now: &Value) -> String {
    let text = |value: &str| format!("\"{value}\"");
    match key {
        "scheduler.use" => return text("constant"),
        "optimizer.use" => return text("lion"),
        "comm.use" => return text("local"),
        "observers" => return "[\"board\"]".into(),
        "comm.rank" => return "2".into(),
        "optimizer.groups" => return "[{ match = [\"x\"] }]".into(),
        "trainer.models" => return "{ teacher = { path = \"m\" } }".into(),
        "model.quantize" => return "{ bits = 8 }".into(),
        "model.adapter" => return "{ kind = \"lora\" }".into(),
        "comm.tls" => return "{ cert = \"c\" }".into(),
        // Only one component of these kinds is installed, so the choice can be written but not changed.
        "model.use" => return text("llama"),
        _ => {}
    }
    let types = ["integer", "number", "boolean", "string", "array", "object"];
    let shape = super::super::schema::Shape::of(schema);
    match types.into_iter().find(|name| shape.allows(name)) {
        Some("integer") => (now.as_i64().unwrap_or(6) + 2).to_string(),
        Some("number") => (now.as_f64().unwrap_or(0.0) / 2.0 + 0.25).to_string(),
        Some("boolean") => (now != &json!(true)).to_string(),
        Some("array") => "[\"x\"]".into(),
        Some("object") => "{ x = \"y\" }".into(),
        _ => {
            let nodes = shape.nodes().iter();
            let listed =
                nodes.flat_map(|n| n.get("const").into_iter().chain(n["enum"].as_array().into_iter().flatten()));
            listed.into_iter().find(|value| *value != now).map_or(text("x"), Value::to_string)
        }
    }
}

#[test]
fn every_key_changes_the_configuration_from_every_source() {
    // A base in which every key is at its default, on the components with the most keys.
    let base = "model = 'm'\ncomm = { use = 'grpc', world_size = 5 }\n";
    let before = Configuration::with(base).resolved();
    let mut keys = 0;
    for entry in &before.entries {
        let key = entry.path.join(".");
        let schema = schema_of(&entry.path);
        if matches!(key.as_str(), "data.use" | "tokenizer.use" | "trainer.use" | "compute.use") {
            // No second component of the kind: a choice that is not there must be refused, which it is by name.
            let failure = Configuration::with(base).set(&format!("{key}=other")).failure();
            assert_eq!(failure.status(), Status::Plugin, "{key}");
            continue;
        }
        let new = another(&key, &schema, &entry.value);
        let variable = format!("MDT_{}", key.to_uppercase().replace('.', "__"));
        let sources = [
            ("file", Configuration::with(base).file("b.toml", &format!("{key} = {new}\n"))),
            ("profile", Configuration::with(base).file("b.toml", &format!("profile.p.{key} = {new}\n")).profile("p")),
            ("environment", Configuration::with(base).variable(&variable, &new)),
            ("--set", Configuration::with(base).set(&format!("{key}={new}"))),
        ];
        for (source, configuration) in sources {
            let after = configuration.resolved();
            let from = after.entries.iter().find(|e| e.path.starts_with(&entry.path)).map(|e| e.origin.clone());
            assert_ne!(from.as_ref(), Some(&entry.origin), "{key} from {source}");
            if key != "model.use" {
                assert_ne!(value(&after, &key), &entry.value, "{key} from {source}");
                assert_ne!(after.values, before.values, "{key} from {source}");
                assert_ne!(
                    (format!("{:?}", after.settings), components_of(&after)),
                    (format!("{:?}", before.settings), components_of(&before)),
                    "{key} from {source} reaches neither the host nor a component",
                );
            }
        }
        keys += 1;
    }
    assert!(keys > 40, "only {keys} keys were tried");
}

#[test]
fn every_listed_key_is_resolved_to_something() {
    let resolved = Configuration::with("model = 'm'\ncomm = 'grpc'\n").resolved();
    let host = super::super::section_schema::host_schema();
    for (name, section) in host["properties"].as_object().unwrap() {
        for key in section["properties"].as_object().into_iter().flatten().map(|(key, _)| key) {
            let there = resolved.entries.iter().any(|e| e.path[0] == *name && e.path[1] == *key);
            assert!(there, "{name}.{key}");
        }
    }
}

#[test]
fn every_key_states_its_meaning_and_its_default() {
    let host = super::super::section_schema::host_schema();
    for (name, section) in host["properties"].as_object().unwrap() {
        assert!(section["description"].is_string(), "{name}");
        for (key, property) in section["properties"].as_object().into_iter().flatten() {
            let description = property["description"].as_str().unwrap_or_default();
            assert!(description.contains("Default: "), "{name}.{key}");
        }
    }
}

fn components_of(resolved: &Resolved) -> String {
    Kind::ALL.map(|kind| format!("{:?}", resolved.component(kind))).concat()
}

/// The schema of one key, of whichever component has it.
fn schema_of(path: &[String]) -> Value {
    let host = &super::super::section_schema::host_schema()["properties"];
    let [section, key, ..] = path else {
        return host[&path[0]].clone();
    };
    if let Some(property) = host[section]["properties"].get(key) {
        return property.clone();
    }
    let own = match Kind::from_name(section) {
        Some(kind) => Installed.ids(kind).into_iter().map(|id| Installed.schema(kind, &id).unwrap()).collect(),
        None => vec![schemars::schema_for!(Decay).to_value()],
    };
    own.iter().find_map(|schema| schema["properties"].get(key).cloned()).unwrap_or(json!({}))
}
