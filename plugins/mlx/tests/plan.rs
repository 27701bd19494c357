//! A plan is what the evaluation then takes. MLX counts memory for the whole process, so this has a process of its own.

#[allow(dead_code, reason = "shared with other tests")]
#[path = "../src/tests/setup.rs"]
mod setup;

use std::rc::Rc;

use mdt_mlx::{Config, DeviceChoice, Mlx};
use mdt_plugin_api::{Compute, Dtype, Handle, Result, Tensor, TensorType};

use self::setup::{cpu, tensor};

const ROWS: usize = 512;
const WIDTH: usize = 256;

/// The loss of a few layers with a norm, products with a transpose, a softmax, a residual and a reshape that copies.
fn loss(x: &Tensor, weights: &[Tensor]) -> Result<Tensor> {
    let mut hidden = x.try_clone()?;
    for pair in weights.chunks_exact(2) {
        let normed = hidden.rms_norm(&pair[1], 1e-5)?;
        let scores = normed.linear(&pair[0], None)?.softmax(-1)?;
        let turned = scores.transpose(&[1, 0])?.reshape(&[2, -1])?.reshape(&[WIDTH as i64, ROWS as i64])?;
        hidden = (&hidden + &turned.transpose(&[1, 0])?.matmul(&pair[0])?)?;
    }
    hidden.square()?.sum()
}

/// Loss and gradients, not evaluated.
fn differentiated(compute: &Rc<dyn Compute>, weights: &[Tensor], x: &Tensor) -> Vec<Tensor> {
    let mut function = |parameters: &[Handle], inputs: &[Handle]| {
        let weights: Vec<Tensor> = parameters.iter().map(|&handle| Tensor::borrowed(compute, handle)).collect();
        Ok(vec![loss(&Tensor::borrowed(compute, inputs[0]), &weights)?.into_handle()?])
    };
    let handles: Vec<Handle> = weights.iter().map(Tensor::handle).collect();
    let result = compute.value_and_grad(&mut function, &handles, &[x.handle()]).unwrap();
    let all = result.values.into_iter().chain(result.gradients);
    all.map(|handle| Tensor::from_handle(compute, handle)).collect()
}

fn handles(tensors: &[Tensor]) -> Vec<Handle> {
    tensors.iter().map(Tensor::handle).collect()
}

const SHAPES: [&[usize]; 6] = [&[WIDTH, WIDTH], &[WIDTH], &[WIDTH, WIDTH], &[WIDTH], &[WIDTH, WIDTH], &[WIDTH]];

#[test]
fn a_plan_is_what_the_evaluation_takes() {
    let planner = cpu();
    let placeholder = |shape: &[usize]| {
        let handle = planner.placeholder(&TensorType { shape: shape.to_vec(), dtype: Dtype::F32 }).unwrap();
        Tensor::from_handle(&planner, handle.expect("the device can plan"))
    };
    let weights: Vec<Tensor> = SHAPES.map(placeholder).into();
    let x = placeholder(&[ROWS, WIDTH]);
    let before = planner.memory().peak_bytes;
    let mut planned = 0;
    for _ in 0..3 {
        let all = differentiated(&planner, &weights, &x);
        planned = planner.plan(&handles(&all)).unwrap().expect("the device can plan").peak_bytes;
    }
    assert!(planner.memory().peak_bytes - before < 1 << 16, "planning takes no memory");

    let compute = cpu();
    let ones = |shape: &[usize]| tensor(&compute, shape, &vec![0.01f32; shape.iter().product()]);
    let (weights, x): (Vec<Tensor>, _) = (SHAPES.map(ones).into(), ones(&[ROWS, WIDTH]));
    let resident = compute.memory().active_bytes;
    for _ in 0..3 {
        let all = differentiated(&compute, &weights, &x);
        compute.eval(&handles(&all)).unwrap();
    }
    let memory = compute.memory();
    let taken = (memory.active_bytes + memory.cached_bytes - resident) as f64;
    let error = planned as f64 / taken - 1.0;
    assert!(error.abs() < 0.05, "planned {planned} bytes, taken {taken}: {error:+.3}");
}

#[test]
fn what_was_planned_is_a_placeholder_from_then_on() {
    let planner = cpu();
    let placeholder = |shape: &[usize]| {
        let handle = planner.placeholder(&TensorType { shape: shape.to_vec(), dtype: Dtype::F32 }).unwrap();
        Tensor::from_handle(&planner, handle.expect("the device can plan"))
    };
    let x = placeholder(&[1 << 20]);
    let plan = |tensor: &Tensor| planner.plan(&[tensor.handle()]).unwrap().expect("the device can plan").peak_bytes;
    let y = x.square().unwrap();
    assert_eq!(plan(&y), 4 << 20);
    assert_eq!(plan(&y), 4 << 20, "it is there already");
    let z = (&y + &x).unwrap();
    assert_eq!(plan(&z), 8 << 20, "y is still needed");
    drop((y, z));
    assert_eq!(plan(&x.abs().unwrap()), 8 << 20, "kept buffers are used again");
    assert!(x.item().is_err());
}
