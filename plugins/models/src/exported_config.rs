//! Keys that the trained model's `config.json` gets, because other readers have other defaults for them.

use mdt_plugin_api::serde_json::{Map, Value, json};

/// `tie_word_embeddings`, which mlx-lm takes for true where it is absent and transformers for false; rotary positions and numbers of
/// experts under their older names beside the newer ones; the class that transformers loads the model with.
pub fn exported_keys(config: &Value, tied: bool, class: &str) -> Map<String, Value> {
    let mut keys = Map::new();
    keys.insert("tie_word_embeddings".to_owned(), json!(tied));
    let absent = |key: &str| config.get(key).is_none();
    let mut add = |key: &str, value: Value| {
        if absent(key) {
            keys.insert(key.to_owned(), value);
        }
    };
    // mlx-lm and older readers pass over `rope_parameters` without a word, and would compute with other positions.
    if let Some(mut rope) = config.get("rope_parameters").and_then(Value::as_object).cloned() {
        let local = rope.get("sliding_attention").and_then(|local| local.get("rope_theta")).cloned();
        if let Some(local) = local {
            add("rope_local_base_freq", local);
        }
        if let Some(full) = rope.get("full_attention").and_then(Value::as_object).cloned() {
            rope = full;
        }
        if let Some(theta) = rope.shift_remove("rope_theta") {
            add("rope_theta", theta);
        }
        if let Some(part) = rope.get("partial_rotary_factor").cloned() {
            add("partial_rotary_factor", part);
        }
        let kind = rope.get("rope_type").cloned().unwrap_or_else(|| json!("default"));
        let is_plain = |key: &String| !["factor", "attention_factor"].contains(&key.as_str());
        if kind == "longrope" && rope.keys().all(is_plain) {
            if let Some(original) = rope.get("original_max_position_embeddings").cloned() {
                add("original_max_position_embeddings", original);
            }
            // transformers 4 takes these three keys and no others.
            rope.retain(|key, _| ["short_factor", "long_factor"].contains(&key.as_str()));
            rope.insert("type".to_owned(), kind.clone());
        }
        add("rope_scaling", if kind == "default" { Value::Null } else { Value::Object(rope) });
    }
    // Keys that mlx-lm requires, which transformers 5 names otherwise or leaves out.
    let number = |key: &str| config.get(key).and_then(Value::as_u64);
    if config.get("model_type").is_some_and(|kind| kind == "qwen3_moe") {
        if let Some(count) = number("num_local_experts") {
            add("num_experts", json!(count));
        }
        if let (Some(hidden), Some(heads)) = (number("hidden_size"), number("num_attention_heads")) {
            add("head_dim", json!(hidden / heads));
        }
    }
    if config.get("architectures").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        keys.insert("architectures".to_owned(), json!([class]));
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exported(config: Value) -> Value {
        let tied = config.get("tie_word_embeddings").is_some_and(|tied| tied == true);
        Value::Object(exported_keys(&config, tied, "LlamaForCausalLM"))
    }

    #[test]
    fn tied_words_and_a_missing_class_are_always_written() {
        assert_eq!(
            exported(json!({ "architectures": null })),
            json!({ "tie_word_embeddings": false, "architectures": ["LlamaForCausalLM"] })
        );
        let mine = json!({ "architectures": ["Mine"], "tie_word_embeddings": true });
        assert_eq!(exported(mine), json!({ "tie_word_embeddings": true }));
    }

    #[test]
    fn positions_of_phi3_are_written_as_version_4_wants_them() {
        let long = json!({ "rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 0.75,
            "original_max_position_embeddings": 24, "short_factor": [1.0], "long_factor": [2.0] });
        let written = exported(json!({ "rope_parameters": long }));
        assert_eq!(written["rope_scaling"], json!({ "type": "longrope", "short_factor": [1.0], "long_factor": [2.0] }));
        assert_eq!(written["partial_rotary_factor"], 0.75);
        assert_eq!(written["original_max_position_embeddings"], 24);
    }

    #[test]
    fn rope_parameters_are_written_in_the_older_form_too() {
        let linear = json!({ "rope_type": "linear", "factor": 4.0, "rope_theta": 5000.0 });
        let written = exported(json!({ "rope_parameters": linear }));
        assert_eq!(written["rope_theta"], json!(5000.0));
        assert_eq!(written["rope_scaling"], json!({ "rope_type": "linear", "factor": 4.0 }));
        let written = exported(json!({ "rope_parameters": { "rope_type": "default", "rope_theta": 1e6 } }));
        assert_eq!((&written["rope_theta"], &written["rope_scaling"]), (&json!(1e6), &Value::Null));
    }
}
