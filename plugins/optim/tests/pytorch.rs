//! A hundred updates on given gradients agree with `torch.optim.AdamW`, moments included.

use std::fs;
use std::path::PathBuf;

use mdt_optim::{AdamW, Config};
use mdt_plugin_api::{Optimizer, Update};
use safetensors::SafeTensors;
use serde_json::Value;

const TOLERANCE: f64 = 1e-6;

#[test]
fn hundred_updates_agree_with_pytorch() {
    let bytes = fs::read(fixture("adamw.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let cases: Value = serde_json::from_slice(&fs::read(fixture("adamw.json")).unwrap()).unwrap();

    let mut compared = 0;
    for (name, case) in cases.as_object().unwrap() {
        let number = |key: &str| case[key].as_f64().unwrap();
        let config = Config { beta1: number("beta1"), beta2: number("beta2"), eps: number("eps") };
        let adamw = AdamW::new(config).unwrap();
        let rates: Vec<f64> = serde_json::from_value(case["learning_rates"].clone()).unwrap();

        let mut parameter = array(&tensors, "initial");
        let size = parameter.len();
        let (mut mean, mut square) = (vec![0.0; size], vec![0.0; size]);
        let gradients = array(&tensors, "gradients");
        for ((step, &learning_rate), gradient) in (1..).zip(&rates).zip(gradients.chunks(size)) {
            let update =
                Update { name: "weight", shape: &[size], step, learning_rate, weight_decay: number("weight_decay") };
            adamw.update(&update, &mut parameter, gradient, &mut [&mut mean, &mut square]).unwrap();

            for (ours, theirs) in [(&parameter, "parameter"), (&mean, "exp_avg"), (&square, "exp_avg_sq")] {
                let key = format!("{name}.{step}.{theirs}");
                if tensors.tensor(&key).is_ok() {
                    let difference = relative_difference(ours, &array(&tensors, &key));
                    println!("{key}: {difference:.1e}");
                    assert!(difference <= TOLERANCE, "{key} differs by {difference:.1e}");
                    compared += 1;
                }
            }
        }
    }
    assert_eq!(compared, 2 * 3 * 3, "two cases, three arrays, after 1, 10 and 100 updates");
}

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/adamw").join(name)
}

fn array(tensors: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let bytes = tensors.tensor(name).unwrap().data();
    bytes.as_chunks().0.iter().map(|&element| f32::from_le_bytes(element)).collect()
}

/// ‖a − b‖ / ‖b‖.
fn relative_difference(a: &[f32], b: &[f32]) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    let difference = norm(&mut a.iter().zip(b).map(|(&a, &b)| f64::from(a) - f64::from(b)));
    difference / norm(&mut b.iter().map(|&b| f64::from(b)))
}
