use mdt_plugin_api::serde_json::{Value, json};

use super::Architecture;
use crate::family::{Family, Llama, Member, Mistral, Qwen2, Qwen3};

fn small() -> Value {
    json!({
        "model_type": "llama", "vocab_size": 128, "hidden_size": 32, "intermediate_size": 64,
        "num_hidden_layers": 2, "num_attention_heads": 4
    })
}

fn with(key: &str, value: Value) -> Value {
    let mut config = small();
    config[key] = value;
    config
}

fn fixture(model: &str, file: &str) -> Value {
    let path = format!("{}/../../tests/fixtures/models/{model}/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    mdt_plugin_api::serde_json::from_str(&text).unwrap()
}

#[test]
fn both_forms_of_transformers_give_the_same_model() {
    let llamas = ["llama2", "llama3", "linear_sharded", "bf16", "extra_yarn", "extra_dynamic", "extra_biases"];
    let others = [("mistral", &Mistral::FAMILY), ("qwen2", &Qwen2::FAMILY), ("qwen3", &Qwen3::FAMILY)];
    for (model, family) in llamas.map(|model| (model, &Llama::FAMILY)).into_iter().chain(others) {
        let newer = Architecture::read(&fixture(model, "config.json"), family).unwrap();
        let older = Architecture::read(&fixture(model, "config.transformers4.json"), family).unwrap();
        assert_eq!(newer, older, "{model}");
    }
    let llama3 = Architecture::read(&fixture("llama3", "config.json"), &Llama::FAMILY).unwrap();
    assert_eq!((llama3.heads, llama3.key_value_heads, llama3.head_dim), (4, 2, 16));
    assert!(llama3.tie_word_embeddings && !llama3.query_key_value_bias && !llama3.mlp_bias);
    assert_eq!(llama3.rms_norm_eps, 1e-5);
    let biases = Architecture::read(&fixture("extra_biases", "config.json"), &Llama::FAMILY).unwrap();
    assert!(biases.query_key_value_bias && biases.output_bias && biases.mlp_bias);
}

#[test]
fn absent_and_null_keys_have_the_defaults_of_transformers() {
    let plain = Architecture::read(&small(), &Llama::FAMILY).unwrap();
    assert_eq!((plain.key_value_heads, plain.head_dim, plain.tie_word_embeddings), (4, 8, false));
    assert_eq!((plain.rms_norm_eps, plain.initializer_range), (1e-6, 0.02));
    let nulls = ["num_key_value_heads", "head_dim", "rope_scaling", "rope_parameters", "pad_token_id", "rms_norm_eps"];
    for key in nulls {
        assert_eq!(Architecture::read(&with(key, Value::Null), &Llama::FAMILY).unwrap(), plain, "{key}");
    }
    let explicit = with("rope_parameters", json!({ "rope_type": "default", "rope_theta": 10000.0 }));
    assert_eq!(Architecture::read(&explicit, &Llama::FAMILY).unwrap(), plain);
}

#[test]
fn what_cannot_work_is_refused_by_its_key() {
    let rope = |parameters: Value| with("rope_scaling", parameters);
    let cases = [
        (with("hidden_size", Value::Null), "hidden_size"),
        (with("hidden_size", json!("wide")), "hidden_size"),
        (with("vocab_size", json!(0)), "vocab_size"),
        (with("num_hidden_layers", json!(-1)), "num_hidden_layers"),
        (with("num_attention_heads", json!(5)), "num_attention_heads"),
        (with("num_key_value_heads", json!(3)), "num_key_value_heads"),
        (with("head_dim", json!(7)), "head_dim"),
        (with("rms_norm_eps", json!(-1e-5)), "rms_norm_eps"),
        (with("tie_word_embeddings", json!("yes")), "tie_word_embeddings"),
        (with("model_type", json!("qwen2")), "model_type"),
        (with("hidden_act", json!("gelu")), "hidden_act"),
        (with("attention_dropout", json!(0.1)), "attention_dropout"),
        (with("partial_rotary_factor", json!(0.5)), "partial_rotary_factor"),
        (with("rope_theta", json!(0)), "rope_theta"),
        (rope(json!([1])), "rope_scaling"),
        (rope(json!({ "type": "longrope", "factor": 2.0 })), "rope_scaling.rope_type"),
        (rope(json!({ "type": "linear" })), "rope_scaling.factor"),
        (rope(json!({ "rope_type": "linear", "factor": 0.0 })), "rope_scaling.factor"),
        (
            rope(json!({ "rope_type": "llama3", "factor": 8.0, "high_freq_factor": 4.0 })),
            "rope_scaling.low_freq_factor",
        ),
        (
            rope(json!({ "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 4.0 })),
            "rope_scaling.low_freq_factor",
        ),
        (with("rope_parameters", json!({ "rope_type": "own" })), "rope_parameters.rope_type"),
    ];
    for (config, key) in cases {
        let error = Architecture::read(&config, &Llama::FAMILY).unwrap_err();
        assert!(error.context().contains(&("key".to_owned(), key.to_owned())), "{key}: {error:?}");
        assert!(error.message().contains(key), "{key}: {error}");
    }
    let error = Architecture::read(&Value::Null, &Llama::FAMILY).unwrap_err();
    assert!(error.message().contains("JSON object"), "{error}");
}

#[test]
fn absent_keys_have_the_defaults_of_each_family() {
    let read = |family: &Family, edit: fn(&mut Value)| {
        let mut config = small();
        config["model_type"] = json!(family.model_type);
        config["num_attention_heads"] = json!(32);
        config["hidden_size"] = json!(64);
        edit(&mut config);
        Architecture::read(&config, family).unwrap()
    };
    // Key/value heads, head_dim, biases of q, k, v and of o, norms of queries and keys, window.
    let summary = |a: Architecture| {
        (a.key_value_heads, a.head_dim, a.query_key_value_bias, a.output_bias, a.query_key_norm, a.windows[0])
    };
    let absent: fn(&mut Value) = |_| ();
    assert_eq!(summary(read(&Llama::FAMILY, absent)), (32, 2, false, false, false, None));
    assert_eq!(summary(read(&Mistral::FAMILY, absent)), (8, 2, false, false, false, Some(4096)));
    assert_eq!(summary(read(&Qwen2::FAMILY, absent)), (32, 2, true, false, false, None));
    assert_eq!(summary(read(&Qwen3::FAMILY, absent)), (32, 128, false, false, true, None));
    let null = read(&Mistral::FAMILY, |config| config["num_key_value_heads"] = Value::Null);
    assert_eq!(null.key_value_heads, 32);
    // Keys that the family's class does not read.
    let biased: fn(&mut Value) = |config| {
        config["attention_bias"] = json!(true);
        config["mlp_bias"] = json!(true);
    };
    let biases = |a: Architecture| (a.query_key_value_bias, a.output_bias, a.mlp_bias);
    assert_eq!(biases(read(&Llama::FAMILY, biased)), (true, true, true));
    assert_eq!(biases(read(&Mistral::FAMILY, biased)), (false, false, false));
    assert_eq!(biases(read(&Qwen2::FAMILY, biased)), (true, false, false));
    assert_eq!(biases(read(&Qwen3::FAMILY, biased)), (true, true, false));
}

#[test]
fn a_component_reads_its_own_family_only() {
    let error = Architecture::read(&small(), &Qwen3::FAMILY).unwrap_err();
    assert!(error.message().contains("\"llama\"") && error.message().contains("\"qwen3\""), "{error}");
}
