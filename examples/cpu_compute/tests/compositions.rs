//! Compositions on a device that has nothing but primitives: values against formulas in f64, gradients, and what must not happen.

mod compositions {
    pub mod attention;
    pub mod elementwise;
    pub mod fallback;
    pub mod layers;
    pub mod quantization;
    pub mod reduce;
}

use std::rc::Rc;

use mdt_plugin_api::prelude::*;
use mdt_plugin_api::{Handle, HostArray, f16};

/// The small compute of the examples, which has primitives only.
fn device() -> Rc<dyn Compute> {
    Rc::new(cpu_compute::Cpu::create(cpu_compute::Config::default(), &Setup::default()).unwrap())
}

/// A tensor of float32.
fn tensor(compute: &Rc<dyn Compute>, shape: &[usize], elements: &[f32]) -> Tensor {
    Tensor::from_host(compute, &HostArray::new(shape, elements).unwrap()).unwrap()
}

/// A tensor of int32.
fn integers(compute: &Rc<dyn Compute>, shape: &[usize], elements: &[i32]) -> Tensor {
    Tensor::from_host(compute, &HostArray::new(shape, elements).unwrap()).unwrap()
}

/// Numbers between -2 and 2 that a place alone decides.
fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let scrambled = |place: u32| (place.wrapping_mul(2_654_435_761) ^ seed).wrapping_mul(2_246_822_519) >> 8;
    (0..count as u32).map(|place| (scrambled(place + seed * 977) % 4001) as f32 / 1000.0 - 2.0).collect()
}

/// The gradients of the sum of what a function of some tensors gives.
fn gradients(function: impl Fn(&[Tensor]) -> Result<Tensor>, inputs: &[&Tensor]) -> Vec<Vec<f64>> {
    let compute = inputs[0].compute();
    let mut summed = |parameters: &[Handle], _: &[Handle]| {
        let tensors: Vec<Tensor> = parameters.iter().map(|&handle| Tensor::borrowed(compute, handle)).collect();
        Ok(vec![function(&tensors)?.sum()?.into_handle()?])
    };
    let handles: Vec<Handle> = inputs.iter().map(|input| input.handle()).collect();
    let found = compute.value_and_grad(&mut summed, &handles, &[]).unwrap();
    found.values.iter().for_each(|&value| compute.release(value));
    let gradients = found.gradients.into_iter().map(|handle| Tensor::from_handle(compute, handle));
    gradients.map(|gradient| gradient.to_vec().unwrap()).collect()
}

/// Asserts that numbers agree to this part of them, or of 1 where they are smaller; NaN agrees with NaN.
#[track_caller]
fn agree(found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for (place, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let is_near = (found - expected).abs() <= tolerance * expected.abs().max(1.0);
        assert!(
            is_near || found == expected || (found.is_nan() && expected.is_nan()),
            "{place}: {found}, not {expected}"
        );
    }
}

#[test]
fn half_precision_is_rounded_once() {
    let compute = device();
    let elements: Vec<f16> = numbers(64, 3).into_iter().map(f16::from_f32).collect();
    let half = Tensor::from_host(&compute, &HostArray::new(&[4, 16], &elements).unwrap()).unwrap();
    let single = half.cast(Dtype::F32).unwrap();
    let functions: [fn(&Tensor) -> Result<Tensor>; 6] = [
        Tensor::silu,
        Tensor::gelu_tanh,
        Tensor::softplus,
        |x| x.log_softmax(1),
        |x| x.linear(x, None),
        |x| x.mean_axes(&[0], false),
    ];
    for function in functions {
        let (of_half, of_single) = (function(&half).unwrap(), function(&single).unwrap().cast(Dtype::F16).unwrap());
        assert_eq!(of_half.tensor_type().unwrap(), of_single.tensor_type().unwrap());
        assert_eq!(of_half.to_vec::<f64>().unwrap(), of_single.to_vec::<f64>().unwrap());
    }
}
