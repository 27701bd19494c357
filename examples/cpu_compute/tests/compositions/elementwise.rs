use mdt_plugin_api::op::attribute;
use mdt_plugin_api::prelude::*;
use mdt_plugin_api::{HostArray, Value};

use crate::{agree, device, gradients, integers, tensor};

const POINTS: [f32; 12] = [-200.0, -30.0, -2.5, -1e-6, -0.0, 0.0, 1e-6, 0.75, 2.5, 30.0, 200.0, 1e20];

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// A function, the same in f64, and its derivative.
type Row = (fn(&Tensor) -> Result<Tensor>, fn(f64) -> f64, fn(f64) -> f64);

#[test]
fn activations_neither_overflow_nor_give_nan_as_gradients() {
    let compute = device();
    let x = tensor(&compute, &[POINTS.len()], &POINTS);
    let rows: [Row; 6] = [
        (Tensor::sigmoid, sigmoid, |x| sigmoid(x) * sigmoid(-x)),
        (Tensor::silu, |x| x * sigmoid(x), |x| sigmoid(x) + x * sigmoid(x) * sigmoid(-x)),
        (Tensor::softplus, |x| x.max(0.0) + (-x.abs()).exp().ln_1p(), sigmoid),
        (Tensor::log_sigmoid, |x| -((-x).max(0.0) + (-x.abs()).exp().ln_1p()), |x| sigmoid(-x)),
        (Tensor::sign, |x| if x == 0.0 { 0.0 } else { x.signum() }, |_| 0.0),
        (Tensor::gelu_tanh, gelu_tanh, |x| {
            if x.abs() > 10.0 { f64::from(x > 0.0) } else { (gelu_tanh(x + 1e-5) - gelu_tanh(x - 1e-5)) / 2e-5 }
        }),
    ];
    for (function, value, derivative) in rows {
        let points = POINTS.map(f64::from);
        agree(&function(&x).unwrap().to_vec::<f64>().unwrap(), &points.map(value), 1e-6);
        agree(&gradients(|x| function(&x[0]), &[&x])[0], &points.map(derivative), 1e-5);
    }
}

fn gelu_tanh(x: f64) -> f64 {
    x / 2.0 * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh())
}

#[test]
fn small_results_keep_their_digits() {
    let compute = device();
    let x = tensor(&compute, &[2], &[-20.0, -80.0]);
    for (function, expected) in [
        (Tensor::sigmoid as fn(&Tensor) -> Result<Tensor>, [2.061_153_6e-9, 1.804_851_4e-35]),
        (Tensor::softplus, [2.061_153_6e-9, 1.804_851_4e-35]),
    ] {
        let found = function(&x).unwrap().to_vec::<f64>().unwrap();
        found
            .iter()
            .zip(expected)
            .for_each(|(found, expected)| assert!((found / expected - 1.0).abs() < 1e-5, "{found}"));
    }
}

#[test]
fn nan_stays_nan_and_infinities_have_their_limits() {
    let compute = device();
    let x = tensor(&compute, &[3], &[f32::NAN, f32::INFINITY, f32::NEG_INFINITY]);
    let of = |function: fn(&Tensor) -> Result<Tensor>| function(&x).unwrap().to_vec::<f64>().unwrap();
    agree(&of(Tensor::sigmoid), &[f64::NAN, 1.0, 0.0], 0.0);
    agree(&of(Tensor::softplus), &[f64::NAN, f64::INFINITY, 0.0], 0.0);
    agree(&of(Tensor::sign), &[f64::NAN, 1.0, -1.0], 0.0);
    agree(&of(|x| x.not_equal(x)), &[1.0, 0.0, 0.0], 0.0);
    agree(&of(|x| x.greater_equal(x)), &[0.0, 1.0, 1.0], 0.0);
    agree(&of(|x| x.less_equal(f64::INFINITY)), &[0.0, 1.0, 1.0], 0.0);
}

#[test]
fn a_number_stands_for_either_operand() {
    let compute = device();
    let (x, two) = (tensor(&compute, &[3], &[-1.5, 0.0, 4.0]), tensor(&compute, &[], &[2.0]));
    for definition in OpKind::all() {
        if !definition.attributes.iter().any(|spec| spec.name == "left") {
            continue;
        }
        let with = |name| Tensor::op(definition.op, &[&x], &[attribute(name, Value::Float(2.0))]).unwrap();
        let plain = |inputs: [&Tensor; 2]| Tensor::op(definition.op, &inputs, &[]).unwrap().to_vec::<f64>().unwrap();
        agree(&with("right").to_vec::<f64>().unwrap(), &plain([&x, &two]), 0.0);
        agree(&with("left").to_vec::<f64>().unwrap(), &plain([&two, &x]), 0.0);
    }
    let large = HostArray::new(&[1], &[1i64 << 60]).unwrap();
    let sum = Tensor::from_host(&compute, &large).unwrap().plus(-((1i64 << 60) as f64)).unwrap();
    assert_eq!(sum.to_vec::<i64>().unwrap(), [0]);
    let error = integers(&compute, &[1], &[1]).multiply(0.5).unwrap_err();
    assert!(error.message().contains("0.5 is no value of the element type int32"), "{error}");
}

#[test]
fn operators_take_numbers_on_both_sides() {
    let compute = device();
    let x = tensor(&compute, &[2], &[2.0, 4.0]);
    let read = |x: Result<Tensor>| x.unwrap().to_vec::<f64>().unwrap();
    assert_eq!(read(&x - 1.0), [1.0, 3.0]);
    assert_eq!(read(1.0 - &x), [-1.0, -3.0]);
    assert_eq!(read(1.0 / &x), [0.5, 0.25]);
    assert_eq!(read(x.power(2.0)), [4.0, 16.0]);
    assert_eq!(read(x.rsqrt()), [0.5f32.sqrt(), 0.5].map(f64::from));
}

#[test]
fn dropout_keeps_what_the_key_says_and_nothing_else_matters() {
    let compute = device();
    let mut elements = vec![2.0; 1000];
    let drawn = Tensor::random_uniform(&compute, 7, &[1000], Dtype::F32).unwrap().to_vec::<f64>().unwrap();
    // What is dropped may be anything.
    elements.iter_mut().zip(&drawn).filter(|(_, drawn)| **drawn >= 0.75).for_each(|(x, _)| *x = f32::NAN);
    let x = tensor(&compute, &[1000], &elements);
    let expected: Vec<f64> = drawn.iter().map(|&drawn| if drawn < 0.75 { 8.0 / 3.0 } else { 0.0 }).collect();
    agree(&x.dropout(0.25, 7).unwrap().to_vec::<f64>().unwrap(), &expected, 1e-6);
    let expected: Vec<f64> = expected.iter().map(|x| x / 2.0).collect();
    agree(&gradients(|x| x[0].dropout(0.25, 7), &[&x])[0], &expected, 1e-6);
    assert!((650..850).contains(&expected.iter().filter(|x| **x > 0.0).count()));
}

#[test]
fn normal_numbers_have_mean_0_and_deviation_1() {
    let x = Tensor::random_normal(&device(), 3, &[20, 500], Dtype::F32).unwrap();
    let mean = x.mean().unwrap().item().unwrap();
    let deviation = x.square().unwrap().mean().unwrap().item().unwrap().sqrt();
    assert_eq!(x.shape().unwrap(), [20, 500]);
    assert!(mean.abs() < 0.05 && (deviation - 1.0).abs() < 0.05, "{mean} {deviation}");
}
