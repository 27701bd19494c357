//! The trained model's `config.json`.

use mdt_plugin_api::Dtype;
use serde_json::{Map, Value, json};

use crate::model::Packing;

/// The model's config with its keys in their order: the type of its weights, and the keys that the model plugin gives. Keys about
/// quantisation are removed, because the trained weights are not quantised.
pub(super) fn trained(config: &Value, of_plugin: &Map<String, Value>, dtype: Dtype) -> Value {
    let mut keys = config.as_object().cloned().unwrap_or_default();
    // `shift_remove` keeps the order of the others.
    for quantisation in ["quantization", "quantization_config"] {
        keys.shift_remove(quantisation);
    }
    // transformers 4 writes `torch_dtype`, 5 writes `dtype`; both read the former.
    let written: Vec<_> = ["dtype", "torch_dtype"].into_iter().filter(|key| keys.contains_key(*key)).collect();
    for key in if written.is_empty() { vec!["torch_dtype"] } else { written } {
        keys.insert(key.to_owned(), json!(dtype.name()));
    }
    keys.extend(of_plugin.iter().map(|(key, value)| (key.clone(), value.clone())));
    Value::Object(keys)
}

/// The config of a model with quantised weights: as it was, with the keys that the model plugin gives and, where the job
/// quantised them, what mlx-lm needs to know of that.
pub(super) fn quantised(config: &Value, of_plugin: &Map<String, Value>, by_job: Option<Packing>) -> Value {
    let mut keys = config.as_object().cloned().unwrap_or_default();
    if let Some(Packing { bits, group_size }) = by_job {
        let how = json!({ "group_size": group_size, "bits": bits, "mode": "affine" });
        // Under both names, as mlx-lm writes it.
        keys.extend(["quantization", "quantization_config"].map(|key| (key.to_owned(), how.clone())));
    }
    keys.extend(of_plugin.iter().map(|(key, value)| (key.clone(), value.clone())));
    Value::Object(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(config: &str, of_plugin: &str) -> String {
        let of_plugin = serde_json::from_str(of_plugin).unwrap();
        trained(&serde_json::from_str(config).unwrap(), &of_plugin, Dtype::F32).to_string()
    }

    #[test]
    fn keys_keep_their_order_and_the_key_of_the_type_keeps_its_name() {
        let config = r#"{"z":1,"torch_dtype":"bfloat16","architectures":["A"],"tied":true,"a":[2,{"y":0,"b":0}]}"#;
        assert_eq!(
            text(config, r#"{"tied":false}"#),
            r#"{"z":1,"torch_dtype":"float32","architectures":["A"],"tied":false,"a":[2,{"y":0,"b":0}]}"#
        );
        assert_eq!(text(r#"{"dtype":"float16"}"#, r#"{"b":1,"a":2}"#), r#"{"dtype":"float32","b":1,"a":2}"#);
        assert_eq!(text("{}", "{}"), r#"{"torch_dtype":"float32"}"#);
        let in_bf16 = trained(&json!({"dtype": "float32"}), &Map::new(), Dtype::BF16);
        assert_eq!(in_bf16, json!({"dtype": "bfloat16"}));
    }

    #[test]
    fn the_config_of_weights_that_stay_quantised_says_how() {
        let config = json!({"a": 1, "quantization": {"bits": 4, "b": false}, "dtype": "bfloat16"});
        assert_eq!(quantised(&config, &Map::new(), None), config);
        let said = quantised(&json!({"a": 1}), &Map::new(), Some(Packing { bits: 3, group_size: 32 }));
        assert_eq!(said["quantization"], json!({"group_size": 32, "bits": 3, "mode": "affine"}));
        assert_eq!(said["quantization_config"], said["quantization"]);
    }

    #[test]
    fn a_config_of_quantised_weights_no_longer_says_so() {
        let config = r#"{"a":1,"quantization":{"bits":4},"quantization_config":{"bits":4},"dtype":"float16"}"#;
        assert_eq!(text(config, "{}"), r#"{"a":1,"dtype":"float32"}"#);
    }
}
