//! The trained model's `config.json`.

use serde_json::{Map, Value, json};

/// The class that transformers loads each family with.
const ARCHITECTURES: [(&str, &str); 4] = [
    ("llama", "LlamaForCausalLM"),
    ("mistral", "MistralForCausalLM"),
    ("qwen2", "Qwen2ForCausalLM"),
    ("qwen3", "Qwen3ForCausalLM"),
];

/// The model's config with its keys in their order: type f32, the real value of `tie_word_embeddings`, an architecture.
/// Keys about quantisation are removed, because the trained weights are not quantised.
pub(super) fn trained(config: &Value, tie_word_embeddings: bool) -> Value {
    let mut keys = config.as_object().cloned().unwrap_or_default();
    // `shift_remove` keeps the order of the others.
    for quantisation in ["quantization", "quantization_config"] {
        keys.shift_remove(quantisation);
    }
    // transformers 4 writes `torch_dtype`, 5 writes `dtype`; both read the former.
    let written: Vec<_> = ["dtype", "torch_dtype"].into_iter().filter(|key| keys.contains_key(*key)).collect();
    for key in if written.is_empty() { vec!["torch_dtype"] } else { written } {
        keys.insert(key.to_owned(), json!("float32"));
    }
    keys.insert("tie_word_embeddings".to_owned(), json!(tie_word_embeddings));
    fill_rope(&mut keys);
    fill_architecture(&mut keys);
    Value::Object(keys)
}

/// Adds the form of transformers 4 (`rope_theta`, `rope_scaling`) beside `rope_parameters`, the form of transformers 5:
/// mlx-lm and older readers ignore the latter silently and would compute with other positions.
fn fill_rope(keys: &mut Map<String, Value>) {
    let Some(mut rope) = keys.get("rope_parameters").and_then(Value::as_object).cloned() else { return };
    if let Some(theta) = rope.shift_remove("rope_theta") {
        keys.entry("rope_theta").or_insert(theta);
    }
    let scales = rope.get("rope_type").and_then(Value::as_str).is_some_and(|kind| kind != "default");
    keys.entry("rope_scaling").or_insert(if scales { Value::Object(rope) } else { Value::Null });
}

fn fill_architecture(keys: &mut Map<String, Value>) {
    if keys.get("architectures").and_then(Value::as_array).is_some_and(|names| !names.is_empty()) {
        return;
    }
    let model_type = keys.get("model_type").and_then(Value::as_str);
    if let Some((_, class)) = ARCHITECTURES.iter().find(|(family, _)| Some(*family) == model_type) {
        keys.insert("architectures".to_owned(), json!([class]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(config: &str, tied: bool) -> String {
        trained(&serde_json::from_str(config).unwrap(), tied).to_string()
    }

    #[test]
    fn keys_keep_their_order_and_the_key_of_the_type_keeps_its_name() {
        let config = r#"{"z":1,"torch_dtype":"bfloat16","architectures":["A"],"tie_word_embeddings":true,"a":[2,{"y":0,"b":0}]}"#;
        assert_eq!(
            text(config, false),
            r#"{"z":1,"torch_dtype":"float32","architectures":["A"],"tie_word_embeddings":false,"a":[2,{"y":0,"b":0}]}"#
        );
        assert_eq!(text(r#"{"dtype":"float16"}"#, true), r#"{"dtype":"float32","tie_word_embeddings":true}"#);
        assert_eq!(text("{}", true), r#"{"torch_dtype":"float32","tie_word_embeddings":true}"#);
    }

    #[test]
    fn rope_parameters_are_written_in_the_older_form_too() {
        let config = r#"{"rope_parameters":{"rope_type":"linear","factor":4.0,"rope_theta":5000.0}}"#;
        let written = trained(&serde_json::from_str(config).unwrap(), true);
        assert_eq!(written["rope_parameters"]["rope_theta"], json!(5000.0));
        assert_eq!(written["rope_theta"], json!(5000.0));
        assert_eq!(written["rope_scaling"], json!({ "rope_type": "linear", "factor": 4.0 }));
        let config = r#"{"rope_parameters":{"rope_type":"default","rope_theta":1e6}}"#;
        let written = trained(&serde_json::from_str(config).unwrap(), true);
        assert_eq!((&written["rope_theta"], &written["rope_scaling"]), (&json!(1e6), &Value::Null));
    }

    #[test]
    fn a_missing_architecture_is_filled_for_known_families_only() {
        let class = |config: &str| trained(&serde_json::from_str(config).unwrap(), true)["architectures"].clone();
        assert_eq!(class(r#"{"model_type":"llama"}"#), json!(["LlamaForCausalLM"]));
        assert_eq!(class(r#"{"model_type":"llama","architectures":null}"#), json!(["LlamaForCausalLM"]));
        assert_eq!(class(r#"{"model_type":"llama","architectures":["Mine"]}"#), json!(["Mine"]));
        assert_eq!(class(r#"{"model_type":"mine"}"#), Value::Null);
    }

    #[test]
    fn a_config_of_quantised_weights_no_longer_says_so() {
        let config = r#"{"a":1,"quantization":{"bits":4},"quantization_config":{"bits":4},"dtype":"float16"}"#;
        assert_eq!(text(config, true), r#"{"a":1,"dtype":"float32","tie_word_embeddings":true}"#);
    }
}
