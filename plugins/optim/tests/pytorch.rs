//! A hundred updates on given gradients agree with `torch.optim.AdamW` and `torch.optim.SGD`, states included.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use mdt_optim::{AdamW, Sgd, adamw, sgd};
use mdt_plugin_api::abi::across;
use mdt_plugin_api::register::OptimizerComponent;
use mdt_plugin_api::{Optimizer, Update};
use safetensors::SafeTensors;
use serde_json::Value;

const TOLERANCE: f64 = 1e-6;

#[test]
fn hundred_updates_of_adamw_agree_with_pytorch() {
    let compared = compare("adamw", |case| {
        let number = |key: &str| case[key].as_f64().unwrap();
        let config = adamw::Config { beta1: number("beta1"), beta2: number("beta2"), eps: number("eps") };
        AdamW::new(config).unwrap()
    });
    assert_eq!(compared, 2 * 3 * 3, "two cases, three arrays, after 1, 10 and 100 updates");
}

#[test]
fn hundred_updates_of_sgd_agree_with_pytorch() {
    let compared = compare("sgd", |case| {
        let number = |key: &str| case[key].as_f64().unwrap();
        let nesterov = case["nesterov"].as_bool().unwrap();
        let config = sgd::Config { momentum: number("momentum"), dampening: number("dampening"), nesterov };
        Sgd::new(config).unwrap()
    });
    assert_eq!(compared, (2 + 3 * 2) * 4, "two cases without and three with momentum, after 1, 2, 10 and 100 updates");
}

/// Makes the updates of every case of a fixture, and compares all arrays that the fixture has; returns how many.
fn compare<O: Optimizer + 'static>(fixture: &str, create: impl Fn(&Value) -> O) -> usize {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(fixture);
    let bytes = fs::read(directory.join(format!("{fixture}.safetensors"))).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let text = fs::read(directory.join(format!("{fixture}.json"))).unwrap();
    let cases: Value = serde_json::from_slice(&text).unwrap();

    let mut compared = 0;
    for (name, case) in cases.as_object().unwrap() {
        let optimizer = across::optimizer(OptimizerComponent::new(Arc::new(create(case)))).unwrap().slices.unwrap();
        let names: Vec<_> = optimizer.states().into_iter().map(|state| state.name).collect();
        let rates: Vec<f64> = serde_json::from_value(case["learning_rates"].clone()).unwrap();
        let weight_decay = case["weight_decay"].as_f64().unwrap();

        let mut parameter = array(&tensors, "initial");
        let size = parameter.len();
        let mut states = vec![vec![0.0; size]; names.len()];
        let gradients = array(&tensors, "gradients");
        for ((step, &learning_rate), gradient) in (1..).zip(&rates).zip(gradients.chunks(size)) {
            let shape = [size];
            let update = Update { step, learning_rate, weight_decay, ..Update::first("weight", &shape) };
            let mut slices: Vec<_> = states.iter_mut().map(Vec::as_mut_slice).collect();
            optimizer.update(&update, &mut parameter, gradient, &mut slices).unwrap();

            let arrays = names.iter().map(String::as_str).zip(&states);
            for (theirs, ours) in arrays.chain([("parameter", &parameter)]) {
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
    compared
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
