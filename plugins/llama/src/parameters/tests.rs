//! Against the checkpoints that transformers wrote.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use mdt_plugin_api::Init;
use mdt_plugin_api::serde_json::{self, Value};

use super::parameters;
use crate::config::Architecture;
use crate::family::{Llama, Member, Mistral, Qwen2, Qwen3};

/// Names and shapes of all tensors in a directory's safetensors files: 8 bytes of length, then a JSON header.
fn stored(directory: &Path) -> BTreeMap<String, Vec<usize>> {
    let mut tensors = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            let bytes = fs::read(&path).unwrap();
            let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            let header: BTreeMap<String, Value> = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
            for (name, tensor) in header.into_iter().filter(|(name, _)| name != "__metadata__") {
                tensors.insert(name, serde_json::from_value(tensor["shape"].clone()).unwrap());
            }
        }
    }
    tensors
}

#[test]
fn names_and_shapes_are_those_of_the_checkpoints() {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/models");
    let llamas = ["llama2", "llama3", "linear_sharded", "bf16", "extra_yarn", "extra_dynamic", "extra_biases"];
    let others = [("mistral", &Mistral::FAMILY), ("qwen2", &Qwen2::FAMILY), ("qwen3", &Qwen3::FAMILY)];
    for (model, family) in llamas.map(|model| (model, &Llama::FAMILY)).into_iter().chain(others) {
        let directory = models.join(model);
        let config: Value = serde_json::from_slice(&fs::read(directory.join("config.json")).unwrap()).unwrap();
        let specs = parameters(&Architecture::read(&config, family).unwrap());
        let count = specs.iter().filter(|spec| spec.tied_to.is_none()).count();
        let kept = specs.into_iter().filter(|spec| spec.tied_to.is_none());
        let ours: BTreeMap<_, _> = kept.map(|spec| (spec.name, spec.shape)).collect();
        assert_eq!(ours.len(), count, "{model}: a name occurs twice");
        assert_eq!(ours, stored(&directory), "{model}");
    }
}

#[test]
fn norms_start_at_one_biases_at_zero_and_weights_at_random() {
    let config = serde_json::json!({
        "vocab_size": 8, "hidden_size": 4, "intermediate_size": 6, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 2, "attention_bias": true, "initializer_range": 0.5
    });
    for spec in parameters(&Architecture::read(&config, &Qwen3::FAMILY).unwrap()) {
        let expected = match &spec.name {
            name if name.ends_with(".bias") => Init::Zeros,
            name if name.contains("norm") => Init::Ones,
            _ => Init::Normal { std: 0.5 },
        };
        assert_eq!(spec.init, expected, "{}", spec.name);
    }
}
