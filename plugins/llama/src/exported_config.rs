//! Keys that the trained model's `config.json` gets, because other readers have other defaults for them.

use mdt_plugin_api::serde_json::{Map, Value, json};

use crate::config::Architecture;
use crate::family::Family;

/// `tie_word_embeddings`, which mlx-lm takes for true where it is absent and transformers for false; rotary positions in the
/// older form beside the newer one; the class that transformers loads the model with.
pub fn exported_keys(config: &Value, architecture: &Architecture, family: &Family) -> Map<String, Value> {
    let mut keys = Map::new();
    keys.insert("tie_word_embeddings".to_owned(), json!(architecture.tie_word_embeddings));
    let absent = |key: &str| config.get(key).is_none();
    // mlx-lm and older readers pass over `rope_parameters` without a word, and would compute with other positions.
    if let Some(mut rope) = config.get("rope_parameters").and_then(Value::as_object).cloned() {
        if let Some(theta) = rope.shift_remove("rope_theta").filter(|_| absent("rope_theta")) {
            keys.insert("rope_theta".to_owned(), theta);
        }
        if absent("rope_scaling") {
            let scales = rope.get("rope_type").and_then(Value::as_str).is_some_and(|kind| kind != "default");
            keys.insert("rope_scaling".to_owned(), if scales { Value::Object(rope) } else { Value::Null });
        }
    }
    if config.get("architectures").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        keys.insert("architectures".to_owned(), json!([family.class]));
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family::{Llama, Member};

    fn exported(mut config: Value) -> Value {
        let sizes = json!({ "vocab_size": 8, "hidden_size": 4, "intermediate_size": 4, "num_hidden_layers": 1,
            "num_attention_heads": 1 });
        config.as_object_mut().unwrap().extend(sizes.as_object().unwrap().clone());
        let architecture = Architecture::read(&config, &Llama::FAMILY).unwrap();
        Value::Object(exported_keys(&config, &architecture, &Llama::FAMILY))
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
    fn rope_parameters_are_written_in_the_older_form_too() {
        let linear = json!({ "rope_type": "linear", "factor": 4.0, "rope_theta": 5000.0 });
        let written = exported(json!({ "rope_parameters": linear }));
        assert_eq!(written["rope_theta"], json!(5000.0));
        assert_eq!(written["rope_scaling"], json!({ "rope_type": "linear", "factor": 4.0 }));
        let written = exported(json!({ "rope_parameters": { "rope_type": "default", "rope_theta": 1e6 } }));
        assert_eq!((&written["rope_theta"], &written["rope_scaling"]), (&json!(1e6), &Value::Null));
    }
}
