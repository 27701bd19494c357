//! Against `LlamaRotaryEmbedding` of transformers 5.23 (`inv_freq`, `attention_scaling`) at head_dim 16.

use mdt_plugin_api::serde_json::{Value, json};

use super::{Frequencies, Rope, RopeDefaults};
use crate::json::Object;

const DEFAULTS: RopeDefaults = RopeDefaults { head_dim: 16, max_positions: 2048, ..RopeDefaults::PLAIN };

fn frequencies(max_positions: usize, parameters: Value, length: usize) -> Frequencies {
    let config = json!({ "max_position_embeddings": max_positions, "rope_parameters": parameters });
    Rope::read(&Object::root(&config).unwrap(), &DEFAULTS).unwrap().of_length(length)
}

#[track_caller]
fn assert_same(got: Frequencies, inverse: [f64; 8], scale: f64) {
    assert_eq!(got.inverse.len(), inverse.len());
    for (got, want) in got.inverse.iter().zip(inverse) {
        assert!((f64::from(*got) - want).abs() <= 3e-7 * want, "got {got}, transformers has {want}");
    }
    assert!((got.scale - scale).abs() < 1e-12, "got {}, transformers has {scale}", got.scale);
}

const PLAIN: [f64; 8] =
    [1.0, 0.316227764, 0.100000001, 0.0316227786, 0.00999999978, 0.00316227786, 0.00100000005, 0.000316227786];

#[test]
fn default_and_linear() {
    assert_same(frequencies(2048, json!({}), 40), PLAIN, 1.0);
    let linear = json!({ "rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0 });
    assert_same(frequencies(2048, linear, 40), PLAIN.map(|frequency| frequency / 4.0), 1.0);
}

#[test]
fn llama3() {
    let parameters = json!({
        "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64
    });
    let want = [
        1.0,
        0.079403013,
        0.00470075384,
        0.000911583134,
        0.000176776681,
        3.42810235e-05,
        6.64786967e-06,
        1.28917316e-06,
    ];
    assert_same(frequencies(128, parameters, 40), want, 1.0);
}

#[test]
fn yarn() {
    let parameters = json!({
        "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32
    });
    let want =
        [1.0, 0.197642356, 0.0250000004, 0.00790569466, 0.00249999994, 0.000790569466, 0.000250000012, 7.90569466e-05];
    assert_same(frequencies(128, parameters, 40), want, 1.138629436111989);

    let all_keys = json!({
        "rope_type": "yarn", "rope_theta": 10000.0, "factor": 40.0, "original_max_position_embeddings": 4096,
        "mscale": 1.0, "mscale_all_dim": 0.7, "beta_fast": 16, "beta_slow": 2, "truncate": false
    });
    let want =
        [1.0, 0.316227764, 0.100000001, 0.0316227786, 0.00579010462, 0.000123952457, 2.49999994e-05, 7.90569447e-06];
    assert_same(frequencies(163840, all_keys, 40), want, 1.0879546075066122);
}

#[test]
fn dynamic_scales_beyond_the_length_of_the_model_only() {
    let parameters = json!({ "rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0 });
    assert_same(frequencies(32, parameters.clone(), 20), PLAIN, 1.0);
    assert_same(frequencies(32, parameters.clone(), 32), PLAIN, 1.0);
    let want =
        [1.0, 0.286414951, 0.0820335373, 0.0234956332, 0.0067295013, 0.00192742981, 0.000552044774, 0.000158113893];
    assert_same(frequencies(32, parameters, 40), want, 1.0);
}

#[test]
fn the_keys_of_transformers_4_are_read_too() {
    let config = json!({
        "max_position_embeddings": 128, "rope_theta": 500000.0,
        "rope_scaling": { "type": "linear", "factor": 2.0 }, "rope_parameters": { "rope_type": "default" }
    });
    let rope = Rope::read(&Object::root(&config).unwrap(), &DEFAULTS).unwrap().of_length(1);
    assert_eq!(rope.inverse[0], 0.5);
    assert!((rope.inverse[7] - 0.5 * 500000f32.powf(-14.0 / 16.0)).abs() < 1e-11);
}
