//! Against the checkpoints that transformers wrote.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use mdt_plugin_api::serde_json::{self, Value};
use mdt_plugin_api::{Init, Layout};

use super::Decoder;
use crate::families::*;
use crate::family::{Family, read};

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

fn decoder<F: Family>(directory: &Path) -> Decoder {
    let config: Value = serde_json::from_slice(&fs::read(directory.join("config.json")).unwrap()).unwrap();
    read::<F>(&config).unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
}

#[test]
fn names_and_shapes_are_those_of_the_checkpoints() {
    fn check<F: Family>(directory: &str) {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(directory);
        let specs = decoder::<F>(&directory).parameters();
        let (mut count, mut ours) = (0, BTreeMap::new());
        for spec in specs.into_iter().filter(|spec| spec.tied_to.is_none()) {
            let (names, shape) = match spec.stacked_from.is_empty() {
                true => (vec![spec.name], spec.shape),
                false => (spec.stacked_from, spec.shape[1..].to_vec()),
            };
            count += names.len();
            ours.extend(names.into_iter().map(|name| (name, shape.clone())));
        }
        assert_eq!(ours.len(), count, "{}: a name occurs twice", directory.display());
        assert_eq!(ours, stored(&directory), "{}", directory.display());
    }
    for name in ["llama2", "llama3", "linear_sharded", "bf16", "extra_yarn", "extra_dynamic", "extra_biases"] {
        check::<Llama>(&format!("models/{name}"));
    }
    check::<Mistral>("models/mistral");
    check::<Qwen2>("models/qwen2");
    check::<Qwen3>("models/qwen3");
    check::<Gemma>("families/gemma/model");
    check::<Gemma2>("families/gemma2/model");
    check::<Gemma3>("families/gemma3/model");
    check::<Gpt2>("families/gpt2/model");
    check::<Granite>("families/granite/model");
    check::<Mixtral>("families/mixtral/model");
    check::<Olmo2>("families/olmo2/model");
    check::<Phi3>("families/phi3/model");
    check::<Qwen3Moe>("families/qwen3_moe/model");
    check::<Qwen3Moe>("families/qwen3_moe_sparse/model");
    check::<SmolLm3>("families/smollm3_window/model");
    check::<Starcoder2>("families/starcoder2/model");
}

#[test]
fn norms_start_at_one_biases_at_zero_and_weights_at_random() {
    let config = serde_json::json!({
        "vocab_size": 8, "hidden_size": 4, "intermediate_size": 6, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 2, "attention_bias": true, "initializer_range": 0.5
    });
    for spec in read::<Qwen3>(&config).unwrap().parameters() {
        let expected = match &spec.name {
            name if name.ends_with(".bias") => Init::Zeros,
            name if name.contains("norm") => Init::Ones,
            _ => Init::Normal { std: 0.5 },
        };
        assert_eq!(spec.init, expected, "{}", spec.name);
    }
}

#[test]
fn weights_of_gpt2_are_in_out_and_may_lack_their_prefix() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/families/gpt2/model");
    let specs = decoder::<Gpt2>(&directory).parameters();
    let spec = specs.iter().find(|spec| spec.name == "transformer.h.0.mlp.c_fc.weight").unwrap();
    assert_eq!((spec.layout, &spec.aliases), (Layout::InOut, &vec!["h.0.mlp.c_fc.weight".to_owned()]));
}
