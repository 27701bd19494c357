use mdt_plugin_api::serde_json::{self, Value, json};

use crate::attention::{Attention, QueryKeyNorm};
use crate::decoder::Decoder;
use crate::families::*;
use crate::family::{Family, read};
use crate::feed_forward::FeedForward;

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

fn fixture(path: &str) -> Value {
    let path = format!("{}/../../tests/fixtures/{path}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_json::from_str(&text).unwrap()
}

fn attention(decoder: &Decoder) -> &Attention {
    &decoder.layers[0].attention
}

#[track_caller]
fn refused(error: mdt_plugin_api::Error, key: &str) {
    assert!(error.context().contains(&("key".to_owned(), key.to_owned())), "{key}: {error:?}");
    assert!(error.message().contains(key), "{key}: {error}");
}

/// The decoder of either form of a fixture's config.
fn both_forms<F: Family>(newer: &str, older: &str) -> Decoder {
    let read = |path: &str| read::<F>(&fixture(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    assert_eq!(read(newer), read(older), "{newer}");
    read(newer)
}

#[test]
fn both_forms_of_transformers_give_the_same_model() {
    fn model<F: Family>(name: &str) -> Decoder {
        both_forms::<F>(&format!("models/{name}/config.json"), &format!("models/{name}/config.transformers4.json"))
    }
    fn family<F: Family>(name: &str) -> Decoder {
        both_forms::<F>(
            &format!("families/{name}/model/config.json"),
            &format!("families/{name}/config.transformers4.json"),
        )
    }
    for name in ["llama2", "linear_sharded", "bf16", "extra_yarn", "extra_dynamic"] {
        model::<Llama>(name);
    }
    model::<Mistral>("mistral");
    model::<Qwen2>("qwen2");
    model::<Qwen3>("qwen3");
    family::<Gemma>("gemma");
    family::<Gemma2>("gemma2");
    family::<Gemma3>("gemma3");
    family::<Gpt2>("gpt2");
    family::<Granite>("granite");
    family::<Mixtral>("mixtral");
    family::<Olmo2>("olmo2");
    family::<Phi3>("phi3");
    family::<Phi3>("phi3_long");
    family::<Qwen2>("qwen2_window");
    family::<Qwen3>("qwen3_window");
    family::<Qwen3Moe>("qwen3_moe");
    family::<Qwen3Moe>("qwen3_moe_sparse");
    family::<SmolLm3>("smollm3");
    family::<SmolLm3>("smollm3_window");
    family::<Starcoder2>("starcoder2");

    let llama3 = model::<Llama>("llama3");
    assert_eq!((attention(&llama3).heads, attention(&llama3).key_value_heads, attention(&llama3).head_dim), (4, 2, 16));
    assert!(llama3.tied && !attention(&llama3).input_bias);
    let biases = model::<Llama>("extra_biases");
    assert!(attention(&biases).input_bias && attention(&biases).output_bias);
    assert!(matches!(biases.layers[0].feed_forward, FeedForward::Gated(inner) if inner.bias));
}

#[test]
fn absent_and_null_keys_have_the_defaults_of_transformers() {
    let plain = read::<Llama>(&small()).unwrap();
    assert_eq!((attention(&plain).key_value_heads, attention(&plain).head_dim, plain.tied), (4, 8, false));
    let nulls = ["num_key_value_heads", "head_dim", "rope_scaling", "rope_parameters", "pad_token_id", "rms_norm_eps"];
    for key in nulls {
        assert_eq!(read::<Llama>(&with(key, Value::Null)).unwrap(), plain, "{key}");
    }
    let explicit = with("rope_parameters", json!({ "rope_type": "default", "rope_theta": 10000.0 }));
    assert_eq!(read::<Llama>(&explicit).unwrap(), plain);
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
        (with("hidden_act", json!("quick_gelu")), "hidden_act"),
        (with("attention_dropout", json!(1)), "attention_dropout"),
        (with("partial_rotary_factor", json!(0.5)), "partial_rotary_factor"),
        (with("rope_theta", json!(0)), "rope_theta"),
        (rope(json!([1])), "rope_scaling"),
        (rope(json!({ "type": "longrope", "short_factor": [1] })), "rope_scaling.short_factor"),
        (rope(json!({ "type": "longrope", "short_factor": [1, 1, 1, 1] })), "rope_scaling.long_factor"),
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
        (with("rope_parameters", json!({ "full_attention": {} })), "rope_parameters.full_attention"),
    ];
    for (config, key) in cases {
        refused(read::<Llama>(&config).unwrap_err(), key);
    }
    let error = read::<Llama>(&Value::Null).unwrap_err();
    assert!(error.message().contains("JSON object"), "{error}");
}

#[test]
fn a_key_that_would_be_another_model_is_refused_where_the_family_does_not_read_it() {
    for (key, value) in [
        ("use_bidirectional_attention", json!(true)),
        ("attn_logit_softcapping", json!(50.0)),
        ("query_pre_attn_scalar", json!(256)),
        ("logits_scaling", json!(8.0)),
        ("num_local_experts", json!(8)),
        ("clip_qkv", json!(8.0)),
        ("layer_types", json!(["full_attention", "sliding_attention"])),
    ] {
        refused(read::<Llama>(&with(key, value)).unwrap_err(), key);
    }
    let plain = read::<Llama>(&small()).unwrap();
    for (key, value) in [
        ("use_bidirectional_attention", Value::Null),
        ("attn_logit_softcapping", Value::Null),
        ("logits_scaling", json!(1)),
        ("partial_rotary_factor", json!(1.0)),
        ("use_qk_norm", json!(false)),
        ("layer_types", json!(["full_attention", "full_attention"])),
        ("pretraining_tp", json!(2)),
        ("my_own", json!({ "note": 1 })),
    ] {
        assert_eq!(read::<Llama>(&with(key, value)).unwrap(), plain, "{key}");
    }
}

#[test]
fn absent_keys_have_the_defaults_of_each_family() {
    fn of<F: Family>(edit: fn(&mut Value)) -> Decoder {
        let mut config = small();
        config["model_type"] = json!(F::MODEL_TYPE);
        config["num_attention_heads"] = json!(32);
        config["hidden_size"] = json!(64);
        edit(&mut config);
        read::<F>(&config).unwrap()
    }
    // Key/value heads, head_dim, biases of q, k, v and of o, window, whether the head is tied.
    let summary = |decoder: Decoder| {
        let Attention { key_value_heads, head_dim, input_bias, output_bias, window, .. } = *attention(&decoder);
        (key_value_heads, head_dim, input_bias, output_bias, window, decoder.tied)
    };
    let absent: fn(&mut Value) = |_| ();
    assert_eq!(summary(of::<Llama>(absent)), (32, 2, false, false, None, false));
    assert_eq!(summary(of::<Mistral>(absent)), (8, 2, false, false, Some(4096), false));
    assert_eq!(summary(of::<Mixtral>(absent)), (8, 2, false, false, None, false));
    assert_eq!(summary(of::<Qwen2>(absent)), (32, 2, true, false, None, false));
    assert_eq!(summary(of::<Qwen3>(absent)), (32, 128, false, false, None, false));
    assert_eq!(summary(of::<Qwen3Moe>(absent)), (4, 2, false, false, None, false));
    assert_eq!(summary(of::<Gemma>(absent)), (16, 256, false, false, None, true));
    assert_eq!(summary(of::<Gemma2>(absent)), (4, 256, false, false, Some(4096), true));
    assert_eq!(summary(of::<Gemma3>(absent)), (4, 256, false, false, Some(4096), true));
    assert_eq!(summary(of::<Phi3>(absent)), (32, 2, false, false, None, false));
    assert_eq!(summary(of::<SmolLm3>(absent)), (4, 2, false, false, None, true));
    assert_eq!(summary(of::<Olmo2>(absent)), (32, 2, false, false, None, false));
    assert_eq!(summary(of::<Granite>(absent)), (32, 2, false, false, None, false));
    assert_eq!(summary(of::<Starcoder2>(absent)), (2, 2, true, true, None, true));
    assert_eq!(attention(&of::<Qwen3>(absent)).query_key_norm, QueryKeyNorm::EachHead);
    let null = of::<Mistral>(|config| config["num_key_value_heads"] = Value::Null);
    assert_eq!(attention(&null).key_value_heads, 32);
    let biased: fn(&mut Value) = |config| config["attention_bias"] = json!(true);
    let biases = |decoder: Decoder| (attention(&decoder).input_bias, attention(&decoder).output_bias);
    assert_eq!(biases(of::<Llama>(biased)), (true, true));
    assert_eq!(biases(of::<Qwen2>(biased)), (true, false));
    assert_eq!(biases(of::<Qwen3>(biased)), (true, true));
    let windows = |decoder: Decoder| decoder.layers.iter().map(|l| l.attention.window).collect::<Vec<_>>();
    assert_eq!(windows(of::<Gemma2>(absent)), [Some(4096), None]);
}

#[test]
fn a_component_reads_its_own_family_only() {
    let error = read::<Qwen3>(&small()).unwrap_err();
    assert!(error.message().contains("\"llama\"") && error.message().contains("\"qwen3\""), "{error}");
}
