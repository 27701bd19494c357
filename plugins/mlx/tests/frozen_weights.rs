//! Nothing is computed for a weight that is no parameter: its gradient would take as much memory as the weight.
//!
//! MLX counts memory for the whole process, so this has a process of its own.

#[allow(dead_code, reason = "shared with other tests")]
#[path = "../src/tests/setup.rs"]
mod setup;

use std::rc::Rc;

use mdt_mlx::{Config, DeviceChoice, Mlx};
use mdt_plugin_api::{Compute, Handle, OpKind, Tensor};

use self::setup::{cpu, tensor};

const WIDTH: usize = 2048;

/// The most memory that was in use since `compute` had this peak, beyond it.
fn growth(compute: &Rc<dyn Compute>, op: OpKind, parameters: &[&Tensor], inputs: &[&Tensor]) -> u64 {
    let before = compute.memory().peak_bytes;
    let mut loss = |parameters: &[Handle], inputs: &[Handle]| {
        let all: Vec<Tensor> =
            parameters.iter().chain(inputs).map(|&handle| Tensor::borrowed(compute, handle)).collect();
        Ok(vec![Tensor::op(op, &all.iter().collect::<Vec<_>>(), &[])?.sum()?.into_handle()?])
    };
    let handles = |tensors: &[&Tensor]| tensors.iter().map(|tensor| tensor.handle()).collect::<Vec<_>>();
    let result = compute.value_and_grad(&mut loss, &handles(parameters), &handles(inputs)).unwrap();
    for handle in result.values.into_iter().chain(result.gradients) {
        Tensor::from_handle(compute, handle).eval().unwrap();
    }
    compute.memory().peak_bytes - before
}

#[test]
fn a_frozen_weight_has_no_gradient() {
    let compute = cpu();
    let weight = vec![0.5f32; WIDTH * WIDTH];
    let of_weight = (weight.len() * size_of::<f32>()) as u64;
    let (x, w) = (tensor(&compute, &[2, WIDTH], &[1f32; 2 * WIDTH]), tensor(&compute, &[WIDTH, WIDTH], &weight));
    let (rows, experts) =
        (tensor(&compute, &[2, 1, WIDTH], &[1f32; 2 * WIDTH]), tensor(&compute, &[1, WIDTH, WIDTH], &weight));
    let indices = tensor(&compute, &[2, 1], &[0i32; 2]);
    drop(weight);
    let frozen = [
        growth(&compute, OpKind::LINEAR, &[&x], &[&w]),
        growth(&compute, OpKind::GATHER_LINEAR, &[&rows], &[&experts, &indices]),
    ];
    assert!(frozen.iter().all(|&growth| growth < of_weight / 2), "{frozen:?} bytes");
    let trained = growth(&compute, OpKind::LINEAR, &[&x, &w], &[]);
    assert!(trained >= of_weight / 2, "{trained} bytes: the measure sees nothing");
}
